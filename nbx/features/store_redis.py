"""The store on Redis or Valkey (6.2 and later): reads are one MGET, a commit is one script.

The script (`commit.lua`) is loaded on every connect and called by its digest. A server that has forgotten it (SCRIPT
FLUSH, a fail-over) answers NOSCRIPT before anything ran; the text is then sent once with EVAL, which is as atomic.
"""

from __future__ import annotations

import asyncio
from hashlib import sha1
from importlib.resources import files
from typing import TYPE_CHECKING

from hiredis import ReplyError

from nbx.features.keys import PartitionKeys, partition_keys
from nbx.features.store import VERSION_BYTES, Commit, Committed, LogEntry, Timer, Verdict
from nbx.limits import BUDGET_KEPT_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbx.features.connection import RedisConnection

SCAN_TIMEOUT_MS = 5_000
"""Milliseconds for timers and log pages: nobody's deadline hangs on them, and a page may be a megabyte."""

_SCRIPT = files("nbx.features").joinpath("commit.lua").read_bytes()
_SHA = sha1(_SCRIPT, usedforsecurity=False).hexdigest()
_ONLY_NEW = (b"0", b"1")
_ANSWERS = (Committed(Verdict.STALE), Committed(Verdict.DONE), Committed(Verdict.CLOSED))
"""By the script's number."""

_Argument = bytes | str | int


class RedisStore:
    """`nbx.features.store.Store` over one pipelined connection.

    Make it before `connection.connect()`, so that the script is there before the first commit; later works too, at the
    cost of sending the text once.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._partitions: dict[int, PartitionKeys] = {}
        connection.prepare("SCRIPT", "LOAD", _SCRIPT)

    async def read(self, keys: Sequence[str], timeout_ms: float) -> list[bytes | None]:
        """Values in the order of `keys`, None where there is none; one MGET."""
        if not keys:
            return []
        values: list[bytes | None] = await self._connection.execute("MGET", *keys, timeout_ms=timeout_ms)
        return values

    async def commit(self, commit: Commit, timeout_ms: float) -> Committed:
        """Apply a commit with one script.

        Raises
        ------
        Unavailable
            No answer in time, or none at all: whether it was applied is unknown (unless the code says that the server
            refused: see `connection`).
        ValueError
            `state` is empty, or a put's `ttl_ms` or a spend's amount is not positive: nothing was sent.
        """
        arguments = self._arguments(commit)
        execute = self._connection.execute
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms * 0.001
        reply: int | bytes
        try:
            reply = await execute("EVALSHA", _SHA, *arguments, timeout_ms=timeout_ms)
        except ReplyError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
            left_ms = max(1.0, (deadline - loop.time()) * 1000)
            reply = await execute("EVAL", _SCRIPT, *arguments, timeout_ms=left_ms)
        if isinstance(reply, bytes):
            return Committed(Verdict.EXISTS, reply)
        return _ANSWERS[reply]

    async def due(self, partition: int, now_ms: int, count: int) -> list[Timer]:
        """Up to `count` timers due at or before `now_ms`, earliest first, equal ones by member."""
        if count <= 0:
            return []
        flat: list[bytes] = await self._connection.execute(
            "ZRANGEBYSCORE", self._keys(partition).timers, "-inf", now_ms, "WITHSCORES", "LIMIT", 0, count,
            timeout_ms=SCAN_TIMEOUT_MS,
        )  # fmt: skip
        return [Timer(flat[i].decode(), int(float(flat[i + 1]))) for i in range(0, len(flat), 2)]

    async def drop_timers(self, partition: int, members: Sequence[str]) -> None:
        """Remove timers outside a commit; none: nothing is sent."""
        if members:
            timers = self._keys(partition).timers
            await self._connection.execute("ZREM", timers, *members, timeout_ms=SCAN_TIMEOUT_MS)

    async def log_range(self, partition: int, start: str, end: str, count: int) -> list[LogEntry]:
        """Up to `count` log entries with start ≤ id ≤ end, oldest first."""
        return await self._log(partition, ("XRANGE", self._keys(partition).log, start, end), count)

    async def log_tail(self, partition: int, count: int) -> list[LogEntry]:
        """Last `count` log entries, newest first."""
        return await self._log(partition, ("XREVRANGE", self._keys(partition).log, "+", "-"), count)

    async def _log(self, partition: int, command: tuple[str, ...], count: int) -> list[LogEntry]:
        if count <= 0:
            return []
        rows: list[tuple[bytes, list[bytes]]] = await self._connection.execute(
            *command, "COUNT", count, timeout_ms=SCAN_TIMEOUT_MS
        )
        return [LogEntry(partition, entry_id.decode(), fields[1]) for entry_id, fields in rows]

    def _keys(self, partition: int) -> PartitionKeys:
        keys = self._partitions.get(partition)
        if keys is None:
            keys = self._partitions[partition] = partition_keys(partition)
        return keys

    def _arguments(self, commit: Commit) -> list[_Argument]:
        """Lay a commit out as `commit.lua` reads it, the count of keys first."""
        if not commit.state:
            raise ValueError("a commit needs a state: an empty one could not be told from none")
        keys = self._keys(commit.partition)
        expected = commit.expected_version
        puts, drop, spends = commit.puts, commit.drop, commit.spends
        count = 3 + len(puts) + len(drop) + len(spends)
        arguments: list[_Argument] = [count, commit.customer_key, keys.log, keys.timers]
        arguments += [put.key for put in puts]
        arguments += drop
        arguments += [spend.key for spend in spends]
        arguments += (
            expected.to_bytes(VERSION_BYTES, "big") if expected else b"",
            (expected + 1).to_bytes(VERSION_BYTES, "big") + commit.state,
            len(commit.entries),
            len(commit.cancel),
            len(commit.arm),
            len(drop),
            len(spends),
        )
        arguments += commit.entries
        for put in puts:
            if put.ttl_ms <= 0:
                raise ValueError(f"put {put.key}: ttl_ms is {put.ttl_ms}, it must be positive")
            arguments += (put.value, put.ttl_ms, _ONLY_NEW[put.only_new])
        arguments += commit.cancel
        for timer in commit.arm:
            arguments += (timer.due_ms, timer.member)
        for spend in spends:
            if spend.amount <= 0:
                raise ValueError(f"spend {spend.key}: amount is {spend.amount}, it must be positive")
            arguments += (spend.amount, spend.until_ms, spend.until_ms + BUDGET_KEPT_MS)
        return arguments
