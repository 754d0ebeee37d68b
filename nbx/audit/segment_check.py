"""Whether a segment's file is what its record says, and if not, which of its rows were touched.

A file with the recorded sha256 is bit for bit what was written. One that differs is gone through row by row: each row's
hash is computed anew from the hash before it as stored, so that one edit shows at one row and not at all that follow;
rows have to stand in strictly rising order; and every typed column is computed anew from the payload beside it. What
cannot be read is told by row group and column.

Not here: the chain of records (`nbx.audit.records`), and going through a whole archive (`nbx.audit.verify`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from nbx.audit.chain import Record, Span, file_hash
from nbx.audit.records import rows_start
from nbx.audit.segments import SCHEMA, UNKNOWN_KIND, Place, entries_of, next_hash, read_about, to_table
from nbx.errors import Unsupported
from nbx.limits import VERIFY_ROW_FAULTS

_UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError, KeyError)
_MAGIC: Final = b"PAR1"
_KEYS: Final = ("partition", "log_ms", "log_seq", "payload", "row_hash")
_FOLLOWING: Final = [name for name in SCHEMA.names if name not in _KEYS]
"""Columns that follow from the others."""


class Fault(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that is not as it was written, and where."""

    where: Literal["chain", "file", "row", "head", "live"]
    what: str
    segment: int | None = None
    file: str = ""
    """Within the archive."""
    row: int | None = None
    """From 1, in the file."""
    partition: int | None = None
    log_id: str = ""
    column: str = ""
    """Comma-separated where there are several."""

    def __str__(self) -> str:
        """Return the fault as a line for people."""
        place = [
            "" if self.segment is None else f"segment {self.segment}",
            self.file,
            "" if self.row is None else f"row {self.row}",
            f"partition {self.partition} log id {self.log_id}" if self.log_id else "",
            self.column and f"column {self.column}",
        ]
        return f"{', '.join(filter(None, place)) or self.where}: {self.what}"


def check_file(directory: Path, record: Record, others: Mapping[str, int]) -> tuple[list[Fault], bool]:
    """Check the file of a segment as a whole.

    Parameters
    ----------
    others
        sha256 → the segment whose file has it.

    Returns
    -------
    list of Fault, bool
        Whether its rows have to be looked at to say more: the file is there, and is not the recorded one.
    """
    try:
        found = file_hash(directory / record.file)
    except FileNotFoundError:
        return [_of_file(record, "is missing")], False
    except OSError as error:
        return [_of_file(record, f"cannot be read: {error}")], False
    if found == record.sha256:
        return _about(directory / record.file, record), False
    if found in others:
        return [_of_file(record, f"holds the file of segment {others[found]}: files were swapped or copied")], False
    return [], True


def check_rows(directory: Path, record: Record, *, as_recorded: bool) -> list[Fault]:
    """Go through the rows of a segment's file.

    Parameters
    ----------
    as_recorded
        The file has the recorded sha256. Then rows that an earlier version of nbx could not read are let be; otherwise
        it is a fault in itself, also when every row is whole.
    """
    look = _Look(record)
    path = directory / record.file
    try:
        with pq.ParquetFile(path) as file:
            look.run(path, file)
    except _UNREADABLE as error:
        look.tell(f"{_shape(path)}: {_said(error)}")
    faults = look.result(as_recorded=as_recorded)
    if not faults and not as_recorded:
        faults = [_of_file(record, "its bytes are not those recorded, though every row is whole and as it was")]
    return faults


def _of_file(record: Record, what: str) -> Fault:
    return Fault(where="file", what=what, segment=record.n, file=record.file)


def _about(path: Path, record: Record) -> list[Fault]:
    try:
        about = read_about(path)
    except Unsupported as error:
        return [_of_file(record, error.message.removeprefix(f"{path}: "))]
    told = [("n", about.get("n"), {str(record.n)}), ("prev", about.get("prev"), {record.prev, rows_start(record)})]
    return [
        _of_file(record, f"its metadata says {name} {said}, its record {min(expected)}")
        for name, said, expected in told
        if said is not None and said not in expected
    ]


def _shape(path: Path) -> str:
    """Say what a file looks like that Parquet's reader refuses."""
    if not path.exists():
        return "is missing"
    content = path.read_bytes() if path.is_file() else b""
    if not content:
        return "is empty"
    if not content.startswith(_MAGIC):
        return "is no Parquet file"
    if not content.endswith(_MAGIC):
        return "is cut short or half-written"
    return "is damaged"


class _Look:
    """A look into one file: row group after row group, with what was found about each row."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._faults: list[Fault] = []
        self._of_row: dict[int, list[str]] = defaultdict(list)
        self._columns: dict[int, list[str]] = defaultdict(list)
        self._unknown: set[int] = set()
        self._places: dict[int, Place] = {}
        self._spans: dict[int, Span] = {}
        self._hash: bytes | None = bytes.fromhex(rows_start(record))
        """Of the row before, as stored; None: it could not be read."""
        self._before: Place | None = None
        self._rows = 0
        self._complete = True

    def tell(self, what: str, column: str = "") -> None:
        record = self._record
        self._faults.append(Fault(where="file", what=what, segment=record.n, file=record.file, column=column))

    def run(self, path: Path, file: Any) -> None:
        self._faults += _about(path, self._record)
        if not self._shaped(file.schema_arrow):
            return
        for number in range(file.num_row_groups):
            count = file.metadata.row_group(number).num_rows
            table = self._read(file, number, count)
            if table is None:
                self._hash, self._complete = None, False
                self._rows += count
            else:
                self._group(table)
        if self._complete:
            self._ends()

    def result(self, *, as_recorded: bool) -> list[Fault]:
        record, faults = self._record, list(self._faults)
        touched = sorted(self._of_row.keys() | self._columns.keys())
        if as_recorded:
            let_be = self._unknown - self._of_row.keys()
            touched = [row for row in touched if row not in let_be or "row_hash" in self._columns[row]]
        for row in touched[:VERIFY_ROW_FAULTS]:
            columns, place = self._columns.get(row, ()), self._places.get(row)
            said = [*self._of_row.get(row, ()), *(["it is not what follows from the payload"] if columns else ())]
            faults.append(
                Fault(
                    where="row", what="; ".join(said), segment=record.n, file=record.file, row=row + 1,
                    partition=place.partition if place else None,
                    log_id=f"{place.ms}-{place.sequence}" if place else "", column=", ".join(columns),
                )
            )  # fmt: skip
        if len(touched) > VERIFY_ROW_FAULTS:
            faults.append(_of_file(record, f"{len(touched) - VERIFY_ROW_FAULTS} more rows are not as they were"))
        return faults

    def _shaped(self, found: Any) -> bool:
        """Check the columns; tells whether rows can be read."""
        for field in SCHEMA:
            at = found.get_field_index(field.name)
            if at < 0:
                self.tell("is missing", field.name)
            elif found.field(at).type != field.type:
                self.tell(f"is {found.field(at).type}, should be {field.type}", field.name)
        for name in found.names:
            if name not in SCHEMA.names:
                self.tell("does not belong here", name)
        if not self._faults and found.names != SCHEMA.names:
            self.tell("its columns stand in another order")
        return all(found.get_field_index(key) >= 0 and found.field(key).type == SCHEMA.field(key).type for key in _KEYS)

    def _read(self, file: Any, number: int, count: int) -> pa.Table | None:
        """Return a row group, without columns that cannot be read; None when no row can be told from another."""
        try:
            return file.read_row_group(number)
        except _UNREADABLE:
            parts = {}
            for name in file.schema_arrow.names:
                try:
                    parts[name] = file.read_row_group(number, columns=[name]).column(name)
                except _UNREADABLE as error:
                    self.tell(f"cannot be read in rows {self._rows + 1} to {self._rows + count}: {_said(error)}", name)
            return pa.table(parts) if all(key in parts for key in _KEYS) else None

    def _group(self, table: pa.Table) -> None:
        columns = [table.column(name).to_pylist() for name in _KEYS]
        whole = []
        for number, cells in enumerate(zip(*columns, strict=True)):
            row = self._rows + number
            partition, ms, sequence, payload, rows_hash = cells
            if None in cells:
                self._of_row[row].append(f"it has no {_KEYS[cells.index(None)]}")
                self._hash = rows_hash
                continue
            whole.append(number)
            self._place(row, Place(partition, ms, sequence))
            self._hashed(row, number, columns, payload, rows_hash)
        if len(whole) < len(table):
            table = table.take(whole)
        self._typed(table, [self._rows + number for number in whole])
        self._rows += len(columns[0])

    def _place(self, row: int, place: Place) -> None:
        self._places[row] = place
        before, self._before = self._before, place
        if before is not None and place <= before:
            twice = "it is there twice" if place == before else f"it follows {before.ms}-{before.sequence}"
            self._of_row[row].append(f"{twice}{'' if place == before else f' of partition {before.partition}'}")
        log_id = f"{place.ms}-{place.sequence}"
        span = self._spans.get(place.partition, Span(log_id, log_id, 0))
        self._spans[place.partition] = Span(span.first, log_id, span.count + 1)

    def _hashed(self, row: int, number: int, columns: Sequence[list[Any]], payload: bytes, rows_hash: bytes) -> None:
        before, self._hash = self._hash, rows_hash
        if before is None:
            return
        expected = next_hash(before, self._places[row], payload)
        if rows_hash == expected:
            return
        # when what follows goes on from the expected hash, only the hash itself was touched
        following = [column[number + 1] for column in columns] if number + 1 < len(columns[0]) else None
        if following is None:
            alone = expected.hex() == self._record.rows_hash
        else:
            alone = None not in following and following[4] == next_hash(expected, Place(*following[:3]), following[3])
        if alone:
            self._hash = expected
            self._columns[row].append("row_hash")
        else:
            self._of_row[row].append("it was edited, or a row before it was removed, added or moved")

    def _typed(self, table: pa.Table, rows: Sequence[int]) -> None:
        expected = to_table(entries_of(table), bytes(32))
        for name in _FOLLOWING:
            at = table.schema.get_field_index(name)
            if at < 0 or table.schema.field(at).type != SCHEMA.field(name).type:
                continue
            found, right = table.column(at).combine_chunks(), expected.column(name).combine_chunks()
            if found.equals(right):
                continue
            for number, row in enumerate(rows):
                if not _same(found.slice(number, 1), right.slice(number, 1)):
                    self._columns[row].append(name)
        if "kind" in table.column_names:
            kinds = table.column("kind").to_pylist()
            self._unknown |= {row for row, kind in zip(rows, kinds, strict=True) if kind == UNKNOWN_KIND}

    def _ends(self) -> None:
        """Compare what all rows are together with the record."""
        record = self._record
        if self._rows != record.rows:
            self.tell(f"holds {self._rows} rows, was written with {record.rows}")
        for partition in sorted(self._spans.keys() | record.spans.keys()):
            found, told = self._spans.get(partition, Span("", "", 0)), record.spans.get(partition, Span("", "", 0))
            if found == told:
                continue
            lost = told.last if found.last != told.last else told.first if found.first != told.first else ""
            what = f"partition {partition} holds {_words(found)}, was written with {_words(told)}"
            self._faults.append(
                Fault(where="file", what=what, segment=record.n, file=record.file, partition=partition, log_id=lost)
            )
        if self._hash is not None and self._hash.hex() != record.rows_hash and not self._of_row and not self._faults:
            self.tell("its last row is not the one recorded")


def _said(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _words(span: Span) -> str:
    return f"{span.count} rows, {span.first} to {span.last}" if span.count else "none"


def _same(one: pa.Array, other: pa.Array) -> bool:
    """Compare arrays of one cell; NaN is NaN."""
    if one.equals(other):
        return True
    try:
        return repr(one.to_pylist()) == repr(other.to_pylist())
    except (ValueError, OverflowError):  # a time that no calendar has
        return False
