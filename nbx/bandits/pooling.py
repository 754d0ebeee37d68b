"""An action starts from its siblings: its prior is their evidence, shrunk to at most κ observations.

prior precision = λI + s·Σ_{b≠a} Λs_b, natural mean likewise, s = κ/(κ + n_{−a}) with n_{−a} the siblings' evidence.
With few siblings' observations s ≈ 1: take them as they are; with many, s·n → κ: they say where to look, not what to
believe. Leaving the action itself out keeps its own evidence from being counted twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nbx.bandits.kernels import F64

KAPPA = 50.0
"""Observations the siblings of an action count for at most: an action's own 50 answers weigh as much."""


def pool(precision: F64, eta: F64, evidence: float | F64, kappa: float = KAPPA) -> tuple[F64, F64]:
    """Shrink summed sites to a prior.

    Parameters
    ----------
    precision, eta
        float64[..., d, d] and [..., d], sums of sites.
    evidence
        ≥ 0, observations in each of these sums.
    kappa
        > 0.

    Returns
    -------
    precision, eta
        To be added to λI and 0.

    Examples
    --------
    >>> pool(np.eye(1) * 50.0, np.ones(1), 50.0)[0].tolist()
    [[25.0]]
    """
    shrinkage = np.asarray(kappa / (kappa + evidence))
    return shrinkage[..., None, None] * precision, shrinkage[..., None] * eta


def leave_one_out(precision: F64, eta: F64, evidence: F64, kappa: float = KAPPA) -> tuple[F64, F64]:
    """Compute every action's prior from the others of its group.

    Parameters
    ----------
    precision, eta, evidence
        float64[K, d, d], [K, d] and [K]: sums of sites of each action of one group.

    Returns
    -------
    precision, eta
        float64[K, d, d] and [K, d].
    """
    others = np.maximum(evidence.sum() - evidence, 0.0)
    return pool(precision.sum(axis=0) - precision, eta.sum(axis=0) - eta, others, kappa)
