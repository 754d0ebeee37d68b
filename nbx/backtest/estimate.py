"""What a replayed log says: pure functions and one tally, no service and no file.

A row of a randomised log counts only when the policy chooses the action the log happened to show (replay, Li et al.
2011, "Unbiased Offline Evaluation of Contextual-bandit-based News Article Recommendation Algorithms", theorem 1). When
the log showed every action equally often, the rows that count are an unbiased sample of what the policy would have
met. When it did not, a match is kept with probability p_min / p_logged, which makes it so.

The intervals are those of the numbers as they stand: of one run, with the learning in it. Single actions are estimated
from all rows that show them, also from those that the policy took: the two share rows, so the interval of a difference,
which takes them as independent, is a little wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct
from scipy.stats import chi2

from nbx.audit.intervals import Z95, wilson

NOT_CHANCE = 0.001
"""A log whose counts are less likely than this under the declared randomisation was not randomised so…"""
TOLERATED = 0.05
"""…unless no count is further from its expectation than this share: long logs show every blemish."""


class Estimate(Struct, frozen=True, kw_only=True):
    """A mean with its 95 % interval."""

    mean: float
    """NaN without rows."""
    low: float
    high: float
    count: int
    """Rows it rests on."""


def proportion(positives: int, count: int) -> Estimate:
    """Estimate a proportion with its Wilson score interval.

    Examples
    --------
    >>> proportion(0, 0)
    Estimate(mean=nan, low=0.0, high=1.0, count=0)
    >>> half = proportion(50, 100)
    >>> round(half.low, 4), round(half.high, 4)
    (0.4038, 0.5962)
    """
    if not 0 <= positives <= count:
        raise ValueError(f"{positives} positives of {count} rows")
    if count == 0:
        return Estimate(mean=math.nan, low=0.0, high=1.0, count=0)
    low, high = wilson(positives / count, count)
    return Estimate(mean=positives / count, low=low, high=high, count=count)


def equal_mix(arms: Sequence[tuple[int, int]]) -> Estimate:
    """Estimate the reward of choosing among arms with equal chance, from (positives, rows) of each.

    The mean of the arms' means: inverse propensity weighting with the propensities as they turned out. Its interval is
    the normal one of a stratified mean. In a uniform log it is the mean of the log.

    Examples
    --------
    >>> equal_mix([(10, 100), (40, 100)]).mean
    0.25
    """
    count = sum(rows for _, rows in arms)
    if not arms or any(rows == 0 for _, rows in arms):
        return Estimate(mean=math.nan, low=0.0, high=1.0, count=count)
    rates = [positives / rows for positives, rows in arms]
    variance = sum(p * (1 - p) / rows for p, (_, rows) in zip(rates, arms, strict=True)) / len(arms) ** 2
    mean, half = math.fsum(rates) / len(arms), Z95 * math.sqrt(variance)
    return Estimate(mean=mean, low=max(mean - half, 0.0), high=min(mean + half, 1.0), count=count)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """Estimate a − b from the two intervals (Newcombe 1998, method 10); a and b are taken as independent.

    Examples
    --------
    >>> d = difference(proportion(56, 70), proportion(48, 80))
    >>> round(d.mean, 4), round(d.low, 4), round(d.high, 4)
    (0.2, 0.0524, 0.3339)
    """
    mean = a.mean - b.mean
    return Estimate(
        mean=mean,
        low=mean - math.hypot(a.mean - a.low, b.high - b.mean),
        high=mean + math.hypot(a.high - a.mean, b.mean - b.low),
        count=min(a.count, b.count),
    )


def unlikely_randomised(counts: Mapping[str, int], probabilities: Mapping[str, float]) -> bool:
    """Tell whether counts per action contradict the probabilities they were drawn with (Pearson's χ²).

    Examples
    --------
    >>> fair = {"a": 0.5, "b": 0.5}
    >>> unlikely_randomised({"a": 480, "b": 520}, fair), unlikely_randomised({"a": 300, "b": 700}, fair)
    (False, True)
    """
    rows = sum(counts.values())
    expected = {action: rows * probability for action, probability in probabilities.items()}
    apart = max(abs(counts.get(action, 0) / e - 1.0) for action, e in expected.items())
    statistic = sum((counts.get(action, 0) - e) ** 2 / e for action, e in expected.items())
    return apart > TOLERATED and float(chi2.sf(statistic, len(expected) - 1)) < NOT_CHANCE


class ReplayTally:
    """Accepts or rejects rows of a log and keeps the sums that the estimates need.

    Parameters
    ----------
    probabilities
        Action → probability with which the log showed it; positive, summing to 1.
    seed
        Of the thinning when they are not equal.

    Examples
    --------
    >>> tally = ReplayTally({"a": 0.5, "b": 0.5}, seed=1)
    >>> tally.take("a", "a", positive=True), tally.take("a", "b", positive=False)
    (True, False)
    >>> tally.policy().mean, tally.rows
    (1.0, 2)
    """

    def __init__(self, probabilities: Mapping[str, float], *, seed: int) -> None:
        least = min(probabilities.values())
        self._keep = {action: least / probability for action, probability in probabilities.items()}
        self._random = np.random.default_rng(seed)
        self._arms = {action: [0, 0] for action in probabilities}
        self._chosen = dict.fromkeys(probabilities, 0)
        self._outcomes = bytearray()
        self.positives = 0
        """Among the accepted rows."""

    @property
    def rows(self) -> int:
        """Rows seen."""
        return sum(rows for _, rows in self._arms.values())

    @property
    def accepted(self) -> int:
        """Rows that counted."""
        return len(self._outcomes)

    def take(self, logged: str, chosen: str, *, positive: bool) -> bool:
        """Take a row in; True when it counts for the policy. `chosen` is empty when there was no valid choice."""
        arm = self._arms[logged]
        arm[0] += positive
        arm[1] += 1
        if chosen in self._chosen:
            self._chosen[chosen] += 1
        if chosen != logged or (self._keep[logged] < 1.0 and self._random.random() >= self._keep[logged]):
            return False
        self._outcomes.append(positive)
        self.positives += positive
        return True

    def policy(self) -> Estimate:
        """Reward per decision of the policy."""
        return proportion(self.positives, self.accepted)

    def halves(self) -> tuple[Estimate, Estimate]:
        """Reward in the first and in the second half of the accepted rows."""
        middle = self.accepted // 2
        first = self._outcomes[:middle].count(1)
        return proportion(first, middle), proportion(self.positives - first, self.accepted - middle)

    def arms(self) -> dict[str, Estimate]:
        """Reward of each single action, from all rows that show it."""
        return {action: proportion(positives, rows) for action, (positives, rows) in self._arms.items()}

    def uniform(self) -> Estimate:
        """Reward of choosing with equal chance."""
        return equal_mix([(positives, rows) for positives, rows in self._arms.values()])

    def chosen(self) -> dict[str, int]:
        """How often the policy chose each action, over all rows."""
        return dict(self._chosen)
