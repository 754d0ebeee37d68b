"""Queries over the log for processes that serve meanwhile: each in a process of its own, and what that process does.

The asking process gives the question on standard input and keeps it open: a worker whose asker is gone ends by itself.
The worker reads the live log from Redis itself, so the asking process holds nothing but the answer, which is bounded.
It is nice, has bounds on memory, files and time, and is killed when it is late or nobody waits any more. Its
environment has no setting of ours: what a statement could find out there is nothing.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import msgspec
from msgspec import Struct

from nbx import errors
from nbx.audit.decisions_found import Criteria, Found, find
from nbx.audit.live_tail import Readable, every_partition, readable
from nbx.audit.log_ids import ADMIN
from nbx.audit.query_answer import Answer, Bounds, Damage
from nbx.audit.reading import Window
from nbx.clock import SystemClock
from nbx.errors import NbxError, TooLarge, Unavailable
from nbx.features.connection import RedisConnection
from nbx.features.keys import ADMIN_LOG, partition_keys
from nbx.features.store import LogEntry
from nbx.features.store_redis import SCAN_TIMEOUT_MS, RedisStore
from nbx.ids import partition_of
from nbx.limits import QUERY_ADDRESS_BYTES
from nbx.runtime.process import check_partitions, log
from nbx.settings import Settings

if TYPE_CHECKING:
    from nbx.audit.query import LogQuery

T = TypeVar("T")
WORKER: Final = "nbx.runtime.querying"
"""Module whose process a query is."""
LATE_S: Final = 3.0
"""How much longer than its time a worker may take before it is killed: it ends with clearer words by itself."""
WAITING: Final = 8
"""Searches that may wait for their turn."""
NICE: Final = 10
FOREVER_MS: Final = 1 << 50
"""An end for windows that have none."""
_PASSED_ON: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "HOME")
_ANSWERED, _REFUSED = 0, 3
_SLACK_BYTES: Final = 1 << 20


class Asked(Struct, frozen=True, kw_only=True):
    """What a worker is asked."""

    archive: str
    redis_url: str
    """Empty: only the archive is read."""
    partitions: int
    span: Window
    now_ms: int
    bounds: Bounds
    skip_damaged: bool = False
    sql: str = ""
    criteria: Criteria | None = None
    """A search instead of SQL."""


class Told(Struct, frozen=True, kw_only=True):
    """An error of a worker."""

    kind: str
    """Name of its class in `nbx.errors`."""
    code: str
    message: str
    field: str = ""


class RedisLog:
    """`nbx.audit.live_tail.LiveLog` on Redis."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._store = RedisStore(connection)

    async def log_range(self, partition: int, start: str, end: str, count: int) -> list[LogEntry]:
        """Return a page of a partition's log, or of the admin trail."""
        if partition != ADMIN:
            return await self._store.log_range(partition, start, end, count)
        return await self._admin(("XRANGE", ADMIN_LOG, start, end), count)

    async def log_tail(self, partition: int, count: int) -> list[LogEntry]:
        """Return the end of a partition's log, or of the admin trail, newest first."""
        if partition != ADMIN:
            return await self._store.log_tail(partition, count)
        return await self._admin(("XREVRANGE", ADMIN_LOG, "+", "-"), count)

    async def firsts(self, partitions: Sequence[int]) -> dict[int, str]:
        """Return where the trimmed partitions' logs begin."""
        keys = [partition_keys(partition).first for partition in partitions]
        found = await self._store.read(keys, SCAN_TIMEOUT_MS)
        return {p: first.decode() for p, first in zip(partitions, found, strict=True) if first}

    async def _admin(self, command: tuple[str, ...], count: int) -> list[LogEntry]:
        rows = await self._connection.execute(*command, "COUNT", count, timeout_ms=SCAN_TIMEOUT_MS)
        return [LogEntry(ADMIN, entry_id.decode(), fields[1]) for entry_id, fields in rows]


@asynccontextmanager
async def live_log(redis_url: str, partitions: int) -> AsyncIterator[RedisLog | None]:
    """Connect to the live log; None without a URL."""
    if not redis_url:
        yield None
        return
    connection = RedisConnection(redis_url)
    found = RedisLog(connection)
    await connection.connect()
    try:
        await check_partitions(connection, partitions)
        yield found
    finally:
        await connection.close()


async def read(asked: Asked) -> Readable:
    """Find what there is to read for a question."""
    partitions = every_partition(asked.partitions)
    if asked.criteria is not None:
        customer = asked.criteria.customer
        partitions = [partition_of(customer, asked.partitions)] if customer else list(range(asked.partitions))
    async with live_log(asked.redis_url, asked.partitions) as log_of_redis:
        return await readable(Path(asked.archive), log_of_redis, partitions, asked.span)


def over(asked: Asked, use: Callable[[LogQuery], T]) -> T:
    """Read the log for a question, and use it; read it anew when segments were replaced meanwhile.

    Raises
    ------
    Unavailable
        Redis does not answer.
    Unsupported
        The archive is damaged, or not this installation's.
    """
    from nbx.audit.query import LogQuery  # DuckDB is for who asks it

    source = asyncio.run(read(asked))
    while True:
        query = LogQuery(source, asked.span, asked.now_ms, asked.bounds, skip_damaged=asked.skip_damaged)
        try:
            return use(query)
        except Damage:  # or what was erased from was written anew since
            again = asyncio.run(read(asked))
            if again.records == source.records:
                raise
            source = again


def answer(asked: Asked) -> bytes:
    """Answer a question, as JSON."""
    clock = SystemClock()
    began_ms = clock.now_ms()

    def use(query: LogQuery) -> Answer | Found:
        if asked.criteria is None:
            return query.answer(asked.sql)
        return find(query, asked.criteria, asked.partitions)

    answered = over(asked, use)
    return msgspec.json.encode(msgspec.structs.replace(answered, took_ms=float(clock.now_ms() - began_ms)))


# In the worker


def work() -> NoReturn:
    """Answer the question on standard input and end; what `python -m nbx.runtime.querying` does."""
    asked = msgspec.json.decode(sys.stdin.buffer.readline(), type=Asked)
    _bound_process(asked.bounds)
    threading.Thread(target=_end_with_asker, daemon=True).start()
    code = _ANSWERED
    try:
        said = answer(asked)
    except NbxError as error:
        kind = next(each.__name__ for each in type(error).__mro__ if each.__module__ == errors.__name__)
        said = msgspec.json.encode(Told(kind=kind, code=error.code, message=error.message, field=error.field))
        code = _REFUSED
    except MemoryError:
        os._exit(1)
    sys.stdout.buffer.write(said)
    sys.stdout.buffer.flush()
    os._exit(code)  # nothing here is worth tidying up, and a worker that hangs at its end would be waited for


def _bound_process(bounds: Bounds) -> None:
    os.nice(NICE)
    seconds = int(bounds.seconds + LATE_S) + 1
    for what, most in (
        (resource.RLIMIT_AS, QUERY_ADDRESS_BYTES),
        (resource.RLIMIT_CPU, seconds * bounds.threads),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def _end_with_asker() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)


# In the process that asks


class QueryDesk:
    """Where queries are asked: one of SQL and one search at a time, each in a process of its own.

    Parameters
    ----------
    settings
        Give archive, Redis and partitions.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sql = asyncio.Lock()
        self._search = asyncio.Lock()
        self._searches = 0

    async def sql(self, sql: str, span: Window, now_ms: int, bounds: Bounds, *, skip_damaged: bool = False) -> bytes:
        """Answer SQL; an `Answer` as JSON.

        Raises
        ------
        Unavailable
            Another query is being answered.
        Invalid, TooLarge, Unsupported
            As `nbx.audit.query.LogQuery.answer`.
        """
        if self._sql.locked():
            raise Unavailable("another query is being answered here; ask again when it is done", code="query_busy")
        async with self._sql:
            return await ask(self._asked(span, now_ms, bounds, skip_damaged=skip_damaged, sql=sql))

    async def find(
        self, criteria: Criteria, span: Window, now_ms: int, bounds: Bounds, *, skip_damaged: bool = False
    ) -> bytes:
        """Find decisions; `Found` as JSON. Raises as `sql`, but waits for its turn among a few."""
        if self._searches >= WAITING:
            raise Unavailable("many searches are waiting here; ask again in a while", code="query_busy")
        self._searches += 1
        try:
            async with self._search:
                return await ask(self._asked(span, now_ms, bounds, skip_damaged=skip_damaged, criteria=criteria))
        finally:
            self._searches -= 1

    def _asked(self, span: Window, now_ms: int, bounds: Bounds, **more: Any) -> Asked:
        return asked_of(self._settings, span, now_ms, bounds, **more)


def asked_of(settings: Settings, span: Window, now_ms: int, bounds: Bounds, **more: Any) -> Asked:
    """Put a question to the archive and the Redis of an installation."""
    return Asked(
        archive=str(settings.archive_path.resolve()),
        redis_url=settings.effective_redis_url,
        partitions=settings.partitions,
        span=span,
        now_ms=now_ms,
        bounds=bounds,
        **more,
    )


async def ask(asked: Asked) -> bytes:
    """Have a worker answer; it is killed when it is late, says too much, or whoever asked waits no more."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", WORKER,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
    )  # fmt: skip
    late = asyncio.get_running_loop().time() + asked.bounds.seconds
    try:
        async with asyncio.timeout_at(late + LATE_S):
            return await _asked_of(process, asked, late)
    except TimeoutError:
        raise _late(asked) from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.wait())


def _late(asked: Asked) -> TooLarge:
    return TooLarge(
        f"the query took more than {asked.bounds.seconds:g} s: ask for less time (since, until)", code="query_late"
    )


async def _asked_of(process: asyncio.subprocess.Process, asked: Asked, late: float) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(ConnectionError):
        process.stdin.write(msgspec.json.encode(asked) + b"\n")
        await process.stdin.drain()
    said = bytearray()
    most = asked.bounds.bytes + _SLACK_BYTES
    while part := await process.stdout.read(1 << 16):
        said += part
        if len(said) > most:
            raise TooLarge(f"the answer is larger than {asked.bounds.bytes} bytes", code="answer_too_large")
    code = await process.wait()
    if code == _ANSWERED:
        return bytes(said)
    if code == _REFUSED:
        told = msgspec.json.decode(bytes(said), type=Told)
        kind: Callable[..., NbxError] = getattr(errors, told.kind)
        raise kind(told.message, field=told.field, code=told.code)
    log.warning("a query's process ended with %d", code)
    if asyncio.get_running_loop().time() >= late:
        raise _late(asked)  # and did not take well to being interrupted
    raise TooLarge(
        "the query needs more memory than it may have: ask for less time (since, until) or fewer columns, or aggregate",
        code="query_memory",
    )


if __name__ == "__main__":
    work()
