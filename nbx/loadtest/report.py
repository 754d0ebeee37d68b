"""A run for people: lines for a terminal, and one page with plots that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from nbx.loadtest.compare import Comparison
from nbx.loadtest.histogram import Histogram
from nbx.loadtest.plots import Axis, Band, Line, linear, logarithmic, nines, percentile_points, plot
from nbx.loadtest.result import LoadResult, Part

CALLS_SHOWN = 4
"""Curves in one plot."""


def summary(result: LoadResult) -> Iterator[Text | Table]:
    """Say what a run showed, for a terminal."""
    for words in verdict(result):
        yield Text(words, style="bold red" if not result.valid else "")
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True, min_width=18)
    for name in ("due/s", "good/s", "p50", "p99", "p99.9", "max ms", "err.", "degr."):
        table.add_column(name, justify="right", no_wrap=True)
    for part in (result.total, *result.calls):
        _row(table, part)
    if len(result.stretches) > 1:
        table.add_row("")
        for part in result.stretches:
            _row(table, part)
    yield table
    if result.total.errors:
        kinds = ", ".join(f"{status}: {count}" for status, count in sorted(result.total.statuses.items()))
        yield Text(f"answers: {kinds}")
    for happened in result.happened:
        yield Text(f"{happened.at_s:6.1f} s  {happened.words}")
    late = result.generator.late
    yield Text(
        f"generator: p50 {late.p50_ms:.2f}, p99 {late.p99_ms:.2f} ms late, {result.generator.busy:.0%} of a core; "
        f"machine {result.generator.machine_busy:.0%} busy; latencies run from when a call was due"
    )
    for judged in result.judged:
        words = f"{judged.what} {judged.limit}: {judged.found}"
        yield Text(f"{'holds' if judged.passed else 'FAILS'}  {words}", style="" if judged.passed else "red")


def verdict(result: LoadResult) -> list[str]:
    """Say in words whether the run counts, and what it comes to."""
    words = [f"NOT VALID, the generator was the bottleneck: {why}" for why in result.generator.bottleneck]
    if result.interrupted:
        words.append("NOT VALID, it was interrupted before its end")
    total = result.total
    words.append(
        f"{result.scenario}: {total.due} calls in {result.length_s:.4g} s, {total.intended_rate:.1f}/s intended, "
        f"{total.achieved_rate:.1f}/s achieved, {total.errors} errors, {total.degraded} degraded"
    )
    return words


def render_run(result: LoadResult) -> str:
    """Write the page of a run."""
    bands = [Band(h.at_s, h.until_s, h.words) for h in result.happened]
    curves = [("all calls, since due", result.total.latency), ("all calls, since sent", result.total.service)]
    by_call = [(part.name, part.latency) for part in result.calls[:CALLS_SHOWN]]
    series = result.series
    at = [(number + 0.5) * series.interval_s for number in range(len(series.p50_ms))]
    over_time = linear(max(result.length_s, at[-1]), "seconds since the beginning")
    plots = [
        ("Latency by percentile", _percentiles("Latency by percentile", curves)),
        ("Latency by percentile, per call", _percentiles("Latency by percentile, per call", by_call)),
        (
            "Latency over time",
            plot(
                "Latency over time",
                [
                    Line(name, _pairs(at, values), color)
                    for color, (name, values) in enumerate(
                        (("p50", series.p50_ms), ("p99", series.p99_ms), ("max", series.max_ms))
                    )
                ],
                over_time,
                logarithmic([*series.p50_ms, *series.max_ms], "ms, where the calls were due"),
                bands,
            ),
        ),
        (
            "Intended and achieved rate",
            plot(
                "Intended and achieved rate",
                [
                    Line("intended", _pairs(at, series.intended_rate), 1, dashed=True),
                    Line("achieved", _pairs(at, series.achieved_rate), 0, filled=True),
                ],
                over_time,
                linear(max(*series.intended_rate, *series.achieved_rate, 1.0), "calls per second"),
                bands,
            ),
        ),
        ("Errors and degraded answers", _trouble(result, at, over_time, bands)),
        (
            "How late the generator was",
            plot(
                "How late the generator was",
                [Line("p99", _pairs(at, series.late_ms), 3)],
                over_time,
                logarithmic(series.late_ms, "ms after a call was due"),
                bands,
            ),
        ),
    ]
    parts = (result.total, *result.calls)
    return _template().render(
        title=f"Load test: {result.scenario}",
        verdict=verdict(result),
        bad=not result.passed,
        runs=[result],
        started=_when(result),
        plots=plots,
        parts=parts,
        stretches=result.stretches if len(result.stretches) > 1 else [],
        result=result,
        compared=None,
    )


def render_comparison(first: LoadResult, second: LoadResult, compared: Comparison) -> str:
    """Write the page of a comparison."""
    curves = [("first", first.total.latency), ("second", second.total.latency)]
    both = {part.name: part.latency for part in second.calls}
    plots = [("Latency by percentile, all calls", _percentiles("Latency by percentile, all calls", curves))]
    for part in first.calls[:CALLS_SHOWN]:
        if part.name in both:
            title = f"Latency by percentile, {part.name}"
            plots.append((title, _percentiles(title, [("first", part.latency), ("second", both[part.name])])))
    return _template().render(
        title=f"Load tests compared: {first.scenario}, {second.scenario}",
        verdict=compared.warnings or ["Same scenario, same environment."],
        bad=bool(compared.warnings),
        runs=[first, second],
        started=f"first {_when(first)}, second {_when(second)}",
        plots=plots,
        parts=[],
        stretches=[],
        result=None,
        compared=compared,
    )


def write_page(page: str, file: Path) -> None:
    """Write a page."""
    file.write_text(page, encoding="utf-8")


def _row(table: Table, part: Part) -> None:
    times = (part.latency.p50_ms, part.latency.p99_ms, part.latency.p999_ms, part.latency.max_ms)
    table.add_row(
        part.name,
        f"{part.intended_rate:.1f}",
        f"{part.achieved_rate:.1f}",
        *(f"{ms:.{2 if ms < 10 else 1 if ms < 100 else 0}f}" for ms in times),
        str(part.errors),
        str(part.degraded),
    )


def _percentiles(title: str, curves: list[tuple[str, Any]]) -> Markup:
    lines = [
        Line(name, percentile_points(Histogram.decode(latency.histogram)), color)
        for color, (name, latency) in enumerate(curves)
    ]
    values = [value for line in lines for _, value in line.points]
    return plot(title, lines, nines(max(latency.count for _, latency in curves)), logarithmic(values, "ms"))


def _trouble(result: LoadResult, at: list[float], over_time: Axis, bands: list[Band]) -> Markup:
    series = result.series
    other = [errors - timeouts for errors, timeouts in zip(series.errors, series.timeouts, strict=True)]
    lines = [
        Line("degraded", _pairs(at, series.degraded), 1),
        Line("timeouts", _pairs(at, series.timeouts), 2),
        Line("other errors", _pairs(at, other), 3),
    ]
    most = max(*series.degraded, *series.errors, 1)
    return plot("Errors and degraded answers", lines, over_time, linear(most, "in each interval"), bands)


def _pairs(at: list[float], values: list[Any]) -> list[tuple[float, float]]:
    return list(zip(at, map(float, values), strict=True))


def _when(result: LoadResult) -> str:
    return f"{datetime.fromtimestamp(result.started_ms / 1000, UTC):%d %b %Y, %H:%M:%S} UTC"


@cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html.jinja")
