"""What is served: swapped as one value, in the order of the store, with a bounded memory of old releases."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from nbx.catalog.plan import Plan
from nbx.catalog.releases import Release
from nbx.clock import ManualClock
from nbx.decision import serving as module
from nbx.decision.serving import Serving
from nbx.errors import NotReady
from nbx.features.keys import CATALOG_CURRENT, MODEL_SNAPSHOT, MODEL_VERSION, release_key
from nbx.limits import PLANS
from tests.simulation.store_fake import FakeStore
from tests.worlds import NOW_MS, small_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbx.catalog.model import Catalog

SMALL = small_plan().catalog


class Shelf(FakeStore):
    """A store that holds releases, and counts how often each is read."""

    def __init__(self) -> None:
        super().__init__(ManualClock(NOW_MS))
        self.current = 0
        self.version = 0
        """Of the snapshot; there is none to read."""
        self.reads: list[int] = []
        self.held: asyncio.Event | None = None
        """Set by the first reader of a snapshot, which then waits for `gate`."""
        self.gate = asyncio.Event()

    async def read(self, keys: Sequence[str], timeout_ms: float) -> list[bytes | None]:  # noqa: ARG002 - the port's
        await asyncio.sleep(0)
        if keys == [CATALOG_CURRENT]:
            return [str(self.current).encode() if self.current else None]
        if keys == [MODEL_VERSION]:
            return [str(self.version).encode()]
        if keys == [MODEL_SNAPSHOT] and self.held is not None and not self.held.is_set():
            self.held.set()
            await self.gate.wait()
        numbers = [number for number in range(1, self.current + 1) if keys == [release_key(number)]]
        if not numbers:
            return [None]
        self.reads += numbers
        release = Release(number=numbers[0], catalog=SMALL, author="t", note="", at_ms=0)
        return [msgspec.json.encode(release)]


def test_before_the_first_release_nothing_is_served() -> None:
    serving = Serving(Shelf())
    assert asyncio.run(serving.refresh()) is False
    with pytest.raises(NotReady):
        serving.current()
    with pytest.raises(NotReady):
        asyncio.run(serving.plan_of(1))


def test_memory_of_old_releases_is_bounded_and_keeps_the_current_and_the_latest_used() -> None:
    async def story() -> None:
        shelf = Shelf()
        serving = Serving(shelf)
        shelf.current = 2 * PLANS
        assert await serving.refresh()
        for number in range(1, PLANS + 5):
            await serving.plan_of(number)
            await serving.plan_of(1)
        assert shelf.reads.count(1) == 1, "what is in use stays"
        assert len(serving._plans) <= PLANS + 1
        shelf.reads.clear()
        for number in (shelf.current, 1, PLANS + 4, PLANS + 3):
            assert (await serving.plan_of(number)).release == number
        assert shelf.reads == [], "kept"
        for number in range(PLANS + 5, 2 * PLANS):
            await serving.plan_of(number)
        assert len(serving._plans) <= PLANS + 1
        shelf.reads.clear()
        assert await serving.plan_of(shelf.current) is serving.plan()
        assert shelf.reads == [], "the current one is never dropped"
        await serving.plan_of(2)
        assert shelf.reads == [2], "one that was not used for long is compiled anew"

    asyncio.run(story())


def test_a_release_is_compiled_once_for_all_who_wait_and_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    class Told(Plan):
        def __init__(self, catalog: Catalog, release: int, digest: str = "") -> None:
            threads.append(threading.current_thread().name)
            super().__init__(catalog, release, digest)

    monkeypatch.setattr(module, "Plan", Told)

    async def story() -> None:
        shelf = Shelf()
        shelf.current = 1
        serving = Serving(shelf)
        plans = await asyncio.gather(*(serving.plan_of(1) for _ in range(5)))
        assert len({id(plan) for plan in plans}) == 1
        assert shelf.reads == [1]

    asyncio.run(story())
    assert len(threads) == 1
    assert threads[0] != threading.main_thread().name


def test_a_slow_refresh_does_not_bring_an_older_release_back() -> None:
    async def story() -> None:
        shelf = Shelf()
        serving = Serving(shelf)
        shelf.current = 1
        await serving.refresh()
        shelf.current, shelf.version, shelf.held = 2, 1, asyncio.Event()
        slow = asyncio.create_task(serving.refresh())
        await shelf.held.wait()
        shelf.current = 3
        quick = asyncio.create_task(serving.refresh())
        await asyncio.wait({quick}, timeout=0.2)
        shelf.gate.set()
        await asyncio.gather(slow, quick)
        assert serving.plan().release == 3

    asyncio.run(story())
