"""What one decision and one lesson cost at fifty actions and 32 columns: CPU time, interleaved rounds, ratio to nbx."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from time import process_time
from typing import TYPE_CHECKING

from benchmarks.quality.data import world
from benchmarks.quality.peers import YARDSTICK
from benchmarks.quality.task import Task, stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.quality.policy import Peer, Policy, Setting
    from benchmarks.quality.task import Stream


WARM = 10
"""Rounds before the first that counts: compiled, loaded, and past the first lessons, when learners work hardest."""


@dataclass(frozen=True)
class Cost:
    """Medians over rounds."""

    decide_us: float
    learn_us: float


def measure(settings: tuple[Setting, ...], peers: Mapping[str, Peer], rounds: int, rows: int) -> dict[Setting, Cost]:
    """Time every default; each round moves every policy on by `rows` rows, after `WARM` that do not count."""
    total = (rounds + WARM) * rows
    task = Task("timing", "full", total, "", lambda seed: world(total, seed))
    rendered = stream(task, task.load(0), 0, total)
    chosen = [s for s in settings if not s.values and s.policy != YARDSTICK]
    policies = {setting: peers[setting.peer].make(setting, rendered) for setting in chosen}
    times: dict[Setting, list[tuple[float, float]]] = {setting: [] for setting in policies}
    for number in range(rounds + WARM):
        for setting, policy in policies.items():
            spent = _round(rendered, policy, range(number * rows, (number + 1) * rows))
            if number >= WARM:
                times[setting].append(spent)
    return {
        setting: Cost(median(decide for decide, _ in spent), median(learn for _, learn in spent))
        for setting, spent in times.items()
    }


def _round(rendered: Stream, policy: Policy, rows: range) -> tuple[float, float]:
    """µs per decision, µs per lesson."""
    deciding, learning = 0.0, 0.0
    for row in rows:
        policy.prepare(row)
        start = process_time()
        action, propensity = policy.decide(row)
        decided = process_time()
        success = float(rendered.success[row, action])
        ready = process_time()
        policy.learn(row, action, success, success, propensity)
        learning += process_time() - ready
        deciding += decided - start
    return 1e6 * deciding / len(rows), 1e6 * learning / len(rows)
