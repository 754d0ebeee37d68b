"""The chain's file under everything that may happen to a file: crashes, full disks, second writers, edits."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from nbx.audit.chain import CHAIN, START, Chain, Damaged, Record, Span, covering, read_records, segment_file
from nbx.audit.heads import public_hex
from nbx.audit.records import line_of, sealed
from nbx.errors import Conflict
from tests.archives import KEY, write_archive

BEGIN = Record(kind="begin", n=0, at_ms=1, prev="", public_key=public_hex(KEY))


def segment(n: int, first: int = 0, last: int = 0, partition: int = 0) -> Record:
    first = first or n * 10
    last = last or first + 5
    return Record(
        kind="segment", n=n, at_ms=n, prev="", file=segment_file(n, "2026-01-31"), rows=2,
        spans={partition: Span(f"{first}-0", f"{last}-0", 2)}, from_ms=first, to_ms=last,
    )  # fmt: skip


def begun(directory: Path, segments: int = 2) -> Chain:
    chain = Chain.open(directory)
    chain.append(BEGIN)
    for n in range(1, segments + 1):
        chain.append(segment(n))
    return chain


def content(directory: Path) -> bytes:
    return (directory / CHAIN).read_bytes()


def test_what_is_appended_is_read_again(tmp_path: Path) -> None:
    chain = begun(tmp_path / "not" / "yet")
    again = Chain.open(chain.directory)
    assert (again.hash, again.segments, again.public_key) == (chain.hash, chain.segments, public_hex(KEY))
    assert again.last_ids() == {0: "25-0"}
    assert [record.n for record in covering(again.segments, 0, "15-0")] == [2]
    assert [record.n for record in covering(again.segments, 0, "14-9")] == [1, 2]


def test_nothing_is_an_empty_chain(tmp_path: Path) -> None:
    for directory in (tmp_path / "none", tmp_path):
        assert (Chain.open(directory, repair=True).head, Chain.open(directory).hash) == (None, START)
        assert list(read_records(directory)) == []
    (tmp_path / CHAIN).touch()
    assert Chain.open(tmp_path).head is None
    assert begun(tmp_path).hash == Chain.open(tmp_path).hash


def test_a_reader_takes_in_what_is_added_and_no_half_line(tmp_path: Path) -> None:
    writer = begun(tmp_path)
    reader = Chain.open(tmp_path)
    assert not reader.refresh()
    line = line_of(sealed(structs.replace(segment(3), prev=writer.hash)))
    for end in (1, len(line) // 2, len(line) - 1):
        (tmp_path / CHAIN).write_bytes(content(tmp_path).rpartition(b"\n")[0] + b"\n" + line[:end])
        assert not reader.refresh()
    writer.append(segment(3))
    assert reader.refresh()
    assert reader.hash == writer.hash


@pytest.mark.parametrize("repair", [True, False])
@pytest.mark.parametrize("torn", [b"{", b'{"kind":"segment","n":3', b"\x00\xff", b"x" * 100_000])
def test_what_a_crash_left_of_a_line_is_written_over(tmp_path: Path, torn: bytes, repair: bool) -> None:
    begun(tmp_path)
    whole = content(tmp_path)
    (tmp_path / CHAIN).write_bytes(whole + torn)
    chain = Chain.open(tmp_path, repair=repair)
    assert content(tmp_path) == (whole if repair else whole + torn)
    chain.append(segment(3))
    assert content(tmp_path).startswith(whole)
    assert Chain.open(tmp_path).hash == chain.hash


def test_a_first_line_that_was_torn_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / CHAIN).write_bytes(b'{"kind":"beg')
    assert Chain.open(tmp_path).head is None
    assert Chain.open(tmp_path, repair=True).head is None
    assert content(tmp_path) == b""
    begun(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"null",
        b"\xff\xfe",
        b'{"kind":"segment"}',
        b"[" * 100_000,
        b'{"kind":"begin","n":0,"at_ms":"\xc3\x28"}',
    ],
)
def test_a_line_that_is_no_record_is_refused_and_told_with_its_number(tmp_path: Path, line: bytes) -> None:
    begun(tmp_path)
    reader = Chain.open(tmp_path)
    (tmp_path / CHAIN).write_bytes(content(tmp_path) + line + b"\n")
    for refused in (reader.refresh, lambda: Chain.open(tmp_path), lambda: Chain.open(tmp_path, repair=True)):
        with pytest.raises(Damaged, match="no record"):
            refused()
    last = list(read_records(tmp_path))[-1]
    assert last[0] == 4
    assert str(last[1]).startswith("is no record")


def test_nothing_can_be_put_into_a_line_that_no_hash_covers(tmp_path: Path) -> None:
    begun(tmp_path)
    whole = content(tmp_path)
    for old, new in (
        (b'"n":2,', b'"n":2, '),
        (b'"n":2,', b'"n":2,"note":1,'),
        (b'"n":2,', b'"n":1,"n":2,'),
        (b"\n", b"\r\n"),
    ):
        assert old in whole
        (tmp_path / CHAIN).write_bytes(whole.replace(old, new))
        with pytest.raises(Damaged, match="laid out anew"):
            Chain.open(tmp_path)


def test_a_later_format_is_told_as_such(tmp_path: Path) -> None:
    begun(tmp_path)
    later = sealed(structs.replace(segment(3), prev=Chain.open(tmp_path).hash, format=2))
    (tmp_path / CHAIN).write_bytes(content(tmp_path) + line_of(later))
    with pytest.raises(Damaged, match="later version"):
        Chain.open(tmp_path)


def test_a_chain_that_was_cut_or_is_gone_is_not_gone_on_with(tmp_path: Path) -> None:
    chain = begun(tmp_path)
    whole = content(tmp_path)
    (tmp_path / CHAIN).write_bytes(whole[:-40])
    for refused in (chain.refresh, lambda: chain.append(segment(3))):
        with pytest.raises(Damaged, match="was cut"):
            refused()
    assert content(tmp_path) == whole[:-40]
    (tmp_path / CHAIN).unlink()
    with pytest.raises(Damaged, match="is gone"):
        chain.refresh()
    with pytest.raises(Damaged, match="was cut"):
        chain.append(segment(3))


def test_a_second_writer_is_not_written_over(tmp_path: Path) -> None:
    mine, other = begun(tmp_path), Chain.open(tmp_path)
    other.append(segment(3))
    with pytest.raises(Conflict):
        mine.append(segment(3))
    assert mine.refresh()
    mine.append(segment(4))
    assert Chain.open(tmp_path).hash == mine.hash


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (BEGIN, "second time"),
        (segment(2), "again"),
        (segment(4), "segment 3 is missing"),
        (segment(5), "segments 3 to 4 are missing"),
        (segment(3, first=25), "archived up to 25-0"),
        (segment(3, first=40, last=39), "span"),
        (structs.replace(segment(3), rows=3), "tells of 3 rows"),
        (structs.replace(segment(3), file="../../etc/passwd"), "not named"),
        (structs.replace(segment(3), file=segment_file(4, "2026-01-31")), "not named"),
        (structs.replace(segment(1), kind="rewrite", before="1" * 64), "start its rows"),
        (structs.replace(segment(1), kind="rewrite", rows=1), "keep its rows"),
        (structs.replace(segment(7), kind="rewrite"), "no record before"),
    ],
)
def test_a_record_that_does_not_fit_is_not_written(tmp_path: Path, record: Record, why: str) -> None:
    chain = begun(tmp_path)
    whole = content(tmp_path)
    with pytest.raises(Damaged, match=why):
        chain.append(record, KEY)
    assert content(tmp_path) == whole
    chain.append(segment(3))


def test_a_rewrite_needs_the_key_the_chain_began_with(tmp_path: Path) -> None:
    chain = begun(tmp_path)
    first = chain.segments[1]
    anew = structs.replace(
        first, kind="rewrite", file=segment_file(1, "2026-01-31", revision=1), before=first.prev, hash=""
    )
    with pytest.raises(Damaged, match="not signed"):
        chain.append(anew)
    chain.append(anew, KEY)
    assert Chain.open(tmp_path).segments[1].file.endswith(".r1.parquet")
    assert list(chain.segments) == [1, 2]
    assert chain.last_ids() == {0: "25-0"}


FULL = """
import resource, signal, sys
from pathlib import Path
from nbx.audit.chain import Chain
from tests.unit.audit.test_chain import CHAIN, content, segment
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
directory = Path(sys.argv[1])
chain = Chain.open(directory)
whole = content(directory)
resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 50, resource.RLIM_INFINITY))
try:
    chain.append(segment(3))
except OSError as error:
    assert content(directory) == whole, "part of a line is left"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    chain.append(segment(3))
    print(error.errno)
"""


def test_a_full_disk_leaves_the_chain_as_it_was(tmp_path: Path) -> None:
    """A bound on the size of files, in a process of its own, takes part of a line and then no more."""
    begun(tmp_path)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], cwd=root, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.strip() == str(errno.EFBIG), done.stderr
    assert list(Chain.open(tmp_path).segments) == [1, 2, 3]


def test_tidy_deletes_what_a_crash_left_and_nothing_else(tmp_path: Path) -> None:
    chain = write_archive(tmp_path, 3, 6)
    day = (tmp_path / chain.segments[3].file).parent
    left = [day / name for name in ("00000004.parquet", "00000004.tmp", "00000002.r1.parquet")]
    other = [day / name for name in ("00000009.parquet", "notes.txt")]
    for path in (*left, *other):
        path.write_bytes(b"x")
    assert set(Chain.open(tmp_path).tidy()) == set(left)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in other)
    (tmp_path / CHAIN).unlink()
    Chain.open(tmp_path).tidy()
    kept = [record.file for record in chain.segments.values() if record.n > 1]
    assert all((tmp_path / file).exists() for file in kept), "without its chain an archive is not thrown away"
