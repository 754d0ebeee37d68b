"""Rows of the archive as log entries, by partition and log id: what was trimmed from the log is read here.

A segment's rows stand in the order of partition, then place, and its record says how many each partition has; so a
partition's rows are found without looking at others. What was read is kept, a slice of a partition at a time, up to a
bound in bytes: a report reads all partitions side by side, and would otherwise unpack every row group again for each
page. Not here: the live log (`nbx.audit.whole_log`), and whether the files are what was written (`nbx log verify`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nbx.audit.chain import Chain, Record
from nbx.audit.log_ids import FIRST, LAST_SEQUENCE, Id, after, parsed
from nbx.errors import Unsupported
from nbx.features.store import LogEntry
from nbx.limits import ARCHIVE_CACHE_BYTES

SLICE: Final = 2_048
"""Rows of a partition read and kept together."""
ROW_BYTES: Final = 150
"""What a row in memory costs beside its payload."""


class _Spans(NamedTuple):
    """Segments that have rows of a partition, in order."""

    numbers: list[int]
    firsts: list[Id]
    lasts: list[Id]


class _Index(NamedTuple):
    """Where a partition's rows are in a segment."""

    offset: int
    """Row of the file at which they begin."""
    ms: NDArray[np.int64]
    sequences: NDArray[np.int64]

    def position(self, place: Id) -> int:
        """Return the position of the first row at or beyond an id."""
        low = int(np.searchsorted(self.ms, place[0], "left"))
        high = int(np.searchsorted(self.ms, place[0], "right"))
        return low + int(np.searchsorted(self.sequences[low:high], min(place[1], LAST_SEQUENCE), "left"))


class ArchivedLog:
    """Reads an archive; for one thread at a time.

    Parameters
    ----------
    directory
        Of the archive; one that does not exist is an archive with nothing in it.
    cache_bytes
        How much of what was read is kept.
    """

    def __init__(self, directory: Path, cache_bytes: int = ARCHIVE_CACHE_BYTES) -> None:
        self._directory = directory
        self._chain = Chain(directory)
        self._spans: dict[int, _Spans] = {}
        self._cache: OrderedDict[tuple[str, int, int], tuple[_Index | list[LogEntry], int]] = OrderedDict()
        self._cached_bytes = 0
        self._cache_bytes = cache_bytes

    def last(self, partition: int) -> Id | None:
        """Return the id of a partition's last row; None: it has none. Takes in what was archived since."""
        if self._chain.refresh():
            self._spans.clear()
        lasts = self._spans_of(partition).lasts
        return lasts[-1] if lasts else None

    def range(self, partition: int, start: Id, end: Id, count: int) -> list[LogEntry]:
        """Return up to `count` entries with start ≤ id ≤ end, oldest first, erased ones left out.

        Raises
        ------
        Unsupported
            The chain, or a segment that is needed, is damaged, missing, or of a later version.
        """
        self.last(partition)
        spans = self._spans_of(partition)
        found: list[LogEntry] = []
        at = bisect_left(spans.lasts, start)
        while at < len(spans.numbers) and spans.firsts[at] <= end and len(found) < count:
            found += self._rows(spans.numbers[at], partition, start, end, count - len(found))
            at += 1
        return found

    def tail(self, partition: int, before: Id, count: int) -> list[LogEntry]:
        """Return up to `count` entries before an id, newest first; raises as `range` does."""
        self.last(partition)
        spans = self._spans_of(partition)
        found: list[LogEntry] = []
        at = bisect_right(spans.firsts, before) - 1
        while at >= 0 and len(found) < count:
            found += self._rows(spans.numbers[at], partition, FIRST, before, -(count - len(found)))
            at -= 1
        return found

    def _rows(self, number: int, partition: int, start: Id, end: Id, count: int) -> list[LogEntry]:
        """Return rows of one segment: the first of them, or with a negative count those before `end`, newest first."""
        for attempt in (1, 2):
            record = self._chain.segments[number]
            try:
                return self._rows_of(record, partition, start, end, count)
            except FileNotFoundError as error:
                # it was written anew, and its record came after we looked
                if attempt == 2 or not self._chain.refresh():
                    raise _damaged(self._directory / record.file, error) from error
                self._spans.clear()
            except (pa.ArrowException, OSError, IndexError) as error:
                raise _damaged(self._directory / record.file, error) from error
        raise AssertionError

    def _rows_of(self, record: Record, partition: int, start: Id, end: Id, count: int) -> list[LogEntry]:
        index = self._index(record, partition)
        low = index.position(start)
        found: list[LogEntry] = []
        if count < 0:
            at = index.position(end)
            while at > low and len(found) < -count:
                slice_at = (at - 1) // SLICE * SLICE
                rows = self._slice(record, partition, index, slice_at)[max(low - slice_at, 0) : at - slice_at]
                found += [row for row in rows[::-1] if row.payload]
                at = slice_at
            return found[:-count]
        high = index.position(after(end))
        while low < high and len(found) < count:
            slice_at = low // SLICE * SLICE
            rows = self._slice(record, partition, index, slice_at)[low - slice_at : high - slice_at]
            found += [row for row in rows if row.payload]
            low = slice_at + SLICE
        return found[:count]

    def _index(self, record: Record, partition: int) -> _Index:
        key = record.file, partition, -1
        kept = self._kept(key)
        if isinstance(kept, _Index):
            return kept
        offset = sum(span.count for other, span in record.spans.items() if other < partition)
        rows = record.spans[partition].count
        table = self._read(record, offset, rows, ["partition", "log_ms", "log_seq"])
        if np.any(table.column("partition").to_numpy() != partition):
            raise IndexError("its rows are not where its record in the chain says")
        index = _Index(offset, table.column("log_ms").to_numpy(), table.column("log_seq").to_numpy())
        self._keep(key, index, rows * 16)
        return index

    def _slice(self, record: Record, partition: int, index: _Index, at: int) -> list[LogEntry]:
        key = record.file, partition, at
        kept = self._kept(key)
        if isinstance(kept, list):
            return kept
        rows = min(SLICE, len(index.ms) - at)
        payloads: list[bytes] = self._read(record, index.offset + at, rows, ["payload"]).column("payload").to_pylist()
        places = zip(index.ms[at : at + rows].tolist(), index.sequences[at : at + rows].tolist(), strict=True)
        entries = [
            LogEntry(partition, f"{ms}-{sequence}", payload)
            for (ms, sequence), payload in zip(places, payloads, strict=True)
        ]
        self._keep(key, entries, sum(map(len, payloads)) + ROW_BYTES * rows)
        return entries

    def _read(self, record: Record, start: int, rows: int, columns: list[str]) -> pa.Table:
        """Read rows of a file, without the row groups around them."""
        with pq.ParquetFile(self._directory / record.file) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            begins = [0, *np.cumsum(sizes).tolist()]
            wanted = [i for i, (low, high) in enumerate(pairwise(begins)) if low < start + rows and high > start]
            if begins[-1] < start + rows:
                raise IndexError(f"it has {begins[-1]} rows, its record in the chain says {record.rows}")
            table = file.read_row_groups(wanted, columns=columns, use_threads=False)
        return table.slice(start - begins[wanted[0]], rows)

    def _spans_of(self, partition: int) -> _Spans:
        spans = self._spans.get(partition)
        if spans is None:
            spans = self._spans[partition] = _Spans([], [], [])
            for number, record in self._chain.segments.items():
                span = record.spans.get(partition)
                if span is not None:
                    spans.numbers.append(number)
                    spans.firsts.append(parsed(span.first))
                    spans.lasts.append(parsed(span.last))
        return spans

    def _kept(self, key: tuple[str, int, int]) -> _Index | list[LogEntry] | None:
        if key not in self._cache:
            return None
        self._cache.move_to_end(key)
        return self._cache[key][0]

    def _keep(self, key: tuple[str, int, int], what: _Index | list[LogEntry], size: int) -> None:
        self._cache[key] = what, size
        self._cached_bytes += size
        while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
            _, (_, gone) = self._cache.popitem(last=False)
            self._cached_bytes -= gone


def _damaged(path: Path, error: Exception) -> Unsupported:
    return Unsupported(
        f"{path}: is missing or damaged ({error}); restore it from a copy, then run `nbx log verify`",
        code="segment_damaged",
    )
