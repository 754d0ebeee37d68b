"""Every benchmark by name, in the order of the page.

Most have `measure(size)`. Those that print their own table run as they are; a `Read` picks a number with a bar out of
what was printed.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import Bar, Result, Size

ROOT = Path(__file__).parents[1]


class Read(NamedTuple):
    """A number with a bar, in what a benchmark prints."""

    what: str
    pattern: str
    """One group: the number."""
    asked: float
    at_least: bool
    unit: str = "×"
    why: str = ""
    """What stands in the way."""


class Entry(NamedTuple):
    """A benchmark."""

    name: str
    title: str = ""
    """Of one that prints; the others say it themselves."""
    against: str = ""
    module: str = ""
    """Without `benchmarks.`; empty: `bench_<name>`."""
    reads: tuple[Read, ...] | None = None
    """None: it has `measure`."""
    arguments: tuple[str, ...] = ()
    """Of the full size."""
    on_service: bool = False
    """It has `measure_on` too, so that several can share one service at smoke size."""
    smoke_arguments: tuple[str, ...] = ("--smoke",)


_DECIMAL = r"(\d[\d,.]*)"
ENTRIES = (
    Entry("budget", on_service=True),
    Entry("decide_http", on_service=True),
    Entry("grpc", on_service=True),
    Entry(
        "events_http",
        "Events over HTTP",
        "decisions by the same api process",
        reads=(Read("events per decision, CPU", rf"^events  .*cpu {_DECIMAL} x", 1.0, at_least=True),),
    ),
    Entry("workers", on_service=True),
    Entry("swap", on_service=True),
    Entry("start", on_service=True),
    Entry("growth"),
    Entry("kernels"),
    Entry("codecs"),
    Entry("conditions"),
    Entry(
        "filter",
        "Rules: guardrails over 200 actions",
        "the same actions without guardrails",
        reads=(Read("guardrails add", rf"guardrails add {_DECIMAL} us", 150.0, at_least=False, unit="µs"),),
        arguments=("--seconds", "10"),
        smoke_arguments=("--seconds", "0.2"),
    ),
    Entry(
        "fold",
        "Folding an event",
        "a behaviour event that touches no slot",
        reads=(
            Read("a slot's event, diagnosis included", rf"included: {_DECIMAL} us", 50.0, at_least=False, unit="µs"),
        ),
    ),
    Entry("store", "Redis operations", "redis-py asyncio with hiredis", reads=(), arguments=("--ops", "10000")),
    Entry("learner", "Learning an outcome, in memory", "River", reads=()),
    Entry(
        "learner_process",
        "The learner over a real log",
        "the fold in memory alone",
        reads=(
            Read(
                "outcomes per cpu-second",
                rf"over the log +{_DECIMAL} per cpu",
                20_000,
                at_least=True,
                unit="/s",
                why="By a profile two fifths go into what an outcome may teach (`bandits/teaching.py`, "
                "`bandits/quarantine.py`, `runtime/weighing.py`: Python per outcome and per feature), a third into the "
                "two models, the rest into reading the log and storing sites. The models alone, in memory, are below "
                "the bar as well.",
            ),
        ),
    ),
    Entry("river", "Bayesian linear regression", "River's of the same name", reads=()),
    Entry("peers"),
    Entry("feast"),
    Entry(
        "feedback",
        "From an outcome to a model that has learned it",
        "the same at a twentieth of the rate",
        reads=(Read("learned and served, p99, of 2 s", rf"bar of 2000 ms: {_DECIMAL} x", 1.0, at_least=False),),
    ),
    Entry("continuity", "Declined on one channel, gone on the next", "decisions for untouched customers", reads=()),
    Entry("explain", "Explanations beside decisions", "decisions alone", reads=()),
    Entry("replay", "Deep replay", "the live learner over the same log", reads=()),
    Entry("archive", "Archiving beside decisions", "decisions alone", reads=()),
    Entry("verify", "Verifying the archive", "reading and hashing the same bytes", reads=()),
    Entry("query", "The last hour of a large archive", "DuckDB over all files", reads=()),
    Entry("soak", on_service=True),
)
NAMES = tuple(entry.name for entry in ENTRIES)
LONG = frozenset({"feedback", "continuity", "explain", "replay", "archive", "verify", "query", "soak"})
"""Take a minute or more each and say nothing of deciding: the last ones."""


def measured(entry: Entry, size: Size) -> Result:
    """Run a benchmark in this process, or, where it prints, in one of its own."""
    module = f"benchmarks.{entry.module or f'bench_{entry.name}'}"
    if entry.reads is None:
        result: Result = importlib.import_module(module).measure(size)
        return result
    arguments = entry.smoke_arguments if size == "smoke" else entry.arguments
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"it ended with {done.returncode}: {(done.stderr or done.stdout)[-1500:]}")
    return Result(
        title=entry.title,
        what="as printed",
        against=entry.against,
        command=" ".join(("python -m", module, *entry.arguments)),
        printed=done.stdout,
        bars=read_bars(entry, done.stdout),
        size=size,
    )


def read_bars(entry: Entry, printed: str) -> tuple[Bar, ...]:
    """Find the numbers with a bar in what a benchmark printed."""
    return tuple(_read(read, printed) for read in entry.reads or ())


def _read(read: Read, printed: str) -> Bar:
    found = re.search(read.pattern, printed, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"nothing printed says {read.what!r} ({read.pattern}):\n{printed[-800:]}")
    return Bar(read.what, float(found.group(1).replace(",", "")), read.asked, read.at_least, read.unit, read.why)
