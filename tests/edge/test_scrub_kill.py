"""SIGKILL at every line of taking erased customers out: the next turn ends it, and nobody else loses anything."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from msgspec import structs

from nbx.audit.chain import Chain
from nbx.audit.scrub import renamed
from nbx.audit.segments import read_entries
from nbx.audit.verify import verify
from nbx.clock import ManualClock
from nbx.experience.entries import EraseEntry, decode_entry, encode_entry
from nbx.experience.erasure import ErasureService, decode_receipt, encode_receipt
from nbx.features.connection import RedisConnection
from nbx.features.keys import MODEL_REACHED, MODEL_VERSION, PSEUDONYM_KEY, partition_keys
from nbx.features.state import decode_state, encode_state
from nbx.features.store_redis import RedisStore
from nbx.hashing import pseudonym
from nbx.ids import decision_ref, partition_of
from nbx.runtime.publishing import Reached
from tests.edge.test_archive_kill import Line, Victim
from tests.redis_server import RedisServer
from tests.unit.audit.test_scrub import lived
from tests.worlds import PARTITIONS, Desk

ERASED = ("anna", "kiosk")
FILES = {"scrubbing.py", "scrub.py"}


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


class Erasing:
    """A Redis in which some customers were erased, which the learner is through with; and an archive."""

    def __init__(self, url: str, directory: Path) -> None:
        self.directory = directory
        self.connection = RedisConnection(url)
        self.store = RedisStore(self.connection)
        self.kept: list[tuple[int, str, bytes]] = []
        self.count: dict[str, int] = {}

    async def execute(self, *args: bytes | str | int) -> Any:
        return await self.connection.execute(*args, timeout_ms=5_000)

    async def begin(self, desk: Desk) -> None:
        """Put a world into an emptied Redis, and erase; carol, whose log and state name the kiosk, stays."""
        await self.execute("FLUSHALL")
        shutil.rmtree(self.directory, ignore_errors=True)
        for key, (value, _) in desk.store._values.items():
            await self.execute("SET", key, value)
        for stream, rows in desk.store._logs.items():
            for (ms, sequence), payload in rows:
                await self.execute("XADD", stream, f"{ms}-{sequence}", "e", payload)
        clock = ManualClock(desk.clock.now_ms())
        service = ErasureService(self.store, lambda: desk.plan, clock, partitions=PARTITIONS, kept_ms=1)
        for name in ERASED:
            await service.erase(name)
        carol = partition_keys(partition_of("carol", PARTITIONS)).customer("carol")
        packed = await self.execute("GET", carol)
        state = decode_state(packed[8:])
        state.aliases["kiosk"] = -1
        await self.execute("SET", carol, packed[:8] + encode_state(state))
        await self.learned()
        self.kept = [row for row in await self.rows() if decode_entry(row[2]).customer_id not in ERASED]
        mine = [decode_entry(row[2]) for row in await self.rows()]
        self.count = {name: sum(entry.customer_id == name for entry in mine) for name in ERASED}
        assert {entry.customer_id for entry in mine if isinstance(entry, EraseEntry)} == set(ERASED)

    async def rows(self) -> list[tuple[int, str, bytes]]:
        pages = [await self.store.log_range(p, "-", "+", 100_000) for p in range(PARTITIONS)]
        return [(row.partition, row.entry_id, row.payload) for page in pages for row in page]

    async def learned(self) -> None:
        """Say that the learner is through with everything."""
        last = {partition: entry_id for partition, entry_id, _ in await self.rows()}
        await self.execute("SET", MODEL_REACHED, msgspec.msgpack.encode(Reached(1, last)))
        await self.execute("SET", MODEL_VERSION, 1)
        for key in await self.execute("KEYS", "nbx:*:x:*"):
            receipt = structs.replace(decode_receipt(await self.execute("GET", key)), step=1)
            await self.execute("SET", key, encode_receipt(receipt), "KEEPTTL")

    async def check(self) -> None:
        """See that all is done: nothing names the erased, and of the others each row is where it was."""
        found = []
        for key in await self.execute("KEYS", "*"):
            held = key + (await self.execute("DUMP", key) or b"")
            found += [(name, key) for name in ERASED if name.encode() in held]
        for path in self.directory.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            if path.suffix == ".parquet":
                content += repr(pq.read_table(path).to_pydict()).encode()
            found += [(name, path) for name in ERASED if name.encode() in content]
        assert found == []
        assert await self.execute("KEYS", "nbx:*:t") == []
        receipts = [decode_receipt(await self.execute("GET", key)) for key in await self.execute("KEYS", "nbx:*:x:*")]
        assert all(receipt.status == "done" and receipt.done_ms for receipt in receipts)
        by_partition = sorted((decision_ref(receipt.erasure_id).partition, receipt.rows) for receipt in receipts)
        assert by_partition == sorted((partition_of(name, PARTITIONS), self.count[name]) for name in ERASED)
        verified = verify(self.directory, rows=True)
        assert verified.faults == ()
        records = Chain.open(self.directory).segments.values()
        rows = sum(span.count for record in records for partition, span in record.spans.items() if partition >= 0)
        assert rows == len(self.kept) + sum(self.count.values())
        files = sorted(self.directory.glob("day=*/*"))
        archived = [row for path in files for row in read_entries(path) if row.payload and row.partition >= 0]
        key = await self.execute("GET", PSEUDONYM_KEY)
        names = {name: pseudonym(key, name) for name in ERASED}
        kept = [(p, entry_id, encode_entry(renamed(decode_entry(row), names))) for p, entry_id, row in self.kept]
        assert sorted((row.partition, row.entry_id, row.payload) for row in archived) == sorted(kept)
        assert kept != self.kept, "a world in which nobody else is named proves less"


def storm(url: str, directory: Path, kills: int | None) -> int:
    """Kill at lines all over the way, begin anew each time; returns how many lines there are."""

    desk = lived()

    async def run() -> int:
        world = Erasing(url, directory)
        await world.connection.connect()
        victim = Victim(url, directory, PARTITIONS)
        try:
            await world.begin(desk)
            lines = [line for line in victim.lines() if line.file in FILES]
            await world.check()
            chosen = lines if kills is None else lines[:: max(len(lines) // kills, 1)]
            for line in chosen:
                await world.begin(desk)
                await killed(world, victim, line)
            return len(lines)
        finally:
            victim.close()
            await world.connection.close()

    return asyncio.run(run())


async def killed(world: Erasing, victim: Victim, line: Line) -> None:
    victim.kill_at(line, line.times if line.number % 2 else 1)
    victim.lines()
    await world.check()


def test_killed_on_the_way_the_next_turn_ends_it(redis_url: str, tmp_path: Path) -> None:
    assert storm(redis_url, tmp_path / "archive", 5) > 100


@pytest.mark.nightly
@pytest.mark.timeout(3_600)
def test_killed_at_any_line_the_next_turn_ends_it(redis_url: str, tmp_path: Path) -> None:
    assert storm(redis_url, tmp_path / "archive", None) > 100
