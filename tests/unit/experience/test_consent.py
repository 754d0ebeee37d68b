"""Consent: the last word holds in whatever order it comes in; what is unclear is refused; the outcomes it silences."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from nbx.catalog.model import ConsentPolicy
from nbx.catalog.plan import Plan
from nbx.experience.consent import fold_consent, may_contact, may_learn, may_personalise
from nbx.experience.entries import DecisionEntry, Event, EventEntry, GoalOutcome, Outcome, TimerEntry, outcomes_of
from nbx.experience.lifecycle import decode_open
from nbx.features.keys import partition_keys
from nbx.features.state import Consent, CustomerState, decode_state
from nbx.limits import PAST_MS
from tests.reference import journeys as twin
from tests.worlds import CATALOG, DAY_MS, NOW_MS, Desk, run, small_plan

PURPOSES = ("contact", "contact:web", "contact:phone", "personalise", "learn")
DEFAULT = st.sampled_from(["opt_in", "opt_out"])
GOAL = CATALOG.replace(
    "slots: 2, delivery: 60s, attention: 5m}",
    "slots: 2, delivery: 60s, attention: 5m, goal: {event: came_back, within: 30m, value: 3}}",
)


def said(*words: twin.Said) -> CustomerState:
    state = CustomerState()
    for purpose, granted, at_ms in words:
        fold_consent(state, Event(event_id="e", type="consent", properties={purpose: granted}), at_ms)
    return state


@given(
    st.lists(st.tuples(st.sampled_from(PURPOSES), st.booleans(), st.integers(1, 4)), max_size=9),
    st.builds(
        ConsentPolicy,
        contact=DEFAULT,
        channels=st.dictionaries(st.sampled_from(["web", "phone"]), DEFAULT),
        personalise=DEFAULT,
        learn=DEFAULT,
    ),
    st.data(),
)
def test_the_last_word_holds_in_any_order(words: list[twin.Said], policy: ConsentPolicy, data: st.DataObject) -> None:
    state = said(*words)
    assert said(*data.draw(st.permutations([*words, *words[:3]]))) == state, "late events and duplicates"
    for channel in ("web", "phone", "fax"):
        assert may_contact(state, policy, channel) == twin.contact_allowed(words, policy, channel), channel
    for purpose, asked, default in (
        ("personalise", may_personalise, policy.personalise),
        ("learn", may_learn, policy.learn),
    ):
        word = twin.last_word(words, purpose)
        assert asked(state, policy) == (default == "opt_out" if word is None else word), purpose


def test_what_an_older_log_calls_consent_is_passed_over() -> None:
    event = Event(event_id="e", type="consent", properties={"learn": "yes", "marketing": True, "contact": 1.0})
    state = CustomerState()
    fold_consent(state, event, 1)
    assert state == CustomerState()


@pytest.mark.parametrize(
    ("change", "field", "code", "words"),
    [
        (
            {"properties": {}},
            "properties",
            "invalid",
            "must say yes or no to one of contact, contact:phone, contact:web",
        ),
        ({"properties": {"marketing": True}}, "properties", "purpose_unknown", "'marketing', which is no purpose"),
        ({"properties": {"contact:fax": False}}, "properties", "purpose_unknown", "contact:phone, contact:web, person"),
        ({"properties": {"learn": "no"}}, "properties.learn", "consent_unclear", "must be true (yes) or false (no)"),
        ({"properties": {"learn": 0}}, "properties.learn", "consent_unclear", "must be true (yes) or false (no)"),
        ({"customer_id": ""}, "customer_id", "customer_missing", "needs customer_id or decision_id"),
        ({"slot": 1}, "slot", "invalid", "leave slot out"),
        ({"decision_id": "000"}, "decision_id", "invalid", "leave decision_id out"),
        ({"by": "system"}, "by", "invalid", "must be customer or agent"),
        ({"at": NOW_MS + DAY_MS}, "at", "event_from_future", "in the future"),
        ({"at": -1}, "at", "event_too_old", "days ago"),
    ],
)
def test_what_is_unclear_is_refused_and_nothing_is_written(
    change: dict[str, Any], field: str, code: str, words: str
) -> None:
    desk = Desk()
    result = desk.record("consent", **{"customer_id": "anna", "properties": {"learn": False}} | change)
    assert (result.status, result.field, result.code) == ("rejected", f"events[0].{field}", code), result
    assert words in result.detail
    assert desk.log() == []
    assert desk.state() == CustomerState()


def test_what_is_said_is_kept_with_its_time_whoever_writes_it_down() -> None:
    desk = Desk()
    old_ms = NOW_MS - 3 * PAST_MS
    anna = {"customer_id": "anna"}
    assert desk.record("consent", properties={"contact": True, "contact:phone": False}, at=old_ms, **anna).status == (
        "accepted"
    ), "what was said long ago holds as well"
    desk.record("consent", properties={"personalise": False}, by="agent", **anna)
    desk.record("consent", properties={"personalise": True}, at=NOW_MS - 1, **anna)
    state = desk.state()
    assert state.consent == {
        "contact": Consent(True, old_ms),
        "contact:phone": Consent(False, old_ms),
        "personalise": Consent(False, NOW_MS),
    }
    assert not state.goals
    assert not state.aggregates


def outcomes(desk: Desk) -> list[Outcome | GoalOutcome]:
    return [each for entry in desk.log() if isinstance(entry, EventEntry | TimerEntry) for each in outcomes_of(entry)]


def no(desk: Desk, purpose: str = "learn", *, yes: bool = False) -> None:
    desk.clock.advance(1)
    assert desk.record("consent", customer_id="anna", properties={purpose: yes}).status == "accepted"


def shown(desk: Desk) -> str:
    for _ in range(200):
        reply = desk.decide("anna", "desk")
        if reply.slots[0].action:
            return reply.decision_id
    raise AssertionError("200 times silence")


def test_outcomes_teach_with_consent_when_decided_and_when_told() -> None:
    desk = Desk(small_plan(GOAL))
    desk.record("accepted", decision_id=shown(desk))
    before = shown(desk)
    no(desk)
    desk.record("accepted", decision_id=before)
    during = shown(desk)
    no(desk, yes=True)
    desk.record("accepted", decision_id=during)
    desk.record("accepted", decision_id=shown(desk))
    slots = [each.learns for each in outcomes(desk) if isinstance(each, Outcome)]
    assert slots == [True, False, False, True]
    desk.record("came_back", customer_id="anna")
    goals = {each.decision_id: each.learns for each in outcomes(desk) if isinstance(each, GoalOutcome)}
    assert goals[before] is False, "its slot was told without consent"
    assert goals[during] is False, "it was decided without consent"
    assert True in goals.values()


def test_a_goal_that_runs_out_or_is_taken_back_without_consent_teaches_nothing() -> None:
    desk = Desk(small_plan(GOAL))
    for _ in range(2):
        desk.decide("anna", "desk")
    reached = desk.decide("anna", "desk").decision_id
    desk.record("came_back", customer_id="anna")
    no(desk)
    desk.decide("anna", "desk")
    desk.record("skipped", decision_id=reached, cause="execution", by="agent")
    desk.pass_time(DAY_MS)
    told = [(each.response, each.learns) for each in outcomes(desk) if isinstance(each, GoalOutcome)]
    assert told == [(1, True)] * 3 + [(None, False), (0, False)]


def test_once_an_outcome_was_not_taught_no_correction_of_it_is() -> None:
    """Else the correction of a correction that was passed over would be learned beside what it replaces."""
    desk = Desk()
    decision_id = shown(desk)
    desk.record("declined", decision_id=decision_id)
    no(desk)
    desk.record("accepted", decision_id=decision_id)
    no(desk, yes=True)
    desk.record("converted", decision_id=decision_id)
    told = [(each.revision, each.learns) for each in outcomes(desk)]
    assert told == [(0, True), (1, False), (2, False)]
    packed = run(desk.store.read([partition_keys(int(decision_id[:3], 16)).decision(decision_id)], 1.0))[0]
    assert packed is not None
    assert decode_open(packed).learns is False


def test_the_default_holds_until_something_is_said() -> None:
    catalog = structs.replace(small_plan().catalog, consent=ConsentPolicy(learn="opt_in"))
    desk = Desk(Plan(catalog, 1))
    desk.record("accepted", decision_id=shown(desk))
    no(desk, yes=True)
    desk.record("accepted", decision_id=shown(desk))
    assert [each.learns for each in outcomes(desk)] == [False, True]
    assert {entry.learns for entry in desk.log() if isinstance(entry, DecisionEntry)} == {False, True}


def test_erasure_forgets_what_was_said() -> None:
    from tests.unit.experience.test_erasure import erase, stored

    desk = Desk()
    no(desk)
    erase(desk)
    assert decode_state(stored(desk)[1]).consent == {}
    assert may_learn(desk.state(), ConsentPolicy())


def test_an_erasure_names_only_what_taught() -> None:
    from tests.unit.experience.test_erasure import erase

    desk = Desk()
    first, second = shown(desk), shown(desk)
    desk.record("declined", decision_id=first)
    no(desk)
    desk.record("accepted", decision_id=first)
    desk.record("accepted", decision_id=second)
    receipt = erase(desk)
    (entry,) = [e for e in desk.log() if type(e).__name__ == "EraseEntry"]
    assert receipt.taught == 1
    assert [(t.decision_id, t.revision) for t in entry.taught] == [(first, 0)]  # type: ignore[union-attr]
