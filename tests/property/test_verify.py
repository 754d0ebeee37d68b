"""Any single change of an archive is found and located, also one by somebody who recomputes hashes; nothing else is."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from nbx.audit.chain import CHAIN, Chain, Record, file_hash, sealed
from nbx.audit.heads import signed_head
from nbx.audit.records import line_of, read_line
from nbx.audit.segment_check import Fault
from nbx.audit.segments import SCHEMA, entries_of, next_hash, place_of, read_about, write_segment
from nbx.audit.verify import ArchiveHead, Kept, verify
from tests.archives import DAY_MS, SECRET, START_MS, add_segment, entries, rewrite, write_archive

OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
SEGMENTS = 5
ERASED = 2
"""Of the rewritten segment's rows some are erased."""


@pytest.fixture(scope="module")
def whole() -> Iterator[Path]:
    """An archive of five segments, the second rewritten."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        chain = write_archive(directory, SEGMENTS - 1, 18)
        rewrite(chain, ERASED, [3, 4, 10])
        add_segment(chain, entries(np.random.default_rng(9), START_MS + 2 * DAY_MS, 18, 3, 3, step=90))
        yield directory


class Copy:
    """An archive to be changed, and how it was."""

    def __init__(self, whole: Path, directory: Path) -> None:
        self.directory = directory / "archive"
        shutil.copytree(whole, self.directory)
        chain = Chain.open(whole)
        assert chain.head is not None
        self.segments = chain.segments
        self.kept = Kept(head=ArchiveHead(chain.head.n, chain.hash), public_key=chain.public_key)
        self.head = signed_head(chain, SECRET, START_MS)
        self._before = self._bytes()

    def _bytes(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.directory)): path.read_bytes() for path in self.directory.rglob("*.*")}

    def path(self, n: int) -> Path:
        return self.directory / self.segments[n].file

    def table(self, n: int) -> pa.Table:
        return pq.ParquetFile(self.path(n)).read()

    def write(self, n: int, table: pa.Table) -> None:
        """Write a segment's rows as nbx would."""
        about = read_about(self.path(n))
        write_segment(self.path(n), table, {"n": about["n"], "prev": about["prev"]})

    def lines(self) -> list[bytes]:
        return (self.directory / CHAIN).read_bytes().splitlines(keepends=True)

    def write_lines(self, lines: list[bytes]) -> None:
        (self.directory / CHAIN).write_bytes(b"".join(lines))

    def faults(self, *, kept: bool = False, heads: bool = False) -> tuple[Fault, ...]:
        """Verify; something has to have been changed."""
        now = self._bytes()
        assert now != self._before, "the mutation changes nothing"
        found = verify(self.directory, kept=self.kept if kept else None, heads=[self.head] if heads else (), rows=False)
        assert len({*map(str, found.faults)}) == len(found.faults), "told twice"
        return found.faults


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Copy:
    return Copy(whole, tmp_path)


def in_copy(whole: Path, check: Callable[[Copy], None]) -> None:
    with tempfile.TemporaryDirectory() as name:
        check(Copy(whole, Path(name)))


def blamed(faults: tuple[Fault, ...]) -> set[int | None]:
    return {fault.segment for fault in faults}


def rows_of(faults: tuple[Fault, ...]) -> set[int | None]:
    return {fault.row for fault in faults if fault.where == "row"}


def other(value: Any, kind: pa.DataType) -> Any:
    """Return another value of a type."""
    if pa.types.is_list(kind):
        return [*value, None] if value is not None else []
    if value is None:
        return {pa.types.is_string: "x", pa.types.is_timestamp: datetime(2020, 1, 1)}.get(  # noqa: DTZ001
            next((f for f in (pa.types.is_string, pa.types.is_timestamp) if f(kind)), None), 0
        )
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, datetime):
        return value + timedelta(milliseconds=1)
    if isinstance(value, bytes):
        return bytes([*value[:-1], value[-1] ^ 1]) if value else b"\x00"
    return value + 1


segments = st.integers(1, SEGMENTS)
rows = st.integers(0, 1_000)
few = settings(max_examples=15, deadline=None)


def test_a_whole_archive_has_no_fault(whole: Path) -> None:
    copy_of = verify(whole)
    assert copy_of.faults == ()
    assert (copy_of.segments, copy_of.rows) == (SEGMENTS, SEGMENTS * 21)
    assert verify(whole, rows=True).faults == ()
    chain = Chain.open(whole)
    kept = Kept(head=ArchiveHead(SEGMENTS, chain.hash), public_key=chain.public_key)
    heads = [signed_head(chain, SECRET, START_MS)]
    assert verify(whole, kept=kept, heads=heads).faults == ()


def test_what_a_crash_left_of_a_line_is_no_fault(copy: Copy) -> None:
    copy.write_lines([*copy.lines(), b'{"kind":"segment","n":6'])
    assert copy.faults(kept=True, heads=True) == ()


@few
@given(n=segments, at=rows, column=st.sampled_from(SCHEMA.names))
def test_an_edited_cell_is_located_to_row_and_column(whole: Path, n: int, at: int, column: str) -> None:
    def check(copy: Copy) -> None:
        table = copy.table(n)
        row, number = at % len(table), SCHEMA.get_field_index(column)
        cells = table.column(column).to_pylist()
        cells[row] = other(cells[row], SCHEMA.field(column).type)
        copy.write(n, table.set_column(number, SCHEMA.field(column), pa.array(cells, SCHEMA.field(column).type)))
        faults = copy.faults()
        assert blamed(faults) == {n}
        assert row + 1 in rows_of(faults) <= {row + 1, row + 2}
        if column not in ("partition", "log_ms", "log_seq", "payload"):
            (fault,) = (each for each in faults if each.row == row + 1)
            assert column in fault.column.split(", ")

    in_copy(whole, check)


@few
@given(n=segments, at=rows, how=st.sampled_from(["delete", "duplicate", "swap"]), distance=st.integers(1, 20))
def test_a_missing_doubled_or_moved_row_is_located(whole: Path, n: int, at: int, how: str, distance: int) -> None:
    def check(copy: Copy) -> None:
        table = copy.table(n)
        count = len(table)
        row = at % count
        order = list(range(count))
        if how == "delete":
            del order[row]
        elif how == "duplicate":
            order.insert(row + 1, row)
        else:
            partner = (row + distance) % count
            order[row], order[partner] = order[partner], order[row]
        copy.write(n, table.take(order))
        faults = copy.faults()
        assert blamed(faults) == {n}
        if how == "delete" and row == count - 1:
            last = place_of(entries_of(table)[-1])
            assert (last.partition, f"{last.ms}-{last.sequence}") in {(f.partition, f.log_id) for f in faults}
        elif how == "duplicate":
            assert rows_of(faults) == {row + 2}
        else:
            assert row + 1 in rows_of(faults)
        if how == "swap":
            assert partner + 1 in rows_of(faults)
        if how != "swap":
            assert any("was written with" in fault.what for fault in faults), "the number of rows is told"

    in_copy(whole, check)


def with_hashes(table: pa.Table, start: bytes) -> pa.Table:
    """Return rows with their hashes made anew, as somebody would who knows how."""
    hashes, before = [], start
    for entry in entries_of(table):
        before = next_hash(before, place_of(entry), entry.payload)
        hashes.append(before)
    return table.set_column(len(SCHEMA) - 1, SCHEMA.field("row_hash"), pa.array(hashes, pa.binary(32)))


@few
@given(n=segments, at=rows, twice=st.booleans())
def test_order_locates_rows_whose_hashes_were_made_anew(whole: Path, n: int, at: int, twice: bool) -> None:
    def check(copy: Copy) -> None:
        table, record = copy.table(n), copy.segments[n]
        row = at % (len(table) - 1)
        order = list(range(len(table)))
        order[row + 1 : row + 2] = [row, row + 1] if twice else [row]
        order[row] = row if twice else row + 1
        copy.write(n, with_hashes(table.take(order), bytes.fromhex(record.before or record.prev)))
        faults = copy.faults()
        assert rows_of(faults) == {row + 2}
        (fault,) = (each for each in faults if each.where == "row")
        assert ("twice" if twice else "follows") in fault.what

    in_copy(whole, check)


def forge(copy: Copy, n: int, at: int) -> tuple[str, str]:
    """Take a row out of a segment and make its hashes anew; returns sha256 of the file and hash of the last row."""
    table, record = copy.table(n), copy.segments[n]
    row = at % len(table)
    table = with_hashes(
        table.take([each for each in range(len(table)) if each != row]), bytes.fromhex(record.before or record.prev)
    )
    copy.write(n, table)
    return file_hash(copy.path(n)), table.column("row_hash")[-1].as_py().hex()


def position(lines: list[bytes], n: int) -> int:
    """Return where the newest record of a segment stands."""
    return max(at for at, line in enumerate(lines) if record_of(line).n == n)


def record_of(line: bytes) -> Record:
    record = read_line(line.rstrip(b"\n"))
    assert isinstance(record, Record)
    return record


@settings(max_examples=15, deadline=None)
@given(n=segments, at=rows, skill=st.integers(0, 3))
def test_a_forger_who_makes_hashes_anew_is_found(whole: Path, n: int, at: int, skill: int) -> None:
    """Skill 0: row hashes; 1: also the record's sha256; 2: also the record's hash; 3: also all records after it."""

    def check(copy: Copy) -> None:
        sha256, rows_hash = forge(copy, n, at)
        lines = copy.lines()
        where = position(lines, n)
        if skill:
            record = structs.replace(record_of(lines[where]), sha256=sha256, rows_hash=rows_hash)
            lines[where] = line_of(record if skill == 1 else sealed(record))
        if skill == 3:
            for number in range(where + 1, len(lines)):
                lines[number] = line_of(
                    sealed(structs.replace(record_of(lines[number]), prev=record_of(lines[number - 1]).hash))
                )
        copy.write_lines(lines)
        faults = copy.faults(kept=True, heads=True)
        assert faults
        if skill < 3:
            assert n in blamed(faults)
        if skill < 2 or (skill == 2 and where + 1 < len(lines)):
            assert n in blamed(copy.faults()), "without anything but the directory"
        assert (skill < 2) or any(fault.where == "head" for fault in faults) or where + 1 < len(lines)

    in_copy(whole, check)


def test_a_chain_made_anew_from_the_first_line_is_found_by_its_key_and_heads(copy: Copy, tmp_path: Path) -> None:
    """Another installation's archive is consistent in itself."""
    shutil.rmtree(copy.directory)
    write_archive(copy.directory, SEGMENTS, 18, seed=2)
    assert copy.faults() == (), "nothing tells but what is kept elsewhere"
    assert {fault.where for fault in copy.faults(kept=True)} == {"head"}
    assert {fault.where for fault in copy.faults(heads=True)} == {"head"}


def rename(copy: Copy, n: int) -> set[int]:
    copy.path(n).rename(copy.path(n).with_name("00000099.parquet"))
    return {n}


def swap(copy: Copy, n: int) -> set[int]:
    second = n % SEGMENTS + 1
    content = copy.path(n).read_bytes()
    copy.path(n).write_bytes(copy.path(second).read_bytes())
    copy.path(second).write_bytes(content)
    return {n, second}


def duplicate(copy: Copy, n: int) -> set[int]:
    shutil.copy(copy.path(n), copy.path(n).with_name(f"{SEGMENTS + 1:08d}.parquet"))
    return {n}


def duplicate_elsewhere(copy: Copy, n: int) -> set[int]:
    (copy.directory / "day=2020-01-01").mkdir()
    shutil.copy(copy.path(n), copy.directory / "day=2020-01-01" / copy.path(n).name)
    return {n}


def put_beside(copy: Copy, n: int) -> set[int]:
    copy.path(n).with_name(f"{n:08d}.r7.parquet").write_bytes(b"anything")
    return {n}


def put_next(copy: Copy, n: int) -> set[int]:
    copy.path(n).with_name(f"{SEGMENTS + 1:08d}.parquet").write_bytes(b"anything")
    return {SEGMENTS + 1}


def remove(copy: Copy, n: int) -> set[int]:
    copy.path(n).unlink()
    return {n}


def overwrite(copy: Copy, n: int) -> set[int]:
    """Put the segment before in its place."""
    shutil.copy(copy.path((n - 2) % SEGMENTS + 1), copy.path(n))
    return {n}


def empty(copy: Copy, n: int) -> set[int]:
    copy.path(n).write_bytes(b"")
    return {n}


def lay_out_anew(copy: Copy, n: int) -> set[int]:
    """Keep every row; only the bytes differ."""
    table = copy.table(n)
    pq.write_table(table, copy.path(n), compression="snappy")
    return {n}


def drop_column(copy: Copy, n: int) -> set[int]:
    table = copy.table(n)
    pq.write_table(table.drop_columns(["payload"]), copy.path(n))
    return {n}


CHANGES = [
    rename, swap, duplicate, duplicate_elsewhere, put_beside, put_next, remove, overwrite, empty, lay_out_anew,
    drop_column,
]  # fmt: skip


@pytest.mark.parametrize("n", [1, ERASED, SEGMENTS])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_gone_moved_or_put_there_is_located(
    copy: Copy, change: Callable[[Copy, int], set[int]], n: int
) -> None:
    touched = change(copy, n)
    assert blamed(copy.faults()) == touched


@few
@given(n=segments, at=st.integers(0, 10**6), bit=st.integers(0, 7), how=st.sampled_from(["flip", "cut", "add"]))
def test_any_byte_of_a_file_counts(whole: Path, n: int, at: int, bit: int, how: str) -> None:
    def check(copy: Copy) -> None:
        content = bytearray(copy.path(n).read_bytes())
        place = at % len(content)
        if how == "flip":
            content[place] ^= 1 << bit
        elif how == "cut":
            del content[place:]
        else:
            content.insert(place, bit)
        copy.path(n).write_bytes(content)
        assert blamed(copy.faults()) == {n}

    in_copy(whole, check)


lines_at = st.integers(0, SEGMENTS + 1)


@few
@given(at=lines_at, second=lines_at, how=st.sampled_from(["delete", "duplicate", "move"]))
def test_a_missing_doubled_or_moved_record_is_located(whole: Path, at: int, second: int, how: str) -> None:
    def check(copy: Copy) -> None:
        lines = copy.lines()
        touched = {record_of(lines[at]).n or None}
        if how == "delete":
            del lines[at]
        elif how == "duplicate":
            lines.insert(second, lines[at])
        elif at == second:
            return
        else:
            touched.add(record_of(lines[second]).n or None)
            lines[at], lines[second] = lines[second], lines[at]
        copy.write_lines(lines)
        faults = copy.faults(kept=True)
        assert touched & blamed(faults), (touched, [*map(str, faults)])
        assert any(fault.where != "file" for fault in faults)

    in_copy(whole, check)


FIELDS = ["n", "at_ms", "prev", "file", "sha256", "rows", "rows_hash", "spans", "from_ms", "to_ms", "why", "public_key"]


@few
@given(at=lines_at, field=st.sampled_from(FIELDS), anew=st.booleans())
def test_an_edited_record_is_located(whole: Path, at: int, field: str, anew: bool) -> None:
    def check(copy: Copy) -> None:
        lines = copy.lines()
        record = record_of(lines[at])
        value: Any = getattr(record, field)
        if isinstance(value, dict):
            value = {"by": "me"} if field == "why" else dict(list(value.items())[1:]) or {5: ("1-0", "2-0", 3)}
        else:
            value = value + ("0" if isinstance(value, str) else 1)
        edited = structs.replace(record, **{field: value})
        lines[at] = line_of(sealed(edited) if anew else edited)
        copy.write_lines(lines)
        faults = copy.faults(kept=True)
        assert {record.n or None, edited.n} & blamed(faults), [*map(str, faults)]
        assert any(fault.where in ("chain", "head") for fault in faults)

    in_copy(whole, check)


@few
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7), how=st.sampled_from(["flip", "cut", "add"]))
def test_any_byte_of_the_chain_counts(whole: Path, at: int, bit: int, how: str) -> None:
    def check(copy: Copy) -> None:
        content = bytearray(b"".join(copy.lines()))
        place = at % len(content)
        if how == "flip":
            content[place] ^= 1 << bit
        elif how == "cut":
            del content[place:]
        else:
            content.insert(place, 0x20 + bit)
        copy.write_lines([bytes(content)])
        assert copy.faults(kept=True)

    in_copy(whole, check)


def test_a_rewrite_signed_by_another_key_is_no_erasure(copy: Copy) -> None:
    chain = Chain.open(copy.directory)
    before = chain.segments[3]
    honest = rewrite(chain, 3, [5])
    lines = copy.lines()
    assert record_of(lines[-1]) == honest
    assert before.file != honest.file
    unsigned = structs.replace(honest, signature="")
    for forged in (sealed(unsigned), sealed(unsigned, OTHER_KEY)):
        copy.write_lines([*lines[:-1], line_of(forged)])
        faults = copy.faults()
        assert [(fault.where, fault.segment) for fault in faults] == [("chain", 3)]
        assert "not signed" in faults[0].what
    copy.write_lines(lines)
    assert copy.faults(kept=True, heads=True) == (), "an honest one is none, and older heads stay good"


def test_faults_in_several_places_are_all_told(copy: Copy) -> None:
    copy.path(1).unlink()
    copy.path(3).write_bytes(copy.path(3).read_bytes()[:-9])
    table = copy.table(4)
    copy.write(4, table.take([*range(6), *range(7, len(table))]))
    put_next(copy, 5)
    lines = copy.lines()
    lines[-1] = lines[-1].replace(b'"at_ms":1', b'"at_ms":2')
    copy.write_lines(lines)
    faults = copy.faults()
    assert blamed(faults) == {1, 3, 4, 5, 6}
    assert any("cut short" in fault.what for fault in faults)
