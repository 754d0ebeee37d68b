"""How well placements execute: the share of prompts that failed for reasons of the channel, and an alarm on it.

The alarm is the sequential test of `nbx.bandits.signals`, turned round: doubt rises and falls by the log-likelihood
ratio of a share far above the usual one against the usual one, within [0, `ALARM`]; unwell at the top, well again at
0. The usual share is learned while there is no doubt, and never believed to be more than `MOST`: a placement that was
broken from its first day is not thereby healthy. What failed in execution is charged to nothing but the placement:
the mean experience of these outcomes is kept here and in no model of an action.

Source: Wald, Sequential Analysis (1947); Page, Continuous inspection schemes, Biometrika 41 (1954).
"""

from __future__ import annotations

import math

from msgspec import Struct

LEAST, MOST = 0.01, 0.1
"""Bounds of the usual share that is believed."""
TIMES, MORE = 3.0, 0.1
"""The share of alarm: so many times the usual one, and at least so much above it."""
ALARM = 15.0
"""Doubt, in nats: e¹⁵ = 3 million prompts between two false alarms, or more. At a usual share of 0.01 and 30 % failures
some 25 prompts get there."""
MEMORY = 2_000
"""Prompts the usual share remembers."""
RECENT = 50
"""Prompts the recent share remembers."""


class Execution(Struct):
    """What is known of one placement. A fold of its outcomes.

    Examples
    --------
    >>> execution = Execution()
    >>> for n in range(200):
    ...     execution.take(now=n % 3 == 0, before=None, points=-2.0, at_ms=n)
    >>> execution.unwell, execution.experience
    (True, -2.0)
    >>> for n in range(400):
    ...     execution.take(now=False, before=None, points=1.0, at_ms=n)
    >>> execution.unwell
    False
    """

    taken: int = 0
    failed: int = 0
    """Since the beginning, after corrections."""
    count: float = 0.0
    """Prompts behind the usual share, forgetting."""
    bad: float = 0.0
    recent: float = 0.0
    """Share of the latest that failed in execution."""
    doubt: float = 0.0
    """0..`ALARM`"""
    waiting: float = 0.0
    """Prompts since there is doubt: part of what is usual once it is gone, and not when it turns out right."""
    waiting_bad: float = 0.0
    unwell: bool = False
    since_ms: int = 0
    """Time of the outcome by which it was last found unwell, or well again; 0: never."""
    experience: float = 0.0
    """Mean points for the customer of what failed in execution."""

    @property
    def share(self) -> float:
        """The usual share, `LEAST` to `MOST`; one failure in 20 is presumed before there are any."""
        return min(max((self.bad + 0.5) / (self.count + 10.0), LEAST), MOST)

    def take(self, *, now: bool | None, before: bool | None, points: float, at_ms: int) -> None:
        """Take in an outcome.

        Parameters
        ----------
        now
            It failed in execution; None: nobody can tell, it counts for nothing.
        before
            The same of the revision that it replaces; None also without one.
        points
            What it was for the customer.
        at_ms
            When.
        """
        if now == before:
            return
        new, bad = (now is not None) - (before is not None), bool(now) - bool(before)
        self.taken, self.failed = self.taken + new, self.failed + bad
        latest = min(max(self.taken, 1), RECENT)
        self.recent = min(max(self.recent + (bad / latest if not new else (bad - self.recent) / latest), 0.0), 1.0)
        if now:
            self.experience += (points - self.experience) / min(max(self.failed, 1), MEMORY)
        self.doubt = min(max(self.doubt + self._ratio(now) - self._ratio(before), 0.0), ALARM)
        if not self.unwell:
            self.waiting, self.waiting_bad = self.waiting + new, self.waiting_bad + bad
        if self.doubt == 0.0:
            self._calm(at_ms)
        elif self.doubt == ALARM and not self.unwell:
            self.unwell, self.since_ms = True, at_ms
            self.waiting = self.waiting_bad = 0.0

    def health(self, placement: str) -> PlacementHealth:
        """Return what is told about it."""
        return PlacementHealth(
            placement=placement,
            unwell=self.unwell,
            since_ms=self.since_ms,
            prompts=self.taken,
            failed=self.failed,
            usual_ratio=round(self.share, 4),
            recent_ratio=round(self.recent, 4),
            experience=round(self.experience, 4),
        )

    def _calm(self, at_ms: int) -> None:
        keep = (1.0 - 1.0 / MEMORY) ** max(self.waiting, 0.0)
        self.count = max(self.count * keep + self.waiting, 0.0)
        self.bad = min(max(self.bad * keep + self.waiting_bad, 0.0), self.count)
        self.waiting = self.waiting_bad = 0.0
        if self.unwell:
            self.unwell, self.since_ms = False, at_ms

    def _ratio(self, bad: bool | None) -> float:
        """Log-likelihood ratio of "far above" against "usual" for one outcome, nats."""
        if bad is None:
            return 0.0
        usual = self.share
        above = max(TIMES * usual, usual + MORE)
        return math.log(above / usual) if bad else math.log((1.0 - above) / (1.0 - usual))


class PlacementHealth(Struct, frozen=True, kw_only=True):
    """How well a placement executes, for people."""

    placement: str
    unwell: bool
    """Far more prompts fail in execution than usual."""
    since_ms: int
    """Epoch milliseconds of the outcome by which it was last found unwell, or well again; 0: never."""
    prompts: int
    """Those of which it is known."""
    failed: int
    """Of them those with cause `execution`."""
    usual_ratio: float
    """Share of failures over some 2,000, as far as it is believed to be usual."""
    recent_ratio: float
    """The same over some 50."""
    experience: float
    """Mean points for the customer of what failed."""
