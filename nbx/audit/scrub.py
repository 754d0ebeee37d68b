"""Taking erased customers out of archived segments: which rows name them, and the segment without them.

A row of an erased customer, up to the entry that erased it, becomes a tombstone: its place stays, so a partition's rows
still follow each other, and what it said is gone. Rows of *other* customers name an erased one in two cases: a claim
that was withdrawn, or a merge whose alias was erased and not yet the rest. Those keep what they did to their own
customer, with a pseudonym in place of the id, so that folding the log gives the others what they have.

A segment is written anew beside the old one and named by a signed record of the chain, then the old one is deleted.
After a crash anywhere in between it is done again, or had been done: a file counts from its record on, and files that
no record names are removed when the archive is opened (`nbx.audit.chain`). What was rewritten for whom is in the chain
alone, so nothing has to be remembered on the way.

Segments are searched by the statistics of their row groups and the columns that hold ids; payloads are read of the
groups with merges only. What customers are called in free text of *others* is not looked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs

from nbx.audit.chain import Chain, Record, file_hash, read_records, segment_file, sync_directory
from nbx.audit.segments import SCHEMA, Place, next_hash, read_about, to_table, write_segment
from nbx.experience.entries import (
    AbsorbEntry,
    AliasEntry,
    Entry,
    EventEntry,
    GoalOutcome,
    MovedEntry,
    Outcome,
    ProfileEntry,
    TimerEntry,
    decode_entry,
    encode_entry,
)
from nbx.experience.lifecycle import decode_open, encode_open
from nbx.features.state import Handover, decode_state, encode_state
from nbx.features.store import LogEntry

Told = TypeVar("Told", Outcome, GoalOutcome)
REASON: Final = "erasure of a customer"
MERGES: Final = ("absorb", "alias")
"""Kinds of rows that name another customer than their own, and the only such ones that outlive that one."""


class Erased(NamedTuple):
    """Somebody to be taken out."""

    customer_id: str
    erasure_id: str
    until: Place
    """Of the entry that erased the customer: later rows are of another life."""
    pseudonym: str
    by: str = ""
    """Who asked."""

    def owns(self, partition: int, ms: int, sequence: int) -> bool:
        """Tell whether a row of the customer is of a life that was ended."""
        return partition == self.until.partition and (ms, sequence) <= self.until[1:]


class Hits(NamedTuple):
    """What of a segment has to change."""

    tombs: dict[int, str]
    """Row → erasure by which it goes."""
    named: dict[int, bytes]
    """Row → what its payload shall be."""
    erasures: frozenset[str] = frozenset()
    """Whose they are."""

    @property
    def rows(self) -> set[int]:
        """Rows that change."""
        return {*self.tombs, *self.named}


class Mentioned(NamedTuple):
    """What else is kept of what some rows tell."""

    events: dict[str, set[str]]
    """Erased customer → ids of its events."""
    holders: frozenset[str]
    """Customers whose rows, and perhaps whose states, name an erased one."""


class Rewritten(NamedTuple):
    """What became of one segment."""

    record: Record
    rows: dict[str, int]
    """Erasure → rows that became tombstones."""


def find(path: Path, erased: Sequence[Erased]) -> Hits:
    """Say which rows of a segment name somebody who was erased.

    Parameters
    ----------
    path
        Of the segment. Reading the columns of ids of 100,000 rows takes some milliseconds.
    erased
        At least one.
    """
    tombs: dict[int, str] = {}
    named: dict[int, tuple[bytes, list[str]]] = {}
    file = pq.ParquetFile(path)
    start = 0
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        ranges = _ranges(group)
        here = [each for each in erased if _may_hold(ranges, each)]
        if here:
            _find_own(
                file.read_row_group(number, ["partition", "log_ms", "log_seq", "customer_id"]), here, start, tombs
            )
        if _may_name(ranges):
            columns = ["partition", "log_ms", "log_seq", "kind", "payload"]
            _find_named(file.read_row_group(number, columns), erased, start, named)
        start += group.num_rows
    for row in named.keys() & tombs.keys():
        del named[row]
    whose = {erasure_id for row, (_, ids) in named.items() for erasure_id in ids}
    changed = {row: payload for row, (payload, _) in named.items()}
    return Hits(tombs, changed, frozenset({*tombs.values(), *whose}))


def without(table: pa.Table, hits: Hits, before: bytes) -> pa.Table:
    """Return a segment's rows as they shall be, with their hashes from `before` on.

    The rows that change are laid out anew; of the others only the hash is another one.
    """
    rows = sorted(hits.rows)
    places = _places(table)
    patch = to_table([_entry(places[row], hits.named.get(row, b"")) for row in rows], before)
    wanted = np.arange(table.num_rows)
    wanted[rows] = table.num_rows + np.arange(len(rows))
    plain = table.replace_schema_metadata(None).cast(SCHEMA)
    changed = pa.concat_tables([plain, patch]).take(pa.array(wanted))
    hashes, running = [], before
    for place, payload in zip(places, changed.column("payload").to_pylist(), strict=True):
        running = next_hash(running, place, payload)
        hashes.append(running)
    at = SCHEMA.get_field_index("row_hash")
    return changed.set_column(at, SCHEMA.field("row_hash"), pa.array(hashes, SCHEMA.field("row_hash").type))


def mentioned(path: Path, hits: Hits) -> Mentioned:
    """Return what the rows that will change name besides: to be taken out of the store before they are gone."""
    if not hits.rows:
        return Mentioned({}, frozenset())
    events: dict[str, set[str]] = {}
    holders = set()
    table = pq.read_table(path, columns=["payload"]).take(sorted(hits.rows))
    for row, part in zip(sorted(hits.rows), table.to_pylist(), strict=True):
        entry = decode_entry(part["payload"])
        if row in hits.named:
            holders.add(entry.customer_id)
        elif isinstance(entry, EventEntry):
            events.setdefault(entry.customer_id, set()).add(entry.event.event_id)
    return Mentioned(events, frozenset(holders))


def rewrite(
    chain: Chain, record: Record, hits: Hits, erased: Sequence[Erased], key: Ed25519PrivateKey, now_ms: int
) -> Rewritten | None:
    """Take erased customers out of one segment, whose `hits` these are; None: there are none, nothing was written.

    For the only writer of the archive. When this returns the chain tells of the new file, and the old one is gone.
    """
    old = chain.directory / record.file
    if not hits.rows:
        return None
    before = record.before or record.prev
    table = without(pq.read_table(old), hits, bytes.fromhex(before))
    day = Path(record.file).parent.name.removeprefix("day=")
    file = segment_file(record.n, day, _revision(record.file) + 1)
    path = chain.directory / file
    about = {name: value for name, value in read_about(old).items() if name != "schema"}
    _write(path, table, about)
    rows = {each.erasure_id: 0 for each in erased}
    for erasure_id in hits.tombs.values():
        rows[erasure_id] += 1
    done = chain.append(
        structs.replace(
            record,
            kind="rewrite",
            at_ms=now_ms,
            file=file,
            sha256=file_hash(path),
            rows_hash=table.column("row_hash")[-1].as_py().hex(),
            before=before,
            why=_why(erased, rows, hits),
            signature="",
            hash="",
        ),
        key,
    )
    old.unlink()
    sync_directory(old.parent)
    return Rewritten(done, rows)


def told(directory: Path) -> dict[str, tuple[int, int]]:
    """Return, by erasure, how many rows and segments were rewritten for it, as the chain tells."""
    found: dict[str, tuple[int, int]] = {}
    for _, record in read_records(directory):
        if isinstance(record, Record) and record.kind == "rewrite" and record.why.get("reason") == REASON:
            counts = record.why["rows"].split(",")
            for erasure_id, count in zip(record.why["erasure"].split(","), counts, strict=True):
                rows, segments = found.get(erasure_id, (0, 0))
                found[erasure_id] = rows + int(count), segments + 1
    return found


def renamed(entry: Entry, names: Mapping[str, str]) -> Entry:
    """Return an entry of another customer with pseudonyms in place of ids.

    Examples
    --------
    >>> claim = AliasEntry(customer_id="anna", at_ms=1, release=1, alias="cookie", by="")
    >>> renamed(claim, {"cookie": "c_1"}).alias
    'c_1'
    """
    match entry:
        case AliasEntry():
            return structs.replace(entry, alias=names.get(entry.alias, entry.alias))
        case AbsorbEntry():
            handed = _renamed_handover(entry.handed, names)
            return structs.replace(entry, alias=names.get(entry.alias, entry.alias), handed=handed)
        case _:
            return entry


def renamed_state(packed: bytes, names: Mapping[str, str]) -> bytes:
    """Return a packed state with pseudonyms in place of the ids of others that it names."""
    state = decode_state(packed)
    state.aliases = {names.get(alias, alias): sequence for alias, sequence in state.aliases.items()}
    state.merged_into = names.get(state.merged_into, state.merged_into)
    state.outbox = [_renamed_handover(handed, names) for handed in state.outbox]
    return encode_state(state)


def _renamed_handover(handed: Handover, names: Mapping[str, str]) -> Handover:
    state = renamed_state(handed.state, names) if handed.state else b""
    entry = encode_entry(_renamed_life(decode_entry(handed.entry), names)) if handed.entry else b""
    decision = b""
    if handed.decision:
        opened = decode_open(handed.decision)
        opened.customer_id = names.get(opened.customer_id, opened.customer_id)
        decision = encode_open(opened)
    return Handover(handed.sequence, state, entry, decision)


def _renamed_life(entry: Entry, names: Mapping[str, str]) -> Entry:
    """Rename whose entry it is: what an alias did is told to its canonical customer as it was logged."""
    entry = renamed(entry, names)
    customer_id = names.get(entry.customer_id, entry.customer_id)
    match entry:
        case EventEntry():
            event = structs.replace(
                entry.event, customer_id=names.get(entry.event.customer_id, entry.event.customer_id)
            )
            entry = structs.replace(entry, event=event)
        case MovedEntry():
            entry = structs.replace(entry, into=names.get(entry.into, entry.into))
        case _:
            pass
    if isinstance(entry, EventEntry | TimerEntry | ProfileEntry):
        entry = structs.replace(entry, outcomes=tuple(_of(each, names) for each in entry.outcomes))
    if isinstance(entry, EventEntry | TimerEntry):
        entry = structs.replace(entry, goals=tuple(_of(each, names) for each in entry.goals))
    return structs.replace(entry, customer_id=customer_id)


def _of(outcome: Told, names: Mapping[str, str]) -> Told:
    return structs.replace(outcome, customer_id=names.get(outcome.customer_id, outcome.customer_id))


def _find_own(table: pa.Table, erased: Iterable[Erased], start: int, tombs: dict[int, str]) -> None:
    lives: dict[str, list[Erased]] = {}
    for each in erased:
        lives.setdefault(each.customer_id, []).append(each)
    rows = pc.indices_nonzero(pc.is_in(table.column("customer_id"), pa.array([*lives]))).to_pylist()
    for row, part in zip(rows, table.take(rows).to_pylist() if rows else (), strict=True):
        for each in lives[part["customer_id"]]:
            if each.owns(part["partition"], part["log_ms"], part["log_seq"]):
                tombs.setdefault(start + row, each.erasure_id)


def _find_named(
    table: pa.Table, erased: Sequence[Erased], start: int, named: dict[int, tuple[bytes, list[str]]]
) -> None:
    rows = pc.indices_nonzero(pc.is_in(table.column("kind"), pa.array(MERGES))).to_pylist()
    for row, part in zip(rows, table.take(rows).to_pylist() if rows else (), strict=True):
        payload: bytes = part["payload"]
        found = [each for each in erased if part["log_ms"] <= each.until.ms and each.customer_id.encode() in payload]
        names = {each.customer_id: each.pseudonym for each in found}
        if names and (changed := encode_entry(renamed(decode_entry(payload), names))) != payload:
            named[start + row] = changed, [each.erasure_id for each in found]


def _may_hold(ranges: Mapping[str, tuple[object, object]], erased: Erased) -> bool:
    return _within(ranges, "partition", erased.until.partition) and _within(ranges, "customer_id", erased.customer_id)


def _may_name(ranges: Mapping[str, tuple[object, object]]) -> bool:
    """Tell whether there may be merges: their kinds come before all others in the alphabet but `admin`."""
    low, _ = ranges.get("kind", ("", ""))
    return str(low) <= MERGES[-1]


def _within(ranges: Mapping[str, tuple[object, object]], name: str, value: int | str) -> bool:
    if name not in ranges:
        return True
    low, high = ranges[name]
    return low <= value <= high  # type: ignore[operator] # of one type, the column's


def _ranges(group: pq.RowGroupMetaData) -> dict[str, tuple[object, object]]:
    """Return least and greatest value of the columns that are searched by, where the file tells."""
    found: dict[str, tuple[object, object]] = {}
    for at in range(group.num_columns):
        column = group.column(at)
        if column.path_in_schema in ("partition", "customer_id", "kind"):
            statistics = column.statistics
            if statistics is not None and statistics.has_min_max:
                found[column.path_in_schema] = statistics.min, statistics.max
    return found


def _places(table: pa.Table) -> list[Place]:
    columns = (table.column(name).to_pylist() for name in ("partition", "log_ms", "log_seq"))
    return [Place(*place) for place in zip(*columns, strict=True)]


def _entry(place: Place, payload: bytes) -> LogEntry:
    return LogEntry(place.partition, f"{place.ms}-{place.sequence}", payload)


def _why(erased: Sequence[Erased], rows: Mapping[str, int], hits: Hits) -> dict[str, str]:
    concerned = [each for each in erased if each.erasure_id in hits.erasures]
    return {
        "reason": REASON,
        "erasure": ",".join(each.erasure_id for each in concerned),
        "rows": ",".join(str(rows[each.erasure_id]) for each in concerned),
        "renamed": str(len(hits.named)),
        "by": ", ".join(dict.fromkeys(each.by for each in concerned if each.by)),
    }


def _write(path: Path, table: pa.Table, about: Mapping[str, str]) -> None:
    """Write a file that is whole, or not there."""
    part = path.with_suffix(".part")
    write_segment(part, table, about)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(path)
    sync_directory(path.parent)


def _revision(file: str) -> int:
    _, _, revision = Path(file).stem.partition(".r")
    return int(revision or 0)
