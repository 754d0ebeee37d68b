"""From a published snapshot to its serving in every worker.

    python -m benchmarks.run --only swap

Two api processes, each on its own port, over one Redis. A snapshot of 50 learned actions is published as the learner
does it, one keys' write; both processes are asked every 2 ms which one they serve. Told is how long the last of them
took. Half of the poll interval of 100 ms is waiting; a release, which is compiled too, is told beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time

import msgspec
import numpy as np

from benchmarks.catalogs import sized
from benchmarks.harness import PYTHON, Bar, Result, Size, Table, at_share
from benchmarks.pinned import Pinned, free_port, on_service, process
from nbx.bandits.learner import Learner, Observation
from nbx.bandits.snapshot import Snapshot, encode
from nbx.catalog.plan import Plan
from nbx.catalog.releases import publish
from nbx.features.keys import MODEL_SNAPSHOT, MODEL_VERSION

BAR_MS = 300.0
LOOK_S = 0.002
_TOLD = {"snapshot": re.compile(rb'"snapshot":(\d+)'), "release": re.compile(rb'"release":(\d+)')}


def measure(size: Size) -> Result:
    """Measure on a service of its own."""
    return on_service(measure_on, size)


async def measure_on(nbx: Pinned, size: Size) -> Result:
    """Measure on a service that runs, with a second worker."""
    count, releases = (2, 1) if size == "smoke" else (60, 12)
    port = free_port()
    environment = {**nbx.environment, "NBX_PORT": str(port), "NBX_GRPC_PORT": str(free_port())}
    catalog = sized(50, 32)
    snapshot = learned(Plan(catalog, 1), 200 if size == "smoke" else 4_000)
    took: dict[str, list[float]] = {"snapshot": [], "release": []}
    with process([sys.executable, "-m", "nbx", "api"], environment, core=1):
        ports = (nbx.port, port)
        await asyncio.gather(*(_serves(each, "release", 1) for each in ports))
        generator = np.random.default_rng(7)
        for number in range(1, count + 1):
            await asyncio.sleep(float(generator.uniform(0.0, 0.1)))  # anywhere between two looks of the workers
            packed = encode(msgspec.structs.replace(snapshot, version=number, step=number))
            began = time.perf_counter()
            await nbx.redis.mset({MODEL_SNAPSHOT: packed, MODEL_VERSION: number})
            await asyncio.gather(*(_serves(each, "snapshot", number) for each in ports))
            took["snapshot"].append((time.perf_counter() - began) * 1000)
        for _ in range(releases):
            began = time.perf_counter()
            release = await publish(nbx.redis, catalog, author="bench", note="", at_ms=0)
            await asyncio.gather(*(_serves(each, "release", release.number) for each in ports))
            took["release"].append((time.perf_counter() - began) * 1000)
    p99 = at_share(took["snapshot"], 0.99)
    return Result(
        title="Publish to swap",
        what=f"{count} snapshots of 50 actions × 32 columns ({len(packed) / 1e6:.2f} MB), two workers, the last counts",
        against="the poll interval of 100 ms, of which half is waited on average",
        command=f"{PYTHON} --only swap",
        tables=(
            Table(
                ("published", "count", "p50 ms", "p99 ms", "max ms"),
                tuple(
                    (name, len(rows), at_share(rows, 0.5), at_share(rows, 0.99), max(rows))
                    for name, rows in took.items()
                ),
            ),
        ),
        bars=(Bar("snapshot published to served by every worker, p99", p99, BAR_MS, at_least=False, unit="ms"),),
        size=size,
    )


def learned(plan: Plan, count: int) -> Snapshot:
    """Return a snapshot that has learned so many outcomes of every action of a plan in turn."""
    learner = Learner()
    learner.register_layout(1, plan.layout.columns)
    rng = np.random.default_rng(3)
    width, names, groups = len(plan.layout.columns), plan.action_names, plan.action_groups
    for k in range(count):
        action = k % len(names)
        learner.learn(
            Observation(
                key=f"{k}/0",
                action=names[action],
                group=groups[action],
                layout=1,
                x=rng.normal(size=width).astype(np.float32),
                response=int(rng.random() < 0.2),
                experience=float(rng.normal()),
            ),
            None,
        )
    return learner.snapshot(1, count)


async def _serves(port: int, what: str, least: int) -> None:
    """Wait until a worker says that it serves so new a snapshot or release."""
    reader = writer = None
    async with asyncio.timeout(30):
        while True:
            if writer is None or reader is None:
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
            else:
                writer.write(b"GET /health/ready HTTP/1.1\r\nhost: localhost\r\n\r\n")
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                at = head.index(b"content-length:") + 15
                body = await reader.readexactly(int(head[at : head.index(b"\r", at)]))
                found = _TOLD[what].search(body)
                if found and int(found.group(1)) >= least:
                    writer.close()
                    return
            await asyncio.sleep(LOOK_S)
