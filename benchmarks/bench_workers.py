"""A second api process: what one core of it still decides when both serve the same customers.

    python -m benchmarks.run --only workers

On a machine of two cores two workers, Redis and the client cannot have a core each: a worker beside Redis takes time
from all the others. So all workers run on core 0, Redis and the client on core 1, and counted is what a second of CPU
decides, of all workers that are asked together; the same number of connections is spread over one, two or three of
them, which take turns every second or so, as neighbours come and go. Two workers with a core each are worth twice what
a second of theirs decides, against one; that is the number with the bar. It shows work that grows with the number of
workers, such as conflicts, leases and polling, and it includes what workers take from each other on one core: fewer
calls in flight in each, so that less is read and written at once, and colder caches.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys

from benchmarks.bench_events_http import CONNECTIONS, CUSTOMERS, decision
from benchmarks.harness import PYTHON, Bar, Curve, Plot, Result, Size, Table
from benchmarks.load_client import load
from benchmarks.pinned import Pinned, cpu_s, free_port, on_service, process, ready

BAR = 1.7


def measure(size: Size) -> Result:
    """Measure on a service of its own."""
    return on_service(measure_on, size)


async def measure_on(nbx: Pinned, size: Size) -> Result:
    """Measure on a service that runs; each round is one worker, then two, then three."""
    rounds, seconds, most = (1, 0.5, 2) if size == "smoke" else (9, 1.2, 3)
    per_cpu: dict[int, list[float]] = {}
    rates: dict[int, list[float]] = {}
    workers = [(nbx.port, nbx.pid)]
    with contextlib.ExitStack() as started:
        for _ in range(most - 1):
            port = free_port()
            environment = {**nbx.environment, "NBX_PORT": str(port), "NBX_GRPC_PORT": str(free_port())}
            api = started.enter_context(process([sys.executable, "-m", "nbx", "api"], environment, core=0))
            workers.append((port, api.pid))
        for port, _ in workers:
            await ready(port, decision)
        await _asked(workers, 1.0)
        for _ in range(rounds):
            for count in range(1, most + 1):
                rate, used_s = await _asked(workers[:count], seconds)
                per_cpu.setdefault(count, []).append(rate * seconds / max(used_s, 0.01))
                rates.setdefault(count, []).append(rate)
    middles = {count: statistics.median(values) for count, values in per_cpu.items()}
    # each round has its own yardstick, for neighbours come and go
    worth = {
        count: statistics.median(count * each / one for each, one in zip(values, per_cpu[1], strict=True))
        for count, values in per_cpu.items()
    }
    return Result(
        title="A second api process",
        what="the same customers decided by 1 … N workers; decisions per second of the workers' CPU",
        against="one worker",
        command=f"{PYTHON} --only workers",
        tables=(
            Table(
                ("workers", "per cpu-s", "worth, a core each", "per s, sharing a core"),
                tuple(
                    (str(count), middle, f"{worth[count]:.2f} ×", statistics.median(rates[count]))
                    for count, middle in middles.items()
                ),
            ),
        ),
        plots=(
            Plot(
                "workers", "Decisions per second of a core each", "api workers", "decisions/s, CPU-normalised",
                (Curve("nbx", tuple((float(w), w * m) for w, m in middles.items())),),
            ),
        ),
        bars=(
            Bar(
                "a second worker, CPU-normalised", worth[2], BAR, at_least=True,
                why="Calls in flight together are cheaper: their commands go to Redis in one write and come back "
                "in one read (compare 1 and 64 connections in [the budget](#budget)). Two workers have half each, "
                "and on one core they push each other out of its caches.",
            ),
        ),
        size=size,
    )  # fmt: skip


async def _asked(workers: list[tuple[int, int]], seconds: float) -> tuple[float, float]:
    """Spread the connections over workers for a while; returns decisions per second, and their seconds of CPU."""
    before_s = sum(cpu_s(pid) for _, pid in workers)
    done = await asyncio.gather(
        *(
            load(
                port,
                # nobody is decided by two at the same moment
                lambda number, first=at * CUSTOMERS // 4: decision(first + number),  # type: ignore[misc]
                seconds=seconds,
                connections=CONNECTIONS // len(workers),
            )
            for at, (port, _) in enumerate(workers)
        )
    )
    assert sum(each.errors for each in done) == 0, "a request failed"
    used_s = sum(cpu_s(pid) for _, pid in workers) - before_s
    return sum(each.requests for each in done) / seconds, used_s
