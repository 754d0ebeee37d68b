"""Filter, encode, score, choose: a pure function of plan, model, state, request, decision id and time.

No I/O, no clock, no global: serving, preview, replay, back-tests and simulation all call `decide`.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import PlacementPlan, Plan
from nbx.decision.arbitration import Factors, Utility, score, utility
from nbx.decision.contact_policy import shared_limits
from nbx.decision.eligibility import candidates
from nbx.decision.goals import Goal, score_goal
from nbx.decision.messages import DecideRequest
from nbx.decision.slate import Slate, draw_slate
from nbx.experience.entries import PolicyRecord, Removed, SharedLimit
from nbx.experience.relationship import relationship_features
from nbx.features.state import CustomerState


class Choice(Struct, frozen=True, gc=False):
    """A decision, before it is committed."""

    placement: PlacementPlan
    positions: NDArray[np.int64]
    """(n,) candidates, as positions in the placement's arrays."""
    removed: tuple[Removed, ...]
    x: NDArray[np.float32]
    relationship: dict[str, float]
    factors: Factors
    utility: Utility
    policy: PolicyRecord
    shared: tuple[SharedLimit, ...]
    slate: Slate
    goal: Goal | None = None
    """None: the placement has none."""


def decide(
    plan: Plan,
    model: BoundModel,
    state: CustomerState,
    request: DecideRequest,
    decision_id: str,
    now_ms: int,
    *,
    salt: str,
) -> Choice:
    """Choose for a request.

    Parameters
    ----------
    plan, model
        Release and snapshot in force; the model is bound to the plan.
    state
        Read only.
    request
        Checked by `nbx.decision.service`: the placement exists, slots and context are within bounds.
    decision_id
        Seeds the draws.
    now_ms
        When.
    salt
        Separates the draws of one installation from another's.
    """
    placement = plan.placements[request.placement]
    relationship = relationship_features(state, now_ms, plan.rules.experience)
    values = plan.resolver.resolve(state, request.context, now_ms)
    positions, removed = candidates(plan, placement, state, values, relationship, request.exclude, now_ms)
    x = plan.layout.encode(values, relationship)
    factors = score(x, model, placement, positions)
    goal = score_goal(x, model, placement, positions)
    freedom = 1.0 - placement.placement.stakes
    policy = PolicyRecord(
        exchange=plan.rules.experience.exchange,
        strain=relationship["strain"],
        scale=plan.exploration.scale * model.exploration * freedom,
        floor=plan.exploration.floor * freedom,
        salt=salt,
    )
    shared = shared_limits(state, placement, positions, plan.rules, request.slots, now_ms) if request.slots > 1 else ()
    worth = utility(factors, policy, goal)
    mandatory = placement.mandatory[positions]
    slate = draw_slate(factors, worth, policy, mandatory, shared, request.slots, decision_id)
    return Choice(placement, positions, removed, x, relationship, factors, worth, policy, shared, slate, goal)
