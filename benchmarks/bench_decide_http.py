"""Complete decisions over HTTP against a plain Litestar route with redis-py, both one process on one core, interleaved.

Command: `python -m benchmarks.bench_decide_http` (about a minute; `--smoke` for a look). The server under test is
pinned to core 0; Redis and the closed-loop client share core 1. Both return the same number of bytes. Reported: median
rate of the rounds, rate per second of server CPU, client-side p50/p99, and the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil
from redis.asyncio import Redis

from benchmarks.catalogs import sized
from benchmarks.load_client import Load, load, post
from nbx.catalog.releases import publish
from nbx.runtime.embedded_redis import redis_child, wait_ready
from nbx.settings import Settings

CONNECTIONS = 64
CUSTOMERS = 20_000
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


class Round(NamedTuple):
    """One measured stretch."""

    rate: float
    per_cpu: float
    p50_ms: float
    p99_ms: float
    reply_bytes: int


def main(*, smoke: bool) -> dict[str, float]:
    """Measure and print; returns the ratios."""
    return asyncio.run(_main(2 if smoke else 5, 1.0 if smoke else 5.0))


async def _main(rounds: int, seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), port=_free(), grpc_port=_free(), auth="off", deadline_ms=1000)
        (Path(folder) / "logs").mkdir()
        child = redis_child(settings, dict(os.environ))
        with _process(list(child.argv), dict(os.environ), core=1):
            await wait_ready(settings.effective_redis_url)
            redis = Redis.from_url(settings.effective_redis_url)
            await publish(redis, sized(50, 32), author="bench", note="", at_ms=0)
            environment = {**os.environ, **settings.environment(), "OPENBLAS_NUM_THREADS": "1"}
            with _process([sys.executable, "-m", "nbx", "api"], environment, core=0) as nbx:
                size = await _ready(settings.port)
                plain_port = _free()
                plain_argv = [sys.executable, "-m", "benchmarks.plain_app", str(plain_port)]
                plain_argv += [settings.effective_redis_url, str(size)]
                with _process(plain_argv, dict(os.environ), core=0) as plain:
                    await _ready(plain_port)
                    _pin(1)
                    measured: dict[str, list[Round]] = {"nbx decide": [], "plain route": []}
                    for _ in range(rounds):
                        measured["nbx decide"].append(await _round(settings.port, nbx.pid, seconds))
                        measured["plain route"].append(await _round(plain_port, plain.pid, seconds))
                        await redis.delete(*[k async for k in redis.scan_iter("nbx:{p*}:log")])
            await redis.aclose()
    return _report(measured)


def _report(measured: dict[str, list[Round]]) -> dict[str, float]:
    print(f"{'':14}{'req/s':>9}{'req/cpu-s':>11}{'p50 ms':>9}{'p99 ms':>9}{'bytes':>7}")
    medians = {}
    for name, rows in measured.items():
        middle = Round(*(statistics.median(column) for column in zip(*rows, strict=True)))
        medians[name] = middle
        print(
            f"{name:14}{middle.rate:9.0f}{middle.per_cpu:11.0f}{middle.p50_ms:9.2f}{middle.p99_ms:9.2f}"
            f"{middle.reply_bytes:7.0f}"
        )
    ratios = {
        "rate": medians["nbx decide"].rate / medians["plain route"].rate,
        "per_cpu": medians["nbx decide"].per_cpu / medians["plain route"].per_cpu,
    }
    print(f"nbx / plain: rate {ratios['rate']:.2f} x, per cpu-second {ratios['per_cpu']:.2f} x")
    return ratios


async def _round(port: int, pid: int, seconds: float) -> Round:
    before = _cpu_s(pid)
    done: Load = await load(port, _request, seconds=seconds, connections=CONNECTIONS)
    cpu_s = _cpu_s(pid) - before
    assert done.errors == 0, f"{done.errors} of {done.requests} requests failed"
    ordered = sorted(done.latencies_ms)
    return Round(
        done.requests / done.seconds,
        done.requests / cpu_s,
        ordered[len(ordered) // 2],
        ordered[int(len(ordered) * 0.99)],
        done.reply_bytes,
    )


def _request(number: int) -> bytes:
    context = {f"f{i}": number % 7 / 7 for i in (1, 5, 9, 13)}
    body = {"customer_id": f"c{number * 7919 % CUSTOMERS}", "placement": "hero", "context": context}
    return post("/v1/decisions", msgspec.json.encode(body))


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def _ready(port: int) -> int:
    """Wait for a decision; returns its size."""
    for _ in range(300):
        with contextlib.suppress(OSError):
            done = await load(port, _request, seconds=0.05, connections=1)
            if done.requests and not done.errors:
                return done.reply_bytes
        await asyncio.sleep(0.1)
    raise RuntimeError(f"nothing answers on port {port}")


@contextlib.contextmanager
def _process(argv: list[str], environment: dict[str, str], core: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(argv, env=environment, preexec_fn=lambda: _pin(core))  # noqa: PLW1509
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _pin(core: int) -> None:
    """Keep this process on one core, where the system can and there are two."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {CORES[min(core, len(CORES) - 1)]})


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    main(smoke=parser.parse_args().smoke)
