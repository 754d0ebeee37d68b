"""From rows to what they say: parts, series, whether the generator was the bottleneck, and what was expected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nbx.loadtest.arrivals import Stretch
from nbx.loadtest.durations import Seconds, written
from nbx.loadtest.histogram import Histogram
from nbx.loadtest.records import Rows
from nbx.loadtest.result import GeneratorReport, Judged, Latency, Part, Series
from nbx.loadtest.scenario import Expected, Limits

POINTS = 240
"""Intervals of a series, at most."""
INTERVALS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)

Mask = NDArray[np.bool_]


def part_of(rows: Rows, name: str, which: Mask, start_s: float, end_s: float) -> Part:
    """Summarise some of the calls; those due in the part's time."""
    length_s = max(end_s - start_s, 1e-9)
    ok = rows.ok & which
    in_time = ok & (rows.done_ns <= end_s * 1e9)
    counts = np.bincount(rows.status[which], minlength=len(rows.statuses))
    return Part(
        name=name,
        start_s=start_s,
        end_s=end_s,
        due=int(which.sum()),
        intended_rate=int(which.sum()) / length_s,
        achieved_rate=int(in_time.sum()) / length_s,
        ok=int(ok.sum()),
        degraded=int((ok & rows.degraded).sum()),
        errors=int((~rows.ok & which).sum()),
        timeouts=int((rows.timeout & which).sum()),
        statuses={status: int(n) for status, n in zip(rows.statuses, counts, strict=True) if n},
        latency=Latency.of(_latencies(rows, which)),
        service=Latency.of(_services(rows, which)),
    )


def parts_by_call(rows: Rows, names: Sequence[str], length_s: float) -> list[Part]:
    """Summarise every call of the mix that was made."""
    parts = (part_of(rows, name, rows.entry == number, 0.0, length_s) for number, name in enumerate(names))
    return [part for part in parts if part.due]


def parts_by_stretch(rows: Rows, stretches: Sequence[Stretch]) -> list[Part]:
    """Summarise every stretch of the schedule, feedback included."""
    return [
        part_of(rows, s.name, (rows.due_ns >= s.start_s * 1e9) & (rows.due_ns < s.end_s * 1e9), s.start_s, s.end_s)
        for s in stretches
    ]


def series_of(rows: Rows, length_s: float) -> Series:
    """Cut the run into intervals."""
    last_s = max(length_s, float(rows.done_ns.max(initial=0)) / 1e9)
    interval_s = next((i for i in INTERVALS_S if last_s / i <= POINTS), INTERVALS_S[-1])
    count = max(1, int(np.ceil(last_s / interval_s - 1e-9)))
    due = np.clip((rows.due_ns / 1e9 / interval_s).astype(int), 0, count - 1)
    done = np.clip((rows.done_ns / 1e9 / interval_s).astype(int), 0, count - 1)
    per = [_latencies(rows, due == number) for number in range(count)]
    late = [Histogram.of(rows.late_ns[due == number] // 1000) for number in range(count)]
    # the last interval may be cut short by the end of the schedule
    widths = np.clip(length_s - np.arange(count) * interval_s, 0, interval_s)
    widths = np.where(widths > 0, widths, interval_s)
    quantiles = [[h.quantile_us(q) / 1000 for h in per] for q in (0.5, 0.99, 1.0)]
    return Series(
        interval_s=interval_s,
        intended_rate=(np.bincount(due, minlength=count) / widths).tolist(),
        achieved_rate=(np.bincount(done[rows.ok], minlength=count) / widths).tolist(),
        errors=np.bincount(done[~rows.ok], minlength=count).tolist(),
        timeouts=np.bincount(done[rows.timeout], minlength=count).tolist(),
        degraded=np.bincount(done[rows.ok & rows.degraded], minlength=count).tolist(),
        p50_ms=quantiles[0],
        p99_ms=quantiles[1],
        max_ms=quantiles[2],
        late_ms=[h.quantile_us(0.99) / 1000 for h in late],
    )


def generator_report(rows: Rows, limits: Limits, *, busy: float, machine_busy: float) -> GeneratorReport:
    """Say whether the generator kept its schedule."""
    late = Latency.of(Histogram.of(rows.late_ns // 1000))
    bottleneck = []
    if late.p99_ms > limits.late_p99 * 1000:
        bottleneck.append(
            f"99 % of its calls were sent within {written(late.p99_ms / 1000)} of their time, "
            f"and more than {written(limits.late_p99)} is too late"
        )
    if busy > limits.busy:
        bottleneck.append(f"its thread was busy {busy:.0%} of the time, and more than {limits.busy:.0%} is too much")
    return GeneratorReport(late=late, busy=busy, machine_busy=machine_busy, bottleneck=bottleneck)


def judge(expected: Expected, total: Part) -> Iterator[Judged]:
    """Compare what was found with what was expected.

    Examples
    --------
    >>> from nbx.loadtest.records import Records
    >>> nothing = part_of(Records().rows(), "all", np.zeros(0, bool), 0.0, 1.0)
    >>> [judged.passed for judged in judge(Expected(errors=0, achieved=0.9), nothing)]
    [True, False]
    """
    latencies: tuple[tuple[str, Seconds | None, float], ...] = (
        ("p50", expected.p50_below, total.latency.p50_ms),
        ("p99", expected.p99_below, total.latency.p99_ms),
        ("p99.9", expected.p999_below, total.latency.p999_ms),
    )
    for name, below, found_ms in latencies:
        if below is not None:
            passed = total.latency.count > 0 and found_ms < below * 1000
            yield Judged(what=name, limit=f"< {written(below)}", found=written(found_ms / 1000), passed=passed)
    for name, most, found in (
        ("errors", expected.errors, total.error_share),
        ("degraded", expected.degraded, total.degraded_share),
    ):
        if most is not None:
            yield Judged(what=name, limit=f"at most {_percent(most)}", found=_percent(found), passed=found <= most)
    if expected.achieved is not None:
        share = total.achieved_rate / total.intended_rate if total.due else 0.0
        yield Judged(
            what="achieved rate",
            limit=f"at least {_percent(expected.achieved)}",
            found=_percent(share),
            passed=share >= expected.achieved,
        )


def _latencies(rows: Rows, which: Mask) -> Histogram:
    counted = which & (rows.ok | rows.timeout)
    return Histogram.of((rows.done_ns[counted] - rows.due_ns[counted]) // 1000)


def _services(rows: Rows, which: Mask) -> Histogram:
    counted = which & (rows.ok | rows.timeout) & (rows.sent_ns >= 0)
    return Histogram.of((rows.done_ns[counted] - rows.sent_ns[counted]) // 1000)


def _percent(share: float) -> str:
    return "none" if share == 0 else f"{100 * share:.3g} %"
