"""Intervals that more than one report puts around a share."""

from __future__ import annotations

import math

Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


def wilson(rate: float, count: float) -> tuple[float, float]:
    """Return the 95 % score interval of a share.

    Parameters
    ----------
    rate
        0..1, as observed.
    count
        > 0, observations behind it; of weighted ones the effective number.

    References
    ----------
    Wilson, Probable inference, the law of succession, and statistical inference (1927).

    Examples
    --------
    >>> low, high = wilson(0.5, 100)
    >>> round(low, 4), round(high, 4), wilson(0.0, 5)[0]
    (0.4038, 0.5962, 0.0)
    """
    spread = Z95**2 / count
    centre = (rate + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(rate * (1 - rate) / count + spread / (4 * count))
    return (0.0 if rate <= 0.0 else max(centre - half, 0.0)), (1.0 if rate >= 1.0 else min(centre + half, 1.0))
