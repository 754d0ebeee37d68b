"""Utility of each candidate, in money, with every factor kept.

utility = p_response · value · context_weight · lever + exchange · (1 + strain) · E[experience]; none is worth 0. The
first term's p_response is uncertain and is sampled; the second is an expectation and shifts the whole distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nbx.bandits import kernels
from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import PlacementPlan
from nbx.experience.entries import PolicyRecord

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Factors:
    """Everything a choice rests on, float32[n] each: what is logged is what was used."""

    mean: F32
    sd: F32
    value: F32
    context_weight: F32
    lever: F32
    experience: F32

    def gain_and_shift(self, policy: PolicyRecord) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return float64[n] each: utility = gain · sigmoid(z) + shift."""
        return kernels.utility_factors(  # type: ignore[no-any-return]
            self.value, self.context_weight, self.lever, self.experience, policy.exchange, policy.strain
        )

    def utility(self, policy: PolicyRecord) -> NDArray[np.float64]:
        """Expected utility in money, float64[n]."""
        gain, shift = self.gain_and_shift(policy)
        return gain * self.p_response() + shift

    def p_response(self) -> NDArray[np.float64]:
        """Chance of acceptance, float64[n]."""
        return kernels.response_probability(self.mean, self.sd)  # type: ignore[no-any-return]


def score(x: F32, model: BoundModel, placement: PlacementPlan, positions: NDArray[np.int64]) -> Factors:
    """Score the candidates at `positions` of a placement for the vector `x`."""
    rows = placement.rows[positions]
    mean, sd, experience = (np.empty(len(rows), dtype=np.float32) for _ in range(3))
    kernels.score(x, model.mean, model.cov_packed, model.experience, rows, mean, sd, experience)
    return Factors(
        mean,
        sd,
        placement.value[positions],
        placement.context_weight[positions],
        placement.lever[positions],
        experience,
    )
