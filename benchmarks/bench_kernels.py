"""What one decision costs in kernels: scoring and the exact Thompson distribution.

Against NumPy (the same scores), against the slow twins of the tests, against drawing 1,000 posterior samples in NumPy,
which estimates what the kernel integrates to ±0.016 a candidate, and against what no kernel can avoid: reading the
arrays once, and one logarithm per grid point and candidate that can win, with the exponentials of prices and ends, as
plain loops compiled in the same way. One thread, its CPU time; rounds are interleaved and medians compared.

    python -m benchmarks.bench_kernels [--smoke]
"""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING

import numba
import numpy as np

from benchmarks.harness import PYTHON, Bar, Result, Size, Table, interleaved, told
from nbx.bandits import kernels
from nbx.bandits.thompson import choose_slate
from tests.reference import bandits as twins

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbx.bandits.kernels import F32, F64, I32

SAMPLES = 1000
FAST_US = 60.0
OF_LIMIT = 2.0
SCENES = (("learned", 50, 32), ("cold", 50, 32), ("learned", 200, 64), ("cold", 200, 64))
_compile = numba.njit(nogil=True, cache=True, fastmath=True)


@_compile  # type: ignore[untyped-decorator]
def added(line: F32) -> np.float32:
    """Add up an array."""
    total = np.float32(0.0)
    for k in range(len(line)):
        total += line[k]
    return total


@_compile  # type: ignore[untyped-decorator]
def traffic(mean: F32, cov_packed: F32, experience: F32, rows: I32) -> np.float32:
    """Read what scoring reads, once, and add it up: as fast as memory gives it."""
    total = np.float32(0.0)
    for row in rows:
        total += added(cov_packed[row]) + added(mean[row]) + added(experience[row])
    return total


@_compile  # type: ignore[untyped-decorator]
def transcendental(values: F64, logarithms: int, exponentials: int) -> float:
    """Take so many logarithms and exponentials of 64 values, and add them up."""
    total = 0.0
    for k in range(logarithms):
        total += math.log(values[k & 63])
    for k in range(exponentials):
        total += math.exp(-values[k & 63])
    return total


@_compile  # type: ignore[untyped-decorator]
def multiply_add(a: F32, b: F32, times: int) -> np.float32:
    """Multiply and add two short vectors again and again: what the core can do on what it holds."""
    total = np.float32(0.0)
    for _ in range(times):
        for k in range(len(a)):
            total += a[k] * b[k]
    return total


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
    twin_cov = cov
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

    field = twins.Field(out[0], out[1], gain, shift)
    live = len(kernels._contenders(out[0], out[1], gain, shift, 1.0, 0.0, np.empty((n, 4)))[0])
    grid = np.empty(4096)
    points = kernels.selection_on_grid(out[0], out[1], gain, shift, 1.0, True, grid)[1]
    some = np.linspace(0.5, 3.0, 64)
    priced = np.stack([value, one, one])
    table, worth = np.empty((8, n), np.float32), np.empty((3, n))

    def samples() -> object:
        z = out[0] + out[1] * rng.standard_normal((SAMPLES, n))
        return np.bincount(np.argmax(gain / (1 + np.exp(-z)) + shift, axis=1), minlength=n)

    def whole() -> object:
        return kernels.score_and_choose(
            x, mean, packed, experience, rows, priced, 0.1, 0.2, 1.0, 0.01, 0.5, table, worth
        )

    return {
        "score": score,
        "score, NumPy": score_numpy,
        "score, twin": lambda: twins.score(x, mean, twin_cov, experience),
        "selection": lambda: kernels.selection(out[0], out[1], gain, shift, 1.0, True),
        "selection, twin": lambda: twins.selection_on_grid(grid[:points], field, 1.0, True),
        f"{SAMPLES} samples, NumPy": samples,
        "choose_slate, 1 slot": lambda: choose_slate(
            out[0], out[1], gain, shift, scale=1.0, floor=0.01, slots=1, uniforms=uniforms
        ),
        "score, distribution and draw": whole,
        "limit: memory traffic": lambda: traffic(mean, packed, experience, rows),
        "limit: log and exp": lambda: transcendental(some, live * points, n + 8 * live + points),
    }


def measure(size: Size) -> Result:
    """Measure every scene."""
    kernels.warm_up()
    rounds, repeats = (2, 2) if size == "smoke" else (25, 30)
    tables, bars, notes = [], [], []
    for kind, n, d in SCENES[:2] if size == "smoke" else SCENES:
        found = interleaved(scene(n, d, kind), rounds, repeats, time.thread_time)
        whole = found["score, distribution and draw"]
        limit = found["limit: memory traffic"] + found["limit: log and exp"]
        rows = tuple((name, us, us / n * 1000, us / whole) for name, us in found.items())
        tables.append(Table(("", "µs", "ns a candidate", "of the whole"), rows, f"{kind}, {n} candidates, {d} columns"))
        notes.append(
            f"{kind}, {n} × {d}: score {found['score, NumPy'] / found['score']:.1f} × faster than NumPy, "
            f"selection {found[f'{SAMPLES} samples, NumPy'] / found['selection']:.1f} × faster than {SAMPLES} samples, "
            f"the whole {whole / limit:.2f} × the limits"
        )
        if (n, d) == (50, 32):
            why = (
                f"The distribution is {found['selection'] / whole:.0%}: for each grid point and candidate that can "
                f"win a logit, ln Φ from a table, and its share of the cell. Their logarithms alone, by the C library, "
                f"are {found['limit: log and exp']:.0f} µs, reading the arrays {found['limit: memory traffic']:.0f} µs."
            )
            bars += [
                Bar(f"kernels of a decision, {kind}, 50 × 32", whole, FAST_US, at_least=False, unit="µs", why=why),
                Bar(f"the same, of its limits alone, {kind}", whole / limit, OF_LIMIT, at_least=False, why=why),
            ]
    notes.append(_machine(rounds))
    return Result(
        title="Kernels",
        what=f"one thread, CPU time, medians of {rounds} rounds",
        against="NumPy, the slow twins of the tests, posterior samples, and what no kernel can avoid",
        command=f"{PYTHON} --only kernels",
        tables=tuple(tables),
        bars=tuple(bars),
        notes=tuple(notes),
        size=size,
    )


def _machine(rounds: int) -> str:
    """Say what the machine gives: bandwidth in cache and out of it, multiply-adds, logarithms."""
    near, far = (np.ones(count, np.float32) for count in (64_000, 32_000_000))
    a = np.ones(1024, np.float32)
    some = np.linspace(0.5, 3.0, 64)
    found = interleaved(
        {
            "near": lambda: added(near),
            "flops": lambda: multiply_add(a, a, 100),
            "logs": lambda: transcendental(some, 1000, 0),
            "exps": lambda: transcendental(some, 0, 1000),
        },
        min(rounds, 7),
        50,
        time.thread_time,
    )
    found |= interleaved({"far": lambda: added(far)}, min(rounds, 7), 1, time.thread_time)
    return (
        f"The machine, one thread: {near.nbytes / found['near'] / 1e3:.0f} GB/s in cache, "
        f"{far.nbytes / found['far'] / 1e3:.0f} GB/s out of it, {2 * 1024 * 100 / found['flops'] / 1e3:.0f} Gflop/s, "
        f"{found['logs']:.1f} ns a logarithm, {found['exps']:.1f} ns an exponential."
    )


def main(smoke: bool) -> None:
    """Print µs per call and ratios."""
    print(told(measure("smoke" if smoke else "full")))


if __name__ == "__main__":
    main("--smoke" in sys.argv[1:])
