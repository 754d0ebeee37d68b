"""The common decision, one slot that is arbitrated, in one call of a kernel; the same bits as step by step.

What `arbitration.score`, `arbitration.utility` and `slate.draw_slate` do one after the other, without what lies between
them. Goals, holdouts, mandatory actions and several slots go the long way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nbx.bandits import kernels
from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import PlacementPlan
from nbx.decision.arbitration import F32, Factors, Utility, learned_value
from nbx.decision.slate import Slate, silence_of
from nbx.experience.entries import FACTORS, PolicyRecord
from nbx.hashing import uniform


class AtOnce(NamedTuple):
    """What the steps give."""

    factors: Factors
    utility: Utility
    slate: Slate
    table: F32
    """float32[len(FACTORS), n]: what is logged of the candidates."""


def score_and_draw(
    x: F32,
    model: BoundModel,
    placement: PlacementPlan,
    positions: NDArray[np.int64],
    context_weight: F32,
    policy: PolicyRecord,
    decision_id: str,
) -> AtOnce:
    """Score, price and draw the only slot of a decision; parameters as those of the steps."""
    n = len(positions)
    rows, priced = placement.rows, placement.priced
    if len(placement.learned) or context_weight is not placement.context_weight:
        value = learned_value(placement, model) if len(placement.learned) else placement.value
        priced = np.array([value, context_weight, placement.lever])
    if n != len(rows):
        rows, priced = rows[positions], priced.take(positions, axis=1)
    table, worth = np.empty((len(FACTORS), n), dtype=np.float32), np.empty((3, n))
    probability, index, chance = kernels.score_and_choose(
        x, model.mean, model.cov_packed, model.experience, rows, priced, policy.exchange, policy.strain,
        policy.scale, policy.floor, uniform(f"{decision_id}/0", policy.salt), table, worth,
    )  # fmt: skip
    return AtOnce(
        Factors(table[0], table[1], table[2], table[3], table[4], table[5]),
        Utility(worth[0], worth[1], worth[2]),
        Slate([index], [chance], silence_of(index, n), probability),
        table,
    )
