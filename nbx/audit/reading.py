"""Reading the whole log for a report: all partitions merged in the order of stream ids, a page at a time.

Nothing but one page per partition is in memory. Decoding is done in a thread, so that a process that serves meanwhile
goes on. What a report keeps of each decision is its own affair; `Arbitrated` is the part that off-policy evaluation,
the learning report and the export share.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from heapq import merge
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from nbx.errors import Invalid
from nbx.experience.entries import (
    FACTORS,
    DecisionEntry,
    Entry,
    EventEntry,
    Outcome,
    ProfileEntry,
    TimerEntry,
    decode_entry,
)
from nbx.features.store import LogEntry, Store

PAGE = 4096
"""Log entries asked for at a time, over all partitions."""
LEAST_PAGE = 32
SKEW_MS = 60_000
"""How far the clock of the log may be from ours."""
WINDOW_MS = 30 * 86_400_000
"""How far back a report looks when nobody says."""

LeftOut = Literal["degraded", "holdout", "mandatory"]
_RELATIVE = re.compile(r"(\d{1,6})([smhdw])")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


class Window(NamedTuple):
    """Decisions with since_ms ≤ at_ms < until_ms; epoch milliseconds."""

    since_ms: int
    until_ms: int


class Arbitrated(NamedTuple):
    """The first slot of a decision that was drawn, not given."""

    slot: int
    free: NDArray[np.int64]
    """(n,) candidates it was drawn from, as positions in `DecisionEntry.actions`."""
    chosen: int
    """Position in `free`; n: none."""
    propensity: float
    probability: NDArray[np.float64]
    """(n + 1,) distribution as logged, in single precision; last is none."""


def window(since: str, until: str, now_ms: int) -> Window:
    """Read the two ends of a report's window.

    Parameters
    ----------
    since, until
        Epoch milliseconds, RFC 3339 with a zone, or a time ago such as `90m`, `24h`, `7d`. Empty: `WINDOW_MS` ago, now.

    Raises
    ------
    Invalid
        Neither of these, or the window is empty.

    Examples
    --------
    >>> window("1d", "", 1_700_000_000_000)
    Window(since_ms=1699913600000, until_ms=1700000000001)
    >>> window("2023-11-14T00:00:00Z", "1700000000000", 1_800_000_000_000)
    Window(since_ms=1699920000000, until_ms=1700000000000)
    """
    first = _moment(since, "since", now_ms, now_ms - WINDOW_MS)
    end = _moment(until, "until", now_ms, now_ms + 1)
    if first >= end:
        raise Invalid(f"since ({since}) is not before until ({until or 'now'})", field="since", code="window_empty")
    return Window(max(first, 0), end)


def _moment(text: str, field: str, now_ms: int, otherwise: int) -> int:
    if not text:
        return otherwise
    if text.isdecimal() and len(text) <= 15:
        return int(text)
    ago = _RELATIVE.fullmatch(text)
    if ago:
        return now_ms - int(ago[1]) * _UNIT_MS[ago[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise Invalid(
            f"{field} must be epoch milliseconds, a time with a zone (2026-01-31T12:00:00Z) or a time ago (24h, 7d), "
            f"found {text[:40]!r}",
            field=field,
            code="time_invalid",
        )
    return int(at.timestamp() * 1000)


async def read_log(store: Store, partitions: int, since_ms: int, until_ms: int) -> AsyncIterator[list[Entry]]:
    """Yield the log's entries from `since_ms` to `until_ms` (times of writing), pages in order of stream id.

    What another version wrote and this one cannot read is passed over, as the learner does.
    """
    size = max(PAGE // partitions, LEAST_PAGE)
    end = f"{until_ms + SKEW_MS}"
    cursor = [f"{max(since_ms - SKEW_MS, 0)}"] * partitions
    waiting: list[list[LogEntry]] = [[] for _ in range(partitions)]
    more = set(range(partitions))
    """Partitions that may hold entries beyond those waiting."""
    while more:
        empty = [p for p in more if not waiting[p]]
        pages = await asyncio.gather(*(store.log_range(p, cursor[p], end, size) for p in empty))
        for p, page in zip(empty, pages, strict=True):
            waiting[p] = page
            if page:
                cursor[p] = f"({page[-1].entry_id}"
            if len(page) < size:
                more.discard(p)
        # later pages hold nothing older than the last entry that waits in each partition that goes on
        horizon = min((_order(waiting[p][-1]) for p in more), default=None)
        yield await asyncio.to_thread(_decoded_until, waiting, horizon)


def _decoded_until(waiting: list[list[LogEntry]], horizon: tuple[int, int, int] | None) -> list[Entry]:
    """Take entries up to `horizon` (None: all) off the waiting lists, merged and decoded."""
    ready: list[list[LogEntry]] = []
    for p, page in enumerate(waiting):
        count = len(page) if horizon is None else sum(1 for entry in page if _order(entry) <= horizon)
        ready.append(page[:count])
        waiting[p] = page[count:]
    return [entry for entry in map(_decoded, merge(*ready, key=_order)) if entry is not None]


def _decoded(entry: LogEntry) -> Entry | None:
    try:
        return decode_entry(entry.payload)
    except msgspec.DecodeError:
        return None


def _order(entry: LogEntry) -> tuple[int, int, int]:
    ms, _, sequence = entry.entry_id.partition("-")
    return int(ms), int(sequence), entry.partition


def outcomes_of(entry: Entry) -> Iterable[Outcome]:
    """Return the outcomes that an entry tells."""
    return entry.outcomes if isinstance(entry, EventEntry | TimerEntry | ProfileEntry) else ()


def erased_by(entry: Entry) -> str:
    """Return the customer that an entry erases, empty otherwise: what the log still holds of it counts no more."""
    return entry.customer_id if entry.__struct_config__.tag == "erase" else ""


def releases_in(entries: Iterable[Entry]) -> set[int]:
    """Return the releases that made the decisions among some entries."""
    return {entry.release for entry in entries if isinstance(entry, DecisionEntry)}


def table_of(entry: DecisionEntry) -> NDArray[np.float32]:
    """Return the logged columns as float32[n, len(FACTORS)]: a view, where `unpack_factors` copies."""
    return np.frombuffer(entry.factors, dtype="<f4").reshape(len(entry.actions), len(FACTORS))


def arbitrated(entry: DecisionEntry) -> Arbitrated | LeftOut:
    """Find the first slot of a decision that was drawn, or say why there is none."""
    if entry.degraded:
        return "degraded"
    if entry.holdout:
        return "holdout"
    slot = 0
    while slot < len(entry.slots) and entry.slots[slot].action in entry.mandatory:
        slot += 1
    if slot == len(entry.slots):
        return "mandatory"
    free = np.arange(len(entry.actions))
    if entry.mandatory:
        free = _left_by(entry, slot)
    record = entry.slots[slot]
    table = table_of(entry)
    names = [entry.actions[i] for i in free.tolist()]
    probability = np.append(table[free, -2].astype(np.float64), entry.none_probability)
    return Arbitrated(
        slot, free, names.index(record.action) if record.action else len(free), record.propensity, probability
    )


def _left_by(entry: DecisionEntry, slot: int) -> NDArray[np.int64]:
    """Candidates that the mandatory actions of the slots before `slot` leave, as `nbx.decision.slate` does."""
    placed = {entry.actions.index(record.action) for record in entry.slots[:slot]}
    closed = {i for i, action in enumerate(entry.actions) if action in entry.mandatory}
    for limit in entry.shared:
        used = placed.intersection(limit.members)
        if used and limit.allowance <= len(used):
            closed.update(set(limit.members) - set(limit.exempt))
    return np.array([i for i in range(len(entry.actions)) if i not in closed], dtype=np.int64)
