"""The chain of the archive: one line a record in `chain.jsonl`, each with the hash of the one before.

A record tells of a segment that was added, or of one that was rewritten because something had to be erased from it.
The newest record that names a segment says what its file must be; older ones stay, so the chain itself is only ever
added to, and whoever keeps its head knows all of it. A rewrite is a note signed by the installation (Ed25519), so that
nobody else can pass off an edit as an erasure; the first record holds the public key.

A record counts once its line is complete and on disk. What a crash left behind it (part of a line, a file that no
record names) is not of the archive, and `Chain.open` and `Chain.tidy` remove it. Not here: what the files hold
(`nbx.audit.segments`), and moving the log there.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs

from nbx.audit.records import START, Links, Record, Span, check_record, line_of, order_of, read_line, sealed
from nbx.errors import Conflict, Unsupported

__all__ = [
    "CHAIN", "START", "Chain", "Damaged", "Record", "Span", "check_record", "covering", "file_hash", "read_records",
    "sealed", "segment_file", "sync_directory",
]  # fmt: skip

CHAIN: Final = "chain.jsonl"


class Damaged(Unsupported):
    """The chain itself is not what was written."""

    code = "chain_damaged"


def read_records(directory: Path) -> Iterator[tuple[int, Record | str]]:
    """Yield the chain's complete lines with their numbers from 1: a record, or what is wrong with the line.

    Nothing where there is no chain. What comes after the last line feed is left out: a record is complete, or was never
    acknowledged.
    """
    try:
        lines = (directory / CHAIN).open("rb")
    except FileNotFoundError:
        return
    with lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            yield number, read_line(line[:-1])


class Chain:
    """The chain of one archive, for its only writer and for readers; made by `Chain.open`.

    Attributes
    ----------
    directory
        Of the archive.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._links = Links()
        self._read_bytes = 0

    @classmethod
    def open(cls, directory: Path, *, repair: bool = False) -> Chain:
        """Read a chain; `repair` cuts off what a crash left of a line, and is for the only writer.

        Raises
        ------
        Damaged
            A record is not what was written: `nbx log verify` says more.
        """
        chain = cls(directory)
        chain.refresh()
        path = directory / CHAIN
        if repair and path.exists() and path.stat().st_size > chain._read_bytes:
            with path.open("r+b") as file:
                chain._cut(file.fileno())
                os.fsync(file.fileno())
        return chain

    @property
    def head(self) -> Record | None:
        """The newest record; None: nothing is archived."""
        return self._links.head

    @property
    def segments(self) -> dict[int, Record]:
        """Number → the newest record that names the segment, in order."""
        return self._links.segments

    @property
    def public_key(self) -> str:
        """Ed25519, hexadecimal; empty before the first record."""
        return self._links.public_key

    @property
    def hash(self) -> str:
        """Hash of the newest record, hexadecimal."""
        return self._links.hash

    def last_ids(self) -> dict[int, str]:
        """Return each partition's last archived log id."""
        return dict(self._links.last)

    def refresh(self) -> bool:
        """Take in what was added since; tells whether anything was.

        Raises
        ------
        Damaged
            A record is not what was written, or the file is shorter than what was read of it.
        """
        path = self.directory / CHAIN
        before = self._read_bytes
        try:
            file = path.open("rb")
        except FileNotFoundError:
            if before:
                raise self._damaged("is gone") from None
            return False
        with file:
            if os.fstat(file.fileno()).st_size < before:
                raise self._damaged(f"was cut: {before} bytes of it were read")
            file.seek(before)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                record = read_line(line[:-1])
                if isinstance(record, str):
                    raise self._damaged(f"the line at byte {self._read_bytes} {record}")
                if fault := self._fault_of(record):
                    raise self._damaged(f"record {record.kind} {record.n}: {fault}")
                self._links.take(record)
                self._read_bytes += len(line)
        return self._read_bytes > before

    def append(self, record: Record, key: Ed25519PrivateKey | None = None) -> Record:
        """Add a record, with `prev` and hash set here; on disk when this returns.

        What a crash left of a line before is cut off.

        Raises
        ------
        OSError
            The disk is full or cannot be written; the chain is as before.
        Damaged
            The record does not fit the chain, or the file is not what was read of it; nothing is written.
        Conflict
            Somebody else has added to the chain: `refresh`, then look again.
        """
        record = sealed(structs.replace(record, prev=self.hash), key)
        if fault := self._fault_of(record):
            raise self._damaged(f"record {record.kind} {record.n} is not added: {fault}")
        line = line_of(record)
        self.directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.directory / CHAIN, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._cut(descriptor)
            _write(descriptor, line, self._read_bytes)
        finally:
            os.close(descriptor)
        if not self._read_bytes:
            sync_directory(self.directory)
        self._links.take(record)
        self._read_bytes += len(line)
        return record

    def tidy(self) -> list[Path]:
        """Delete what a crash may have left: files beside a segment's present one, and of the segment that comes next.

        For the only writer. Other files that no record names stay: the chain may have lost what told of them.
        """
        named = {self.directory / record.file for record in self.segments.values()}
        ours = self.segments.keys() | {self._links.number + 1}
        found = []
        for path in sorted(self.directory.glob("day=*/*")):
            number = re.match(r"\.?(\d{8,})\.", path.name)
            if path not in named and number and int(number[1]) in ours and not path.is_dir():
                path.unlink()
                found.append(path)
        return found

    def _fault_of(self, record: Record) -> str:
        return check_record(record, self.hash, self.public_key) or self._links.misfit(record)

    def _cut(self, descriptor: int) -> None:
        """Cut off what follows the last record: part of a line, or else it is not ours to cut."""
        size = os.fstat(descriptor).st_size
        if size < self._read_bytes:
            raise self._damaged(f"was cut: {self._read_bytes} bytes of it were read")
        if size > self._read_bytes:
            os.lseek(descriptor, self._read_bytes, os.SEEK_SET)
            with open(descriptor, "rb", closefd=False) as rest:
                if any(b"\n" in piece for piece in iter(lambda: rest.read(1 << 20), b"")):
                    raise Conflict(f"{self.directory / CHAIN}: somebody else has added to it")
            os.ftruncate(descriptor, self._read_bytes)

    def _damaged(self, what: str) -> Damaged:
        return Damaged(f"{self.directory / CHAIN}: {what}; see `nbx log verify`, and restore the file from a copy")


def _write(descriptor: int, line: bytes, at_bytes: int) -> None:
    """Write a line at the end and force it to disk; when that fails the file is as before."""
    try:
        done = 0
        while done < len(line):
            done += os.pwrite(descriptor, line[done:], at_bytes + done)
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):  # what is left is part of a line, or a line that the next `append` finds
            os.ftruncate(descriptor, at_bytes)
        raise


def sync_directory(directory: Path) -> None:
    """Force a directory's entries to disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, hexadecimal; `OSError` when it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def segment_file(n: int, day: str, revision: int = 0) -> str:
    """Return the path of a segment's file within the archive.

    Examples
    --------
    >>> segment_file(12, "2026-01-31"), segment_file(12, "2026-01-31", revision=2)
    ('day=2026-01-31/00000012.parquet', 'day=2026-01-31/00000012.r2.parquet')
    """
    return f"day={day}/{n:08d}{f'.r{revision}' if revision else ''}.parquet"


def covering(segments: Mapping[int, Record], partition: int, after: str) -> Iterator[Record]:
    """Yield, in order, the segments with rows of a partition beyond a log id (`0-0`: from the start)."""
    beyond = order_of(after)
    for record in segments.values():
        span = record.spans.get(partition)
        if span is not None and order_of(span.last) > beyond:
            yield record
