"""The demonstration's last page: nbx beside the other policies, how fast it was, and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from nbx.demo.comparators import Compared
from nbx.demo.run import DemoResult
from nbx.demo.tally import Summary

ROWS: tuple[tuple[str, Callable[[Summary], str]], ...] = (
    ("accepted, of those seen", lambda s: f"{s.accepted_of_seen:.1%}"),
    ("accepted per visit", lambda s: f"{s.accepted_per_visit:.3f}"),
    ("value per visit, euro", lambda s: f"{s.value_per_visit:.2f}"),
    ("… with experience ¹", lambda s: f"{s.worth_per_visit:.2f}"),
    ("ignored, of those seen", lambda s: f"{s.ignored_of_seen:.1%}"),
    ("complaints per 1,000 prompts", lambda s: f"{s.complaints_per_thousand:.1f}"),
    ("failed (page errors)", lambda s: f"{s.failed_of_chosen:.1%}"),
    ("relationship balance, mean", lambda s: f"{s.balance:+.2f}"),
    ("silent visits", lambda s: f"{s.silent:.1%}"),
    ("prompts seen", lambda s: f"{s.prompts:,}"),
)


def print_report(result: DemoResult, console: Console, next_steps: Sequence[str] = ()) -> None:
    """Print a demonstration's result.

    Parameters
    ----------
    result
        Of `nbx.demo.run.run_demo`.
    console
        Where to.
    next_steps
        Lines on how to stop it and what to try, printed as they are.
    """
    weeks = result.seconds / 60 * 2
    console.print(
        f"\n[bold]{result.customers:,} customers of a small bank, {result.visits:,} visits, {weeks:.1f} weeks of their "
        f"life in {result.seconds:.0f} s[/] (durations of the catalog are scaled: a minute is two weeks)\n"
    )
    console.print(_comparison([result.nbx, *result.others]))
    console.print(
        "[dim]Same customers, same luck, same limits and pauses for every policy. The best single action is known only "
        "in hindsight.\n¹ value + exchange × experience points, negative ones counted twice: what nbx maximises.[/]\n"
    )
    console.print(_learning(result))
    console.print()
    console.print(_service(result))
    if not result.wrong_customers:
        console.print(
            f"Read back from nbx: {result.checked_outcomes:,} outcomes of {result.checked_customers} customers, "
            "all as lived.",
            highlight=False,
        )
    for line in _faults(result):
        console.print(f"[yellow]{line}[/]")
    if next_steps:
        console.print()
    for line in next_steps:
        console.print(line, markup=False, soft_wrap=True)


def _comparison(compared: Sequence[Compared]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    for index, each in enumerate(compared):
        table.add_column(each.name.replace(": ", ":\n"), justify="right", style="bold green" if index == 0 else "")
    summaries = [each.tally.summary() for each in compared]
    for name, shown in ROWS:
        table.add_row(name, *(shown(summary) for summary in summaries))
    return table


def _learning(result: DemoResult) -> Table:
    """How nbx and random choice did in each third of the run."""
    third = max(result.visits // 3, 1)
    parts = (slice(0, third), slice(third, 2 * third), slice(2 * third, None))
    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        header_style="bold",
        title="Learning: each third of the run",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("")
    for name in ("first", "second", "last"):
        table.add_column(name, justify="right")
    rivals = [result.nbx, *result.others[:1]]
    for each in rivals:
        shares = [each.tally.summary(part).accepted_of_seen for part in parts]
        table.add_row(f"{each.name}: accepted, of those seen", *(f"{share:.1%}" for share in shares))
    worth = [[each.tally.summary(part).worth_per_visit for part in parts] for each in rivals]
    for each, values in zip(rivals, worth, strict=True):
        table.add_row(f"{each.name}: value with experience per visit", *(f"{value:.2f}" for value in values))
    if len(worth) > 1:
        gains = [f"{ours - theirs:+.2f}" for ours, theirs in zip(*worth, strict=True)]
        table.add_row("nbx over random", *gains, style="green")
    return table


def _service(result: DemoResult) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("", "decisions", "p50", "p99"):
        table.add_column(name, justify="left" if not name else "right")
    for face, latency in result.latency.items():
        table.add_row(
            f"decide over {face}", f"{latency.count:,}", f"{latency.p50_ms:.1f} ms", f"{latency.p99_ms:.1f} ms"
        )
    table.add_row(f"[dim]at {result.achieved_rate:.0f} visits/s, timed at the customers' end[/]", "", "", "")
    return table


def _faults(result: DemoResult) -> list[str]:
    """What a reader must know before believing the numbers."""
    lines = []
    if result.knew_before:
        lines.append("nbx began with what it had learned before: this is not its first run on this data directory.")
    if result.late_ms > 100:
        lines.append(f"This machine was busy: visits began up to {result.late_ms:.0f} ms late (99 of 100).")
    if result.degraded:
        lines.append(f"{result.degraded} decisions were degraded: the state came too late.")
    if result.wrong_customers:
        lines.append(
            f"The service's books differ from what {len(result.wrong_customers)} of {result.checked_customers} "
            f"customers lived through, e.g. {result.wrong_customers[0]}."
        )
    lines += [f"{count} × {what}" for what, count in result.errors.most_common(5)]
    return lines
