"""Promises: what makes, keeps and breaks one, told once, by the customer's one timer."""

from __future__ import annotations

import pytest

from nbx.experience.entries import TimerEntry
from nbx.experience.erasure import ErasureService
from nbx.experience.obligations import open_topics
from nbx.experience.promises import promise_timer
from nbx.experience.relationship import balance_at
from nbx.features.schema import Value
from nbx.features.state import CustomerState
from nbx.limits import NAME_LENGTH, PROMISES, TERMS
from tests.worlds import DAY_MS, NOW_MS, PARTITIONS, Desk, run, small_plan

HOUR_MS = 3_600_000
CATALOG = """
catalog: promising
features:
  broken: {type: number, from: {event: promise_broken, count: 30d}}
placements:
  web: {channel: web, impressions: reported, slots: 1, delivery: 1m, attention: 10m}
groups: {cards: {topic: plastic}}
actions:
  card: {group: cards, value: 9, gives: [x], treatments: {
    t: {placements: [web], promise: {what: delivery, within: 3d}}}}
journeys:
  opening: {steps: {opened: {event: account_opened, owes: {events: [card_sent, card_handed_over], within: 1d}}}}
experience: {floor: -1000, half_life: 10d, loss_aversion: 2, obligation: 10d, promise_kept: 1, promise_broken: -3}
attribution: 30d
correction: 30d
"""


@pytest.fixture
def desk() -> Desk:
    return Desk(small_plan(CATALOG))


def promise(desk: Desk, due: Value = "2h", what: str = "call", customer: str = "anna", **said: Value) -> None:
    result = desk.record("promise", customer_id=customer, properties={"what": what, "due": due, **said})
    assert result.status == "accepted", result


def kept(desk: Desk, what: str = "call", **more: int) -> None:
    result = desk.record("promise_kept", customer_id="anna", properties={"what": what}, **more)
    assert result.status == "accepted", result


def timers(desk: Desk) -> dict[str, int]:
    """Return the timers of promises: name → due."""
    due = [run(desk.store.due(partition, 10**15, 1000)) for partition in range(PARTITIONS)]
    return {timer.member: timer.due_ms for each in due for timer in each if timer.member.startswith("promise:")}


def told(desk: Desk) -> list[tuple[int, tuple[str, ...]]]:
    """Return (as of when, what) of every time at which promises were told to be broken."""
    return [(e.at_ms, e.broken) for e in desk.log() if isinstance(e, TimerEntry) and e.kind == "promise"]


def worth(desk: Desk, at_ms: int, customer: str = "anna") -> float:
    return balance_at(desk.state(customer), at_ms, desk.plan.rules.experience)


def broken_count(desk: Desk) -> float:
    return float(desk.plan.resolver.resolve(desk.state(), {}, desk.clock.now_ms())["broken"])


def owed(desk: Desk) -> dict[str, int]:
    return open_topics(desk.state(), desk.clock.now_ms(), desk.plan.rules.experience)


def test_silence_past_due_breaks_it_once_as_of_when_it_was_due(desk: Desk) -> None:
    promise(desk, topic="plastic")
    assert timers(desk) == {promise_timer("anna"): NOW_MS + 2 * HOUR_MS}
    desk.clock.advance(9 * HOUR_MS)  # the keeper was away
    desk.pass_time(DAY_MS)
    assert told(desk) == [(NOW_MS + 2 * HOUR_MS, ("call",))]
    assert worth(desk, NOW_MS + 2 * HOUR_MS) == -6.0
    assert broken_count(desk) == 1.0
    assert owed(desk) == {"plastic": NOW_MS + 2 * HOUR_MS}
    assert timers(desk) == {}


def test_what_is_kept_in_time_is_never_told(desk: Desk) -> None:
    promise(desk, topic="plastic")
    desk.pass_time(2 * HOUR_MS - 1)
    kept(desk)
    assert timers(desk) == {}
    desk.pass_time(DAY_MS)
    assert (told(desk), broken_count(desk), owed(desk)) == ([], 0.0, {})
    assert worth(desk, NOW_MS) == pytest.approx(1.0)


def test_at_the_moment_it_is_due_it_is_kept_in_time(desk: Desk) -> None:
    promise(desk)
    desk.clock.advance(2 * HOUR_MS)
    kept(desk)
    desk.pass_time(DAY_MS)
    assert told(desk) == []


def test_late_truth_takes_the_charge_back_and_late_deeds_do_not(desk: Desk) -> None:
    promise(desk, topic="plastic")
    desk.pass_time(3 * HOUR_MS)
    kept(desk)
    assert owed(desk) == {}, "made good"
    assert worth(desk, NOW_MS + 2 * HOUR_MS) == -6.0, "but late"
    kept(desk, at=NOW_MS + HOUR_MS)
    now_ms = desk.clock.now_ms()
    assert worth(desk, now_ms) == pytest.approx(0.5 ** ((now_ms - NOW_MS - HOUR_MS) / (10 * DAY_MS)))
    desk.pass_time(DAY_MS)
    assert len(told(desk)) == 1


def test_it_may_be_put_off_before_it_is_due(desk: Desk) -> None:
    promise(desk, "2h")
    desk.pass_time(HOUR_MS)
    promise(desk, "5h")
    assert timers(desk) == {promise_timer("anna"): NOW_MS + 6 * HOUR_MS}
    desk.pass_time(4 * HOUR_MS)
    assert told(desk) == []
    desk.pass_time(4 * HOUR_MS)
    assert told(desk) == [(NOW_MS + 6 * HOUR_MS, ("call",))]
    assert worth(desk, NOW_MS + 6 * HOUR_MS) == -6.0


def test_a_promise_made_anew_does_not_make_up_for_the_one_that_was_broken(desk: Desk) -> None:
    """Also where the keeper was away when the first ran out: that is told by the second."""
    promise(desk, "2h", topic="plastic")
    desk.clock.advance(3 * HOUR_MS)
    promise(desk, "2h", topic="plastic")
    assert worth(desk, NOW_MS + 2 * HOUR_MS) == -6.0
    assert (broken_count(desk), owed(desk)) == (1.0, {"plastic": NOW_MS + 2 * HOUR_MS})
    desk.clock.advance(HOUR_MS)
    kept(desk)
    desk.pass_time(DAY_MS)
    assert (told(desk), broken_count(desk), owed(desk)) == ([], 1.0, {})


def test_of_two_promises_each_is_told_at_its_own_time(desk: Desk) -> None:
    promise(desk, "2h")
    promise(desk, "3h", "refund")
    promise(desk, "2h", "letter")
    desk.clock.advance(DAY_MS)
    desk.pass_time(0)
    assert told(desk) == [(NOW_MS + 2 * HOUR_MS, ("call", "letter")), (NOW_MS + 3 * HOUR_MS, ("refund",))]


def test_one_that_was_kept_before_it_is_heard_of_is_kept(desk: Desk) -> None:
    desk.clock.advance(2 * HOUR_MS)
    kept(desk, at=NOW_MS + HOUR_MS)
    result = desk.record("promise", customer_id="anna", at=NOW_MS, properties={"what": "call", "due": "90m"})
    assert result.status == "accepted"
    desk.pass_time(DAY_MS)
    assert told(desk) == []
    assert worth(desk, NOW_MS) == pytest.approx(1.0)


def test_a_promise_lives_on_under_the_other_id_with_its_timer(desk: Desk) -> None:
    promise(desk, customer="cookie")
    run(desk.events.merging.merge("anna", "cookie"))
    assert timers(desk) == {promise_timer("anna"): NOW_MS + 2 * HOUR_MS}
    promise(desk, "3h", "refund", customer="cookie")
    desk.pass_time(DAY_MS)
    assert told(desk) == [(NOW_MS + 2 * HOUR_MS, ("call",)), (NOW_MS + 3 * HOUR_MS, ("refund",))]
    assert desk.state("anna").promises.keys() == {"call", "refund"}
    assert (worth(desk, 0, "cookie"), timers(desk)) == (0.0, {})


def test_two_halves_of_a_customer_are_charged_as_one(desk: Desk) -> None:
    """Of the same thing, promised to both, the second promise takes the place of the first."""
    promise(desk, "2h", customer="cookie")
    desk.clock.advance(HOUR_MS)
    promise(desk, "5h")
    desk.pass_time(2 * HOUR_MS)
    assert worth(desk, NOW_MS + 2 * HOUR_MS, "cookie") == -6.0
    run(desk.events.merging.merge("anna", "cookie"))
    assert worth(desk, desk.clock.now_ms()) == pytest.approx(0.0, abs=1e-9)
    assert timers(desk) == {promise_timer("anna"): NOW_MS + 6 * HOUR_MS}


def test_an_erased_customer_has_no_timer_left(desk: Desk) -> None:
    promise(desk)
    promise(desk, customer="cookie", what="letter")
    run(desk.events.merging.merge("anna", "cookie"))
    run(ErasureService(desk.store, lambda: desk.plan, desk.clock, partitions=PARTITIONS).erase("anna", "tester (1)"))
    assert timers(desk) == {}
    desk.pass_time(DAY_MS)
    assert (desk.state().promises, told(desk)) == ({}, [])


def accepted(desk: Desk, *kinds: str, at: int | None = None) -> str:
    for _ in range(100):
        reply = desk.decide(placement="web")
        if reply.slots[0].action:
            break
    for kind in kinds:
        desk.record(kind, decision_id=reply.decision_id, at=at)
    return reply.decision_id


def test_accepting_a_treatment_that_promises_makes_the_promise(desk: Desk) -> None:
    decision_id = accepted(desk, "seen")
    assert desk.state().promises == {}
    desk.clock.advance(HOUR_MS)
    desk.record("accepted", decision_id=decision_id)
    assert desk.state().promises["delivery"].due_ms == NOW_MS + HOUR_MS + 3 * DAY_MS
    desk.pass_time(4 * DAY_MS)
    assert [what for _, what in told(desk)] == [("delivery",)]
    assert owed(desk) == {"plastic": NOW_MS + HOUR_MS + 3 * DAY_MS}, "the action's topic"
    kept(desk, "delivery")
    assert owed(desk) == {}


def test_of_several_yeses_the_earliest_counts(desk: Desk) -> None:
    decision_id = accepted(desk)
    desk.clock.advance(2 * HOUR_MS)
    desk.record("converted", decision_id=decision_id)
    desk.record("accepted", decision_id=decision_id, at=NOW_MS + HOUR_MS)
    (found,) = desk.state().promises.values()
    assert (found.made_ms, found.due_ms) == (NOW_MS + HOUR_MS, NOW_MS + HOUR_MS + 3 * DAY_MS)
    assert found.earlier == []


def test_a_step_in_which_something_is_owed_promises_it(desk: Desk) -> None:
    desk.record("account_opened", customer_id="anna")
    assert timers(desk) == {promise_timer("anna"): NOW_MS + DAY_MS}
    desk.record("account_opened", customer_id="anna")
    desk.pass_time(HOUR_MS)
    desk.record("card_handed_over", customer_id="anna", by="agent")
    desk.pass_time(2 * DAY_MS)
    assert told(desk) == []
    assert worth(desk, NOW_MS) == pytest.approx(1.0)
    desk.record("account_opened", customer_id="anna")
    desk.pass_time(2 * DAY_MS)
    assert [what for _, what in told(desk)] == [("opening.opened",)]


def test_what_was_owed_and_done_before_the_step_is_heard_of_is_kept(desk: Desk) -> None:
    desk.clock.advance(HOUR_MS)
    desk.record("card_sent", customer_id="anna")
    desk.record("account_opened", customer_id="anna", at=NOW_MS)
    desk.pass_time(2 * DAY_MS)
    assert told(desk) == []
    assert worth(desk, NOW_MS) == pytest.approx(1.0)


def test_there_is_a_bound_and_what_is_open_goes_last(desk: Desk) -> None:
    promise(desk, "20h", "done")
    kept(desk, "done")
    for number in range(PROMISES):
        promise(desk, "9h", f"open {number}")
    for number in range(PROMISES):
        kept(desk, f"never promised {number}")
    promises = desk.state().promises
    assert promises.keys() == {f"open {number}" for number in range(PROMISES)}
    for _ in range(TERMS + 2):
        desk.clock.advance(1)
        promise(desk, "9h", "open 0")
    assert len(desk.state().promises["open 0"].earlier) == TERMS - 1


@pytest.mark.parametrize(
    ("kind", "properties", "field", "code"),
    [
        ("promise", {"due": "2h"}, "properties.what", "invalid"),
        ("promise", {"what": "", "due": "2h"}, "properties.what", "invalid"),
        ("promise", {"what": 3.0, "due": "2h"}, "properties.what", "invalid"),
        ("promise", {"what": "x" * (NAME_LENGTH + 1), "due": "2h"}, "properties.what", "invalid"),
        ("promise", {"what": "a\tb", "due": "2h"}, "properties.what", "invalid"),
        ("promise", {"what": "call", "due": "2h", "topic": True}, "properties.topic", "invalid"),
        ("promise", {"what": "call"}, "properties.due", "due_missing"),
        ("promise", {"what": "call", "due": "soon"}, "properties.due", "due_invalid"),
        ("promise", {"what": "call", "due": True}, "properties.due", "due_invalid"),
        ("promise", {"what": "call", "due": "0h"}, "properties.due", "due_invalid"),
        ("promise", {"what": "call", "due": "999999w"}, "properties.due", "due_invalid"),
        ("promise", {"what": "call", "due": float(NOW_MS)}, "properties.due", "due_invalid"),
        ("promise", {"what": "call", "due": float("1e300")}, "properties.due", "due_invalid"),
        ("promise", {"what": "call", "due": "2050-01-01T00:00:00"}, "properties.due", "due_invalid"),
        ("promise", {"what": "call", "due": "9999-12-31T23:59:59-12:00"}, "properties.due", "due_invalid"),
        ("promise_kept", {}, "properties.what", "invalid"),
        ("promise_broken", {"what": "call"}, "type", "invalid"),
        ("resolved", {"topic": 7.0}, "properties.topic", "invalid"),
    ],
)
def test_what_is_no_promise_is_refused_by_field(
    desk: Desk, kind: str, properties: dict[str, Value], field: str, code: str
) -> None:
    result = desk.record(kind, customer_id="anna", properties=properties)
    assert (result.status, result.field) == ("rejected", f"events[0].{field}")
    assert result.code == code
    assert (desk.state(), desk.log()) == (CustomerState(), [])


def test_a_moment_with_a_zone_is_a_time_too(desk: Desk) -> None:
    promise(desk, "2027-01-15T12:00:00+02:00")
    assert desk.state().promises["call"].due_ms == NOW_MS + 2 * HOUR_MS
