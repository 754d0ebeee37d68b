"""River's `BayesianLinearRegression` against ours: the same posterior, learned by dict and by vector.

Without forgetting both keep rank-one updates. With it River's `smoothing` solves for the mean at every update (and
inverts when it predicts); ours decays the natural parameters and refreshes once 2 % was forgotten. One core, rounds
interleaved, medians; `learn_vector` is what the service calls.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.bench_river [--smoke]
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from river import linear_model

from nbx.bandits.estimators import BayesianLinearRegression

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbx.bandits.kernels import F64

KEEP = 0.999


def rows(count: int, d: int) -> tuple[F64, list[dict[str, float]], list[float]]:
    """Return seeded rows, the same as dicts, and targets."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(count, d))
    names = [f"x{k}" for k in range(d)]
    y = x @ rng.normal(size=d) + rng.normal(size=count)
    return x, [dict(zip(names, row, strict=True)) for row in x.tolist()], y.tolist()


def folds(count: int, d: int) -> dict[str, Callable[[], object]]:
    """Return what is compared, each learning all rows from the beginning."""
    x, dicts, y = rows(count, d)

    def ours(forgetting: float) -> BayesianLinearRegression:
        model = BayesianLinearRegression(forgetting=forgetting)
        for row, target in zip(dicts, y, strict=True):
            model.learn_one(row, target)
        return model

    def vectors(forgetting: float) -> BayesianLinearRegression:
        model = BayesianLinearRegression(forgetting=forgetting)
        for row, target in zip(x, y, strict=True):
            model.learn_vector(row, target)
        return model

    def rivers(smoothing: float | None) -> linear_model.BayesianLinearRegression:
        model = linear_model.BayesianLinearRegression(smoothing=smoothing)
        for row, target in zip(dicts, y, strict=True):
            model.learn_one(row, target)
        return model

    return {
        "River, learn_one": lambda: rivers(None),
        "ours, learn_one": lambda: ours(1.0),
        "ours, learn_vector": lambda: vectors(1.0),
        f"River, smoothing {KEEP}, learn_one": lambda: rivers(KEEP),
        f"ours, forgetting {KEEP}, learn_one": lambda: ours(KEEP),
        f"ours, forgetting {KEEP}, learn_vector": lambda: vectors(KEEP),
    }


def apart(d: int, count: int = 500) -> float:
    """Learn the same rows and return the largest difference in mean or spread of a prediction."""
    _, dicts, y = rows(count, d)
    ours, theirs = BayesianLinearRegression(), linear_model.BayesianLinearRegression()
    most = 0.0
    for k, (row, target) in enumerate(zip(dicts, y, strict=True)):
        if k % 25 == 0:
            mine, other = ours.predict_one(row, with_dist=True), theirs.predict_one(row, with_dist=True)
            most = max(most, abs(mine.mu - other.mu), abs(mine.sigma - other.sigma))
        ours.learn_one(row, target)
        theirs.learn_one(row, target)
    return most


def main(smoke: bool) -> None:
    """Print µs per observation and ratios to River's."""
    rounds = 1 if smoke else 5
    for d, count in ((16, 100),) if smoke else ((16, 2000), (64, 1000), (128, 500)):
        work = folds(count, d)
        times: dict[str, list[float]] = {name: [] for name in work}
        for function in work.values():
            function()
        for _ in range(rounds):
            for name, function in work.items():
                start = time.perf_counter()
                function()
                times[name].append((time.perf_counter() - start) / count)
        print(f"{count} observations, {d} columns, one core, medians of {rounds} interleaved rounds")
        print(f"  predictions without forgetting differ by at most {apart(d):.1e}")
        for name, values in times.items():
            theirs = next(
                river for river in times if river.startswith("River") and (str(KEEP) in river) == (str(KEEP) in name)
            )
            per, ratio = median(values), median(times[theirs]) / median(values)
            print(f"  {name:<38} {per * 1e6:9.1f} µs {1 / per:9.0f} /s {ratio:7.1f} x")


if __name__ == "__main__":
    main("--smoke" in sys.argv[1:])
