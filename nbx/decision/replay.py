"""Recompute a decision from its record: same choice and propensity, or a loud difference.

What the record itself rests on (state, model, release) is not asked here: see `nbx.decision.recompute`.
"""

from __future__ import annotations

import numpy as np

from nbx.decision.arbitration import utility
from nbx.decision.goals import unpack_goal
from nbx.decision.record import unpack_factors
from nbx.decision.replayed import Difference, Replay
from nbx.decision.slate import draw_slate
from nbx.experience.entries import DecisionEntry


def replay(entry: DecisionEntry) -> Replay:
    """Draw the slate of a record again and compare action and propensity of every slot, and the distribution.

    A degraded decision was not drawn; it is the same by definition of what a degraded answer is.
    """
    if entry.degraded:
        return Replay(entry.decision_id, same=True, differences=())
    factors, table = unpack_factors(entry)
    mandatory = np.array([action in entry.mandatory for action in entry.actions], dtype=np.bool_)
    worth = utility(factors, entry.policy, unpack_goal(entry))
    slate = draw_slate(
        factors,
        worth,
        entry.policy,
        mandatory,
        entry.shared,
        len(entry.slots),
        entry.decision_id,
        entry.holdout,
    )
    differences = []
    for number, slot in enumerate(entry.slots):
        index = slate.chosen[number]
        action = entry.actions[index] if index >= 0 else ""
        if action != slot.action:
            differences.append(Difference(f"slots[{number}].action", slot.action or "none", action or "none"))
        propensity = slate.propensity[number]
        if propensity != slot.propensity:
            differences.append(Difference(f"slots[{number}].propensity", repr(slot.propensity), repr(propensity)))
    goal = entry.goal
    if goal is not None and goal.slot != slate.arbitrated:
        differences.append(Difference("goal.slot", str(goal.slot), str(slate.arbitrated)))
    elif goal is not None and goal.slot >= 0 and goal.action != entry.slots[goal.slot].action:
        credited = entry.slots[goal.slot].action
        differences.append(Difference("goal.action", goal.action or "none", credited or "none"))
    expected = worth.expected().astype(np.float32)
    recomputed = slate.probability[:-1].astype(np.float32)
    for i, action in enumerate(entry.actions):
        if recomputed[i] != table[i, -2]:
            differences.append(
                Difference(f"candidates[{action}].probability", repr(float(table[i, -2])), repr(float(recomputed[i])))
            )
        if expected[i] != table[i, -1]:
            differences.append(
                Difference(f"candidates[{action}].utility", repr(float(table[i, -1])), repr(float(expected[i])))
            )
    return Replay(entry.decision_id, same=not differences, differences=tuple(differences))
