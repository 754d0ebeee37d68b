"""Benchmarks at smoke size, so that they cannot rot: they run, and nbx is not out of all proportion."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks.harness import Bar, Curve, Plot, Result, Table
from benchmarks.page import write_page
from benchmarks.registry import ENTRIES, NAMES, Entry, read_bars
from benchmarks.run import run_apart

ROOT = Path(__file__).parents[2]
PRINTED = (
    "store",
    "fold",
    "filter",
    "verify",
    "query",
    # a service of their own each: ten seconds
    *(
        pytest.param(name, marks=pytest.mark.nightly)
        for name in ("events_http", "feedback", "learner_process", "explain", "replay", "archive")
    ),
)
BY_NAME = {entry.name: entry for entry in ENTRIES}


def run(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", PRINTED)
def test_a_benchmark_that_prints_runs_and_its_numbers_are_found(name: str) -> None:
    entry = BY_NAME[name]
    printed = run(f"bench_{name}", *entry.smoke_arguments)
    assert name == "filter" or " x" in printed or "ratio" in printed, "a benchmark tells a ratio"
    assert all(bar.found > 0 for bar in read_bars(entry, printed))


@pytest.mark.parametrize(
    "names",
    [
        ("codecs", "conditions", "growth", "feast", "budget", "decide_http", "grpc", "swap"),
        pytest.param(("peers", "workers", "start"), marks=pytest.mark.nightly),
    ],
)
def test_benchmarks_that_tell_data_run(names: tuple[str, ...]) -> None:
    printed = run("run", "--smoke", "--here", "--no-page", "--only", ",".join(names))
    assert printed.count("\nagainst ") == len(names)
    assert "FAILED" not in printed


def test_every_benchmark_is_registered() -> None:
    files = {path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py")}
    assert files == set(NAMES)


def test_one_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    assert not run_apart(Entry("no_such_benchmark"), "smoke", path)
    failed = msgspec.json.decode(path.read_bytes(), type=Result)
    assert "no_such_benchmark" in failed.failed
    found = Result(
        title="One",
        what="a number",
        against="another",
        command="do it",
        tables=(Table(("who", "µs"), (("nbx", 1.2345), ("other", 12345.6))),),
        plots=(Plot("one", "One", "size", "µs", (Curve("nbx", ((1.0, 2.0), (10.0, 3.0))),)),),
        bars=(Bar("rate", 1.9, 2.0, at_least=True, why="the store"), Bar("tail", 3.0, 4.0, at_least=False)),
    )
    page = write_page({"none": failed, "one": found}, tmp_path).read_text()
    assert failed.failed in page
    assert "| nbx | 1.23 |" in page
    assert "| other | 12,346 |" in page
    assert "| [rate](#one) | 1.9 × | ≥ 2 | **not met** |" in page
    assert "| [tail](#one) | 3 × | ≤ 4 | met |" in page
    assert "the store" in page
    assert "<polyline" in (tmp_path / "plots" / "one.svg").read_text()
