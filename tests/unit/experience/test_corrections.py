"""A corrected value tells late outcomes anew: by the service, in the log, within a day, and without a new charge."""

from __future__ import annotations

import pytest

from nbx.experience.entries import Outcome, ProfileEntry, outcomes_of
from nbx.experience.lifecycle import decode_open
from nbx.features.keys import partition_keys
from nbx.features.state import encode_state
from nbx.ids import partition_of
from nbx.limits import CORRECTED_MS, RECENT
from tests.worlds import PARTITIONS, Desk, run

OTHERS = ("travel_card", "pay_card", "tips", "alert")


def change(desk: Desk, value: float | str | None, name: str = "age", customer: str = "anna") -> None:
    run(desk.events.change_profile(customer, {name: value}))


def declined(desk: Desk) -> str:
    """Show the gold card to somebody of a known age, who declines."""
    change(desk, 30.0)
    desk.pass_time(1_000)
    for _ in range(200):
        reply = desk.decide(exclude=OTHERS)
        if reply.slots[0].action:
            break
    for kind in ("delivered", "seen", "declined"):
        desk.pass_time(1_000)
        assert desk.record(kind, decision_id=reply.decision_id).status == "accepted"
    return reply.decision_id


def told(desk: Desk) -> list[Outcome]:
    """Return what the log says of a changed profile."""
    return [o for e in desk.log() if isinstance(e, ProfileEntry) for o in outcomes_of(e) if isinstance(o, Outcome)]


def test_a_corrected_value_tells_the_outcome_anew() -> None:
    desk = Desk()
    decision_id = declined(desk)
    assert [o.cause for o in desk.observed] == ["assumption"]
    before = desk.state()
    desk.pass_time(3_600_000)
    change(desk, 60.0)
    (outcome,) = told(desk)
    assert (outcome.decision_id, outcome.revision, outcome.previous) == (decision_id, 1, "declined")
    assert (outcome.cause, outcome.rule, outcome.evidence) == ("information", "corrected", ("corrected:age",))
    assert (outcome.previous_cause, outcome.previous_rule) == ("assumption", "seen")
    assert outcome.response_weight == 0.0
    assert outcome.pauses == desk.observed[0].pauses != {}, "they stay what they are"
    assert desk.observed[-1] == outcome
    after = desk.state()
    assert after.corrected == {"age": desk.clock.now_ms()}
    after.corrected, after.profile = before.corrected, before.profile
    assert encode_state(after) == encode_state(before), "nothing is charged a second time"
    key = partition_keys(partition_of("anna", PARTITIONS)).decision(decision_id)
    (packed,) = run(desk.store.read([key], 1.0))
    assert packed is not None
    assert decode_open(packed).slots[0].told_cause == "information"
    change(desk, 60.0)
    assert len(told(desk)) == 1, "the same value again corrects nothing"


def test_what_is_no_correction_of_the_decision_tells_nothing() -> None:
    desk = Desk()
    declined(desk)
    change(desk, None)
    change(desk, 31.0)
    assert told(desk) == [], "forgotten, then known: it was not another value"
    late = Desk()
    declined(late)
    late.pass_time(CORRECTED_MS + 1)
    change(late, 60.0)
    assert told(late) == [], "more than a day after"


def test_a_yes_is_told_anew_as_a_no_is() -> None:
    desk = Desk()
    decision_id = declined(desk)
    desk.record("accepted", decision_id=decision_id)
    assert desk.observed[-1].response_weight == 1.0
    change(desk, 60.0)
    (outcome,) = told(desk)
    assert (outcome.outcome, outcome.cause, outcome.response, outcome.response_weight) == ("accepted", "", 1, 0.0)


@pytest.mark.parametrize("count", [3, RECENT + 3])
def test_decisions_kept_in_mind_are_bounded(count: int) -> None:
    desk = Desk()
    made: list[str] = []
    while len(made) < count:
        desk.pass_time(61_000)
        reply = desk.decide(placement="desk", exclude=("gold_card", "travel_card"))
        made += [reply.decision_id] if any(slot.action for slot in reply.slots) else []
    assert [each.decision_id for each in desk.state().recent] == made[-RECENT:]
