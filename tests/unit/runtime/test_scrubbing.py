"""The keeper's part of erasures on a real Redis: streams written anew, waiting for the learner, without an archive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from nbx.clock import ManualClock
from nbx.experience.erasure import decode_receipt
from nbx.features.keys import MODEL_REACHED, partition_keys
from nbx.features.lease import Lease
from nbx.ids import partition_of
from nbx.runtime.archiving import Archiver
from nbx.runtime.publishing import Reached
from nbx.runtime.scrubbing import Scrubber
from nbx.runtime.trimming import Trimmer
from nbx.settings import Settings
from tests.edge.test_scrub_kill import ERASED, Erasing
from tests.redis_server import RedisServer
from tests.unit.audit.test_scrub import lived
from tests.worlds import NOW_MS, PARTITIONS

CLOCK = ManualClock(NOW_MS)


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


def run(url: str, directory: Path, test: Callable[[Erasing], Awaitable[None]]) -> None:
    desk = lived()

    async def begin() -> None:
        world = Erasing(url, directory)
        await world.connection.connect()
        try:
            await world.begin(desk)
            await test(world)
        finally:
            await world.connection.close()

    asyncio.run(begin())


def settings(url: str, directory: Path) -> Settings:
    return Settings(redis_url=url, archive_dir=directory, partitions=PARTITIONS)


async def archiving(world: Erasing, url: str) -> tuple[Scrubber, Archiver]:
    lease = Lease(world.connection, "nbx:lease:keeper", "test", 60_000)
    await lease.acquire()
    archiver = Archiver(
        world.connection, world.store, lease, world.directory, partitions=PARTITIONS, rows=1_000, clock=CLOCK
    )
    trimmer = Trimmer(world.connection, partitions=PARTITIONS, keep_s=10**9)
    return Scrubber(world.connection, world.store, settings(url, world.directory), CLOCK, archiver, trimmer), archiver


async def statuses(world: Erasing) -> set[str]:
    return {decode_receipt(await world.execute("GET", key)).status for key in await world.execute("KEYS", "nbx:*:x:*")}


async def holding(world: Erasing, key: str, names: tuple[str, ...] = ERASED) -> list[str]:
    held = await world.execute("DUMP", key)
    return [name for name in names if name.encode() in held]


def test_a_stream_written_anew_keeps_no_byte_of_what_was_deleted(redis_url: str, tmp_path: Path) -> None:
    async def check(world: Erasing) -> None:
        key, scrubber = (
            partition_keys(0).log,
            Scrubber(world.connection, world.store, settings(redis_url, tmp_path), CLOCK),
        )
        await world.execute("DEL", key)
        for number in range(9):
            await world.execute(
                "XADD", key, f"{number + 1}-5", "e", f"anna {number}" if number < 4 else f"more {number}"
            )
        await world.execute("XTRIM", key, "MINID", "=", "5-0")
        rows, before = await world.execute("XRANGE", key, "-", "+"), await world.execute("XINFO", "STREAM", key)
        assert await holding(world, key) == ["anna"], "deleting marks entries and leaves them where they are"
        assert await scrubber._write_anew(0) == 5
        assert await holding(world, key) == []
        assert await world.execute("XRANGE", key, "-", "+") == rows
        told = (b"length", b"last-generated-id", b"entries-added", b"max-deleted-entry-id")
        after = await world.execute("XINFO", "STREAM", key)
        named = [dict(zip(info[::2], info[1::2], strict=True)) for info in (before, after)]
        assert [named[0][name] for name in told] == [named[1][name] for name in told]
        await world.execute("XTRIM", key, "MINID", "=", "99-0")
        assert await scrubber._write_anew(0) == 0
        assert (await world.execute("XADD", key, "9-6", "e", "goes on")) == b"9-6"
        assert await scrubber._write_anew(PARTITIONS - 1) > 0
        await world.execute("DEL", key)
        assert await scrubber._write_anew(0) == 0

    run(redis_url, tmp_path / "archive", check)


def test_what_is_not_archived_yet_stays_in_the_stream_and_names_nobody(redis_url: str, tmp_path: Path) -> None:
    async def check(world: Erasing) -> None:
        scrubber, archiver = await archiving(world, redis_url)
        kept = [row for row in await world.rows() if row in world.kept]
        emptied = await scrubber.turn()
        assert emptied >= {partition_of(name, PARTITIONS) for name in ERASED}
        for partition in range(PARTITIONS):
            assert await holding(world, partition_keys(partition).log) == []
        live = await world.rows()
        assert all(row in kept for row in live if row[0] not in emptied)
        await world.check()
        archiver.close()

    run(redis_url, tmp_path / "archive", check)


def test_nothing_is_taken_out_before_the_learner_is_through(redis_url: str, tmp_path: Path) -> None:
    async def check(world: Erasing) -> None:
        scrubber, archiver = await archiving(world, redis_url)
        packed = await world.execute("GET", MODEL_REACHED)
        reached = msgspec.msgpack.decode(packed, type=Reached)
        waits = {partition_of(name, PARTITIONS): "1-0" for name in ERASED}
        await world.execute("SET", MODEL_REACHED, msgspec.msgpack.encode(Reached(1, reached.offsets | waits)))
        rows = await world.rows()
        assert await scrubber.turn() == frozenset()
        assert await world.rows() == rows
        assert await statuses(world) == {"pending"}
        await world.execute("SET", MODEL_REACHED, packed)
        await scrubber.turn()
        assert await statuses(world) == {"done"}
        assert await scrubber.turn() == frozenset()
        archiver.close()

    run(redis_url, tmp_path / "archive", check)


def test_without_an_archive_rows_are_deleted_from_the_streams(redis_url: str, tmp_path: Path) -> None:
    async def check(world: Erasing) -> None:
        await Scrubber(world.connection, world.store, settings(redis_url, tmp_path / "none"), CLOCK).turn()
        assert await world.rows() == world.kept
        for name in ERASED:
            partition = partition_of(name, PARTITIONS)
            left = await holding(world, partition_keys(partition).log, (name,))
            assert left == [] or partition == partition_of("carol", PARTITIONS)
        assert await statuses(world) == {"done"}
        assert not (tmp_path / "none").exists()

    run(redis_url, tmp_path / "archive", check)
