"""Rewriting segments: whoever was erased is in no byte, and the others' logs say what they said."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from nbx.audit import scrub
from nbx.audit.chain import START, Chain, Record, Span, file_hash, segment_file
from nbx.audit.scrub import Erased
from nbx.audit.segments import ERASED_KIND, Place, place_of, read_entries, to_table, write_segment
from nbx.experience.entries import (
    AbsorbEntry,
    AliasEntry,
    DecisionEntry,
    Entry,
    EventEntry,
    MovedEntry,
    decode_entry,
    encode_entry,
)
from nbx.experience.fold import fold
from nbx.experience.lifecycle import OpenDecision
from nbx.features.state import CustomerState, encode_state
from nbx.features.store import LogEntry
from nbx.hashing import pseudonym
from nbx.ids import partition_of
from tests.worlds import NOW_MS, PARTITIONS, Desk, run

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key().public_bytes_raw().hex()
SECRET = b"s" * 32
ERASURE = pseudonym(b"erasure", "anna")
LATER = 9_999_999_999_999


def named(customer: str, until_ms: int = LATER) -> Erased:
    """Return an erasure of a customer, of all its rows unless told."""
    partition = partition_of(customer, PARTITIONS)
    return Erased(
        customer, pseudonym(b"erasure", customer), Place(partition, until_ms, 0), pseudonym(SECRET, customer), "tester"
    )


def lived() -> Desk:
    """Let some customers live; carol is told of another id, which had a life, and of one that came to nothing."""
    desk = Desk()
    for customer in ("anna", "bob", "carol", "tablet", "kiosk"):
        for _ in range(4):
            reply = desk.decide(customer, "desk")
            desk.clock.advance(1_000)
            if reply.slots[0].action:
                desk.record("declined", decision_id=reply.decision_id, text=f"it is me, {customer}")
        desk.record("page_view", customer_id=customer, properties={"page": "home"})
    under_tablet = desk.decide("tablet", "desk")
    run(desk.events.merging.merge("carol", "tablet", "tester"))
    desk.record("accepted", decision_id=under_tablet.decision_id)
    run(desk.events.change_profile("carol", {"age": 50.0}))
    claim = AliasEntry(customer_id="carol", at_ms=NOW_MS, release=1, alias="kiosk", by="tester")
    for entry in (claim, structs.replace(claim, withdrawn=True)):
        _log(desk, "carol", entry)
    desk.decide("carol")
    return desk


def _log(desk: Desk, customer: str, entry: Entry) -> None:
    rows = desk.store._logs[f"nbx:{{p{partition_of(customer, PARTITIONS)}}}:log"]
    (ms, sequence), _ = rows[-1]
    rows.append(((ms, sequence + 1), encode_entry(entry)))


def archived(desk: Desk, directory: Path, segments: int = 3) -> tuple[Chain, list[LogEntry]]:
    """Archive a desk's log; returns the chain, and the log by partition and place."""
    pages = [run(desk.store.log_range(p, "-", "+", 100_000)) for p in range(PARTITIONS)]
    parts = [
        [page[len(page) * n // segments : len(page) * (n + 1) // segments] for page in pages] for n in range(segments)
    ]
    chain = Chain(directory)
    chain.append(Record(kind="begin", n=0, at_ms=NOW_MS, prev="", public_key=PUBLIC))
    for n, part in enumerate(parts, 1):
        rows = [entry for page in part for entry in page]
        file = segment_file(n, "2027-01-15")
        (directory / file).parent.mkdir(exist_ok=True)
        table = to_table(rows, bytes.fromhex(chain.hash))
        write_segment(directory / file, table, {"n": str(n)})
        chain.append(
            Record(
                kind="segment",
                n=n,
                at_ms=NOW_MS,
                prev="",
                file=file,
                sha256=file_hash(directory / file),
                rows=len(rows),
                rows_hash=table.column("row_hash")[-1].as_py().hex(),
                spans={p: Span(s[0].entry_id, s[-1].entry_id, len(s)) for p, s in enumerate(part) if s},
            )
        )
    return chain, [entry for part in parts for page in part for entry in page]


def scrubbed(chain: Chain, record: Record, erased: Sequence[Erased]) -> scrub.Rewritten | None:
    """Find and rewrite."""
    return scrub.rewrite(chain, record, scrub.find(chain.directory / record.file, erased), erased, KEY, NOW_MS)


def content(directory: Path) -> bytes:
    """Return every byte of every file, and what the columns hold."""
    found = b""
    for path in sorted(each for each in directory.rglob("*") if each.is_file()):
        found += path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            found += b"".join(table.column("payload").to_pylist()) + repr(table.to_pydict()).encode()
    return found


def archive_of(chain: Chain) -> list[LogEntry]:
    """Return what the present files hold, in order."""
    return [row for record in chain.segments.values() for row in read_entries(chain.directory / record.file)]


def folded(rows: Sequence[LogEntry], customer: str, desk: Desk) -> CustomerState:
    """Fold a customer's rows; tombstones are passed over."""
    state, opened = CustomerState(), dict[str, OpenDecision]()
    for row in rows:
        entry = decode_entry(row.payload) if row.payload else None
        if entry is None or entry.customer_id != customer:
            continue
        decision_id = entry.event.decision_id if isinstance(entry, EventEntry) else getattr(entry, "decision_id", "")
        done = fold(state, opened.get(decision_id), entry, desk.plan.rules)
        if done.decision is not None:
            opened[decision_id] = done.decision
    return state


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Desk, Chain, list[LogEntry]]:
    desk = lived()
    return desk, *archived(desk, tmp_path)


def test_who_was_erased_is_in_no_byte_and_the_others_are_as_before(archive: tuple[Desk, Chain, list[LogEntry]]) -> None:
    desk, chain, before = archive
    erased = [named("anna"), named("tablet"), named("kiosk")]
    assert all(each.customer_id.encode() in content(chain.directory) for each in erased)
    done = [scrubbed(chain, record, erased) for record in list(chain.segments.values())]
    found = content(chain.directory)
    assert [each.customer_id for each in erased if each.customer_id.encode() in found] == []
    assert b"bob" in found
    after = archive_of(chain)
    assert [place_of(row) for row in after] == [place_of(row) for row in before]
    for old, new in zip(before, after, strict=True):
        entry = decode_entry(old.payload)
        names = {each.customer_id for each in erased}
        if entry.customer_id in names:
            assert new.payload == b""
        elif not isinstance(entry, AliasEntry | AbsorbEntry):
            assert new == old
    count = sum(decode_entry(row.payload).customer_id == "anna" for row in before)
    assert scrub.told(chain.directory)[ERASURE][0] == count > 0
    assert sum(each.rows[ERASURE] for each in done if each) == count
    assert folded(after, "bob", desk) == folded(before, "bob", desk)
    carol, expected = folded(after, "carol", desk), folded(before, "carol", desk)
    assert expected.aliases.keys() == {"tablet"}
    assert encode_state(carol) == scrub.renamed_state(encode_state(expected), {"tablet": named("tablet").pseudonym})
    assert carol.outcomes["accepted"] == 1, "what the alias handed over still counts"


def test_the_chain_tells_what_was_done_and_still_proves_everything(archive: tuple[Desk, Chain, list[LogEntry]]) -> None:
    _, chain, _ = archive
    old = {n: record.file for n, record in chain.segments.items()}
    first = [chain.segments[n].prev for n in chain.segments]
    for record in list(chain.segments.values()):
        scrubbed(chain, record, [named("anna")])
    for record in list(chain.segments.values()):
        scrubbed(chain, record, [named("bob")])
    again = Chain.open(chain.directory)
    assert again.hash == chain.hash != START
    assert [record.before for record in again.segments.values()] == first
    for n, record in again.segments.items():
        path = chain.directory / record.file
        assert record.kind == "rewrite"
        assert ".r2." in record.file
        assert not (chain.directory / old[n]).exists()
        assert record.sha256 == file_hash(path)
        assert record.why["by"] == "tester"
        table = to_table(read_entries(path), bytes.fromhex(record.before))
        assert pq.read_table(path).replace_schema_metadata(None).equals(table.replace_schema_metadata(None))
        assert record.rows_hash == table.column("row_hash")[-1].as_py().hex()
    assert again.tidy() == []
    forged = structs.replace(next(iter(again.segments.values())), at_ms=1)
    with (chain.directory / "chain.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(forged) + b"\n")
    with pytest.raises(Exception, match="hash is not that of its content"):
        Chain.open(chain.directory)


def test_who_is_not_there_changes_nothing(archive: tuple[Desk, Chain, list[LogEntry]]) -> None:
    _, chain, _ = archive
    before = content(chain.directory)
    for record in list(chain.segments.values()):
        assert scrubbed(chain, record, [named("nobody")]) is None
    assert content(chain.directory) == before


def test_a_life_begun_after_the_erasure_stays(archive: tuple[Desk, Chain, list[LogEntry]]) -> None:
    _, chain, before = archive
    partition = partition_of("bob", PARTITIONS)
    own = [row for row in before if row.partition == partition and decode_entry(row.payload).customer_id == "bob"]
    ms, _, sequence = own[3].entry_id.partition("-")
    erased = named("bob")._replace(until=Place(partition, int(ms), int(sequence)))
    for record in list(chain.segments.values()):
        scrubbed(chain, record, [erased])
    left = [row for row in archive_of(chain) if row.payload and decode_entry(row.payload).customer_id == "bob"]
    assert left == own[4:]
    kinds = [k for r in chain.segments.values() for k in pq.read_table(chain.directory / r.file)["kind"].to_pylist()]
    assert kinds.count(ERASED_KIND) == 4


def test_an_id_that_is_part_of_another_is_not_taken_for_it(archive: tuple[Desk, Chain, list[LogEntry]]) -> None:
    _, chain, before = archive
    for record in list(chain.segments.values()):
        assert scrubbed(chain, record, [named("tab"), named("car")]) is None
    assert archive_of(chain) == before


@settings(max_examples=30, deadline=None)
@given(
    gone=st.sets(st.integers(0, 30)),
    renamed=st.sets(st.integers(0, 30)),
)
def test_patching_rows_is_laying_all_of_them_out_anew(gone: set[int], renamed: set[int]) -> None:
    rows = WORLD[:31]
    table = to_table(rows, bytes(32))
    named_ = {at: encode_entry(MovedEntry(customer_id="x", at_ms=at, release=1, into="y")) for at in renamed - gone}
    expected = [row._replace(payload=b"" if at in gone else named_.get(at, row.payload)) for at, row in enumerate(rows)]
    hits = scrub.Hits(dict.fromkeys(gone, "e"), named_)
    if hits.rows:
        assert scrub.without(table, hits, b"b" * 32).equals(to_table(expected, b"b" * 32))


KILLED = """
import os, signal, sys
from pathlib import Path
from nbx.audit import scrub
from nbx.audit.chain import Chain
from tests.unit.audit.test_scrub import KEY, NOW_MS, named
steps = int(sys.argv[2])
def watch(event, arguments):
    global steps
    if event in ("open", "os.rename", "os.remove", "os.truncate") and sys.argv[1] in str(arguments[0]):
        steps -= 1
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
chain = Chain.open(Path(sys.argv[1]), repair=True)
chain.tidy()
sys.addaudithook(watch)
for record in list(chain.segments.values()):
    erased = [named("anna"), named("kiosk")]
    scrub.rewrite(chain, record, scrub.find(chain.directory / record.file, erased), erased, KEY, NOW_MS)
"""


def killed_at(step: int, directory: Path) -> None:
    """Scrub in a process that is killed at its n-th step on files, then once more in peace, and compare."""
    desk = lived()
    chain, before = archived(desk, directory)
    files = len(chain.segments)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", KILLED, str(directory), str(step)]
    ended = subprocess.run(command, env=environment, check=False)
    assert ended.returncode in (0, -9)
    assert Chain.open(directory, repair=True).segments.keys() == chain.segments.keys()
    chain = Chain.open(directory, repair=True)
    chain.tidy()
    erased = [named("anna"), named("kiosk")]
    for record in list(chain.segments.values()):
        scrub.rewrite(chain, record, scrub.find(directory / record.file, erased), erased, KEY, NOW_MS)
    chain = Chain.open(directory)
    assert len([*directory.glob("day=*/*")]) == files
    assert b"anna" not in content(directory)
    assert folded(archive_of(chain), "bob", desk) == folded(before, "bob", desk)
    count = sum(decode_entry(row.payload).customer_id == "anna" for row in before)
    assert scrub.told(directory)[ERASURE][0] == count


def test_killed_on_the_way_it_is_done_the_next_time(tmp_path: Path) -> None:
    killed_at(12, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("step", range(1, 40))
def test_killed_at_any_step_it_is_done_the_next_time(tmp_path: Path, step: int) -> None:
    killed_at(step, tmp_path)


def _world() -> list[LogEntry]:
    desk = lived()
    pages = [run(desk.store.log_range(p, "-", "+", 100_000)) for p in range(PARTITIONS)]
    rows = [row for page in pages for row in page]
    assert {DecisionEntry, EventEntry, AbsorbEntry} <= {type(decode_entry(row.payload)) for row in rows}
    return rows


WORLD = _world()
