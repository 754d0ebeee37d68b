"""Reading features from a Redis with Feast's feature server, against deciding with nbx over the same Redis.

    FEAST_PYTHON=… python -m benchmarks.run --only feast

Feast's own server (one worker) gives as many features of one customer over HTTP as nbx has columns declared; nbx reads
the customer, decides and commits. One Redis on core 1 with the client, the server under test on core 0, 16
connections, in turn. What Feast would still need is the decision. Without `FEAST_PYTHON` it is left out.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile

import msgspec
import psutil

from benchmarks.bench_events_http import decision
from benchmarks.catalogs import BUILT_IN, sized
from benchmarks.harness import PYTHON, Result, Size, Table, at_share
from benchmarks.load_client import load, post
from benchmarks.pinned import free_port, pinned_service, process, ready
from benchmarks.registry import ROOT

FEATURES = 32 - BUILT_IN
CUSTOMERS, CONNECTIONS = 2_000, 16
HOW = "left out: Feast lives in an environment of its own: `pip install 'feast[redis]'`, then `FEAST_PYTHON=…`"


def measure(size: Size) -> Result:
    """Measure, or say why not."""
    python = os.environ.get("FEAST_PYTHON", "")
    title, against = "Feast's feature server", "its reading of as many features from the same Redis"
    command = f"FEAST_PYTHON=… {PYTHON} --only feast"
    if not python:
        return Result(title=title, what="not measured", against=against, command=command, notes=(HOW,), size=size)
    rounds, seconds = (1, 0.5) if size == "smoke" else (5, 3.0)
    rows = asyncio.run(_measured(python, rounds, seconds))
    nbx = rows["nbx: read, decide, commit"]
    return Result(
        title=title,
        what=f"{FEATURES} features of one customer, {CONNECTIONS} connections, medians of {rounds} rounds",
        against=against,
        command=command,
        tables=(
            Table(
                ("", "per s", "per cpu-s", "p50 ms", "p99 ms", "nbx per cpu-s"),
                tuple((name, *row, f"{nbx[1] / row[1]:.1f} ×") for name, row in rows.items()),
            ),
        ),
        size=size,
    )


async def _measured(python: str, rounds: int, seconds: float) -> dict[str, tuple[float, ...]]:
    redis_port, port = free_port(), free_port()
    found: dict[str, list[tuple[float, ...]]] = {"nbx: read, decide, commit": [], "feast: read": []}
    options = ("--port", str(redis_port), "--bind", "127.0.0.1")
    with tempfile.TemporaryDirectory() as folder:
        async with pinned_service(sized(50, 32), *options) as nbx:
            await ready(nbx.port, decision)
            script = str(ROOT / "benchmarks" / "feast_peer.py")
            argv = [python, script, str(port), f"127.0.0.1:{redis_port}", str(FEATURES), str(CUSTOMERS), folder]
            clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
            with process(argv, {**clean, "FEAST_USAGE": "False", "HOME": folder}, core=0) as feast:
                await ready(port, _features)
                sides = {
                    "nbx: read, decide, commit": (nbx.port, nbx.pid, decision),
                    "feast: read": (port, feast.pid, _features),
                }
                for at, _, make in sides.values():
                    await load(at, make, seconds=seconds / 3, connections=CONNECTIONS)
                for _ in range(rounds):
                    for name, (at, pid, make) in sides.items():
                        before_s = _tree_s(pid)
                        done = await load(at, make, seconds=seconds, connections=CONNECTIONS)
                        assert done.errors == 0, f"{done.errors} of {done.requests} requests failed"
                        used_s = max(_tree_s(pid) - before_s, 0.01)
                        late = done.latencies_ms
                        row = (
                            done.requests / done.seconds,
                            done.requests / used_s,
                            at_share(late, 0.5),
                            at_share(late, 0.99),
                        )
                        found[name].append(row)
    return {
        name: tuple(statistics.median(column) for column in zip(*rows, strict=True)) for name, rows in found.items()
    }


def _features(number: int) -> bytes:
    asked = {
        "features": [f"profile:f{k}" for k in range(FEATURES)],
        "entities": {"customer_id": [f"c{number * 7919 % CUSTOMERS}"]},
    }
    return post("/get-online-features", msgspec.json.encode(asked))


def _tree_s(pid: int) -> float:
    """Seconds of CPU of a process and its children."""
    top = psutil.Process(pid)
    times = [each.cpu_times() for each in (top, *top.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))
