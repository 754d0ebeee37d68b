"""The port to the state store: one read, one conditional commit, timers and the log.

Everything is bytes here; meaning is given by `nbx.features.state` and `nbx.experience.entries`. All keys of a commit
belong to one partition. Adapters: `store_redis.RedisStore`; `tests/simulation/store_fake.py` passes the same contract
suite.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from msgspec import Struct

VERSION_BYTES = 8
"""Stored customer state is this many bytes of big-endian version, then the struct."""


def versioned(blob: bytes | None) -> tuple[int, bytes | None]:
    """Split stored customer state into version and struct; (0, None) when there is none.

    Raises
    ------
    ValueError
        The blob is too short to hold a version and a struct: it was not written by a commit.

    Examples
    --------
    >>> versioned(bytes(7) + b"\\x02struct"), versioned(None)
    ((2, b'struct'), (0, None))
    """
    if blob is None:
        return 0, None
    if len(blob) <= VERSION_BYTES:
        raise ValueError(f"stored state has {len(blob)} bytes: fewer than a version and a struct")
    return int.from_bytes(blob[:VERSION_BYTES], "big"), blob[VERSION_BYTES:]


class Put(NamedTuple):
    """One key to set with the commit."""

    key: str
    value: bytes
    ttl_ms: int
    """Time to live, > 0."""
    only_new: bool = False
    """When the key exists already nothing of the commit is done."""


class Timer(NamedTuple):
    """A due time for a member of the partition's timer set."""

    member: str
    due_ms: int


class Spend(NamedTuple):
    """What the commit takes from a budget."""

    key: str
    """Counter of the lease in the commit's partition (`PartitionKeys.spending`)."""
    amount: int
    """> 0."""
    until_ms: int
    """Epoch milliseconds, the store's clock, from which on the lease pays for nothing."""


class Commit(Struct, frozen=True, kw_only=True):
    """All or nothing, on one partition."""

    partition: int
    customer_key: str
    expected_version: int
    """Version the state was loaded at; 0 when there was none."""
    state: bytes
    """New struct bytes, without the version; stored as version expected_version + 1."""
    entries: tuple[bytes, ...] = ()
    """Appended to the partition's log in this order, one stream entry each (field `e`)."""
    puts: tuple[Put, ...] = ()
    """Written after the state: one on `customer_key` takes its place and gives it an end."""
    arm: tuple[Timer, ...] = ()
    cancel: tuple[str, ...] = ()
    """Timer members to remove; done before `arm`."""
    drop: tuple[str, ...] = ()
    """Keys to delete, done after `puts`; one that does not exist is none the less gone."""
    spends: tuple[Spend, ...] = ()
    """Added to their counters, each key once."""


class Verdict(Enum):
    """What became of a commit."""

    DONE = "done"
    STALE = "stale"
    """The state's version is not the expected one: reload and try again."""
    EXISTS = "exists"
    """An `only_new` key was there: somebody did this already."""
    CLOSED = "closed"
    """A lease that it would spend from pays for nothing more: decide again without it."""


class Committed(NamedTuple):
    """Answer to a commit; `existing` is the value of the first `only_new` key found, for EXISTS."""

    verdict: Verdict
    existing: bytes = b""


class LogEntry(NamedTuple):
    """One entry of a partition's log."""

    partition: int
    entry_id: str
    """Stream id `<ms>-<sequence>`; increases within a partition."""
    payload: bytes


class Store(Protocol):
    """What deciding and feedback need. Every method raises `Unavailable` when the store cannot answer in time."""

    async def read(self, keys: Sequence[str], timeout_ms: float) -> list[bytes | None]:
        """Values in the order of `keys` (all of one partition), None where there is none; no keys: empty list."""
        ...

    async def commit(self, commit: Commit, timeout_ms: float) -> Committed:
        """Apply a commit atomically. After `Unavailable` it is unknown whether it was applied."""
        ...

    async def due(self, partition: int, now_ms: int, count: int) -> list[Timer]:
        """Up to `count` timers due at or before `now_ms`, earliest first. They stay until a commit cancels them."""
        ...

    async def drop_timers(self, partition: int, members: Sequence[str]) -> None:
        """Remove timers whose decision is gone; none: nothing happens."""
        ...

    async def log_range(self, partition: int, start: str, end: str, count: int) -> list[LogEntry]:
        """Up to `count` log entries with start ≤ id ≤ end, oldest first; `-`, `+`: the ends, `(id` excludes id."""
        ...

    async def log_tail(self, partition: int, count: int) -> list[LogEntry]:
        """Last `count` log entries, newest first."""
        ...
