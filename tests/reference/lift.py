"""Lift of one arm over another as `nbx.audit.sequential` tells it, customer by customer and in plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

Customer = tuple[float, float, int]
"""Value, denominator, arm: 0, 1 or none of the two."""


def slow_lift(customers: Sequence[Customer], rho_squared: float) -> tuple[float, float, float, float, float] | None:
    """Return ratio of both arms, lift, half a sequence and half an interval; None while these are not told."""
    arms = [[(y, d) for y, d, arm in customers if arm == number] for number in (0, 1)]
    if min(len(arm) for arm in arms) < 30:
        return None
    both = [*arms[0], *arms[1]]
    pooled = _ratio(both)
    apart = [(y - pooled * d) ** 2 for y, d in both]
    if all(abs(y - pooled * d) <= 1e-12 * (abs(y) + abs(pooled * d)) for y, d in both):
        return None  # all alike, but for rounding
    typical = sum(each**2 for each in apart) / sum(apart)
    sd = math.sqrt(sum(apart) / len(both))
    skewness, kurtosis = (sum(((y - pooled * d) / sd) ** k for y, d in both) / len(both) for k in (3, 4))
    if min(len(arm) for arm in arms) < max(10.0 * skewness**2, 2.0 * kurtosis):
        return None
    variance = 0.0
    for arm in arms:
        squares = sum((y - _ratio(arm) * d) ** 2 for y, d in arm) + typical
        under = sum(d for _, d in arm) / len(arm)
        variance += squares / (len(arm) - 1) / under**2 / len(arm)
    t = len(both)
    sigma = math.sqrt(t * variance)
    spread = t * rho_squared
    half = sigma * math.sqrt((spread + 1) / (t * spread) * math.log((spread + 1) / 0.05**2))
    return _ratio(arms[0]), _ratio(arms[1]), _ratio(arms[0]) - _ratio(arms[1]), half, 1.959963984540054 * variance**0.5


def _ratio(arm: Sequence[tuple[float, float]]) -> float:
    return math.fsum(y for y, _ in arm) / math.fsum(d for _, d in arm)
