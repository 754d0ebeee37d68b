"""A log in a real Redis with an archive beside it, for tests: rows go in, and what was put in is remembered."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from nbx.audit.chain import Chain
from nbx.audit.log_ids import ADMIN, JOURNAL
from nbx.audit.segments import read_entries
from nbx.audit.whole_log import WholeLog
from nbx.clock import SystemClock
from nbx.features.connection import RedisConnection
from nbx.features.keys import ADMIN_LOG, LEASE_KEEPER, MODEL_JOURNAL, MODEL_REACHED, partition_keys
from nbx.features.lease import Lease
from nbx.features.store import LogEntry
from nbx.features.store_redis import RedisStore
from nbx.runtime.archiving import Archiver
from nbx.runtime.publishing import Reached
from nbx.runtime.trimming import Trimmer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PARTITIONS = 3


class LogWorld:
    """Streams, and everything that was ever put into them."""

    def __init__(self, connection: RedisConnection, directory: Path, *, rows: int = 1_000) -> None:
        self.connection = connection
        self.directory = directory
        self.store = RedisStore(connection)
        self.lease = Lease(connection, LEASE_KEEPER, "test", 60_000)
        self.rows = rows
        self.archiver = self.new_archiver()
        self.trimmer = Trimmer(connection, partitions=PARTITIONS, keep_s=0)
        self.ever: dict[int, list[LogEntry]] = {p: [] for p in (JOURNAL, ADMIN, *range(PARTITIONS))}

    def new_archiver(self) -> Archiver:
        """Return an archiver that is not open yet."""
        return Archiver(
            self.connection,
            self.store,
            self.lease,
            self.directory,
            partitions=PARTITIONS,
            rows=self.rows,
            clock=SystemClock(),
        )

    async def execute(self, *args: bytes | str | int) -> Any:
        """Run a command."""
        return await self.connection.execute(*args, timeout_ms=5_000)

    async def add(self, partition: int, payload: bytes, entry_id: str = "*") -> str:
        """Append a row to a stream; an admin or journal row in the form its writer gives it."""
        if partition == JOURNAL:
            step = len(self.ever[JOURNAL]) + 1
            made = await self.execute("XADD", MODEL_JOURNAL, f"0-{step}", "o", payload)
            payload = msgspec.msgpack.encode({"o": payload})
        else:
            stream = ADMIN_LOG if partition == ADMIN else partition_keys(partition).log
            made = await self.execute("XADD", stream, entry_id, "e", payload)
        self.ever[partition].append(LogEntry(partition, made.decode(), payload))
        return str(made.decode())

    async def learned(self, **offsets: str) -> None:
        """Say that the learner's checkpoint is at the end of everything, or at some offsets (`p0="1-1"`)."""
        last = {p: self.ever[p][-1].entry_id for p in range(PARTITIONS) if self.ever[p]}
        last |= {int(name[1:]): offset for name, offset in offsets.items()}
        packed = msgspec.msgpack.encode(Reached(len(self.ever[JOURNAL]), last))
        await self.execute("SET", MODEL_REACHED, packed)

    async def trim(self, now_ms: int = 2**50) -> dict[int, int]:
        """Trim behind archive and learner."""
        return await self.trimmer.trim(self.archiver.last, now_ms)

    async def live(self, partition: int) -> list[LogEntry]:
        """Return what a stream holds."""
        return await self.archiver.page(partition, "-", "+", 1_000_000)

    def archived(self) -> dict[int, list[LogEntry]]:
        """Return what the archive holds, by its chain."""
        chain = Chain.open(self.directory)
        found: dict[int, list[LogEntry]] = {p: [] for p in self.ever}
        for record in chain.segments.values():
            for entry in read_entries(self.directory / record.file):
                found[entry.partition].append(entry)
        return found

    def whole(self) -> WholeLog:
        """Return a whole log that knows nothing yet."""
        return WholeLog(self.store, self.directory)


@asynccontextmanager
async def log_world(url: str, directory: Path, *, rows: int = 1_000, fresh: bool = True) -> AsyncIterator[LogWorld]:
    """Connect, with the keeper's lease; `fresh`: to an emptied Redis."""
    connection = RedisConnection(url)
    await connection.connect()
    world = LogWorld(connection, directory, rows=rows)
    try:
        if fresh:
            await world.execute("FLUSHALL")
        await world.lease.acquire()
        yield world
    finally:
        world.archiver.close()
        await connection.close()
