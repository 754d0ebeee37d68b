"""What one decision costs in kernels: scoring and the exact Thompson distribution.

Against NumPy (the same scores) and against drawing 1,000 posterior samples in NumPy, which estimates what the kernel
integrates to ±0.016 a candidate. One thread; rounds are interleaved and medians compared.

    python benchmarks/bench_kernels.py [--smoke]
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from nbx.bandits import kernels
from nbx.bandits.thompson import choose_slate

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLES = 1000


def interleaved(work: dict[str, Callable[[], object]], rounds: int, repeats: int) -> dict[str, float]:
    """Return the median over rounds of each function's time in µs; every round runs every function."""
    for function in work.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, function in work.items():
            start = time.perf_counter()
            for _ in range(repeats):
                function()
            times[name].append((time.perf_counter() - start) / repeats * 1e6)
    return {name: median(values) for name, values in times.items()}


def scene(n: int, d: int, kind: str) -> dict[str, Callable[[], object]]:
    """Return the functions to compare for n candidates and d columns: `learned` models or all `cold`."""
    rng = np.random.default_rng(1)
    x = np.r_[1.0, rng.normal(size=d - 1)].astype(np.float32)
    mean, experience = (rng.normal(0, 0.3, (n, d)).astype(np.float32) for _ in range(2))
    root = rng.normal(0, 1 / np.sqrt(d), (n, d, d)) * 0.3
    cov = root @ root.transpose(0, 2, 1)
    if kind == "cold":
        mean[:] = 0.0
        cov[:] = np.eye(d) / 8
    cov = cov.astype(np.float32)
    packed = np.ascontiguousarray(cov[:, *np.triu_indices(d)])
    rows = np.arange(n, dtype=np.int32)
    out = [np.empty(n, np.float32) for _ in range(3)]
    value, one = rng.uniform(1, 10, n).astype(np.float32), np.ones(n, np.float32)
    if kind == "cold":
        value[:] = 1.0

    def score() -> None:
        kernels.score(x, mean, packed, experience, rows, *out)

    score()
    gain, shift = kernels.utility_factors(value, one, one, out[2], 0.1, 0.2)
    uniforms = np.array([0.5])

    def score_numpy() -> object:
        return mean @ x, np.sqrt(np.einsum("kij,i,j->k", cov, x, x)), experience @ x

    def samples() -> object:
        z = out[0] + out[1] * rng.standard_normal((SAMPLES, n))
        return np.bincount(np.argmax(gain / (1 + np.exp(-z)) + shift, axis=1), minlength=n)

    def whole() -> object:
        score()
        kernels.utility_factors(value, one, one, out[2], 0.1, 0.2)
        return kernels.selection(out[0], out[1], gain, shift, 1.0, True)

    return {
        "score": score,
        "score, NumPy": score_numpy,
        "selection": lambda: kernels.selection(out[0], out[1], gain, shift, 1.0, True),
        f"{SAMPLES} samples, NumPy": samples,
        "score + factors + selection": whole,
        "choose_slate, 1 slot": lambda: choose_slate(
            out[0], out[1], gain, shift, scale=1.0, floor=0.01, slots=1, uniforms=uniforms
        ),
    }


def main(smoke: bool) -> None:
    """Print µs per call and ratios."""
    kernels.warm_up()
    rounds, repeats = (2, 2) if smoke else (25, 40)
    for kind, n, d in [("learned", 50, 32), ("cold", 50, 32), ("learned", 200, 64), ("cold", 200, 64)]:
        result = interleaved(scene(n, d, kind), rounds, repeats)
        print(f"{kind}, {n} candidates, {d} columns, one thread, medians of {rounds} interleaved rounds")
        for name, us in result.items():
            print(f"  {name:<30} {us:9.1f} µs")
        print(f"  score: {result['score, NumPy'] / result['score']:.1f} × faster than NumPy")
        sampled = result[f"{SAMPLES} samples, NumPy"]
        print(f"  selection: {sampled / result['selection']:.1f} × faster than {SAMPLES} samples")


if __name__ == "__main__":
    main("--smoke" in sys.argv[1:])
