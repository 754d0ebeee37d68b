"""From `nbx api` to its first decision, with kernels in the cache and a release and a snapshot to load.

    python -m benchmarks.run --only start

Wall time from the start of the process until `/health/ready` says 200, beside a Redis that is there; the same for a
bare ASGI function under the same server until it answers. Starts take turns. CPU until ready, and that of
importing alone, say what a busy machine adds. Python keeps what it compiled, as it does unless told otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import time

import psutil

from benchmarks.harness import PYTHON, Bar, Result, Size, Table
from benchmarks.pinned import Pinned, cpu_s, free_port, on_service, process
from benchmarks.registry import ROOT

BAR_S = 3.0
LOOK_S = 0.005
LOADED = "import gc; gc.disable(); from nbx.processes import loaded; loaded('api')"
NOT_KEPT = "PYTHONDONTWRITEBYTECODE"


def measure(size: Size) -> Result:
    """Measure on a service of its own."""
    return on_service(measure_on, size)


async def measure_on(nbx: Pinned, size: Size) -> Result:
    """Measure beside a service that runs."""
    took: dict[str, list[float]] = {"nbx api": [], "bare ASGI": []}
    used: dict[str, list[float]] = {"nbx api": [], "bare ASGI": [], "importing": []}
    memory = 0.0
    for _ in range(1 if size == "smoke" else 5):
        port = free_port()
        environment = {**os.environ, **nbx.environment, "NBX_PORT": str(port), "NBX_GRPC_PORT": str(free_port())}
        environment.pop(NOT_KEPT, None)
        for name, argv in (
            ("nbx api", [sys.executable, "-m", "nbx", "api"]),
            ("bare ASGI", [sys.executable, "-m", "benchmarks.bare_app", str(bare := free_port()), "100"]),
        ):
            began = time.perf_counter()
            with process(argv, environment, core=0) as started:
                await _ready(port if name == "nbx api" else bare)
                took[name].append(time.perf_counter() - began)
                used[name].append(cpu_s(started.pid))
                if name == "nbx api":
                    memory = psutil.Process(started.pid).memory_info().rss / 1e6
        used["importing"].append(_importing_s())
    middles = {name: statistics.median(values) for name, values in took.items()}
    return Result(
        title="Start of an api process",
        what="process start to ready, warm: bytecode and kernels cached, release published",
        against="a bare ASGI function under the same server",
        command=f"{PYTHON} --only start",
        tables=(
            Table(
                ("", "median s", "max s", "CPU s"),
                tuple(
                    (
                        name,
                        middles.get(name, "–"),
                        max(took[name]) if name in took else "–",
                        statistics.median(cpu),
                    )
                    for name, cpu in used.items()
                ),
            ),
        ),
        bars=(
            Bar(
                "`nbx api` to ready, warm",
                middles["nbx api"],
                BAR_S,
                at_least=False,
                unit="s",
                why=f"It takes {statistics.median(used['nbx api']):.1f} s of CPU, of which importing is "
                f"{statistics.median(used['importing']):.1f}; the rest of the wall time waits for a "
                "core. The largest parts are Numba, loading the kernels with its typing of all it knows, and Litestar.",
            ),
        ),
        notes=(f"Resident memory of the api process when ready: {memory:.0f} MB.",),
        size=size,
    )


def _importing_s() -> float:
    """Seconds of CPU to import what an api process needs, Python's own start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {name: value for name, value in os.environ.items() if name != NOT_KEPT}
    subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


async def _ready(port: int) -> None:
    """Wait for a 200."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                line = await reader.readline()
                writer.close()
                if b" 200 " in line:
                    return
            await asyncio.sleep(LOOK_S)
