"""Segments of the archive: rows of the log as Parquet, each with what it says in typed columns beside the entry itself.

The entry as packed (`payload`) is what counts: everything else in a row follows from it, so a row can be checked, and
read by the code that reads the live log. `row_hash` runs through a segment: sha256 of the hash before, the place in
the log and the payload, starting from the hash of the chain's record before (`nbx.audit.chain`).

Rows stand in the order of partition, then place in the log, in small row groups, so that one partition or an hour is
read without the rest. Times are UTC, without a zone. Two streams that are no partition of customers are archived with
them: the admin trail and the learner's journal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import structs
from numpy.typing import NDArray

from nbx.audit.log_ids import ADMIN, JOURNAL
from nbx.errors import Unsupported
from nbx.experience.entries import (
    FACTORS,
    DecisionEntry,
    Entry,
    EraseEntry,
    EventEntry,
    GoalOutcome,
    Outcome,
    ProfileEntry,
    TimerEntry,
    decode_entry,
)
from nbx.features.store import LogEntry
from nbx.features.trail import decode_change

SCHEMA_VERSION: Final = 1
ROW_GROUP: Final = 8192
ERASED_KIND: Final = "erased"
"""Kind of a row whose payload was removed with the customer it was about."""
UNKNOWN_KIND: Final = "unknown"
"""Kind of a row that another version of nbx wrote."""

_TEXT = pa.string()
_TIME = pa.timestamp("ms")
_SLOT = pa.struct([
    ("slot", pa.int16()), ("action", _TEXT), ("treatment", _TEXT), ("group", _TEXT), ("p_response", pa.float64()),
    ("propensity", pa.float64()), ("none", _TEXT), ("expires_at", _TIME),
])  # fmt: skip
_CANDIDATE = pa.struct([("action", _TEXT), ("treatment", _TEXT), *((name, pa.float32()) for name in FACTORS)])
_REMOVED = pa.struct([("action", _TEXT), ("reason", _TEXT), ("detail", _TEXT)])
_OUTCOME = pa.struct([
    ("decision_id", _TEXT), ("slot", pa.int16()), ("revision", pa.int32()), ("action", _TEXT), ("group", _TEXT),
    ("treatment", _TEXT), ("placement", _TEXT), ("channel", _TEXT), ("outcome", _TEXT), ("previous", _TEXT),
    ("cause", _TEXT), ("confidence", pa.float64()), ("rule", _TEXT), ("evidence", _TEXT), ("response", pa.int8()),
    ("response_weight", pa.float64()), ("experience", pa.float64()), ("experience_weight", pa.float64()),
    ("value", pa.float64()), ("seen_reported", pa.bool_()), ("learns", pa.bool_()), ("release", pa.int32()),
    ("at", _TIME),
])  # fmt: skip
_GOAL = pa.struct([
    ("decision_id", _TEXT), ("revision", pa.int32()), ("placement", _TEXT), ("action", _TEXT), ("response", pa.int8()),
    ("at", _TIME),
])  # fmt: skip
SCHEMA: Final = pa.schema([
    ("partition", pa.int16()), ("log_ms", pa.int64()), ("log_seq", pa.int64()), ("logged_at", _TIME), ("kind", _TEXT),
    ("customer_id", _TEXT), ("at", _TIME), ("release", pa.int32()), ("decision_id", _TEXT), ("slot", pa.int16()),
    # decisions
    ("snapshot", pa.int64()), ("state_version", pa.int64()), ("placement", _TEXT), ("channel", _TEXT),
    ("request_id", _TEXT), ("context", _TEXT), ("holdout", _TEXT), ("degraded", pa.list_(_TEXT)),
    ("took_us", pa.int64()), ("none_probability", pa.float64()), ("exchange", pa.float64()), ("strain", pa.float64()),
    ("balance", pa.float64()), ("stakes", pa.float64()), ("cluster", pa.int32()), ("segments", pa.list_(_TEXT)),
    ("slots", pa.list_(_SLOT)), ("candidates", pa.list_(_CANDIDATE)), ("removed", pa.list_(_REMOVED)),
    # events, timers, profile changes
    ("event_id", _TEXT), ("type", _TEXT), ("by", _TEXT), ("cause", _TEXT), ("reason", _TEXT), ("value", pa.float64()),
    ("sentiment", pa.float64()), ("effort", pa.float64()), ("text", _TEXT), ("received_at", _TIME),
    ("outcomes", pa.list_(_OUTCOME)), ("goals", pa.list_(_GOAL)),
    ("details", _TEXT),
    ("payload", pa.binary()), ("row_hash", pa.binary(32)),
])  # fmt: skip
"""Schema of version 1; docs/archive.md says what each column holds. Columns are added at the end, never changed."""
_KEPT = frozenset({"partition", "log_ms", "log_seq", "logged_at", "kind", "payload", "row_hash"})
"""Columns of every row; of one that was erased, the only ones that hold something."""
_NESTED = {"slots": _SLOT, "candidates": _CANDIDATE, "removed": _REMOVED, "outcomes": _OUTCOME, "goals": _GOAL}
_PLAIN = [field for field in SCHEMA if field.name not in _NESTED]
_PLAIN_LISTS = frozenset({"degraded", "segments"})


class Place(NamedTuple):
    """Place of a row: order within the archive's files and within a partition's log."""

    partition: int
    ms: int
    sequence: int


def place_of(entry: LogEntry) -> Place:
    """Return where an entry stands.

    Examples
    --------
    >>> place_of(LogEntry(3, "1700000000000-2", b""))
    Place(partition=3, ms=1700000000000, sequence=2)
    """
    ms, _, sequence = entry.entry_id.partition("-")
    return Place(entry.partition, int(ms), int(sequence))


def next_hash(before: bytes, place: Place, payload: bytes) -> bytes:
    """Return a row's hash.

    Examples
    --------
    >>> next_hash(bytes(32), Place(0, 1, 0), b"a") != next_hash(bytes(32), Place(0, 1, 1), b"a")
    True
    """
    return hashlib.sha256(b"%b%d %d-%d %b" % (before, *place, payload)).digest()


def to_table(entries: Sequence[LogEntry], before: bytes) -> pa.Table:
    """Lay entries out as rows of a segment, in the order given.

    Parameters
    ----------
    entries
        An empty payload stands for a row whose customer was erased.
    before
        Hash of the chain's record before, 32 bytes.

    Returns
    -------
    pyarrow.Table
        With `SCHEMA`. An entry that this version cannot read, or that does not fit the columns, is of the kind
        `unknown` and otherwise kept as it is.
    """
    try:
        return _laid_out(entries, before, frozenset())
    except _UNFIT:  # one of them does not fit the columns: the others have theirs all the same
        unknown = frozenset(number for number, entry in enumerate(entries) if not _fits(entry))
        return _laid_out(entries, before, unknown)


_UNFIT = (pa.ArrowException, ValueError, TypeError, OverflowError)


def _fits(entry: LogEntry) -> bool:
    try:
        _laid_out([entry], bytes(32), frozenset())
    except _UNFIT:
        return False
    return True


def _laid_out(entries: Sequence[LogEntry], before: bytes, unknown: Collection[int]) -> pa.Table:
    columns: dict[str, list[Any]] = {field.name: [] for field in _PLAIN}
    nested = {name: _Lists(kind) for name, kind in _NESTED.items()}
    rows_hash = before
    for number, entry in enumerate(entries):
        place = place_of(entry)
        rows_hash = next_hash(rows_hash, place, entry.payload)
        row = {"kind": UNKNOWN_KIND} if number in unknown else _typed(entry, nested)
        row |= {
            "partition": place.partition,
            "log_ms": place.ms,
            "log_seq": place.sequence,
            "logged_at": place.ms or None,
            "payload": entry.payload,
            "row_hash": rows_hash,
        }
        for name, column in columns.items():
            column.append(row.get(name, [] if name in _PLAIN_LISTS else None))
        for lists in nested.values():
            lists.close()
    arrays = {name: pa.array(column, SCHEMA.field(name).type) for name, column in columns.items()}
    arrays |= {name: lists.array() for name, lists in nested.items()}
    return pa.table([arrays[name] for name in SCHEMA.names], schema=SCHEMA)


def write_segment(path: Path, table: pa.Table, about: Mapping[str, str]) -> None:
    """Write a segment's file; `about` goes to its key-value metadata, with the schema's version."""
    marked = table.replace_schema_metadata({f"nbx.{key}": value for key, value in about.items()} | _SCHEMA_MARK)
    dictionary = [name for name in SCHEMA.names if SCHEMA.field(name).type == _TEXT and name != "text"]
    pq.write_table(marked, path, compression="zstd", row_group_size=ROW_GROUP, use_dictionary=dictionary)


def read_about(path: Path) -> dict[str, str]:
    """Return what a segment's metadata says.

    Raises
    ------
    Unsupported
        It is not a segment, is damaged, or was written by a later version.
    """
    try:
        found = pq.read_metadata(path).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise Unsupported(
            f"{path}: is damaged or no Parquet file: {error}; restore it from a copy, then run `nbx log verify`",
            code="segment_damaged",
        ) from error
    about = {
        key.decode(errors="replace").removeprefix("nbx."): value.decode(errors="replace")
        for key, value in found.items()
        if key[:4] == b"nbx."
    }
    version = about.get("schema", "")
    if not (version.isascii() and version.isdecimal()) or int(version) > SCHEMA_VERSION:
        raise Unsupported(
            f"{path}: has schema {version or 'none'}; this version of nbx reads up to {SCHEMA_VERSION}",
            code="segment_schema",
        )
    return about


def read_entries(path: Path, filters: list[tuple[str, str, object]] | None = None) -> list[LogEntry]:
    """Return the log entries of a segment, in order; erased ones with an empty payload.

    Parameters
    ----------
    filters
        As `pyarrow.parquet.read_table` takes them, on `partition`, `log_ms`, `log_seq`.

    Raises
    ------
    Unsupported
        The file is damaged, or was written by a later version.
    """
    try:
        table = pq.read_table(path, columns=["partition", "log_ms", "log_seq", "payload"], filters=filters)
    except (pa.ArrowException, OSError) as error:
        read_about(path)  # says it better, where it can
        raise Unsupported(
            f"{path}: cannot be read: {error}; restore it from a copy, then run `nbx log verify`",
            code="segment_damaged",
        ) from error
    return entries_of(table)


def entries_of(table: pa.Table) -> list[LogEntry]:
    """Return the log entries that a table holds."""
    columns = (table.column(name).to_pylist() for name in ("partition", "log_ms", "log_seq", "payload"))
    return [LogEntry(partition, f"{ms}-{seq}", payload) for partition, ms, seq, payload in zip(*columns, strict=True)]


_SCHEMA_MARK = {"nbx.schema": str(SCHEMA_VERSION)}


class _Lists:
    """A column of lists of structs, kept flat."""

    def __init__(self, kind: pa.StructType) -> None:
        self._kind = kind
        self._columns: list[list[Any]] = [[] for _ in range(kind.num_fields)]
        self._tables: list[NDArray[np.float32]] = []
        self._ends = [0]

    def add(self, *values: object) -> None:
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)

    def add_columns(self, *columns: Iterable[object]) -> None:
        for mine, more in zip(self._columns, columns, strict=True):
            mine.extend(more)

    def add_table(self, texts: Sequence[Sequence[str]], table: NDArray[np.float32]) -> None:
        """Add structs whose first fields are texts, and whose others are the columns of a table."""
        for mine, more in zip(self._columns, texts, strict=False):
            mine.extend(more)
        self._tables.append(table)

    def close(self) -> None:
        """End the row's list."""
        self._ends.append(len(self._columns[0]))

    def array(self) -> pa.ListArray:
        fields = [self._kind.field(i) for i in range(self._kind.num_fields)]
        columns: list[Any] = self._columns
        if self._tables:
            table = np.concatenate(self._tables)
            columns = [*columns[: len(fields) - table.shape[1]], *np.ascontiguousarray(table.T)]
        flat = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
        return pa.ListArray.from_arrays(
            pa.array(self._ends, pa.int32()), pa.StructArray.from_arrays(flat, fields=fields)
        )


def _typed(row: LogEntry, nested: Mapping[str, _Lists]) -> dict[str, Any]:
    """Return what an entry says, by plain column; lists go to `nested`."""
    if not row.payload:
        return {"kind": ERASED_KIND}
    if row.partition == JOURNAL:
        return {"kind": "step"}
    try:
        if row.partition == ADMIN:
            change = decode_change(row.payload)
            return {
                "kind": "admin", "at": change.at_ms, "by": change.who, "type": change.what,
                "details": _json(change.details),
            }  # fmt: skip
        entry = decode_entry(row.payload)
    except msgspec.DecodeError:  # what another version wrote is kept as it is
        return {"kind": UNKNOWN_KIND}
    said = {
        "kind": entry.__struct_config__.tag,
        "customer_id": entry.customer_id,
        "at": entry.at_ms,
        "release": entry.release,
    }
    return said | _said(entry, nested)


def _said(entry: Entry, nested: Mapping[str, _Lists]) -> dict[str, Any]:
    match entry:
        case DecisionEntry():
            return _decision(entry, nested)
        case EventEntry(event=event):
            _outcomes(entry.outcomes, entry.goals, nested)
            return {
                "decision_id": event.decision_id or None, "slot": event.slot if event.decision_id else None,
                "event_id": event.event_id, "type": event.type, "by": event.by, "cause": event.cause,
                "reason": event.reason, "value": event.value, "sentiment": event.sentiment, "effort": event.effort,
                "text": event.text, "received_at": entry.received_ms, "details": _json(event.properties),
            }  # fmt: skip
        case TimerEntry():
            _outcomes(entry.outcomes, entry.goals, nested)
            return {
                "decision_id": entry.decision_id or None, "slot": entry.slot if entry.decision_id else None,
                "type": entry.kind, "details": _json(entry.broken) if entry.broken else None,
            }  # fmt: skip
        case ProfileEntry():
            _outcomes(entry.outcomes, (), nested)
            return {"by": entry.by, "details": _json(entry.changes)}
        case EraseEntry():
            return {"by": entry.by, "event_id": entry.erasure_id, "details": _json({"aliases": entry.aliases})}
        case _:
            shown = structs.asdict(entry)
            return {"details": _json({name: shown[name] for name in ("alias", "into", "sequence") if name in shown})}


def _decision(entry: DecisionEntry, nested: Mapping[str, _Lists]) -> dict[str, Any]:
    for number, slot in enumerate(entry.slots):
        nested["slots"].add(
            number, slot.action, slot.treatment, slot.group, slot.p_response, slot.propensity, slot.none,
            slot.expires_at_ms,
        )  # fmt: skip
    table = np.frombuffer(entry.factors, dtype="<f4").reshape(len(entry.actions), len(FACTORS))
    nested["candidates"].add_table((entry.actions, entry.treatments), table)
    if entry.removed:
        nested["removed"].add_columns(*zip(*map(structs.astuple, entry.removed), strict=True))
    return {
        "decision_id": entry.decision_id, "snapshot": entry.snapshot, "state_version": entry.state_version,
        "placement": entry.request.placement, "channel": entry.channel, "request_id": entry.request.request_id,
        "context": _json(entry.request.context), "holdout": entry.holdout, "degraded": entry.degraded,
        "took_us": entry.took_us, "none_probability": entry.none_probability, "exchange": entry.policy.exchange,
        "strain": entry.policy.strain, "balance": entry.relationship.get("balance"), "stakes": entry.stakes,
        "cluster": entry.cluster, "segments": entry.segments,
    }  # fmt: skip


def _outcomes(outcomes: Iterable[Outcome], goals: Iterable[GoalOutcome], nested: Mapping[str, _Lists]) -> None:
    for told in outcomes:
        nested["outcomes"].add(
            told.decision_id, told.slot, told.revision, told.action, told.group, told.treatment, told.placement,
            told.channel, told.outcome, told.previous, told.cause, told.confidence, told.rule, ",".join(told.evidence),
            told.response, told.response_weight, told.experience, told.experience_weight, told.value,
            told.seen_reported, told.learns, told.release, told.at_ms,
        )  # fmt: skip
    for goal in goals:
        nested["goals"].add(goal.decision_id, goal.revision, goal.placement, goal.action, goal.response, goal.at_ms)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
