"""Around the choice: commit, idempotency, preview, conflicts, deadlines, the degraded answer, recovery, replay."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from msgspec import structs

from nbx.decision.messages import DecideReply, DecideRequest
from nbx.decision.recovery import recover
from nbx.decision.replay import replay
from nbx.errors import Invalid, TooLarge, Unknown
from nbx.experience.entries import FACTORS, DecisionEntry, decode_entry, encode_entry
from nbx.features.keys import partition_keys
from nbx.ids import partition_of
from tests.worlds import DAY_MS, PARTITIONS, Desk, run


def decisions(desk: Desk) -> list[DecisionEntry]:
    return [entry for entry in desk.log() if isinstance(entry, DecisionEntry)]


def test_a_live_decision_is_logged_complete() -> None:
    desk = Desk()
    reply = desk.decide(slots=2, context={"is_mobile": True})
    (entry,) = decisions(desk)
    assert entry.decision_id == reply.decision_id
    assert entry.request.context == {"is_mobile": True}
    assert [slot.action for slot in entry.slots] == [slot.action for slot in reply.slots]
    assert len(entry.factors) == len(entry.actions) * len(FACTORS) * 4
    assert np.frombuffer(entry.x, np.float32)[0] == 1.0
    assert {*entry.actions, *(r.action for r in entry.removed)} == {
        "gold_card", "travel_card", "pay_card", "tips", "alert",
    }  # fmt: skip


def test_preview_leaves_no_trace_and_decides_alike() -> None:
    desk = Desk()
    reply = desk.decide(mode="preview", explain="full")
    assert reply.slots[0].propensity is not None
    assert desk.log() == []
    assert run(desk.store.read([partition_keys(partition_of("anna", PARTITIONS)).customer("anna")], 1.0)) == [None]


def test_a_repeated_request_gets_the_same_reply() -> None:
    desk = Desk()
    first = desk.decide(request_id="r1")
    again = desk.decide(request_id="r1")
    assert (again.decision_id, again.slots[0].action) == (first.decision_id, first.slots[0].action)
    assert len(decisions(desk)) == 1
    assert desk.decide("berta", request_id="r1").decision_id != first.decision_id
    desk.clock.advance(2 * DAY_MS)
    assert desk.decide(request_id="r1").decision_id != first.decision_id, "a reply is kept for a day"


def test_concurrent_retries_make_one_decision() -> None:
    desk = Desk()
    request = DecideRequest(customer_id="anna", placement="hero", request_id="r1")

    async def all_at_once() -> list[DecideReply]:
        return await asyncio.gather(*(desk.decisions.decide(request) for _ in range(20)))

    replies = run(all_at_once())
    assert len({reply.decision_id for reply in replies}) == 1
    assert len(decisions(desk)) == 1


def test_concurrent_channels_cannot_overshoot_a_limit() -> None:
    desk = Desk()

    async def all_at_once() -> list[DecideReply]:
        asks = [DecideRequest(customer_id="anna", placement="hero", exclude=("tips",), slots=3) for _ in range(6)]
        return await asyncio.gather(*(desk.decisions.decide(ask) for ask in asks))

    replies = run(all_at_once())
    shown = [slot.action for reply in replies for slot in reply.slots if slot.action]
    assert 1 <= len(shown) <= 2, "the group allows two a day, seen or still open"
    assert shown.count("travel_card") <= 1
    desk.pass_time(DAY_MS)
    assert desk.state().reserved == {}, "a reservation that never showed is released"
    assert desk.decide(exclude=("tips",), explain="reasons").explanation.removed[-1].reason != "limit_reached"


@pytest.mark.parametrize(
    ("more", "kind", "field"),
    [
        ({"customer": ""}, Invalid, "customer_id"),
        ({"customer": "a\tb"}, Invalid, "customer_id"),
        ({"customer": "x" * 129}, TooLarge, "customer_id"),
        ({"request_id": "\x00"}, Invalid, "request_id"),
        ({"placement": "nowhere"}, Unknown, "placement"),
        ({"slots": 0}, Invalid, "slots"),
        ({"slots": 4}, Invalid, "slots"),
        ({"exclude": tuple("a" * 201)}, TooLarge, "exclude"),
        ({"deadline_ms": -1}, Invalid, "deadline_ms"),
        ({"context": {"is_mobile": "yes"}}, Invalid, "context.is_mobile"),
        ({"context": {"x": float("nan")}}, Invalid, "context.x"),
    ],
)
def test_bad_requests_name_their_field(more: dict[str, object], kind: type[Exception], field: str) -> None:
    desk = Desk()
    with pytest.raises(kind) as caught:
        desk.decide(**more)  # type: ignore[arg-type]
    assert caught.value.field == field  # type: ignore[attr-defined]
    assert desk.log() == []


def test_without_state_the_declared_default_is_shown_and_logged_later() -> None:
    desk = Desk()
    desk.store.failing_reads = 1
    reply = desk.decide(slots=2)
    assert reply.degraded == ("state_unavailable",)
    assert [slot.action for slot in reply.slots] == ["tips", ""]
    assert desk.record("seen", decision_id=reply.decision_id).code == "decision_unknown"
    assert run(recover(desk.decisions, desk.events)) == 1
    (entry,) = decisions(desk)
    assert entry.degraded == ("state_unavailable",)
    assert desk.record("declined", decision_id=reply.decision_id).outcome == "declined"
    (outcome,) = desk.observed
    assert (outcome.response, outcome.experience_weight) == (None, 0.0), "there is no x to learn from"
    assert replay(entry).same


@pytest.mark.parametrize("failing", ["before", "after"])
def test_many_that_wait_are_logged_each_once_and_each_customers_in_order(failing: str) -> None:
    desk = Desk()
    desk.store.failing_reads = 150
    made = [desk.decide(f"c{number % 40}").decision_id for number in range(150)]
    setattr(desk.store, f"failing_commits_{failing}", 5)
    assert run(recover(desk.decisions, desk.events)) == 35, "the store is away again within the first forty"
    assert len(desk.decisions.degraded) == 115
    assert run(recover(desk.decisions, desk.events)) == 115
    logged = [entry.decision_id for entry in decisions(desk)]
    assert sorted(logged) == sorted(made)
    for customer in range(40):
        own = [decision_id for number, decision_id in enumerate(made) if number % 40 == customer]
        assert [decision_id for decision_id in logged if decision_id in own] == own


def test_a_placement_without_default_is_silent_and_an_excluded_default_is_not_shown() -> None:
    desk = Desk()
    desk.store.failing_reads = 2
    assert desk.decide(placement="desk").slots[0].none == "state_unavailable"
    assert desk.decide(exclude=("tips",)).slots[0].none == "state_unavailable"


def test_a_commit_with_a_lost_reply_is_taken_back() -> None:
    desk = Desk()
    desk.store.failing_commits_after = 1
    reply = desk.decide(placement="desk", exclude=("tips",))
    assert reply.degraded == ("state_unavailable",)
    (lost,) = decisions(desk)
    assert lost.decision_id != reply.decision_id
    shown = [slot.action for slot in lost.slots if slot.action]
    assert run(recover(desk.decisions, desk.events)) == 2
    state = desk.state()
    assert all(state.exposures.get(action, []) == [] for action in shown), "nobody saw it"
    assert [o.outcome for o in desk.observed] == ["not_seen"] * len(shown)
    assert state.balance == 0.0


def test_a_commit_that_never_happened_needs_no_taking_back() -> None:
    desk = Desk()
    desk.store.failing_commits_before = 1
    desk.decide(placement="desk")
    assert run(recover(desk.decisions, desk.events)) == 2
    assert len(decisions(desk)) == 1
    assert desk.observed == []


def test_replay_says_same_and_a_tampered_record_says_what_differs() -> None:
    desk = Desk()
    for i in range(20):
        desk.decide(f"c{i}", slots=3)
    entries = decisions(desk)
    assert all(replay(decode_entry(encode_entry(entry))).same for entry in entries)  # type: ignore[arg-type]
    entry = next(e for e in entries if e.slots[0].action)
    slot = structs.replace(entry.slots[0], propensity=entry.slots[0].propensity * 0.99)
    forged = structs.replace(entry, slots=(slot, *entry.slots[1:]))
    assert [d.what for d in replay(forged).differences] == ["slots[0].propensity"]
    table = np.frombuffer(entry.factors, np.float32).reshape(-1, len(FACTORS)).copy()
    table[0, 0] += 0.5
    assert not replay(structs.replace(entry, factors=table.tobytes())).same


def test_explanations_name_every_reason() -> None:
    desk = Desk()
    reply = desk.decide(exclude=("pay_card",), explain="full")
    explanation = reply.explanation
    assert {(r.action, r.reason) for r in explanation.removed} == {("pay_card", "excluded"), ("alert", "not_eligible")}
    assert {view.action for view in explanation.candidates} == {"gold_card", "travel_card", "tips"}
    total = sum(view.probability for view in explanation.candidates) + explanation.none_probability
    assert total == pytest.approx(1.0, abs=1e-6)
    assert any("not pay_card: excluded" in words for words in explanation.words)
