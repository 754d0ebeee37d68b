"""Complete decisions over HTTP against a plain Litestar route with redis-py, both one process on one core, interleaved.

Command: `python -m benchmarks.bench_decide_http` (about a minute; `--smoke` for a look). The server under test is
pinned to core 0; Redis and the closed-loop client share core 1. Both return the same number of bytes. Reported: median
rate of the rounds, rate per second of server CPU, client-side p50/p99, and the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
from typing import NamedTuple

import msgspec

from benchmarks.catalogs import sized
from benchmarks.load_client import Load, load, post
from benchmarks.pinned import cpu_s, free_port, pinned_service, process, ready

CONNECTIONS = 64
CUSTOMERS = 20_000


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
    async with pinned_service(sized(50, 32)) as nbx:
        size = await ready(nbx.port, _request)
        plain_port = free_port()
        plain_argv = [sys.executable, "-m", "benchmarks.plain_app", str(plain_port), nbx.redis_url, str(size)]
        with process(plain_argv, dict(os.environ), core=0) as plain:
            await ready(plain_port, _request)
            measured: dict[str, list[Round]] = {"nbx decide": [], "plain route": []}
            for _ in range(rounds):
                measured["nbx decide"].append(await _round(nbx.port, nbx.pid, seconds))
                measured["plain route"].append(await _round(plain_port, plain.pid, seconds))
                await nbx.redis.delete(*[k async for k in nbx.redis.scan_iter("nbx:{p*}:log")])
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
    before = cpu_s(pid)
    done: Load = await load(port, _request, seconds=seconds, connections=CONNECTIONS)
    spent_s = cpu_s(pid) - before
    assert done.errors == 0, f"{done.errors} of {done.requests} requests failed"
    ordered = sorted(done.latencies_ms)
    return Round(
        done.requests / done.seconds,
        done.requests / spent_s,
        ordered[len(ordered) // 2],
        ordered[int(len(ordered) * 0.99)],
        done.reply_bytes,
    )


def _request(number: int) -> bytes:
    context = {f"f{i}": number % 7 / 7 for i in (1, 5, 9, 13)}
    body = {"customer_id": f"c{number * 7919 % CUSTOMERS}", "placement": "hero", "context": context}
    return post("/v1/decisions", msgspec.json.encode(body))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    main(smoke=parser.parse_args().smoke)
