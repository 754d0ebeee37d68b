"""What a query reads: the archive's segments by its chain, and of the live log what the archive does not have yet.

No row twice, none missing, also while the keeper writes a segment or trims the log. The chain is read, then the live
log beyond it, then the chain again: what was archived meanwhile is taken from the new segments and left out of what was
read live. Nothing beyond the chain as it is then can have been trimmed before it was read, since only what is archived
is ever trimmed. Files that no record of the chain names (half-written, strangers') are not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from nbx.audit.chain import Chain, Record
from nbx.audit.log_ids import ADMIN, after, parsed
from nbx.audit.reading import Window
from nbx.catalog.time_words import moment
from nbx.errors import Unsupported
from nbx.features.store import LogEntry
from nbx.limits import QUERY_LIVE_ROWS

PAGE = 4096
"""Log entries asked for at a time."""
_NOTHING = "0-0"


class LiveLog(Protocol):
    """The log as Redis holds it; partition `log_ids.ADMIN` is the admin trail. As `nbx.features.store.Store`."""

    async def log_range(self, partition: int, start: str, end: str, count: int) -> list[LogEntry]:
        """Up to `count` log entries with start ≤ id ≤ end, oldest first; `-`, `+`: the ends, `(id` excludes id."""
        ...

    async def log_tail(self, partition: int, count: int) -> list[LogEntry]:
        """Last `count` log entries, newest first."""
        ...

    async def firsts(self, partitions: Sequence[int]) -> dict[int, str]:
        """Partition → the first log id that was left when it was trimmed; partitions that never were are not in it."""
        ...


class Readable(NamedTuple):
    """What a query reads."""

    directory: Path
    """Of the archive."""
    records: tuple[Record, ...]
    """Segments with rows of the window, oldest first."""
    live: list[LogEntry]
    """In the order of partition and place."""
    notes: tuple[str, ...] = ()
    """What is missing, in words."""


async def readable(
    directory: Path,
    log: LiveLog | None,
    partitions: Iterable[int],
    span: Window,
    most: int = QUERY_LIVE_ROWS,
) -> Readable:
    """Find what there is to read of a window of the log.

    Parameters
    ----------
    directory
        Of the archive; one that does not exist is an empty archive.
    log
        None: only the archive is read.
    partitions
        Those to read; `segments.ADMIN` is the admin trail.
    span
        Times of writing, epoch milliseconds.
    most
        Live entries read, the newest; what is left out is noted.

    Raises
    ------
    Damaged
        The chain is not what was written.
    Unsupported
        It does not have what was trimmed from the live log (`archive_missing`).
    Unavailable
        The live log cannot be read.
    """
    chain = Chain.open(directory)
    wanted = sorted(set(partitions))
    live: list[LogEntry] = []
    notes: list[str] = []
    if log is not None:
        last = chain.last_ids()
        share = max(1, most // len(wanted))
        cut_ms = 0
        for partition in wanted:
            found, before_ms = await _beyond(log, partition, last.get(partition, _NOTHING), span, share)
            live += found
            cut_ms = max(cut_ms, before_ms)
        if cut_ms:
            notes.append(
                f"the live log is longer than a query reads: of what was written before {moment(cut_ms)} and is not "
                "archived yet some is missing; ask for a later `since`, or see why the keeper does not archive"
            )
        firsts = await log.firsts([partition for partition in wanted if partition >= 0])
        chain.refresh()
        _check_reach(directory, chain.last_ids(), firsts)
        live = _not_archived(live, chain.last_ids())
    return Readable(directory, segments_within(chain.segments, wanted, span), live, tuple(notes))


def segments_within(segments: Mapping[int, Record], partitions: Sequence[int], span: Window) -> tuple[Record, ...]:
    """Return the segments that may hold rows of some partitions written within a window, oldest first."""
    wanted = frozenset(partitions)
    return tuple(
        record
        for record in segments.values()
        if record.from_ms < span.until_ms and record.to_ms >= span.since_ms and not wanted.isdisjoint(record.spans)
    )


async def _beyond(log: LiveLog, partition: int, last: str, span: Window, most: int) -> tuple[list[LogEntry], int]:
    """Return a partition's entries of a window beyond a log id, and before when some are missing (0: none are)."""
    start = f"({last}" if parsed(last) >= (span.since_ms, 0) else f"{span.since_ms}"
    end = f"{span.until_ms - 1}"
    found: list[LogEntry] = []
    while len(found) <= most:
        page = await log.log_range(partition, start, end, min(PAGE, most + 1 - len(found)))
        found += page
        if not page or len(found) > most:
            break
        start = f"({page[-1].entry_id}"
    if len(found) <= most:
        return found, 0
    newest = await log.log_tail(partition, most)
    kept = [e for e in reversed(newest) if parsed(e.entry_id) > parsed(last)]
    inside = [e for e in kept if span.since_ms <= parsed(e.entry_id)[0] < span.until_ms]
    return inside, (parsed(kept[0].entry_id)[0] if kept else span.until_ms)


def _check_reach(directory: Path, last: Mapping[int, str], firsts: Mapping[int, str]) -> None:
    """See that the archive has what was trimmed from the live log."""
    for partition, first in firsts.items():
        if after(parsed(last.get(partition, _NOTHING))) < parsed(first):
            raise Unsupported(
                f"{directory} does not have what was trimmed from the live log of partition {partition} before "
                f"{first}: is it the archive of this installation? See NBX_ARCHIVE_DIR, and `nbx log verify`",
                code="archive_missing",
            )


def _not_archived(live: Iterable[LogEntry], last: Mapping[int, str]) -> list[LogEntry]:
    return [e for e in live if parsed(e.entry_id) > parsed(last.get(e.partition, _NOTHING))]


def every_partition(partitions: int) -> list[int]:
    """Return what a query over everything reads: the partitions of customers, and the admin trail."""
    return [ADMIN, *range(partitions)]
