"""Pauses per scope: who is kept away, until when, and what a later truth takes back."""

from __future__ import annotations

import pytest

from nbx.decision.messages import DecideReply
from tests.worlds import DAY_MS, NOW_MS, Desk, small_plan

MINUTE_MS = 60_000
CATALOG = """
catalog: pauses
contact:
  pause: {ignored: {after: 3, within: 1d, for: 5d}}
  channels: {web: {pause: {declined: 2h}}}
placements:
  web: {channel: web, impressions: reported, slots: 3, delivery: 1m, attention: 10m}
  phone: {channel: phone, impressions: implicit, attention: 10m}
groups:
  cards: {pause: {declined: 7d}, pause_group: {declined: 1d, ignored: {after: 2, within: 2h, for: 1h}}}
  help: {}
actions:
  gold: {group: cards, value: 9, gives: [x], treatments: {t: {placements: [web, phone]}}}
  plain: {group: cards, value: 9, gives: [x], pause: {dismissed: 3d, ignored: 2d}, treatments: {t: {placements: [web]}}}
  tips: {group: help, class: service, value: 9, treatments: {t: {placements: [web, phone]}}}
experience: {floor: -1000, points: {ignored: 0, declined: 0, dismissed: 0}}
exploration: {floor: 1, scale: 1}
"""


@pytest.fixture
def desk() -> Desk:
    return Desk(small_plan(CATALOG))


def show(desk: Desk, action: str, placement: str = "web") -> DecideReply:
    """Decide until the action is in slot 0."""
    others = tuple({"gold", "plain", "tips"} - {action})
    for _ in range(60):
        reply = desk.decide(placement=placement, exclude=others)
        if reply.slots[0].action == action:
            return reply
        assert reply.degraded or reply.slots[0].none == "none_chosen", reply  # compiling takes the first one too long
    raise AssertionError(f"{action} was never drawn")


def ignore(desk: Desk, action: str) -> DecideReply:
    reply = show(desk, action)
    desk.record("seen", decision_id=reply.decision_id)
    desk.pass_time(10 * MINUTE_MS)
    return reply


def paused(desk: Desk) -> dict[str, int]:
    """Return scope → minutes that its pause still lasts."""
    now_ms = desk.clock.now_ms()
    return {k: round((p.until_ms - now_ms) / MINUTE_MS) for k, p in desk.state().pauses.items() if p.until_ms > now_ms}


def test_a_no_pauses_action_group_and_channel_and_the_log_says_until_when(desk: Desk) -> None:
    reply = show(desk, "gold")
    desk.record("declined", decision_id=reply.decision_id)
    assert paused(desk) == {"gold": 7 * 1440, "group:cards": 1440, "channel:web": 120}
    day, week = NOW_MS + DAY_MS, NOW_MS + 7 * DAY_MS
    assert desk.observed[-1].pauses == {"gold": week, "group:cards": day, "channel:web": NOW_MS + 120 * MINUTE_MS}
    reasons = {r.action: r.detail for r in _removed(desk, "web")}
    assert set(reasons) == {"gold", "plain", "tips"}, "the whole channel"
    assert set(_reasons(desk, "phone")) == {"gold"}, "another channel goes on"


def test_several_ignored_prompts_pause_together_across_actions(desk: Desk) -> None:
    ignore(desk, "tips")
    ignore(desk, "gold")
    assert paused(desk) == {}, "two of three"
    ignore(desk, "tips")
    assert paused(desk) == {"overall": 5 * 1440}
    assert "overall" in desk.observed[-1].pauses
    assert "overall" not in desk.observed[0].pauses, "the first alone called for nothing"


def test_ignored_prompts_far_apart_do_not_count_together(desk: Desk) -> None:
    for _ in range(4):
        ignore(desk, "tips")
        desk.pass_time(13 * 60 * MINUTE_MS)
    assert paused(desk) == {}


def test_a_late_yes_takes_its_share_of_a_common_pause_back(desk: Desk) -> None:
    first = ignore(desk, "gold")
    ignore(desk, "gold")
    assert paused(desk) == {"group:cards": 60}
    desk.record("accepted", decision_id=first.decision_id)
    assert paused(desk) == {}, "one alone does not pause the group"


def test_a_common_pause_survives_when_others_still_call_for_it(desk: Desk) -> None:
    replies = [show(desk, "tips") for _ in range(4)]
    for reply in replies:
        desk.record("seen", decision_id=reply.decision_id)
    desk.pass_time(10 * MINUTE_MS)
    desk.record("accepted", decision_id=replies[0].decision_id)
    assert paused(desk) == {"overall": 5 * 1440}
    desk.record("accepted", decision_id=replies[3].decision_id)
    assert paused(desk) == {}


def test_a_shorter_pause_holds_when_the_longer_one_is_withdrawn(desk: Desk) -> None:
    one, two = show(desk, "plain"), show(desk, "plain")
    for reply in (one, two):
        desk.record("seen", decision_id=reply.decision_id)
    desk.record("dismissed", decision_id=one.decision_id)
    desk.pass_time(10 * MINUTE_MS)  # two is ignored: two days, one was dismissed: three
    assert paused(desk)["plain"] == 3 * 1440 - 10
    desk.record("accepted", decision_id=one.decision_id)
    assert paused(desk)["plain"] == 2 * 1440


def test_ends_do_not_depend_on_the_order_of_answers() -> None:
    ends = []
    for order in ((0, 1), (1, 0)):
        desk = Desk(small_plan(CATALOG))
        replies = [show(desk, "gold"), show(desk, "gold")]
        for number in order:
            at = NOW_MS + 1000 * number
            desk.clock.advance(5000)
            desk.record("declined", decision_id=replies[number].decision_id, at=at)
        ends.append({scope: pause.until_ms for scope, pause in desk.state().pauses.items()})
    assert ends[0] == ends[1]


def _removed(desk: Desk, placement: str) -> list:  # type: ignore[type-arg]
    return list(desk.decide(placement=placement, mode="preview", explain="reasons").explanation.removed)


def _reasons(desk: Desk, placement: str) -> dict[str, str]:
    return {r.action: r.reason for r in _removed(desk, placement)}
