"""Contact limits: at most N exposures per rolling window, counted on proof plus what may still be seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from nbx.catalog.model import Limit
from nbx.catalog.plan import PlacementPlan, Rules
from nbx.experience.entries import SharedLimit
from nbx.features.state import CustomerState


def reached_limits(
    state: CustomerState, placement: PlacementPlan, rules: Rules, now_ms: int
) -> Iterator[tuple[int, str]]:
    """Yield the positions whose action's or group's limit is used up, with the limit in words.

    Only actions this customer has met can have used anything up, so the cost grows with them, not with the catalog.
    """
    met = dict.fromkeys((*state.exposures, *(reserved.action for reserved in state.reserved.values())))
    groups: dict[str, None] = {}
    for action in met:
        policy = rules.actions.get(action)
        if policy is None:
            continue
        if policy.group_limits:
            groups[policy.group] = None
        if action in placement.position:
            for limit, left in _left(state, (action,), policy.limits, now_ms):
                if left <= 0:
                    yield placement.position[action], _words(limit)
    for group in groups:
        if group in placement.groups:
            for limit, left in _group_left(state, group, rules, now_ms):
                if left <= 0:
                    for position in placement.groups[group].tolist():
                        yield position, f"group {group}: {_words(limit)}"


def shared_limits(
    state: CustomerState, placement: PlacementPlan, positions: NDArray[np.int64], rules: Rules, slots: int, now_ms: int
) -> tuple[SharedLimit, ...]:
    """Return the group limits that a slate of `slots` could overshoot by itself."""
    limits = []
    for group, members in placement.groups.items():
        indices = np.flatnonzero(np.isin(positions, members)).tolist()
        if len(indices) > 1:
            allowance = min(left for _, left in _group_left(state, group, rules, now_ms))
            if allowance < min(slots, len(indices)):
                limits.append(SharedLimit(tuple(indices), allowance))
    return tuple(limits)


def _group_left(state: CustomerState, group: str, rules: Rules, now_ms: int) -> Iterator[tuple[Limit, int]]:
    actions = rules.members[group]
    return _left(state, actions, rules.actions[actions[0]].group_limits, now_ms)


def _words(limit: Limit) -> str:
    return f"{limit.max} per {limit.per_ms // 1000} s"


def _left(
    state: CustomerState, actions: Iterable[str], limits: Iterable[Limit], now_ms: int
) -> Iterator[tuple[Limit, int]]:
    times = [at_s for action in actions for at_s in state.exposures.get(action, ())]
    reserved = sum(1 for r in state.reserved.values() if r.until_ms > now_ms and r.action in actions)
    for limit in limits:
        since_s = (now_ms - limit.per_ms) // 1000
        yield limit, limit.max - reserved - sum(1 for at_s in times if at_s > since_s)
