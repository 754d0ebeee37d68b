"""What is bounded by a catalog's budgets, which windows follow each other, and what a purse pays for."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbx.catalog.budgets import FIRST_MONDAY_MS, BudgetPlan, ResourceUse, budget_plans, resource_uses
from nbx.catalog.model import Action, Budget, Catalog
from nbx.decision.budgets import shared_budgets, unaffordable
from nbx.decision.choice import decide
from nbx.features.state import CustomerState
from nbx.ids import new_decision_id
from nbx.limits import BUDGET_PARTS, MONEY_PARTS
from tests.budget_workers import NOW_MS, Shop, budget_plan

DAY_MS = 86_400_000
ACTIONS = (
    Action(name="card", group="cards", cost=2.5),
    Action(name="loan", group="loans", cost=0.1),
    Action(name="free", group="cards"),
    Action(name="tips", group="help", cost=9.0),
)


def plans(*budgets: Budget) -> list[BudgetPlan]:
    return list(budget_plans(Catalog(name="c", actions=ACTIONS, budgets=budgets)))


def test_a_budget_bounds_units_and_money_of_its_actions_and_groups() -> None:
    budget = Budget(name="b", actions=("loan",), groups=("cards",), units=7, money=0.3, per_ms=DAY_MS)
    units, money = plans(budget)
    assert (units.resource, units.total, units.amounts) == ("b/units", 7, {"card": 1, "loan": 1, "free": 1})
    assert (money.resource, money.total, money.amounts) == ("b/money", 3_000, {"card": 25_000, "loan": 1_000})


def test_what_bounds_nothing_is_left_out_and_too_much_is_as_much_as_can_be_counted() -> None:
    assert plans(Budget(name="b", actions=("free",), money=5.0, per_ms=1)) == []
    assert plans(Budget(name="b", units=5, per_ms=1)) == []
    (money,) = plans(Budget(name="b", actions=("card",), money=1e12, per_ms=1))
    assert money.total == BUDGET_PARTS < 1e12 * MONEY_PARTS


@given(
    per_ms=st.integers(1, 3650 * DAY_MS),
    starts_ms=st.integers(0, 2 * NOW_MS),
    now_ms=st.integers(0, 2 * NOW_MS),
)
def test_windows_follow_each_other_without_a_gap(per_ms: int, starts_ms: int, now_ms: int) -> None:
    plan = BudgetPlan("b", "b/units", 1, per_ms, starts_ms, {})
    window = plan.window(now_ms)
    assert window.begins_ms <= now_ms < window.ends_ms == window.begins_ms + per_ms
    assert (window.begins_ms - starts_ms) % per_ms == 0
    assert plan.window(window.ends_ms - 1) == window
    assert plan.window(window.ends_ms).begins_ms == window.ends_ms


def test_windows_begin_on_mondays_unless_told() -> None:
    (weekly,) = plans(Budget(name="b", actions=("card",), units=1, per_ms=7 * DAY_MS))
    begins = np.datetime64(weekly.window(NOW_MS).begins_ms, "ms").item()
    assert (begins.weekday(), begins.time().isoformat()) == (0, "00:00:00")
    assert np.datetime64("1970-01-05", "ms").astype(int) == FIRST_MONDAY_MS
    (told,) = plans(Budget(name="b", actions=("card",), units=1, per_ms=7 * DAY_MS, starts_ms=NOW_MS))
    assert told.window(NOW_MS - 1).begins_ms == NOW_MS - 7 * DAY_MS


def test_a_budget_is_of_no_concern_where_none_of_its_actions_is_shown() -> None:
    found = plans(Budget(name="b", actions=("card", "loan"), money=5.0, per_ms=1))
    assert resource_uses(found, ACTIONS[2:]) == ()
    (use,) = resource_uses(found, ACTIONS)
    assert (use.amounts.tolist(), use.dearest) == ([25_000, 1_000, 0, 0], 25_000)


@given(
    amounts=st.lists(st.integers(0, 12), min_size=1, max_size=7).filter(any),
    left=st.integers(0, 60),
    slots=st.integers(2, 5),
)
def test_what_is_allowed_together_is_paid_whichever_is_chosen(amounts: list[int], left: int, slots: int) -> None:
    plan = BudgetPlan("b", "b/money", 100, DAY_MS, 0, {})
    uses = (ResourceUse(plan, np.array(amounts), max(amounts)),)
    purse = {"b/money": left}
    removed = [position for position, _ in unaffordable(uses, purse, NOW_MS)]
    assert removed == [i for i, amount in enumerate(amounts) if amount > left]
    positions = np.array([i for i in range(len(amounts)) if i not in removed], dtype=np.int64)
    costs = sorted((amounts[p] for p in positions if amounts[p]), reverse=True)
    paid = sum(sum(costs[: k + 1]) <= left for k in range(len(costs)))
    limits = shared_budgets(uses, purse, positions, slots)
    if paid >= min(slots, len(costs)):
        assert limits == ()
        return
    (limit,) = limits
    assert limit.allowance == paid >= 1
    assert [amounts[positions[member]] > 0 for member in limit.members] == [True] * len(costs)
    for together in combinations(limit.members, limit.allowance):
        assert sum(amounts[positions[member]] for member in together) <= left


def test_a_resource_that_is_not_in_the_purse_is_not_bounded() -> None:
    uses = budget_plan().placements["hero"].budgets
    assert list(unaffordable(uses, {}, NOW_MS)) == []
    assert shared_budgets(uses, {}, np.arange(4), 3) == ()


@pytest.mark.parametrize("seed", range(60))
def test_no_slate_costs_more_than_the_purse_holds(seed: int) -> None:
    shop = Shop(budget_plan())
    rng = np.random.default_rng(seed)
    purse = {
        "gifts/money": int(rng.integers(60)) * MONEY_PARTS,
        "vouchers/units": int(rng.integers(3)),
    }
    request = shop.worker().request("small", "large", "voucher", "tips", slots=3)
    decision_id = new_decision_id(0, NOW_MS)
    choice = decide(shop.plan, shop.model, CustomerState(), request, decision_id, NOW_MS, salt="s", purse=purse)
    names = [choice.placement.names[choice.positions[i]] for i in choice.slate.chosen if i >= 0]
    for plan in shop.plan.budgets:
        assert sum(plan.amounts.get(name, 0) for name in names) <= purse[plan.resource]
    for removed in choice.removed:
        assert removed.reason == "budget_spent"
        assert any(plan.amounts.get(removed.action, 0) > purse[plan.resource] for plan in shop.plan.budgets)
