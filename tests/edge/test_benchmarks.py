"""Benchmarks at smoke size, so that they cannot rot: they run, and nbx is not out of all proportion."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = (
    "bench_decide_http",
    "bench_events_http",
    "bench_feedback",
    "bench_store",
    "bench_learner_process",
    "bench_fold",
    "bench_replay",
    "bench_verify",
    pytest.param("bench_archive", marks=pytest.mark.nightly),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--smoke"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert " x" in done.stdout or "ratio" in done.stdout, "a benchmark tells a ratio"
