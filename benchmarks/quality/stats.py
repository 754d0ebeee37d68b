"""Means over seeds with t intervals; differences are paired by seed, because seeds share their rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and half the width of its 95 % interval; NaN with fewer than two seeds."""

    mean: float
    half: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves 0 out."""
        return abs(self.mean) > self.half

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if math.isnan(self.half) else f"{self.mean:.4f} ± {self.half:.4f}"


def over_seeds(values: Sequence[float]) -> Mean:
    """Mean of independent runs.

    Examples
    --------
    >>> str(over_seeds([1.0, 2.0, 3.0]))
    '2.0000 ± 2.4841'
    >>> over_seeds([0.1, 0.1]).significant, over_seeds([-1.0, 1.0]).significant
    (True, False)
    """
    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return Mean(mean, math.nan)
    spread = float(np.std(values, ddof=1)) / math.sqrt(count)
    return Mean(mean, float(student.ppf(0.975, count - 1)) * spread)


def paired(ours: dict[int, float], theirs: dict[int, float]) -> Mean:
    """Mean of ours − theirs over the seeds that both ran.

    Examples
    --------
    >>> paired({0: 1.0, 1: 2.0, 3: 7.0}, {1: 1.5, 0: 0.5, 2: 9.0}).mean
    0.5
    """
    return over_seeds([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])


def ranks(rewards: Sequence[float]) -> list[float]:
    """Rank with 1 for the largest; equals share the mean of their ranks.

    Examples
    --------
    >>> ranks([0.1, 0.3, 0.3])
    [3.0, 1.5, 1.5]
    """
    values = np.array(rewards)
    return [float((values > value).sum() + ((values == value).sum() + 1) / 2) for value in rewards]
