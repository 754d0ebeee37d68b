"""Shares and means of outcomes of which one customer may have many: intervals that do not take these for independent.

The variance of a mean is that of sums per customer (Liang and Zeger, "Longitudinal data analysis using generalized
linear models", 1986), times G/(G − 1) for G customers, with Student's quantile at G − 1 degrees of freedom. A share has
Wilson's interval on its effective number of observations: as many as independent ones would have to be for the same
variance, never more than there are. Where all outcomes are the same nothing can be seen of how alike a customer's are,
and customers are counted.
"""

from __future__ import annotations

import math

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nbx.audit.intervals import wilson

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Portion(Struct, frozen=True, kw_only=True):
    """A share with its 95 % interval; None where it is a share of nothing."""

    count: int
    """That it is about."""
    of: int
    share: float | None
    low: float | None
    high: float | None
    effective: float = 0.0
    """Independent observations that would tell as much as these `of`."""


class Mean(Struct, frozen=True, kw_only=True):
    """A mean with its 95 % interval, which takes two customers at least."""

    count: int
    mean: float | None
    low: float | None
    high: float | None


class Change(Struct, frozen=True, kw_only=True):
    """From before to after, with the 95 % interval of the difference."""

    before: float
    after: float
    change: float
    low: float | None
    high: float | None

    @property
    def up(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low is not None and self.low > 0.0

    @property
    def down(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.high is not None and self.high < 0.0


def effective(y: F64, who: I64) -> float:
    """Return how many independent observations tell as much about a share as these.

    Parameters
    ----------
    y
        float64[n], 0 or 1.
    who
        int64[n], number of the customer, ≥ 0.

    Examples
    --------
    >>> y = np.array([1.0, 1.0, 0.0, 0.0])
    >>> effective(y, np.arange(4)), round(effective(y, np.array([0, 0, 1, 1])), 3)
    (4.0, 1.333)
    """
    n = len(y)
    if n < 2:
        return float(n)
    p = float(y.mean())
    customers = int(np.count_nonzero(np.bincount(who)))
    if p in (0.0, 1.0) or customers < 2:
        return float(customers)
    squares = float(np.square(np.bincount(who, weights=y - p)).sum())
    among = squares * customers / (customers - 1) / (n * n)
    return float(min(n, n * (p * (1.0 - p) / (n - 1)) / among)) if among > 0.0 else float(n)


def portion(hit: Mask, who: I64) -> Portion:
    """Return a share with its interval; arguments as of `effective`, `hit` as booleans."""
    if not len(hit):
        return Portion(count=0, of=0, share=None, low=None, high=None)
    y = hit.astype(np.float64)
    share, alone = float(y.mean()), effective(y, who)
    low, high = wilson(share, alone)
    return Portion(count=int(hit.sum()), of=len(hit), share=share, low=low, high=high, effective=alone)


def between(before: Portion, after: Portion) -> Change | None:
    """Return the difference of two shares with Newcombe's interval (his method 10); None when one is of nothing.

    References
    ----------
    Newcombe, Interval estimation for the difference between independent proportions (1998).

    Examples
    --------
    >>> told = between(portion(np.arange(80) < 48, np.arange(80)), portion(np.arange(70) < 56, np.arange(70)))
    >>> round(told.change, 4), round(told.low, 4), round(told.high, 4)
    (0.2, 0.0524, 0.3339)
    """
    p, q = before.share, after.share
    if p is None or q is None or before.low is None or before.high is None or after.low is None or after.high is None:
        return None
    low = q - p - math.hypot(q - after.low, before.high - p)
    high = q - p + math.hypot(after.high - q, p - before.low)
    return Change(before=p, after=q, change=q - p, low=low, high=high)


def mean(y: F64, who: I64) -> Mean:
    """Return a mean with its interval; arguments as of `effective`, `y` of any size.

    Examples
    --------
    >>> mean(np.array([1.0, 3.0]), np.array([0, 0])).low is None
    True
    """
    if not len(y):
        return Mean(count=0, mean=None, low=None, high=None)
    middle = float(y.mean())
    half = half_width((y - middle) / len(y), who)
    return Mean(
        count=len(y),
        mean=middle,
        low=None if half is None else middle - half,
        high=None if half is None else middle + half,
    )


def change_of_means(y: F64, second: Mask, who: I64) -> Change | None:
    """Return mean of the second less mean of the others, a customer's own outcomes in both set off; None: one empty."""
    n_after = int(second.sum())
    n_before = len(y) - n_after
    if not n_after or not n_before:
        return None
    before, after = float(y[~second].mean()), float(y[second].mean())
    influence = np.where(second, (y - after) / n_after, -(y - before) / n_before)
    half = half_width(influence, who)
    apart = after - before
    return Change(
        before=before,
        after=after,
        change=apart,
        low=None if half is None else apart - half,
        high=None if half is None else apart + half,
    )


def half_width(influence: F64, who: I64) -> float | None:
    """Half a 95 % interval of an estimate that each observation moves by its `influence`; None: of one customer."""
    customers = np.count_nonzero(np.bincount(who))
    if customers < 2:
        return None
    squares = float(np.square(np.bincount(who, weights=influence)).sum())
    from scipy.special import stdtrit  # heavy: not where decisions are served, until somebody asks

    return float(stdtrit(customers - 1, 0.975)) * math.sqrt(squares * customers / (customers - 1))
