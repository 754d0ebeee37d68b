"""The journeys report laid out for people, within 100 columns."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from nbx.audit.journeys import Afterwards, ClusterReport, Delay, JourneysReport, Share, StepReport


def show_journeys(report: JourneysReport) -> Group:
    """Lay the report out."""
    lines = [f"release {report.release}, {report.customers:,} customers entered a step"]
    if report.cut:
        lines.append("cut: the log holds more than is kept; customers met first were left out")
    if report.without_segments:
        lines.append(f"in no segment, as no decision used what is known of them: {report.without_segments:,}")
    tables = [
        _steps(report.steps),
        _afterwards(report.steps),
        _segments(report.segments),
        _clusters(report.clusters),
        _tracks(report.clusters),
    ]
    notes = [note for step in report.steps for note in _examples(step)]
    return Group(*map(escape, lines), *(table for table in tables if table.row_count), *map(escape, notes))


def _steps(steps: tuple[StepReport, ...]) -> Table:
    table = _table("whether both sides met in time [95 %], and how long they took: median, 90 %", "step")
    for name in ("entries", "open", "customer", "in", "company", "in", "both"):
        table.add_column(name, justify="right")
    for each in steps:
        table.add_row(
            escape(f"{each.journey}.{each.step}"),
            f"{each.entries:,}",
            f"{each.open:,}",
            _rate(each.customer),
            _took(each.customer_delay),
            _rate(each.company),
            _took(each.company_delay),
            _rate(each.harmony, interval=True),
        )
    return table


def _segments(steps: tuple[StepReport, ...]) -> Table:
    table = _table("the same, by segment", "step", "segment")
    for name in ("entries", "open", "customer", "company", "both"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in steps:
        rates = _rate(each.customer), _rate(each.company), _rate(each.harmony, interval=True)
        segment = f"{each.feature} {each.value or '–'}"
        step = f"{each.journey}.{each.step}"
        table.add_row(escape(step), escape(segment), f"{each.entries:,}", f"{each.open:,}", *rates)
    return table


def _afterwards(steps: tuple[StepReport, ...]) -> Table:
    table = _table("answers within 30 days after they met, and after they did not", "step", "after")
    for name in ("answers", "accepted [95 %]", "balance"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in steps:
        for words, after in (("met", each.after_met), ("missed", each.after_missed)):
            if after is not None and after.accepted.count:
                table.add_row(escape(f"{each.journey}.{each.step}"), words, *_answers(after))
    return table


def _answers(after: Afterwards) -> tuple[str, str, str]:
    balance = "–" if after.balance is None else f"{after.balance:+.2f}"
    return f"{after.accepted.count:,}", _rate(after.accepted, interval=True), balance


def _clusters(clusters: tuple[ClusterReport, ...]) -> Table:
    table = _table("clusters", "cluster")
    table.add_column("answers", justify="right")
    table.add_column("centre", overflow="fold")
    for each in clusters:
        centre = ", ".join(f"{column} {value:.3g}" for column, value in each.centre.items())
        table.add_row(f"{each.cluster}", f"{each.size:,.0f}", escape(centre))
    return table


def _tracks(clusters: tuple[ClusterReport, ...]) -> Table:
    table = _table("touch tracks: what the best customers accepted next", "cluster", "after", "next")
    table.add_column("count", justify="right")
    table.add_column("")
    for each in sorted(clusters, key=lambda one: one.cluster):
        for touch in each.track:
            mark = "on track" if touch.on_track else ""
            table.add_row(f"{each.cluster}", escape(touch.after) or "–", escape(touch.next), f"{touch.count:.1f}", mark)
    return table


def _examples(step: StepReport) -> list[str]:
    shares = {"the customer did not": step.customer, "the company did not": step.company}
    return [
        f"{step.journey}.{step.step}: {words}, such as with {', '.join(share.examples)}"
        for words, share in shares.items()
        if share is not None and share.examples
    ]


def _rate(share: Share | None, *, interval: bool = False) -> str:
    if share is None or share.share is None:
        return "–"
    between = f" [{share.low:.0%}, {share.high:.0%}]" if interval else ""
    return escape(f"{share.share:.1%}{between}")


def _took(delay: Delay) -> str:
    if delay.median_s is None or delay.p90_s is None:
        return ""
    return f"{_span(delay.median_s)}, {_span(delay.p90_s)}"


def _span(seconds: float) -> str:
    """Write a time in its largest unit.

    Examples
    --------
    >>> _span(59.0), _span(5400.0), _span(3 * 86_400.0)
    ('59s', '1.5h', '3d')
    """
    for unit, length in (("d", 86_400.0), ("h", 3_600.0), ("m", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.2g}{unit}"
    return f"{seconds:.2g}s"


def _table(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1))
    for name in names:
        table.add_column(name, overflow="fold", max_width=28)
    return table
