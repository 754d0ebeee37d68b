"""Hard rules: which actions are candidates now, and a reason code for each that is not.

A rule can only remove. The first reason found is the one reported, in this order: `excluded`, `not_eligible`,
`condition_error`, `experience_floor`, `paused`, `limit_reached`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nbx.catalog.conditions import ConditionError, build_context
from nbx.catalog.plan import PlacementPlan, Plan
from nbx.decision.contact_policy import limit_reached
from nbx.experience.entries import Removed
from nbx.features.schema import Value
from nbx.features.state import CustomerState


def candidates(
    plan: Plan,
    placement: PlacementPlan,
    state: CustomerState,
    values: Mapping[str, Mapping[str, Value]],
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
        `customer`, `request` and `relationship` values for conditions.
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
        position = placement.position.get(name)
        if position is not None:
            remove(position, "excluded")
    if placement.conditions:
        context = build_context(values)
        for number, positions in placement.conditions:
            condition = plan.conditions[number]
            try:
                if condition.holds(context):
                    continue
                reason, detail = "not_eligible", condition.source
            except ConditionError as error:
                reason, detail = "condition_error", f"{condition.source}: {error.message}"
            for row in positions:
                remove(int(row), reason, detail)
    balance = float(values["relationship"]["balance"])
    floor = plan.rules.experience.floor
    if balance < floor:
        for row in np.flatnonzero(placement.promotional & open_):
            remove(int(row), "experience_floor", f"balance {balance:.2f} < {floor:g}")
    for action, pause in state.pauses.items():
        position = placement.position.get(action)
        if position is not None and pause.until_ms > now_ms:
            remove(position, "paused", f"{pause.outcome}, until {pause.until_ms}")
    for position in placement.limited:
        if open_[position]:
            reached = limit_reached(state, placement.names[position], plan.rules, now_ms)
            if reached:
                remove(position, "limit_reached", reached)
    return np.flatnonzero(open_), tuple(removed)
