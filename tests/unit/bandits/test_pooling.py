"""Pooling: leave one out, shrunk to at most κ observations."""

from __future__ import annotations

import numpy as np
import pytest

from nbx.bandits.pooling import leave_one_out, total


@pytest.mark.parametrize(("evidence", "kappa"), [(1.0, 50.0), (50.0, 50.0), (1e9, 10.0)])
def test_siblings_count_for_at_most_kappa(evidence: float, kappa: float) -> None:
    group = evidence * np.eye(2), evidence * np.ones(2), evidence
    precision, eta = leave_one_out(group, total([], 2), kappa)
    effective = evidence * kappa / (kappa + evidence)
    assert effective < kappa
    np.testing.assert_allclose(precision, effective * np.eye(2))
    np.testing.assert_allclose(eta, effective)


def test_no_evidence_is_no_prior() -> None:
    precision, eta = leave_one_out(total([], 2), total([], 2))
    assert not precision.any()
    assert not eta.any()


def test_each_action_is_left_out_of_its_own_prior() -> None:
    rng = np.random.default_rng(1)
    parts = [
        (root @ root.T, rng.normal(size=3), n)
        for root, n in zip(rng.normal(size=(4, 3, 3)), (0.0, 5.0, 40.0, 2.0), strict=True)
    ]
    group = total(parts, 3)
    for a, part in enumerate(parts):
        others = parts[:a] + parts[a + 1 :]
        shrinkage = 7.0 / (7.0 + sum(other[2] for other in others))
        precision, eta = leave_one_out(group, part, 7.0)
        np.testing.assert_allclose(precision, shrinkage * sum(other[0] for other in others), atol=1e-12)
        np.testing.assert_allclose(eta, shrinkage * sum(other[1] for other in others), atol=1e-12)
