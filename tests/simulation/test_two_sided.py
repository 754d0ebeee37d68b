"""Both sides of the price: acceptance against experience, and talking against silence, learned from real outcomes.

The services, the fold and the learner are the real ones; the store is the fake. Rates are exact (every block of twenty
customers holds each answer as often as the truth says, in random order), so what is left to bound is the model's.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from itertools import count, pairwise

import numpy as np
import pytest

from nbx.bandits.learner import LearnedSites, Learner
from nbx.bandits.snapshot import BoundModel, bind
from nbx.catalog.parse import parse_catalog
from nbx.catalog.plan import Plan
from nbx.decision.choice import Choice, decide
from nbx.decision.messages import DecideRequest
from nbx.experience.entries import EventEntry, TimerEntry, outcomes_of
from nbx.features.state import CustomerState
from nbx.runtime.weighing import observation_of
from tests.worlds import NOW_MS, Desk

BLOCKS = 30
VALUE = 20.0
POINTS = {"accepted": 1.0, "complained": -5.0, "declined": -0.3}
TRUTH = {
    "loud": {"accepted": 11, "complained": 5, "declined": 4},
    "mild": {"accepted": 8, "complained": 1, "declined": 11},
}
"""Answers per block of twenty: `loud` is accepted more, and complained about more."""
MODEL_BOUND = 0.05
"""Relative: 600 answers against a prior of precision 1 move a rate by 1 % at most, and the switch is a ratio of two
differences."""
CATALOG = """
catalog: two_sides
placements:
  desk: {channel: phone, impressions: implicit, attention: 5m%s}
groups:
  all: {}
actions:
  loud: {group: all, class: service, value: 20, treatments: {t: {placements: [desk]}}}
  mild: {group: all, class: service, value: 20, treatments: {t: {placements: [desk]}}}
experience: {exchange: %r}
exploration: {floor: %r}
"""


def two_sided(exchange: float, *, placement: str = "", floor: float = 0.0) -> Plan:
    return Plan(parse_catalog(CATALOG % (placement, exchange, floor)), 1)


class Taught:
    """A desk, and a learner that reads its log."""

    def __init__(self, plan: Plan) -> None:
        self.desk = Desk(plan)
        self.learner = Learner()
        self.learner.register_layout(1, plan.layout.columns)
        self._sites: dict[tuple[str, int], LearnedSites] = {}
        self._read = 0

    def learn(self) -> BoundModel:
        """Take in what is new in the log, in the order of its time, and return the model."""
        entries = sorted(self.desk.log(), key=lambda entry: entry.at_ms)
        new, self._read = entries[self._read :], len(entries)
        for entry in new:
            for outcome in outcomes_of(entry) if isinstance(entry, EventEntry | TimerEntry) else ():
                observation = observation_of(outcome)
                before = self._sites.get((observation.key, outcome.revision - 1))
                self._sites[observation.key, outcome.revision] = self.learner.learn(observation, before)
        snapshot = self.learner.snapshot(version=1, step=1)
        plan = self.desk.plan
        return bind(snapshot, plan.layout.columns, plan.action_names, plan.action_groups)


@lru_cache(maxsize=1)
def learned() -> BoundModel:
    """Return what `BLOCKS` blocks of customers taught about each action."""
    rng = np.random.default_rng(7)
    world = Taught(two_sided(1.0, placement=", stakes: 1"))
    shown = Counter[str]()
    for action, other in (("loud", "mild"), ("mild", "loud")):
        block = [kind for kind, times in TRUTH[action].items() for _ in range(times)]
        for _ in range(BLOCKS):
            for kind in rng.permutation(block):
                customer = f"{action}{shown[action]}"
                reply = world.desk.decide(customer, "desk", exclude=(other,))
                assert reply.slots[0].action == action
                cause = "" if kind == "accepted" else "assumption"
                world.desk.record(str(kind), decision_id=reply.decision_id, cause=cause)
                world.desk.clock.advance(1000)
                shown[action] += 1
    return world.learn()


def choice_at(exchange: float, balance: float = 0.0, placement: str = ", stakes: 1") -> Choice:
    state = CustomerState(balance=balance, balance_at_ms=NOW_MS)
    request = DecideRequest(customer_id="anna", placement="desk")
    return decide(two_sided(exchange, placement=placement), learned(), state, request, "d", NOW_MS, salt="s")


def chosen(exchange: float, balance: float) -> str:
    choice = choice_at(exchange, balance)
    (index,) = choice.slate.chosen
    return choice.placement.names[index] if index >= 0 else "none"


def switch(balance: float) -> float:
    """Return where the choice goes over from loud to mild, by halving."""
    low, high = 0.0, 20.0
    assert (chosen(low, balance), chosen(high, balance)) == ("loud", "mild")
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if chosen(middle, balance) == "loud" else (low, middle)
    return low


def closed_form(p_loud: float, p_mild: float, e_loud: float, e_mild: float, strain: float) -> float:
    """Return the exchange rate at which both are worth the same: v·(pA − pB) = μ·(1 + strain)·(eB − eA)."""
    return VALUE * (p_loud - p_mild) / ((1 + strain) * (e_mild - e_loud))


def test_more_acceptance_loses_to_fewer_complaints_past_the_closed_form() -> None:
    rates = {a: {kind: times / 20 for kind, times in truth.items()} for a, truth in TRUTH.items()}
    points = {a: sum(rate * POINTS[kind] for kind, rate in truth.items()) for a, truth in rates.items()}
    truth = closed_form(rates["loud"]["accepted"], rates["mild"]["accepted"], points["loud"], points["mild"], 0.5)
    assert truth == pytest.approx(2.685, abs=1e-3)
    assert switch(0.0) == pytest.approx(truth, rel=MODEL_BOUND)
    for exchange in np.linspace(0.0, 2 * truth, 41):
        if abs(exchange / truth - 1) > MODEL_BOUND:
            assert chosen(float(exchange), 0.0) == ("loud" if exchange < truth else "mild")


@pytest.mark.parametrize("balance", [-1.0, 0.0, 1.0])
def test_the_switch_is_the_closed_form_of_the_logged_factors(balance: float) -> None:
    """A strained customer's switch comes at a lower rate; within the rounding of float32 factors."""
    choice = choice_at(1.0, balance)
    (loud, mild), (e_loud, e_mild) = 1 / (1 + np.exp(-choice.factors.mean.astype(float))), choice.factors.experience
    expected = closed_form(loud, mild, float(e_loud), float(e_mild), choice.policy.strain)
    assert switch(balance) == pytest.approx(expected, rel=1e-4)


def test_with_exploration_the_chance_of_the_loud_one_falls_all_the_way() -> None:
    chances = [choice_at(mu, placement="").slate.probability[0] for mu in np.linspace(1.0, 5.0, 9).tolist()]
    assert chances[0] > 0.99
    assert chances[-1] < 0.01
    assert all(later <= earlier + 0.003 for earlier, later in pairwise(chances))


@pytest.mark.parametrize(("silent", "talked"), [(0.6, 0.2), (0.2, 0.6)])
def test_silence_is_learned_by_what_customers_do_after_it(
    silent: float, talked: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A goal worth 100, acceptances 20 · 0.5: silence is right where it brings 40 points of chance more, not less.

    Every choice is tried by the floor; the last half of 900 decisions is at most the floor's share away from right.
    What is seldom chosen is learned from 90 decisions and pooled with its siblings, which pulls it 0.15 towards them.
    """
    goal = ", goal: {event: came_back, within: 30m, value: 100}"
    world = Taught(two_sided(0.0, placement=goal, floor=0.3))
    rng = np.random.default_rng(3)
    ids = count()  # the draws depend on them, so they are not left to chance
    monkeypatch.setattr("nbx.decision.service.new_decision_id", lambda p, ms: f"{p:03x}{ms:011x}{next(ids):012x}")
    quiet = 0
    for number in range(900):
        if number % 50 == 0:
            world.desk.model = world.learn()
        reply = world.desk.decide(f"c{number}", "desk")
        silence = not reply.slots[0].action
        if not silence:
            accepted = rng.random() < 0.5
            world.desk.record("accepted" if accepted else "declined", decision_id=reply.decision_id)
        if rng.random() < (silent if silence else talked):
            world.desk.clock.advance(1000)
            world.desk.record("came_back", customer_id=f"c{number}")
        world.desk.pass_time(1_800_000)
        quiet += silence and number >= 450
    model = world.learn()
    rows = [world.desk.plan.action_names.index(f"goal:desk/{name}") for name in ("none", "loud", "mild")]
    assert (model.evidence[rows] > 30).all()
    view = world.desk.decide("new", "desk", explain="full").explanation
    assert view.goal.none == pytest.approx(silent, abs=0.2)
    assert [each.goal for each in view.candidates] == pytest.approx([talked] * 2, abs=0.2)
    assert quiet / 450 == pytest.approx(0.8 if silent > talked else 0.1, abs=0.1)


def test_the_world_of_these_tests_is_the_plans() -> None:
    catalog = two_sided(1.0).catalog
    assert {action.value for action in catalog.actions} == {VALUE}
    points = two_sided(1.0).rules.points
    assert {kind: points[kind] for kind in POINTS} == POINTS  # type: ignore[index]
    assert catalog.experience.exchange == 1.0
