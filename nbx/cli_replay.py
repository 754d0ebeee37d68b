"""`nbx decisions replay`: one decision, or a whole day."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from nbx.cli_options import AsJson, Url, client_of, err, out, read_settings, show
from nbx.clock import SystemClock
from nbx.decision.replayed import Replay
from nbx.errors import SetupError

if TYPE_CHECKING:
    from nbx.audit.verdicts import ReplayReport

DAY = "24h"


def decisions_replay(
    decision_id: Annotated[str, typer.Argument(metavar="[ID]", show_default=False)] = "",
    every: Annotated[bool, typer.Option("--all", help="Decisions of a span of time instead of one.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Rebuild state and model from the log.")] = False,
    since: Annotated[str, typer.Option(help="With --all: epoch ms, RFC 3339, or a time ago.")] = DAY,
    until: Annotated[str, typer.Option(help="The same; default now.")] = "",
    sample: Annotated[int, typer.Option(min=0, help="With --all: so many of them, drawn; 0: every one.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample.")] = 0,
    most: Annotated[int, typer.Option(min=0, help="With --deep: log entries to read at most; 0: all.")] = 0,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Make decisions again: "same", or what differs and why. Exit code 1 when it is not for a stated change."""
    from nbx.audit.verdicts import excused

    if every == bool(decision_id):
        raise SetupError("say which decision, or --all: nbx decisions replay ID, or nbx decisions replay --all")
    if every:
        report = _all(since, until, deep=deep, sample=sample, seed=seed)
        show(report) if as_json else _tell_all(report)
        raise typer.Exit(0 if report.excused else 1)
    if deep:
        from nbx.runtime.replaying import replay_one

        replayed = asyncio.run(replay_one(read_settings(), decision_id, most=most, console=err))
    else:
        answer = client_of(url).call("GET", f"/v1/decisions/{decision_id}/replay")
        replayed = msgspec.convert(answer, Replay)
    show(replayed) if as_json else _tell(replayed)
    raise typer.Exit(0 if excused(replayed) else 1)


def _all(since: str, until: str, *, deep: bool, sample: int, seed: int) -> ReplayReport:
    from nbx.audit.reading import window
    from nbx.runtime.replaying import replay_all

    span = window(since, until, SystemClock().now_ms())
    return asyncio.run(replay_all(read_settings(), span, deep=deep, sample=sample, seed=seed, console=err))


def _tell(replayed: Replay) -> None:
    out.print(f"{replayed.decision_id}: {'same' if replayed.same else 'DIFFERENT'}", markup=False)
    told = ""
    for each in replayed.differences:
        if each.why != told:
            out.print(f"  {each.verdict}: {each.why}", markup=False)
            told = each.why
        out.print(f"    {each.what}: recorded {each.recorded}, recomputed {each.recomputed}", markup=False)
    for note in replayed.notes:
        out.print(f"  note: {note}", markup=False)


def _tell_all(report: ReplayReport) -> None:
    how = "from log, model and release" if report.deep else "from their records"
    share = "" if report.replayed == report.found else f", a sample of {report.found:,}"
    out.print(f"{report.replayed:,} decisions made again {how}{share}: {report.same:,} same")
    for verdict, count in sorted(report.different.items()):
        out.print(f"  {verdict}: {count.decisions:,}, first {', '.join(count.first)}", markup=False)
    for replayed in report.examples:
        _tell(replayed)
    for note, decisions in report.notes.items():
        out.print(f"  note on {decisions:,}: {note}", markup=False)
    rate = report.entries / report.took_s if report.took_s else 0.0
    out.print(f"{report.entries:,} log entries in {report.took_s:.1f} s, {rate:,.0f} a second")
