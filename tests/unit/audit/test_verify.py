"""What Redis and others hold against an archive, and what happens to it while it is verified."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs

from nbx.audit.chain import CHAIN, Chain
from nbx.audit.heads import public_hex, read_heads, signed_head
from nbx.audit.segment_check import Fault
from nbx.audit.verify import ArchiveHead, Kept, LiveLog, Verification, verify
from nbx.errors import Conflict, SetupError, Unknown
from tests.archives import KEY, SECRET, START_MS, rewrite, write_archive

PARTITION = 1


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return write_archive(tmp_path_factory.mktemp("archive"), 3, 9)


def live(chain: Chain, **changes: object) -> Kept:
    """Return what Redis says when everything up to the middle of the last segment is trimmed."""
    last = chain.last_ids()[PARTITION]
    archived = sum(record.spans[PARTITION].count for record in chain.segments.values())
    whole = LiveLog(first=last, newest=last, length=1, added=archived)
    return Kept(live={PARTITION: structs.replace(whole, **changes)})


def faults_with(chain: Chain, kept: Kept) -> tuple[Fault, ...]:
    return verify(chain.directory, kept=kept).faults


def test_a_live_log_that_goes_on_where_the_archive_ends_is_none(chain: Chain) -> None:
    last, archived = chain.last_ids()[PARTITION], live(chain).live[PARTITION].added
    assert faults_with(chain, live(chain)) == ()
    newer = f"{int(last.partition('-')[0]) + 1_000}-0"
    assert faults_with(chain, live(chain, newest=newer, length=3, added=archived + 2)) == (), "not all is archived yet"
    assert faults_with(chain, live(chain, first=newer, newest=newer, length=2, added=archived + 2)) == (), "all trimmed"
    assert faults_with(chain, live(chain, first="", length=0)) == (), "nothing is left in Redis"


def test_rows_that_are_in_neither_are_counted(chain: Chain) -> None:
    last, archived = chain.last_ids()[PARTITION], live(chain).live[PARTITION].added
    newer = f"{int(last.partition('-')[0]) + 1_000}-0"
    for first, length in ((newer, 1), ("", 0)):
        (fault,) = faults_with(
            chain, live(chain, first=first, newest=newer, length=length, added=archived + length + 4)
        )
        assert (fault.where, fault.partition, fault.log_id) == ("live", PARTITION, last)
        assert fault.what.startswith("4 rows")


def test_an_archive_that_goes_beyond_the_log_is_told(chain: Chain) -> None:
    (fault,) = faults_with(chain, live(chain, newest=f"{START_MS}-0"))
    assert "never got beyond" in fault.what


def test_the_newest_record_and_the_key_of_redis_count(chain: Chain, tmp_path: Path) -> None:
    known = Kept(head=ArchiveHead(3, chain.hash), public_key=public_hex(KEY))
    assert faults_with(chain, known) == ()
    (fault,) = faults_with(chain, structs.replace(known, public_key="ab" * 32))
    assert "another key" in fault.what
    (fault,) = faults_with(chain, structs.replace(known, head=ArchiveHead(3, "ab" * 32)))
    assert "rewritten" in fault.what
    (fault,) = faults_with(chain, structs.replace(known, head=ArchiveHead(4, "ab" * 32)))
    assert (fault.segment, "was cut" in fault.what) == (4, True)
    (fault,) = verify(tmp_path / "none", kept=known).faults
    assert "was cut" in fault.what, "an archive that is gone is not an empty one"


def test_an_empty_archive_is_whole(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "none"):
        found = verify(directory, kept=Kept())
        assert (found.faults, found.segments, found.head) == ((), 0, "")


def test_heads_are_signed_by_the_key_of_the_chain(chain: Chain, tmp_path: Path) -> None:
    head = signed_head(chain, SECRET, START_MS)
    assert (head.n, head.hash) == (3, chain.hash)
    for change in ({"n": 4}, {"hash": "00" * 32}, {"at_ms": 1}, {"public_key": "00" * 32}, {"signature": "00"}):
        (fault,) = verify(chain.directory, heads=[head, structs.replace(head, **change)]).faults
        assert "not signed" in fault.what
    with pytest.raises(Conflict):
        signed_head(chain, bytes(32), START_MS)
    with pytest.raises(Unknown):
        signed_head(Chain(tmp_path), SECRET, START_MS)


def test_an_older_head_holds_when_the_chain_goes_on_and_names_what_was_rewritten_before_it(tmp_path: Path) -> None:
    chain = write_archive(tmp_path, 2, 9)
    head = signed_head(chain, SECRET, START_MS)
    rewrite(chain, 1, [4])
    assert verify(tmp_path, heads=[head]).faults == ()


def test_files_of_heads_hold_one_or_one_a_line(chain: Chain, tmp_path: Path) -> None:

    head = signed_head(chain, SECRET, START_MS)
    path = tmp_path / "heads"
    line = msgspec.json.encode(head)
    for content, count in ((line, 1), (msgspec.json.format(line), 1), (line + b"\n\n" + line + b"\n", 2)):
        path.write_bytes(content)
        assert read_heads(path) == [head] * count
    for content in (b"", b"{}", b"\xff", line + b"\nno"):
        path.write_bytes(content)
        with pytest.raises(SetupError):
            read_heads(path)
    with pytest.raises(SetupError):
        read_heads(tmp_path)


def test_what_an_erasure_replaces_meanwhile_is_no_fault(tmp_path: Path) -> None:
    """Between the chain and the files an erasure rewrites a segment: it is looked at again."""
    chain = write_archive(tmp_path, 3, 9)
    done: list[tuple[int, int]] = []

    def meanwhile(files: int, of: int) -> None:
        if not done:
            rewrite(chain, 3, [5])
        done.append((files, of))

    found = verify(tmp_path, rows=True, progress=meanwhile)
    assert found.faults == ()
    assert done == [(1, 3), (2, 3), (3, 3), (1, 1)], "only what was rewritten is looked at again"


def test_a_file_that_is_being_written_gets_the_time_to_be_named(tmp_path: Path) -> None:
    chain = write_archive(tmp_path, 3, 9)
    lines = (tmp_path / CHAIN).read_bytes().splitlines(keepends=True)
    (tmp_path / CHAIN).write_bytes(b"".join(lines[:-1]))

    def meanwhile(files: int, of: int) -> None:
        (tmp_path / CHAIN).write_bytes(b"".join(lines))

    assert [fault.segment for fault in verify(tmp_path).faults] == [3], "named by no record"
    assert verify(tmp_path, progress=meanwhile).faults == ()
    assert chain.hash == Chain.open(tmp_path).hash


def test_rows_are_gone_through_by_other_processes_too(chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(chain.directory, tmp_path, dirs_exist_ok=True)
    (tmp_path / chain.segments[2].file).write_bytes(b"PAR1 and no more")

    def told(found: Verification) -> list[str]:
        return [str(fault) for fault in found.faults]

    alone, together = verify(tmp_path, rows=True), verify(tmp_path, rows=True, workers=2)
    assert told(alone) == told(together) != []
    assert together.rows_checked


ORPHANS = """
import time
from nbx.audit.verify import _processes
if __name__ == "__main__":
    with _processes(1) as pool:
        pool.submit(time.monotonic).result()
        print(*pool._processes, flush=True)
        pool.submit(time.sleep, 600).result()
"""


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """However it ended: by a signal that it cannot see, too."""
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        child.wait(timeout=30)


def test_another_installations_key_signs_nothing_here(chain: Chain) -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    copy = Chain.open(chain.directory)
    head = structs.replace(signed_head(copy, SECRET, START_MS), public_key=public_hex(other), signature="")

    forged = structs.replace(head, signature=other.sign(msgspec.json.encode(head)).hex())
    (fault,) = verify(chain.directory, heads=[forged]).faults
    assert "another key" in fault.what
