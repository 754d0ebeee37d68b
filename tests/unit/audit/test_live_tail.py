"""The log is read whole while a keeper archives and trims between any two reads."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.archived_log import PARTITIONS, Archive, history
from nbx.audit.live_tail import every_partition, readable
from nbx.audit.log_ids import after, parsed
from nbx.audit.reading import Window
from nbx.audit.segments import read_entries
from nbx.errors import Unsupported
from nbx.features.store import LogEntry

START_MS = 1_767_225_600_000
EVER = Window(0, 1 << 50)


class Log:
    """A live log in memory; before each read, `meanwhile` happens."""

    def __init__(self, entries: Sequence[LogEntry], meanwhile: Callable[[Log], None]) -> None:
        self.rows = {p: [e for e in entries if e.partition == p] for p in every_partition(PARTITIONS)}
        self.first: dict[int, str] = {}
        self._meanwhile = meanwhile

    async def log_range(self, partition: int, start: str, end: str, count: int) -> list[LogEntry]:
        self._meanwhile(self)
        low, beyond = parsed(start.lstrip("(")), start.startswith("(")
        high = parsed(end) if "-" in end else (int(end), 1 << 62)
        inside = [e for e in self.rows[partition] if low <= parsed(e.entry_id) <= high]
        return [e for e in inside if not beyond or parsed(e.entry_id) > low][:count]

    async def log_tail(self, partition: int, count: int) -> list[LogEntry]:
        self._meanwhile(self)
        return self.rows[partition][::-1][:count]

    async def firsts(self, partitions: Sequence[int]) -> dict[int, str]:
        self._meanwhile(self)
        return {p: first for p, first in self.first.items() if p in partitions}

    def trim(self, last: dict[int, str]) -> None:
        for partition, rows in self.rows.items():
            archived = parsed(last.get(partition, "0-0"))
            self.rows[partition] = [e for e in rows if parsed(e.entry_id) > archived]
            if partition >= 0 and partition in last:
                self.first[partition] = "{}-{}".format(*after(archived))


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 12),
    archived=st.integers(0, 24),
    steps=st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=8),
)
def test_no_row_twice_and_none_missing(count: int, archived: int, steps: list[tuple[int, bool]]) -> None:
    entries = history(count, START_MS)
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder))
        done = min(archived, len(entries))
        if done:
            archive.add(entries[:done])
        position = [done]
        waiting = list(steps)

        def meanwhile(log: Log) -> None:
            if not waiting:
                return
            more, trims = waiting.pop(0)
            upto = min(position[0] + more, len(entries))
            if upto > position[0]:
                archive.add(entries[position[0] : upto])
                position[0] = upto
            if trims:
                log.trim(archive.chain.last_ids())

        log = Log(entries, meanwhile)
        found = asyncio.run(readable(Path(folder), log, every_partition(PARTITIONS), EVER))
        read = [e for record in found.records for e in read_entries(found.directory / record.file)] + found.live
        assert sorted(read) == sorted(entries)
        assert found.notes == ()


def test_a_live_log_that_is_too_long_is_cut_at_its_old_end_with_a_note(tmp_path: Path) -> None:
    entries = history(50, START_MS)
    log = Log(entries, lambda _: None)
    found = asyncio.run(readable(tmp_path, log, range(PARTITIONS), EVER, most=40))
    assert len(found.live) <= 40
    (note,) = found.notes
    assert "longer than a query reads" in note
    newest = {p: max(parsed(e.entry_id) for e in entries if e.partition == p) for p in {e.partition for e in entries}}
    assert {p: max(parsed(e.entry_id) for e in found.live if e.partition == p) for p in newest} == newest


def test_what_was_trimmed_and_is_not_in_the_archive_is_told(tmp_path: Path) -> None:
    entries = history(10, START_MS)
    log = Log(entries, lambda _: None)
    log.first = {entries[0].partition: entries[-1].entry_id}
    with pytest.raises(Unsupported, match="archive of this installation") as caught:
        asyncio.run(readable(tmp_path, log, every_partition(PARTITIONS), EVER))
    assert caught.value.code == "archive_missing"
