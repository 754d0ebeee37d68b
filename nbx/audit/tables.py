"""Reports laid out for people, within 100 columns. Apart from what they show, so that serving does not load it."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from nbx.audit.learning import Bin, Calibration, LearningReport
from nbx.audit.policy_report import PolicyReport
from nbx.audit.shadow_report import Earned, Part, ShadowReport, Shift


def show_learning(report: LearningReport) -> Group:
    """Lay the report out for people, within 100 columns."""
    first = f"{report.decisions:,} decisions, {report.slots:,} slots with an action, {report.open_slots:,} still open"
    lines = [f"{first}, {report.corrections:,} outcomes corrected"]
    if report.cut:
        lines.append(f"cut: only the newest {report.decisions:,} decisions of the window are counted")
    if report.log_loss is not None and report.base_log_loss is not None:
        ranked = "" if report.auc is None else f", AUC {report.auc:.3f}"
        lines.append(f"log loss {report.log_loss:.4f}, of the base rate {report.base_log_loss:.4f}{ranked}")
    if report.exploration is not None:
        e = report.exploration
        lines.append(
            f"explored {e.explored_share:.1%} of {e.decisions:,} (the floor's part {e.floor_share:.1%}), chance of the "
            f"best known {e.greedy_probability:.1%}, silent {e.silent_share:.1%}"
        )
    if report.left_out:
        told = ", ".join(f"{count:,} {why}" for why, count in report.left_out.items())
        lines.append(f"not counted as exploration: {told}")
    lag = "" if report.learner_lag_s is None else f", learner {report.learner_lag_s:.1f} s behind when it last learned"
    lines.append(f"release {report.release}, snapshot {report.snapshot}{lag}")
    if report.exploration_scale is not None:
        memory = "nothing is forgotten" if report.half_life is None else f"half-life {report.half_life:,.0f} answers"
        changed = ", ".join(f"{each.name} {each.changes}" for each in report.evidence if each.changes)
        cuts = f", cut because answers changed: {changed}" if changed else ""
        lines.append(f"calibrated: exploration scale {report.exploration_scale:.2f}, {memory}{cuts}")
    shown = [_table_of_calibration(report), _table_of_bins(report), _table_of_uses(report)]
    return Group(*(escape(line) for line in lines), *(table for table in shown if table.row_count))


def _table_of_calibration(report: LearningReport) -> Table:
    table = _table("predicted and observed acceptance", "action", "group")
    for name in ("responses", "predicted", "observed [95 %]", "error", "evidence"):
        table.add_column(name, justify="right", no_wrap=True)
    behind = {each.name: each.observations for each in report.evidence}
    for each in (*([report.calibration] if report.calibration else []), *report.actions):
        table.add_row(
            escape(each.action) or "[bold]all[/]",
            escape(each.group),
            f"{each.count:,}",
            f"{each.predicted:.1%}",
            f"{each.observed:.1%} {_interval(each)}",
            f"{each.error:.1%}",
            f"{behind[each.action]:,.0f}" if each.action in behind else "",
        )
    return table


def _table_of_bins(report: LearningReport) -> Table:
    table = _table("reliability, all actions", "predicted between")
    for name in ("responses", "predicted", "observed [95 %]", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for each in report.calibration.bins if report.calibration else ():
        off = not each.observed_low <= each.predicted <= each.observed_high
        table.add_row(
            f"{each.low:.1%} – {each.high:.1%}",
            f"{each.count:,}",
            f"{each.predicted:.1%}",
            f"{each.observed:.1%} {_interval(each)}",
            "off" if off else "",
        )
    return table


def _table_of_uses(report: LearningReport) -> Table:
    table = _table("what the response model took", "outcome", "cause", "use")
    table.add_column("count", justify="right", no_wrap=True)
    for each in report.uses:
        table.add_row(each.outcome, each.cause, each.use, f"{each.count:,}")
    return table


def _interval(each: Bin | Calibration) -> str:
    return escape(f"[{each.observed_low:.1%}, {each.observed_high:.1%}]")


def show_policy(report: PolicyReport) -> Group:
    """Lay the report out for people, within 100 columns."""
    where = f" on {report.placement}" if report.placement else ""
    lines = [f"release {report.release} over {report.decisions:,} logged decisions{where}"]
    if report.left_out:
        lines.append("left out: " + ", ".join(f"{count:,} {why}" for why, count in report.left_out.items()))
    if report.cut:
        lines.append("cut: only the newest decisions of the window are counted")
    if report.rewards:
        told = report.rewards[0].support
        clipped = f", {told.clipped_share:.1%} of the weight clipped" if report.clip is not None else ""
        lines.append(
            f"{told.effective_rows:,.0f} effective decisions, weights {told.mean_weight:.3f} on average, "
            f"{told.max_weight:,.1f} at most{clipped}"
        )
    tables = [_table_of_rewards(report), _table_of_choices(report)] if report.rewards else []
    reasons = dict.fromkeys(reason for each in report.rewards for reason in each.support.reasons)
    notes = [f"NOT RELIABLE: {reason}" for reason in reasons or (() if report.rewards else ("no decision counts",))]
    notes += [f"limit: {limit}" for limit in report.limits]
    return Group(*(escape(line) for line in lines), *tables, *(escape(note) for note in notes))


def _table_of_rewards(report: PolicyReport) -> Table:
    table = _table("per decision, 95 % intervals", "reward", "by")
    for name in (f"release {report.release}", "minus logged"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in report.rewards:
        mark = "" if each.support.reliable else " ?"
        table.add_row(f"{each.reward}{mark}", "logged", _told(each.logged.value, each.logged.low, each.logged.high), "")
        for e in each.estimates:
            apart = _told(e.difference, e.difference_low, e.difference_high)
            table.add_row("", e.estimator, _told(e.value, e.low, e.high), apart, end_section=e.estimator == "sndr")
    return table


def _table_of_choices(report: PolicyReport) -> Table:
    table = _table("what is chosen", "action")
    for name in ("logged", f"release {report.release}"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in report.actions:
        table.add_row(escape(each.action) or "none", f"{each.logged:.1%}", f"{each.target:.1%}")
    return table


def show_shadow(report: ShadowReport) -> Group:
    """Lay the report out for people, within 100 columns."""
    whole = report.whole
    where = f" on {report.placement}" if report.placement else ""
    share = whole.changed / max(whole.decisions, 1)
    nothing = (
        f"no action is allowed in {whole.nothing_before:,} decisions before, {whole.nothing_after:,} after; "
        f"in none of theirs for {whole.customers_nothing_before:,} customers before, "
        f"{whole.customers_nothing_after:,} after"
    )
    lines = [
        f"the draft and release {report.release} over the latest {whole.decisions:,} decisions{where}",
        f"of {whole.customers:,} customers, both with snapshot {report.snapshot}",
        f"the first slot changes in {whole.changed:,} ({share:.1%})",
        nothing,
        *(f"left out: {each.decisions:,} {each.why}, such as {each.examples[0]}" for each in report.left_out),
    ]
    tables = [
        _table_of_shifts("shown per decision", whole.actions),
        _table_of_shifts("shown per decision, by group", report.groups),
        _table_of_parts("where", report.placements),
        _table_of_parts("for whom", report.segments),
        _table_of_reasons(report),
        *([_table_of_earnings(report)] if report.rewards else []),
    ]
    shown = [table for table in tables if table.row_count]
    reasons = dict.fromkeys(reason for each in report.rewards for reason in each.support.reasons)
    notes = [f"NOT RELIABLE: {reason}" for reason in reasons or (() if report.rewards else ("no decision is judged",))]
    judged = ", ".join(f"{count:,} {why}" for why, count in report.not_judged.items())
    notes.insert(0, f"judged: {report.judged:,} decisions" + (f"; not: {judged}" if judged else ""))
    notes += [f"limit: {limit}" for limit in report.limits]
    return Group(*(escape(line) for line in lines), *shown, *(escape(note) for note in notes))


def _table_of_shifts(title: str, shifts: tuple[Shift, ...]) -> Table:
    table = _table(title, "")
    for name in ("before", "after", "change", "drawn before", "drawn after"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in shifts:
        table.add_row(escape(each.name) or "none", *_shares(each), f"{each.drawn_before:,}", f"{each.drawn_after:,}")
    return table


def _shares(shift: Shift) -> tuple[str, str, str]:
    return f"{shift.before:.1%}", f"{shift.after:.1%}", f"{shift.after - shift.before:+.1%}"


def _table_of_parts(title: str, parts: tuple[Part, ...]) -> Table:
    table = _table(title, "", "")
    for name in ("decisions", "changed", "nothing before", "after"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("most")
    for each in parts:
        most = [f"{shift.name or 'none'} {shift.after - shift.before:+.1%}" for shift in each.actions[:2]]
        table.add_row(
            escape(each.by),
            escape(each.value) or "–",
            f"{each.decisions:,}",
            f"{each.changed / each.decisions:.1%}",
            f"{each.nothing_before:,}",
            f"{each.nothing_after:,}",
            escape(", ".join(most)),
        )
    return table


def _table_of_reasons(report: ShadowReport) -> Table:
    table = _table("why not: decisions", "action", "reason")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in report.reasons:
        counts = f"{each.before:,}", f"{each.after:,}", f"{each.after - each.before:+,}"
        table.add_row(escape(each.action), each.reason, *counts)
    return table


def _table_of_earnings(report: ShadowReport) -> Table:
    table = _table("per decision, at the draft's prices, 95 % intervals")
    table.add_column("reward", no_wrap=True)
    table.add_column("by", no_wrap=True)
    for name in (f"release {report.release}", "draft", "draft minus release"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in report.rewards:
        mark = "" if each.support.reliable else " ?"
        told = f"{each.model_before:.3f}", f"{each.model_after:.3f}", f"{each.model_after - each.model_before:.3f}"
        table.add_row(f"{each.reward}{mark}", "model", *told)
        for row in _estimates(each):
            table.add_row("", *row)
        table.add_section()
    return table


def _estimates(earned: Earned) -> list[tuple[str, str, str, str]]:
    apart = {each.estimator: each for each in earned.difference}
    return [
        (
            before.estimator,
            _told(before.value, before.low, before.high, 3),
            _told(after.value, after.low, after.high, 3),
            _told(each.value, each.low, each.high, 3) if (each := apart.get(before.estimator)) else "",
        )
        for before, after in zip(earned.before, earned.after, strict=True)
    ]


def _told(value: float | None, low: float | None, high: float | None, places: int = 4) -> str:
    if value is None:
        return "–"
    between = "" if low is None or high is None else f" [{low:.{places}f}, {high:.{places}f}]"
    return escape(f"{value:.{places}f}{between}")


def _table(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1))
    for name in names:
        table.add_column(name, overflow="fold", max_width=24)
    return table
