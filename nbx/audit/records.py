"""Records of the archive's chain: what one says, what makes it genuine, and how it has to follow those before it.

A record's hash covers everything in it, also the hash of the record before; a line of the chain's file is exactly what
its record packs to. Not here: the file and its only writer (`nbx.audit.chain`).
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct, field, structs

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


_encode = msgspec.json.Encoder().encode  # fields in their order, maps in theirs: decoding keeps both
_decode = msgspec.json.Decoder(Record).decode


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
    if not has_own_hash(record):
        return "its hash is not that of its content"
    if record.prev != prev:
        return "it does not follow the record before it: one is missing, was added, or their order was changed"
    return "" if is_signed(record, public_key) else "its rewrite is not signed by this installation"


def is_signed(record: Record, public_key: str) -> bool:
    """Tell whether a record carries the signature that its kind asks for."""
    if record.kind != "rewrite":
        return True
    try:
        known = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        known.verify(bytes.fromhex(record.signature), _unsigned(record))
    except (InvalidSignature, ValueError):
        return False
    return True


def has_own_hash(record: Record) -> bool:
    """Tell whether a record's hash is that of its content."""
    return record.hash == _hash(record)


def _unsigned(record: Record) -> bytes:
    return _encode(structs.replace(record, signature="", hash=""))


def _hash(record: Record) -> str:
    return hashlib.sha256(_encode(structs.replace(record, hash=""))).hexdigest()


def read_line(line: bytes) -> Record | str:
    """Return a line's record, or what is wrong with it.

    A line is exactly what its record packs to, so that nothing can be put into one that no hash covers.

    Examples
    --------
    >>> read_line(b"{}")
    'is no record: Object missing required field `kind`'
    """
    try:
        record = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"is no record: {error}"
    if record.format > FORMAT:
        return f"has format {record.format}, of a later version of nbx; this one reads up to {FORMAT}"
    if _encode(record) != line:
        return "is not as nbx writes its record: something was added or laid out anew"
    return record


class Links:
    """What the records of a chain say together, taken in one by one.

    Attributes
    ----------
    head
        The newest record.
    segments
        Number → the newest record that names the segment, in order.
    number
        Of the newest segment; 0: none.
    last
        Partition → its last log id.
    public_key
        Ed25519, hexadecimal; empty before the first record.
    """

    def __init__(self) -> None:
        self.head: Record | None = None
        self.segments: dict[int, Record] = {}
        self.number = 0
        self.last: dict[int, str] = {}
        self._ends: dict[int, tuple[int, int]] = {}
        """`last`, as what ids are ordered by."""
        self.public_key = ""

    @property
    def hash(self) -> str:
        """Hash of the newest record, hexadecimal."""
        return self.head.hash if self.head is not None else START

    def misfit(self, record: Record) -> str:
        """Say why a record cannot stand next, by what it tells of; empty: it can."""
        if record.kind == "begin":
            return "the chain begins a second time" if self.head is not None else ""
        if self.head is None:
            return "the chain's first record is missing"
        found = _FILE.fullmatch(record.file)
        if found is None or int(found[1]) != record.n:
            return f"its file {record.file!r} is not named as one of segment {record.n}"
        if record.kind == "rewrite":
            return self._misfit_of_rewrite(record)
        if record.n <= self.number:
            return f"segment {record.n} is told of again, or out of order"
        if record.n > self.number + 1:
            many = f"segments {self.number + 1} to {record.n - 1} are"
            return f"the records of {many if record.n > self.number + 2 else f'segment {record.n - 1} is'} missing"
        return self._misfit_of_spans(record)

    def take(self, record: Record) -> None:
        """Go on from a record, whether it fits or not."""
        if record.kind == "begin":
            self.public_key = self.public_key or record.public_key
        else:
            self.segments[record.n] = record
            self.number = max(self.number, record.n)
            for partition, span in record.spans.items():
                end = order_of(span.last)
                if end > self._ends.get(partition, (-1, -1)):
                    self.last[partition], self._ends[partition] = span.last, end
        self.head = record

    def _misfit_of_spans(self, record: Record) -> str:
        for partition, span in record.spans.items():
            first = order_of(span.first)
            if not span.count or first > order_of(span.last):
                return f"its span of partition {partition} is none: {span.count} rows from {span.first} to {span.last}"
            if partition in self._ends and first <= self._ends[partition]:
                last = self.last[partition]
                return f"partition {partition} starts at {span.first}, but was archived up to {last} before"
        told = sum(span.count for span in record.spans.values())
        return "" if told == record.rows else f"it tells of {record.rows} rows, its partitions of {told}"

    def _misfit_of_rewrite(self, record: Record) -> str:
        before = self.segments.get(record.n)
        if before is None:
            return f"segment {record.n} is rewritten, but no record before tells of it"
        if (record.spans, record.rows) != (before.spans, before.rows):
            return f"the rewrite of segment {record.n} does not keep its rows"
        if record.before != rows_start(before):
            return f"the rewrite of segment {record.n} does not start its rows from where the segment did"
        return f"the rewrite of segment {record.n} names the file it replaces" if record.file == before.file else ""


_FILE: Final = re.compile(r"day=\d{4}-\d\d-\d\d/(\d{8,})(?:\.r\d+)?\.parquet")


def rows_start(record: Record) -> str:
    """Return what a segment's row hashes start from, hexadecimal."""
    return record.before or record.prev


def order_of(log_id: str) -> tuple[int, int]:
    """Return a log id as what it is ordered by; what is none comes first.

    Examples
    --------
    >>> order_of("1700000000000-10") > order_of("1700000000000-9"), order_of("nothing")
    (True, (-1, -1))
    """
    ms, _, sequence = log_id.partition("-")
    try:
        return int(ms), int(sequence)
    except ValueError:
        return -1, -1


def line_of(record: Record) -> bytes:
    """Return a record as its line of the chain."""
    return _encode(record) + b"\n"
