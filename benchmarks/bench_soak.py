"""Ten minutes at 70 % of the peak: is anything dropped, does anything grow?

    python -m benchmarks.run --only soak

One api process on core 0, Redis and an open-loop client on core 1: each call is due at its time, whatever became of
those before. The peak is what 64 connections reach in a closed loop just before. Counted are answers that are no
success, and degraded ones; resident memory is read every ten seconds, and after a warm-up of a fifth of the time the
first and the last fifth of what is left are compared. The log is emptied now and then, as a keeper would trim it.
"""

from __future__ import annotations

from statistics import mean, median

import psutil

from benchmarks.bench_events_http import CONNECTIONS, decision
from benchmarks.harness import PYTHON, Bar, Result, Size, Table, at_share
from benchmarks.load_client import load, open_loop
from benchmarks.pinned import Pinned, cpu_s, on_service, ready
from nbx.features.keys import partition_keys
from nbx.settings import Settings

SHARE = 0.7
DRIFT_BAR = 2.0
_WHOLE = b'"degraded":[]'


def measure(size: Size) -> Result:
    """Measure on a service of its own."""
    return on_service(measure_on, size)


async def measure_on(nbx: Pinned, size: Size) -> Result:
    """Measure on a service that runs."""
    slices, seconds, peak_s = (5, 0.4, 0.4) if size == "smoke" else (60, 10.0, 4.0)
    await ready(nbx.port, decision)
    await load(nbx.port, decision, seconds=peak_s, connections=CONNECTIONS)
    peaks = [await load(nbx.port, decision, seconds=peak_s, connections=CONNECTIONS) for _ in range(3)]
    peak = median(done.requests / done.seconds for done in peaks)
    rate = SHARE * peak
    process, resident, rows = psutil.Process(nbx.pid), list[float](), list[tuple[float, float, float]]()
    degraded = failed = asked = 0

    def look(body: bytes) -> None:
        nonlocal degraded
        degraded += _WHOLE not in body

    requests = [decision(number) for number in range(int(rate * seconds))]
    logs = [partition_keys(partition).log for partition in range(Settings().partitions)]
    for _ in range(slices):
        before_s = cpu_s(nbx.pid)
        sent = await open_loop(nbx.port, requests, rate=rate, connections=CONNECTIONS, look=look)
        late_ms = [(each.answered_s - each.due_s) * 1000 for each in sent]
        wall_s = max(each.answered_s for each in sent) - sent[0].due_s
        rows.append((at_share(late_ms, 0.5), at_share(late_ms, 0.99), (cpu_s(nbx.pid) - before_s) / wall_s))
        failed += sum(not each.ok for each in sent)
        asked += len(sent)
        resident.append(process.memory_info().rss / 1e6)
        await nbx.redis.delete(*logs)
    after = resident[slices // 5 :]
    fifth = max(len(after) // 5, 1)
    drift = (mean(after[-fifth:]) / mean(after[:fifth]) - 1.0) * 100
    p50, p99, cores = (sorted(column) for column in zip(*rows, strict=True))
    return Result(
        title="Soak",
        what=f"{asked:,} decisions in {slices * seconds / 60:.0f} minutes, {rate:,.0f} per second, {SHARE:.0%} of peak",
        against="nothing: none may be lost, nothing may grow",
        command=f"{PYTHON} --only soak",
        tables=(
            Table(
                (f"slices of {seconds:g} s", "best", "median", "worst"),
                (
                    ("p50 ms", p50[0], median(p50), p50[-1]),
                    ("p99 ms", p99[0], median(p99), p99[-1]),
                    ("cores used by the api process", cores[0], median(cores), cores[-1]),
                    ("resident MB, least, median, most", min(resident), median(resident), max(resident)),
                ),
            ),
        ),
        bars=(
            Bar("failed or degraded answers in the soak", failed + degraded, 0, at_least=False, unit=""),
            Bar("resident memory, drift after warm-up", drift, DRIFT_BAR, at_least=False, unit="%"),
        ),
        notes=(f"{failed} failed, {degraded} degraded of {asked:,}",),
        size=size,
    )
