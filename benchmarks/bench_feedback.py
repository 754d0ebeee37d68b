"""Feedback: how long from the acknowledgement of an outcome until a model that has learned it serves.

Command: `python -m benchmarks.bench_feedback` (two minutes; `--smoke` for a look). An api process on core 0; Redis, the
learner and the client on core 1. Acceptances of decisions that were just made come in an open loop, a call each, at 25
and at 500 per second, interleaved; whether the model keeps up is the ratio of the two. The served snapshot is looked at
every few milliseconds in the api process. Which snapshot first held an outcome follows from the log: the outcome's
entry, and the first journalled step that reached it. Both have the defaults: a snapshot every 250 ms, looked for every
100 ms. The bar is 2 s at the 99th percentile.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from benchmarks.bench_events_http import CONNECTIONS, SHOWN, decision
from benchmarks.catalogs import sized
from benchmarks.load_client import Sent, load, open_loop, post
from benchmarks.pinned import Pinned, pinned_service, process, ready
from nbx.experience.entries import EventEntry, decode_entry
from nbx.features.keys import MODEL_JOURNAL, partition_keys

SLOW, FAST = 25, 500
"""Outcomes per second."""
BAR_MS = 2_000
LOOK_S = 0.004
PARTITIONS = 16
LAST_S = 30.0
"""How long the last outcomes may take."""
_SNAPSHOT = re.compile(rb'"snapshot":(\d+)')


class Told(NamedTuple):
    """An outcome that was acknowledged."""

    rate: int
    event_id: str
    sent: Sent


def main(*, smoke: bool) -> float:
    """Measure and print; returns the 99th percentile at the fast rate, milliseconds."""
    return asyncio.run(_main(1 if smoke else 2, 1.5 if smoke else 12.0, 3.0 if smoke else 20.0))


async def _main(rounds: int, slow_s: float, fast_s: float) -> float:
    async with pinned_service(sized(50, 32, 20)) as nbx:
        await ready(nbx.port, decision)
        with process([sys.executable, "-m", "nbx", "learner"], nbx.environment, core=1):
            told: list[Told] = []
            served: list[tuple[int, float]] = []
            looking = asyncio.create_task(_look(nbx.port, served))
            await _until(served, 1)  # the learner has started
            for _ in range(rounds):
                for rate, seconds in ((SLOW, slow_s), (FAST, fast_s)):
                    shown = await _shown(nbx, int(rate * seconds))
                    events = [{"event_id": f"{each}a", "type": "accepted", "decision_id": each} for each in shown]
                    calls = [post("/v1/events", msgspec.json.encode([event])) for event in events]
                    sent = await open_loop(nbx.port, calls, rate=rate, connections=CONNECTIONS)
                    assert all(each.ok for each in sent), "a call failed"
                    told += [Told(rate, event["event_id"], each) for event, each in zip(events, sent, strict=True)]
            steps = await _steps(nbx.redis, {each.event_id for each in told})
            await _until(served, max(steps.values()))
            looking.cancel()
    return _report(told, steps, served)


async def _shown(nbx: Pinned, count: int) -> list[str]:
    """Decide until so many decisions hold an action."""
    shown: list[str] = []

    def look(body: bytes) -> None:
        if found := SHOWN.search(body):
            shown.append(found.group(1).decode())

    def ask(number: int) -> bytes | None:
        return decision(number) if len(shown) < count else None

    done = await load(nbx.port, ask, seconds=120.0, connections=CONNECTIONS, look=look)
    assert done.errors == 0, f"{done.errors} of {done.requests} decisions failed"
    return shown[:count]


async def _look(port: int, served: list[tuple[int, float]]) -> None:
    """Note when each snapshot was first seen to serve."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    loop = asyncio.get_running_loop()
    while True:
        writer.write(b"GET /health/ready HTTP/1.1\r\nhost: localhost\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        at = head.index(b"content-length:") + 15
        found = _SNAPSHOT.search(await reader.readexactly(int(head[at : head.index(b"\r", at)])))
        snapshot = int(found.group(1)) if found else 0
        if snapshot > (served[-1][0] if served else 0):
            served.append((snapshot, loop.time()))
        await asyncio.sleep(LOOK_S)


async def _until(served: Sequence[tuple[int, float]], snapshot: int) -> None:
    """Wait until a snapshot serves, or a later one."""
    async with asyncio.timeout(LAST_S):
        while not served or served[-1][0] < snapshot:  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(LOOK_S)


async def _steps(redis: Any, event_ids: set[str]) -> dict[str, int]:
    """Return the step that took in the outcome of each event, once all have been taken in."""
    places = {}
    for partition in range(PARTITIONS):
        for entry_id, row in await redis.xrange(partition_keys(partition).log):
            entry = decode_entry(row[b"e"])
            if isinstance(entry, EventEntry) and entry.event.event_id in event_ids:
                assert entry.outcomes, "an acceptance led to no outcome"
                places[entry.event.event_id] = (partition, _place(entry_id))
    assert places.keys() == event_ids, "an acknowledged event is not in the log"
    last = {partition: max(place for p, place in places.values() if p == partition) for partition, _ in places.values()}
    async with asyncio.timeout(LAST_S):
        while True:
            reached: dict[int, list[tuple[tuple[int, int], int]]] = {partition: [] for partition in last}
            for step_id, row in await redis.xrange(MODEL_JOURNAL):
                for partition, offset in msgspec.msgpack.decode(row[b"o"], type=dict[int, str]).items():
                    if partition in reached:
                        reached[partition].append((_place(offset.encode()), _place(step_id)[1]))
            if all(rows and rows[-1][0] >= last[partition] for partition, rows in reached.items()):
                break
            await asyncio.sleep(0.05)
    return {
        event_id: reached[partition][bisect_left(reached[partition], (place, 0))][1]
        for event_id, (partition, place) in places.items()
    }


def _report(told: Sequence[Told], steps: dict[str, int], served: Sequence[tuple[int, float]]) -> float:
    """Print what was found; returns the 99th percentile at the fast rate."""
    print(f"{'outcomes/s':>10}{'achieved':>10}{'count':>8}{'ack p50':>9}{'ack p99 ms':>11}", end="")
    print(f"{'learned and served: p50':>26}{'p90':>8}{'p99':>8}{'max ms':>8}")
    found = {}
    for rate in (SLOW, FAST):
        rows = [each for each in told if each.rate == rate]
        acknowledged = sorted((each.sent.answered_s - each.sent.due_s) * 1000 for each in rows)
        waits = found[rate] = sorted(
            (served[bisect_left(served, (steps[each.event_id], 0.0))][1] - each.sent.answered_s) * 1000 for each in rows
        )
        pauses_s = [b.sent.due_s - a.sent.due_s for a, b in pairwise(rows) if b.sent.due_s - a.sent.due_s > 10 / rate]
        spent_s = rows[-1].sent.answered_s - rows[0].sent.due_s - sum(pauses_s) + (len(pauses_s) + 1) / rate
        print(f"{rate:10}{len(rows) / spent_s:10.1f}{len(rows):8}", end="")
        print(f"{_at(acknowledged, 0.5):9.1f}{_at(acknowledged, 0.99):11.1f}", end="")
        print(f"{_at(waits, 0.5):26.0f}{_at(waits, 0.9):8.0f}{_at(waits, 0.99):8.0f}{waits[-1]:8.0f}")
    slow, fast = _at(found[SLOW], 0.99), _at(found[FAST], 0.99)
    print(f"p99 at {FAST} of p99 at {SLOW}: {fast / slow:.2f} x; of the bar of {BAR_MS} ms: {fast / BAR_MS:.2f} x")
    return fast


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[int(len(ordered) * share)]


def _place(entry_id: bytes) -> tuple[int, int]:
    ms, _, sequence = entry_id.partition(b"-")
    return int(ms), int(sequence)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    main(smoke=parser.parse_args().smoke)
