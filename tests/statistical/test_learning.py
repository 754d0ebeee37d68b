"""What the linearisation of logistic sites is worth on real data, for whom corrects answers late.

A yes that was first learned as ignored is corrected by its site, which keeps the point at which it was linearised. Here
every yes of a data set is corrected so, 500 rows late, against a learner told the truth at once and one told the
truth, 500 rows late, for the first time.

    NBX_DATA=<folder of the data sets> python -m pytest -m nightly -s tests/statistical/test_learning.py
"""

from __future__ import annotations

import sys
from collections import deque
from os import environ
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from scipy.special import expit

from benchmarks.quality import data
from nbx.bandits.kernels import F32, F64
from nbx.bandits.learner import LearnedSites, Learner, Observation

DELAY = 500


class Log(NamedTuple):
    columns: tuple[str, ...]
    x: F32
    action: list[str]
    y: list[int]


def log_of(name: str, folder: Path) -> Log:
    if name == "hillstrom":
        table = data.hillstrom(folder)
        assert table.logged is not None
        at, y = table.logged, table.success
    else:
        table = data.bank(folder)
        y = (data._read(folder, data.BANK, ";")["y"] == "yes").astype(np.float64)
        at = np.zeros(len(y), np.int64)
    order = np.random.default_rng(4).permutation(len(y)) if name == "bank, shuffled" else np.arange(len(y))
    return Log(table.columns, table.x[order], [f"a{k}" for k in at[order]], y[order].astype(int).tolist())


def told(log: Log, how: str, *, adaptive: bool) -> tuple[Learner, F64]:
    """Learn a log; return the learner and what it predicted of each row before."""
    learner = Learner(adaptive=adaptive)
    learner.register_layout(1, log.columns)
    waiting: deque[tuple[int, Observation, LearnedSites | None]] = deque()
    predicted = np.full(len(log.y), 0.5)

    def hear_late(now: int) -> None:
        while waiting and waiting[0][0] <= now:
            _, observation, sites = waiting.popleft()
            learner.learn(observation, sites)

    for k, (x, action, y) in enumerate(zip(log.x, log.action, log.y, strict=True)):
        hear_late(k)
        models = learner._models.get(action)
        if models is not None:
            mean, variance = models.response.posterior.predict(x.astype(np.float64))
            predicted[k] = expit(mean / np.sqrt(1.0 + np.pi * variance / 8.0))
        truth = Observation(
            key=f"{k}/0", action=action, group="g", layout=1, x=x, response=y, experience=0.0, experience_weight=0.0
        )
        if how == "at once" or not y:
            learner.learn(truth, None)
        elif how == "corrected":
            sites = learner.learn(msgspec.structs.replace(truth, response=0), None)
            waiting.append((k + DELAY, msgspec.structs.replace(truth, revision=1), sites))
        else:
            waiting.append((k + DELAY, truth, None))
    hear_late(len(log.y) + DELAY)
    for group in learner._groups.values():
        learner._pool(group)
    return learner, predicted


def ends(learner: Learner, log: Log) -> tuple[F64, F64]:
    """Mean and standard deviation of the log-odds of every row, by what was known at the end."""
    x = log.x.astype(np.float64)
    mean, sd = np.empty(len(x)), np.empty(len(x))
    for action, models in learner._models.items():
        rows = np.array(log.action) == action
        posterior = models.response.posterior
        mean[rows] = x[rows] @ posterior.mean
        sd[rows] = np.sqrt(((x[rows] @ posterior.cov) * x[rows]).sum(axis=1))
    return mean, sd


def log_loss(p: F64, y: list[int]) -> float:
    return float(-np.log(np.where(np.array(y) == 1, p, 1.0 - p)).mean())


@pytest.mark.nightly
@pytest.mark.skipif("NBX_DATA" not in environ, reason="needs NBX_DATA, a folder with the data sets")
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("name", ["hillstrom", "bank", "bank, shuffled"])
def test_what_is_heard_late_is_nearly_what_was_heard_at_once(name: str, adaptive: bool) -> None:
    log = log_of(name, Path(environ["NBX_DATA"]))
    learners = {how: told(log, how, adaptive=adaptive) for how in ("at once", "corrected", "late")}
    losses = {how: log_loss(np.clip(p, 1e-9, 1 - 1e-9), log.y) for how, (_, p) in learners.items()}
    (mean, sd), ended = ends(learners["at once"][0], log), {}
    report = [f"{name}, adaptive {adaptive}: {len(log.y)} rows, {np.mean(log.y):.3f} yes, loss {losses['at once']:.5f}"]
    for how in ("corrected", "late"):
        other, other_sd = ends(learners[how][0], log)
        ended[how] = log_loss(expit(other), log.y) - log_loss(expit(mean), log.y)
        moved = expit(other) - expit(mean)
        report.append(
            f"  {how}: progressive loss {losses[how] - losses['at once']:+.5f}, at the end {ended[how]:+.6f}; "
            f"acceptance {moved.mean():+.5f}, {np.abs(moved).mean():.5f} in size, "
            f"log-odds {np.abs(other - mean).mean() / sd.mean():.2f} sd; sd x {np.mean(other_sd / sd):.3f}"
        )
    for how, (learner, _) in learners.items():
        report.append(f"  {how}: memories cut {learner.snapshot(1, 1).changes}, half-life {learner.half_life}")
    sys.stdout.write("\n".join(["", *report, ""]))
    if not adaptive:
        assert abs(ended["corrected"]) < 0.002
        assert abs(losses["corrected"] - losses["late"]) < 0.01
