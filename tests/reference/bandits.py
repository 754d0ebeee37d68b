"""Slow, obvious twins of `nbx.bandits`: textbook formulas with NumPy and SciPy, no sharing, no pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, log_ndtr, logit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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


def recentred(precision: F64, eta: F64, centre: F64) -> tuple[F64, F64]:
    """Change basis: (1, x − c) = T (1, x), so Λ becomes TΛT' and η becomes Tη."""
    basis = np.eye(len(eta))
    basis[1:, 0] = -centre[1:]
    return basis @ precision @ basis.T, basis @ eta


def hierarchy(members: Sequence[tuple[F64, F64]], deviation: F64, width: F64) -> tuple[F64, F64]:
    """Invert the joint Gaussian of (μ, w_1, …, w_K) given sites (Λ_a, η_a): mean and covariance, all stacked.

    μ ~ N(0, diag(width)) and w_a ~ N(μ, diag(deviation)).
    """
    d, count = len(deviation), len(members) + 1
    apart = np.diag(1.0 / deviation)
    precision, eta = np.zeros((count * d, count * d)), np.zeros(count * d)
    precision[:d, :d] = np.diag(1.0 / width) + len(members) * apart
    for k, (sites, sites_mean) in enumerate(members, start=1):
        at = slice(k * d, (k + 1) * d)
        precision[at, at] = apart + sites
        precision[:d, at] = precision[at, :d] = -apart
        eta[at] = sites_mean
    cov: F64 = np.linalg.inv(precision).astype(np.float64)
    return cov @ eta, cov


def hierarchy_of(
    members: Sequence[tuple[F64, F64]], of: int, deviation: F64, width: F64, *, own: bool
) -> tuple[F64, F64]:
    """Mean and covariance of one member's weights, with or without its own sites; of = K: one never seen."""
    d = len(deviation)
    nothing = np.zeros((d, d)), np.zeros(d)
    given = [*members, nothing]
    if not own:
        given[of] = nothing
    mean, cov = hierarchy(given, deviation, width)
    at = slice((of + 1) * d, (of + 2) * d)
    return mean[at], cov[at, at]


def log_evidence(members: Sequence[tuple[F64, F64]], deviation: F64, width: F64) -> float:
    """Integrate exp(−½w'Λw + η'w) over the joint prior of all weights, w ~ N(0, 11'⊗A + I⊗D); nats."""
    d, count = len(deviation), len(members)
    prior = np.kron(np.ones((count, count)), np.diag(width)) + np.kron(np.eye(count), np.diag(deviation))
    sites, eta = np.zeros((count * d, count * d)), np.zeros(count * d)
    for k, (precision, sites_mean) in enumerate(members):
        at = slice(k * d, (k + 1) * d)
        sites[at, at] = precision
        eta[at] = sites_mean
    log_determinant = np.linalg.slogdet(np.eye(count * d) + prior @ sites)[1]
    return float(0.5 * (eta @ np.linalg.solve(np.linalg.inv(prior) + sites, eta) - log_determinant))


class Offset:
    """An offset of the log-odds that keeps every site and forgets by definition."""

    def __init__(self, keep: float, prior: float, memory: float) -> None:
        self.keep, self.prior, self.memory = keep, prior, memory
        self.sites: list[tuple[float, float]] = []
        self.gains: list[float] = []

    def at(self, age: int) -> tuple[float, float]:
        """Return offset and precision beyond the prior, `age` answers after the last one learned."""
        left = self.keep ** np.arange(len(self.sites) - 1 + age, age - 1, -1.0)
        tau, nu = (left @ np.array(self.sites).reshape(-1, 2)).tolist() if self.sites else (0.0, 0.0)
        return nu / (tau + self.prior), tau

    def predict(self, logit: float) -> float:
        """Return the probability of a yes."""
        return float(expit(logit + self.at(0)[0]))

    def learn(self, logit: float, y: float, other: float) -> float:
        """Score against another's prediction and learn one answer; return the score."""
        p, faded = self.predict(logit), self.at(1)[0]
        self.gains.append(float(np.log(p if y else 1.0 - p) - np.log(other if y else 1.0 - other)))
        tau = p * (1.0 - p)
        self.sites.append((tau, tau * faded + y - p))
        return float(np.array(self.gains) @ self.memory ** np.arange(len(self.gains) - 1.0, -1.0, -1.0))


def information(field: Field, scale: float, draws: int, seed: int) -> tuple[float, float]:
    """Sample worlds from the posterior: regret of Thompson's choice and variance that the best action explains."""
    rng = np.random.default_rng(seed)
    mean, sd = field.mean.astype(np.float64), field.sd.astype(np.float64)
    worlds = expit(mean + sd * rng.standard_normal((draws, len(mean))))
    chosen = (mean + scale * sd * rng.standard_normal((draws, len(mean)))).argmax(axis=1)
    share = np.bincount(chosen, minlength=len(mean)) / draws
    best = worlds.argmax(axis=1)
    explained = np.zeros(len(mean))
    for winner in range(len(mean)):
        among = worlds[best == winner]
        if len(among):
            explained += len(among) / draws * (among.mean(axis=0) - worlds.mean(axis=0)) ** 2
    return float(worlds.max(axis=1).mean() - share @ worlds.mean(axis=0)), float(share @ explained)
