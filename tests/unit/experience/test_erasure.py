"""Erasing over the fake store: what goes, what stays, and who may not bring it back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from msgspec import structs

from nbx.decision.recovery import recover
from nbx.errors import Invalid, Unavailable, Unknown
from nbx.experience.entries import DecisionEntry, EraseEntry, Event, EventEntry, TimerEntry
from nbx.experience.erasure import ErasureService, Receipt, encode_receipt
from nbx.features.keys import MODEL_VERSION, partition_keys
from nbx.features.state import ERASED, CustomerState, decode_state
from nbx.features.store import Commit, Committed, Put, versioned
from nbx.ids import partition_of
from nbx.limits import ERASED_MS
from tests.simulation.store_fake import FakeStore
from tests.worlds import CATALOG, DAY_MS, PARTITIONS, Desk, run, small_plan

HOUR_MS = 3_600_000
GOAL = "goal: {event: came_back, within: 30m, value: 3}"


def erasures(desk: Desk) -> ErasureService:
    return ErasureService(desk.store, lambda: desk.plan, desk.clock, partitions=PARTITIONS)


def erase(desk: Desk, customer: str = "anna") -> Receipt:
    return run(erasures(desk).erase(customer, "tester (1)"))


def shown(desk: Desk, customer: str = "anna", placement: str = "hero", **more: str) -> str:
    """Decide until something is shown in slot 0."""
    for _ in range(200):
        reply = desk.decide(customer, placement, **more)
        if reply.slots[0].action:
            return reply.decision_id
        more.pop("request_id", None)
    raise AssertionError("200 times silence")


def stored(desk: Desk, customer: str = "anna") -> tuple[int, bytes | None]:
    key = partition_keys(partition_of(customer, PARTITIONS)).customer(customer)
    return versioned(run(desk.store.read([key], 1.0))[0])


def keys_of(desk: Desk) -> set[str]:
    """Keys that hold something, marks of events left out."""
    return {key for key in desk.store._values if desk.store._value(key) is not None and ":e:" not in key}


def test_everything_of_a_customer_goes_at_once_and_nothing_of_another() -> None:
    desk = Desk()
    partition = partition_of("anna", PARTITIONS)
    other = next(name for name in (f"anna{n}" for n in range(99)) if partition_of(name, PARTITIONS) == partition)
    for customer in (other, "anna"):
        desk.record("page_view", customer_id=customer)
        answered = shown(desk, customer, request_id="r1")
        desk.record("declined", decision_id=answered)
        shown(desk, customer, "desk", request_id="r2")
    desk.decide("bob")
    others = {customer: stored(desk, customer) for customer in (other, "bob")}
    timers = {timer.member for timer in run(desk.store.due(partition, 2**53, 10**6))}
    before, logged = keys_of(desk), len(desk.log())
    version, _ = stored(desk)
    receipt = erase(desk)
    anna = [e for e in desk.log() if e.customer_id == "anna"]
    decided = [e.decision_id for e in anna if isinstance(e, DecisionEntry)]
    gone = before - keys_of(desk)
    keys = partition_keys(partition)
    assert gone == {*map(keys.decision, decided), keys.request("anna", "r1"), keys.request("anna", "r2")}
    assert keys_of(desk) - before == {keys.erasure(receipt.erasure_id), keys.erased("anna")}
    left = {timer.member for timer in run(desk.store.due(partition, 2**53, 10**6))}
    assert timers - left == {member for member in timers if member.split(":")[1] in decided}
    assert (receipt.decisions, receipt.replies, receipt.timers) == (len(decided), 2, len(timers - left))
    assert receipt.timers > 0
    assert (receipt.state_version, receipt.taught, receipt.status, receipt.by) == (version, 1, "pending", "tester (1)")
    assert {customer: stored(desk, customer) for customer in others} == others
    assert stored(desk) == (version + 1, ERASED)
    assert len(desk.log()) == logged + 1
    entry = next(e for e in anna if isinstance(e, EraseEntry))
    assert (entry.erasure_id, entry.decisions) == (receipt.erasure_id, len(decided))
    assert [(taught.decision_id, taught.revision) for taught in entry.taught] == [(answered, 0)]


def test_an_erased_customer_is_one_never_met() -> None:
    desk = Desk()
    shown(desk)
    erase(desk)
    assert decode_state(ERASED) == CustomerState() == desk.state()
    assert desk.decide("anna").decision_id
    assert stored(desk)[0] == 3, "versions count on"


def test_erasing_again_names_the_erasure_and_a_new_life_can_be_erased_too() -> None:
    desk = Desk()
    first_decision = shown(desk)
    desk.record("accepted", decision_id=first_decision)
    first = erase(desk)
    with pytest.raises(Unknown, match=first.erasure_id) as refused:
        erase(desk)
    assert (refused.value.code, refused.value.field) == ("customer_unknown", "customer_id")
    desk.record("declined", decision_id=shown(desk))
    second = erase(desk)
    assert (second.taught, second.erasure_id != first.erasure_id) == (1, True)
    assert len([e for e in desk.log() if isinstance(e, EraseEntry)]) == 2
    with pytest.raises(Unknown, match=r"zoe is not known here$"):
        erase(desk, "zoe")
    with pytest.raises(Invalid):
        erase(desk, "")


def test_after_a_day_nothing_is_left_under_the_id() -> None:
    desk = Desk()
    shown(desk)
    erase(desk)
    desk.clock.advance(ERASED_MS)
    assert stored(desk) == (0, None)
    with pytest.raises(Unknown):
        erase(desk)


def test_late_events_and_timers_of_before_change_nothing() -> None:
    desk = Desk()
    decision_id = shown(desk)
    desk.record("seen", decision_id=decision_id)
    erase(desk)
    logged = len(desk.log())
    for event in ({}, {"customer_id": "anna"}):
        result = desk.record("accepted", decision_id=decision_id, **event)
        assert (result.status, result.code) == ("rejected", "decision_unknown")
        assert "its customer was erased" in result.detail
    desk.pass_time(DAY_MS)
    assert len(desk.log()) == logged
    assert stored(desk) == (0, None)


def test_goals_of_an_erased_customer_are_waited_for_no_longer() -> None:
    desk = Desk(small_plan(CATALOG.replace("impressions: implicit,", f"impressions: implicit, {GOAL},")))
    reached, waiting = desk.decide("anna", "desk").decision_id, ""
    desk.record("came_back", customer_id="anna")
    waiting = desk.decide("anna", "desk").decision_id
    members = {timer.member for p in range(PARTITIONS) for timer in run(desk.store.due(p, 2**53, 99))}
    assert {member for member in members if "goal" in member} == {f"goal:{waiting}:0"}
    receipt = erase(desk)
    assert (receipt.timers, receipt.taught) == (len(members), 1)
    (entry,) = [e for e in desk.log() if isinstance(e, EraseEntry)]
    assert entry.taught[0].decision_id == reached
    left = [timer.member for p in range(PARTITIONS) for timer in run(desk.store.due(p, 2**53, 99))]
    assert left == [f"scrub:{receipt.erasure_id}"], "which is never due: what the keeper has yet to take out"
    desk.record("came_back", customer_id="anna")
    desk.pass_time(DAY_MS)
    assert sum(len(e.goals) for e in desk.log() if isinstance(e, EventEntry | TimerEntry)) == 1


def test_a_repeated_request_is_decided_anew() -> None:
    desk = Desk()
    before = desk.decide("anna", request_id="same")
    assert desk.decide("anna", request_id="same").decision_id == before.decision_id
    erase(desk)
    assert desk.decide("anna", request_id="same").decision_id != before.decision_id


class Meddling(FakeStore):
    """Runs something between what another reads and its commit."""

    meddle: Callable[[], Awaitable[object]] | None = None
    always = False

    async def commit(self, commit: Commit, timeout_ms: float) -> Committed:
        meddle = self.meddle
        if meddle is not None:
            self.meddle = None
            await meddle()
            self.meddle = meddle if self.always else None
        return await super().commit(commit, timeout_ms)


def meddled() -> tuple[Desk, Meddling]:
    desk = Desk()
    store = Meddling(desk.clock)
    desk.store = desk.decisions._store = desk.events._store = store
    return desk, store


def test_what_is_logged_meanwhile_is_erased_as_well() -> None:
    desk, store = meddled()
    decision_id = shown(desk)

    async def accept() -> object:
        return await desk.events.record([Event(event_id="late", type="accepted", decision_id=decision_id)])

    store.meddle = accept
    receipt = erase(desk)
    assert (receipt.taught, receipt.state_version) == (1, 2)


def test_a_commit_prepared_on_the_old_state_never_brings_it_back() -> None:
    """Also when the new life has come as far as the old one: the version it was loaded at is never used again."""
    desk, store = meddled()
    desk.record("page_view", customer_id="anna")

    async def erase_and_live_on() -> object:
        await erasures(desk).erase("anna")
        return await desk.events.record([Event(event_id="new", type="page_view", customer_id="anna")])

    store.meddle = erase_and_live_on
    assert desk.decide("anna", "desk").decision_id
    logged = [type(entry).__name__ for entry in desk.log()]
    assert logged == ["EventEntry", "EraseEntry", "EventEntry", "DecisionEntry"]
    (decided,) = [e for e in desk.log() if isinstance(e, DecisionEntry)]
    assert decided.state_version == 3
    assert desk.state().aggregates["visits"] == desk_with_one_view().aggregates["visits"]


def desk_with_one_view() -> CustomerState:
    desk = Desk()
    desk.record("page_view", customer_id="anna")
    return desk.state()


def test_a_customer_who_is_changed_all_the_time_is_told_so() -> None:
    desk, store = meddled()
    desk.record("page_view", customer_id="anna")
    store.always = True
    store.meddle = lambda: desk.events.change_profile("anna", {"tier": "gold"})
    with pytest.raises(Unavailable, match="too many at once"):
        erase(desk)
    assert not [e for e in desk.log() if isinstance(e, EraseEntry)]


def test_a_lost_reply_is_told_by_trying_again() -> None:
    desk = Desk()
    shown(desk)
    desk.store.failing_commits_after = 1
    with pytest.raises(Unavailable):
        erase(desk)
    (entry,) = [e for e in desk.log() if isinstance(e, EraseEntry)]
    with pytest.raises(Unknown, match=entry.erasure_id):
        erase(desk)


def test_a_degraded_decision_of_before_is_not_logged_any_more() -> None:
    desk = Desk()
    desk.record("page_view", customer_id="anna")
    degraded = []
    for _ in range(2):
        desk.store.failing_reads = 1
        degraded.append(desk.decide("anna").decision_id)
    run(desk.decisions.log_degraded(desk.decisions.degraded[0]))
    assert erase(desk).decisions == 1
    desk.clock.advance(1)
    desk.store.failing_reads = 1
    degraded.append(desk.decide("anna").decision_id)
    logged = len(desk.log())
    assert run(recover(desk.decisions, desk.events)) == 3
    assert [e.decision_id for e in desk.log()[logged:] if isinstance(e, DecisionEntry)] == degraded[2:]
    assert {desk.record("accepted", decision_id=id_).code for id_ in degraded[:2]} == {"decision_unknown"}
    assert (desk.record("accepted", decision_id=degraded[2]).status, desk.observed[-1].x) == ("accepted", b"")
    assert erase(desk).taught == 0


def test_the_receipt_says_forgotten_once_a_snapshot_without_the_customer_is_out() -> None:
    desk = Desk()
    shown(desk)
    receipt = erase(desk)
    service = erasures(desk)
    assert run(service.receipt(receipt.erasure_id)) == receipt
    key = partition_keys(int(receipt.erasure_id[:3], 16)).erasure(receipt.erasure_id)
    learned = structs.replace(receipt, step=7, response=1)
    for version, (published, status) in enumerate(((b"6", "pending"), (b"7", "forgotten"), (b"8", "forgotten"))):
        puts = (Put(key, encode_receipt(learned), HOUR_MS), Put(MODEL_VERSION, published, HOUR_MS))
        commit = Commit(partition=0, customer_key="other", expected_version=version, state=b"s", puts=puts)
        run(desk.store.commit(commit, 1.0))
        assert run(service.receipt(receipt.erasure_id)) == structs.replace(learned, status=status)
    with pytest.raises(Unknown):
        run(service.receipt("fff" + receipt.erasure_id[3:]))
    with pytest.raises(Invalid, match="erasure_id"):
        run(service.receipt(receipt.erasure_id[:-1] + "_"))
