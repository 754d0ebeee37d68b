"""A second api process: what one core of it still decides when both serve the same customers.

    python -m benchmarks.run --only workers

On a machine of two cores two workers, Redis and the client cannot have a core each: a worker beside Redis takes time
from all the others. So all workers share core 0 and one port, Redis and the client core 1, and counted is what a second
of CPU decides, of all workers together. Two workers with a core each are worth twice what a second of theirs decides,
against one; that is the number with the bar. It shows work that grows with the number of workers, such as conflicts,
leases and polling, and it includes what the workers take from each other on their one core: fewer calls in flight in
each, so that less is read and written at once, and colder caches.
"""

from __future__ import annotations

import statistics
import sys

from benchmarks.bench_events_http import CONNECTIONS, decision
from benchmarks.harness import PYTHON, Bar, Curve, Plot, Result, Size, Table
from benchmarks.load_client import load
from benchmarks.pinned import Pinned, cpu_s, on_service, process, ready

BAR = 1.7


def measure(size: Size) -> Result:
    """Measure on a service of its own."""
    return on_service(measure_on, size)


async def measure_on(nbx: Pinned, size: Size) -> Result:
    """Measure on a service that runs; each round is one worker, then two."""
    rounds, seconds, most = (1, 0.5, 2) if size == "smoke" else (3, 2.5, 3)
    await ready(nbx.port, decision)
    per_cpu: dict[int, list[float]] = {}
    shares: dict[int, list[float]] = {}
    rates: dict[int, list[float]] = {}
    argv = [sys.executable, "-m", "nbx", "api"]
    for workers in (*range(1, most + 1), *range(most - 1, 0, -1)):  # up and down again: time is not mistaken for them
        started = [process(argv, nbx.environment, core=0) for _ in range(workers - 1)]
        pids = [nbx.pid, *(each.__enter__().pid for each in started)]
        try:
            await _all_serve(nbx.port, pids)
            for _ in range(rounds):
                before = [cpu_s(pid) for pid in pids]
                done = await load(nbx.port, decision, seconds=seconds, connections=CONNECTIONS)
                assert done.errors == 0, f"{done.errors} of {done.requests} requests failed"
                used = [cpu_s(pid) - was for pid, was in zip(pids, before, strict=True)]
                per_cpu.setdefault(workers, []).append(done.requests / max(sum(used), 0.01))
                shares.setdefault(workers, []).append(max(used) / max(sum(used), 0.01))
                rates.setdefault(workers, []).append(done.requests / done.seconds)
        finally:
            for each in started:
                each.__exit__(None, None, None)
    middles = {workers: statistics.median(values) for workers, values in per_cpu.items()}
    worth = {workers: workers * middle / middles[1] for workers, middle in middles.items()}
    return Result(
        title="A second api process",
        what="the same customers decided by 1 … N workers; decisions per second of the workers' CPU",
        against="one worker",
        command=f"{PYTHON} --only workers",
        tables=(
            Table(
                ("workers", "per cpu-s", "worth, a core each", "per s, sharing a core", "busiest worker's share"),
                tuple(
                    (
                        str(workers),
                        middle,
                        f"{worth[workers]:.2f} ×",
                        statistics.median(rates[workers]),
                        statistics.median(shares[workers]),
                    )
                    for workers, middle in middles.items()
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


async def _all_serve(port: int, pids: list[int]) -> None:
    """Ask until every worker has used CPU for answers: the kernel spreads connections over those that listen."""
    for _ in range(200):
        before = [cpu_s(pid) for pid in pids]
        done = await load(port, decision, seconds=0.15, connections=CONNECTIONS)
        served = [cpu_s(pid) - was for pid, was in zip(pids, before, strict=True)]
        if done.errors == 0 and min(served) > 0.1 * max(served):
            await load(port, decision, seconds=0.5, connections=CONNECTIONS)
            return
    raise RuntimeError("a worker gets no requests")
