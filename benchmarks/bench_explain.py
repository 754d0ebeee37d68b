"""Explain: what decisions notice of auditing going on in the same process.

Command: `python -m benchmarks.bench_explain` (two minutes; `--smoke` for a look). An api process on core 0; Redis and
the client on core 1. 200 actions, 40 conditions. Decisions come in an open loop at 100 a second, in three ways,
interleaved: alone; with a stream of explanations, 20 plain ones and 2 that ask why not an action each second (the
customer is rebuilt from the log, and the smallest change searched); and with both asked for as fast as they are
answered, a connection each. Measured: the latency of decisions from when each was due, and what explanations take.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from typing import NamedTuple

from msgspec.structs import replace

from benchmarks.bench_events_http import decision
from benchmarks.catalogs import sized
from benchmarks.load_client import load, open_loop
from benchmarks.pinned import Pinned, pinned_service, ready
from nbx.catalog.model import Action, Catalog, Treatment

RATE = 100
"""Decisions per second."""
PLAIN, ASKED = 20, 2
"""Explanations per second of the stream."""
CONNECTIONS = 16
_ID = re.compile(rb'"decision_id":"([0-9a-f]{26})"')
WAYS = ("alone", "a stream", "at full tilt")


class Round(NamedTuple):
    """Latencies of a way, milliseconds."""

    decisions: list[float]
    plain: list[float]
    asked: list[float]


def main(*, smoke: bool, rate: int = RATE) -> dict[str, float]:
    """Measure and print; returns per way the ratio of the 99th percentile to that of decisions alone."""
    return asyncio.run(_main(1 if smoke else 6, 2.0 if smoke else 6.0, rate))


async def _main(rounds: int, seconds: float, rate: int) -> dict[str, float]:
    found: dict[str, list[Round]] = {way: [] for way in WAYS}
    async with pinned_service(_catalog()) as nbx:
        await ready(nbx.port, decision)
        ids = await _decided(nbx, 400)
        for _ in range(rounds):
            for way in WAYS:
                found[way].append(await _round(nbx, way, ids, seconds, rate))
    return _report(found)


def _catalog() -> Catalog:
    bare = sized(200, 32, 40)
    blocked = Action(
        name="blocked",
        group="g0",
        value=50.0,
        gives=("something",),
        eligible="customer.f2 > 5.0 && (customer.f4 > 5.0 || customer.f6 > 7.0) && request.f1 >= 0.0",
        treatments=(Treatment(name="t", placements=("hero",)),),
    )
    return replace(bare, actions=(*bare.actions, blocked))


async def _decided(nbx: Pinned, count: int) -> list[str]:
    ids: list[str] = []

    def look(body: bytes) -> None:
        if told := _ID.search(body):
            ids.append(told[1].decode())

    await load(
        nbx.port, lambda number: decision(number) if len(ids) < count else None, seconds=60.0, connections=4, look=look
    )
    return ids


def _explanations(ids: list[str], query: str) -> Iterator[bytes]:
    for decision_id in cycle(ids):
        yield f"GET /v1/decisions/{decision_id}/explanation{query} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


async def _round(nbx: Pinned, way: str, ids: list[str], seconds: float, pace: int) -> Round:
    plain, asked = _explanations(ids, ""), _explanations(ids, "?action=blocked")
    beside: list[asyncio.Task[list[float]]] = []
    stop = asyncio.Event()
    for calls, rate in ((plain, PLAIN), (asked, ASKED)) if way != "alone" else ():
        beside.append(asyncio.create_task(_ask(nbx.port, calls, rate if way == "a stream" else 0, stop)))
    sent = await open_loop(
        nbx.port, [decision(number) for number in range(int(pace * seconds))], rate=pace, connections=CONNECTIONS
    )
    assert all(each.ok for each in sent), "a decision failed"
    stop.set()
    took = [await task for task in beside] or [[], []]
    return Round([(each.answered_s - each.due_s) * 1000 for each in sent], *took)


async def _ask(port: int, calls: Iterator[bytes], rate: int, stop: asyncio.Event) -> list[float]:
    """Ask one after the other, at a rate or, with 0, as soon as the one before is answered; returns milliseconds."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took, due_s = [], loop.time()
    while not stop.is_set():
        if rate:
            due_s += 1.0 / rate
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), max(due_s - loop.time(), 0.0))
                break
        began = loop.time()
        writer.write(next(calls))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        at = head.index(b"content-length:") + 15
        await reader.readexactly(int(head[at : head.index(b"\r", at)]))
        took.append((loop.time() - began) * 1000)
    writer.close()
    return took


def _report(found: dict[str, list[Round]]) -> dict[str, float]:
    print(f"{'explanations beside':20}{'decisions':>10}{'p50 ms':>8}{'p99 ms':>8}", end="")
    print(f"{'plain':>8}{'p50 ms':>8}{'why not':>9}{'p50 ms':>8}")
    tails: dict[str, float] = {}
    for way, rounds in found.items():
        tails[way] = statistics.median(_at(each.decisions, 0.99) for each in rounds)
        middle = statistics.median(_at(each.decisions, 0.5) for each in rounds)
        count = sum(len(each.decisions) for each in rounds)
        print(f"{way:20}{count:10}{middle:8.2f}{tails[way]:8.2f}", end="")
        for took in ([ms for each in rounds for ms in each.plain], [ms for each in rounds for ms in each.asked]):
            print(f"{len(took):8}{statistics.median(took) if took else 0.0:8.1f}", end=" ")
        print()
    ratios = {way: tail / tails["alone"] for way, tail in tails.items()}
    print(", ".join(f"p99 with {way}: {ratios[way]:.2f} x" for way in WAYS[1:]), "of decisions alone")
    return ratios


def _at(row: list[float], share: float) -> float:
    return sorted(row)[int(len(row) * share)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--rate", type=int, default=RATE, help="decisions per second")
    chosen = parser.parse_args()
    main(smoke=chosen.smoke, rate=chosen.rate)
