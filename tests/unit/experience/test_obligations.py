"""Obligations: what opens and closes one, and what it keeps from the customer meanwhile."""

from __future__ import annotations

import pytest

from nbx.catalog.model import ExperiencePolicy
from nbx.decision.own_view import own_view
from nbx.experience.entries import DecisionEntry
from nbx.experience.obligations import ALL, open_obligation, open_topics, resolve
from nbx.features.state import CustomerState
from nbx.limits import OBLIGATIONS
from tests.worlds import DAY_MS, Desk, run, small_plan

CATALOG = """
catalog: owing
placements:
  web: {channel: web, impressions: reported, slots: 3, delivery: 1m, attention: 10m}
  desk: {channel: phone, impressions: implicit, slots: 3, attention: 5m}
groups: {cards: {topic: plastic}, loans: {}, help: {}}
actions:
  card: {group: cards, value: 9, gives: [x], treatments: {t: {placements: [web, desk]}}}
  loan: {group: loans, value: 9, gives: [x], treatments: {t: {placements: [web, desk]}}}
  car: {group: loans, topic: cars, value: 9, gives: [x], treatments: {t: {placements: [web, desk]}}}
  guide: {group: cards, class: service, value: 1, treatments: {t: {placements: [web, desk]}}}
  sorry: {group: help, class: recovery, value: 5, resolves: [plastic], treatments: {t: {placements: [web, desk]}}}
experience: {floor: -1000, obligation: 10d, recovery_boost: 4}
"""
TOPICS = {"card": "plastic", "loan": "loans", "car": "cars"}
EVERYTHING = frozenset({*TOPICS, "guide", "sorry"})


@pytest.fixture
def desk() -> Desk:
    return Desk(small_plan(CATALOG))


def shown(desk: Desk, action: str, placement: str = "web") -> str:
    """Ask until an action is given out; returns the decision."""
    for _ in range(100):
        reply = desk.decide(placement=placement, slots=1, exclude=tuple(EVERYTHING - {action}))
        if reply.slots[0].action:
            return reply.decision_id
    raise AssertionError(f"{action} is never given out")


def owed(desk: Desk, placement: str) -> set[str]:
    """Return the actions that an open obligation keeps away now."""
    reply = desk.decide(placement=placement, mode="preview", explain="full")
    found = {each.action for each in reply.explanation.removed if each.reason == "obligation_open"}
    assert not found & {slot.action for slot in reply.slots}
    return found


@pytest.mark.parametrize("action", sorted(TOPICS))
@pytest.mark.parametrize(("kind", "by"), [("complained", "customer"), ("failed", "customer"), ("failed", "agent")])
def test_a_failure_keeps_what_is_promotional_of_its_topic_away_on_every_channel(
    desk: Desk, action: str, kind: str, by: str
) -> None:
    decision_id = shown(desk, action)
    assert owed(desk, "web") == owed(desk, "desk") == set()
    desk.record(kind, decision_id=decision_id, by=by)
    assert owed(desk, "web") == owed(desk, "desk") == {action}, "of this topic, and nothing but promotional actions"


def test_an_answer_that_is_overruled_opens_one_too(desk: Desk) -> None:
    """Which came first makes no difference: the customer was failed."""
    decision_id = shown(desk, "card")
    desk.record("complained", decision_id=decision_id)
    desk.record("failed", decision_id=decision_id)
    assert owed(desk, "desk") == {"card"}


@pytest.mark.parametrize("of", [{"topic": "plastic"}, {}])
def test_it_is_over_when_it_is_resolved(desk: Desk, of: dict[str, str]) -> None:
    desk.record("complained", decision_id=shown(desk, "card"))
    desk.record("complained", decision_id=shown(desk, "loan"))
    desk.clock.advance(1)
    desk.record("resolved", customer_id="anna", by="agent", properties=of)
    assert owed(desk, "web") == ({"loan"} if of else set())


def test_an_acceptance_of_what_resolves_it_closes_it(desk: Desk) -> None:
    desk.record("complained", decision_id=shown(desk, "card"))
    desk.record("complained", decision_id=shown(desk, "loan"))
    desk.clock.advance(1)
    desk.record("accepted", decision_id=shown(desk, "sorry"))
    assert owed(desk, "desk") == {"loan"}


def test_it_is_over_when_its_time_is(desk: Desk) -> None:
    desk.record("failed", decision_id=shown(desk, "card"))
    desk.pass_time(10 * DAY_MS - 1)
    assert owed(desk, "web") == {"card"}
    desk.pass_time(1)
    assert owed(desk, "web") == set()


def test_what_was_resolved_since_is_not_opened_by_a_late_report(desk: Desk) -> None:
    decision_id, before_ms = shown(desk, "card"), desk.clock.now_ms()
    desk.clock.advance(1000)
    desk.record("resolved", customer_id="anna", properties={"topic": "plastic"})
    desk.record("complained", decision_id=decision_id, at=before_ms)
    assert owed(desk, "web") == set()
    desk.clock.advance(1)
    desk.record("failed", decision_id=decision_id)
    assert owed(desk, "web") == {"card"}


def test_it_holds_where_a_clock_is_behind() -> None:
    state, policy = CustomerState(), ExperiencePolicy(obligation_ms=100)
    open_obligation(state, "cards", 50)
    assert open_topics(state, 49, policy) == {"cards": 50}


def test_of_one_moment_good_news_hold() -> None:
    state, policy = CustomerState(), ExperiencePolicy()
    open_obligation(state, "cards", 50)
    resolve(state, ALL, 49)
    assert open_topics(state, 60, policy) == {"cards": 50}
    resolve(state, ALL, 50)
    assert open_topics(state, 60, policy) == {}


def test_what_is_open_is_not_forgotten_for_what_is_closed() -> None:
    state = CustomerState()
    open_obligation(state, "cards", 1)
    for number in range(2 * OBLIGATIONS):
        resolve(state, f"topic-{number}", 10 + number)
    assert len(state.obligations) == OBLIGATIONS
    assert open_topics(state, 60, ExperiencePolicy()) == {"cards": 1}


def test_recovery_is_worth_more_while_one_is_open(desk: Desk) -> None:
    weights = []
    for _ in range(2):
        reply = desk.decide(placement="web", mode="preview", explain="full")
        weights.append({each.action: each.context_weight for each in reply.explanation.candidates})
        desk.record("complained", decision_id=shown(desk, "card")) if len(weights) == 1 else None
    before, meanwhile = weights
    assert meanwhile.pop("sorry") == pytest.approx(4 * before.pop("sorry"))
    assert meanwhile == {name: weight for name, weight in before.items() if name != "card"}


def test_conditions_read_how_many_there_are() -> None:
    text = CATALOG.replace(
        "class: service, value: 1,", 'class: service, value: 1, eligible: "relationship.obligations > 1.0",'
    )
    desk = Desk(small_plan(text))
    for action in ("card", "loan"):
        reply = desk.decide(mode="preview", placement="web", explain="full")
        assert "guide" in {each.action for each in reply.explanation.removed}
        desk.record("complained", decision_id=shown(desk, action))
    reply = desk.decide(mode="preview", placement="web", explain="full")
    assert "guide" not in {each.action for each in reply.explanation.removed}


def test_it_survives_a_merge(desk: Desk) -> None:
    desk.record("complained", decision_id=shown(desk, "card"))
    run(desk.events.merging.merge("berta", "anna"))
    reply = desk.decide("berta", "desk")
    (entry,) = (e for e in desk.log() if isinstance(e, DecisionEntry) and e.decision_id == reply.decision_id)
    assert {each.action for each in entry.removed if each.reason == "obligation_open"} == {"card"}


@pytest.mark.parametrize("of", [{"topic": "plastic"}, {}])
def test_the_customer_reads_what_is_owed_and_not_what_was_made_good(desk: Desk, of: dict[str, str]) -> None:
    def told() -> list[tuple[str, str]]:
        view = own_view(desk.plan, desk.state(), "anna", (), desk.clock.now_ms(), salt="test")
        return [(each.kind, each.what) for each in view.remembered.owed]

    desk.record("complained", decision_id=shown(desk, "card"))
    desk.record("promise", customer_id="anna", properties={"what": "call", "due": "1s", "topic": "cars"})
    desk.pass_time(2000)
    assert told() == [("obligation", "plastic"), ("promise", "call")], "each once"
    desk.record("resolved", customer_id="anna", properties=of)
    assert told() == [("promise", "call")]
