"""The comparison against peers at smoke size, so that it cannot rot: the command runs, nbx learns, peers are named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]


def test_the_comparison_runs(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.quality", "--smoke", "--out", str(page)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    text = page.read_text()
    assert "| nbx " in text
    assert "50 actions, 32 columns" in text
    found = msgspec.json.decode(page.with_suffix(".json").read_bytes())
    reward = {s["policy"]: s["reward"]["mean"] for s in found["standings"]["digits"] if not s["tuned"]}
    assert reward["nbx"] > 1.5 * reward["uniform"], "nbx learns"


def test_wrong_use_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.quality", "--only", "no-such-task"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "no task is left" in done.stdout
