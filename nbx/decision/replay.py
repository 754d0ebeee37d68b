"""Recompute a decision from its record: same choice and propensity, or a loud difference.

What the record itself rests on (state, model, release) is not asked here: see `nbx.decision.recompute`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from msgspec import Struct

from nbx.decision.arbitration import utility
from nbx.decision.goals import unpack_goal
from nbx.decision.record import unpack_factors
from nbx.decision.slate import draw_slate
from nbx.experience.entries import DecisionEntry

Verdict = Literal[
    "", "release_changed", "code_changed", "library_changed", "log_incomplete", "log_altered", "record_altered"
]
"""Why something came out otherwise: the release is not the one that decided; other code or libraries computed it; the
log does not hold all that it rests on; nothing of that, and what it rests on says something else now; nor that, and so
it is the record. Empty: nobody asked."""


class Difference(Struct, frozen=True):
    """Something that came out otherwise."""

    what: str
    recorded: str
    recomputed: str
    verdict: Verdict = ""
    why: str = ""
    """The verdict in words."""


class Replay(Struct, frozen=True):
    """Result of recomputing a decision."""

    decision_id: str
    same: bool
    differences: tuple[Difference, ...]
    deep: bool = False
    """State and model were rebuilt from the log, and the whole record compared."""
    notes: tuple[str, ...] = ()
    """What is not as it was then, whether or not anything came out otherwise for it."""


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
