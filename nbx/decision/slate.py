"""Filling slots: mandatory actions first, then exact Thompson draws without replacement, within shared limits.

The draw of slot i uses the uniform number hashed from salt and `<decision_id>/<i>`: knowing the record, anyone can
repeat it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nbx.bandits import kernels
from nbx.decision.arbitration import Factors
from nbx.experience.entries import PolicyRecord, SharedLimit
from nbx.hashing import uniform


@dataclass(frozen=True, slots=True)
class Slate:
    """What was drawn."""

    chosen: list[int]
    """Index into the candidates per slot; -1: none."""
    propensity: list[float]
    """Chance of that choice per slot, given the slots before."""
    probability: NDArray[np.float64]
    """(n + 1,) distribution of the first arbitrated slot; last is none. All zero when no slot was arbitrated."""


def draw_slate(
    factors: Factors,
    policy: PolicyRecord,
    mandatory: NDArray[np.bool_],
    shared: tuple[SharedLimit, ...],
    slots: int,
    decision_id: str,
) -> Slate:
    """Fill `slots` slots from n candidates.

    Mandatory candidates come first, in catalog order, with propensity 1, and take no part in the arbitration of the
    rest. Once none is drawn the remaining slots are silent too: nothing left is better than silence.

    Parameters
    ----------
    factors, policy
        What the choice rests on.
    mandatory : ndarray of bool, shape (n,)
    shared
        Sets of candidates of which only so many may be shown together.
    slots
        How many, ≥ 1.
    decision_id
        Seeds the draws.
    """
    n = len(factors.mean)
    gain, shift = factors.gain_and_shift(policy)
    open_ = np.ones(n, dtype=np.bool_)
    left = [limit.allowance for limit in shared]
    chosen, propensity = [-1] * slots, [1.0] * slots
    probability = np.zeros(n + 1)
    arbitrated = False
    drawn, chance = np.empty(1, dtype=np.int32), np.empty(1, dtype=np.float64)
    for slot in range(slots):
        forced = np.flatnonzero(mandatory & open_)
        if len(forced):
            index = int(forced[0])
        else:
            free = np.flatnonzero(open_)
            among = kernels.choose(
                factors.mean[free],
                factors.sd[free],
                gain[free],
                shift[free],
                policy.scale,
                policy.floor,
                True,
                np.array([uniform(f"{decision_id}/{slot}", policy.salt)]),
                drawn,
                chance,
            )
            if not arbitrated:
                probability[free], probability[-1], arbitrated = among[:-1], among[-1], True
            index = int(free[drawn[0]]) if drawn[0] >= 0 else -1
            propensity[slot] = float(chance[0])
        if index < 0:
            break
        chosen[slot] = index
        open_[index] = False
        for i, limit in enumerate(shared):
            if index in limit.members:
                left[i] -= 1
                if left[i] <= 0:
                    open_[list(limit.members)] = False
    return Slate(chosen, propensity, probability)
