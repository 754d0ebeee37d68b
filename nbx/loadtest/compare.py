"""Two runs beside each other: every number of both, their ratio, and why they may not be comparable."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from rich.table import Table

from nbx.loadtest.result import LoadResult, Part

RATES_DIFFER = 0.05


class Pair(Struct, frozen=True, kw_only=True):
    """One number of both runs."""

    part: str
    """`all calls`, or a call of the mix."""
    what: str
    first: float
    second: float
    ratio: float | None
    """Second / first; None where the first is 0."""


class Comparison(Struct, frozen=True, kw_only=True):
    """What two runs say together."""

    warnings: list[str]
    pairs: list[Pair]


def compare(first: LoadResult, second: LoadResult) -> Comparison:
    """Compare two runs: all calls, then the calls that both have."""
    theirs = {part.name: part for part in second.calls}
    pairs = list(_pairs(first.total, second.total))
    for part in first.calls:
        if part.name in theirs:
            pairs += _pairs(part, theirs[part.name])
    pairs.append(_pair("generator", "late p99 ms", first.generator.late.p99_ms, second.generator.late.p99_ms))
    return Comparison(warnings=list(_warnings(first, second)), pairs=pairs)


def comparison_table(compared: Comparison) -> Table:
    """Lay a comparison out for a terminal."""
    table = Table("", "", "first", "second", "ratio", box=None)
    part = ""
    for pair in compared.pairs:
        name, part = (pair.part if pair.part != part else ""), pair.part
        ratio = "" if pair.ratio is None else f"{pair.ratio:.2f} x"
        table.add_row(name, pair.what, f"{pair.first:,.4g}", f"{pair.second:,.4g}", ratio)
    return table


def _pairs(first: Part, second: Part) -> Iterator[Pair]:
    yield _pair(first.name, "intended rate", first.intended_rate, second.intended_rate)
    yield _pair(first.name, "achieved rate", first.achieved_rate, second.achieved_rate)
    for what in ("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms"):
        yield _pair(first.name, what.replace("_", " "), getattr(first.latency, what), getattr(second.latency, what))
    yield _pair(first.name, "service p99 ms", first.service.p99_ms, second.service.p99_ms)
    yield _pair(first.name, "error share", first.error_share, second.error_share)
    yield _pair(first.name, "degraded share", first.degraded_share, second.degraded_share)


def _pair(part: str, what: str, first: float, second: float) -> Pair:
    return Pair(part=part, what=what, first=first, second=second, ratio=second / first if first else None)


def _warnings(first: LoadResult, second: LoadResult) -> Iterator[str]:
    for name, run in (("first", first), ("second", second)):
        if not run.valid:
            yield f"the {name} run is not valid: {'; '.join(run.generator.bottleneck) or 'it was interrupted'}"
    if first.scenario_text != second.scenario_text:
        yield "their scenarios differ"
    for what in ("transport", "seed", "connections"):
        one, other = getattr(first, what), getattr(second, what)
        if one != other:
            yield f"{what}: {one} in the first, {other} in the second"
    one, other = first.total.intended_rate, second.total.intended_rate
    if abs(one - other) > RATES_DIFFER * max(one, other):
        yield f"intended rate: {one:.4g}/s in the first, {other:.4g}/s in the second: latencies depend on it"
    for what in ("machine", "cores", "usable_cores", "python", "versions"):
        if getattr(first.environment, what) != getattr(second.environment, what):
            yield f"their environments differ in {what.replace('_', ' ')}"
