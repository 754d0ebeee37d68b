"""Threads: what is open goes on on another channel, for those whom it may be told of."""

from __future__ import annotations

import pytest

from nbx.experience.entries import Continued, DecisionEntry
from nbx.limits import PROMISES
from tests.worlds import NOW_MS, Desk, run, small_plan

HOUR_MS = 3_600_000
CATALOG = """
catalog: going_on
placements:
  web: {channel: web, impressions: reported, slots: 1, delivery: 1m, attention: 10m}
  desk: {channel: phone, impressions: implicit, slots: 1, attention: 5m}
groups: {cards: {topic: cards}, help: {}}
actions:
  card: {group: cards, value: 9, gives: [x], treatments: {t: {placements: [web, desk]}}}
  guide: {group: cards, class: service, value: 9, treatments: {t: {placements: [web, desk]}}}
concerns: {payment: {opens: [payment_failed], resolves: [paid], timeout: 3h}}
experience: {floor: -1000, obligation: 10d}
"""


@pytest.fixture
def desk() -> Desk:
    return Desk(small_plan(CATALOG))


def shown(desk: Desk, placement: str, action: str = "card") -> str:
    """Ask until an action is given out; returns the decision."""
    for _ in range(100):
        reply = desk.decide(placement=placement, exclude=({"card": "guide", "guide": "card"}[action],))
        if reply.slots[0].action:
            return reply.decision_id
    raise AssertionError("never given out")


def threads(desk: Desk, placement: str) -> list[tuple[str, str, str]]:
    """Return (kind, name, channel) of what goes on; reply and record say the same."""
    reply = desk.decide(placement=placement)
    (entry,) = (e for e in desk.log() if isinstance(e, DecisionEntry) and e.decision_id == reply.decision_id)
    assert entry.continues == reply.continues
    return [(each.kind, each.name, each.channel) for each in reply.continues]


def test_a_concern_goes_on_elsewhere_and_is_known_where_it_began(desk: Desk) -> None:
    desk.record("payment_failed", customer_id="anna", properties={"channel": "web"})
    assert threads(desk, "desk") == [("concern", "payment", "web")]
    assert threads(desk, "web") == []
    (found,) = desk.decide(placement="desk").continues
    assert found == Continued(
        kind="concern",
        name="payment",
        channel="web",
        opened_at=NOW_MS,
        last_at=NOW_MS,
        last="payment_failed",
        due_at=0,
    )


def test_where_nobody_says_it_goes_on_everywhere(desk: Desk) -> None:
    desk.record("payment_failed", customer_id="anna")
    assert threads(desk, "desk") == threads(desk, "web") == [("concern", "payment", "")]


def test_what_is_over_goes_on_nowhere(desk: Desk) -> None:
    desk.record("payment_failed", customer_id="anna", properties={"channel": "web"})
    desk.record("complained", decision_id=shown(desk, "web"))
    desk.record("promise", customer_id="anna", properties={"what": "call", "due": "5h", "channel": "web"})
    assert {kind for kind, _, _ in threads(desk, "desk")} == {"concern", "obligation", "promise"}
    desk.clock.advance(1)
    desk.record("paid", customer_id="anna")
    desk.record("promise_kept", customer_id="anna", properties={"what": "call"})
    desk.record("resolved", customer_id="anna")
    assert threads(desk, "desk") == []


def test_time_ends_a_thread(desk: Desk) -> None:
    desk.record("payment_failed", customer_id="anna", properties={"channel": "web"})
    desk.pass_time(3 * HOUR_MS - 1)
    assert threads(desk, "desk")
    desk.pass_time(1)
    assert threads(desk, "desk") == []


def test_an_event_of_a_slot_touches_its_topic_where_it_was_decided(desk: Desk) -> None:
    desk.record("complained", decision_id=shown(desk, "web"))
    assert threads(desk, "desk") == [("obligation", "cards", "web")]
    assert threads(desk, "web") == []
    desk.clock.advance(HOUR_MS)
    desk.record("declined", decision_id=shown(desk, "desk", "guide"))
    assert threads(desk, "desk") == []
    assert threads(desk, "web") == [("obligation", "cards", "phone")], "the agent picked it up"


def test_an_older_touch_that_is_heard_of_later_changes_nothing(desk: Desk) -> None:
    desk.record("payment_failed", customer_id="anna", properties={"channel": "web"})
    desk.clock.advance(HOUR_MS)
    desk.record("called", customer_id="anna", properties={"concern": "payment", "channel": "phone"})
    desk.record("wrote", customer_id="anna", at=NOW_MS + 1, properties={"concern": "payment", "channel": "web"})
    assert threads(desk, "web") == [("concern", "payment", "phone")]
    assert threads(desk, "desk") == []


def test_the_latest_touch_comes_first_and_a_promise_says_when_it_is_due(desk: Desk) -> None:
    desk.record("promise", customer_id="anna", properties={"what": "call", "due": "5h", "channel": "web"})
    desk.clock.advance(HOUR_MS)
    desk.record("payment_failed", customer_id="anna", properties={"channel": "web"})
    first, second = desk.decide(placement="desk").continues
    assert (first.kind, first.last_at) == ("concern", NOW_MS + HOUR_MS)
    assert (second.kind, second.due_at, second.opened_at) == ("promise", NOW_MS + 5 * HOUR_MS, NOW_MS)


def test_without_consent_to_personalise_nothing_is_told(desk: Desk) -> None:
    desk.record("payment_failed", customer_id="anna", properties={"channel": "web"})
    desk.record("complained", decision_id=shown(desk, "web"))
    desk.record("consent", customer_id="anna", properties={"personalise": False})
    assert threads(desk, "desk") == []
    desk.clock.advance(1)
    desk.record("consent", customer_id="anna", properties={"personalise": True})
    assert len(threads(desk, "desk")) == 2


def test_a_thread_goes_along_when_two_ids_are_one_customer(desk: Desk) -> None:
    desk.record("payment_failed", customer_id="cookie", properties={"channel": "web"})
    run(desk.events.merging.merge("anna", "cookie"))
    assert threads(desk, "desk") == [("concern", "payment", "web")]
    assert threads(desk, "web") == []


def test_a_state_does_not_grow_with_what_is_long_forgotten(desk: Desk) -> None:
    for number in range(3 * PROMISES):
        desk.record("promise", customer_id="anna", properties={"what": f"call {number}", "due": "5h"})
    state = desk.state()
    assert state.touched.keys() == {f"promise:{what}" for what in state.promises}
