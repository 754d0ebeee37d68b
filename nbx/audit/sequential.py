"""Differences between two arms of customers with intervals that hold at every look: confidence sequences.

An ordinary 95 % interval is wrong once in twenty looks; who looks every day and stops at the first that excludes 0 is
wrong far more often. A *confidence sequence* is wrong, at any time ever, with a chance of 5 % in all, so looking costs
nothing. This one is asymptotic: the Gaussian mixture of Robbins around a mean, with the variance estimated,

    ± σ̂ √( (tρ² + 1) / (t²ρ²) · ln( (tρ² + 1) / α² ) )

for t customers, from Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic
confidence sequences" (Annals of Statistics 2024; arXiv 2103.06476), theorem 2.2. ρ makes the width least at `TUNED`
customers. It holds as well for what is asymptotically a mean of t customers, which a difference of two ratios of sums
is: with y and denominators d (1: a mean per customer), r = Σy / Σd and s² = Σ (y − r d)² / (n − 1) / d̄² in each arm
of n customers, σ̂² = t (s₁² / n₁ + s₂² / n₂). Arms may be as unequal as they like.

Asymptotic is not exact: a variance needs to have been seen. Two things guard it, both found necessary by simulation
(`tests/statistical/test_roi.py`). No interval is told before the smaller arm has enough customers for how skewed and
heavy-tailed all together are (`SKEWED`, `TAILED`): of an acceptance by one customer in a hundred, ten are to be
expected in it. And each arm's variance counts one more customer that carries variance than it has, which matters where
an arm has met none. Both vanish as customers come.

The order of customers must be that in which they came, and what is told of one must never change: see
`nbx.audit.roi_tally`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nbx.audit.intervals import Z95

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

ALPHA = 0.05
TUNED = 10_000.0
"""Customers at which the sequence is narrowest next to an ordinary interval: fixed, never by what is seen."""
SKEWED, TAILED = 10.0, 2.0
"""Customers of the smaller arm that an interval takes, per squared skewness and per kurtosis of all: what a normal
approximation is off by goes with skewness / √n, then with kurtosis / n."""
LEAST = 30
"""Customers of an arm below which no interval is told, whatever they did."""
_DEGREES = (0, 1, 2, 3, 4)
_POWERS = tuple([(degree - k, k) for degree in _DEGREES for k in range(degree + 1)])
"""Exponents of y and d of the sums kept: enough for every moment around any ratio, up to the fourth."""


class Path(NamedTuple):
    """Lift at some times; float64 arrays of the shape of the sums, NaN where there is nothing to tell."""

    first: F64
    """Ratio of the first arm."""
    second: F64
    lift: F64
    """First less second."""
    always: F64
    """Half the width of the confidence sequence."""
    once: F64
    """Half the width of the ordinary interval."""


class Lift(Struct, frozen=True, kw_only=True):
    """Difference of two arms in one metric, as far as it can be told."""

    first: float | None
    """Of nbx; None without customers."""
    second: float | None
    """Of the holdout."""
    lift: float | None
    """First less second."""
    low: float | None
    """Confidence sequence, 95 % over all looks; None while too little is known."""
    high: float | None
    once_low: float | None
    """Ordinary 95 % interval: only valid when looked at once, at a time fixed beforehand."""
    once_high: float | None
    more: int | None
    """Customers of the two arms that it takes from here until the sequence excludes 0, roughly: should the lift and its
    spread stay what they are. 0: it does; None: there is no saying."""

    @property
    def told(self) -> str:
        """`up`, `down` or, while 0 is not excluded, `open`."""
        if self.low is None or self.high is None:
            return "open"
        return "up" if self.low > 0.0 else "down" if self.high < 0.0 else "open"


def rho_squared(alpha: float = ALPHA, tuned: float = TUNED) -> float:
    """Return the ρ² that makes the sequence narrowest at `tuned` customers: −W₋₁(−α²/e) − 1 over `tuned`.

    Examples
    --------
    >>> round(rho_squared() * TUNED, 3)
    8.212
    """
    from scipy.special import lambertw  # heavy: not where decisions are served, until somebody asks

    return float(-lambertw(-(alpha**2) / math.e, -1).real - 1.0) / tuned


def boundary(t: F64 | float, alpha: float = ALPHA, tuned: float = TUNED) -> F64:
    """Return half the width of the sequence for a mean of t customers of variance 1.

    Examples
    --------
    >>> round(float(boundary(10_000.0) * 100.0), 2), round(Z95, 2)
    (3.04, 1.96)
    """
    spread = t * rho_squared(alpha, tuned)
    half: F64 = np.sqrt((spread + 1.0) / (t * spread) * np.log((spread + 1.0) / alpha**2))
    return half


def powers(y: F64, d: F64) -> F64:
    """Return what the sums of an arm are made of, float64[15, n], of float64[n] values and denominators."""
    over = np.cumprod([np.ones_like(y), y, y, y, y], axis=0)
    under = np.cumprod([np.ones_like(d), d, d, d, d], axis=0)
    return np.stack([over[j] * under[k] for j, k in _POWERS])


def path(first: F64, second: F64) -> Path:
    """Tell the lift from sums of `powers` over each arm.

    Parameters
    ----------
    first, second
        float64[15, ...]: at one time or, as cumulated sums, at many.
    """
    with np.errstate(all="ignore"):  # an arm without customers tells NaN
        ratio = [each[1] / each[2] for each in (first, second)]
        both = first + second
        pooled = both[1] / both[2]
        around, third, fourth = (_moment(both, pooled, degree) for degree in (2, 3, 4))
        typical = fourth / around
        """Square of what one that carries variance adds."""
        count = [first[0], second[0]]
        spread = np.zeros_like(pooled)
        for arm, each, n in zip((first, second), ratio, count, strict=True):
            denominator = arm[2] / n
            spread = spread + (_moment(arm, each, 2) + typical) / (n - 1.0) / n / denominator**2
        total, less = count[0] + count[1], np.minimum(count[0], count[1])
        takes = np.maximum(SKEWED * total * third**2 / around**3, TAILED * total * fourth / around**2)
        known = (less >= np.maximum(takes, LEAST)) & (spread > 0.0)
        known &= around > 1e-12 * (np.abs(both[3]) + pooled**2 * both[5])
        always = np.where(known, np.sqrt(total * spread) * boundary(total), np.nan)
        return Path(ratio[0], ratio[1], ratio[0] - ratio[1], always, np.where(known, np.sqrt(spread) * Z95, np.nan))


def _moment(sums: F64, ratio: F64, degree: int) -> F64:
    """Σ (y − ratio d)^degree; even ones are never below 0."""
    first = degree * (degree + 1) // 2
    terms = [math.comb(degree, k) * (-ratio) ** k * sums[first + k] for k in range(degree + 1)]
    found: F64 = np.sum(terms, axis=0)
    return found if degree % 2 else np.maximum(found, 0.0)


def running(y: F64, d: F64, first: Mask, second: Mask) -> Path:
    """Tell the lift after each customer: what everybody would have seen who looked every time.

    Parameters
    ----------
    y, d
        float64[n], value and denominator of each customer in the order of coming.
    first, second
        bool[n], who is in which arm; in neither: passed over.
    """
    y, centre = _centred(y, d, first | second)
    each = powers(y, d)
    found = path(np.cumsum(each * first, axis=1), np.cumsum(each * second, axis=1))
    return found._replace(first=found.first + centre, second=found.second + centre)


def lift(y: F64, d: F64, first: Mask, second: Mask) -> Lift:
    """Tell the lift as of the last customer; arguments as of `running`.

    Examples
    --------
    >>> arm = np.arange(4_000) % 4 > 0
    >>> told = lift(np.where(arm, np.arange(4_000) % 3 == 0, 0.0), np.ones(4_000), arm, ~arm)
    >>> round(told.lift, 3), told.told, told.more
    (0.333, 'up', 0)
    """
    one, other = _ratio(y, d, first), _ratio(y, d, second)
    y, _ = _centred(y, d, first | second)
    each = powers(y, d)
    found = path(each @ first.astype(np.float64), each @ second.astype(np.float64))
    apart, always, once = _number(found.lift), _number(found.always), _number(found.once)
    if apart is None or always is None or once is None:
        nothing = dict.fromkeys(("low", "high", "once_low", "once_high"))
        return Lift(first=one, second=other, lift=apart, more=None, **nothing)
    return Lift(
        first=one,
        second=other,
        lift=apart,
        low=apart - always,
        high=apart + always,
        once_low=apart - once,
        once_high=apart + once,
        more=needed(apart, always, float((first | second).sum())),
    )


def _centred(y: F64, d: F64, counted: Mask) -> tuple[F64, float]:
    """Take the common ratio out, so that fourth moments keep their digits; lifts are the same."""
    centre = _ratio(y, d, counted) or 0.0
    left = y - centre * d
    rounding = np.abs(left) <= 1e-12 * (np.abs(y) + np.abs(centre * d))  # of customers who are all alike: no variance
    return np.where(rounding, 0.0, left), centre


def _ratio(y: F64, d: F64, of: Mask) -> float | None:
    under = float(d[of].sum())
    return float(y[of].sum()) / under if under else None


def _number(value: F64) -> float | None:
    return float(value) if np.isfinite(value) else None


def needed(apart: float, always: float, t: float) -> int | None:
    """Return how many customers more it takes until a sequence of `t` excludes 0; None: more than 100 times as many.

    Examples
    --------
    >>> needed(1.0, 0.9, 1_000.0), needed(1.0, 2.0, 10_000.0), needed(0.0, 1.0, 10_000.0)
    (0, 33000, None)
    """
    if abs(apart) > always:
        return 0
    spread = always / float(boundary(t))
    low, high = t, 100.0 * t
    if spread * float(boundary(high)) >= abs(apart):
        return None
    while high - low > 1.0:
        middle = (low + high) / 2.0
        enough = spread * float(boundary(middle)) < abs(apart)
        low, high = (low, middle) if enough else (middle, high)
    more = math.ceil(high - t)
    digits = int(10 ** max(len(str(more)) - 2, 0))
    return math.ceil(more / digits) * digits


def against_shares(counts: NDArray[np.int64], shares: F64) -> float:
    """Return evidence that customers are not in arms by their shares: an e-value, 1 on average at any look if they are.

    It is the likelihood under shares unknown around the declared ones (Dirichlet, worth 1,000 customers) by that
    under the declared. Above 1,000 something besides the hash decides who is counted: by Ville's inequality chance
    alone does that once in 1,000 installations, over all looks. After Lindon and Malek, "Anytime-valid inference for
    multinomial count data" (2022).

    Parameters
    ----------
    counts
        int64[k], customers of each arm.
    shares
        float64[k], > 0, adding up to 1.

    Examples
    --------
    >>> shares = np.array([0.9, 0.05, 0.05])
    >>> fair, skewed = np.array([9_030, 480, 490]), np.array([9_300, 350, 350])
    >>> against_shares(fair, shares) < 1.0 < 1e6 < against_shares(skewed, shares)
    True
    """
    prior, n = 1_000.0 * shares, float(counts.sum())
    from scipy.special import gammaln  # heavy: not where decisions are served, until somebody asks

    log = gammaln(prior.sum()) - gammaln(prior.sum() + n) + float((gammaln(prior + counts) - gammaln(prior)).sum())
    return math.exp(min(float(log - (counts * np.log(shares)).sum()), 700.0))
