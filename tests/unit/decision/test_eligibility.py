"""Rules that hold for a time, to the millisecond: terms, open prompts, pauses."""

from __future__ import annotations

import pytest

from nbx.decision.choice import allowed
from nbx.decision.messages import DecideRequest
from tests.worlds import NOW_MS, Desk, small_plan

MINUTE_MS = 60_000
OPEN_MS = 11 * MINUTE_MS
"""A prompt may be seen until then: delivery and attention."""
CATALOG = """
catalog: timed
features:
  visits: {{type: number, from: {{event: page_view, count: 1d}}, encode: {{log: 20}}}}
placements:
  web: {{channel: web, impressions: reported, delivery: 1m, attention: 10m}}
groups: {{cards: {{{group}}}}}
actions:
  gold: {{group: cards, value: 9, gives: [x]{action}, treatments: {{t: {{placements: [web]{treatment}}}}}}}
contact: {{{contact}}}
exploration: {{floor: 0}}
"""
TERM = "starts: 2027-01-15T09:00:00Z, ends: 2027-01-15T10:00:00Z"
STARTS_MS, ENDS_MS = NOW_MS + 3_600_000, NOW_MS + 7_200_000


def desk_with(group: str = "", action: str = "", treatment: str = "", contact: str = "") -> Desk:
    return Desk(small_plan(CATALOG.format(group=group, action=action, treatment=treatment, contact=contact)))


def reason(desk: Desk, at_ms: int) -> str:
    """Return why a decision at a time removes the action; empty when it does not."""
    request = DecideRequest(customer_id="anna", placement="web")
    removed = allowed(desk.plan, desk.state(), request, at_ms, salt="salt").candidates.removed
    return removed[0].reason if removed else ""


def prompt(desk: Desk) -> str:
    """Give the action out; returns the decision."""
    reply = desk.decide(placement="web", deadline_ms=10_000)
    assert reply.slots[0].action == "gold"
    return reply.decision_id


@pytest.mark.parametrize("where", [{"group": TERM}, {"action": f", {TERM}"}, {"treatment": f", {TERM}"}])
def test_a_term_holds_to_the_millisecond(where: dict[str, str]) -> None:
    desk = desk_with(**where)
    assert reason(desk, STARTS_MS - 1) == "not_started"
    assert reason(desk, STARTS_MS) == ""
    assert reason(desk, ENDS_MS - 1) == ""
    assert reason(desk, ENDS_MS) == "ended"


@pytest.mark.parametrize(
    ("where", "held"),
    [
        ({"action": ", limits: [{max: 1, per: 1d}]"}, "limit_reached"),
        ({"group": "limits: [{max: 1, per: 1d}]"}, "limit_reached"),
        ({"contact": "limits: [{max: 1, per: 1d}]"}, "limit_reached"),
        ({"contact": "channels: {web: {limits: [{max: 1, per: 1d}]}}"}, "limit_reached"),
        ({"contact": "classes: {promotional: {limits: [{max: 1, per: 1d}]}}"}, "limit_reached"),
        ({"contact": "gap: 1m"}, "too_soon"),
        ({"contact": "channels: {web: {gap: 1m}}"}, "too_soon"),
        ({"contact": "classes: {promotional: {gap: 1m}}"}, "too_soon"),
    ],
)
def test_an_open_prompt_counts_until_it_cannot_be_seen_any_more(where: dict[str, str], held: str) -> None:
    """Nobody runs the timers here; and an event shortly before changes nothing about it."""
    desk = desk_with(**where)
    prompt(desk)
    desk.clock.advance(OPEN_MS - 1000)
    desk.record("page_view", customer_id="anna")
    assert reason(desk, NOW_MS + OPEN_MS - 1) == held
    assert reason(desk, NOW_MS + OPEN_MS) == ""


@pytest.mark.parametrize(
    "where",
    [
        {"action": ", limits: [{max: 2, per: 1d}]"},
        {"group": "limits: [{max: 2, per: 1d}]"},
        {"contact": "limits: [{max: 2, per: 1d}]"},
        {"contact": "channels: {web: {limits: [{max: 2, per: 1d}]}}"},
        {"contact": "classes: {promotional: {limits: [{max: 2, per: 1d}]}}"},
    ],
)
def test_what_was_seen_and_what_may_be_seen_count_together(where: dict[str, str]) -> None:
    desk = desk_with(**where)
    desk.record("seen", decision_id=prompt(desk))
    assert reason(desk, NOW_MS + 1) == ""
    prompt(desk)
    assert reason(desk, NOW_MS + 1) == "limit_reached"


@pytest.mark.parametrize(
    "where",
    [
        {"action": ", pause: {declined: 10m}"},
        {"group": "pause: {declined: 10m}"},
        {"group": "pause_group: {declined: 10m}"},
        {"contact": "pause: {declined: 10m}"},
        {"contact": "channels: {web: {pause: {declined: 10m}}}"},
        {"contact": "classes: {promotional: {pause: {declined: 10m}}}"},
    ],
)
def test_a_pause_ends_to_the_millisecond(where: dict[str, str]) -> None:
    desk = desk_with(**where)
    desk.record("declined", decision_id=prompt(desk))
    desk.clock.advance(10 * MINUTE_MS - 1000)
    desk.record("page_view", customer_id="anna")
    assert reason(desk, NOW_MS + 10 * MINUTE_MS - 1) == "paused"
    assert reason(desk, NOW_MS + 10 * MINUTE_MS) == ""


def test_a_late_answer_ends_a_pause_that_only_an_earlier_release_declared() -> None:
    desk = desk_with(contact="channels: {web: {pause: {declined: 1d}}}")
    first, second = desk.plan, small_plan(CATALOG.format(group="", action="", treatment="", contact=""), release=2)
    decision_id = prompt(desk)
    desk.record("declined", decision_id=decision_id)
    assert reason(desk, NOW_MS + 1) == "paused"
    desk.plan = second
    assert reason(desk, NOW_MS + 1) == "paused", "a pause outlives its release"
    desk.record("converted", decision_id=decision_id)
    desk.plan = first
    assert reason(desk, NOW_MS + 1) == ""


def test_a_late_answer_counts_for_rules_that_only_an_earlier_release_declared() -> None:
    desk = desk_with(contact="channels: {web: {pause: {ignored: {after: 2, within: 1d, for: 1d}}}}")
    first, second = desk.plan, small_plan(CATALOG.format(group="", action="", treatment="", contact=""), release=2)
    for late_answer in (True, False):
        desk.plan = first
        decision_id = prompt(desk)
        desk.record("seen", decision_id=decision_id)
        desk.pass_time(15 * MINUTE_MS)
        if late_answer:
            desk.plan = second
            desk.record("accepted", decision_id=decision_id)
    assert reason(desk, desk.clock.now_ms()) == "", "one of the two was answered"


def test_an_excluded_default_is_not_shown_degraded_either() -> None:
    shown = CATALOG.replace("attention: 10m}}", "attention: 10m, default: {{action: gold, treatment: t}}}}")
    desk = Desk(small_plan(shown.format(group="", action="", treatment="", contact="")))
    for exclude, action in (((), "gold"), (("gold",), "")):
        desk.store.failing_reads = 1
        reply = desk.decide(placement="web", exclude=exclude, deadline_ms=10_000)
        assert reply.degraded
        assert reply.slots[0].action == action


@pytest.mark.parametrize(("kind", "left_ms"), [("", 30_000), (", class: service", MINUTE_MS)])
def test_a_prompt_given_out_before_quiet_hours_is_over_when_they_begin(kind: str, left_ms: int) -> None:
    """Who is exempt is not: it may be shown in them too."""
    desk = desk_with(contact='quiet_hours: [{from: "08:01", to: "09:00"}], exempt: [service]', action=kind)
    desk.clock.advance(30_000)
    reply = desk.decide(placement="web", deadline_ms=10_000)
    assert reply.slots[0].expires_at == desk.clock.now_ms() + left_ms
