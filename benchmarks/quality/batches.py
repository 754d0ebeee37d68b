"""Peers that are made for batches decide and learn in batches: the work of their Python layer is paid once for each.

A batch is their authors' where they name one (contextualbandits' notebook: 50), else it is learned when nbx would take
a snapshot: when lessons have grown by 1/32, after 128 at the latest.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from benchmarks.quality.task import Stream

LONGEST = 128
"""Lessons."""


class Batched:
    """Choices are made for as many rows at once as lessons are missing to the next batch; uniform before the first.

    `model` has `predict(x)` for float64[n, d] and `partial_fit` as `fit` below calls it; `batch` is the authors'.
    """

    def __init__(self, model: Any, stream: Stream, *, constant: bool, batch: int | None = None) -> None:
        self.model, self.batch = model, batch
        self.x = np.ascontiguousarray(stream.x if constant else stream.x[:, 1:], np.float64)
        self.first = (stream.uniforms * len(stream.actions)).astype(int).tolist()
        self.learned, self.due = 0, batch or 1
        self.start, self.choices = 0, np.empty(0, np.int64)
        self.rows: list[int] = []
        self.actions: list[int] = []
        self.rewards: list[float] = []

    def prepare(self, row: int) -> None:
        """Nothing: batches are slices."""

    def decide(self, row: int) -> tuple[int, float]:
        """Look the choice up, or choose for the next rows."""
        if not self.learned:
            return self.first[row], math.nan
        if row - self.start >= len(self.choices):
            self.start = row
            ahead = self.due - self.learned - len(self.rows)
            self.choices = np.atleast_1d(np.asarray(self.model.predict(self.x[row : row + ahead])))
        return int(self.choices[row - self.start]), math.nan

    def learn(self, row: int, action: int, success: float, reward: float, propensity: float) -> None:  # noqa: ARG002
        """Collect; learn when there is a batch."""
        self.rows.append(row)
        self.actions.append(action)
        self.rewards.append(reward)
        if self.learned + len(self.rows) == self.due:
            self.fit(self.x[self.rows], np.array(self.actions), np.array(self.rewards))
            self.learned = self.due
            self.due += self.batch or max(1, min(LONGEST, self.learned // 32))
            self.rows, self.actions, self.rewards = [], [], []
            self.choices = np.empty(0, np.int64)

    def fit(self, x: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Learn a batch."""
        self.model.partial_fit(x, actions, rewards)
