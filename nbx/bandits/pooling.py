"""An action starts from its siblings: its prior is their evidence, shrunk to at most κ observations.

prior precision = λI + s·Σ_{b≠a} Λs_b, natural mean likewise, s = κ/(κ + n_{−a}) with n_{−a} the siblings' evidence.
With few siblings' observations s ≈ 1: take them as they are; with many, s·n → κ: they say where to look, not what to
believe. Leaving the action itself out keeps its own evidence from being counted twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nbx.bandits.kernels import F64

KAPPA = 50.0
"""Observations the siblings of an action count for at most: an action's own 50 answers weigh as much."""


Sums = tuple["F64", "F64", float]
"""Sums of sites: precision float64[d, d], natural mean float64[d], evidence in observations."""


def total(parts: Iterable[Sums], d: int) -> Sums:
    """Add up the sites of a group, in the order given."""
    precision, eta, evidence = np.zeros((d, d)), np.zeros(d), 0.0
    for part in parts:
        precision += part[0]
        eta += part[1]
        evidence += part[2]
    return precision, eta, evidence


def leave_one_out(group: Sums, own: Sums, kappa: float = KAPPA) -> tuple[F64, F64]:
    """Compute an action's prior from the others of its group.

    Parameters
    ----------
    group
        Sums over the group, the action included.
    own
        The action's own part of them; all zero for an action never seen.
    kappa
        > 0.

    Returns
    -------
    precision, eta
        float64[d, d] and [d], to be added to λI and 0.

    Examples
    --------
    >>> fifty = np.eye(1) * 50.0, np.ones(1), 50.0
    >>> nothing = np.zeros((1, 1)), np.zeros(1), 0.0
    >>> leave_one_out(fifty, nothing)[0].tolist(), leave_one_out(fifty, fifty)[0].tolist()
    ([[25.0]], [[0.0]])
    """
    shrinkage = kappa / (kappa + max(group[2] - own[2], 0.0))
    return shrinkage * (group[0] - own[0]), shrinkage * (group[1] - own[1])
