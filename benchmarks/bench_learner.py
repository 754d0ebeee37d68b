"""What one observation costs the learner: both models of an action updated, sites returned.

Against River's `BayesianLinearRegression.learn_one` (one model, linear only) and `LinUCBDisjoint.update` (the same with
a dict per arm). One core; rounds are interleaved and medians compared. Each round begins with an empty learner, when
groups are pooled often; `settled` is the same stream once more, learned by one that has seen it four times; `learn_all`
is how the learner process takes them in.

    python benchmarks/bench_learner.py [--smoke]
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from river import bandit, linear_model

from nbx.bandits.estimators import BayesianLogisticRegression
from nbx.bandits.learner import Learner, Observation

if TYPE_CHECKING:
    from collections.abc import Callable

ACTIONS = 50
STEP = 500
"""Observations of a step of the learner under load."""


def observations(count: int, d: int) -> list[Observation]:
    """Return seeded observations of fifty actions in five groups."""
    rng = np.random.default_rng(2)
    return [
        Observation(
            key=f"{k}/0",
            action=f"a{k % ACTIONS}",
            group=f"g{k % 5}",
            layout=1,
            x=rng.normal(size=d).astype(np.float32),
            response=int(rng.random() < 0.2),
            experience=float(rng.normal()),
        )
        for k in range(count)
    ]


def folds(stream: list[Observation], d: int) -> dict[str, Callable[[], object]]:
    """Return what is compared, each folding the whole stream."""
    names = [f"x{i}" for i in range(d)]
    dicts = [dict(zip(names, np.asarray(o.x).tolist(), strict=True)) for o in stream]

    def fold(forgetting: float = 1.0, *, pooled: bool = True, adaptive: bool = True) -> Learner:
        learner = Learner(forgetting=forgetting, pooled=pooled, adaptive=adaptive)
        learner.register_layout(1, names)
        for observation in stream:
            learner.learn(observation, None)
        return learner

    known = fold()
    for observation in 3 * stream:
        known.learn(observation, None)

    def batches() -> None:
        learner = Learner()
        learner.register_layout(1, names)
        for at in range(0, len(stream), STEP):
            learner.learn_all(stream[at : at + STEP], {})

    def settled() -> None:
        for observation in stream:
            known.learn(observation, None)

    def estimator() -> None:
        model = BayesianLogisticRegression()
        for observation, x in zip(stream, dicts, strict=True):
            model.learn_one(x, observation.response == 1)

    def river_linear() -> None:
        model = linear_model.BayesianLinearRegression()
        for observation, x in zip(stream, dicts, strict=True):
            model.learn_one(x, observation.experience)

    def river_bandit() -> None:
        policy = bandit.LinUCBDisjoint(seed=1)
        for observation, x in zip(stream, dicts, strict=True):
            policy.update(observation.action, x, observation.experience)

    return {
        "Learner.learn, two models": fold,
        f"Learner.learn_all, {STEP} at once": batches,
        "Learner.learn, settled": settled,
        "Learner.learn, no drift handling": lambda: fold(adaptive=False),
        "Learner.learn, forgetting 0.999": lambda: fold(0.999),
        "BayesianLogisticRegression.learn_one (ours)": estimator,
        "BayesianLinearRegression.learn_one (River)": river_linear,
        "LinUCBDisjoint.update (River)": river_bandit,
    }


def main(smoke: bool) -> None:
    """Print observations per second and ratios."""
    count, rounds = (200, 1) if smoke else (5000, 7)
    for d in (32,) if smoke else (32, 64):
        stream = observations(count, d)
        work = folds(stream, d)
        times: dict[str, list[float]] = {name: [] for name in work}
        for function in work.values():
            function()
        for _ in range(rounds):
            for name, function in work.items():
                start = time.perf_counter()
                function()
                times[name].append((time.perf_counter() - start) / count)
        ours = median(times["Learner.learn, two models"])
        print(f"{count} observations, {ACTIONS} actions, {d} columns, one core, medians of {rounds} interleaved rounds")
        for name, values in times.items():
            per = median(values)
            print(f"  {name:<44} {1 / per:10.0f} /s {per * 1e6:8.1f} µs {per / ours:6.2f} × Learner.learn")
        learner = Learner()
        learner.register_layout(1, [f"x{i}" for i in range(d)])
        for observation in stream:
            learner.learn(observation, None)
        start = time.perf_counter()
        learner.snapshot(1, count)
        first = time.perf_counter()
        learner.learn(stream[0], None)
        again = time.perf_counter()
        learner.snapshot(2, count)
        second = time.perf_counter()
        size = len(learner.checkpoint())
        print(
            f"  snapshot {1e3 * (first - start):.1f} ms, after one observation {1e3 * (second - again):.1f} ms; "
            f"checkpoint {1e3 * (time.perf_counter() - second):.1f} ms, {size / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    main("--smoke" in sys.argv[1:])
