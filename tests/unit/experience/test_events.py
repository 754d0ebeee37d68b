"""Taking events in: the life of a slot, corrections, aggregates, limits, dedupe, and what bad input gets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from nbx.experience.entries import Event, EventEntry, TimerEntry
from nbx.features.keys import partition_keys
from nbx.ids import new_decision_id, partition_of
from nbx.limits import FUTURE_MS
from tests.worlds import DAY_MS, NOW_MS, PARTITIONS, Desk, run

ALL_BUT_GOLD = ("tips", "alert", "travel_card", "pay_card")


def shown(desk: Desk, placement: str = "hero") -> str:
    """Return the id of a decision that shows gold_card in slot 0."""
    for number in range(200):
        reply = desk.decide(f"anna{number}", placement, exclude=ALL_BUT_GOLD)
        if reply.slots[0].action == "gold_card":
            return reply.decision_id
    raise AssertionError("gold_card was never drawn")


def customer_of(desk: Desk, decision_id: str) -> str:
    return next(e.customer_id for e in desk.log() if getattr(e, "decision_id", "") == decision_id)


def test_ignored_is_proved_by_seen_and_time() -> None:
    desk = Desk()
    decision_id = shown(desk)
    desk.record("seen", decision_id=decision_id)
    desk.pass_time(600_000 - 1)
    assert desk.observed == []
    desk.pass_time(1)
    (outcome,) = desk.observed
    assert (outcome.outcome, outcome.cause, outcome.response) == ("ignored", "assumption", 0)
    desk.pass_time(DAY_MS)
    assert len(desk.observed) == 1, "a slot ends once"


def test_without_a_sign_it_was_not_delivered_and_teaches_no_response() -> None:
    desk = Desk()
    shown(desk)
    desk.pass_time(60_000)
    (outcome,) = desk.observed
    assert (outcome.outcome, outcome.response, outcome.experience) == ("not_delivered", None, 0.0)


def test_delivered_but_never_seen() -> None:
    desk = Desk()
    desk.record("delivered", decision_id=shown(desk))
    desk.pass_time(DAY_MS)
    assert [o.outcome for o in desk.observed] == ["not_seen"]


def test_a_desk_shows_by_deciding() -> None:
    desk = Desk()
    shown(desk, "desk")
    desk.pass_time(DAY_MS)
    assert [o.outcome for o in desk.observed] == ["ignored"]


def test_a_late_accept_replaces_ignored_once() -> None:
    desk = Desk()
    decision_id = shown(desk)
    customer = customer_of(desk, decision_id)
    desk.record("seen", decision_id=decision_id)
    desk.pass_time(DAY_MS // 2)
    assert desk.state(customer).pauses.keys() == {"gold_card"}
    assert desk.record("accepted", decision_id=decision_id).outcome == "accepted"
    assert desk.record("accepted", decision_id=decision_id).outcome == ""
    first, second = desk.observed
    assert (first.outcome, first.revision) == ("ignored", 0)
    assert (second.outcome, second.revision, second.previous, second.response) == ("accepted", 1, "ignored", 1)
    state = desk.state(customer)
    assert state.balance == pytest.approx(1.0), "what ignoring cost was given back"
    assert state.outcomes == {"ignored": 0, "accepted": 1}
    assert state.ignored_s == []
    assert state.pauses == {}, "the pause of the ignored prompt went with it"


def test_a_truer_outcome_stays_whatever_comes_later() -> None:
    desk = Desk()
    decision_id = shown(desk)
    for kind in ("complained", "declined", "seen", "dismissed"):
        desk.record(kind, decision_id=decision_id)
    assert [o.outcome for o in desk.observed] == ["complained"]


def test_an_execution_failure_teaches_no_model() -> None:
    desk = Desk()
    desk.record("failed", decision_id=shown(desk), reason="page_error")
    (outcome,) = desk.observed
    assert (outcome.cause, outcome.response_weight, outcome.experience_weight) == ("execution", 0.0, 0.0)


def test_an_agent_skips_what_the_desk_showed() -> None:
    desk = Desk()
    decision_id = shown(desk, "desk")
    customer = customer_of(desk, decision_id)
    assert desk.state(customer).exposures == {"gold_card": [NOW_MS // 1000]}
    assert desk.record("skipped", decision_id=decision_id, by="agent").outcome == "not_seen"
    assert desk.state(customer).exposures == {"gold_card": []}, "the assumed exposure did not take place"
    desk.pass_time(DAY_MS)
    assert [(o.outcome, o.cause, o.response) for o in desk.observed] == [("not_seen", "execution", None)]
    assert desk.record("accepted", decision_id=decision_id).outcome == "accepted", "the customer's word is truer"


def test_declined_pauses_the_action_on_every_channel() -> None:
    desk = Desk()
    decision_id = shown(desk)
    customer = customer_of(desk, decision_id)
    desk.record("declined", decision_id=decision_id)
    reply = desk.decide(customer, "desk", explain="reasons")
    assert ("gold_card", "paused") in [(r.action, r.reason) for r in reply.explanation.removed]
    desk.pass_time(7 * DAY_MS)
    assert "gold_card" not in [r.action for r in desk.decide(customer, "desk", explain="reasons").explanation.removed]


def test_behaviour_feeds_the_next_decision() -> None:
    desk = Desk()
    for _ in range(3):
        desk.record("page_view", customer_id="anna")
    assert desk.plan.resolver.resolve(desk.state(), {}, NOW_MS)["visits"] == 3.0


def test_an_event_id_counts_once() -> None:
    desk = Desk()
    first = Event(event_id="same", type="page_view", customer_id="anna")
    assert [r.status for r in run(desk.events.record([first, first]))] == ["accepted", "duplicate"]
    assert run(desk.events.record([first]))[0].status == "duplicate"
    assert len([e for e in desk.log() if isinstance(e, EventEntry)]) == 1


def test_events_of_a_batch_are_taken_in_order_and_fail_alone() -> None:
    desk = Desk()
    decision_id = shown(desk)
    kinds = [("seen", 0), ("declined", 9), ("nonsense" * 20, 0), ("accepted", 0)]
    events = [
        Event(event_id=f"b{i}", type=kind, decision_id=decision_id, slot=slot) for i, (kind, slot) in enumerate(kinds)
    ]
    results = run(desk.events.record(events))
    assert [r.status for r in results] == ["accepted", "rejected", "rejected", "accepted"]
    assert results[1].field == "events[1].slot"


@pytest.mark.parametrize(
    ("event", "code", "field"),
    [
        ({"event_id": ""}, "id_invalid", "event_id"),
        ({"event_id": "a\nb"}, "id_invalid", "event_id"),
        ({"event_id": "x" * 129}, "too_large", "event_id"),
        ({"customer_id": ""}, "customer_missing", "customer_id"),
        ({"type": "seen"}, "decision_missing", "decision_id"),
        ({"type": "seen", "decision_id": "nonsense"}, "decision_id_invalid", "decision_id"),
        ({"by": "robot"}, "invalid", "by"),
        ({"type": "skipped", "decision_id": "0" * 26}, "invalid", "by"),
        ({"type": "accepted", "decision_id": "0" * 26, "by": "agent"}, "agent_cannot_answer", "by"),
        ({"cause": "weather"}, "invalid", "cause"),
        ({"sentiment": 2.0}, "invalid", "sentiment"),
        ({"effort": 0.0}, "invalid", "effort"),
        ({"value": float("nan")}, "invalid", "value"),
        ({"properties": {"amount": float("inf")}}, "not_finite", "properties.amount"),
        ({"at": NOW_MS + FUTURE_MS + 1}, "event_from_future", "at"),
        ({"at": NOW_MS - 31 * DAY_MS}, "event_too_old", "at"),
        ({"at": datetime(2027, 1, 15)}, "invalid", "at"),  # noqa: DTZ001 - the point of the case
    ],
)
def test_bad_events_name_field_and_code(event: dict[str, Any], code: str, field: str) -> None:
    desk = Desk()
    result = desk.record(**{"kind": event.pop("type", "page_view"), "customer_id": "anna", **event})
    assert (result.status, result.code, result.field) == ("rejected", code, f"events[0].{field}")
    assert desk.log() == [], "nothing was written"


def test_times_with_a_zone_are_understood() -> None:
    desk = Desk()
    at = datetime.fromtimestamp(NOW_MS / 1000 - 3600, UTC)
    assert desk.record("page_view", customer_id="anna", at=at).status == "accepted"
    (entry,) = desk.log()
    assert entry.at_ms == NOW_MS - 3_600_000


def test_unknown_foreign_and_expired_decisions_differ() -> None:
    desk = Desk()
    decision_id = shown(desk)
    partition = partition_of("anna", PARTITIONS)
    never = new_decision_id(partition, NOW_MS)
    gone = new_decision_id(partition, NOW_MS - 15 * DAY_MS)
    assert desk.record("seen", decision_id=never).code == "decision_unknown"
    assert desk.record("seen", decision_id=gone).code == "decision_expired"
    assert desk.record("seen", decision_id=decision_id, customer_id="somebody else").code == "decision_foreign"


def test_silence_has_no_life() -> None:
    desk = Desk()
    reply = desk.decide(exclude=(*ALL_BUT_GOLD, "gold_card"))
    assert reply.slots[0].none == "no_candidate"
    assert desk.record("seen", decision_id=reply.decision_id).code == "slot_silent"


def test_a_timer_whose_decision_is_gone_is_dropped() -> None:
    desk = Desk()
    decision_id = shown(desk)
    desk.clock.advance(15 * DAY_MS)
    desk.pass_time(0)
    assert not any(isinstance(e, TimerEntry) for e in desk.log())
    assert run(desk.store.due(int(decision_id[:3], 16), 2 * NOW_MS, 10)) == []


def test_profile_changes_are_typed_and_logged() -> None:
    desk = Desk()
    run(desk.events.change_profile("anna", {"age": 33, "tier": "gold"}))
    assert desk.plan.resolver.resolve(desk.state(), {}, NOW_MS)["age"] == 33.0
    run(desk.events.change_profile("anna", {"age": None}))
    assert desk.plan.resolver.resolve(desk.state(), {}, NOW_MS)["age"] == 40.0
    with pytest.raises(Exception, match="not a declared profile feature"):
        run(desk.events.change_profile("anna", {"visits": 3}))
    assert len(desk.log()) == 2


def test_an_open_decision_is_kept_as_long_as_it_can_be_corrected() -> None:
    desk = Desk()
    decision_id = shown(desk)
    key = partition_keys(int(decision_id[:3], 16)).decision(decision_id)
    desk.clock.advance(14 * DAY_MS - 1)
    assert desk.record("accepted", decision_id=decision_id).status == "accepted"
    desk.clock.advance(60_000)
    assert run(desk.store.read([key], 1.0)) == [None]
