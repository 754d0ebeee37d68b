"""The whole log: what Redis still holds, and before it what was archived and trimmed, as one `Store`.

Nothing is missing and nothing comes twice, whatever is trimmed between two reads. The keeper archives, then writes the
first id that is left beside the stream and trims, in one script (`nbx.runtime.trimming`). Whatever lies before that id
is in the archive; and what was read from the stream is complete if it does not begin before the id as it is afterwards.

Reads of the archive go to a thread, one at a time. Serving decisions reads no log and does not pass through here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nbx.audit.log_ids import FIRST, JOURNAL, LAST, LAST_SEQUENCE, Id, after, parsed
from nbx.errors import Unsupported
from nbx.features.keys import partition_keys
from nbx.features.store import Commit, Committed, LogEntry, Store, Timer
from nbx.limits import ARCHIVE_CACHE_BYTES

if TYPE_CHECKING:
    from nbx.audit.archived import ArchivedLog

TIMEOUT_MS = 5_000.0
ARCHIVE_CODES = frozenset({"segment_damaged", "segment_schema", "chain_damaged", "archive_missing"})
"""Codes of errors that a restored archive mends."""


class WholeLog:
    """A store whose log reaches back to the beginning of the archive.

    Parameters
    ----------
    store
        Answers everything but what was trimmed.
    directory
        Of the archive; None: there is none, the log is what `store` has.
    cache_bytes
        How much of what was read of the archive is kept in memory.
    """

    def __init__(self, store: Store, directory: Path | None, cache_bytes: int = ARCHIVE_CACHE_BYTES) -> None:
        self._store = store
        self._directory = directory
        self._cache_bytes = cache_bytes
        self._archive: ArchivedLog | None = None
        self._reading = asyncio.Lock()
        self._marks: dict[int, Id] = {}
        """Partition → an id before which the stream holds nothing that counts: a lower bound, it only grows."""

    async def read(self, keys: Sequence[str], timeout_ms: float) -> list[bytes | None]:
        """As of the store."""
        return await self._store.read(keys, timeout_ms)

    async def commit(self, commit: Commit, timeout_ms: float) -> Committed:
        """As of the store."""
        return await self._store.commit(commit, timeout_ms)

    async def due(self, partition: int, now_ms: int, count: int) -> list[Timer]:
        """As of the store."""
        return await self._store.due(partition, now_ms, count)

    async def drop_timers(self, partition: int, members: Sequence[str]) -> None:
        """As of the store."""
        await self._store.drop_timers(partition, members)

    async def log_range(self, partition: int, start: str, end: str, count: int) -> list[LogEntry]:
        """Up to `count` log entries with start ≤ id ≤ end, oldest first; what was erased is left out.

        Raises
        ------
        Unsupported
            What was asked for is in the archive, and that is damaged (`segment_damaged`, `chain_damaged`) or not there
            (`archive_missing`).
        """
        low, high = _lower(start), _upper(end)
        found: list[LogEntry] = []
        while count > len(found) and low <= high:
            mark = self._marks.get(partition, FIRST)
            if low < mark:
                until = min(high, _before(mark))
                found += await self.archived(partition, low, until, count - len(found))
                low = mark
                continue
            rows = await self._store.log_range(partition, _written(low), end, count - len(found))
            if await self._mark(partition) <= low:
                return found + rows
        return found

    async def log_tail(self, partition: int, count: int) -> list[LogEntry]:
        """Last `count` log entries, newest first; raises as `log_range` does."""
        rows = await self._store.log_tail(partition, count)
        mark = await self._mark(partition)
        if len(rows) >= count or mark == FIRST:
            return rows
        # the stream may hold some of before the mark, its end is trimmed in steps
        oldest = parsed(rows[-1].entry_id) if rows else mark
        return rows + await self._from_archive(
            partition, min(mark, oldest), lambda archive: archive.tail(partition, oldest, count - len(rows))
        )

    async def archived(self, partition: int, start: Id, end: Id, count: int) -> list[LogEntry]:
        """Return up to `count` entries of the archive with start ≤ id ≤ end; raises as `log_range` does."""
        until = min(after(end), self._marks.get(partition, FIRST))
        return await self._from_archive(partition, until, lambda archive: archive.range(partition, start, end, count))

    def load(self) -> None:
        """Load the code that reads archives, where there is one: it takes a while, which a process has at its start."""
        if self._directory is not None and self._directory.is_dir():
            self._opened()

    async def journalled(self, first: int, last: int, count: int) -> list[LogEntry]:
        """Return up to `count` archived steps of the learner's journal, first ≤ step ≤ last; raises as `log_range`."""

        def read() -> list[LogEntry]:
            return [] if self._directory is None else self._opened().range(JOURNAL, (0, first), (0, last), count)

        async with self._reading:
            return await asyncio.to_thread(read)

    def _opened(self) -> ArchivedLog:
        from nbx.audit.archived import ArchivedLog  # who never reads an archive is spared 35 MB

        if self._directory is None:
            raise _missing("no archive is read here")
        if self._archive is None:
            self._archive = ArchivedLog(self._directory, self._cache_bytes)
        return self._archive

    async def _from_archive(
        self, partition: int, until: Id, work: Callable[[ArchivedLog], list[LogEntry]]
    ) -> list[LogEntry]:
        """Read the archive in a thread, having seen that it has all of the partition before `until`."""

        def read() -> list[LogEntry]:
            archive = self._opened()
            try:
                last = archive.last(partition)
            except OSError as error:
                raise _missing(str(error)) from error
            if until > FIRST and (last is None or after(last) < until):
                raise _missing(f"{self._directory} does not reach that far")
            return work(archive)

        async with self._reading:
            return await asyncio.to_thread(read)

    async def _mark(self, partition: int) -> Id:
        (packed,) = await self._store.read([partition_keys(partition).first], TIMEOUT_MS)
        mark = max(parsed(packed.decode()) if packed else FIRST, self._marks.get(partition, FIRST))
        if mark > FIRST:
            self._marks[partition] = mark
        return mark


def _missing(why: str) -> Unsupported:
    return Unsupported(
        f"this part of the log was archived, and {why}: point NBX_ARCHIVE_DIR at the archive of this installation, "
        "or restore it",
        code="archive_missing",
    )


def _lower(text: str) -> Id:
    if text == "-":
        return FIRST
    return after(parsed(text[1:])) if text[0] == "(" else parsed(text)


def _upper(text: str) -> Id:
    if text == "+":
        return LAST
    if text[0] == "(":
        return _before(parsed(text[1:]))
    ms, _, sequence = text.partition("-")
    return int(ms), int(sequence) if sequence else LAST_SEQUENCE


def _before(place: Id) -> Id:
    return (place[0], place[1] - 1) if place[1] else (place[0] - 1, LAST_SEQUENCE)


def _written(place: Id) -> str:
    return f"{place[0]}-{place[1]}"
