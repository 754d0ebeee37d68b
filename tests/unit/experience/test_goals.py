"""Goals: one outcome per decision whatever comes in whatever order, for silence as for actions, and no side effect."""

from __future__ import annotations

import pytest
from msgspec import msgpack, structs

from nbx.decision.recovery import recover
from nbx.experience.entries import DecisionEntry, EventEntry, GoalOutcome, TimerEntry
from nbx.experience.lifecycle import decode_open
from nbx.features.keys import partition_keys
from nbx.features.state import CustomerState, encode_state
from nbx.limits import GOALS, MONEY
from tests.worlds import CATALOG, DAY_MS, NOW_MS, PARTITIONS, Desk, run, small_plan

MINUTE_MS = 60_000
WITH_GOALS = CATALOG.replace(
    "slots: 2, delivery: 60s, attention: 5m}",
    "slots: 2, delivery: 60s, attention: 5m, goal: {event: came_back, within: 30m, value: 3}}",
)


def goal_desk() -> Desk:
    return Desk(small_plan(WITH_GOALS))


def told(desk: Desk) -> list[GoalOutcome]:
    """Return every goal outcome in the log, in its order."""
    return [goal for entry in desk.log() if isinstance(entry, EventEntry | TimerEntry) for goal in entry.goals]


def brief(desk: Desk) -> list[tuple[int | None, int]]:
    return [(goal.response, goal.revision) for goal in told(desk)]


def timers(desk: Desk) -> list[str]:
    return [t.member for p in range(PARTITIONS) for t in run(desk.store.due(p, NOW_MS * 2, 1000))]


def decided(desk: Desk, what: str = "action") -> str:
    """Return a decision whose slot 0 holds an action, or silence when `what` is none."""
    exclude = ("gold_card", "travel_card", "tips") if what == "none" else ()
    for number in range(100):
        reply = desk.decide(f"{what}{number}", "desk", exclude=exclude)
        if bool(reply.slots[0].action) == (what != "none"):
            return reply.decision_id
    raise AssertionError("never drawn")


def customer_of(desk: Desk, decision_id: str) -> str:
    return next(e.customer_id for e in desk.log() if getattr(e, "decision_id", "") == decision_id)


@pytest.mark.parametrize("what", ["action", "none"])
def test_a_goal_is_reached_by_the_first_event_in_time(what: str) -> None:
    desk = goal_desk()
    decision_id = decided(desk, what)
    customer = customer_of(desk, decision_id)
    (entry,) = [e for e in desk.log() if isinstance(e, DecisionEntry) and e.decision_id == decision_id]
    desk.clock.advance(10 * MINUTE_MS)
    desk.record("page_view", customer_id=customer)
    desk.record("came_back", customer_id="somebody else")
    desk.record("came_back", customer_id=customer, by="agent")
    assert told(desk) == []
    desk.record("came_back", customer_id=customer)
    (outcome,) = told(desk)
    assert (outcome.decision_id, outcome.response, outcome.revision) == (decision_id, 1, 0)
    assert outcome.action == entry.slots[0].action
    assert (outcome.action == "") == (what == "none")
    assert outcome.x == entry.x
    assert f"goal:{decision_id}:0" not in timers(desk)
    desk.record("came_back", customer_id=customer)
    desk.pass_time(2 * DAY_MS)
    assert [g for g in told(desk) if g.decision_id == decision_id] == [outcome], "one outcome"
    assert desk.state(customer).goals == []


@pytest.mark.parametrize("what", ["action", "none"])
def test_time_that_runs_out_is_a_miss_and_a_late_truth_corrects_it_once(what: str) -> None:
    desk = goal_desk()
    decision_id = decided(desk, what)
    customer = customer_of(desk, decision_id)
    at = desk.clock.now_ms()
    desk.pass_time(30 * MINUTE_MS)
    mine = [g for g in told(desk) if g.decision_id == decision_id]
    assert [(g.response, g.revision, g.at_ms) for g in mine] == [(0, 0, at + 30 * MINUTE_MS)]
    desk.pass_time(DAY_MS)
    desk.record("came_back", customer_id=customer)
    desk.record("came_back", customer_id=customer, at=at + 30 * MINUTE_MS + 1)
    desk.record("came_back", customer_id=customer, at=at - 1)
    assert [g for g in told(desk) if g.decision_id == decision_id] == mine, "not in time"
    late = {"customer_id": customer, "at": at + 30 * MINUTE_MS}
    desk.record("came_back", event_id="late", **late)
    assert desk.record("came_back", event_id="late", **late).status == "duplicate"
    desk.record("came_back", **late)
    mine = [g for g in told(desk) if g.decision_id == decision_id]
    assert [(g.response, g.revision) for g in mine] == [(0, 0), (1, 1)]
    assert f"goal:{decision_id}:0" not in timers(desk)


def test_an_event_after_the_decision_is_no_longer_kept_changes_nothing() -> None:
    desk = goal_desk()
    decision_id = decided(desk)
    customer = customer_of(desk, decision_id)
    at = desk.clock.now_ms()
    desk.pass_time(14 * DAY_MS)
    desk.record("came_back", customer_id=customer, at=at + 1)
    assert [g.response for g in told(desk) if g.decision_id == decision_id] == [0]
    key = partition_keys(int(decision_id[:3], 16)).decision(decision_id)
    assert run(desk.store.read([key], 1.0)) != [None], "it is kept a little longer than its goal is awaited"
    desk.pass_time(MINUTE_MS)
    assert run(desk.store.read([key], 1.0)) == [None]


def test_a_late_truth_in_the_last_moment_finds_its_decision() -> None:
    desk = goal_desk()
    decision_id = decided(desk)
    at = desk.clock.now_ms()
    desk.pass_time(14 * DAY_MS - 1)
    desk.record("came_back", customer_id=customer_of(desk, decision_id), at=at + 1)
    assert [g.response for g in told(desk) if g.decision_id == decision_id] == [0, 1]


def test_the_event_may_name_the_decision_it_ends() -> None:
    """It is folded once and stored, although the decision is there as the one it names."""
    desk = goal_desk()
    decision_id = decided(desk)
    desk.record("came_back", decision_id=decision_id)
    key = partition_keys(int(decision_id[:3], 16)).decision(decision_id)
    (packed,) = run(desk.store.read([key], 1.0))
    assert packed is not None
    goal = decode_open(packed).goal
    assert goal is not None
    assert (goal.response, goal.revision) == (1, 0)


def test_goals_charge_nothing_and_count_no_exposure() -> None:
    desk = goal_desk()
    decision_id = decided(desk, "none")
    customer = customer_of(desk, decision_id)
    desk.record("came_back", customer_id=customer)
    desk.pass_time(DAY_MS)
    bare = structs.replace(desk.state(customer), aggregates={}, goals=[])
    assert encode_state(bare) == encode_state(CustomerState())
    assert all(o.customer_id != customer for o in desk.observed)


def test_two_decisions_are_both_told_by_one_event() -> None:
    desk = goal_desk()
    first = desk.decide("anna", "desk").decision_id
    desk.clock.advance(20 * MINUTE_MS)
    second = desk.decide("anna", "desk").decision_id
    desk.clock.advance(20 * MINUTE_MS)
    desk.record("came_back", customer_id="anna")
    assert [(g.decision_id, g.response) for g in told(desk)] == [(second, 1)]
    desk.pass_time(DAY_MS)
    assert [(g.decision_id, g.response) for g in told(desk)] == [(second, 1), (first, 0)]


def test_a_placement_without_a_goal_waits_for_nothing() -> None:
    desk = goal_desk()
    desk.decide("anna", "hero")
    assert desk.state("anna").goals == []
    assert not [member for member in timers(desk) if member.startswith("goal")]


def test_a_degraded_decision_has_no_goal() -> None:
    desk = goal_desk()
    desk.store.failing_reads = 1
    assert desk.decide("anna", "desk").degraded
    run(recover(desk.decisions, desk.events))
    desk.record("came_back", customer_id="anna")
    desk.pass_time(DAY_MS)
    assert told(desk) == []


@pytest.mark.parametrize("missed_before", [False, True])
@pytest.mark.parametrize("silent", [False, True])
def test_a_decision_that_never_got_to_the_customer_teaches_nothing(missed_before: bool, silent: bool) -> None:
    """A commit whose reply was lost: what it held was not shown, what the customer does says nothing of it."""
    desk = goal_desk()
    exclude = ("gold_card", "travel_card", "tips") if silent else ()
    for number in range(100):
        desk.store.failing_commits_after = 1
        desk.decide(f"anna{number}", "desk", exclude=exclude)
        lost = [e for e in desk.log() if isinstance(e, DecisionEntry) and not e.degraded][-1]
        if bool(lost.slots[0].action) != silent:
            break
        run(recover(desk.decisions, desk.events))
    if missed_before:
        desk.pass_time(DAY_MS)
    run(recover(desk.decisions, desk.events))
    desk.record("came_back", customer_id=lost.customer_id, at=lost.at_ms + 1)
    desk.pass_time(DAY_MS)
    mine = [(g.response, g.revision) for g in told(desk) if g.decision_id == lost.decision_id]
    assert mine == ([(0, 0), (None, 1)] if missed_before else [])
    assert f"goal:{lost.decision_id}:0" not in timers(desk)


def test_an_agents_skip_is_part_of_what_deciding_leads_to() -> None:
    desk = goal_desk()
    decision_id = decided(desk)
    desk.record("skipped", decision_id=decision_id, by="agent")
    desk.record("came_back", customer_id=customer_of(desk, decision_id))
    assert brief(desk) == [(1, 0)]


def test_what_is_waited_for_is_bounded_and_older_ones_make_room() -> None:
    desk = goal_desk()
    for _ in range(GOALS + 3):
        desk.decide("anna", "desk")
    assert len(desk.state("anna").goals) == GOALS
    assert len([m for m in timers(desk) if m.startswith("goal")]) == GOALS, "beyond it no goal is opened"
    oldest = desk.state("anna").goals[0].decision_id
    desk.pass_time(30 * MINUTE_MS)
    assert brief(desk) == [(0, 0)] * GOALS
    newest = desk.decide("anna", "desk").decision_id
    kept = [watch.decision_id for watch in desk.state("anna").goals]
    assert len(kept) == GOALS
    assert kept[-1] == newest
    assert oldest not in kept
    desk.pass_time(15 * DAY_MS)
    desk.decide("anna", "desk")
    assert len(desk.state("anna").goals) == 1, "they expire by themselves"


def test_no_goal_costs_one_byte_of_state() -> None:
    state = CustomerState(balance=1.5, exposures={"tips": [5]})
    others = [getattr(state, name) for name in CustomerState.__struct_fields__ if name != "goals"]
    assert len(encode_state(state)) == len(msgpack.encode(others)) + 1


def test_the_value_of_an_acceptance_is_told_and_corrected() -> None:
    desk = goal_desk()
    decision_id = decided(desk)
    desk.record("accepted", decision_id=decision_id, value=11.0)
    desk.record("accepted", decision_id=decision_id, value=12.5)
    desk.record("accepted", decision_id=decision_id, value=12.5)
    desk.record("converted", decision_id=decision_id, value=-3.0)
    desk.record("accepted", decision_id=decision_id, value=99.0)
    desk.record("failed", decision_id=decision_id, value=5.0)
    assert [(o.outcome, o.response, o.value, o.revision) for o in desk.observed] == [
        ("accepted", 1, 11.0, 0),
        ("accepted", 1, 12.5, 1),
        ("converted", 1, -3.0, 2),
        ("failed", 1, -3.0, 3),
    ]


def test_an_answer_without_value_has_none() -> None:
    desk = goal_desk()
    desk.record("declined", decision_id=decided(desk), value=7.0)
    assert [o.value for o in desk.observed] == [None]
    desk = goal_desk()
    desk.record("accepted", decision_id=decided(desk))
    assert [o.value for o in desk.observed] == [None]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), MONEY * 1.01, -MONEY * 1.01])
def test_a_value_has_bounds(value: float) -> None:
    desk = goal_desk()
    result = desk.record("accepted", decision_id=decided(desk), value=value)
    assert (result.status, result.field) == ("rejected", "events[0].value")
