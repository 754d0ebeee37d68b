"""Utility of each candidate, in money, with every factor kept.

utility = p_response · value · context_weight · lever + exchange · (1 + strain) · E[experience]
          + goal value · (P(goal | action) − P(goal | none)), the last where the placement has a goal; none is worth 0.

The first term's p_response is uncertain and is sampled; the others are expectations and shift the whole distribution.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nbx.bandits import kernels
from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import PlacementPlan, Plan
from nbx.catalog.vocabulary import CLUSTER
from nbx.decision.goals import Goal
from nbx.experience.entries import PolicyRecord

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class Factors(Struct, frozen=True, gc=False):
    """Everything a choice rests on, float32[n] each: what is logged is what was used."""

    mean: F32
    sd: F32
    value: F32
    context_weight: F32
    lever: F32
    experience: F32


class Utility(Struct, frozen=True, gc=False):
    """Worth of each candidate as a distribution: gain · sigmoid(z) + shift with z ~ N(mean, sd²). float64[n] each."""

    gain: F64
    shift: F64
    p_response: F64
    """Chance of acceptance, E[sigmoid(z)]."""

    def expected(self) -> F64:
        """Expected utility in money, float64[n]."""
        return self.gain * self.p_response + self.shift


def score(
    x: F32, model: BoundModel, placement: PlacementPlan, positions: NDArray[np.int64], context_weight: F32
) -> Factors:
    """Score the candidates at `positions` of a placement for `x`; `context_weight` is the whole placement's."""
    whole = len(positions) == len(placement.rows)
    rows = placement.rows if whole else placement.rows[positions]
    mean, sd, experience = (np.empty(len(rows), dtype=np.float32) for _ in range(3))
    kernels.score(x, model.mean, model.cov_packed, model.experience, rows, mean, sd, experience)
    value = learned_value(placement, model) if len(placement.learned) else placement.value
    return Factors(
        mean,
        sd,
        value if whole else value[positions],
        context_weight if whole else context_weight[positions],
        placement.lever if whole else placement.lever[positions],
        experience,
    )


def on_track(
    context_weight: F32,
    plan: Plan,
    model: BoundModel,
    placement: PlacementPlan,
    relationship: Mapping[str, float],
    after: str,
) -> F32:
    """Return a placement's context weights with the next touch on the track of the customer's cluster weighed.

    Parameters
    ----------
    context_weight
        float32[n]; not changed.
    relationship, after
        With the customer's cluster, and the action accepted last.
    """
    clusters = plan.catalog.clusters
    if clusters is None or clusters.track_weight == 1.0:
        return context_weight
    position = placement.position.get(model.track.get((int(relationship[CLUSTER]), after), ""), -1)
    if position < 0:
        return context_weight
    weight = context_weight.copy()
    weight[position] *= np.float32(clusters.track_weight)
    return weight


def learned_value(placement: PlacementPlan, model: BoundModel) -> F32:
    """Return the worth of an acceptance of each action, float32[n]: declared, or learned from what was reported.

    A learned one is the mean of prior and reports, (strength · prior + count · mean) / (strength + count), and 0 where
    returns outweigh sales: an acceptance that costs money is not wanted, but a gain must not be negative.
    """
    rows, prior = placement.rows[placement.learned], placement.value[placement.learned]
    count = model.value_count[rows].astype(np.float64)
    mean = (placement.strength * prior + count * model.value[rows]) / (placement.strength + count)
    value = placement.value.copy()
    value[placement.learned] = np.maximum(mean, 0.0)
    return value


def utility(factors: Factors, policy: PolicyRecord, goal: Goal | None = None) -> Utility:
    """Put a price on the factors."""
    gain, shift = kernels.utility_factors(
        factors.value, factors.context_weight, factors.lever, factors.experience, policy.exchange, policy.strain
    )
    if goal is not None:
        shift += goal.worth()
    return Utility(gain, shift, kernels.response_probability(factors.mean, factors.sd))
