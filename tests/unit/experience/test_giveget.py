"""Give and get: what was asked and given counts once, by what is true in the end, and bounds what may be asked."""

from __future__ import annotations

import pytest

from nbx.experience.giveget import amount_at
from tests.worlds import DAY_MS, NOW_MS, Desk, small_plan

CATALOG = """
catalog: fair
placements:
  web: {channel: web, impressions: reported, slots: 3, delivery: 1m, attention: 10m}
  desk: {channel: phone, impressions: implicit, slots: 3, attention: 5m}
groups: {all: {}}
actions:
  quiz: {group: all, value: 9, gives: [points], asks: [time, data], treatments: {t: {placements: [web, desk]}}}
  gift: {group: all, value: 9, gives: [money, points], treatments: {t: {placements: [web, desk]}}}
experience: {half_life: 10d, floor: -1000, asks_per_give: 2}
"""


@pytest.fixture
def desk() -> Desk:
    return Desk(small_plan(CATALOG))


def shown(desk: Desk, action: str, placement: str = "web") -> str:
    """Ask until an action is given out; returns the decision."""
    for _ in range(100):
        reply = desk.decide(placement=placement, slots=1, exclude=({"quiz": "gift", "gift": "quiz"}[action],))
        if reply.slots[0].action:
            return reply.decision_id
    raise AssertionError(f"{action} is never given out")


def amounts(desk: Desk) -> tuple[float, float]:
    state, policy, now_ms = desk.state(), desk.plan.rules.experience, desk.clock.now_ms()
    return amount_at(state.asked, now_ms, policy), amount_at(state.given, now_ms, policy)


def refused(desk: Desk) -> bool:
    """Tell whether the quiz asks too much now."""
    reply = desk.decide(placement="web", mode="preview", explain="full")
    return ("quiz", "asks_too_much") in {(each.action, each.reason) for each in reply.explanation.removed}


def test_what_was_seen_asked_and_what_was_not_seen_did_not(desk: Desk) -> None:
    decision_id = shown(desk, "quiz")
    assert (amounts(desk), desk.state().asks) == ((0.0, 0.0), {})
    desk.record("seen", decision_id=decision_id)
    desk.record("seen", decision_id=decision_id)
    assert (amounts(desk), desk.state().asks) == ((2.0, 0.0), {"time": 1, "data": 1})


def test_what_an_agent_did_not_say_was_not_asked(desk: Desk) -> None:
    decision_id = shown(desk, "quiz", "desk")
    assert amounts(desk) == (2.0, 0.0)
    desk.record("skipped", decision_id=decision_id, by="agent")
    assert (amounts(desk), desk.state().asks) == ((0.0, 0.0), {})
    desk.record("declined", decision_id=decision_id)
    assert amounts(desk) == (2.0, 0.0), "the customer knows better"


def test_an_acceptance_gives_once_whatever_comes_of_it(desk: Desk) -> None:
    decision_id = shown(desk, "gift")
    for kind in ("accepted", "converted", "failed", "accepted"):
        desk.record(kind, decision_id=decision_id)
    assert (amounts(desk), desk.state().gives) == ((0.0, 2.0), {"money": 1, "points": 1})


def test_both_count_as_of_the_decision_and_fade_with_the_balance(desk: Desk) -> None:
    decision_id = shown(desk, "quiz")
    desk.clock.advance(DAY_MS)
    desk.record("accepted", decision_id=decision_id)
    assert (desk.state().asked.at_ms, desk.state().given.at_ms) == (NOW_MS, NOW_MS)
    desk.clock.advance(9 * DAY_MS)
    assert amounts(desk) == pytest.approx((1.0, 0.5))


def test_who_was_asked_too_much_is_given_first(desk: Desk) -> None:
    """Two asks per give and one to begin with: 2 + 2 are too many for 1, and not for 2 gives more."""
    assert not refused(desk)
    desk.record("seen", decision_id=shown(desk, "quiz"))
    assert refused(desk)
    desk.record("accepted", decision_id=shown(desk, "gift"))
    assert not refused(desk)


def test_time_makes_room_again(desk: Desk) -> None:
    desk.record("seen", decision_id=shown(desk, "quiz"))
    desk.clock.advance(80 * DAY_MS)
    assert refused(desk), "2 asks and a hundredth are more than 2"
    desk.clock.advance(10_000 * DAY_MS)
    assert not refused(desk)


def test_without_a_bound_nothing_is_refused() -> None:
    desk = Desk(small_plan(CATALOG.replace(", asks_per_give: 2", "")))
    for _ in range(5):
        desk.record("seen", decision_id=shown(desk, "quiz"))
    assert not refused(desk)
    assert amounts(desk)[0] == pytest.approx(10.0)
