"""Commands that ask the log: `nbx log sql`, `nbx log export --format csv|parquet`, `nbx decisions find`.

SQL and exports read archive and Redis themselves, in this process, so that they cost the serving processes nothing and
may take what this machine has.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import psutil
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from nbx.cli_options import AsJson, Url, client_of, err, out, read_settings, show
from nbx.clock import SystemClock
from nbx.errors import Invalid, SetupError

T = TypeVar("T")
SHOWN = 1_000
"""Rows of a table on the screen; more is for a file."""
MOST_PARTITIONS = 1024
SEARCH_S = 60.0
Since = Annotated[str, typer.Option(help="Epoch ms, RFC 3339, or a time ago such as 24h; default 30 days ago.")]
Until = Annotated[str, typer.Option(help="The same; default now.")]
Dir = Annotated[
    Path | None, typer.Option("--dir", help="Ask this archive, a copy perhaps, and not Redis; default: this machine's.")
]
SkipDamaged = Annotated[bool, typer.Option("--skip-damaged", help="Go on without damaged segments, and say so.")]


def attach(log_app: typer.Typer, decisions_app: typer.Typer) -> None:
    """Add the commands to their groups."""
    log_app.command("sql")(log_sql)
    decisions_app.command("find")(decisions_find)


def log_sql(
    sql: Annotated[str, typer.Argument(help="One SELECT over the views, see docs/query.md; - reads it from stdin.")],
    since: Since = "",
    until: Until = "",
    limit: Annotated[int, typer.Option(min=1, help="Rows at most; a file has all.")] = SHOWN,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    target: Annotated[Path | None, typer.Option("--out", help="Write FILE.csv or FILE.parquet instead.")] = None,
    directory: Dir = None,
    skip_damaged: SkipDamaged = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds at most; default: none.")] = float("inf"),
) -> None:
    """Ask the log in SQL: archive and what is not archived yet, as ready views, read-only."""
    text = sys.stdin.read() if sql == "-" else sql
    if target is not None:
        export(text, target, since, until, directory, skip_damaged=skip_damaged, timeout=timeout, as_json=as_json)
        return
    from nbx.audit.query import LogQuery
    from nbx.audit.query_answer import Answer

    def use(query: LogQuery) -> Answer:
        return query.answer(text)

    answer = _on_log(use, since, until, directory, skip_damaged=skip_damaged, timeout=timeout, rows=limit)
    if as_json:
        show(answer)
        return
    rows = [msgspec.json.decode(row) for row in answer.rows]
    if as_csv:
        _print_csv([column.name for column in answer.columns], rows)
    else:
        _print_rows([column.name for column in answer.columns], [[_cell(value) for value in row] for row in rows])
    if answer.truncated:
        err.print(f"cut after {len(rows)} rows: --limit N shows more, --out FILE.csv writes all of them", markup=False)
    _print_notes(answer.notes)


def export(
    sql: str,
    target: Path,
    since: str,
    until: str,
    directory: Path | None,
    *,
    skip_damaged: bool = False,
    timeout: float = float("inf"),
    as_json: bool = False,
    key: bytes = b"",
) -> None:
    """Write what a query finds to a file, with pseudonyms of customers when there is a key, and say so."""
    from nbx.audit.pseudonyms import pseudonymised
    from nbx.audit.query import LogQuery
    from nbx.audit.query_export import checked_target, write_found

    checked_target(target)
    bar = Progress(SpinnerColumn(), TextColumn("{task.completed:,} rows"), TimeElapsedColumn(), console=err)
    with bar:
        task = bar.add_task("write", total=None)

        def use(query: LogQuery) -> tuple[int, list[str]]:
            hide = partial(pseudonymised, key=key) if key else None
            count = write_found(query, sql, target, lambda done: bar.update(task, completed=done), hide)
            return count, query.notes

        count, notes = _on_log(use, since, until, directory, skip_damaged=skip_damaged, timeout=timeout, rows=1)
    if as_json:
        show({"rows": count, "files": [str(target)], "notes": notes})
        return
    out.print(f"{target}: {count} rows", markup=False)
    _print_notes(notes)


def export_view(
    target: Path,
    kind: str,
    view: str,
    sql: str,
    since: str,
    until: str,
    directory: Path | None,
    *,
    as_json: bool,
    key: bytes = b"",
) -> None:
    """Write a view, or what SQL finds, as `nbx log export --format csv|parquet` does; a `key` makes pseudonyms."""
    from nbx.audit.query_views import VIEWS

    if bool(view) == bool(sql):
        raise SetupError(f"--format {kind} needs --view NAME or --sql QUERY; the views are {', '.join(VIEWS)}")
    if view and view not in VIEWS:
        raise SetupError(f"there is no view {view!r}; the views are {', '.join(VIEWS)}")
    if sql and key:
        raise SetupError("--pseudonyms goes with --view: a query may put a customer's id into any column")
    if target.suffix != f".{kind}":
        raise Invalid(f"{target.name} must end with .{kind}", field="out", code="format_unknown")
    export(sql or f"SELECT * FROM {view}", target, since, until, directory, as_json=as_json, key=key)  # noqa: S608 - a known name


def decisions_find(
    customer: Annotated[str, typer.Option(help="As it was known when it was decided.")] = "",
    placement: str = "",
    action: Annotated[str, typer.Option(help="That a slot holds; with --reason, that was removed.")] = "",
    reason: Annotated[str, typer.Option(help="Code of the rule that removed an action.")] = "",
    outcome: Annotated[str, typer.Option(help="Of a slot, by the last word on it.")] = "",
    cause: Annotated[str, typer.Option(help="Of the outcome.")] = "",
    degraded: Annotated[bool, typer.Option("--degraded", help="Only degraded ones.")] = False,
    holdout: Annotated[str, typer.Option(help="silent, random or any")] = "",
    since: Since = "",
    until: Until = "",
    limit: Annotated[int, typer.Option(min=1)] = 20,
    skip_damaged: SkipDamaged = False,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Find decisions, newest first, in the archive and the live log."""
    asked: dict[str, Any] = {
        "customer": customer, "placement": placement, "action": action, "reason": reason, "outcome": outcome,
        "cause": cause, "holdout": holdout, "since": since, "until": until, "limit": limit,
        "degraded": str(degraded).lower(), "skip_damaged": str(skip_damaged).lower(),
    }  # fmt: skip
    found = client_of(url, SEARCH_S).call("GET", "/v1/decisions", **asked)
    if as_json:
        show(found)
        return
    if not found["decisions"]:
        out.print(found["words"], markup=False)
    else:
        for each in found["decisions"]:
            out.print(_found_line(each), markup=False)
    if found["truncated"]:
        err.print(f"there are more: --limit N, or --until {found['decisions'][-1]['at_ms']}", markup=False)
    _print_notes(found["notes"])


def _found_line(each: dict[str, Any]) -> str:
    from nbx.catalog.time_words import moment

    slots = "; ".join(_slot_words(slot) for slot in each["slots"])
    marks = [f"holdout {each['holdout']}"] if each["holdout"] else []
    marks += [f"degraded: {reason}" for reason in each["degraded"]]
    when = moment(each["at_ms"] // 1000 * 1000)
    return "  ".join([when, each["decision_id"], each["customer_id"], each["placement"], slots, *marks])


def _slot_words(slot: dict[str, Any]) -> str:
    if not slot["action"]:
        return f"none ({slot['none']})"
    told = slot["outcome"] + (f", {slot['cause']}" if slot["cause"] else "")
    return f"{slot['action']}/{slot['treatment']} {slot['propensity']:.2f}" + (f": {told}" if told else "")


def _on_log(
    use: Callable[[Any], T],
    since: str,
    until: str,
    directory: Path | None,
    *,
    skip_damaged: bool,
    timeout: float,
    rows: int,
) -> T:
    """Use the log of this machine's installation, or of an archive alone."""
    from nbx.audit.chain import CHAIN
    from nbx.audit.query_answer import Bounds
    from nbx.audit.reading import window
    from nbx.runtime.querying import asked_of, over

    now_ms = SystemClock().now_ms()
    span = window(since, until, now_ms)
    with tempfile.TemporaryDirectory(prefix="nbx-query-") as spill:
        bounds = Bounds(
            rows=rows,
            bytes=sys.maxsize,
            seconds=timeout,
            memory_bytes=psutil.virtual_memory().available // 2,
            threads=os.cpu_count() or 1,
            spill=spill,
            spill_bytes=psutil.disk_usage(spill).free // 2,
        )
        asked = asked_of(read_settings(), span, now_ms, bounds, skip_damaged=skip_damaged)
        if directory is not None:
            if not (directory / CHAIN).is_file():
                raise SetupError(f"{directory} is no archive: it has no {CHAIN}")
            asked = msgspec.structs.replace(
                asked, archive=str(directory.resolve()), redis_url="", partitions=MOST_PARTITIONS
            )
        return over(asked, use)


def _print_rows(names: list[str], rows: list[list[str]]) -> None:
    """Print a table; when it is wider than the screen, a line a value and a rule between rows."""
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    if sum(widths) + 3 * len(widths) + 1 <= out.width:
        table = Table(*names)
        for row in rows:
            table.add_row(*row)
        out.print(table)
        return
    wide = max(map(len, names))
    for number, row in enumerate(rows, 1):
        out.print(f"[dim]row {number}[/]")
        for name, value in zip(names, row, strict=True):
            out.print(f"  {name:<{wide}}  {value}")


def _print_csv(names: list[str], rows: list[list[Any]]) -> None:
    import csv

    lines = csv.writer(sys.stdout, lineterminator="\n")
    lines.writerow(names)
    for row in rows:
        lines.writerow([msgspec.json.encode(v).decode() if isinstance(v, list | dict) else v for v in row])


def _cell(value: Any) -> str:
    from rich.markup import escape

    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return escape(text)


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        err.print(f"note: {note}", markup=False)
