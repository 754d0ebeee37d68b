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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct, field, structs

from nbx.errors import Unsupported

CHAIN: Final = "chain.jsonl"
START: Final = "0" * 64
"""What stands for the hash of the record before the first."""
FORMAT: Final = 1

Kind = Literal["begin", "segment", "rewrite"]


class Span(Struct, frozen=True, array_like=True):
    """Rows of one partition in a segment: log ids of the first and the last, and how many."""

    first: str
    last: str
    count: int


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the chain."""

    kind: Kind
    n: int
    """Number of the segment, from 1; of the first record 0."""
    at_ms: int
    """When it was written."""
    prev: str
    """Hash of the record before, hexadecimal."""
    file: str = ""
    """Path of the segment's file within the archive, `day=2026-01-31/00000001.parquet`."""
    sha256: str = ""
    """Of the file, hexadecimal."""
    rows: int = 0
    rows_hash: str = ""
    """`row_hash` of its last row, hexadecimal."""
    spans: dict[int, Span] = field(default_factory=dict)
    """By partition."""
    from_ms: int = 0
    """Least and greatest time of its rows in the log, epoch milliseconds; without the journal's."""
    to_ms: int = 0
    before: str = ""
    """Of a rewrite: what the rows' hashes start from, the `prev` of the segment's first record."""
    why: dict[str, str] = field(default_factory=dict)
    """Of a rewrite: what was done, on whose word."""
    public_key: str = ""
    """Of the first record: the Ed25519 key of the installation, hexadecimal."""
    format: int = FORMAT
    signature: str = ""
    """Ed25519 over the record without signature and hash, hexadecimal; of rewrites."""
    hash: str = ""
    """sha256 of the record without it, hexadecimal."""


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Record).decode


class Damaged(Unsupported):
    """The chain itself is not what was written."""

    code = "chain_damaged"


def sealed(record: Record, key: Ed25519PrivateKey | None = None) -> Record:
    """Return a record with its hash, and signed where a key is given.

    Examples
    --------
    >>> record = sealed(Record(kind="begin", n=0, at_ms=0, prev=START))
    >>> check_record(record, START), check_record(structs.replace(record, at_ms=1), START)
    ('', 'its hash is not that of its content')
    """
    if key is not None:
        record = structs.replace(record, signature=key.sign(_unsigned(record)).hex())
    return structs.replace(record, hash=_hash(record))


def check_record(record: Record, prev: str, public_key: str = "") -> str:
    """Say what is wrong with a record that follows the one with hash `prev`; empty: nothing."""
    if record.hash != _hash(record):
        return "its hash is not that of its content"
    if record.prev != prev:
        return "it does not follow the record before it: one is missing, was added, or their order was changed"
    if record.kind == "rewrite":
        try:
            known = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
            known.verify(bytes.fromhex(record.signature), _unsigned(record))
        except (InvalidSignature, ValueError):
            return "its rewrite is not signed by this installation"
    return ""


def _unsigned(record: Record) -> bytes:
    return _encode(structs.replace(record, signature="", hash=""))


def _hash(record: Record) -> str:
    return hashlib.sha256(_encode(structs.replace(record, hash=""))).hexdigest()


def read_records(directory: Path) -> Iterator[tuple[int, Record | str]]:
    """Yield the chain's complete lines with their numbers from 1: a record, or what is wrong with the line.

    Nothing where there is no chain. What comes after the last line feed is left out: a record is complete, or was never
    acknowledged.
    """
    path = directory / CHAIN
    if not path.exists():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield number, _decode(line)
            except msgspec.DecodeError as error:
                yield number, f"is no record: {error}"


class Chain:
    """The chain of one archive, for its only writer and for readers; made by `Chain.open`.

    Attributes
    ----------
    directory
        Of the archive.
    head
        The newest record; None: nothing is archived.
    segments
        Number → the newest record that names the segment, in order.
    public_key
        Ed25519, hexadecimal; empty before the first record.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.head: Record | None = None
        self.segments: dict[int, Record] = {}
        self.public_key = ""
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
                file.truncate(chain._read_bytes)
                os.fsync(file.fileno())
        return chain

    @property
    def hash(self) -> str:
        """Hash of the newest record, hexadecimal."""
        return self.head.hash if self.head is not None else START

    def last_ids(self) -> dict[int, str]:
        """Return each partition's last archived log id."""
        last: dict[int, str] = {}
        for record in self.segments.values():
            last.update({partition: span.last for partition, span in record.spans.items()})
        return last

    def refresh(self) -> bool:
        """Take in what was added since; tells whether anything was."""
        path = self.directory / CHAIN
        if not path.exists() or path.stat().st_size == self._read_bytes:
            return False
        with path.open("rb") as file:
            file.seek(self._read_bytes)
            whole, feed, _ = file.read().rpartition(b"\n")
        for line in whole.splitlines():
            try:
                self._take(_decode(line))
            except msgspec.DecodeError as error:
                raise Damaged(f"{path}: a line after byte {self._read_bytes} is no record: {error}") from error
            self._read_bytes += len(line) + 1
        return bool(feed)

    def append(self, record: Record, key: Ed25519PrivateKey | None = None) -> Record:
        """Add a record, with `prev` and hash set here; on disk when this returns.

        Raises
        ------
        OSError
            The disk is full or cannot be written; the chain is as before.
        """
        record = sealed(structs.replace(record, prev=self.hash), key)
        line = _encode(record) + b"\n"
        path = self.directory / CHAIN
        new = not path.exists()
        with path.open("ab") as file:
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), self._read_bytes)
                raise
        if new:
            sync_directory(self.directory)
        self._take(record)
        self._read_bytes += len(line)
        return record

    def tidy(self) -> list[Path]:
        """Delete files that no record names as a segment's present one; returns them. For the only writer."""
        named = {self.directory / record.file for record in self.segments.values()}
        found = [path for path in self.directory.glob("day=*/*") if path not in named]
        for path in found:
            path.unlink()
        return found

    def _take(self, record: Record) -> None:
        if fault := check_record(record, self.hash, self.public_key):
            where = f"{self.directory / CHAIN}: record {record.kind} {record.n}"
            raise Damaged(f"{where}: {fault}; restore the file from a copy, then run `nbx log verify`")
        if record.kind == "begin":
            self.public_key = record.public_key
        else:
            self.segments[record.n] = record
        self.head = record


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
    ms, _, sequence = after.partition("-")
    beyond = int(ms), int(sequence or 0)
    for record in segments.values():
        span = record.spans.get(partition)
        if span is not None:
            last_ms, _, last_sequence = span.last.partition("-")
            if (int(last_ms), int(last_sequence)) > beyond:
                yield record
