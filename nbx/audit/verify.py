"""Whether the archive is what was written: every record, every file, and where it ends.

1. The chain, line by line: each record's hash, what it follows, its signature where it rewrites, its number and place.
2. The files: each segment's newest one has the recorded sha256, so it is bit for bit what was written. One that differs
   is gone through row by row (`nbx.audit.segment_check`). Files that no record names are told too.
3. The ends, which the chain cannot vouch for itself: heads that others kept, the newest record as Redis remembers it,
   and the live log, which has to go on where the archive ends.

Everything found is told, and nothing stops at the first fault. An archive that is written meanwhile is read as of one
moment: what Redis says is asked before the chain is read, and what fails is looked at again when the chain has grown.

What it cannot tell: whether a rewrite that the installation itself signed removed more than it had to.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final

from msgspec import Struct

from nbx.audit.chain import CHAIN, START, Record, file_hash, read_records
from nbx.audit.heads import Head, is_genuine
from nbx.audit.records import Links, has_own_hash, is_signed, order_of
from nbx.audit.segment_check import Fault, check_file, check_rows

ROWS_ALONE: Final = 20_000
"""Rows below which other processes would only cost their start; what is damaged is read by them all the same."""
LOOK_S: Final = 0.25
"""Between two looks at a file that no record names yet."""

Progress = Callable[[int, int], None]
"""Is told how many files of how many are done."""


class ArchiveHead(Struct, frozen=True):
    """The newest record, as Redis remembers it."""

    n: int
    hash: str


class LiveLog(Struct, frozen=True, kw_only=True):
    """What Redis knows of one partition's stream."""

    first: str
    """Log id of the oldest entry; empty: none."""
    newest: str
    """Log id given out last."""
    length: int
    added: int
    """Entries ever added, also those trimmed since."""


class Kept(Struct, frozen=True, kw_only=True):
    """What Redis knows of the archive, asked before the chain is read."""

    head: ArchiveHead | None = None
    public_key: str = ""
    """Of the key that rewrites are signed with, hexadecimal; empty: none was made."""
    live: dict[int, LiveLog] = {}
    """By partition."""


class Verification(Struct, frozen=True, kw_only=True):
    """What was found."""

    segments: int
    rows: int
    seconds: float
    faults: tuple[Fault, ...]
    head: str
    """Hash of the newest record; empty: nothing is archived."""
    rows_checked: bool
    """Rows were gone through in every file, also where its sha256 is the recorded one."""


def verify(
    directory: Path,
    *,
    rows: bool = False,
    heads: Sequence[Head] = (),
    kept: Kept | None = None,
    workers: int = 0,
    patience_s: float = 0.0,
    progress: Progress | None = None,
) -> Verification:
    """Check an archive.

    Parameters
    ----------
    directory
        Of the archive; one that does not exist is empty.
    rows
        Go through the rows of every file.
    heads
        That others kept.
    kept
        What Redis knows; None: there is only the directory.
    workers
        Processes that go through rows; 0: this one does.
    patience_s
        How long a file may have no record, as one that is being written has for a moment.

    Raises
    ------
    OSError
        The chain is there and cannot be read.
    """
    begun = time.perf_counter()
    told = _read_chain(directory)
    found: dict[int, tuple[Record, list[Fault]]] = {}
    todo = dict(told.links.segments)
    while todo:
        for n, faults in _check_files(directory, todo, told, rows=rows, workers=workers, progress=progress).items():
            found[n] = todo[n], faults
        failed = [n for n, (_, faults) in found.items() if faults]
        if failed:  # a rewrite may have come between
            told = _read_chain(directory)
        now = told.links.segments
        todo = {n: now[n] for n in failed if n in now and now[n] != found[n][0]}
    told, strays = _strays(directory, told, patience_s)
    links = told.links
    faults = [*told.faults, *(fault for n in sorted(found) for fault in found[n][1]), *strays]
    if links.head is None and strays:
        faults.insert(0, Fault(where="chain", what=f"{CHAIN} is missing or empty, though there are files"))
    faults += _check_heads(heads, told)
    if kept is not None:
        faults += _check_kept(kept, told)
    return Verification(
        segments=len(links.segments),
        rows=sum(record.rows for record in links.segments.values()),
        seconds=time.perf_counter() - begun,
        faults=tuple(faults),
        head=links.hash if links.head is not None else "",
        rows_checked=rows,
    )


class _Told:
    """What the chain tells, and what is wrong with it."""

    def __init__(self) -> None:
        self.links = Links()
        self.faults: list[Fault] = []
        self.hashes = {START}
        self.files: dict[str, int] = {}
        """sha256 → segment, of files of older records too."""

    def tell(self, what: str, segment: int | None) -> None:
        self.faults.append(Fault(where="chain", what=what, segment=segment or None))


def _read_chain(directory: Path) -> _Told:
    told = _Told()
    links = told.links
    unreadable = False
    line_before = 0
    for line, record in read_records(directory):
        if isinstance(record, str):
            told.tell(f"line {line} of the chain {record}", links.number + 1)
            unreadable = True
            continue
        misfit = links.misfit(record)
        out_of_place = record.kind == "segment" and record.n != links.number + 1
        if misfit:
            first_lost = links.number + 1 if out_of_place and record.n > links.number else record.n
            told.tell(f"line {line} of the chain: {misfit}", first_lost)
        if not has_own_hash(record):
            told.tell(f"line {line} of the chain: it was edited, its hash is not that of its content", record.n)
        elif record.prev != links.hash and not unreadable and not out_of_place:
            # a rewrite's signature covers what it follows: a genuine one tells that the record before is another
            before = links.head.n if links.head is not None and is_signed(record, links.public_key) else record.n
            told.tell(
                f"line {line} of the chain was not written after line {line_before}: a record was edited, removed, "
                "added or moved there",
                before,
            )
        if not is_signed(record, links.public_key):
            told.tell(f"line {line} of the chain: the rewrite is not signed by this installation", record.n)
        links.take(record)
        told.hashes.add(record.hash)
        if record.sha256:
            told.files[record.sha256] = record.n
        unreadable, line_before = False, line
    return told


def _check_files(
    directory: Path,
    segments: Mapping[int, Record],
    told: _Told,
    *,
    rows: bool,
    workers: int,
    progress: Progress | None,
) -> dict[int, list[Fault]]:
    """Check files, and the rows of those that differ or whose records are not to be trusted."""
    suspects = {fault.segment for fault in told.faults}
    found: dict[int, list[Fault]] = {}
    look: dict[int, bool] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing does not hold the interpreter
        checks = pool.map(lambda record: check_file(directory, record, told.files), segments.values())
        for done, (n, (faults, differs)) in enumerate(zip(segments, checks, strict=True), 1):
            found[n] = faults
            if differs or (not faults and (rows or n in suspects)):
                look[n] = not differs
            if progress is not None and not rows:
                progress(done, len(segments))
    asked = {n: (directory, segments[n], as_recorded) for n, as_recorded in look.items()}
    for done, (n, faults) in enumerate(_look_into(asked, workers), 1):
        found[n] = [*found[n], *faults]
        if progress is not None:
            progress(done, len(asked))
    return found


_Asked = tuple[Path, Record, bool]


def _look_into(asked: Mapping[int, _Asked], workers: int) -> Iterable[tuple[int, list[Fault]]]:
    """Go through the rows of files; a file that takes its reader down is told, and the others are gone on with."""
    waiting = dict(asked)
    as_recorded = all(each[2] for each in asked.values())
    if not workers or (as_recorded and sum(each[1].rows for each in asked.values()) < ROWS_ALONE):
        for n, each in waiting.items():
            yield n, _look_at(*each)
        return
    alone = False
    while waiting:
        batch = dict(list(waiting.items())[:1]) if alone else dict(waiting)
        with _processes(min(workers, len(batch))) as pool:
            results = {n: pool.submit(_look_at, *each) for n, each in batch.items()}
            for n, result in results.items():
                try:
                    faults = result.result()
                except BrokenProcessPool:
                    if not alone:
                        break
                    _, record, _ = asked[n]
                    what = "is damaged so that reading it ends the reader"
                    faults = [Fault(where="file", what=what, segment=n, file=record.file)]
                del waiting[n]
                yield n, faults
        alone = True


def _look_at(directory: Path, record: Record, as_recorded: bool) -> list[Fault]:
    return check_rows(directory, record, as_recorded=as_recorded)


def _processes(workers: int) -> Executor:
    spawn = multiprocessing.get_context("spawn")  # forking a process with threads may lock up
    return ProcessPoolExecutor(workers, mp_context=spawn, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however it ended."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _strays(directory: Path, told: _Told, patience_s: float) -> tuple[_Told, list[Fault]]:
    """Find files that no record names; gives those that are just being written the time to be named."""
    until = time.monotonic() + patience_s
    while True:
        there = {path for path in (*directory.rglob("*.parquet"), *directory.glob("day=*/*")) if not path.is_dir()}
        if not there - {directory / record.file for record in told.links.segments.values()}:
            return told, []
        told = _read_chain(directory)
        strays = sorted(there - {directory / record.file for record in told.links.segments.values()})
        strays = [path for path in strays if path.exists()]
        ours = told.links.segments.keys() | {told.links.number + 1}
        written = any(_number(path) in ours for path in strays)  # the next segment, or one that is rewritten
        if not written or time.monotonic() >= until:
            return told, [_stray(directory, path, told) for path in strays]
        threading.Event().wait(LOOK_S)


def _number(path: Path) -> int | None:
    """Return the number of the segment that a file's name tells of."""
    found = re.match(r"[0-9]{8,}", path.name)
    return int(found[0]) if found else None


def _stray(directory: Path, path: Path, told: _Told) -> Fault:
    name = str(path.relative_to(directory))
    links = told.links
    number = _number(path)
    try:
        copied = told.files.get(file_hash(path))
    except OSError:
        copied = None
    segment = number if copied is None else copied
    present = None if segment is None else links.segments.get(segment)
    if copied is not None and number != copied:
        what = f"is a copy of segment {copied}'s file under a name that no record gives"
    elif present is not None:
        what = f"is beside {present.file}, the segment's present file: an earlier revision, or put there"
    elif number == links.number + 1:
        what = (
            "is named by no record: what a crash left, which the keeper removes when it starts, "
            "or it was put there, or the chain was cut before it"
        )
    else:
        what = "is named by no record: it was put there, or the chain lost its record"
    return Fault(where="file", what=what, segment=segment, file=name)


def _check_heads(heads: Sequence[Head], told: _Told) -> list[Fault]:
    faults = []
    for head in heads:
        what = ""
        if not is_genuine(head):
            what = "is not signed by the key that it names: it is no head of an installation"
        elif head.public_key != told.links.public_key:
            what = "is of an installation with another key than this archive's"
        elif head.hash not in told.hashes:
            what = _lost(head.n, told.links)
        if what:
            faults.append(
                Fault(where="head", what=f"the head {head.hash[:12]} of {head.at_ms} {what}", segment=head.n or None)
            )
    return faults


def _lost(n: int, links: Links) -> str:
    if n > links.number:
        return f"is not in the chain, which ends at segment {links.number} instead of {n}: it was cut"
    return "is not in the chain: the chain was rewritten, here or before"


def _check_kept(kept: Kept, told: _Told) -> list[Fault]:
    links, faults = told.links, []
    if kept.head is not None and kept.head.hash not in told.hashes:
        what = f"the newest record in Redis, {kept.head.hash[:12]}, {_lost(kept.head.n, links)}"
        faults.append(Fault(where="head", what=what, segment=kept.head.n or None))
    if kept.public_key and links.head is not None and kept.public_key != links.public_key:
        faults.append(Fault(where="head", what="the chain was begun with another key than this installation's"))
    archived: dict[int, int] = {}
    for record in links.segments.values():
        for partition, span in record.spans.items():
            archived[partition] = archived.get(partition, 0) + span.count
    for partition, live in sorted(kept.live.items()):
        last, count = links.last.get(partition, "0-0"), archived.get(partition, 0)
        lost = live.added - live.length - count
        what = ""
        if order_of(live.newest) < order_of(last):
            what = f"the archive goes up to {last}, the log in Redis never got beyond {live.newest}"
        elif lost > 0 and (not live.first or order_of(live.first) > order_of(last)):
            what = f"{lost} rows between the archive and {live.first or 'the end of'} the live log are in neither"
        if what:
            faults.append(Fault(where="live", what=what, partition=partition, log_id=last))
    return faults
