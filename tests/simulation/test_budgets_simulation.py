"""Many workers and one budget, with crashes, pauses, conflicts, lost replies, clocks that jump and releases."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import numpy as np
import pytest

from nbx.decision.ledger import AGAIN_MS, IDLE_MS
from nbx.errors import Unavailable
from nbx.features.budget import Window
from nbx.features.budget_redis import LEASE_MS, SHARE
from tests.budget_workers import Shop, budget_plan, settled

ACTIONS = ("small", "large", "voucher", "tips")
CUSTOMERS = 12
"""Few enough that commits conflict."""
STEPS = 150
TICKS = 40
"""Turns of the loop between two things that happen: some work is done by then, some is not."""


class Life:
    """A worker in the simulation: held up or not, and everything it is doing."""

    def __init__(self, shop: Shop, rng: np.random.Generator) -> None:
        self.worker = shop.worker()
        self.worker.before = self.worker.after = self._pass
        self.awake = asyncio.Event()
        self.awake.set()
        self.tasks: set[asyncio.Task[object]] = set()
        self._rng = rng

    async def _pass(self) -> None:
        for _ in range(self._rng.integers(3)):
            await asyncio.sleep(0)
        await self.awake.wait()

    def start(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[object]) -> None:
        self.tasks.discard(task)

    async def tend(self) -> None:
        with contextlib.suppress(Unavailable):  # a fault of the story
            await self.worker.tend()

    def crash(self) -> None:
        """End wherever it is, without a word."""
        for task in [*self.tasks, *(lease.asking for lease in self.worker.ledger._leases.values())]:
            if task is not None:
                task.cancel()


class World:
    """A shop, its workers, and what happens to them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.units, self.money = int(self.rng.integers(5, 600)), int(self.rng.integers(50, 3_000))
        self.shop = Shop(budget_plan(self.units, self.money))
        self.lives = [Life(self.shop, self.rng) for _ in range(self.rng.integers(2, 6))]
        self.largest = {plan.resource: plan.total for plan in self.shop.plan.budgets}
        """Largest total that was ever in force."""
        self.seen: Counter[str] = Counter()

    async def run(self) -> None:
        for step in range(STEPS):
            await self.happen()
            for _ in range(self.rng.integers(TICKS)):
                await asyncio.sleep(0)
            if step % 25 == 0:
                await self.check()
        await self.calm()
        await self.check()
        await self.check_all_is_given_out()
        await self.check_nothing_is_lost()

    async def happen(self) -> None:
        rng, shop = self.rng, self.shop
        life = self.lives[rng.integers(len(self.lives))]
        match rng.choice(
            ["decide", "tend", "pass", "pause", "wake", "crash", "jump", "fault", "release", "window"],
            p=[0.42, 0.2, 0.16, 0.04, 0.06, 0.03, 0.02, 0.05, 0.015, 0.005],
        ):
            case "decide":
                for _ in range(rng.integers(1, 12)):
                    want = [name for name in ACTIONS if rng.random() < 0.6]
                    life.start(life.worker.decide(f"c{rng.integers(CUSTOMERS)}", *want, slots=int(rng.integers(1, 4))))
            case "tend":
                life.start(life.tend())
            case "pass":
                shop.clock.advance(int(rng.integers(600)))
            case "pause":
                life.awake.clear()
                self.seen["pause"] += 1
            case "wake":
                life.awake.set()
            case "crash":
                life.crash()
                self.lives[self.lives.index(life)] = Life(shop, rng)
                self.seen["crash"] += 1
            case "jump":
                life.worker.skew_ms = int(rng.choice([0, -200_000, 1_500, 900_000, -3 * 86_400_000]))
                self.seen["jump"] += 1
            case "fault":
                name = rng.choice(["failing_commits_before", "failing_commits_after", "failing_after"])
                where = life.worker.budgets if name == "failing_after" else shop.store
                setattr(where, name, int(rng.integers(1, 4)))
                self.seen[str(name)] += 1
            case "release":
                plan = budget_plan(
                    max(1, int(self.units * rng.uniform(0.5, 1.5))),
                    max(1, int(self.money * rng.uniform(0.5, 1.5))),
                    shop.plan.release + 1,
                )
                shop.publish(plan)
                for each in plan.budgets:
                    self.largest[each.resource] = max(self.largest[each.resource], each.total)
            case "window":
                shop.clock.advance(int(rng.integers(600_000)))

    async def calm(self) -> None:
        """End all faults and let everything that was begun end."""
        self.shop.store.failing_commits_before = self.shop.store.failing_commits_after = 0
        for life in self.lives:
            life.worker.skew_ms = life.worker.budgets.failing_after = 0
            life.awake.set()
        while waiting := [task for life in self.lives for task in life.tasks]:
            await asyncio.wait(waiting)

    async def spent(self) -> Counter[Window]:
        spent = await self.shop.spent()
        for window, amount in spent.items():
            book = await self.shop.budgets.book(window)
            assert amount <= book.granted, "spent without being granted"
            assert amount <= self.largest[window.resource], f"more than there ever was: {window}"
        return spent

    async def check(self) -> None:
        await self.spent()
        for plan in self.shop.plan.budgets:
            book = await self.shop.budgets.book(plan.window(self.shop.clock.now_ms()))
            assert 0 <= sum(book.leases.values()) <= book.granted <= self.largest[plan.resource]

    async def check_all_is_given_out(self) -> None:
        """While demand lasts hardly anything is left, also of what those had who are gone."""
        if self.shop.window("vouchers/units").ends_ms - self.shop.clock.now_ms() < 120_000:
            self.shop.clock.advance(120_000)
        idle_ms = 0
        while idle_ms < LEASE_MS + 3 * IDLE_MS:
            before = self.shop.spendings
            for life in self.lives:
                for _ in range(1 if idle_ms else 8):
                    life.start(life.worker.decide(f"x{self.rng.integers(10**9)}", *ACTIONS[:3], slots=3))
                await life.tend()
            await self.calm()
            self.shop.clock.advance(AGAIN_MS)
            idle_ms = 0 if self.shop.spendings > before else idle_ms + AGAIN_MS
        spent = await self.spent()
        for plan in self.shop.plan.budgets:
            left = plan.total - spent[plan.window(self.shop.clock.now_ms())]
            assert left <= max(plan.total / 100, plan.total / SHARE, *plan.amounts.values()), plan

    async def check_nothing_is_lost(self) -> None:
        granted = await settled(self.shop, *(life.worker for life in self.lives))
        spent = await self.spent()
        for plan in self.shop.plan.budgets:
            assert granted.get(plan.resource, 0) == spent[plan.window(self.shop.clock.now_ms())]


@pytest.mark.parametrize("seed", range(3))
def test_no_budget_is_exceeded_and_hardly_anything_of_it_is_left(seed: int) -> None:
    world = World(seed)
    asyncio.run(world.run())
    assert {"pause", "crash", "jump"} < world.seen.keys(), "too little happened"


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(100, 200))
def test_no_budget_is_exceeded_at_night(seed: int) -> None:
    asyncio.run(World(seed).run())
