"""A service for benchmarks: its api process alone on core 0; Redis, the client and whatever else on core 1."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import uvloop
from redis.asyncio import Redis

from benchmarks.catalogs import sized
from benchmarks.harness import Result, Size
from benchmarks.load_client import load
from nbx.catalog.model import Catalog
from nbx.catalog.releases import publish
from nbx.runtime.embedded_redis import redis_child, wait_ready
from nbx.settings import Settings

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


class Pinned(NamedTuple):
    """A service that runs."""

    port: int
    pid: int
    """Of the api process."""
    redis: Redis
    redis_url: str
    environment: dict[str, str]
    """For further processes of the same service."""


class Peer(NamedTuple):
    """A server to compare with."""

    port: int
    pid: int


@contextlib.contextmanager
def peer(module: str, *arguments: object) -> Iterator[Peer]:
    """Run `python -m benchmarks.<module> PORT …` on core 0 while the context lasts."""
    port = free_port()
    argv = [sys.executable, "-m", f"benchmarks.{module}", str(port), *map(str, arguments)]
    with process(argv, dict(os.environ), core=0) as started:
        yield Peer(port, started.pid)


def bare_asgi(size: int) -> contextlib.AbstractContextManager[Peer]:
    """Run a bare ASGI function that answers so many bytes."""
    return peer("bare_app", size)


@contextlib.asynccontextmanager
async def pinned_service(catalog: Catalog, *redis_options: str) -> AsyncIterator[Pinned]:
    """Run Redis and one api process while the context lasts; this process goes to core 1.

    `redis_options` are further flags of the server, such as a port to listen on besides its socket.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            data_dir=Path(folder), port=free_port(), grpc_port=free_port(), auth="off", deadline_ms=1000
        )
        (Path(folder) / "logs").mkdir()
        child = redis_child(settings, dict(os.environ))
        with process([*child.argv, *redis_options], dict(os.environ), core=1):
            await wait_ready(settings.effective_redis_url)
            async with Redis.from_url(settings.effective_redis_url) as redis:
                await publish(redis, catalog, author="bench", note="", at_ms=0)
                environment = {**os.environ, **settings.environment(), "OPENBLAS_NUM_THREADS": "1"}
                with process([sys.executable, "-m", "nbx", "api"], environment, core=0) as api:
                    pin(1)
                    yield Pinned(settings.port, api.pid, redis, settings.effective_redis_url, environment)


@contextlib.contextmanager
def process(argv: list[str], environment: dict[str, str], core: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process on a core while the context lasts."""
    started = subprocess.Popen(argv, env=environment, preexec_fn=lambda: pin(core))  # noqa: PLW1509
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(20)


async def ready(port: int, make: Callable[[int], bytes]) -> int:
    """Wait until requests are answered; returns the size of an answer."""
    for _ in range(300):
        with contextlib.suppress(OSError):
            done = await load(port, make, seconds=0.05, connections=1)
            if done.requests and not done.errors:
                return done.reply_bytes
        await asyncio.sleep(0.1)
    raise RuntimeError(f"nothing answers on port {port}")


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def pin(core: int) -> None:
    """Keep this process on one core, where the system can and there are two."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {CORES[min(core, len(CORES) - 1)]})


def free_port() -> int:
    """Return a port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_service(measure_on: Callable[[Pinned, Size], Awaitable[Result]], size: Size) -> Result:
    """Measure on a service of its own: 50 actions, 32 columns, 20 conditions."""

    async def run() -> Result:
        async with pinned_service(sized(50, 32, 20)) as nbx:
            return await measure_on(nbx, size)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the client's share of its core is small then
        return runner.run(run())
