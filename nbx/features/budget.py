"""The port to what is left of budgets, over all workers: leases of a part of it, and what was spent from each.

A window of a resource has a total. `granted` is what is leased or spent of it, never more than the total. A worker
spends from its lease; each spending is part of the commit that gives the action out (`store.Spend`), in a counter of
the customer's partition. So the counters of a lease always tell what it paid for, whatever became of its holder.

A lease that was closed in a partition pays nothing there any more, and what it paid there stays known. Closed in all,
it is settled: what it did not pay is back in the window. Each step may be repeated, by anyone, any number of times: it
is done once. Time is the store's, as clocks of workers differ.

Adapters: `budget_redis.RedisBudgets`; `tests/simulation/budget_fake.py` passes the same contract suite.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from nbx.limits import BUDGET_KEPT_MS


class Window(NamedTuple):
    """A resource within a span of time.

    Examples
    --------
    >>> Window("gifts/units", 1_000, 500).key
    'nbx:budget:{gifts/units}:1000:500'
    """

    resource: str
    begins_ms: int
    per_ms: int

    @property
    def key(self) -> str:
        """Where what is granted is kept."""
        return f"nbx:budget:{{{self.resource}}}:{self.begins_ms}:{self.per_ms}"

    @property
    def ends_ms(self) -> int:
        """When the next window begins."""
        return self.begins_ms + self.per_ms

    @property
    def until_ms(self) -> int:
        """From then on nothing is granted or spent any more, also by who is late; keys live as long again."""
        return self.ends_ms + BUDGET_KEPT_MS


class Granted(NamedTuple):
    """Answer to a worker that asks."""

    amount: int
    """All that its lease was ever granted; -1: the lease is not what it thinks, it must be given up."""
    expired: str = ""
    """A lease that its holder has left alone, told when less was granted than was asked for; empty: none."""


class Book(NamedTuple):
    """A window as it is kept."""

    granted: int
    """Spent or leased."""
    leases: dict[str, int]
    """Lease → all that it was granted; those that are settled are gone."""


class Budgets(Protocol):
    """What a ledger needs. Every method raises `Unavailable` when the store cannot answer in time."""

    async def grant(self, window: Window, lease: str, known: int, asked: int, total: int, timeout_ms: float) -> Granted:
        """Grant a lease up to `asked` more than the `known` it has (or more, while plenty is left), and prolong it.

        Never more than `total` is granted to all. Nothing asked: it is only prolonged. A lease that has not `known` is
        left alone. Windows that are long over grant nothing.
        """
        ...

    async def close(self, lease: str, partition: int, until_ms: int) -> int:
        """Let a lease pay for nothing more in a partition; returns what it paid for there. Closed: the same again."""
        ...

    async def settle(self, window: Window, lease: str, spent: int) -> None:
        """Return what the lease was granted beyond `spent` to the window, and forget it; unknown: nothing happens."""
        ...

    async def book(self, window: Window) -> Book:
        """Tell what is granted; an untouched window: 0 and no leases."""
        ...
