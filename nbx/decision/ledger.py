"""What this worker may spend of budgets: leases in memory, so that a decision asks nobody.

A decision looks into the purse, takes what its slots cost, and the commit counts it; the commit's verdict says whether
it was spent. What is left idle goes back to the window soon. When a lease's holder is gone, whoever finds a window
empty closes the lease and settles it (`nbx.features.budget` says why nothing is spent twice or lost).

What always holds of a lease: what its commits were or may have been counted for is at most what it was granted. A
commit without an answer counts as spent here; the truth is in the counters and is looked up when the lease ends.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from nbx.catalog.budgets import BudgetPlan, ResourceUse
from nbx.errors import Unavailable
from nbx.experience.entries import Spent
from nbx.features.budget import Budgets, Window
from nbx.features.keys import PartitionKeys
from nbx.features.store import Spend, Verdict

IDLE_MS = 2_000
"""A lease that paid for nothing so long is given back: another worker may need it."""
RENEW_MS = 1_500
"""A lease is prolonged this often: three times within its duration."""
AGAIN_MS = 200
"""An empty window is not asked again before: what others give back is found soon enough."""
TIMEOUT_MS = 1_000.0
"""For what no decision waits for."""


@dataclass(slots=True)
class _Lease:
    """A part of a window in this worker's hand."""

    plan: BudgetPlan
    """Of the release that last used it."""
    window: Window
    ends_ms: int
    """Of the window."""
    until_ms: int
    """Of the window."""
    used_ms: int
    renewed_ms: int
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    granted: int = 0
    spent: int = 0
    """Committed, on its way, or in doubt."""
    flying: int = 0
    """Commits on their way."""
    doubtful: bool = False
    """Some commit may or may not have been counted."""
    short: bool = False
    """Less was granted than was asked for."""
    wanted: int = 0
    """Asked for with the next grant."""
    asking: asyncio.Task[None] | None = None


class Ledger:
    """Leases of one worker.

    Parameters
    ----------
    budgets
        Where windows are kept.
    partitions
        Number of partitions of the store.
    """

    def __init__(self, budgets: Budgets, partitions: int) -> None:
        self._budgets = budgets
        self._partitions = partitions
        self._current: dict[str, _Lease] = {}
        """By resource."""
        self._leases: dict[str, _Lease] = {}
        """By name: the current ones, and those that are to be settled."""
        self._not_before: dict[Window, int] = {}
        """When an empty window may be asked again, epoch milliseconds."""
        self._orphans: dict[str, Window] = {}
        """Leases of others that are to be taken back."""

    def purse(self, uses: tuple[ResourceUse, ...], now_ms: int) -> dict[str, int]:
        """Return what is in hand of each resource."""
        purse = {}
        for use in uses:
            lease = self._held(use.plan, now_ms)
            purse[use.plan.resource] = 0 if lease is None else lease.granted - lease.spent
        return purse

    def falls_short(self, uses: tuple[ResourceUse, ...], slots: int, now_ms: int) -> bool:
        """Tell whether a decision should `fill` first."""
        for use in uses:  # noqa: SIM110 - a generator costs as much as all of this
            if self._short(use, slots, now_ms):
                return True
        return False

    async def fill(self, uses: tuple[ResourceUse, ...], slots: int, now_ms: int, timeout_ms: float) -> None:
        """Get enough for a decision of so many slots, unless there is not enough or it takes too long.

        All decisions that wait share the calls; each gets what it needs as long as the window has it.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms * 0.001
        while short := [use for use in uses if self._short(use, slots, now_ms)]:
            left_s = deadline - loop.time()
            if left_s <= 0:
                return
            tasks = [self._ask(use.plan, use.dearest * slots, now_ms, left_s * 1000) for use in short]
            done, _ = await asyncio.wait(tasks, timeout=left_s)
            for task in done:
                task.result()

    async def filled(self, uses: tuple[ResourceUse, ...], slots: int, now_ms: int, timeout_ms: float) -> dict[str, int]:
        """Return what is in hand of each resource, after `fill` where a decision of so many slots would fall short."""
        if self.falls_short(uses, slots, now_ms):
            await self.fill(uses, slots, now_ms, timeout_ms)
        return self.purse(uses, now_ms)

    def take(self, uses: tuple[ResourceUse, ...], actions: Iterable[str], now_ms: int) -> tuple[Spent, ...]:
        """Take what giving out the actions costs, before the commit; `settle_commit` says what became of it.

        Raises
        ------
        RuntimeError
            More than the purse holds: the choice did not keep to it. Nothing is taken.
        """
        chosen = [action for action in actions if action]
        if not chosen:
            return ()
        spent = []
        for use in uses:
            amounts = use.plan.amounts
            if amount := sum([amounts.get(action, 0) for action in chosen]):
                lease = self._held(use.plan, now_ms)
                if lease is None or lease.granted - lease.spent < amount:
                    raise RuntimeError(f"{use.plan.resource}: {chosen} cost {amount}, which is not in the purse")
                spent.append(Spent(use.plan.resource, lease.name, amount))
        for each in spent:
            lease = self._leases[each.lease]
            lease.spent += each.amount
            lease.flying += 1
            lease.used_ms = now_ms
        return tuple(spent)

    def spends(self, spent: Iterable[Spent], keys: PartitionKeys) -> tuple[Spend, ...]:
        """Return what the commit has to count."""
        return tuple(
            [Spend(keys.spending(each.lease), each.amount, self._leases[each.lease].until_ms) for each in spent]
        )

    def settle_commit(self, spent: Iterable[Spent], verdict: Verdict | None) -> None:
        """Take note of what became of a commit; None: nobody knows."""
        for each in spent:
            lease = self._leases[each.lease]
            lease.flying -= 1
            if verdict is None:
                lease.doubtful = True
            elif verdict is not Verdict.DONE:
                lease.spent -= each.amount
            if verdict is Verdict.CLOSED:
                self._retire(lease)

    async def tend(self, now_ms: int) -> None:
        """Give back what is idle, prolong what is used, take back what others left alone.

        A lease of a window that is over, or of a total that a release changed, idles: nothing is taken from it.

        Raises
        ------
        Unavailable
            The store is away; what could not be done is done by a later call.
        """
        for lease in list(self._current.values()):
            idle = abs(now_ms - lease.used_ms) >= IDLE_MS
            if lease.asking is None and (idle or (lease.doubtful and lease.short)):
                self._retire(lease)
        self._not_before = {w: at_ms for w, at_ms in self._not_before.items() if 0 < at_ms - now_ms <= AGAIN_MS}
        work = [self._give_back(lease) for lease in self._leases.values() if not self._is_current(lease)]
        work += [self._take_back(name, window) for name, window in self._orphans.items()]
        for lease in self._current.values():
            if lease.asking is None and abs(now_ms - lease.renewed_ms) >= RENEW_MS:
                lease.asking = asyncio.create_task(self._grant(lease, now_ms, TIMEOUT_MS))
        for fault in await asyncio.gather(*work, return_exceptions=True):
            if fault is not None:
                raise fault

    async def close(self) -> None:
        """Give everything back; raises as `tend`. Commits still on their way keep their lease, which then expires."""
        await asyncio.gather(*(lease.asking for lease in self._current.values() if lease.asking))
        await self.tend(0)

    def _held(self, plan: BudgetPlan, now_ms: int) -> _Lease | None:
        """Return the lease that pays now under this plan."""
        lease = self._current.get(plan.resource)
        if lease is None:
            return None
        if lease.plan is not plan:  # another release: mostly it says the same
            if lease.plan.total != plan.total or lease.window != plan.window(lease.window.begins_ms):
                return None
            lease.plan = plan
        return lease if lease.window.begins_ms <= now_ms < lease.ends_ms else None

    def _short(self, use: ResourceUse, slots: int, now_ms: int) -> bool:
        lease = self._held(use.plan, now_ms)
        if lease is not None and lease.granted - lease.spent >= use.dearest * slots:
            return False
        not_before = self._not_before.get(use.plan.window(now_ms))
        return not_before is None or not 0 < not_before - now_ms <= AGAIN_MS

    def _ask(self, plan: BudgetPlan, need: int, now_ms: int, timeout_ms: float) -> asyncio.Task[None]:
        """Join the grant that is about to be asked for, or is being waited for already."""
        lease = self._held(plan, now_ms)
        if lease is None:
            if plan.resource in self._current:
                self._retire(self._current[plan.resource])
            window = plan.window(now_ms)
            lease = _Lease(plan, window, window.ends_ms, window.until_ms, now_ms, now_ms)
            self._current[plan.resource] = self._leases[lease.name] = lease
        lease.wanted += need
        if lease.asking is None:
            lease.asking = asyncio.create_task(self._grant(lease, now_ms, timeout_ms))
        return lease.asking

    async def _grant(self, lease: _Lease, now_ms: int, timeout_ms: float) -> None:
        asked = max(0, lease.wanted - (lease.granted - lease.spent))
        try:
            answer = await self._budgets.grant(
                lease.window, lease.name, lease.granted, asked, lease.plan.total, timeout_ms
            )
        except Unavailable:
            self._not_before[lease.window] = now_ms + AGAIN_MS
        else:
            lease.renewed_ms = now_ms
            if answer.amount < 0:
                self._retire(lease)
            else:
                lease.short = answer.amount - lease.granted < asked
                if lease.short:
                    self._not_before[lease.window] = now_ms + AGAIN_MS
                lease.granted = answer.amount
            if answer.expired:
                self._orphans[answer.expired] = lease.window
        finally:
            lease.wanted = 0
            lease.asking = None

    def _retire(self, lease: _Lease) -> None:
        """Take nothing more from a lease; `tend` settles it."""
        if self._is_current(lease):
            del self._current[lease.window.resource]

    def _is_current(self, lease: _Lease) -> bool:
        return self._current.get(lease.window.resource) is lease

    async def _give_back(self, lease: _Lease) -> None:
        if lease.flying or lease.asking:
            return
        if lease.doubtful:
            await self._take_back(lease.name, lease.window)
        else:
            await self._budgets.settle(lease.window, lease.name, lease.spent)
        self._leases.pop(lease.name, None)

    async def _take_back(self, name: str, window: Window) -> None:
        """Close a lease everywhere, then settle it with what it has paid for."""
        until_ms = window.until_ms
        paid = await asyncio.gather(*(self._budgets.close(name, p, until_ms) for p in range(self._partitions)))
        await self._budgets.settle(window, name, sum(paid))
        self._orphans.pop(name, None)
