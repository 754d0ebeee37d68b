"""When the keeper archives, what it does when it cannot, and what it tells of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from nbx.audit.metrics import totals
from nbx.clock import ManualClock
from nbx.features.keys import ARCHIVE_FAULT
from nbx.features.lease import Lease
from nbx.runtime.archive_task import Archiving
from nbx.settings import Settings
from tests.log_world import PARTITIONS, LogWorld, log_world
from tests.redis_server import RedisServer

NOW_MS = 1_800_000_000_000
ALL = sum(range(1, PARTITIONS + 1))
"""Rows that `fill` adds."""


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


class Keeper:
    """The keeper's archiving with a clock that is turned by hand."""

    def __init__(self, world: LogWorld, archive_rows: int = 100_000, settled_s: float = 0.0) -> None:
        self.world = world
        self.clock = ManualClock(NOW_MS + 1_000)
        settings = Settings(
            archive_dir=world.directory,
            partitions=PARTITIONS,
            log_keep_s=0,
            archive_interval_s=300,
            archive_rows=archive_rows,
        )
        self.archiving = Archiving(world.connection, world.store, world.lease, settings, self.clock, settled_s)

    async def fill(self) -> None:
        """Add rows to every partition, all of which the learner has taken in."""
        for partition in range(PARTITIONS):
            for _ in range(partition + 1):
                number = len(self.world.ever[partition])
                await self.world.add(partition, b"row", f"{NOW_MS}-{number}")
        await self.world.learned()

    async def turn(self, seconds: int = 0) -> None:
        self.clock.advance(1000 * seconds)
        await self.archiving.attempt()

    async def live(self) -> int:
        return sum([len(await self.world.live(p)) for p in range(PARTITIONS)])

    def archived(self) -> int:
        return sum(map(len, self.world.archived().values()))


def metric(name: str) -> float:
    ((_, value),) = totals()[name]
    return value


def on_keeper(redis_url: str, directory: Path, work: Callable[[Keeper], Awaitable[None]], rows: int = 100_000) -> None:
    async def run() -> None:
        async with log_world(redis_url, directory) as world:
            keeper = Keeper(world, rows)
            try:
                await work(keeper)
            finally:
                keeper.archiving.archiver.close()

    asyncio.run(run())


def test_a_segment_is_due_after_a_time_or_when_enough_waits(redis_url: str, tmp_path: Path) -> None:
    async def work(keeper: Keeper) -> None:
        await keeper.fill()
        await keeper.turn()
        assert (keeper.archived(), await keeper.live()) == (ALL, 0), "at once when it starts"
        await keeper.fill()
        await keeper.turn(299)
        assert keeper.archived() == ALL
        assert (metric("nbx_archive_behind_rows"), metric("nbx_archive_behind_seconds")) == (ALL, 300)
        await keeper.turn(1)
        assert keeper.archived() == 2 * ALL
        assert (metric("nbx_archive_behind_rows"), metric("nbx_archive_behind_seconds")) == (0, 0)
        for _ in range(2):
            await keeper.fill()
            await keeper.turn(1)
        assert keeper.archived() == 4 * ALL, "more than archive_rows waited"

    on_keeper(redis_url, tmp_path / "archive", work, rows=2 * ALL)


def test_while_it_cannot_be_written_nothing_is_trimmed_and_then_it_catches_up(
    redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "archive"

    async def work(keeper: Keeper) -> None:
        await keeper.fill()
        await keeper.turn()
        directory.rename(tmp_path / "away")
        attempts = 0
        for _ in range(100):
            await keeper.fill()
            before = keeper.archiving.attempts
            await keeper.turn(10)
            attempts += keeper.archiving.attempts - before
        assert await keeper.live() == 100 * ALL
        assert metric("nbx_archive_failing") == 1
        assert metric("nbx_archive_behind_rows") >= 99 * ALL
        assert 15 <= attempts <= 20, "once a minute in the end"
        fault = await keeper.world.execute("GET", ARCHIVE_FAULT)
        assert b"archive" in fault
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert [record.getMessage().split(":")[0] for record in warnings] == [
            "the archive cannot be written, nothing is trimmed meanwhile"
        ]
        (tmp_path / "away").rename(directory)
        await keeper.turn(60)
        assert (keeper.archived(), await keeper.live()) == (101 * ALL, 0)
        assert metric("nbx_archive_failing") == 0
        assert await keeper.world.execute("GET", ARCHIVE_FAULT) is None

    on_keeper(redis_url, directory, work)


def test_a_keeper_without_the_lease_gives_the_archive_to_another(redis_url: str, tmp_path: Path) -> None:
    async def work(keeper: Keeper) -> None:
        world = keeper.world
        await keeper.fill()
        await keeper.turn()
        await world.execute("DEL", "nbx:lease:keeper")
        other = Keeper(world)
        other.archiving = Archiving(
            world.connection,
            world.store,
            lease := Lease(world.connection, "nbx:lease:keeper", "other", 60_000),
            Settings(archive_dir=world.directory, partitions=PARTITIONS, log_keep_s=0),
            other.clock,
            0.0,
        )
        await lease.acquire()
        await keeper.fill()
        await other.turn()
        assert metric("nbx_archive_failing") == 1, "the archive is still locked"
        await keeper.turn(300)
        await other.turn(300)
        assert (keeper.archived(), await keeper.live(), metric("nbx_archive_failing")) == (2 * ALL, 0, 0)
        other.archiving.archiver.close()

    on_keeper(redis_url, tmp_path / "archive", work)


def test_a_redis_that_fills_up_is_told(redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(keeper: Keeper) -> None:
        await keeper.turn()
        assert metric("nbx_redis_full_ratio") == 0
        used = int((await keeper.world.execute("INFO", "memory")).split(b"used_memory:")[1].split(b"\r")[0])
        await keeper.world.execute("CONFIG", "SET", "maxmemory", used * 10 // 9)
        await keeper.turn(10)
        await keeper.turn(10)
        await keeper.world.execute("CONFIG", "SET", "maxmemory", 0)
        assert metric("nbx_redis_full_ratio") == pytest.approx(0.9, abs=0.09)
        assert len([record for record in caplog.records if "maxmemory" in record.getMessage()]) == 1

    on_keeper(redis_url, tmp_path / "archive", work)


def test_what_redis_might_still_lose_is_not_archived(redis_url: str, tmp_path: Path) -> None:
    async def work(keeper: Keeper) -> None:
        settling = Keeper(keeper.world, settled_s=0.05)
        await keeper.fill()
        await settling.turn()
        assert not (tmp_path / "archive").exists()
        await keeper.fill()
        began_s = asyncio.get_running_loop().time()
        while not settling.archiving.attempts:
            await settling.turn()
        assert asyncio.get_running_loop().time() - began_s >= 0.04
        assert settling.archived() < 2 * ALL, "only what there was at the first look is as old"
        settling.archiving.archiver.close()

    on_keeper(redis_url, tmp_path / "archive", work)


def test_what_waits_is_counted_whatever_is_trimmed_between_two_looks(redis_url: str, tmp_path: Path) -> None:
    async def work(keeper: Keeper) -> None:
        settling = Keeper(keeper.world, settled_s=0.02)
        for _ in range(4):
            await keeper.fill()
            while await keeper.live():
                await settling.turn(300)
            attempts = settling.archiving.attempts
            while settling.archiving.attempts < attempts + 2:
                await settling.turn(300)
        await keeper.fill()
        await settling.turn()
        assert metric("nbx_archive_behind_rows") == ALL
        settling.archiving.archiver.close()

    on_keeper(redis_url, tmp_path / "archive", work)
