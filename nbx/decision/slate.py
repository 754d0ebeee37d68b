"""Filling slots: mandatory actions first, then exact Thompson draws without replacement, within shared limits.

The draw of slot i uses the uniform number hashed from salt and `<decision_id>/<i>`: knowing the record, anyone can
repeat it.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nbx.bandits.thompson import choose_slate
from nbx.decision.arbitration import Factors, Utility
from nbx.experience.entries import PolicyRecord, SharedLimit
from nbx.hashing import uniform

NONE_CHOSEN = "none_chosen"
"""Silence was drawn over every candidate."""
NO_CANDIDATE = "no_candidate"
"""No action was allowed, or none was left."""
HELD_OUT = "holdout"
"""The customer is held out and gets nothing that is chosen."""
RANDOM = "random"
"""Holdout in which chance picks among the candidates."""


class Slate(Struct, frozen=True, gc=False):
    """What was drawn."""

    chosen: list[int]
    """Index into the candidates per slot; -1: none."""
    propensity: list[float]
    """Chance of that choice per slot, given the slots before."""
    silence: str
    """Why slots are silent: `none_chosen`, `no_candidate` or `holdout`; empty when none is."""
    probability: NDArray[np.float64]
    """(n + 1,) distribution of the first arbitrated slot; last is none. All zero when no slot was arbitrated."""
    arbitrated: int = 0
    """The first arbitrated slot; -1: none was, mandatory actions filled them all."""


def draw_slate(
    factors: Factors,
    utility: Utility,
    policy: PolicyRecord,
    mandatory: NDArray[np.bool_],
    shared: tuple[SharedLimit, ...],
    slots: int,
    decision_id: str,
    holdout: str = "",
) -> Slate:
    """Fill `slots` slots from n candidates.

    Mandatory candidates come first, in catalog order, with propensity 1, and take no part in the arbitration of the
    rest. Once none is drawn the remaining slots are silent too: nothing left is better than silence.

    Parameters
    ----------
    factors, utility, policy
        What the choice rests on.
    mandatory : ndarray of bool, shape (n,)
    shared
        Sets of candidates of which only so many may be shown together.
    slots
        How many, ≥ 1.
    decision_id
        Seeds the draws.
    holdout
        `random`: every candidate has the same chance, and silence none.
    """
    n = len(factors.mean)
    forced = np.flatnonzero(mandatory).tolist()
    if slots == 1 and not forced and not holdout:  # the common case, without the bookkeeping of the others
        probability, index, chance = _draw(factors, utility, policy, None, uniform(f"{decision_id}/0", policy.salt))
        return Slate([index], [chance], silence_of(index, n), probability)
    open_ = np.ones(n, dtype=np.bool_)
    left = [limit.allowance for limit in shared]
    chosen, propensity, silence = [-1] * slots, [1.0] * slots, ""
    first: NDArray[np.float64] | None = None
    arbitrated = -1
    for slot in range(slots):
        forced = [index for index in forced if open_[index]]
        if forced:
            index = forced[0]
        else:
            free = np.flatnonzero(open_) if slot else None
            point = uniform(f"{decision_id}/{slot}", policy.salt)
            if holdout == RANDOM:
                among, index, propensity[slot] = _pick(np.flatnonzero(open_), n, point)
            else:
                among, index, propensity[slot] = _draw(factors, utility, policy, free, point)
            if first is None:
                first, arbitrated = among, slot
        if index < 0:
            silence = HELD_OUT if holdout == "silent" else silence_of(index, int(open_.sum()))
            break
        chosen[slot] = index
        open_[index] = False
        for i, limit in enumerate(shared):
            if index in limit.members:
                left[i] -= 1
                if left[i] <= 0:
                    open_[[member for member in limit.members if member not in limit.exempt]] = False
    return Slate(chosen, propensity, silence, np.zeros(n + 1) if first is None else first, arbitrated)


def silence_of(index: int, candidates: int) -> str:
    """Return why a slot with this draw is silent; empty when it is not."""
    if index >= 0:
        return ""
    return NONE_CHOSEN if candidates else NO_CANDIDATE


def _pick(free: NDArray[np.int64], n: int, point: float) -> tuple[NDArray[np.float64], int, float]:
    """Pick one of the candidates `free` by chance alone: distribution over all, index (-1: none), its chance."""
    probability = np.zeros(n + 1)
    probability[free if len(free) else [n]] = 1.0 / max(len(free), 1)
    index = int(free[int(point * len(free))]) if len(free) else -1
    return probability, index, float(probability[index])


def _draw(
    factors: Factors, utility: Utility, policy: PolicyRecord, free: NDArray[np.int64] | None, point: float
) -> tuple[NDArray[np.float64], int, float]:
    """Draw one slot among the candidates `free` (None: all): distribution over all, index (-1: none), its chance."""
    drawn = choose_slate(
        factors.mean if free is None else factors.mean[free],
        factors.sd if free is None else factors.sd[free],
        utility.gain if free is None else utility.gain[free],
        utility.shift if free is None else utility.shift[free],
        scale=policy.scale,
        floor=policy.floor,
        slots=1,
        uniforms=(point,),
    )
    index, chance = int(drawn.chosen[0]), float(drawn.propensity[0])
    if free is None:
        return drawn.probabilities, index, chance
    probability = np.zeros(len(factors.mean) + 1)
    probability[free], probability[-1] = drawn.probabilities[:-1], drawn.probabilities[-1]
    return probability, int(free[index]) if index >= 0 else -1, chance
