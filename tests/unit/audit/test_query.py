"""SQL over a real archive and a live tail: what the views hold, what is opened, and what is told of what is damaged."""

# ruff: noqa: S608 - put together from texts of ours

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from benchmarks.archived_log import Archive, answer, decision, history, logged
from nbx.audit.chain import Chain, file_hash
from nbx.audit.live_tail import Readable, every_partition, readable
from nbx.audit.log_ids import ADMIN, JOURNAL
from nbx.audit.query import LogQuery
from nbx.audit.query_answer import Bounds, Damage
from nbx.audit.query_views import VIEWS
from nbx.audit.reading import Window
from nbx.audit.segments import to_table
from nbx.errors import Invalid, TooLarge
from nbx.features.store import LogEntry
from nbx.features.trail import Change

DAY_MS = 86_400_000
START_MS = 1_767_225_600_000
NOW_MS = START_MS + 3 * 3_600_000
EVER = Window(0, 1 << 50)
HOURLY = 20
"""Decisions in each of the three segments."""


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Three segments of an hour each."""
    made = Archive(tmp_path / "archive")
    for hour in range(3):
        made.add(history(HOURLY, START_MS + hour * 3_600_000, 60_000, first=hour * HOURLY))
    return made


def query(directory: Path, live: Iterable[LogEntry] = (), span: Window = EVER, **more: Any) -> LogQuery:
    source = asyncio.run(readable(directory, None, every_partition(4), span))
    return LogQuery(source._replace(live=list(live)), span, NOW_MS, **more)


def rows(asked: LogQuery, sql: str) -> list[Any]:
    return [msgspec.json.decode(row) for row in asked.answer(sql).rows]


def test_archive_and_live_tail_are_one_table(archive: Archive) -> None:
    live = history(5, NOW_MS - 60_000, 1000, first=60)
    asked = query(archive.directory, live)
    assert rows(asked, "SELECT kind, count(*) FROM log GROUP BY kind ORDER BY kind") == [
        ["decision", 65],
        ["event", 65],
    ]
    assert rows(asked, "SELECT count(DISTINCT (partition, log_ms, log_seq)) FROM entries") == [[130]]


def test_every_view_can_be_read_empty_and_full(archive: Archive, tmp_path: Path) -> None:
    sources = ", ".join(f"(SELECT count(*) FROM {name}) AS {name}" for name in VIEWS)
    full, empty = (rows(query(each), f"SELECT {sources}") for each in (archive.directory, tmp_path / "nothing"))
    assert dict(zip(VIEWS, full[0], strict=True)) == {
        "entries": 120, "log": 120, "decisions": 60, "slots": 60, "candidates": 180, "removed": 60,
        "outcome_revisions": 60, "outcomes": 60, "goals": 0, "customers_timeline": 120, "admin_changes": 0,
        "catalog_changes": 0,
    }  # fmt: skip
    assert empty == [[0] * len(VIEWS)]
    shown = {row[0] for row in rows(query(archive.directory), "DESCRIBE log")}
    assert {"payload", "row_hash"}.isdisjoint(shown)
    assert {"customer_id", "at", "kind", "slots"} <= shown


def test_the_views_say_what_happened(archive: Archive) -> None:
    asked = query(archive.directory)
    made = decision(0, START_MS, "customer-0")
    (slot,) = rows(
        asked, f"SELECT action, propensity, customer_id, none FROM slots WHERE decision_id = '{made.decision_id}'"
    )
    assert slot == ["alpha", 0.5, "customer-0", ""]
    found = rows(
        asked,
        f"SELECT action, drawn, slot, mean FROM candidates WHERE decision_id = '{made.decision_id}' ORDER BY action",
    )
    assert [row[:3] for row in found] == [["alpha", True, 0], ["beta", False, None], ["gamma", False, None]]
    assert found[0][3] == pytest.approx(0.1)
    assert rows(asked, "SELECT action, reason, count(*) FROM removed GROUP BY ALL") == [["delta", "limit_reached", 60]]
    timeline = rows(
        asked, "SELECT what, actions, outcomes FROM customers_timeline WHERE customer_id = 'customer-0' ORDER BY at"
    )
    assert timeline[:2] == [["decided", ["alpha"], []], ["accepted", ["alpha"], ["accepted"]]]


def test_the_latest_revision_of_an_outcome_is_marked(archive: Archive) -> None:
    made = decision(0, START_MS, "customer-0")
    corrected = logged(answer(made, "declined", NOW_MS - 1000, revision=1), NOW_MS - 1000)
    asked = query(archive.directory, [corrected])
    sql = f"SELECT outcome, latest FROM outcomes WHERE decision_id = '{made.decision_id}' ORDER BY revision"
    assert rows(asked, sql) == [["accepted", False], ["declined", True]]
    assert rows(asked, "SELECT count(*) FROM outcomes WHERE latest") == [[60]]


def test_the_admin_trail_is_told_as_changes(archive: Archive) -> None:
    details: dict[str, str | int] = {"release": 7, "note": "spring"}
    changes = [Change(at_ms=START_MS, who="anna", what=what, details=details) for what in ("published", "key_created")]
    trail = [LogEntry(ADMIN, f"{START_MS}-{n}", msgspec.json.encode(change)) for n, change in enumerate(changes)]
    archive.add([*trail, LogEntry(JOURNAL, "0-1", b"\x80"), *history(1, START_MS + 4 * 3_600_000)])
    asked = query(archive.directory)
    assert rows(asked, "SELECT who, what, release FROM catalog_changes") == [["anna", "published", 7]]
    assert rows(asked, "SELECT count(*) FROM admin_changes") == [[2]]
    assert rows(asked, "SELECT count(*) FROM log WHERE kind = 'step'") == [[0]], "the journal is no part of the log"


def test_erased_rows_are_only_in_the_log(archive: Archive) -> None:
    tombstone = LogEntry(0, f"{START_MS + 1}-5", b"")
    asked = query(archive.directory, [tombstone])
    assert rows(asked, "SELECT count(*) FROM log WHERE kind = 'erased'") == [[1]]
    assert rows(asked, "SELECT count(*) FROM customers_timeline WHERE customer_id IS NULL") == [[0]]


def test_a_window_restricts_rows_and_files(archive: Archive) -> None:
    span = Window(START_MS + 3_600_000, START_MS + 2 * 3_600_000)
    asked = query(archive.directory, history(1, NOW_MS), span=span)
    assert rows(asked, "SELECT count(*), min(logged_at) FROM decisions") == [[HOURLY, "2026-01-01T01:00:00"]]
    assert asked.opened == 1


def test_only_segments_that_the_conditions_leave_are_opened(archive: Archive) -> None:
    for hour in range(3, 20):
        archive.add(history(2, START_MS + hour * 3_600_000, 60_000, first=100 + hour))
    asked = query(archive.directory)
    asked._now = "TIMESTAMP '2026-01-01 20:00:00'"
    newest = "SELECT count(*) FROM decisions WHERE logged_at >= ago('1h')"
    with pytest.raises(Invalid, match="LINE 1: SELECT nope"):
        asked.answer("SELECT nope FROM slots")
    oldest = "SELECT count(*) FROM log WHERE logged_at < '2026-01-01T01:00:00'"
    for sql, count, opened in (
        ("SELECT count(*) FROM decisions WHERE at >= now() - INTERVAL 1 HOUR", 2, 1),
        ("SELECT count(*) FROM slots WHERE logged_at >= ago('2h')", 4, 2),
        ("SELECT count(*) FROM log WHERE logged_at < '2026-01-01T01:00:00'", 40, 1),
        ("SELECT count(*) FROM log WHERE kind = 'decision'", 3 * HOURLY + 34, 20),
        ("SELECT count(*) FROM log WHERE logged_at < ago('19h') OR kind = 'decision'", 114, 20),
        (f"SELECT ({newest}) + ({oldest})", 42, 2),
        ("SELECT count(*) FROM log WHERE 1 = 0", 0, 0),
        ("SELECT count(*) FROM log WHERE logged_at > at + INTERVAL 1 DAY", 0, 20),
    ):  # fmt: skip
        assert rows(asked, sql) == [[count]], sql
        assert asked.opened == opened, sql


def test_what_is_too_large_is_cut_and_said_to_be(archive: Archive) -> None:
    asked = query(archive.directory, bounds=Bounds(rows=7))
    told = asked.answer("SELECT * FROM log ORDER BY logged_at")
    assert (len(told.rows), told.truncated) == (7, True)
    told = asked.answer("SELECT * FROM range(7)")
    assert (len(told.rows), told.truncated) == (7, False)
    small = query(archive.directory, bounds=Bounds(bytes=1000))
    told = small.answer("SELECT repeat('x', 300) FROM range(100)")
    assert (len(told.rows), told.truncated) == (3, True)
    with pytest.raises(TooLarge, match="one row is larger"):
        small.answer("SELECT repeat('x', 3000)")


def test_what_takes_too_long_is_stopped(archive: Archive) -> None:
    asked = query(archive.directory, bounds=Bounds(seconds=0.3))
    with pytest.raises(TooLarge, match=r"more than 0\.3 s") as caught:
        asked.answer("SELECT count(*) FROM range(1000000000) a, range(1000000) b")
    assert caught.value.code == "query_late"
    assert rows(asked, "SELECT 1") == [[1]], "the next query is answered"


def test_values_that_json_lacks_are_told_as_text(archive: Archive) -> None:
    asked = query(archive.directory)
    sql = "SELECT 2::HUGEINT ** 100, MAP {1: 'a'}, 'nan'::DOUBLE, 'ab'::BLOB, DATE '2026-01-31', 1.5::DECIMAL(5, 2)"
    (row,) = rows(asked, sql)
    assert row[1:5] == [{"1": "a"}, None, "YWI=", "2026-01-31"]
    assert rows(asked, "SELECT sum(i) FROM (SELECT 9223372036854775807::HUGEINT * 4 AS i)") == [[36893488147419103228]]


# Damage


def damaged(archive: Archive, n: int, content: bytes | None) -> str:
    record = archive.chain.segments[n]
    path = archive.directory / record.file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    return record.file


COUNT = "SELECT count(*) FROM decisions"


@pytest.mark.parametrize("how", ["missing", "cut", "empty", "rubbish", "one_byte"])
def test_a_damaged_segment_is_named_and_left_out_only_when_asked(archive: Archive, how: str) -> None:
    whole = (archive.directory / archive.chain.segments[2].file).read_bytes()
    middle = len(whole) // 3
    content = {
        "missing": None, "cut": whole[: len(whole) // 2], "empty": b"", "rubbish": b"PAR1" + b"\7" * 500 + b"PAR1",
        "one_byte": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
    }[how]  # fmt: skip
    file = damaged(archive, 2, content)
    with pytest.raises(Damage, match="nbx log verify") as caught:
        query(archive.directory).answer(COUNT)
    assert file in str(caught.value)
    assert str(archive.directory) not in str(caught.value)
    asked = query(archive.directory, skip_damaged=True)
    told = asked.answer(COUNT)
    assert msgspec.json.decode(told.rows[0]) == [2 * HOURLY]
    assert [note for note in told.notes if file in note]
    untouched = query(archive.directory, span=Window(START_MS + 2 * 3_600_000, NOW_MS))
    assert rows(untouched, COUNT) == [[HOURLY]], "what does not need it is answered"


def test_damage_that_is_only_seen_in_reading_is_named_too(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbx.audit.query_files.QUERY_HASHED_BYTES", 0)
    whole = (archive.directory / archive.chain.segments[2].file).read_bytes()
    file = damaged(archive, 2, b"PAR1" + b"\xff" * (len(whole) - 2000) + whole[-1996:])
    with pytest.raises(Damage) as caught:
        query(archive.directory).answer("SELECT * FROM log")
    assert file in str(caught.value)
    asked = query(archive.directory, skip_damaged=True)
    assert len(asked.answer("SELECT * FROM decisions").rows) == 2 * HOURLY


def test_files_that_no_record_names_are_not_read(archive: Archive) -> None:
    good = archive.directory / archive.chain.segments[1].file
    good.with_name("00000004.parquet").write_bytes(good.read_bytes())
    good.with_name(".00000004.parquet.tmp").write_bytes(good.read_bytes()[:300])
    chain = archive.directory / "chain.jsonl"
    with chain.open("ab") as file:
        file.write(b'{"kind":"segment","n":4')
    assert rows(query(archive.directory), COUNT) == [[3 * HOURLY]]


def test_segments_of_an_older_schema_are_read_with_the_others(archive: Archive) -> None:
    later = history(HOURLY, START_MS + 3 * 3_600_000, 60_000, first=90)
    table = to_table(sorted(later, key=lambda e: (e.partition, e.entry_id)), bytes(32))
    older = table.drop_columns(["stakes", "details"])
    record = archive.add_table(table)
    pq.write_table(older.replace_schema_metadata({"nbx.schema": "0"}), archive.directory / record.file)
    rewritten = msgspec.structs.replace(record, sha256=file_hash(archive.directory / record.file))
    segments = {**archive.chain.segments, record.n: rewritten}
    for order in (list(segments.values()), list(segments.values())[::-1]):
        asked = LogQuery(Readable(archive.directory, tuple(order), []), EVER, NOW_MS)
        assert rows(asked, "SELECT count(*), count(stakes), count(took_us) FROM decisions") == [[80, 60, 80]]


def test_an_erasure_that_rewrites_a_segment_is_followed(archive: Archive) -> None:
    assert Chain.open(archive.directory).segments.keys() == {1, 2, 3}
    erased = [LogEntry(e.partition, e.entry_id, b"") for e in history(HOURLY, START_MS, 60_000)]
    table = to_table(sorted(erased, key=lambda e: (e.partition, e.entry_id)), bytes(32))
    record = archive.chain.segments[1]
    path = archive.directory / record.file.replace(".parquet", ".r1.parquet")
    pq.write_table(table, path)
    newer = msgspec.structs.replace(record, file=record.file.replace(".parquet", ".r1.parquet"), sha256=file_hash(path))
    others = [archive.chain.segments[n] for n in (2, 3)]
    asked = LogQuery(Readable(archive.directory, (newer, *others), []), EVER, NOW_MS)
    assert rows(asked, COUNT) == [[2 * HOURLY]]
    assert rows(asked, "SELECT count(*) FROM log WHERE kind = 'erased'") == [[2 * HOURLY]]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT nope FROM decisions", '"nope"'),
        ("SELECT *\nFROM decisions\nWHERE propensty > 1", "LINE 3"),
        ("SELECT 1 +", "LINE 1"),
        ("SELECT CAST('x' AS INTEGER)", "Could not convert"),
        ("SELECT * FROM decisons", "the views are entries, log, decisions"),
        ("SELECT ?", "parameters"),
        ("SELECT error('mine')", "mine"),
    ],
)
def test_a_wrong_query_is_told_in_words_with_its_place(archive: Archive, sql: str, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        query(archive.directory).answer(sql)
    assert words in str(caught.value)
    assert caught.value.field == "sql"
    assert str(archive.directory) not in str(caught.value)


def test_an_answer_can_be_packed(archive: Archive) -> None:
    answered = query(archive.directory).answer("SELECT 1 AS one, [min(at)] AS two FROM log")
    told = msgspec.json.decode(msgspec.json.encode(answered))
    assert told["columns"] == [{"name": "one", "type": "INTEGER"}, {"name": "two", "type": "TIMESTAMP[]"}]
    assert told["rows"] == [[1, ["2026-01-01T00:00:00"]]]
