"""How much of each budget is spent in the window that runs: from the books and the counters, not from the log."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from nbx.catalog.budgets import BudgetPlan
from nbx.catalog.plan import Plan
from nbx.features.budget import Budgets
from nbx.features.keys import partition_keys
from nbx.features.store import Store
from nbx.limits import MONEY_PARTS

TIMEOUT_MS = 2_000.0


class BudgetStatus(Struct, frozen=True, kw_only=True):
    """One resource of a budget; amounts are units, or money."""

    budget: str
    resource: str
    """`units` or `money`."""
    total: float
    """Of a window, as the release in force says."""
    spent: float
    """Given out; more than the total only after a release lowered it."""
    held: float
    """In the hands of workers; what they do not spend comes back."""
    begins_ms: int
    """When the window began, epoch milliseconds."""
    ends_ms: int


async def budget_status(
    budgets: Budgets, store: Store, plan: Plan, partitions: int, now_ms: int
) -> tuple[BudgetStatus, ...]:
    """Return how every budget of a release stands, in catalog order; `Unavailable` when the store is away.

    While workers spend, `spent` may be a moment behind; it is never more than was spent.
    """
    return tuple(await asyncio.gather(*(_status(budgets, store, each, partitions, now_ms) for each in plan.budgets)))


async def _status(budgets: Budgets, store: Store, plan: BudgetPlan, partitions: int, now_ms: int) -> BudgetStatus:
    window = plan.window(now_ms)
    book = await budgets.book(window)
    paid = dict.fromkeys(book.leases, 0)
    if paid:
        keys = [[partition_keys(p).spending(lease) for lease in paid] for p in range(partitions)]
        for counts in await asyncio.gather(*(store.read(each, TIMEOUT_MS) for each in keys)):
            for lease, count in zip(book.leases, counts, strict=True):
                paid[lease] += int((count or b"0").removeprefix(b"c"))
    held = sum(max(0, amount - paid[lease]) for lease, amount in book.leases.items())
    resource = plan.resource.removeprefix(f"{plan.budget}/")
    parts = MONEY_PARTS if resource == "money" else 1
    return BudgetStatus(
        budget=plan.budget,
        resource=resource,
        total=plan.total / parts,
        spent=(book.granted - held) / parts,
        held=held / parts,
        begins_ms=window.begins_ms,
        ends_ms=window.ends_ms,
    )
