"""When the world changes: how much of what an action learned still holds.

Two watchers, both fed with predictions made before their outcome was learned.

**Abrupt** (`ChangeDetector`, one per action): River's ADWIN over the residuals y − p. A model that predicts well leaves
residuals with mean 0, whatever the customers. When ADWIN says that their mean changed, the split with the largest
squared difference of means tells since when (ADWIN's own window still holds most of what came before: it drops one
bucket at a time), and the action's evidence is cut to as many observations. The detector keeps the residuals since it
began, at most `RESIDUALS`, so that a restored one is fed the same numbers and goes on to the bit: ADWIN itself cannot
be stored.

**Gradual** (`HalfLife`, one per learner): beside every action's model run offsets of the log-odds that forget with the
half-lives of `HALF_LIVES`; the last never forgets. While that one predicts best nothing has moved: a constant by which
first answers are wrong, as long as later ones correct them, is no drift. When another has predicted better by
`CONVINCED` nats, the models forget with its half-life; when long nothing was gained they try the next longer one. Odds
that drift by themselves are thus followed, and a still world is never forgotten. What an offset gained on an action
whose memory is cut no longer counts: the cut has dealt with it. (So has the start of a service, when answers come at
once and silences only when their time is up.)

Source: Bifet and Gavaldà (2007), Learning from time-changing data with adaptive windowing.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from nbx.bandits import kernels_fold
from nbx.bandits.river_parts import drift

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nbx.bandits.kernels import F64

RESIDUALS = 2048
"""Residuals a detector holds before it begins again with the latest half: 8 KB per action."""
FALSE_ALARM = 0.01
"""ADWIN's confidence. Its bound is generous: one alarm in some 200,000 answers of a still world, and half of the
changes from 0.3 to 0.1 found within 140."""
CLOCK = 16
"""Residuals between two tests of ADWIN."""
WORTH_CUTTING = 0.8
"""A cut that leaves more than this share of the evidence changes nothing worth the trouble."""

HALF_LIVES = (1_000.0, 4_000.0, 16_000.0, 64_000.0, math.inf)
"""Half-lives that are tried, in observations of an action; the last is never to forget."""
CONVINCED = 6.0
"""Nats by which an offset must have predicted better: odds of 400 to 1."""
SCORE_MEMORY = 1.0 - 1.0 / 20_000.0
"""How much of a score is left after an observation: evidence of drift is itself forgotten."""
PATIENCE = 4.0
"""Half-lives without a gain before the next longer one is tried."""
TRACKED = 100.0
"""Evidence of an action before its predictions may say that the world drifts: before, they drift by learning."""
OFFSET_PRECISION = 16.0
"""Of an offset's prior N(0, 1/16): a drift of a quarter in log-odds is nothing strange."""


class ChangeDetector:
    """Watches the residuals of one action.

    Examples
    --------
    >>> detector, rng = ChangeDetector(), np.random.default_rng(1)
    >>> still = [detector.update(float(rng.random() < 0.3) - 0.3) for _ in range(900)]
    >>> moved = [detector.update(float(rng.random() < 0.7) - 0.3) for _ in range(200)]
    >>> any(still), 10 <= max(moved) <= 150
    (False, True)
    """

    def __init__(self, residuals: bytes = b"") -> None:
        self._residuals = array("f")
        self._adwin = _adwin()
        for residual in np.frombuffer(residuals, "<f4").tolist():
            self._feed(residual)

    def update(self, residual: float) -> int:
        """Take in y − p, in −1..1; return how many of the latest observations still hold, 0 when nothing changed."""
        return self.update_all((residual,))

    def update_all(self, residuals: Iterable[float]) -> int:
        """Take in some; return what `update` says of the last."""
        holds = 0
        for residual in residuals:
            if len(self._residuals) >= RESIDUALS:
                kept = self._residuals[-RESIDUALS // 2 :]
                self._residuals, self._adwin = array("f"), _adwin()
                for earlier in kept:
                    self._feed(earlier)
            self._feed(residual)
            holds = 0
            if self._adwin.drift_detected:
                holds = _since_split(np.array(self._residuals, np.float64))
                self._residuals, self._adwin = array("f"), _adwin()
        return holds

    @property
    def since_test(self) -> int:
        """How many it took since it last tested: ADWIN speaks at every `CLOCK`-th and at no other."""
        return len(self._residuals) % CLOCK

    def encode(self) -> bytes:
        """Return the residuals, float32, little-endian."""
        return np.frombuffer(self._residuals, np.float32).astype("<f4").tobytes()

    def _feed(self, residual: float) -> None:
        self._residuals.append(residual)
        self._adwin.update(self._residuals[-1])


def _adwin() -> drift.ADWIN:
    return drift.ADWIN(delta=FALSE_ALARM, clock=CLOCK)


def _since_split(residuals: F64) -> int:
    """How many of the residuals come after the likeliest change of their mean, ≥ 1."""
    n = len(residuals)
    sums = np.cumsum(residuals)
    before = np.arange(1, n)
    apart = sums[:-1] / before - (sums[-1] - sums[:-1]) / (n - before)
    return n - 1 - int((apart**2 * before * (n - before)).argmax())


class HalfLifeState(msgspec.Struct, frozen=True, kw_only=True):
    """A `HalfLife` as plain data."""

    current: int
    since: int
    tracked: int
    scores: list[float]


class HalfLife:
    """Chooses how fast all models forget.

    Examples
    --------
    >>> HalfLife().forgetting
    1.0
    """

    def __init__(self, state: HalfLifeState | None = None) -> None:
        self.counters = np.array([_NEVER, 0, 0] if state is None else [state.current, state.since, state.tracked])
        """Position in `HALF_LIVES`, observations since it changed, and actions that these are shared by."""
        self.scores = np.zeros(len(HALF_LIVES)) if state is None else np.array(state.scores)
        """Nats by which each offset predicted better than the one that never forgets, faded, over all actions."""

    @property
    def current(self) -> int:
        """Position in `HALF_LIVES`."""
        return int(self.counters[kernels_fold.CURRENT])

    @property
    def forgetting(self) -> float:
        """γ per observation of an action, in (0, 1]."""
        return float(KEEP[self.current])

    def update(self, offsets: F64, logit: float, y: float) -> bool:
        """Score the offsets of an action on one answer and let them learn it; True when γ changed.

        Parameters
        ----------
        offsets
            float64[3, 5] of the action, updated in place: offset, its precision, and the nats it gained, for each of
            `HALF_LIVES`; begins with zeros. When γ changes, those of all actions begin anew.
        logit
            What the action's model predicted.
        y
            0..1.
        """
        return bool(kernels_fold.turned(offsets, KEEP, PATIENT, RULES, logit, y, self.counters, self.scores))

    def drop(self, offsets: F64) -> None:
        """Begin anew with an action whose memory was cut."""
        self.scores -= offsets[2]
        self.counters[kernels_fold.TRACKED] -= offsets[1, 0] > 0.0
        offsets[:] = 0.0

    def encode(self) -> HalfLifeState:
        """Return everything a bit-identical continuation needs."""
        current, since, tracked = self.counters.tolist()
        return HalfLifeState(current=current, since=since, tracked=tracked, scores=self.scores.tolist())


_NEVER = len(HALF_LIVES) - 1
KEEP = np.array([0.5 ** (1.0 / half_life) for half_life in HALF_LIVES])
"""What each half-life keeps per observation."""
PATIENT = PATIENCE * np.array(HALF_LIVES)
"""Observations of an action without a gain before the next longer one is tried."""
RULES = np.array([OFFSET_PRECISION, SCORE_MEMORY, CONVINCED, TRACKED])
"""As kernels take them."""


def offsets() -> F64:
    """Return what `HalfLife.update` keeps for an action that was never seen: float64[3, 5]."""
    return np.zeros((3, len(HALF_LIVES)))


def share_to_keep(holds: int, evidence: float) -> float:
    """Return the share of an action's evidence that `holds` observations are; 1 when cutting is not worth it.

    Examples
    --------
    >>> share_to_keep(100, 1000.0), share_to_keep(100, 110.0), share_to_keep(100, 0.0)
    (0.1, 1.0, 1.0)
    """
    if evidence <= 0.0 or holds > WORTH_CUTTING * evidence:
        return 1.0
    return max(holds, 1) / evidence if math.isfinite(evidence) else 1.0
