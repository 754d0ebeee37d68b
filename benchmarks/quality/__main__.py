"""Command line of the comparison.

    python -m benchmarks.quality --data DIR [--only hillstrom,digits] [--peers vw,mabwiser] [--seeds 10] [--out FILE.md]

`--nbx refresh=1,scale=0.5` runs nbx with other values beside its default; give it as often as you like.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.quality import report, timing
from benchmarks.quality.cache import Cache
from benchmarks.quality.data import tasks
from benchmarks.quality.peers import PEERS
from benchmarks.quality.policy import Setting
from benchmarks.quality.run import Runner, Scope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.quality.policy import Value
    from benchmarks.quality.task import Task

SMOKE = {"only": "digits,world", "seeds": 2, "rows": 300}


def main(arguments: Sequence[str]) -> int:
    """Run the comparison; return 2 on wrong use."""
    options = _options(arguments)
    console = Console()
    if not console.is_terminal:
        console.width = 160
    chosen = _tasks(console, options)
    if not chosen:
        console.print("[red]no task is left[/]: see --only and --data")
        return 2
    peers = {peer.name: peer for peer in PEERS}
    settings = _settings(console, options)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:
        bar = progress.add_task("…")
        runner = Runner(
            Scope(chosen, peers, settings, options.seeds, options.rows, options.jobs),
            Cache(options.cache),
            lambda what, done, total: progress.update(bar, description=what, completed=done, total=total),
        )
        runs = runner.everything()
        progress.update(bar, description="timing")
        rounds = (1, 20) if options.smoke else (7, 200)
        costs = timing.measure(settings, peers, *rounds) if options.timing else {}
    standings = {name: report.standings(results) for name, results in runs.items()}
    tables = [
        report.of_task(task.name, f"{task.about}; {task.protocol}", standings[task.name], runner.slow(task.name))
        for task in chosen
    ]
    final = report.summary(standings)
    tables = [*([final] if final else []), *([report.of_costs(costs)] if costs else []), *tables]
    report.show(console, tables)
    if options.out:
        report.write(options.out, report.markdown(tables))
        options.out.with_suffix(".json").write_bytes(report.as_json(standings, costs))
        console.print(f"written: {options.out}, {options.out.with_suffix('.json')}")
    return 0


def _tasks(console: Console, options: argparse.Namespace) -> tuple[Task, ...]:
    """What was asked for and is there; what is missing is said."""
    wanted = None if options.only is None else options.only.split(",")
    chosen = []
    for task in tasks(options.data or Path()):
        if wanted is not None and task.name not in wanted:
            continue
        missing = [file for file in task.files if options.data is None or not (options.data / file).is_file()]
        if missing:
            console.print(f"[yellow]{task.name} left out[/]: needs {', '.join(missing)} below --data")
        else:
            chosen.append(task)
    return tuple(chosen)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the data sets; without it, what needs no file")
    parser.add_argument("--only", help="tasks, separated by commas")
    parser.add_argument("--peers", help="packages, separated by commas; nbx is always there")
    parser.add_argument("--policies", help="policies of these packages, separated by commas")
    parser.add_argument("--defaults", action="store_true", help="no grids")
    parser.add_argument(
        "--nbx", action="append", default=[], metavar="NAME=VALUE,…", help="nbx again, with these values"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rows", type=int, help="at most so many rows a run")
    parser.add_argument("--jobs", type=int, default=1, help="processes; times are honest with 1 only")
    parser.add_argument("--cache", type=Path, help="file of results: what is there is not run again")
    parser.add_argument(
        "--out", type=Path, help="Markdown, replaced between its markers where it has them; JSON beside it"
    )
    parser.add_argument("--timing", action=argparse.BooleanOptionalAction, default=True, help="table of costs")
    parser.add_argument("--smoke", action="store_true", help="seconds: few rows, no files")
    options = parser.parse_args(arguments)
    if options.smoke:
        vars(options).update(SMOKE)
    return options


def _settings(console: Console, options: argparse.Namespace) -> tuple[Setting, ...]:
    wanted = None if options.peers is None else {"nbx", *options.peers.split(",")}
    policies = None if options.policies is None else {"nbx", *options.policies.split(",")}
    settings = []
    for peer in PEERS:
        if wanted is not None and peer.name not in wanted:
            continue
        if peer.version is None:
            console.print(f"[yellow]{peer.name} left out[/]: not installed, see benchmarks/quality/requirements.txt")
            continue
        settings += [
            s
            for s in peer.settings()
            if (policies is None or s.policy in policies) and not (s.values and (options.defaults or options.smoke))
        ]
    return (*settings, *(Setting("nbx", "nbx", _values(text)) for text in options.nbx))


def _values(text: str) -> tuple[tuple[str, Value], ...]:
    pairs = [part.split("=", 1) for part in text.split(",")]
    words = {"true": True, "false": False}
    return tuple((name, words[value] if value in words else float(value)) for name, value in pairs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
