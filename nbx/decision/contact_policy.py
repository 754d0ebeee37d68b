"""Contact limits: at most N exposures per rolling window, counted on proof plus what may still be seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from nbx.catalog.model import Limit
from nbx.catalog.plan import PlacementPlan, Rules
from nbx.experience.entries import SharedLimit
from nbx.features.state import CustomerState


def limit_reached(state: CustomerState, action: str, rules: Rules, now_ms: int) -> str:
    """Return which limit of an action or its group is used up, in words; empty when none is."""
    policy = rules.actions[action]
    for limit, left in _left(state, (action,), policy.limits, now_ms):
        if left <= 0:
            return f"{limit.max} per {limit.per_ms // 1000} s"
    if policy.group_limits:
        for limit, left in _left(state, rules.members[policy.group], policy.group_limits, now_ms):
            if left <= 0:
                return f"group {policy.group}: {limit.max} per {limit.per_ms // 1000} s"
    return ""


def shared_limits(
    state: CustomerState, placement: PlacementPlan, positions: NDArray[np.int64], rules: Rules, slots: int, now_ms: int
) -> tuple[SharedLimit, ...]:
    """Return the group limits that a slate of `slots` could overshoot by itself."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, position in enumerate(positions):
        policy = rules.actions[placement.names[position]]
        if policy.group_limits:
            members[policy.group].append(index)
    limits = []
    for group, indices in members.items():
        action_limits = rules.actions[rules.members[group][0]].group_limits
        allowance = min(left for _, left in _left(state, rules.members[group], action_limits, now_ms))
        if allowance < min(slots, len(indices)):
            limits.append(SharedLimit(tuple(indices), allowance))
    return tuple(limits)


def _left(
    state: CustomerState, actions: Iterable[str], limits: Iterable[Limit], now_ms: int
) -> Iterable[tuple[Limit, int]]:
    times = [at_s for action in actions for at_s in state.exposures.get(action, ())]
    reserved = sum(1 for r in state.reserved.values() if r.until_ms > now_ms and r.action in actions)
    for limit in limits:
        since_s = (now_ms - limit.per_ms) // 1000
        yield limit, limit.max - reserved - sum(1 for at_s in times if at_s > since_s)
