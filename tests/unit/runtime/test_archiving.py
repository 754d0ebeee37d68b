"""Moving streams to the archive and trimming them, on a real Redis and real files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbx.audit.chain import CHAIN, Chain, file_hash
from nbx.audit.segments import ADMIN
from nbx.features.keys import ARCHIVE_HEAD
from nbx.runtime.archiving import decode_head
from tests.log_world import PARTITIONS, LogWorld, log_world
from tests.redis_server import RedisServer

DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


async def fill(world: LogWorld, rounds: int = 4) -> None:
    """Add rows to every stream."""
    for number in range(rounds):
        for partition in world.ever:
            for part in range(partition + 3):
                await world.add(partition, b"%d/%d/%d" % (number, partition, part))


async def everything(world: LogWorld) -> None:
    """See that archive and streams together hold each row once, and that a whole log reads it so."""
    archived = world.archived()
    whole = world.whole()
    for partition, ever in world.ever.items():
        live = await world.live(partition)
        kept = {entry.entry_id for entry in archived[partition]}
        assert archived[partition] + [entry for entry in live if entry.entry_id not in kept] == ever
        if partition >= 0:
            assert await whole.log_range(partition, "-", "+", 10_000) == ever


def test_every_row_is_archived_once_and_then_trimmed(redis_url: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with log_world(redis_url, tmp_path / "archive", rows=7) as world:
            await fill(world)
            total = sum(map(len, world.ever.values()))
            assert await world.archiver.archive() == total
            assert await world.archiver.archive() == 0
            assert await world.trim() == {}, "nobody has a checkpoint"
            await world.learned()
            gone = await world.trim()
            assert gone == {p: len(rows) for p, rows in world.ever.items() if p != ADMIN}
            assert [len(await world.live(p)) for p in range(PARTITIONS)] == [0] * PARTITIONS
            await everything(world)
            await fill(world)
            await everything(world)
            assert await world.archiver.archive() == total
            await world.learned()
            await world.trim()
            await everything(world)
            chain = Chain.open(world.directory)
            assert all(record.rows <= 7 for record in chain.segments.values())
            assert all(file_hash(world.directory / record.file) == record.sha256 for record in chain.segments.values())
            head = decode_head(await world.execute("GET", ARCHIVE_HEAD))
            assert (head.hash, head.bytes) == (chain.hash, (world.directory / CHAIN).stat().st_size)

    asyncio.run(run())
