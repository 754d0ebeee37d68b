"""The reports of experience and failures laid out for people, within 100 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from textwrap import wrap

from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from nbx.audit.clustered import Change, Mean, Portion
from nbx.audit.experience_report import ExperiencePart, ExperienceReport
from nbx.audit.failures_report import FailuresReport
from nbx.audit.signals import Signals

ROWS = 12
"""Rows told of one dimension; `--json` has them all."""
WIDTH = 98


def show_failures(report: FailuresReport) -> Group:
    """Lay the report out for people."""
    where = f" on {report.placement}" if report.placement else ""
    overall = report.parts[0]
    counted = f"{report.outcomes:,} outcomes, {report.unfinished:,} slots still open"
    total = overall.total
    lost = f"{total.lost:,} were lost on the way"
    lines = [
        f"{report.decisions:,} decisions{where}, {counted}, {report.corrections:,} outcomes corrected",
        f"negative: {_share(total.negative)} of {overall.shown:,} shown; {lost}; cost {total.money:,.2f}",
        *_bounds(report.cut, report.left_out),
        *_about_halves(report.split_ms),
    ]
    tables = [
        *(_table_of_failures(report, by) for by in ("overall", "action", "placement", "channel", "segment")),
        _table_of_decisions(report),
        _table_of_acceptance(report),
        _table_of_rules(report),
        _table_of_evidence(report),
        *_tables_of_signals(report.signals),
    ]
    return laid_out(report.findings, lines, tables)


def show_experience(report: ExperienceReport) -> Group:
    """Lay the report out for people."""
    where = f" on {report.placement}" if report.placement else ""
    overall = report.parts[0]
    counted = f"{report.outcomes:,} outcomes, {report.unfinished:,} slots still open"
    sums = f"gained {overall.gained:,.1f}, lost {overall.lost:,.1f}; worth {overall.money:,.2f} to the relationship"
    lines = [
        f"{report.decisions:,} decisions{where} for {report.customers:,} customers, {counted}",
        f"points per showing: {_mean(overall.points)}; {sums}",
        *_bounds(report.cut, report.left_out),
        *_about_halves(report.split_ms),
        *_mood(report),
    ]
    tables = [
        *(
            _table_of_experience(report, by)
            for by in ("overall", "class", "action", "placement", "channel", "segment")
        ),
        rows_of("outcomes", ("outcome",), ("count", "points", "money"),
              ((each.outcome, f"{each.count:,}", f"{each.points:,.1f}", f"{each.money:,.2f}") for each in report.sums)),
        _table_of_relationship(report),
        _table_of_guards(report),
        _table_of_threads(report),
        _table_of_tensions(report),
        *_tables_of_parity(report),
        _table_of_comments(report),
    ]  # fmt: skip
    return laid_out(report.findings, lines, tables)


def laid_out(findings: Sequence[str], lines: Iterable[str], tables: Iterable[Table]) -> Group:
    """Put together a report: lines, what stands out, and the tables that have rows."""
    told = [each for line in lines for each in wrap(line, WIDTH, subsequent_indent="  ")]
    notes = [each for finding in findings for each in wrap(f"! {finding}", WIDTH, subsequent_indent="  ")]
    shown = [table for table in tables if table.row_count]
    return Group(*(escape(line) for line in told), *(f"[bold]{escape(note)}[/]" for note in notes), *shown)


def _bounds(cut: bool, left_out: dict[str, int]) -> list[str]:
    lines = ["cut: only the newest of the window are counted"] if cut else []
    if left_out:
        told = ", ".join(f"{count:,} of {name}" for name, count in left_out.items())
        lines.append(f"values shown least that are not told: {told}")
    return lines


def _about_halves(split_ms: int) -> list[str]:
    return [f"trends: before against after {when(split_ms)}"] if split_ms else []


def _table_of_failures(report: FailuresReport, by: str) -> Table:
    table = _table({"overall": "negative outcomes by cause", "segment": "by segment"}.get(by, f"by {by}"), "", "cause")
    for name in ("count", "of shown [95 %]", "lost", "points", "cost", "trend"):
        table.add_column(name, justify="right", no_wrap=True)
    parts = [part for part in report.parts if part.by == by and (part.total.negative.count or part.total.lost)]
    for part in parts[:ROWS]:
        for number, each in enumerate((part.total, *part.causes)):
            table.add_row(
                escape(_named(part.of, part.value, by)) if not number else "",
                each.cause or "[bold]all[/]",
                f"{each.negative.count:,}",
                _share(each.negative),
                f"{each.lost:,}",
                f"{each.points:,.1f}",
                f"{each.money:,.2f}",
                _change(each.trend, lambda x: f"{100 * x:+.1f}"),
                end_section=number == len(part.causes),
            )
    return table


def _table_of_decisions(report: FailuresReport) -> Table:
    table = _table("decisions behind, the newest first; `nbx decisions explain ID` tells of one", "cause")
    table.add_column("", no_wrap=True)
    for each in report.parts[0].causes:
        table.add_row(each.cause, "  ".join(each.decisions[:2]))
    return table


def _table_of_acceptance(report: FailuresReport) -> Table:
    return rows_of(
        "acceptance with causes told apart, against all failures alike",
        ("action",),
        ("answers", "excused", "alike [95 %]", "by cause [95 %]", "difference [95 %]", ""),
        (
            (
                each.action,
                f"{each.responses:,}",
                f"{each.excused:,}",
                f"{each.alike:.1%}{_between(each.alike_low, each.alike_high, _percent)}",
                "–" if each.by_cause is None else
                f"{each.by_cause:.1%}{_between(each.by_cause_low, each.by_cause_high, _percent)}",
                "–" if each.difference is None else
                f"{each.difference:+.1%}{_between(each.difference_low, each.difference_high, _percent)}",
                "> 10 %" if each.flagged else "",
            )
            for each in report.acceptance[:ROWS]
        ),
    )  # fmt: skip


def _table_of_rules(report: FailuresReport) -> Table:
    return rows_of(
        "how causes were found",
        ("rule", "cause"),
        ("count", "confidence"),
        ((each.rule or "–", each.cause, f"{each.count:,}", f"{each.confidence:.2f}") for each in report.rules[:ROWS]),
    )


def _table_of_evidence(report: FailuresReport) -> Table:
    told = ((each.evidence, each.cause, f"{each.count:,}") for each in report.evidence[:ROWS])
    return rows_of("evidence behind causes", ("evidence", "cause"), ("count",), told)


def _tables_of_signals(signals: Signals) -> list[Table]:
    """Lay out what the learner publishes beside its snapshot: a table per kind, here and nowhere else."""
    return [
        rows_of(
            f"`seen` events, as of learner step {signals.step}",
            ("placement", ""),
            ("answers", "with `seen`", "lately", "unanswered", "seen", "lately"),
            (
                (
                    each.placement,
                    "LOST" if each.lost else "as usual" if each.reports else "not reported",
                    f"{each.answers:,}",
                    f"{each.answers_usual_ratio:.0%}",
                    f"{each.answers_recent_ratio:.0%}",
                    f"{each.timeouts:,}",
                    f"{each.timeouts_usual_ratio:.0%}",
                    f"{each.timeouts_recent_ratio:.0%}",
                )
                for each in signals.placements
            ),
        ),
        rows_of(
            "how placements execute",
            ("placement", ""),
            ("prompts", "failed", "usual", "lately", "points"),
            (
                (
                    each.placement,
                    "UNWELL" if each.unwell else "as usual",
                    f"{each.prompts:,}",
                    f"{each.failed:,}",
                    f"{each.usual_ratio:.1%}",
                    f"{each.recent_ratio:.1%}",
                    f"{each.experience:+.2f}",
                )
                for each in signals.execution
            ),
        ),
        rows_of(
            "how far features can be trusted",
            ("feature", ""),
            ("used", "wrong", "stale or corrected lately"),
            (
                (
                    each.feature,
                    "QUARANTINED" if each.quarantined else "trusted",
                    f"{each.used:,.0f}",
                    f"{each.wrong:,.0f}",
                    f"{each.recent_ratio:.1%}",
                )
                for each in signals.features
            ),
        ),
        rows_of(
            f"causes as told and as the rules alone gave them{_agreeing(signals.causes.right_ratio)}",
            ("told", "by rules"),
            ("outcomes",),
            (
                (told, given, f"{count:,}")
                for told, by_rules in signals.causes.confusion.items()
                for given, count in by_rules.items()
            ),
        ),
    ]


def _agreeing(ratio: float | None) -> str:
    return "" if ratio is None else f": {ratio:.0%} agree"


def _table_of_experience(report: ExperienceReport, by: str) -> Table:
    title = {"overall": "experience", "segment": "by segment"}.get(by, f"by {by}")
    parts: list[ExperiencePart] = [part for part in report.parts if part.by == by and part.shown][:ROWS]
    return rows_of(
        title,
        ("",),
        ("shown", "points [95 %]", "money", "negative [95 %]", "trend"),
        (
            (
                _named(part.of, part.value, by),
                f"{part.shown:,}",
                _mean(part.points),
                f"{part.money:,.2f}",
                _share(part.negative),
                _change(part.trend, lambda x: f"{x:+.2f}"),
            )
            for part in parts
        ),
    )


def _mood(report: ExperienceReport) -> list[str]:
    mood = report.mood
    said = [f"sentiment {_mean(mood.sentiment)} of {mood.sentiment.count:,}"] if mood.sentiment.count else []
    said += [f"effort {_mean(mood.effort)} of {mood.effort.count:,}"] if mood.effort.count else []
    return [f"customers said: {', '.join(said)}"] if said else []


def _table_of_relationship(report: ExperienceReport) -> Table:
    told = report.relationship
    rows = [("balance", told.balance), ("strain", told.strain)]
    return rows_of(
        "the relationship when it was decided",
        ("",),
        ("decisions", "mean", "5 %", "25 %", "50 %", "75 %", "95 %"),
        (
            (name, f"{each.count:,}", f"{each.mean:+.2f}", *(f"{value:+.2f}" for value in each.quantiles))
            for name, each in rows
            if each.mean is not None
        ),
    )


def _table_of_guards(report: ExperienceReport) -> Table:
    told = report.relationship
    rows = [(each.reason, each.decisions, f"{each.actions:,}") for each in told.guarded]
    rows += [("balance below the floor", told.below_floor, "")] if told.below_floor.count else []
    return rows_of(
        "what was kept from customers to spare them",
        ("",),
        ("decisions", "of all [95 %]", "actions"),
        ((name, f"{share.count:,}", _share(share), actions) for name, share, actions in rows),
    )


def _table_of_threads(report: ExperienceReport) -> Table:
    rows = [
        *(("promise", each.what, f"{each.kept:,} kept", f"{each.broken:,} broken") for each in report.promises),
        *(
            ("obligation", each.topic, f"{each.opened:,} opened, {each.open:,} still open",
             f"{each.resolved:,} resolved, {each.timed_out:,} timed out")
            for each in report.obligations
        ),
        *(("concern", each.name, f"{each.opened:,} opened", f"{each.resolved:,} resolved")
          for each in report.concerns if each.opened or each.resolved),
        *(("continued", kind, f"{count:,} decisions", "last touched on another channel")
          for kind, count in report.continued.items()),
    ]  # fmt: skip
    return rows_of("promises, obligations, concerns", ("", "", "", ""), (), rows)


def _table_of_tensions(report: ExperienceReport) -> Table:
    table = _table("lift up, experience down")
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold", max_width=86)
    for each in report.tensions[:ROWS]:
        table.add_row("clear" if each.clear else "hint", escape(each.words))
    return table


def _tables_of_parity(report: ExperienceReport) -> list[Table]:
    return [
        rows_of(
            f"negative experience by {each.feature}",
            ("",),
            ("shown", "negative [95 %]", "points", "to the best off", "p", ""),
            (
                (
                    value.value or "–",
                    f"{value.negative.of:,}",
                    _share(value.negative),
                    f"{value.points:+.2f}",
                    "best off" if value.value == each.best_off else _maybe(value.ratio, lambda x: f"{x:.2f} times"),
                    _maybe(value.p_value, lambda x: f"{x:.2g}"),
                    "DISPARATE" if value.disparate else "",
                )
                for value in each.values
            ),
        )
        for each in report.parity
    ]


def _table_of_comments(report: ExperienceReport) -> Table:
    table = _table("what customers said, the newest that was not good")
    for name in ("when", "decision"):
        table.add_column(name, no_wrap=True)
    table.add_column("", overflow="fold", max_width=46)
    for each in report.comments:
        table.add_row(
            when(each.at_ms), each.decision_id[-8:] or "–", escape(f"{each.action or each.type}: {each.text}")
        )
    return table


def _named(of: str, value: str, by: str) -> str:
    if by == "overall":
        return "all"
    return f"{of} = {value or '–'}" if of else value or "–"


def _share(told: Portion) -> str:
    return "–" if told.share is None else f"{told.share:.1%}{_between(told.low, told.high, _percent)}"


def _mean(told: Mean) -> str:
    return "–" if told.mean is None else f"{told.mean:+.2f}{_between(told.low, told.high, lambda x: f'{x:+.2f}')}"


def _change(change: Change | None, told: Callable[[float], str]) -> str:
    """Mark what is hardly chance by an arrow."""
    if change is None:
        return "–"
    return told(change.change) + (" ↑" if change.up else " ↓" if change.down else "")


def _maybe(value: float | None, told: Callable[[float], str]) -> str:
    return "–" if value is None else told(value)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _between(low: float | None, high: float | None, told: Callable[[float], str]) -> str:
    return "" if low is None or high is None else f" [{told(low)}, {told(high)}]"


def when(at_ms: int) -> str:
    """Write a time."""
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M}Z"


def rows_of(title: str, names: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table of some columns of text, then some of numbers."""
    table = _table(title, *names)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def _table(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1))
    for name in names:
        table.add_column(name, overflow="fold", max_width=24)
    return table
