"""The report on return on experience laid out for people, within 100 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group
from rich.table import Table

from nbx.audit.roi_report import Comparison, ReturnReport
from nbx.audit.roi_tally import CAUSES
from nbx.audit.tables_experience import laid_out, rows_of, when
from nbx.catalog.time_words import duration

_NAMES = {
    "total": "total",
    "value": "value",
    "experience": "experience",
    "acceptance": "acceptances",
    "points": "points",
    "lost": "lost",
    "goals": "goals reached",
    "visits": "decisions",
}
_ARROWS = {"up": "↑", "down": "↓", "open": ""}


def show_roi(report: ReturnReport) -> Group:
    """Lay the report out for people."""
    where = f" on {report.placement}" if report.placement else ""
    left = {
        "met under other shares": report.other_shares,
        "erased": report.erased,
        "merged, counted as their own hash says": report.merged,
    }
    told = [f"{count:,} {why}" for why, count in left.items() if count]
    counted = f"{report.customers:,} customers counted, each followed for {duration(report.follow_ms)}"
    begun = f"{report.decisions:,} decisions{where} since {when(report.since_ms)}"
    lines = [
        f"{begun}; {counted} from its first decision; {report.followed:,} are still followed",
        *(["; ".join(told)] if told else []),
        "total: value + experience in money; lost: what negative outcomes cost, less is better",
    ]
    tables = [_table_of_arms(report)]
    for each in report.comparisons:
        tables += [_table_of_lifts(each, per) for per in ("customer", "decision")]
    tables += [_table_of_losses(report), _table_of_payback(report)]
    return laid_out(report.findings, lines, tables)


def _table_of_arms(report: ReturnReport) -> Table:
    return rows_of(
        "arms; money per customer",
        ("",),
        ("share", "customers", "decisions", "value", "experience", "degraded"),
        (
            (
                arm.arm,
                f"{arm.share:.1%}",
                f"{arm.customers:,}",
                f"{arm.decisions:,}",
                _money(arm.value),
                _money(arm.experience),
                f"{arm.degraded:,}",
            )
            for arm in report.arms
            if arm.share > 0.0
        ),
    )


def _table_of_lifts(told: Comparison, per: str) -> Table:
    rows = [each for each in told.metrics if each.per == per]
    return rows_of(
        f"nbx against {told.against}, per {per}; `once`: only valid when looked at once",
        ("",),
        ("nbx", told.against, "lift", "95 %, at every look", "95 %, once", ""),
        (
            (
                _NAMES[each.metric],
                _number(each.lift.first),
                _number(each.lift.second),
                _signed(each.lift.lift),
                _between(each.lift.low, each.lift.high),
                _between(each.lift.once_low, each.lift.once_high),
                _ARROWS[each.told],
            )
            for each in rows
        ),
    )


def _table_of_losses(report: ReturnReport) -> Table:
    arms = [arm for arm in report.arms if arm.customers]
    return rows_of(
        "what negative outcomes cost, money per customer",
        ("cause",),
        [arm.arm for arm in arms],
        (
            (cause, *(f"{arm.lost.get(cause, 0.0):,.4f}" for arm in arms))
            for cause in CAUSES
            if any(cause in arm.lost for arm in arms)
        ),
    )


def _table_of_payback(report: ReturnReport) -> Table:
    return rows_of("payback", ("",), [f"against {each.against}" for each in report.comparisons], _payback(report))


def _payback(report: ReturnReport) -> Iterator[tuple[str, ...]]:
    every = [each.payback for each in report.comparisons]
    if not every:
        return
    yield "bad experience saved", *(_money(each.saved) for each in every)
    yield "  95 %", *(_between(each.saved_low, each.saved_high) or "–" for each in every)
    yield "value per loss, nbx", *(_money(each.value_per_loss) for each in every)
    yield "the same, there", *(_money(each.reference_value_per_loss) for each in every)
    yield "more value / more loss", *(_money(each.extra_value_per_loss) for each in every)
    yield "holdout costs per day", *(_money(each.holdout_per_day) for each in every)
    yield "  95 %", *(_between(each.holdout_per_day_low, each.holdout_per_day_high) or "–" for each in every)
    yield "days of gain it has cost", *(_money(each.paid_back_days) for each in every)


def _money(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+,.3g}"


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:+,.3g}, {high:+,.3g}]"
