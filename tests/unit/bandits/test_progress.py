"""Progressive metrics: River's and scikit-learn's over the latest predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics  # type: ignore[import-untyped]

from nbx.bandits.progress import WINDOW, Progress


def filled(count: int) -> tuple[Progress, list[tuple[float, int, float, float]]]:
    rng = np.random.default_rng(1)
    progress, rows = Progress(), []
    for step in range(count):
        p = float(rng.uniform(0.02, 0.98))
        row = (p, int(rng.random() < p), float(rng.normal()), float(rng.normal()))
        progress.response(step, *row[:2])
        progress.experience(step, *row[2:])
        rows.append(row)
    return progress, rows[-WINDOW:]


@pytest.mark.parametrize("count", [50, WINDOW, WINDOW + 700])
def test_metrics_are_those_of_the_window(count: int) -> None:
    """The area is River's, from ten thresholds: within 0.02."""
    progress, rows = filled(count)
    p, y, predicted, points = np.array(rows).T
    metrics = progress.metrics(count)
    assert metrics.count == len(rows)
    assert metrics.log_loss == pytest.approx(sklearn_metrics.log_loss(y, p))
    assert metrics.roc_auc == pytest.approx(sklearn_metrics.roc_auc_score(y, p), abs=0.02)
    assert metrics.accuracy == pytest.approx(((p > 0.5) == y).mean())
    assert metrics.response_rate == pytest.approx(y.mean())
    assert metrics.predicted_rate == pytest.approx(p.mean())
    assert metrics.experience_mae == pytest.approx(np.abs(predicted - points).mean())


def test_nothing_is_not_a_number() -> None:
    metrics = Progress().metrics(0)
    assert metrics.count == 0
    assert math.isnan(metrics.log_loss)
    assert math.isnan(metrics.experience_mae)


def test_responses_and_points_are_counted_apart() -> None:
    progress = Progress()
    progress.experience(3, 1.0, 4.0)
    metrics = progress.metrics(4)
    assert (metrics.count, metrics.experience_mae) == (0, 3.0)
    assert math.isnan(metrics.response_rate)


def test_encoding_round_trips() -> None:
    progress, _ = filled(300)
    copy = Progress.decode(progress.encode())
    assert copy.encode() == progress.encode()
    copy.response(300, 0.5, 1)
    assert copy.metrics(301).count == progress.metrics(301).count + 1
