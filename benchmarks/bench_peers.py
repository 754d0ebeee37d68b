"""Deciding and learning in process beside Vowpal Wabbit, gittins, MABWiser and River: 50 actions, 32 columns.

    PEERS_PYTHON=… python -m benchmarks.run --only peers

One seeded world, every library at its defaults through its own documented calls (`benchmarks/quality`), CPU time,
rounds in turn; what puts a row into a library's input format is not counted. nbx here is its kernels and its learner,
without rules, state and log, which the others do not have. Peers are taken from the environment that
`PEERS_PYTHON` names, else from this one.
"""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec

from benchmarks.harness import PYTHON, Result, Size, Table
from benchmarks.registry import ROOT

HOW = "not installed: `pip install -r benchmarks/quality/requirements.txt`, then `PEERS_PYTHON=…/bin/python`"


class Timed(msgspec.Struct):
    """What `peers_timing` tells of a library."""

    policy: str
    version: str = ""
    decide_us: float = 0.0
    learn_us: float = 0.0


def measure(size: Size) -> Result:
    """Measure whoever is there."""
    rounds, rows = (1, 2) if size == "smoke" else (15, 20)
    done = subprocess.run(
        [os.environ.get("PEERS_PYTHON") or sys.executable, "-m", "benchmarks.peers_timing", str(rounds), str(rows)],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    timed = msgspec.json.decode(done.stdout.splitlines()[-1], type=dict[str, Timed])
    own = timed["nbx"]
    there = {name: each for name, each in timed.items() if each.decide_us}
    return Result(
        title="Other libraries, in process",
        what=f"one decision and one lesson, 50 actions, 32 columns, µs of CPU, medians of {rounds} rounds",
        against="each library's policy that is nearest, at its defaults",
        command=f"PEERS_PYTHON=… {PYTHON} --only peers",
        tables=(
            Table(
                ("", "decide µs", "of nbx", "learn µs", "of nbx"),
                tuple(
                    (
                        f"{name} {each.version}, {each.policy}",
                        each.decide_us,
                        f"{each.decide_us / own.decide_us:.2f} ×",
                        each.learn_us,
                        f"{each.learn_us / own.learn_us:.2f} ×",
                    )
                    for name, each in there.items()
                ),
            ),
        ),
        notes=tuple(f"{name}: {HOW}." for name in timed if name not in there),
        size=size,
    )
