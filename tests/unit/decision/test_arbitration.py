"""Goals, learned values and stakes in the choice: against slow twins, in the record, in replay and in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec import msgpack, structs

from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import Plan
from nbx.decision.choice import Choice, decide
from nbx.decision.explain import explain
from nbx.decision.messages import DecideRequest
from nbx.decision.record import decision_entry, unpack_factors
from nbx.decision.replay import replay
from nbx.experience.entries import DecisionEntry, decode_entry, encode_entry
from nbx.features.state import CustomerState, ProfileValue
from tests.reference import decide as twin
from tests.unit.decision.test_choice import learned_model
from tests.worlds import CATALOG, NOW_MS, small_plan

GOAL = "goal: {event: came_back, within: 30m, value: 30}"
HERO = "delivery: 60s, attention: 10m, default"


def plan_with(text: str = "", **values: str) -> Plan:
    """Return the small catalog, `text` added to the placement hero and values of actions replaced."""
    catalog = CATALOG.replace(HERO, f"{text}, {HERO}" if text else HERO)
    for action, value in values.items():
        head, _, tail = catalog.partition(f"  {action}:\n")
        before, _, after = tail.partition("    value: ")
        catalog = f"{head}  {action}:\n{before}    value: {value}\n{after.partition(chr(10))[2]}"
    return small_plan(catalog)


def chosen(plan: Plan, model: BoundModel, number: int = 0, slots: int = 1, **profile: float) -> Choice:
    state = CustomerState(profile={name: ProfileValue(value, NOW_MS) for name, value in profile.items()})
    request = DecideRequest(customer_id="anna", placement="hero", slots=slots)
    return decide(plan, model, state, request, f"d{number}", NOW_MS, salt="s")


def logged(choice: Choice, number: int = 0, slots: int = 1) -> DecisionEntry:
    request = DecideRequest(customer_id="anna", placement="hero", slots=slots)
    entry = decision_entry(
        choice, request, f"d{number}", NOW_MS, release=1, snapshot=1, state_version=1, took_us=1
    )  # fmt: skip
    again = decode_entry(encode_entry(entry))
    assert isinstance(again, DecisionEntry)
    return again


def without_goal(choice: Choice) -> np.ndarray[Any, np.dtype[np.float64]]:
    assert choice.goal is not None
    return choice.utility.shift - choice.goal.worth()


@pytest.mark.parametrize("seed", range(8))
def test_goals_shift_the_utility_as_in_the_slow_twin(seed: int) -> None:
    plan, plain = plan_with(GOAL), plan_with()
    model = learned_model(plan, seed)
    age = {0: 30.0, 1: 75.0}[seed % 2]
    choice = chosen(plan, model, age=age)
    goal = choice.goal
    assert goal is not None
    x = choice.x.tolist()
    rows = {name: i for i, name in enumerate(plan.action_names)}

    def chance(row: int) -> float:
        return twin.chance(x, model.mean[row].tolist(), twin.unpacked(model.cov_packed[row].tolist(), len(x)))

    none = chance(rows["goal:hero/none"])
    assert goal.none == pytest.approx(none, rel=1e-4)
    names = [choice.placement.names[p] for p in choice.positions]
    reached = [chance(rows[f"goal:hero/{name}"]) for name in names]
    assert goal.reached.tolist() == pytest.approx(reached, rel=1e-4)
    bare = chosen(plain, learned_model_rows(model, len(plain.action_names)), age=age)
    assert bare.goal is None
    expected = [shift + 30 * (p - none) for shift, p in zip(bare.utility.shift, reached, strict=True)]
    assert choice.utility.shift.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert choice.utility.gain.tolist() == bare.utility.gain.tolist()
    assert len(names) == (5 if age > 70 else 4)


def learned_model_rows(model: BoundModel, count: int) -> BoundModel:
    """Return the model without the rows beyond `count`."""
    rows = {name: getattr(model, name)[:count] for name in ("mean", "cov_packed", "experience", "evidence", "value")}
    return replace(model, **rows, value_count=model.value_count[:count])


def test_silence_with_a_better_outcome_is_chosen() -> None:
    """Actions of equal worth and no risk lose once silence brings the customer back often enough."""
    plan = plan_with(f"stakes: 1, {GOAL.replace('value: 30', 'value: 200')}")
    model = learned_model(plan, 3)
    silence = plan.action_names.index("goal:hero/none")
    mean = np.zeros_like(model.mean)
    for z, expected in ((-3.0, False), (3.0, True)):
        mean[silence, 0] = z
        sure = replace(model, mean=mean, cov_packed=model.cov_packed * 0, experience=model.experience * 0)
        assert (chosen(plan, sure).slate.chosen == [-1]) is expected


def test_a_record_with_a_goal_is_complete_replays_and_is_explained() -> None:
    plan = plan_with(GOAL)
    model = learned_model(plan, 4)
    for number in range(30):
        choice = chosen(plan, model, number, slots=3, age=75.0 if number % 2 else 30.0)
        entry = logged(choice, number, slots=3)
        goal = entry.goal
        assert goal is not None
        assert (goal.event, goal.within_ms, goal.value) == ("came_back", 1_800_000, 30.0)
        assert goal.slot == number % 2, "the mandatory alert takes slot 0 and is not arbitrated"
        assert goal.action == entry.slots[goal.slot].action
        assert replay(entry).same
        changed = replay(structs.replace(entry, goal=structs.replace(goal, none=goal.none + 0.3)))
        assert any(each.what.endswith(".utility") for each in changed.differences)
        other = replay(structs.replace(entry, goal=structs.replace(goal, action="tips" if not goal.action else "")))
        assert [each.what for each in other.differences] == ["goal.action"]
        moved = replay(structs.replace(entry, goal=structs.replace(goal, slot=2)))
        assert [each.what for each in moved.differences] == ["goal.slot"]
    view = explain(entry, full=True)
    assert view.goal is not None
    assert goal is not None
    assert (view.goal.none, view.goal.value) == (goal.none, 30.0)
    assert [c.goal for c in view.candidates] == np.frombuffer(goal.reached, np.float32).tolist()
    assert any("came_back" in word and "in silence" in word for word in view.words)


def test_a_slate_of_mandatory_actions_alone_waits_for_no_goal() -> None:
    plan = plan_with(GOAL)
    entry = logged(chosen(plan, learned_model(plan, 4), age=75.0))
    assert entry.slots[0].action == "alert"
    assert entry.goal is not None
    assert (entry.goal.slot, entry.goal.action) == (-1, "")
    assert replay(entry).same


def test_a_record_without_a_goal_is_as_before_and_older_ones_are_read() -> None:
    plan = plan_with()
    entry = logged(chosen(plan, learned_model(plan, 4)))
    assert entry.goal is None
    packed = msgpack.decode(encode_entry(entry))
    at = 1 + DecisionEntry.__struct_fields__.index("goal")  # after the tag
    assert packed[at] is None
    older = decode_entry(msgpack.encode(packed[:at]))
    assert structs.replace(older, channel=entry.channel) == entry
    assert explain(entry, full=True).goal is None
    assert explain(entry, full=True).candidates[0].goal is None


def test_factors_of_another_shape_are_not_misread() -> None:
    plan = plan_with()
    entry = logged(chosen(plan, learned_model(plan, 4)))
    for size in (4, 8, len(entry.actions) * 4):
        with pytest.raises(ValueError, match="reshape"):
            unpack_factors(structs.replace(entry, factors=entry.factors + bytes(size)))


@pytest.mark.parametrize(
    ("reports", "expected"), [([], 20.0), ([50.0], 250 / 11), ([12.5, -40.0], 172.5 / 12), ([-500.0] * 9, 0.0)]
)
def test_a_learned_value_is_a_mean_that_begins_at_its_prior(reports: list[float], expected: float) -> None:
    plan = plan_with(pay_card="{prior: 20}", gold_card="{prior: 60, strength: 2.5}")
    model = learned_model(plan, 4)
    row = plan.action_names.index("pay_card")
    model.value[row], model.value_count[row] = np.mean(reports) if reports else 0.0, len(reports)
    model.value[plan.action_names.index("travel_card")] = 1000.0
    model.value_count[plan.action_names.index("travel_card")] = 1000.0
    assert expected == pytest.approx(twin.worth(20, 10, reports))
    choice = chosen(plan, model)
    names = [choice.placement.names[p] for p in choice.positions]
    used = dict(zip(names, choice.factors.value.tolist(), strict=True))
    assert used == pytest.approx({"gold_card": 60.0, "travel_card": 40.0, "pay_card": expected, "tips": 1.0})
    factors, _ = unpack_factors(entry := logged(choice))
    assert factors.value.tolist() == choice.factors.value.tolist(), "the value logged is the one used"
    assert replay(entry).same
    assert choice.utility.gain.min() >= 0.0
    assert choice.placement.value.tolist() == [60.0, 40.0, 20.0, 1.0, 0.0], "the plan is left alone"


@pytest.mark.parametrize("stakes", [0.0, 0.25, 1.0])
def test_stakes_shrink_what_is_tried_and_the_record_says_so(stakes: float) -> None:
    plan = plan_with(f"stakes: {stakes}")
    model = replace(learned_model(plan, 4), exploration=0.5)
    choice = chosen(plan, model)
    assert (choice.policy.scale, choice.policy.floor) == (0.5 * (1 - stakes), 0.01 * (1 - stakes))
    assert choice.slate.probability.min() >= (1 - stakes) * 0.01 / 5 - 1e-15
    assert replay(logged(choice)).same
    if stakes == 1.0:
        drawn = {tuple(chosen(plan, model, number).slate.chosen) for number in range(50)}
        assert len(drawn) == 1
        factors, worth = choice.factors, choice.utility
        best = worth.gain / (1 + np.exp(-factors.mean.astype(float))) + worth.shift
        assert drawn == {(int(best.argmax()),)}
        assert choice.slate.propensity == [1.0]


def test_high_stakes_are_not_called_exploring() -> None:
    """The most likely best by the model's mean need not have the highest expected utility."""
    plan = plan_with("stakes: 1")
    words = [explain(logged(chosen(plan, learned_model(plan, seed))), full=False).words[0] for seed in range(20)]
    assert not any("explored" in word for word in words)
    assert any("most likely the best" in word for word in words)
