"""Hard rules: which actions are candidates now, and a reason code for each that is not.

A rule can only remove. The first reason found is the one reported, in this order: `excluded`, `not_eligible`,
`condition_error`, `experience_floor`, `paused`, `limit_reached`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from cel import Context
from numpy.typing import NDArray

from nbx.catalog.conditions import Condition, ConditionError, build_context
from nbx.catalog.plan import PlacementPlan, Plan
from nbx.decision.contact_policy import reached_limits
from nbx.experience.entries import Removed
from nbx.features.schema import Value
from nbx.features.state import CustomerState


def candidates(
    plan: Plan,
    placement: PlacementPlan,
    state: CustomerState,
    values: Mapping[str, Value],
    relationship: Mapping[str, float],
    exclude: Sequence[str],
    now_ms: int,
) -> tuple[NDArray[np.int64], tuple[Removed, ...]]:
    """Return the positions of the candidates on a placement, and why the others are none.

    Parameters
    ----------
    plan, placement
        The release and its part for the placement.
    state
        Read only.
    values
        Every declared feature's value.
    relationship
        The built-in features.
    exclude
        Actions the caller does not want.
    now_ms
        When.

    Returns
    -------
    positions : ndarray of int64
        Ascending positions into the arrays of `placement`.
    removed : tuple of Removed
        One for each other action of the placement, in the order of the rules.
    """
    open_ = np.ones(len(placement.names), dtype=np.bool_)
    removed: list[Removed] = []

    def remove(position: int, reason: str, detail: str = "") -> None:
        if open_[position]:
            open_[position] = False
            removed.append(Removed(placement.names[position], reason, detail))

    for name in exclude:
        if name in placement.position:
            remove(placement.position[name], "excluded")
    if placement.conditions:
        context = build_context(_condition_values(placement, values, relationship))
        for number, positions in placement.conditions:
            failure = _failure(plan.conditions[number], context)
            if failure is not None:
                for position in positions.tolist():
                    remove(position, *failure)
    floor = plan.rules.experience.floor
    if relationship["balance"] < floor:
        detail = f"balance {relationship['balance']:.2f} < {floor:g}"
        for position in np.flatnonzero(placement.promotional & open_).tolist():
            remove(position, "experience_floor", detail)
    for action, pause in state.pauses.items():
        if action in placement.position and pause.until_ms > now_ms:
            remove(placement.position[action], "paused", f"{pause.outcome}, until {pause.until_ms}")
    for position, detail in reached_limits(state, placement, plan.rules, now_ms):
        remove(position, "limit_reached", detail)
    return np.flatnonzero(open_), tuple(removed)


def _condition_values(
    placement: PlacementPlan, values: Mapping[str, Value], relationship: Mapping[str, float]
) -> dict[str, dict[str, Value]]:
    """Collect what the placement's conditions read, by root."""
    found: dict[str, dict[str, Value]] = {"customer": {}, "request": {}, "relationship": {}}
    for path in placement.condition_paths:
        root, _, name = path.partition(".")
        if root == "relationship":
            found[root][name] = relationship[name]
        elif name in values:
            found[root][name] = values[name]
        elif root == "request":
            spot = placement.placement
            found[root][name] = spot.name if name == "placement" else spot.channel
    return found


def _failure(condition: Condition, context: Context) -> tuple[str, str] | None:
    """Return reason and detail when a condition does not hold."""
    try:
        return None if condition.holds(context) else ("not_eligible", condition.source)
    except ConditionError as error:
        return "condition_error", f"{condition.source}: {error.message}"
