"""Slow, obvious twins of `nbx.bandits`: textbook formulas with NumPy and SciPy, no sharing, no pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, log_ndtr, logit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nbx.bandits.kernels import F32, F64

POINT_SD = 1e-9


class Field(NamedTuple):
    """Candidates of one decision."""

    mean: F32
    sd: F32
    gain: F64
    shift: F64

    def take(self, rows: NDArray[np.integer] | list[int]) -> Field:
        """Return these candidates, in this order."""
        return Field(self.mean[rows], self.sd[rows], self.gain[rows], self.shift[rows])


def score(x: F32, mean: F32, cov: F64, experience: F32) -> tuple[F64, F64, F64]:
    """Compute mean·x, √(x'Σx) and experience·x with full matrices cov float64[K, d, d]."""
    wide = x.astype(np.float64)
    return mean @ wide, np.sqrt(np.einsum("kij,i,j->k", cov, wide, wide)), experience @ wide


def utility_distribution(u: F64, field: Field, scale: float) -> F64:
    """Return ln F float64[n, len(u)]: the distribution function of each candidate's utility at u."""
    u = u[None, :]
    gain, shift, mean = (np.asarray(a, np.float64)[:, None] for a in (field.gain, field.shift, field.mean))
    sd = np.maximum(field.sd.astype(np.float64) * scale, 1e-300)[:, None]
    with np.errstate(all="ignore"):
        inside = np.clip((u - shift) / gain, 0.0, 1.0)
        spread = log_ndtr((logit(inside) - mean) / sd)
        at = shift + gain * expit(mean)
    return np.where((gain > 0.0) & (sd > POINT_SD), spread, np.where(u >= at, 0.0, -np.inf))


def _points(field: Field, scale: float, with_none: bool) -> tuple[F64, float]:
    """Return where each row (and none) is a point mass, −∞ where it is not, and the best of them."""
    still = (field.gain <= 0.0) | (field.sd.astype(np.float64) * scale <= POINT_SD)
    at = np.append(np.where(still, field.shift + field.gain * expit(field.mean.astype(np.float64)), -np.inf), -np.inf)
    if with_none:
        at[-1] = 0.0
    return at, float(at.max())


def selection_on_grid(grid: F64, field: Field, scale: float, with_none: bool) -> F64:
    """Integrate H d(ln F) on given points, H log-linear in between and 1 at the last: the kernel's, unpruned."""
    at, point = _points(field, scale, with_none)
    prob = np.zeros(len(field.mean) + 1)
    below = 1.0
    if len(grid):
        ln_f = utility_distribution(np.sort(grid), field, scale)
        ln_f = np.where(at[:-1, None] > -np.inf, 0.0, np.maximum(ln_f, -60.0))
        ln_f[:, -1] = 0.0
        ln_h = ln_f.sum(axis=0)
        h = np.exp(ln_h)
        rise = np.diff(ln_h)
        weight = np.where(rise > 1e-9, np.diff(h) / np.maximum(rise, 1e-9), h[1:])
        prob[:-1] = (np.diff(ln_f, axis=1) * weight).sum(axis=1)
        below = h[0]
    if point > -np.inf:
        starts = len(grid) == 0 or np.min(grid) <= point + 1e-9 * (1.0 + abs(point))
        winners = at == point
        prob[winners] = below / winners.sum() if starts else 0.0
    prob /= prob.sum()
    return prob


def selection_dense(field: Field, scale: float, with_none: bool, points: int = 601) -> F64:
    """Integrate ∏ F_j dF_i by trapezoids on the quantiles of every candidate together."""
    at, point = _points(field, scale, with_none)
    z = np.linspace(-7.0, 7.0, points)
    places = [
        field.shift[i] + field.gain[i] * expit(float(field.mean[i]) + scale * float(field.sd[i]) * z)
        for i in np.flatnonzero(at[:-1] == -np.inf)
    ]
    prob = np.zeros(len(field.mean) + 1)
    below = 1.0
    grid = np.unique(np.concatenate([*places, [point]] if point > -np.inf else [*places, []]))
    grid = grid[grid >= point]
    if places and len(grid):
        f = np.exp(utility_distribution(grid, field, scale))
        f[:, -1] = 1.0
        for i in np.flatnonzero(at[:-1] == -np.inf):
            others = np.prod(np.delete(f, i, axis=0), axis=0)
            prob[i] = ((others[1:] + others[:-1]) / 2 * np.diff(f[i])).sum()
        below = float(np.prod(f[:, 0]))
    if point > -np.inf:
        prob[at == point] = below / (at == point).sum()
    prob /= prob.sum()
    return prob


def selection_sampled(field: Field, scale: float, with_none: bool, draws: int, seed: int) -> F64:
    """Draw from the posterior and count who is best; equal utilities share."""
    rng = np.random.default_rng(seed)
    n = len(field.mean)
    count = np.zeros(n + 1)
    left = draws
    while left > 0:
        size = min(20_000, left)
        left -= size
        z = field.mean.astype(np.float64) + scale * field.sd.astype(np.float64) * rng.standard_normal((size, n))
        u = np.full((size, n + 1), 0.0 if with_none else -np.inf)
        u[:, :n] = field.gain * expit(z) + field.shift
        best = u == u.max(axis=1, keepdims=True)
        count += (best / best.sum(axis=1, keepdims=True)).sum(axis=0)
    return count / draws


def fields(n: int, rng: np.random.Generator) -> Iterator[tuple[str, Field]]:
    """Yield one random configuration of each kind, nasty ones included."""

    def field(mean: F64, sd: F64, gain: F64, shift: F64) -> Field:
        return Field(mean.astype(np.float32), sd.astype(np.float32), gain, shift)

    zero, one = np.zeros(n), np.ones(n)
    yield "learned", field(rng.normal(-2, 1, n), rng.uniform(0.1, 1, n), rng.uniform(1, 10, n), rng.normal(0, 0.3, n))
    yield "identical", field(one - 2, one / 2, one, zero)
    yield "cold", field(rng.normal(0, 0.1, n), rng.uniform(4, 6, n), one, zero)
    yield (
        "cold, unequal",
        field(rng.normal(0, 0.1, n), rng.uniform(2, 6, n), rng.uniform(1, 3, n), rng.normal(0, 0.3, n)),
    )
    yield (
        "sd over six decades",
        field(rng.normal(-1, 1, n), 10 ** rng.uniform(-5, 1, n), 10 ** rng.uniform(-1, 1, n), zero),
    )
    yield "narrow and close", field(rng.normal(-1, 0.01, n), 10 ** rng.uniform(-5, -1, n), one, rng.normal(0, 0.001, n))
    yield (
        "gain over seven decades",
        field(rng.normal(-1, 1, n), rng.uniform(0.1, 2, n), 10 ** rng.uniform(-3, 4, n), rng.normal(0, 5, n)),
    )
    sd, gain = rng.uniform(0, 2, n), rng.uniform(0, 2, n)
    sd[rng.random(n) < 0.2] = 0.0
    gain[rng.random(n) < 0.3] = 0.0
    yield "point masses", field(rng.normal(0, 1, n), sd, gain, rng.normal(0, 0.3, n))
    yield (
        "around none",
        field(rng.normal(-3, 1, n), rng.uniform(0.1, 1, n), rng.uniform(0.5, 1, n), rng.normal(-0.3, 0.2, n)),
    )
    yield "one narrow among wide", field(np.r_[0.0, rng.normal(0, 3, n - 1)], np.r_[1e-6, one[1:]], one, zero)
    yield (
        "narrow ladder in a wide one",
        field(np.r_[0.0, np.linspace(-0.05, 0.05, n - 1)], np.r_[2.0, np.full(n - 1, 0.02)], one, zero),
    )
    yield "huge sd, ceilings apart", field(rng.normal(0, 1, n), rng.uniform(8, 12, n), rng.uniform(0.5, 2, n), zero)


def logistic_site(m: float, q: float, y: float, weight: float) -> tuple[float, float]:
    """Find the mode of N(z; m, q)·Bernoulli(y; σ(z))^weight by bracketing and read the site off."""
    reach = weight * q + 1e-9
    z = brentq(lambda z: (m - z) + q * weight * (y - expit(z)), m - reach, m + reach, xtol=1e-14, rtol=1e-15)
    p = expit(z)
    tau = weight * p * (1 - p)
    return tau, tau * z + weight * (y - p)


class Dense:
    """A posterior by definition: all sites kept, everything inverted on every call."""

    def __init__(self, d: int, prior_precision: float, forgetting: float) -> None:
        self.ridge = np.eye(d) * prior_precision
        self.forgetting = forgetting
        self.sites: list[tuple[F64, float, float]] = []

    def sums(self) -> tuple[F64, F64]:
        """Return Λ and η."""
        precision, eta = self.ridge.copy(), np.zeros(len(self.ridge))
        for age, (x, tau, nu) in enumerate(reversed(self.sites)):
            precision += self.forgetting**age * tau * np.outer(x, x)
            eta += self.forgetting**age * nu * x
        return precision, eta

    def moments(self) -> tuple[F64, F64]:
        """Return mean and covariance."""
        precision, eta = self.sums()
        cov: F64 = np.linalg.inv(precision).astype(np.float64)
        return cov @ eta, cov
