"""Filter, encode, score, choose: a pure function of plan, model, state, request, decision id and time.

No I/O, no clock, no global: serving, preview, replay, shadow runs, back-tests and simulation all call `decide`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import Option, PlacementPlan, Plan
from nbx.decision.arbitration import Factors, Utility, on_track, score, utility
from nbx.decision.at_once import score_and_draw
from nbx.decision.budgets import NO_BUDGETS, shared_budgets
from nbx.decision.contact_policy import Contacts, shared_limits
from nbx.decision.eligibility import Candidates, candidates
from nbx.decision.facts import Facts, gather
from nbx.decision.goals import Goal, score_goal
from nbx.decision.messages import DecideRequest
from nbx.decision.quiet_hours import next_quiet
from nbx.decision.slate import Slate, draw_slate
from nbx.experience.consent import may_learn
from nbx.experience.entries import Continued, PolicyRecord, Removed, SharedLimit
from nbx.experience.threads import continued
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
    treatments: dict[int, Option]
    """Position → treatment, where it is not the action's first."""
    holdout: str
    """`silent`, `random` or empty."""
    learns: bool
    """The customer agreed to learning."""
    personalised: bool
    """The customer agreed to personalisation; else nothing personal was used."""
    quiet_from_ms: int
    """When quiet hours begin, before which a prompt has to be shown; 0: they never do."""
    goal: Goal | None = None
    """None: the placement has none."""
    stale: tuple[str, ...] = ()
    """Features that were too old to be believed."""
    quarantined: tuple[str, ...] = ()
    """Features that nobody may rely on."""
    stakes: float = 0.0
    """Of the journey steps that the customer is in."""
    segments: tuple[str, ...] = ()
    """Values of the catalog's `segments`."""
    continues: tuple[Continued, ...] = ()
    """Open threads of the customer that were last touched on another channel."""
    after: str = ""
    """Action accepted last before; empty without consent to personalise."""
    table: NDArray[np.float32] | None = None
    """float32[len(FACTORS), n], what is logged of the candidates, where the kernel has written it already."""


class Allowed(NamedTuple):
    """What the rules leave of a placement."""

    facts: Facts
    candidates: Candidates
    shared: tuple[SharedLimit, ...]
    """What bounds the candidates together in one slate."""


def allowed(
    plan: Plan,
    state: CustomerState,
    request: DecideRequest,
    now_ms: int,
    *,
    salt: str,
    purse: Mapping[str, int] = NO_BUDGETS,
    model: BoundModel | None = None,
) -> Allowed:
    """Apply every rule to a request; parameters are those of `decide`. Without a model nobody has a cluster."""
    placement = plan.placements[request.placement]
    facts = gather(plan, placement, state, request, now_ms, salt, model)
    contacts = Contacts(state, plan.rules, now_ms)
    found = candidates(plan, placement, facts, contacts, request.exclude, purse)
    shared: tuple[SharedLimit, ...] = ()
    if request.slots > 1:
        shared = shared_limits(contacts, placement, found.positions, request.slots)
        shared += shared_budgets(placement.budgets, purse, found.positions, request.slots)
    return Allowed(facts, found, shared)


def decide(
    plan: Plan,
    model: BoundModel,
    state: CustomerState,
    request: DecideRequest,
    decision_id: str,
    now_ms: int,
    *,
    salt: str,
    purse: Mapping[str, int] = NO_BUDGETS,
) -> Choice:
    """Choose for a request.

    Parameters
    ----------
    plan, model
        Release and snapshot in force; the model is bound to the plan.
    state
        Read only.
    request
        Checked by `nbx.decision.service`: the placement exists, slots and context are within bounds. The customer is
        the canonical one.
    decision_id
        Seeds the draws.
    now_ms
        When.
    salt
        Separates the draws of one installation from another's.
    purse
        What budgets leave for this worker: resource → amount. A resource that is not in it is not bounded.
    """
    placement = plan.placements[request.placement]
    facts, found, shared = allowed(plan, state, request, now_ms, salt=salt, purse=purse, model=model)
    positions, relationship = found.positions, dict(facts.relationship)
    x = facts.x if facts.x is not None else plan.layout.encode(facts.values, relationship)
    after = state.last_touch if facts.personalised else ""
    weight = on_track(found.context_weight, plan, model, placement, relationship, after)
    freedom = (1.0 - placement.placement.stakes) * (1.0 - facts.stakes)
    policy = PolicyRecord(
        exchange=plan.rules.experience.exchange * (1.0 + facts.stakes),
        strain=relationship["strain"],
        scale=plan.exploration.scale * model.exploration * freedom,
        floor=plan.exploration.floor * freedom,
        salt=salt,
    )
    goal, table = None, None
    if request.slots == 1 and placement.plain and not facts.holdout:
        factors, worth, slate, table = score_and_draw(x, model, placement, positions, weight, policy, decision_id)
    else:
        factors = score(x, model, placement, positions, weight)
        goal = score_goal(x, model, placement, positions)
        worth = utility(factors, policy, goal)
        mandatory = placement.mandatory[positions]
        slate = draw_slate(factors, worth, policy, mandatory, shared, request.slots, decision_id, facts.holdout)
    quiet_hours = plan.catalog.contact.quiet_hours
    return Choice(
        placement=placement,
        positions=positions,
        removed=found.removed,
        x=x,
        relationship=relationship,
        factors=factors,
        utility=worth,
        policy=policy,
        shared=shared,
        slate=slate,
        treatments=found.treatments,
        holdout=facts.holdout,
        learns=may_learn(state, plan.rules.consent),
        personalised=facts.personalised,
        quiet_from_ms=next_quiet(quiet_hours, placement.placement.channel, facts.zone, now_ms) if quiet_hours else 0,
        goal=goal,
        stale=facts.stale,
        quarantined=facts.quarantined,
        stakes=facts.stakes,
        segments=tuple([str(facts.values[name]) for name in segments]) if (segments := plan.catalog.segments) else (),
        after=after,
        table=table,
        continues=continued(state, plan.rules, now_ms, placement.placement.channel) if facts.personalised else (),
    )
