"""Moves the log, the admin trail and the learner's journal to the archive; for the keeper that leads.

Order, so that a crash at any instant loses no row and doubles none: the file under another name, forced to disk; its
name; the directory; the record in the chain, forced to disk; the chain's head in Redis, fenced by the lease. What has
no record is not of the archive: files without one are deleted when the next writer opens the archive, and the rows are
still in the streams, as only what is recorded is trimmed (`nbx.runtime.trimming`).

A lock on the directory keeps a second writer out, whatever it believes of its lease. A chain that is not the one Redis
knows the head of, or an archive of another installation, is refused: going on would hide what is lost. Tables are laid
out and written in a thread, a few thousand rows at a time, so that timers go on. (A thread of lower priority was tried:
it keeps the interpreter while it waits for a core, and on a machine with too few of them timers waited for seconds.)
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

from nbx.audit.chain import CHAIN, START, Chain, Damaged, Record, Span, file_hash, segment_file, sync_directory
from nbx.audit.log_ids import ADMIN, JOURNAL, LAST_SEQUENCE, parsed
from nbx.audit.segments import ROW_GROUP, place_of, to_table, write_segment
from nbx.clock import Clock
from nbx.errors import Conflict, SetupError
from nbx.features.connection import RedisConnection
from nbx.features.keys import ADMIN_LOG, ARCHIVE_HEAD, ARCHIVE_SIGNER, LEASE_KEEPER, MODEL_JOURNAL
from nbx.features.lease import Lease
from nbx.features.store import LogEntry, Store
from nbx.limits import ARCHIVE_BYTES
from nbx.runtime.publishing import Overtaken

LOCK: Final = "lock"
"""File in the archive whose lock its only writer holds."""
DAY_MS: Final = 86_400_000
PAGE: Final = 8_192
"""Rows read at a time, over all partitions."""
TIMEOUT_MS: Final = 5_000.0
_STREAMS = {ADMIN: ADMIN_LOG, JOURNAL: MODEL_JOURNAL}
_LINE_BYTES = 1 << 20
"""More than a record of the chain has."""

# KEYS 1 lease, 2 target; ARGV 1 holder:token, 2 value
_FENCED_SET = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
return 1
"""

Ids = Mapping[int, str]
"""Partition → log id."""


class Head(Struct, frozen=True):
    """What Redis knows of the chain."""

    n: int
    hash: str
    bytes: int
    """Where its record ends in the chain's file."""


decode_head = msgspec.json.Decoder(Head).decode


class Archiver:
    """Writes an archive. `open` it before anything else, `close` it when the lease is lost or anything failed.

    Parameters
    ----------
    connection, store
        Where the streams are.
    lease
        The keeper's; what is written to Redis is fenced by it.
    directory
        Of the archive.
    partitions, rows
        Number of partitions; most rows in a segment.
    clock
        Tells when records are written.

    Attributes
    ----------
    chain
        As of the last record; None while closed.
    signer
        The installation's key, once open.
    last
        Partition → last archived log id; not to be changed by others.
    """

    def __init__(
        self,
        connection: RedisConnection,
        store: Store,
        lease: Lease,
        directory: Path,
        *,
        partitions: int,
        rows: int,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._store = store
        self._lease = lease
        self._directory = directory
        self._partitions = partitions
        self._most = rows
        self._clock = clock
        self._lock: int | None = None
        self.chain: Chain | None = None
        self.signer: Ed25519PrivateKey | None = None
        self.last: dict[int, str] = {}

    async def open(self) -> Chain:
        """Take the archive: lock it, remove what a crash left, see that it is the one Redis knows. Idempotent.

        Raises
        ------
        Conflict
            Another process writes it.
        Damaged
            Its chain is not what was written, or ends before the record that Redis knows of.
        SetupError
            It is another installation's.
        OSError
            It cannot be read or written.
        """
        if self.chain is not None:
            return self.chain
        known = await self._connection.execute("GET", ARCHIVE_HEAD, timeout_ms=TIMEOUT_MS)
        head = decode_head(known) if known else None
        signer = await self._signer()
        try:
            chain = await asyncio.to_thread(self._open, head, signer)
            if chain.head is None:
                begin = Record(kind="begin", n=0, at_ms=self._clock.now_ms(), prev=START, public_key=_public(signer))
                await asyncio.to_thread(chain.append, begin)
            self.signer, self.chain = signer, chain
            self.last = chain.last_ids()
            await self.tell_head()
        except BaseException:
            self.close()
            raise
        return chain

    def close(self) -> None:
        """Give the archive up; it may be opened again."""
        self.chain = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def archive(self, until: Ids | None = None) -> int:
        """Archive what the streams hold beyond the last segment.

        Parameters
        ----------
        until
            Partition → last id to archive, others are left; None: all that is there now.

        Returns
        -------
        int
            Rows archived.

        Raises
        ------
        Overtaken
            Another keeper has the lease. What was archived stays so.
        Damaged, OSError, …
            As `open`. Nothing is lost: what was not recorded is archived the next time.
        """
        await self.open()
        until = await self.ends() if until is None else until
        total = 0
        while rows := await self.segment(until):
            total += rows
        return total

    async def segment(self, until: Ids) -> int:
        """Archive one segment of what there is up to `until`; returns its rows, 0: all is archived."""
        chain = await self.open()
        entries = await self._collect(until)
        if entries:
            await self._write(chain, entries)
        return len(entries)

    async def ends(self) -> dict[int, str]:
        """Return the last id of every stream that has one."""
        streams = [*_STREAMS, *range(self._partitions)]
        tails = await asyncio.gather(*(self._last_of(partition) for partition in streams))
        return {partition: tail for partition, tail in zip(streams, tails, strict=True) if tail}

    async def tell_head(self) -> None:
        """Tell Redis the chain's newest record; `Overtaken` when the lease is not ours. After every record."""
        chain = self.chain
        if chain is None or chain.head is None:
            raise RuntimeError("the archive is not open")
        size = (self._directory / CHAIN).stat().st_size
        head = msgspec.json.encode(Head(chain.head.n, chain.hash, size))
        done = await self._connection.execute(
            "EVAL", _FENCED_SET, 2, LEASE_KEEPER, ARCHIVE_HEAD, self._lease.fence, head, timeout_ms=TIMEOUT_MS
        )
        if not done:
            raise Overtaken

    async def page(self, partition: int, start: str, end: str, count: int) -> list[LogEntry]:
        """Return entries of a stream as they are archived, oldest first."""
        stream = _STREAMS.get(partition)
        if stream is None:
            return await self._store.log_range(partition, start, end, count)
        rows: list[Any] = await self._connection.execute(
            "XRANGE", stream, start, end, "COUNT", count, timeout_ms=TIMEOUT_MS
        )
        return [LogEntry(partition, entry_id.decode(), _packed(partition, fields)) for entry_id, fields in rows]

    # opening

    async def _signer(self) -> Ed25519PrivateKey:
        made = Ed25519PrivateKey.generate().private_bytes_raw()
        await self._connection.execute("SET", ARCHIVE_SIGNER, made, "NX", timeout_ms=TIMEOUT_MS)
        kept = await self._connection.execute("GET", ARCHIVE_SIGNER, timeout_ms=TIMEOUT_MS)
        return Ed25519PrivateKey.from_private_bytes(kept)

    def _open(self, head: Head | None, signer: Ed25519PrivateKey) -> Chain:
        directory = self._directory
        if head is None:
            directory.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(directory / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another process writes the archive {directory}", code="archive_locked") from None
        if head is not None:
            check_head(directory, head)
        chain = Chain.open(directory, repair=True)
        if chain.head is not None and chain.public_key != _public(signer):
            raise SetupError(
                f"{directory} is the archive of another installation: its first record has another key than this "
                "Redis; give NBX_ARCHIVE_DIR a directory of its own, or connect to the Redis it belongs to"
            )
        chain.tidy()
        return chain

    # reading the streams

    async def _last_of(self, partition: int) -> str:
        stream = _STREAMS.get(partition)
        if stream is None:
            tail = await self._store.log_tail(partition, 1)
            return tail[0].entry_id if tail else ""
        rows: list[Any] = await self._connection.execute(
            "XREVRANGE", stream, "+", "-", "COUNT", 1, timeout_ms=TIMEOUT_MS
        )
        return rows[0][0].decode() if rows else ""

    async def _collect(self, until: Ids) -> list[LogEntry]:
        """Return the rows of the next segment: of one day, in the order of the file; none: all is archived."""
        wanted = [p for p in sorted(until) if parsed(self.last.get(p, "0-0")) < parsed(until[p])]
        heads = await asyncio.gather(*(self.page(p, self._beyond(p), until[p], 1) for p in wanted if p != JOURNAL))
        times_ms = [parsed(page[0].entry_id)[0] for page in heads if page]
        day = min(times_ms, default=self._clock.now_ms()) // DAY_MS
        midnight = f"{(day + 1) * DAY_MS - 1}-{LAST_SEQUENCE}"
        ends = {p: until[p] if p == JOURNAL else min(until[p], midnight, key=parsed) for p in wanted}
        found: dict[int, list[LogEntry]] = {p: [] for p in wanted}
        left, left_bytes = self._most, ARCHIVE_BYTES
        more = set(wanted)
        while more and left > 0 and left_bytes > 0:
            asked = sorted(more)[:left]
            size = max(min(left, PAGE) // len(asked), 1)
            starts = [f"({found[p][-1].entry_id}" if found[p] else self._beyond(p) for p in asked]
            pages = await asyncio.gather(
                *(self.page(p, start, ends[p], size) for p, start in zip(asked, starts, strict=True))
            )
            for p, page in zip(asked, pages, strict=True):
                found[p] += page
                left -= len(page)
                left_bytes -= sum(len(entry.payload) for entry in page)
                if len(page) < size:
                    more.discard(p)
        return [entry for p in wanted for entry in found[p]]

    def _beyond(self, partition: int) -> str:
        last = self.last.get(partition)
        return "-" if last is None else f"({last}"

    # writing the archive

    async def _write(self, chain: Chain, entries: list[LogEntry]) -> None:
        record = await asyncio.to_thread(self._segment, chain, entries)
        if not self._lease.fence:
            raise Overtaken
        await asyncio.to_thread(chain.append, record)
        self.last |= {partition: span.last for partition, span in record.spans.items()}
        await self.tell_head()

    def _segment(self, chain: Chain, entries: list[LogEntry]) -> Record:
        """Write a segment's file; returns its record."""
        number = max(chain.segments, default=0) + 1
        times_ms = [place_of(entry).ms for entry in entries if entry.partition != JOURNAL]
        from_ms, to_ms = (min(times_ms), max(times_ms)) if times_ms else (0, 0)
        at_ms = self._clock.now_ms()
        path = self._directory / segment_file(number, _day(from_ms or at_ms))
        table = laid_out(entries, bytes.fromhex(chain.hash))
        written = path.with_suffix(".tmp")
        if not path.parent.exists():
            path.parent.mkdir()
            sync_directory(self._directory)
        try:
            write_segment(written, table, {"n": str(number), "prev": chain.hash})
            _sync(written)
            digest = file_hash(written)
            written.rename(path)
        except OSError:
            with suppress(OSError):  # what could not be written makes room again
                written.unlink()
            raise
        sync_directory(path.parent)
        return Record(
            kind="segment",
            n=number,
            at_ms=at_ms,
            prev="",
            file=str(path.relative_to(self._directory)),
            sha256=digest,
            rows=len(entries),
            rows_hash=table.column("row_hash")[-1].as_py().hex(),
            spans=_spans(entries),
            from_ms=from_ms,
            to_ms=to_ms,
        )


def laid_out(entries: list[LogEntry], before: bytes) -> pa.Table:
    """Lay entries out as `to_table` does, a row group at a time: the interpreter is not held for longer."""
    tables = []
    for at in range(0, len(entries), ROW_GROUP):
        table = to_table(entries[at : at + ROW_GROUP], before)
        before = table.column("row_hash")[-1].as_py()
        tables.append(table)
    return pa.concat_tables(tables)


def check_head(directory: Path, head: Head) -> None:
    """See that a chain reaches to the record that Redis knows of.

    Raises
    ------
    Damaged
        It does not, or has another record there.
    OSError
        It cannot be read.
    """
    path = directory / CHAIN
    if not path.exists():
        raise Damaged(_cut(path, head, "is not there"))
    with path.open("rb") as file:
        file.seek(max(head.bytes - _LINE_BYTES, 0))
        text = file.read(head.bytes - file.tell())
        if file.tell() < head.bytes:
            raise Damaged(_cut(path, head, f"ends at byte {file.tell()} of {head.bytes}"))
    with suppress(msgspec.DecodeError):
        line = text.removesuffix(b"\n").rpartition(b"\n")[2]
        if msgspec.json.decode(line, type=Record).hash == head.hash:
            return
    raise Damaged(_cut(path, head, "has another record there"))


def _cut(path: Path, head: Head, what: str) -> str:
    return (
        f"{path} {what}, and Redis knows record {head.n} of it: rows that were archived are missing. Nothing is "
        "archived or trimmed until it is restored from a copy, or NBX_ARCHIVE_DIR points at it; `nbx log verify` "
        "says more, docs/archive.md how to begin a new one"
    )


def _packed(partition: int, fields: list[bytes]) -> bytes:
    told = {name.decode(): value for name, value in zip(fields[::2], fields[1::2], strict=True)}
    return told["e"] if partition == ADMIN else msgspec.msgpack.encode(told)


def _spans(entries: list[LogEntry]) -> dict[int, Span]:
    spans = {}
    for partition, rows in groupby(entries, key=lambda entry: entry.partition):
        ids = [row.entry_id for row in rows]
        spans[partition] = Span(ids[0], ids[-1], len(ids))
    return spans


def _public(signer: Ed25519PrivateKey) -> str:
    return signer.public_key().public_bytes_raw().hex()


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1000, UTC).date().isoformat()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
