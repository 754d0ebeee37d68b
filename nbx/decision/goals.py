"""What each choice, silence included, does for the goal of its placement.

A goal has models of its own, one per action and one for silence (`nbx.catalog.plan.goal_model`). A candidate gains
value · (P(goal | candidate) − P(goal | none)), so that silence stays worth 0: its own value is the zero of the scale.
Like expected experience it is an expectation that shifts the whole distribution; only the response is sampled.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nbx.bandits import kernels
from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import PlacementPlan
from nbx.experience.entries import DecisionEntry, GoalRecord

F32 = NDArray[np.float32]


class Goal(Struct, frozen=True, gc=False):
    """Chances of a goal: what is logged is what was used."""

    value: float
    """Money of reaching it."""
    none: float
    """Chance that silence reaches it, 0..1."""
    reached: F32
    """float32[n], chance that each candidate does."""

    def worth(self) -> NDArray[np.float64]:
        """Money that each candidate gains over silence, float64[n].

        Examples
        --------
        >>> Goal(10.0, 0.5, np.array([0.75, 0.25], np.float32)).worth().tolist()
        [2.5, -2.5]
        """
        return self.value * (self.reached.astype(np.float64) - self.none)


def score_goal(x: F32, model: BoundModel, placement: PlacementPlan, positions: NDArray[np.int64]) -> Goal | None:
    """Score the candidates at `positions` and silence for the placement's goal; None when it has none."""
    goal = placement.placement.goal
    if goal is None:
        return None
    rows = placement.goal_rows
    if len(positions) + 1 != len(rows):
        rows = np.append(rows[positions], rows[-1])
    mean, sd, points = (np.empty(len(rows), dtype=np.float32) for _ in range(3))
    kernels.score(x, model.mean, model.cov_packed, model.experience, rows, mean, sd, points)
    chance = kernels.response_probability(mean, sd)
    return Goal(goal.value, float(chance[-1]), chance[:-1].astype(np.float32))


def goal_record(goal: Goal | None, placement: PlacementPlan, action: str, slot: int) -> GoalRecord | None:
    """Build what is logged; `action` in `slot` is the choice whose success it will be, slot −1: none was arbitrated."""
    declared = placement.placement.goal
    if goal is None or declared is None:
        return None
    return GoalRecord(
        event=declared.event,
        within_ms=declared.within_ms,
        value=goal.value,
        none=goal.none,
        reached=goal.reached.tobytes(),
        action=action,
        slot=slot,
    )


def unpack_goal(entry: DecisionEntry) -> Goal | None:
    """Return the logged chances."""
    logged = entry.goal
    return None if logged is None else Goal(logged.value, logged.none, np.frombuffer(logged.reached, dtype=np.float32))
