"""What the three kinds of process share: logging, waiting for Redis, the partition check, stopping on a signal."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Coroutine
from typing import Any, NamedTuple

import uvloop

from nbx.errors import SetupError, Unavailable
from nbx.features.connection import RedisConnection
from nbx.features.keys import PARTITIONS
from nbx.features.secrets import read_key
from nbx.features.store_redis import RedisStore
from nbx.runtime.private_log import PrivateFormatter
from nbx.settings import Settings

RETRY_S = 0.5
TIMEOUT_MS = 2_000.0
GC_THRESHOLD = 20_000
"""Objects between two young collections: what a few hundred requests in flight hold, or a step of the learner."""
log = logging.getLogger("nbx")


class Connected(NamedTuple):
    """A connection and the store over it."""

    connection: RedisConnection
    store: RedisStore


def start_logging(settings: Settings) -> None:
    """Log to standard error, one line each, naming no customer."""
    handler = logging.StreamHandler(sys.stderr)
    file = settings.pseudonym_key_file
    handler.setFormatter(PrivateFormatter(read_key(file) if file is not None else b""))
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper(), force=True)


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run a process's main coroutine on uvloop; returns its exit code."""
    code: int = uvloop.run(main)
    return code


def settle() -> None:
    """Leave what was made so far out of garbage collection: it lives as long as the process.

    Without it a full collection shows up as a slow decision, and takes a third of the learner's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


def stop_event() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def pause(stop: asyncio.Event, seconds: float) -> bool:
    """Wait, but not past a stop; True when stopping."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True


async def connect(settings: Settings, stop: asyncio.Event) -> Connected | None:
    """Connect to Redis, however long it takes; None when stopped before.

    Raises
    ------
    SetupError
        Redis refuses us for good, or holds data of another number of partitions.
    """
    told = False
    while not stop.is_set():
        connection = RedisConnection(settings.effective_redis_url)
        store = RedisStore(connection)
        try:
            await connection.connect()
            await check_partitions(connection, settings.partitions)
        except Unavailable as error:
            await connection.close(0.0)
            if not told:
                log.warning("waiting for Redis at %s: %s", settings.redis_label, error)
                told = True
            await pause(stop, RETRY_S)
        else:
            return Connected(connection, store)
    return None


async def check_partitions(connection: RedisConnection, partitions: int) -> None:
    """Fix the number of partitions at first start; `SetupError` when this Redis was begun with another one."""
    await connection.execute("SET", PARTITIONS, partitions, "NX", timeout_ms=TIMEOUT_MS)
    stored = int(await connection.execute("GET", PARTITIONS, timeout_ms=TIMEOUT_MS))
    if stored != partitions:
        raise SetupError(
            f"this Redis holds {stored} partitions, the settings say {partitions}: set NBX_PARTITIONS={stored}; "
            "the number is fixed at first start"
        )
