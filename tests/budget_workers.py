"""Workers that share budgets over a fake store: each a ledger and a decision service, with faults on demand."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import Plan
from nbx.clock import ManualClock
from nbx.decision.ledger import AGAIN_MS, Ledger
from nbx.decision.messages import DecideReply, DecideRequest
from nbx.decision.service import DecisionService
from nbx.experience.entries import DecisionEntry, decode_entry
from nbx.features.budget import Book, Window
from nbx.features.budget_redis import LEASE_MS
from nbx.limits import MONEY_PARTS
from tests.simulation.budget_fake import FakeBudgets
from tests.simulation.store_fake import FakeStore
from tests.worlds import prior_model, small_plan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from nbx.features.store import Commit, Committed, Store

NOW_MS = 1_800_000_000_000
PARTITIONS = 3
DEADLINE_MS = 10_000
"""A decision may wait long in real time: the clock of the story is another."""

CATALOG = """
catalog: spending
placements:
  hero: {channel: web, impressions: reported, slots: 3, delivery: 60s, attention: 10m}
  free: {channel: web, impressions: reported}
groups:
  gifts: {}
  other: {}
actions:
  # mandatory: who may have it gets it, so demand is what the test says
  small: {group: gifts, class: mandatory, cost: 3, treatments: {t: {placements: [hero]}}}
  large: {group: gifts, class: mandatory, cost: 25, treatments: {t: {placements: [hero]}}}
  voucher: {group: other, class: mandatory, cost: 7.5, treatments: {t: {placements: [hero]}}}
  tips: {group: other, class: service, value: 1, treatments: {t: {placements: [hero, free]}}}
budgets:
  gifts: {groups: [gifts], money: MONEY, per: PER}
  vouchers: {actions: [voucher, large], units: UNITS, per: PER}
"""


def budget_plan(units: int = 100, money: float = 1000, release: int = 1, per: str = "10m") -> Plan:
    """Return the catalog with these totals, compiled."""
    text = CATALOG.replace("UNITS", str(units)).replace("MONEY", f"{money:g}").replace("PER", per)
    return small_plan(text, release)


class Shop:
    """What all workers share."""

    def __init__(self, plan: Plan) -> None:
        self.clock = ManualClock(NOW_MS - NOW_MS % 600_000)
        self.store = FakeStore(self.clock)
        self.budgets = FakeBudgets(self.store)
        self.spendings = 0
        """Amounts that were committed, counted."""
        self.plan = plan
        self.model = prior_model(plan)
        self._plans = {plan.release: plan}

    def publish(self, plan: Plan) -> None:
        """Put a release in force at every worker."""
        self.plan = plan
        self._plans[plan.release] = plan

    def window(self, resource: str) -> Window:
        """Return the window of now."""
        return next(plan for plan in self.plan.budgets if plan.resource == resource).window(self.clock.now_ms())

    async def entries(self) -> list[DecisionEntry]:
        """Return every decision in the log."""
        pages = [await self.store.log_range(p, "-", "+", 1_000_000) for p in range(PARTITIONS)]
        entries = [decode_entry(entry.payload) for page in pages for entry in page]
        return [entry for entry in entries if isinstance(entry, DecisionEntry)]

    async def spent(self) -> Counter[Window]:
        """Count what was given out by the log: by the slots, and the records say the same."""
        by_slots: Counter[Window] = Counter()
        by_records: Counter[Window] = Counter()
        for entry in await self.entries():
            budgets = {plan.resource: plan for plan in self._plans[entry.release].budgets}
            for plan in budgets.values():
                amount = sum(plan.amounts.get(slot.action, 0) for slot in entry.slots)
                by_slots[plan.window(entry.at_ms)] += amount
            for each in entry.spent:
                by_records[budgets[each.resource].window(entry.at_ms)] += each.amount
        assert +by_slots == +by_records, "the log does not say of itself what it gave out"
        return +by_slots

    def worker(self) -> Worker:
        """Start a worker."""
        return Worker(self)


class Worker:
    """A process: it may be held up, and end without a word."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.budgets = FakeBudgets(shop.store, shop.budgets)
        self.before: Callable[[], Awaitable[None]] = _at_once
        self.after: Callable[[], Awaitable[None]] = _at_once
        self.budgets.before = self.on_its_way
        self.budgets.after = self.on_its_way_back
        self.skew_ms = 0
        self.ledger = Ledger(self.budgets, PARTITIONS)
        self.decisions = DecisionService(
            cast("Store", self),  # decisions only read and commit
            self,
            self,
            partitions=PARTITIONS,
            deadline_ms=DEADLINE_MS,
            request_ttl_ms=60_000,
            salt="test",
            ledger=self.ledger,
        )

    def now_ms(self) -> int:
        return self.shop.clock.now_ms() + self.skew_ms

    def current(self) -> tuple[Plan, BoundModel]:
        return self.shop.plan, self.shop.model

    async def plan_of(self, number: int) -> Plan:
        return self.shop._plans[number]

    async def on_its_way(self) -> None:
        await self.before()

    async def on_its_way_back(self) -> None:
        await self.after()

    async def read(self, keys: Sequence[str], timeout_ms: float) -> list[bytes | None]:
        await self.before()
        values = await self.shop.store.read(keys, timeout_ms)
        await self.after()
        return values

    async def commit(self, commit: Commit, timeout_ms: float) -> Committed:
        await self.before()
        committed = await self.shop.store.commit(commit, timeout_ms)
        self.shop.spendings += len(commit.spends)
        await self.after()
        return committed

    async def decide(self, customer: str = "anna", *want: str, slots: int = 1, placement: str = "hero") -> DecideReply:
        """Decide; only what is wanted may be had."""
        return await self.decisions.decide(self.request(*want, customer_id=customer, slots=slots, placement=placement))

    def request(self, *want: str, customer_id: str = "anna", placement: str = "hero", **more: Any) -> DecideRequest:
        """Ask for what is wanted, excluding the rest."""
        exclude = tuple(name for name in ("small", "large", "voucher", "tips") if name not in want)
        return DecideRequest(customer_id=customer_id, placement=placement, exclude=exclude, **more)

    async def tend(self) -> None:
        await self.ledger.tend(self.now_ms())


async def settled(shop: Shop, *workers: Worker) -> dict[str, int]:
    """Close workers and take back what is left of others; returns what is granted then, when no lease is left."""
    for worker in workers:
        await worker.ledger.close()
        assert all(lease.flying for lease in worker.ledger._leases.values()), "given back, and not forgotten"
    shop.clock.advance(LEASE_MS)
    heir = shop.worker()
    uses = shop.plan.placements["hero"].budgets
    books: dict[str, Book] = {}
    for _ in range(50):  # each look finds one lease that was left alone
        await heir.ledger.fill(uses, 10**12, heir.now_ms(), 1_000.0)
        await heir.tend()
        shop.clock.advance(AGAIN_MS)
    await heir.ledger.close()
    for plan in shop.plan.budgets:
        books[plan.resource] = await shop.budgets.book(plan.window(shop.clock.now_ms()))
    assert all(book.leases == {} for book in books.values()), books
    return {resource: book.granted for resource, book in books.items() if book.granted}


async def _at_once() -> None:
    await asyncio.sleep(0)


def money(amount: float) -> int:
    """Return money as budgets count it."""
    return round(amount * MONEY_PARTS)
