"""Budgets in memory that pass the contract suite, over the fake store's counters and clock: for simulations."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nbx.errors import Unavailable
from nbx.features import budget_redis
from nbx.features.budget import Book, Granted, Window
from nbx.features.budget_redis import REST_SHARE, SHARE
from nbx.features.keys import partition_keys
from nbx.limits import BUDGET_KEPT_MS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.simulation.store_fake import FakeStore


class _Lease(NamedTuple):
    amount: int
    ends_ms: int


class FakeBudgets:
    """`nbx.features.budget.Budgets` in memory.

    `before` is awaited before and `after` after each call takes effect: they may raise, wait or be cancelled.

    Parameters
    ----------
    store
        Its clock and counters.
    shared
        Others that see the same windows; None: nobody.
    """

    def __init__(self, store: FakeStore, shared: FakeBudgets | None = None) -> None:
        self.store = store
        self.before: Callable[[], Awaitable[None]] = _nothing
        self.after: Callable[[], Awaitable[None]] = _nothing
        self.failing_after = 0
        """Calls to fail although they took effect: the lost reply."""
        self.asked = 0
        """Grants asked for."""
        self._granted: dict[Window, int] = shared._granted if shared else {}
        self._leases: dict[Window, dict[str, _Lease]] = shared._leases if shared else {}

    async def grant(
        self,
        window: Window,
        lease: str,
        known: int,
        asked: int,
        total: int,
        timeout_ms: float,  # noqa: ARG002
    ) -> Granted:
        await self.before()
        self.asked += 1
        granted = self._grant(window, lease, known, asked, total)
        await self._replied()
        return granted

    def _grant(self, window: Window, lease: str, known: int, asked: int, total: int) -> Granted:
        now_ms = self.store.clock.now_ms()
        leases = self._live(window)
        held = leases.get(lease, _Lease(0, 0))
        if held.amount != known:
            return Granted(-1)
        granted = self._granted.get(window, 0)
        rest = total - granted
        more = 0
        if asked > 0 and rest > 0 and now_ms < window.until_ms:
            more = min(rest, max(asked, min(total // SHARE, rest // REST_SHARE)))
        expired = ""
        if more < asked:
            expired = next((n for n, each in leases.items() if n != lease and each.ends_ms <= now_ms), "")
        if held.amount + more:
            leases[lease] = _Lease(held.amount + more, now_ms + budget_redis.LEASE_MS)
            self._granted[window] = granted + more
        return Granted(held.amount + more, expired)

    async def close(self, lease: str, partition: int, until_ms: int) -> int:
        await self.before()
        paid = self.store.close_spending(partition_keys(partition).spending(lease), until_ms)
        await self._replied()
        return paid

    async def settle(self, window: Window, lease: str, spent: int) -> None:
        await self.before()
        held = self._live(window).pop(lease, None)
        if held is not None:
            self._granted[window] += spent - held.amount
        await self._replied()

    async def book(self, window: Window) -> Book:
        leases = {name: lease.amount for name, lease in self._live(window).items()}
        return Book(self._granted.get(window, 0), leases)

    def _live(self, window: Window) -> dict[str, _Lease]:
        if self.store.clock.now_ms() >= window.until_ms + BUDGET_KEPT_MS:
            self._granted.pop(window, None)
            self._leases.pop(window, None)
        return self._leases.setdefault(window, {})

    async def _replied(self) -> None:
        await self.after()
        if self.failing_after:
            self.failing_after -= 1
            raise Unavailable("injected: reply lost", code="state_timeout")


async def _nothing() -> None:
    """Nothing is injected."""
