"""Parity: do the groups that the catalog declares have negative experiences equally often?

Per feature, each value's share of negative outcomes is compared with that of the best-off value. Which value is best
off is seen in the same data, so that the tests are held to all pairs of values of all features by Holm's procedure: by
chance alone one report in twenty finds anything at all. A share stands on its effective number of observations
(`nbx.audit.clustered`), so one customer with many outcomes is no crowd.

Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

from msgspec import Struct

from nbx.audit.clustered import Portion, portion
from nbx.audit.experienced import Group, Lived

RATIO = 1.25
"""How many times the best-off value's share is called disparate, if it is significant."""
LEVEL = 0.05
EXPECTED = 5.0
"""Negative and other outcomes that a value must have if all were alike: with fewer the normal test does not hold."""


class ParityValue(Struct, frozen=True, kw_only=True):
    """One value of a feature."""

    value: str
    negative: Portion
    """Of what was shown."""
    points: float
    """Per showing."""
    ratio: float | None
    """To the best-off value; None where that had none, or where one of the two is too small to compare."""
    p_value: float | None
    """After Holm's correction over all pairs of the report; None: too small to compare, or the best off itself."""
    disparate: bool


class Parity(Struct, frozen=True, kw_only=True):
    """Negative experience by the values of one feature."""

    feature: str
    best_off: str | None
    """Value with the smallest share of those large enough to compare; None: fewer than two are."""
    values: tuple[ParityValue, ...]
    words: tuple[str, ...]


def parity(told: Lived, groups: Iterable[Group]) -> tuple[Parity, ...]:
    """Compare the values of every segment feature."""
    shares: dict[str, list[tuple[str, Portion, float]]] = {}
    for group in groups:
        if group.by == "segment":
            rows = group.rows[told.shown[group.rows]]
            share = portion(told.negative[rows], told.who[rows])
            points = float(told.points[rows].mean()) if len(rows) else 0.0
            shares.setdefault(group.of, []).append((group.value, share, points))
    large = {feature: _large([share for _, share, _ in each]) for feature, each in shares.items()}
    pairs = [(feature, i, j) for feature, each in large.items() for i, j in combinations(each, 2)]
    raw = [two_shares(shares[feature][i][1], shares[feature][j][1]) for feature, i, j in pairs]
    adjusted = dict(zip(pairs, holm(raw), strict=True))
    return tuple(_parity(feature, each, large[feature], adjusted) for feature, each in shares.items())


def _parity(
    feature: str,
    each: Sequence[tuple[str, Portion, float]],
    large: Sequence[int],
    adjusted: dict[tuple[str, int, int], float],
) -> Parity:
    best = min(large, key=lambda i: (each[i][1].share or 0.0, each[i][0])) if len(large) > 1 else None
    values, words = [], []
    for i, (value, share, points) in enumerate(each):
        compared = best is not None and i in large and i != best
        p_value = adjusted[feature, min(i, best), max(i, best)] if compared and best is not None else None
        least = each[best][1].share if best is not None and i in large else None
        ratio = share.share / least if least and share.share is not None else None
        disparate = p_value is not None and p_value < LEVEL and (ratio is None or ratio > RATIO)
        values.append(
            ParityValue(value=value, negative=share, points=points, ratio=ratio, p_value=p_value, disparate=disparate)
        )
        if disparate and best is not None and p_value is not None:
            times = f"{ratio:.2f} times as often as" if ratio is not None else "while this never happened to"
            words.append(
                f"customers with {feature} = {value or '(none)'} have negative experiences in {share.share:.1%} of "
                f"what they are shown, {times} those with {each[best][0] or '(none)'} ({each[best][1].share:.1%}); "
                f"p = {p_value:.2g} after correction"
            )
    if best is None:
        words.append(f"{feature}: fewer than two values have enough outcomes to compare")
    elif not words:
        words.append(f"{feature}: no disparity beyond chance is seen")
    return Parity(
        feature=feature, best_off=each[best][0] if best is not None else None, values=tuple(values), words=tuple(words)
    )


def _large(shares: Sequence[Portion]) -> list[int]:
    """Return the positions of the shares that are large enough to compare, by what is common to all."""
    count, of = sum(share.count for share in shares), sum(share.of for share in shares)
    if not 0 < count < of:
        return []
    rarer = min(count / of, 1.0 - count / of)
    return [i for i, share in enumerate(shares) if share.effective * rarer >= EXPECTED]


def two_shares(a: Portion, b: Portion) -> float:
    """Return the two-sided p-value of equal shares: the pooled normal test on effective numbers.

    Examples
    --------
    >>> one = Portion(count=30, of=100, share=0.3, low=None, high=None, effective=100.0)
    >>> two = Portion(count=45, of=100, share=0.45, low=None, high=None, effective=100.0)
    >>> round(two_shares(one, two), 4)
    0.0285
    """
    if a.share is None or b.share is None:
        return 1.0
    pooled = (a.share * a.effective + b.share * b.effective) / (a.effective + b.effective)
    spread = math.sqrt(pooled * (1.0 - pooled) * (1.0 / a.effective + 1.0 / b.effective))
    return math.erfc(abs(a.share - b.share) / spread / math.sqrt(2.0)) if spread > 0.0 else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for being many, in their order.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(p_values[i] * (len(p_values) - rank), 1.0))
        adjusted[i] = worst
    return adjusted
