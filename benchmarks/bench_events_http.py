"""Events over HTTP against decisions, by the same api process on one core, interleaved.

Command: `python -m benchmarks.bench_events_http` (about a minute; `--smoke` for a look). Every round decides for a
while, then reports what happened to what was just decided: `seen`, then an answer (half of them `declined`, which is
diagnosed), each event a call of its own; decides again, and reports that in calls of 20 events. The api process is on
core 0 alone; Redis and the closed-loop client share core 1. Reported: medians of the rounds, per second and per
second of the process's CPU, and the ratio of events to decisions; the bar is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from benchmarks.catalogs import sized
from benchmarks.load_client import load, post
from benchmarks.pinned import Pinned, cpu_s, pinned_service, ready

CONNECTIONS = 64
CUSTOMERS = 20_000
BATCH = 20
BLOCK = 1_000
"""Decisions that are seen before the first of them is answered: nobody answers while `seen` is under way."""
SHOWN = re.compile(rb'"decision_id":"(\w+)","slots":\[\{"slot":0,"action":')


class Round(NamedTuple):
    """One measured stretch."""

    rate: float
    per_cpu: float
    p50_ms: float
    p99_ms: float


def main(*, smoke: bool) -> dict[str, float]:
    """Measure and print; returns the ratios."""
    return asyncio.run(_main(2 if smoke else 5, 1.0 if smoke else 4.0))


async def _main(rounds: int, seconds: float) -> dict[str, float]:
    measured: dict[str, list[Round]] = {"decisions": [], "events": [], f"events, {BATCH} a call": []}
    async with pinned_service(sized(50, 32, 20)) as nbx:
        await ready(nbx.port, decision)
        for _ in range(rounds):
            for name, batch in (("events", 1), (f"events, {BATCH} a call", BATCH)):
                decided, shown = await _decide(nbx, seconds)
                measured["decisions"].append(decided)
                measured[name].append(await _report(nbx, shown, batch, seconds))
            await nbx.redis.delete(*[key async for key in nbx.redis.scan_iter("nbx:{p*}:log")])
    return _told(measured)


async def _decide(nbx: Pinned, seconds: float) -> tuple[Round, list[str]]:
    shown: list[str] = []

    def look(body: bytes) -> None:
        if found := SHOWN.search(body):
            shown.append(found.group(1).decode())

    return await _round(nbx, decision, seconds, 1, look), shown


async def _report(nbx: Pinned, shown: Sequence[str], batch: int, seconds: float) -> Round:
    """Report `seen`, block by block, and the answers to the block before."""
    blocks = [shown[at : at + BLOCK] for at in range(0, len(shown), BLOCK)]
    events = [
        {"event_id": f"{decision_id}{kind}", "type": kind, "decision_id": decision_id}
        for block in blocks
        for kinds in (("seen", "seen"), ("accepted", "declined"))
        for decision_id, kind in zip(block, kinds * len(block), strict=False)
    ]
    bodies = [msgspec.json.encode(events[at : at + batch]) for at in range(0, len(events) - batch + 1, batch)]
    rejected = 0

    def event(number: int) -> bytes | None:
        return post("/v1/events", bodies[number - 1]) if number <= len(bodies) else None

    def look(body: bytes) -> None:
        nonlocal rejected
        rejected += body.count(b'"rejected"')

    done = await _round(nbx, event, seconds, batch, look)
    assert rejected == 0, f"{rejected} events were rejected"
    return done


async def _round(
    nbx: Pinned,
    make: Callable[[int], bytes | None],
    seconds: float,
    batch: int,
    look: Callable[[bytes], None],
) -> Round:
    before_s = cpu_s(nbx.pid)
    done = await load(nbx.port, make, seconds=seconds, connections=CONNECTIONS, look=look)
    assert done.errors == 0, f"{done.errors} of {done.requests} requests failed"
    count, ordered = done.requests * batch, sorted(done.latencies_ms)
    return Round(
        count / done.seconds,
        count / (cpu_s(nbx.pid) - before_s),
        ordered[len(ordered) // 2],
        ordered[int(len(ordered) * 0.99)],
    )


def _told(measured: dict[str, list[Round]]) -> dict[str, float]:
    middles = {
        name: Round(*(statistics.median(column) for column in zip(*rows, strict=True)))
        for name, rows in measured.items()
    }
    decided = middles["decisions"]
    print(f"{'':20}{'per s':>9}{'per cpu-s':>11}{'p50 ms':>9}{'p99 ms':>9}{'of decisions':>22}")
    for name, row in middles.items():
        ratios = f"{row.rate / decided.rate:.2f} x, cpu {row.per_cpu / decided.per_cpu:.2f} x"
        print(f"{name:20}{row.rate:9.0f}{row.per_cpu:11.0f}{row.p50_ms:9.2f}{row.p99_ms:9.2f}{ratios:>22}")
    return {name: row.per_cpu / decided.per_cpu for name, row in middles.items()}


def decision(number: int) -> bytes:
    """Return a call for a decision."""
    context = {f"f{i}": number % 7 / 7 for i in (1, 5, 9, 13)}
    body = {"customer_id": f"c{number * 7919 % CUSTOMERS}", "placement": "hero", "context": context}
    return post("/v1/decisions", msgspec.json.encode(body))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    main(smoke=parser.parse_args().smoke)
