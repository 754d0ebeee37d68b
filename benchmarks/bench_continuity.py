"""Continuity: what a customer declined on one channel must not come back on another, in the very next decision.

Command: `python -m benchmarks.bench_continuity` (10,000 pairs, about a minute; `--smoke`: 300). Two api processes, each
on its own port, over one Redis. A pair: decide for a customer on the web through process A until an action is shown,
report `declined` to A, and as soon as that is acknowledged decide at the agent's desk through process B; A and B take
turns. 32 pairs run at once, and every fourth belongs to a customer who has others under way. Counted: repeats, i.e.
desk decisions that hold the declined action or another one of its group (both are paused); and decisions on a state
older than the acknowledged event, by the order and versions of the log. Measured: from the acknowledgement until the
decision that sees it is here, against the same decision for a customer to whom nothing happened, interleaved. With 32
at once the client itself is what waits; so a tenth more pairs follow with 4 at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redis.asyncio import Redis

from nbx.catalog.parse import parse_catalog
from nbx.catalog.releases import publish
from nbx.client import AsyncClient, DecideReply, Retry, Unavailable
from nbx.experience.entries import DecisionEntry, EventEntry, decode_entry
from nbx.features.keys import partition_keys
from tests.redis_server import RedisServer
from tests.service import environment_of, free_ports

AT_ONCE = 32
QUIET = 4
"""Pairs at once while it is measured how long one takes."""
BUSY = 20
"""Pairs of a customer that has several at once, two on average."""
GROUPS = 60
"""Of two actions each: a busy customer declines one group after the other and must not run out of them."""
PARTITIONS = 16
START_S = 90.0


@dataclass
class Continuity:
    """What was found."""

    visible_ms: dict[int, list[float]] = field(default_factory=lambda: {AT_ONCE: [], QUIET: []})
    """Pairs at once -> from the acknowledgement until the other process's decision is here, per pair."""
    untouched_ms: dict[int, list[float]] = field(default_factory=lambda: {AT_ONCE: [], QUIET: []})
    """The same decision for customers to whom nothing happened."""
    repeats: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    """Decisions made on an older state than the acknowledged event left."""
    shared: int = 0
    """Pairs of customers that had others under way."""
    removed: int = 0
    """Pairs whose declined action was removed at the desk because it is paused."""
    degraded: int = 0
    """Pairs whose desk decision had to do without state: the customer was being changed by too many at once."""

    def told(self) -> str:
        """Say it in lines."""
        pairs = f"{sum(map(len, self.visible_ms.values()))} pairs, {self.shared} of customers with several at once"
        counted = f"{len(self.repeats)} repeats, {len(self.unseen)} on an older state, {self.degraded} degraded"
        lines = [f"{pairs}: {counted}", f"{'':30}{'at once':>8}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}"]
        for at_once, seen in self.visible_ms.items():
            bare = self.untouched_ms[at_once]
            for name, row in (("event acknowledged -> seen", seen), ("decision, nothing happened", bare)):
                row.sort()
                middle, tail = statistics.median(row), row[int(len(row) * 0.99)]
                lines.append(f"{name:30}{at_once:8}{middle:8.2f}{tail:8.2f}{row[-1]:8.2f}")
        ratio = statistics.median(self.visible_ms[QUIET]) / statistics.median(self.untouched_ms[QUIET])
        return "\n".join(
            [*lines, f"ratio of medians with {QUIET} at once {ratio:.2f} x: seen by the very next decision"]
        )


def measure(pairs: int) -> Continuity:
    """Run pairs, then a tenth as many, against two processes of our own; returns what was found."""
    with tempfile.TemporaryDirectory() as folder, RedisServer() as server:
        asyncio.run(_publish(server.url))
        with _api(Path(folder), server.url) as first, _api(Path(folder), server.url) as second:
            found, acknowledged, decided = asyncio.run(_pairs(first, second, pairs))
        with redis.Redis.from_url(server.url) as log:
            found.unseen = _unseen(log, acknowledged, decided)
    return found


async def _pairs(first: str, second: str, pairs: int) -> tuple[Continuity, dict[str, str], dict[str, str]]:
    found = Continuity()
    events: dict[str, str] = {}
    """Decision at the desk -> event that it must have seen."""
    desk: dict[str, str] = {}
    """Decision at the desk -> decision that was declined."""
    patient = Retry(attempts=100, first_s=0.01, most_s=0.1)
    async with (
        AsyncClient(first, deadline_s=START_S, retry=patient) as a,
        AsyncClient(second, deadline_s=START_S, retry=patient) as b,
    ):
        await asyncio.gather(*(_awake(each) for each in (a, b)))

        async def keep_on(numbers: Iterator[int], at_once: int) -> None:
            for number in numbers:
                busy = number % 4 == 0
                block, at = divmod(number // 4, 4 * BUSY)
                customer = f"busy-{block}-{at % 4}" if busy else f"c-{number}"
                asks, other = (a, b) if number % 2 else (b, a)
                reply = await _shown(asks, customer)
                shown = reply.slots[0].action
                told = await asks.declined(reply)
                began = time.perf_counter()
                after = await other.decide(customer, "desk", slots=3, explain="reasons")
                found.visible_ms[at_once].append((time.perf_counter() - began) * 1000)
                began = time.perf_counter()
                await other.decide(f"untouched-{number}", "desk", slots=3, explain="reasons")
                found.untouched_ms[at_once].append((time.perf_counter() - began) * 1000)
                found.shared += busy
                if after.degraded:
                    found.degraded += 1
                else:
                    found.removed += any([shown, "paused"] == each[:2] for each in after.explanation["removed"])
                found.repeats += [
                    f"{customer}: {shown} -> {slot.action}, {after.decision_id}"
                    for slot in after.slots
                    if slot.action and _group(slot.action) == _group(shown)
                ]
                events[after.decision_id], desk[after.decision_id] = told.event_id, reply.decision_id

        for at_once, numbers in ((AT_ONCE, range(pairs)), (QUIET, range(pairs, pairs + pairs // 10))):
            rest = iter(numbers)
            await asyncio.gather(*(keep_on(rest, at_once) for _ in range(at_once)))
    return found, events, desk


async def _shown(client: AsyncClient, customer: str) -> DecideReply:
    """Decide until something is shown: a customer draws silence now and then."""
    for _ in range(100):
        reply = await client.decide(customer, "web")
        if reply.slots[0].action:
            return reply
    raise AssertionError(f"{customer}: 100 decisions and always silence")


async def _awake(client: AsyncClient) -> None:
    until = time.monotonic() + START_S
    while True:
        try:
            reply = await client.decide("nobody", "web")
        except Unavailable:
            assert time.monotonic() < until, "an api process does not answer"
        else:
            if not reply.degraded:
                return
        await asyncio.sleep(0.05)


def _unseen(log: Any, events: dict[str, str], desk: dict[str, str]) -> list[str]:
    """Return the decisions whose state was older than what their event left, by the order and versions of the log."""
    versions: dict[str, int] = {}
    """Customer -> entries so far: each commit of these customers writes one, so the n-th made version n."""
    made_at: dict[str, int] = {}
    wrong = []
    for partition in range(PARTITIONS):
        for _, row in log.xrange(partition_keys(partition).log):
            entry = decode_entry(row[b"e"])
            version = versions[entry.customer_id] = versions.get(entry.customer_id, 0) + 1
            if isinstance(entry, EventEntry):
                made_at[entry.event.event_id] = version
            elif isinstance(entry, DecisionEntry):
                if entry.degraded:
                    continue  # made without state
                assert entry.state_version == version - 1, "a decision did not follow from the state before it"
                if entry.decision_id in events and entry.state_version < made_at.get(
                    events[entry.decision_id], 1 << 60
                ):
                    wrong.append(f"{entry.customer_id}: {desk[entry.decision_id]}, {entry.decision_id}")
    return wrong


def _group(action: str) -> str:
    return action.rpartition("_")[0]


def _catalog() -> str:
    actions = "".join(
        f"\n  g{group}_{kind}: {{group: g{group}, value: 60, treatments: {{"
        f"card: {{placements: [web]}}, script: {{placements: [desk]}}}}}}"
        for group in range(GROUPS)
        for kind in ("a", "b")
    )
    groups = "".join(
        f"\n  g{group}: {{pause: {{declined: 30d}}, pause_group: {{declined: 30d}}}}" for group in range(GROUPS)
    )
    return f"""
catalog: continuity
placements:
  web: {{channel: web, impressions: reported, slots: 1, delivery: 2h, attention: 2h}}
  desk: {{channel: phone, impressions: implicit, slots: 3, attention: 2h}}
groups:{groups}
actions:{actions}
"""


async def _publish(url: str) -> None:
    async with Redis.from_url(url) as client:
        await publish(client, parse_catalog(_catalog(), source="bench"), author="bench", note="", at_ms=1)


@contextlib.contextmanager
def _api(folder: Path, redis_url: str) -> Iterator[str]:
    port, grpc_port = free_ports(2)
    settings = {
        "data_dir": folder,
        "redis_url": redis_url,
        "port": port,
        "grpc_port": grpc_port,
        "auth": "off",
        "deadline_ms": 5_000,
        "partitions": PARTITIONS,
    }
    environment = environment_of(settings) | {"OPENBLAS_NUM_THREADS": "1"}
    with (folder / f"{port}.log").open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "nbx", "api"], env=environment, stdout=out, stderr=out)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(30.0) == 0, (folder / f"{port}.log").read_text()[-2000:]


def main(*, smoke: bool) -> Continuity:
    """Measure and print."""
    found = measure(300 if smoke else 10_000)
    print(found.told())
    assert not found.repeats
    assert not found.unseen
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    main(smoke=parser.parse_args().smoke)
