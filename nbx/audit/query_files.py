"""The files of a query: which of them the query needs, and whether they are what the chain says.

Opening a segment takes one to four milliseconds for its footer of ninety columns, so only those are opened whose time
meets the query's conditions on `at` and `logged_at`. DuckDB's optimiser says what these come down to: it is asked for
the plan over one segment, and the bounds are read from the filters that reached the scan. A filter that is not
understood bounds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from nbx.audit.chain import Record, file_hash
from nbx.audit.reading import SKEW_MS, Window
from nbx.limits import QUERY_HASHED_BYTES

_MAGIC: Final = b"PAR1"
_BOUND = re.compile(
    r"\((logged_at|at) (>=|>|<=|<|=) '(\d{4,6}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,9})?)'::TIMESTAMP(?:_MS)?\)"
)
_EVER: Final = Window(0, 1 << 62)


def faults_of(directory: Path, records: Sequence[Record]) -> dict[str, str]:
    """Say which segments' files are missing or damaged, as far as that is soon seen.

    All are looked at from outside (there, and with both ends of a Parquet file); when there are at most
    `limits.QUERY_HASHED_BYTES` of them, each is hashed too. Changes within larger ones are found by `nbx log verify`.

    Returns
    -------
    dict[str, str]
        File, as the chain names it → what is wrong.
    """
    found: dict[str, str] = {}
    total = 0
    for record in records:
        path = directory / record.file
        try:
            total += path.stat().st_size
            with path.open("rb") as file:
                head = file.read(4)
                file.seek(-4, 2)
                tail = file.read(4)
        except FileNotFoundError:
            found[record.file] = "is missing"
        except OSError as error:
            found[record.file] = f"cannot be read: {error.strerror}"
        else:
            if head != _MAGIC or tail != _MAGIC:
                found[record.file] = "is no whole Parquet file"
    if total <= QUERY_HASHED_BYTES:
        found |= changed(directory, [record for record in records if record.file not in found])
    return found


def changed(directory: Path, records: Iterable[Record]) -> dict[str, str]:
    """Say which files are not those that were written, by their hashes; a second per gigabyte."""
    found: dict[str, str] = {}
    for record in records:
        try:
            if file_hash(directory / record.file) != record.sha256:
                found[record.file] = "is not what was written: its hash is another"
        except OSError as error:
            found[record.file] = f"cannot be read: {error.strerror}"
    return found


def needed(records: Sequence[Record], plan: str) -> list[Record]:
    """Return the segments that a plan's conditions leave, oldest first.

    Parameters
    ----------
    plan
        What EXPLAIN (FORMAT json) says of the query.
    """
    nodes = list(_nodes(msgspec.json.decode(plan)))
    scans = [_filters(node) for node in nodes if "PARQUET" in _kind(node)]
    if len(scans) != sum("ARROW" in _kind(node) for node in nodes):
        return list(records)  # something was left out of the plan that the live log is still read for
    spans = [_span_of(filters) for filters in scans]
    return [r for r in records if any(r.to_ms >= s.since_ms and r.from_ms < s.until_ms for s in spans)]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every node of a plan."""
    for node in tree if isinstance(tree, list) else [tree]:
        yield node
        yield from _nodes(node.get("children", []))


def _kind(node: Mapping[str, Any]) -> str:
    return str(node.get("name", "")).upper()


def _filters(node: Mapping[str, Any]) -> list[str]:
    filters = node.get("extra_info", {}).get("Filters", [])
    return [filters] if isinstance(filters, str) else [str(each) for each in filters]


def _span_of(filters: Iterable[str]) -> Window:
    """Return the times of writing that filters leave.

    Examples
    --------
    >>> _span_of(["(kind = 'decision')", "(logged_at >= '1970-01-01 00:00:01'::TIMESTAMP)"]).since_ms
    1000
    """
    since, until = _EVER
    for text in filters:
        bare = _BOUND.sub("", text)
        if bare.replace("AND", "").strip(" ()"):
            continue  # there is more to it than bounds that all have to hold
        for column, comparison, told in _BOUND.findall(text):
            at_ms = _ms(told)
            # what happened is written at once or later, by clocks that differ a little
            if comparison in (">", ">=", "="):
                since = max(since, at_ms if column == "logged_at" else at_ms - SKEW_MS)
            if comparison in ("<", "<=", "=") and column == "logged_at":
                beyond = comparison != "<" or bool(told.partition(".")[2][3:].strip("0"))
                until = min(until, at_ms + beyond)
    return Window(since, until)


def _ms(told: str) -> int:
    day, _, clock = told.partition(" ")
    year, month, date = day.split("-")
    if len(year) > 4:
        return _EVER.until_ms if int(year) > 9999 else 0
    seconds, _, fraction = clock.partition(".")
    at = datetime.fromisoformat(f"{year}-{month}-{date}T{seconds}").replace(tzinfo=UTC)
    return int(at.timestamp()) * 1000 + int(fraction.ljust(3, "0")[:3] or 0)
