"""The slow, obvious twin of a whole decision: plain Python over the same inputs, no kernels, no arrays of state.

It shares no code with `nbx.decision`: rules are read from the catalog itself, scores are sums, and the selection
distribution is `tests.reference.bandits`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cel
import numpy as np

from nbx.catalog.model import Action, Catalog, Limit, Placement
from nbx.features.schema import Value
from nbx.features.state import CustomerState


class Candidate(NamedTuple):
    """A candidate and its price."""

    action: str
    mean: float
    sd: float
    gain: float
    shift: float


def allowed(  # the rules one after the other, per action
    catalog: Catalog,
    placement: Placement,
    state: CustomerState,
    customer: Mapping[str, Value],
    relationship: Mapping[str, float],
    exclude: Sequence[str],
    now_ms: int,
) -> dict[str, str]:
    """Return action → reason it is out, or "" when it is a candidate, for every action of the placement."""
    groups = {group.name: group for group in catalog.groups}
    found: dict[str, str] = {}
    for action in catalog.actions:
        if not any(placement.name in treatment.placements for treatment in action.treatments):
            continue
        found[action.name] = ""
        if action.name in exclude:
            found[action.name] = "excluded"
        elif action.eligible and not _holds(catalog, placement, action.eligible, customer, relationship):
            found[action.name] = "not_eligible"
        elif relationship["balance"] < catalog.experience.floor and action.action_class == "promotional":
            found[action.name] = "experience_floor"
        elif action.name in state.pauses and state.pauses[action.name].until_ms > now_ms:
            found[action.name] = "paused"
        elif _reached(state, [action.name], action.limits, now_ms) or _reached(
            state, [a.name for a in catalog.actions if a.group == action.group], groups[action.group].limits, now_ms
        ):
            found[action.name] = "limit_reached"
    return found


def priced(
    action: Action,
    x: Sequence[float],
    mean: Sequence[float],
    covariance: Sequence[Sequence[float]],
    experience: Sequence[float],
    exchange: float,
    strain: float,
) -> Candidate:
    """Score one action by sums."""
    d = len(x)
    z = sum(mean[i] * x[i] for i in range(d))
    variance = sum(x[i] * covariance[i][j] * x[j] for i in range(d) for j in range(d))
    points = sum(experience[i] * x[i] for i in range(d))
    return Candidate(action.name, z, math.sqrt(max(variance, 0.0)), action.value, exchange * (1 + strain) * points)


def chance(x: Sequence[float], mean: Sequence[float], covariance: Sequence[Sequence[float]]) -> float:
    """Chance of yes under a Gaussian log-odds, by MacKay's equation 13."""
    d = len(x)
    z = sum(mean[i] * x[i] for i in range(d))
    variance = sum(x[i] * covariance[i][j] * x[j] for i in range(d) for j in range(d))
    return 1 / (1 + math.exp(-z / math.sqrt(1 + math.pi * variance / 8)))


def worth(prior: float, strength: float, reported: Sequence[float]) -> float:
    """Value of an acceptance: `strength` imagined reports of `prior` among those there were, never below 0."""
    return max(0.0, (strength * prior + sum(reported)) / (strength + len(reported)))


def unpacked(packed: Sequence[float], d: int) -> list[list[float]]:
    """Return the full symmetric matrix of a packed upper triangle."""
    full = np.zeros((d, d))
    full[np.triu_indices(d)] = packed
    return (full + full.T - np.diag(np.diag(full))).tolist()  # type: ignore[no-any-return]


def _holds(
    catalog: Catalog,
    placement: Placement,
    source: str,
    customer: Mapping[str, Value],
    relationship: Mapping[str, float],
) -> bool:
    request = {f.name: customer[f.name] for f in catalog.features if f.origin == "context"}
    variables = {
        "customer": dict(customer),
        "request": {**request, "placement": placement.name, "channel": placement.channel},
        "relationship": dict(relationship),
    }
    return bool(cel.evaluate(source, variables))


def _reached(state: CustomerState, actions: Sequence[str], limits: Sequence[Limit], now_ms: int) -> bool:
    for limit in limits:
        used = 0
        for action in actions:
            used += sum(1 for at_s in state.exposures.get(action, []) if at_s > (now_ms - limit.per_ms) // 1000)
        used += sum(1 for r in state.reserved.values() if r.action in actions and r.until_ms > now_ms)
        if used >= limit.max:
            return True
    return False
