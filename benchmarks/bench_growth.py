"""How a decision grows: with candidates, features, conditions, customers, snapshot and log.

    python -m benchmarks.run --only growth

In process, the store answering at once, CPU time of the whole decision from bytes to bytes; sizes take turns. Then
against a real store per size: 1,000 to a million customers with the state blobs of real customers, written in bulk,
and a partition's log of so many decision records; deciding one after the other for customers drawn at random, sizes in
turn. Last, what a snapshot of so many actions weighs, and how long a worker takes to load it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import msgspec
import numpy as np
import psutil
from redis.asyncio import Redis

from benchmarks.bench_swap import learned
from benchmarks.catalogs import guarded, sized
from benchmarks.harness import PYTHON, Bar, Curve, Plot, Result, Size, Table, at_share, interleaved
from benchmarks.in_process import AtOnceStore, bodies, packed_states, result_of, served, service
from nbx.api.plane import DataPlane
from nbx.bandits.snapshot import bind, decode_snapshot, encode
from nbx.catalog.model import Catalog
from nbx.catalog.plan import Plan
from nbx.features.connection import RedisConnection
from nbx.features.keys import partition_keys
from nbx.features.store_redis import RedisStore
from nbx.ids import partition_of
from tests.redis_server import RedisServer

CANDIDATES = (10, 20, 50, 100, 200, 500, 1_000)
FEATURES = (8, 16, 32, 64, 128)
CONDITIONS = (1, 5, 20, 50, 100, 200, 500)
CUSTOMERS = (1_000, 10_000, 100_000, 1_000_000)
LOG = (1_000, 10_000, 100_000)
NEEDED_GB = 4.0
"""Memory that a million customers with their append-only file need, with room."""
P50_BAR = 1.3
PARTITIONS = 16


def measure(size: Size) -> Result:
    """Measure every curve."""
    smoke = size == "smoke"
    pick: Callable[[Sequence[int]], Sequence[int]] = (lambda all_: (all_[0], all_[2])) if smoke else (lambda all_: all_)
    rounds, repeats = (2, 3) if smoke else (15, 10)
    candidates = _decisions({n: sized(n, 32) for n in pick(CANDIDATES)}, rounds, repeats)
    features = _decisions({d: sized(50, d) for d in pick(FEATURES)}, rounds, repeats)
    conditions = _decisions({c: guarded(max(200, c), 32, c) for c in pick(CONDITIONS)}, rounds, repeats)
    per = {n: us / n for n, us in candidates.items()}
    snapshots = [_snapshot(n, 64) for n in ((50,) if smoke else (50, 200, 1_000))]
    room = psutil.virtual_memory().available / 1e9 > NEEDED_GB
    sizes = (200, 1_000) if smoke else CUSTOMERS if room else CUSTOMERS[:-1]
    stored = asyncio.run(_customers(sizes, 2 if smoke else 11, 20 if smoke else 200))
    logs = asyncio.run(_logs((100, 1_000) if smoke else LOG, 2 if smoke else 7, 20 if smoke else 200))
    first, last = stored[0], stored[-1]
    steps = list(per.values())
    return Result(
        title="Growth",
        what=f"CPU of a decision in process, medians of {rounds} rounds; latency against a real Redis, one at a time",
        against="the smallest size of each curve",
        command=f"{PYTHON} --only growth",
        tables=(
            _curve("candidates (32 columns)", candidates, per),
            _curve("features (50 candidates)", features, {d: us / d for d, us in features.items()}),
            _curve("conditions (200 actions or more, full contact policy)", conditions, None),
            Table(
                ("customers", "p50 ms", "p99 ms", "of the least", "Redis MB", "bytes each"),
                tuple(
                    (f"{s.size:,}", s.p50_ms, s.p99_ms, s.p50_ms / first.p50_ms, s.memory_mb, int(s.bytes_each))
                    for s in stored
                ),
                "Customers in Redis",
            ),
            Table(
                ("records in a partition's log", "p50 ms", "p99 ms", "of the least", "Redis MB", "bytes each"),
                tuple(
                    (f"{s.size:,}", s.p50_ms, s.p99_ms, s.p50_ms / logs[0].p50_ms, s.memory_mb, int(s.bytes_each))
                    for s in logs
                ),
                "Length of the log",
            ),
            Table(
                ("actions × 64 columns", "MB", "pack ms", "load ms", "bind ms"),
                tuple(snapshots),
                "Snapshot",
            ),
        ),
        plots=(
            Plot(
                "candidates", "A decision by candidates", "candidates", "µs",
                (
                    Curve("decision", _points(candidates)),
                    Curve("per candidate", _points(per)),
                ),
            ),
            Plot("features", "A decision by features", "columns", "µs", (Curve("decision", _points(features)),)),
            Plot(
                "conditions", "A decision by conditions", "conditions", "µs",
                (Curve("decision", _points(conditions)),),
            ),
            Plot(
                "customers", "A decision by customers in Redis", "customers", "ms",
                (
                    Curve("p50", tuple((float(s.size), s.p50_ms) for s in stored)),
                    Curve("p99", tuple((float(s.size), s.p99_ms) for s in stored)),
                ),
            ),
        ),
        bars=(
            Bar(
                f"time per candidate, {max(per):,} of {min(per)}", steps[-1] / steps[0], 1.0, at_least=False
            ),
            Bar(
                f"p50 with {last.size:,} customers, of {first.size:,}", last.p50_ms / first.p50_ms, P50_BAR,
                at_least=False,
                why="The same commands on a larger server: what is added are misses of caches and TLB in Redis, whose "
                f"memory grew from {first.memory_mb:.0f} to {last.memory_mb:,.0f} MB.",
            ),
        ),
        notes=() if room or smoke else (f"A million customers were left out: less than {NEEDED_GB:g} GB were free.",),
        size=size,
    )  # fmt: skip


def _points(row: dict[int, float]) -> tuple[tuple[float, float], ...]:
    return tuple((float(at), us) for at, us in row.items())


def _curve(name: str, whole: dict[int, float], per: dict[int, float] | None) -> Table:
    least = next(iter(whole.values()))
    head = (name, "µs", "of the least") if per is None else (name, "µs", "of the least", "ns each")
    rows = tuple(
        (f"{at:,}", us, us / least) if per is None else (f"{at:,}", us, us / least, per[at] * 1000)
        for at, us in whole.items()
    )
    return Table(head, rows, f"By {name}")


def _decisions(catalogs: dict[int, Catalog], rounds: int, repeats: int) -> dict[int, float]:
    """Return µs of CPU of a whole decision per catalog."""

    def deciding(catalog: Catalog) -> Callable[[], object]:
        plan, model = served(catalog)
        asked = bodies(plan)
        plane = DataPlane(service(plan, model, AtOnceStore(packed_states(plan))), None)  # type: ignore[arg-type] # no events
        turn = 0

        def one() -> object:
            nonlocal turn
            turn += 1
            return result_of(plane.decide(asked[turn % len(asked)]))

        return one

    work = {str(at): deciding(catalog) for at, catalog in catalogs.items()}
    found = interleaved(work, rounds, repeats, time.thread_time)
    return {int(at): us for at, us in found.items()}


def _snapshot(actions: int, columns: int) -> tuple[str, float, float, float, float]:
    """Return what a snapshot weighs, and milliseconds to pack, read and bind it."""
    plan = Plan(sized(actions, columns), 1)
    snapshot = learned(plan, 2 * actions)
    packed = encode(snapshot)
    layout, names, groups = plan.layout.columns, plan.action_names, plan.action_groups
    found = interleaved(
        {
            "pack": lambda: encode(snapshot),
            "load": lambda: decode_snapshot(packed),
            "bind": lambda: bind(decode_snapshot(packed), layout, names, groups),
        },
        5,
        1,
        time.thread_time,
    )
    bind_ms = max(found["bind"] - found["load"], 0.0) / 1000
    return f"{actions:,}", len(packed) / 1e6, found["pack"] / 1000, found["load"] / 1000, bind_ms


class Stored(NamedTuple):
    """Deciding beside so many customers or records."""

    size: int
    p50_ms: float
    p99_ms: float
    memory_mb: float
    bytes_each: float


async def _customers(sizes: Sequence[int], rounds: int, calls: int) -> list[Stored]:
    plan, model = served(sized(50, 32))
    packed = packed_states(plan)

    async def fill(redis: Redis, count: int) -> None:
        for start in range(0, count, 1_000):
            keys = {}
            for n in range(start, min(start + 1_000, count)):
                customer = f"c{n}"
                partition = partition_of(customer, PARTITIONS)
                keys[partition_keys(partition).customer(customer)] = packed[n % len(packed)]
            await redis.mset(keys)

    return await _beside(sizes, rounds, calls, fill, plan, model, drawn=True)


async def _logs(sizes: Sequence[int], rounds: int, calls: int) -> list[Stored]:
    plan, model = served(sized(50, 32))
    store = AtOnceStore(packed_states(plan))
    result_of(DataPlane(service(plan, model, store), None).decide(bodies(plan)[0]))  # type: ignore[arg-type] # no events
    assert store.last is not None
    record = store.last.entries[0]
    partition = partition_of("c0", PARTITIONS)

    async def fill(redis: Redis, count: int) -> None:
        for start in range(0, count, 2_000):
            async with redis.pipeline(transaction=False) as pipe:
                for _ in range(start, min(start + 2_000, count)):
                    pipe.xadd(partition_keys(partition).log, {"e": record})
                await pipe.execute()

    return await _beside(sizes, rounds, calls, fill, plan, model, drawn=False)


async def _beside(
    sizes: Sequence[int], rounds: int, calls: int, fill: Callable[[Redis, int], object], plan: Plan, model: object,
    *, drawn: bool,
) -> list[Stored]:  # fmt: skip
    """Fill one store per size, then decide beside them in turn; `drawn`: for any, else for those of one partition."""
    generator = np.random.default_rng(11)
    late: dict[int, list[list[float]]] = {size: [] for size in sizes}
    memory: dict[int, tuple[int, int]] = {}
    with ExitStack() as servers:
        planes: dict[int, DataPlane] = {}
        connections = []
        for size in sizes:
            server = servers.enter_context(RedisServer())
            async with Redis.from_url(server.url) as redis:
                before = int((await redis.info("memory"))["used_memory"])
                await fill(redis, size)  # type: ignore[misc] # both are coroutines
                memory[size] = before, int((await redis.info("memory"))["used_memory"])
            connection = RedisConnection(server.url)
            await connection.connect()
            connections.append(connection)
            planes[size] = DataPlane(service(plan, model, RedisStore(connection)), None)  # type: ignore[arg-type] # likewise
        names = sorted(plan.context_features)[:4]
        partition = partition_of("c0", PARTITIONS)
        beside = [f"c{n}" for n in range(200_000, 216_000) if partition_of(f"c{n}", PARTITIONS) == partition]
        for number in range(rounds + 1):
            for size, plane in planes.items():
                took = []
                for _ in range(calls):
                    customer = f"c{generator.integers(size)}" if drawn else beside[generator.integers(len(beside))]
                    body = msgspec.json.encode(
                        {"customer_id": customer, "placement": "hero", "context": dict.fromkeys(names, 0.5)}
                    )
                    began = time.perf_counter()
                    reply = await plane.decide(body)
                    took.append((time.perf_counter() - began) * 1000)
                    assert b'"degraded":[]' in reply, reply
                if number:  # the first round warms up
                    late[size].append(took)
        for connection in connections:
            await connection.close()
    return [
        Stored(
            size,
            statistics.median(at_share(took, 0.5) for took in rows),
            statistics.median(at_share(took, 0.99) for took in rows),
            memory[size][1] / 1e6,
            (memory[size][1] - memory[size][0]) / size,
        )
        for size, rows in late.items()
    ]
