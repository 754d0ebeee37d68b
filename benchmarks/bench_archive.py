"""The archive: rows per second, what it costs, how late the keeper's timers get, and what deciding feels of it.

Command: `python -m benchmarks.bench_archive` (a minute and a half; `--smoke` for a look). The log is made of real
decisions over HTTP (50 actions, 32 columns). First this process archives all of it beside a ticker of 5 ms, whose
lateness is compared with that of an idle loop. Then decisions come in an open loop at 200 a second, in rounds with a
keeper that catches up with a backlog and archives every second from then on, and with one that archives nothing,
interleaved; the api process has core 0 to itself, keeper, Redis and client share core 1. Whether deciding feels it is
the ratio of the two.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.bench_events_http import CONNECTIONS, decision
from benchmarks.catalogs import sized
from benchmarks.load_client import load, open_loop
from benchmarks.pinned import Pinned, cpu_s, pinned_service, process, ready
from nbx.clock import SystemClock
from nbx.features.connection import RedisConnection
from nbx.features.keys import ARCHIVE_HEAD, ARCHIVE_SIGNER, LEASE_KEEPER
from nbx.features.lease import Lease
from nbx.features.store_redis import RedisStore
from nbx.runtime.archiving import Archiver

PARTITIONS = 16
RATE = 200
"""Decisions per second while a keeper archives, or does not."""
TICK_S = 0.005
ROWS = 100_000


class Round(NamedTuple):
    """Decisions with one kind of keeper."""

    archives: bool
    latencies_ms: list[float]
    keeper_s: float
    """CPU of the keeper."""


def main(*, smoke: bool) -> float:
    """Measure and print; returns the ratio of the 99th percentiles with and without archiving."""
    return asyncio.run(_main(800 if smoke else 20_000, 1 if smoke else 3, 2.0 if smoke else 8.0))


async def _main(count: int, rounds: int, seconds: float) -> float:
    async with pinned_service(sized(50, 32, 20)) as nbx:
        await ready(nbx.port, decision)
        await _fill(nbx, count)
        await _archive(nbx)
        await nbx.redis.delete(ARCHIVE_HEAD, ARCHIVE_SIGNER, LEASE_KEEPER)
        done = []
        for _ in range(rounds):
            for archives in (False, True):
                await _fill(nbx, count // 4)
                done.append(await _round(nbx, seconds, archives=archives))
    return _report(done)


async def _fill(nbx: Pinned, count: int) -> None:
    done = await load(
        nbx.port, lambda number: decision(number) if number <= count else None, seconds=300.0, connections=CONNECTIONS
    )
    assert done.errors == 0, f"{done.errors} of {done.requests} decisions failed"


async def _archive(nbx: Pinned) -> None:
    """Archive everything in this process, beside a ticker."""
    connection = RedisConnection(nbx.redis_url)
    await connection.connect()
    lease = Lease(connection, LEASE_KEEPER, "bench", 600_000)
    await lease.acquire()
    with tempfile.TemporaryDirectory() as folder:
        archiver = Archiver(
            connection,
            RedisStore(connection),
            lease,
            Path(folder),
            partitions=PARTITIONS,
            rows=ROWS,
            clock=SystemClock(),
        )
        await archiver.open()
        idle = await _lateness(asyncio.create_task(asyncio.sleep(1.0)))
        began_s, cpu = time.perf_counter(), time.process_time()
        busy_task = asyncio.create_task(archiver.archive())
        busy = await _lateness(busy_task)
        took_s, cpu = time.perf_counter() - began_s, time.process_time() - cpu
        rows = busy_task.result()
        size = _size(Path(folder))
        archiver.close()
    await connection.close()
    print(
        f"{rows:,} rows archived in {took_s:.2f} s: {rows / took_s:,.0f} rows/s, {1e6 * cpu / rows:.0f} µs of CPU a row"
    )
    print(f"{size / rows:.0f} bytes on disk a row")
    (idle_ms, idle_most), (busy_ms, busy_most) = ((np.percentile(each, 99), max(each)) for each in (idle, busy))
    print(f"a timer is late by p99 {busy_ms:.1f} ms, at most {busy_most:.1f}; idle {idle_ms:.1f}, {idle_most:.1f}")


def _size(folder: Path) -> int:
    """Return the bytes of an archive's segments."""
    return sum(path.stat().st_size for path in folder.glob("day=*/*"))


async def _lateness(task: asyncio.Task[object]) -> list[float]:
    """Return by how many milliseconds a ticker was late while a task ran."""
    loop = asyncio.get_running_loop()
    late_ms = [0.0]
    while not task.done():
        due_s = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        late_ms.append(1000 * (loop.time() - due_s))
    return late_ms


async def _round(nbx: Pinned, seconds: float, *, archives: bool) -> Round:
    await nbx.redis.delete(LEASE_KEEPER)
    more = {"NBX_ARCHIVE": "on" if archives else "off", "NBX_ARCHIVE_INTERVAL_S": "1"}
    with process([sys.executable, "-m", "nbx", "keeper"], {**nbx.environment, **more}, core=1) as keeper:
        while not await nbx.redis.exists(LEASE_KEEPER):  # noqa: ASYNC110 - another process takes it
            await asyncio.sleep(0.01)
        before_s = cpu_s(keeper.pid)
        calls = [decision(number) for number in range(int(RATE * seconds))]
        sent = await open_loop(nbx.port, calls, rate=RATE, connections=CONNECTIONS)
        used_s = cpu_s(keeper.pid) - before_s
    assert all(each.ok for each in sent), "a call failed"
    return Round(archives, [1000 * (each.answered_s - each.due_s) for each in sent], used_s)


def _report(rounds: list[Round]) -> float:
    told = {}
    for archives in (False, True):
        mine = [each for each in rounds if each.archives is archives]
        p50, p99 = (float(np.median([np.percentile(each.latencies_ms, q) for each in mine])) for q in (50, 99))
        keeper_s = float(np.median([each.keeper_s for each in mine]))
        told[archives] = p99
        name = "archiving, with a backlog" if archives else "no archive"
        print(f"{name}: decide p50 {p50:.2f} ms, p99 {p99:.2f} ms at {RATE}/s; keeper {keeper_s:.2f} s of CPU a round")
    ratio = told[True] / told[False]
    print(f"p99 with archiving against without: {ratio:.2f} x")
    return ratio


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    main(smoke=parser.parse_args().smoke)
