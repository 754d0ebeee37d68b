"""All actions' models side by side, so that one kernel call can fold observations of any of them.

`Models` are what is known of one action; on a `Shelf` their arrays are rows of larger ones, which kernels take whole.
An action that is new takes the next row; when there is none left, or columns are added, the shelf is made anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbx.bandits import drift, pooling
from nbx.bandits.estimators import BayesianLinearRegression, BayesianLogisticRegression
from nbx.bandits.posterior import Arrays, Posterior

if TYPE_CHECKING:
    from collections.abc import Iterable

LEAST = 8
"""Rows of the smallest shelf."""


class Models:
    """What is known of one action."""

    def __init__(self, group: str, forgetting: float, noise_precision: float, competes: bool) -> None:
        prior = {"prior_precision": pooling.RIDGE, "forgetting": forgetting}
        self.group = group
        self.competes = competes
        self.response = BayesianLogisticRegression(**prior)
        self.experience = BayesianLinearRegression(**prior, noise_precision=noise_precision)
        self.value_sum = 0.0
        self.value_count = 0
        self.detector = drift.ChangeDetector()
        self.changes = 0
        self.offsets = drift.offsets()
        self.row = -1
        """On the shelf."""

    @property
    def posteriors(self) -> tuple[Posterior, Posterior]:
        """Of response and experience."""
        return self.response.posterior, self.experience.posterior

    @property
    def mean_value(self) -> float:
        """Mean money per acceptance; 0 without."""
        return self.value_sum / self.value_count if self.value_count else 0.0

    def add_value(self, value: float | None, replaces: float | None) -> None:
        """Take a value into the mean, in place of an earlier one."""
        for number, sign in ((replaces, -1), (value, 1)):
            if number is not None:
                self.value_sum += sign * number
                self.value_count += sign


class Shelf:
    """Models in rows.

    Parameters
    ----------
    d
        Columns of every model.
    models
        Those that are known, in the order of their rows.
    """

    def __init__(self, d: int, models: Iterable[Models]) -> None:
        self._d = d
        self._make(list(models))

    def __getitem__(self, row: int) -> Models:
        return self._all[row]

    def add(self, models: Models) -> None:
        """Give an action the next row."""
        row = len(self._all)
        if row == self._room:
            self.feed_all()
            self._make([*self._all, models])
            return
        self._all.append(models)
        models.row = row
        for k, posterior in enumerate(models.posteriors):
            posterior.move(self._arrays, 2 * row + k)
        self._offsets[row] = models.offsets
        models.offsets = self._offsets[row]
        self._fed[row] = models.detector.since_test

    def feed(self, row: int) -> int:
        """Let an action's detector see what waits; return what it says, as `drift.ChangeDetector.update`."""
        detector = self._all[row].detector
        holds = detector.update_all(self._residuals[row, : self._waiting[row]].tolist())
        self._waiting[row], self._fed[row] = 0, detector.since_test
        return holds

    def feed_all(self) -> None:
        """Let every detector see what waits; none of them is due for a test."""
        for row in self._waiting.nonzero()[0].tolist():
            holds = self.feed(row)
            assert not holds, "a detector spoke between two tests"

    def _make(self, models: list[Models]) -> None:
        room = self._room = max(LEAST, 1 << len(models).bit_length())
        self._arrays = Arrays.of(2 * room, self._d)
        self._offsets = np.zeros((room, *drift.offsets().shape))
        self._residuals = np.zeros((room, drift.CLOCK), np.float32)
        self._waiting, self._fed = np.zeros((2, room), np.int64)
        arrays = self._arrays
        sites = (arrays.sites_precision, arrays.sites_mean)
        self.models = (arrays.numbers, *sites, arrays.mean, arrays.cov, arrays.prior, arrays.prior_eta)
        """What `kernels_fold.fold` takes: of action a, rows 2a (response) and 2a + 1 (experience)."""
        self.watched = (self._offsets, self._residuals, self._waiting, self._fed)
        """Likewise of each action: offsets, residuals its detector has not seen, how many, how many since its test."""
        self.unwatched = (self._offsets[:0], self._residuals[:0], self._waiting[:0], self._fed[:0])
        """The same when nothing is watched."""
        self._all: list[Models] = []
        for each in models:
            self.add(each)
