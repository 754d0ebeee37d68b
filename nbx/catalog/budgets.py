"""Budgets compiled: what giving an action out takes from which resource, in whole numbers.

A budget has one or two resources, `<budget>/units` and `<budget>/money`; money is counted in `limits.MONEY_PARTS`, so
that sums are exact. Windows tumble: each begins where the one before ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nbx.catalog.model import Action, Catalog
from nbx.features.budget import Window
from nbx.limits import BUDGET_PARTS, MONEY_PARTS

FIRST_MONDAY_MS = 4 * 86_400_000
"""Midnight UTC of the first Monday of 1970: windows of days and weeks begin as calendars have them."""


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """One resource of a budget.

    Examples
    --------
    >>> gifts = BudgetPlan("gifts", "gifts/units", 100, 1000, 500, {"gift": 1})
    >>> gifts.window(2600)
    Window(resource='gifts/units', begins_ms=2500, per_ms=1000)
    """

    budget: str
    resource: str
    total: int
    """Of a window, > 0."""
    per_ms: int
    starts_ms: int
    """When some window began."""
    amounts: dict[str, int]
    """Action → what giving it out takes, > 0."""

    def window(self, now_ms: int) -> Window:
        """Return the window that `now_ms` is in."""
        return Window(self.resource, now_ms - (now_ms - self.starts_ms) % self.per_ms, self.per_ms)


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """What the n actions of a placement take from one resource."""

    plan: BudgetPlan
    amounts: NDArray[np.int64]
    """(n,) 0: it takes nothing."""
    dearest: int
    """Largest of them, > 0."""


def budget_plans(catalog: Catalog) -> tuple[BudgetPlan, ...]:
    """Return the resources of a catalog's budgets that some action takes from, in catalog order.

    Examples
    --------
    >>> from nbx.catalog.model import Budget
    >>> budget = Budget(name="gifts", groups=("cards",), units=10, money=5.5, per_ms=86_400_000)
    >>> actions = (Action(name="card", group="cards", cost=2.5), Action(name="tips", group="help", cost=1.0))
    >>> [(p.resource, p.total, p.amounts) for p in budget_plans(Catalog(name="c", actions=actions, budgets=(budget,)))]
    [('gifts/units', 10, {'card': 1}), ('gifts/money', 55000, {'card': 25000})]
    """
    plans = []
    for budget in catalog.budgets:
        members = [a for a in catalog.actions if a.name in budget.actions or a.group in budget.groups]
        for kind, total, amounts in (
            ("units", budget.units, {a.name: 1 for a in members}),
            ("money", round(budget.money * MONEY_PARTS), {a.name: round(a.cost * MONEY_PARTS) for a in members}),
        ):
            taken = {name: amount for name, amount in amounts.items() if amount}
            if total and taken:
                starts_ms = budget.starts_ms or FIRST_MONDAY_MS
                resource = f"{budget.name}/{kind}"
                plans.append(
                    BudgetPlan(budget.name, resource, min(total, BUDGET_PARTS), budget.per_ms, starts_ms, taken)
                )
    return tuple(plans)


def resource_uses(plans: Iterable[BudgetPlan], actions: Iterable[Action]) -> tuple[ResourceUse, ...]:
    """Return what the actions of a placement take, one entry per resource that any of them takes from."""
    names = [action.name for action in actions]
    found = []
    for plan in plans:
        amounts = np.array([plan.amounts.get(name, 0) for name in names], dtype=np.int64)
        if amounts.any():
            found.append(ResourceUse(plan, amounts, int(amounts.max())))
    return tuple(found)
