"""How the latest predictions did, each made before its outcome was learned."""

from __future__ import annotations

import math
from typing import Self

import msgspec
import numpy as np

from nbx.bandits.river_parts import metrics, stats

WINDOW = 2048
"""Latest predictions kept: a standard error of 0.01 on an acceptance rate."""


class ProgressiveMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """River's metrics over the window; NaN when there were no predictions."""

    count: int
    """Responses in the window."""
    log_loss: float
    roc_auc: float
    accuracy: float
    response_rate: float
    predicted_rate: float
    experience_mae: float
    """Points."""


class Progress:
    """A ring of predictions and what came of them.

    Examples
    --------
    >>> progress = Progress()
    >>> progress.response(0, 0.25, 0)
    >>> progress.metrics(1).predicted_rate
    0.25
    """

    def __init__(self) -> None:
        self.window = np.full((WINDOW, 4), np.nan)
        """float64[WINDOW, 4] by step modulo WINDOW: probability, answer, predicted points, points."""

    def response(self, step: int, p: float, y: float) -> None:
        """Note a predicted probability and the answer of an observation."""
        self.window[step % WINDOW, :2] = p, y

    def experience(self, step: int, predicted: float, points: float) -> None:
        """Note predicted and actual points of an observation."""
        self.window[step % WINDOW, 2:] = predicted, points

    def metrics(self, step: int) -> ProgressiveMetrics:
        """Compute the metrics after so many observations; 10 ms, so not for every one."""
        log_loss, roc_auc, accuracy, mae = metrics.LogLoss(), metrics.ROCAUC(), metrics.Accuracy(), metrics.MAE()
        rate, predicted = stats.Mean(), stats.Mean()
        for p, y, points_predicted, points in np.roll(self.window, -(step % WINDOW), axis=0).tolist():
            if not math.isnan(y):
                answer = y > 0.5
                log_loss.update(answer, p)
                roc_auc.update(answer, p)
                accuracy.update(answer, p > 0.5)
                rate.update(y)
                predicted.update(p)
            if not math.isnan(points):
                mae.update(points, points_predicted)
        seen = int(rate.n)
        has_points = bool(np.isfinite(self.window[:, 3]).any())
        return ProgressiveMetrics(
            count=seen,
            log_loss=float(log_loss.get()) if seen else math.nan,
            roc_auc=float(roc_auc.get()) if seen else math.nan,
            accuracy=float(accuracy.get()) if seen else math.nan,
            response_rate=float(rate.get()) if seen else math.nan,
            predicted_rate=float(predicted.get()) if seen else math.nan,
            experience_mae=float(mae.get()) if has_points else math.nan,
        )

    def encode(self) -> bytes:
        """Return the ring as bytes."""
        return self.window.tobytes()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Rebuild from `encode`."""
        progress = cls()
        progress.window = np.frombuffer(data).reshape(WINDOW, 4).copy()
        return progress
