"""What a decision saw: the values behind its conditions and its x, by the names that conditions use.

Of a customer rebuilt from the log every value is known. Without one, the record still tells the request, the
relationship and, of what is encoded, what can be read off x: categories and yes or no exactly, numbers to the six
digits that single precision keeps, unless they were clipped. What cannot be told is left out, never guessed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nbx.decision.eligibility import condition_values
from nbx.decision.facts import Facts, gather
from nbx.features.kernels import CLIP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from nbx.catalog.plan import PlacementPlan, Plan
    from nbx.decision.again import Again
    from nbx.experience.entries import DecisionEntry
    from nbx.features.schema import Feature, Value

REBUILT, RECORD = "rebuilt", "record"


class Seen(NamedTuple):
    """Values by path, such as `customer.age`."""

    values: Mapping[str, Value]
    source: str
    """`rebuilt`: of the customer as the log tells; `record`: of the record alone, and not all of them."""


def facts_of(asked: Again) -> Facts:
    """Gather what was known when it was decided."""
    entry, placement = asked.entry, asked.plan.placements[asked.request.placement]
    return gather(asked.plan, placement, asked.state, asked.request, entry.at_ms, entry.policy.salt, asked.model)


def seen_again(asked: Again) -> Seen:
    """Return what a rebuilt customer's decision saw: all that conditions of the placement read, and all features."""
    facts, plan = facts_of(asked), asked.plan
    placement = plan.placements[asked.request.placement]
    values = {f"{_root(feature)}.{feature.name}": facts.values[feature.name] for feature in plan.catalog.features}
    values |= {"request.placement": placement.placement.name, "request.channel": placement.placement.channel}
    values |= {f"relationship.{name}": value for name, value in facts.relationship.items()}
    for root, named in condition_values(placement, facts).items():
        values |= {f"{root}.{name}": value for name, value in named.items()}
    return Seen(values, REBUILT)


def seen_in_record(entry: DecisionEntry, plan: Plan) -> Seen:
    """Return what the record alone tells."""
    placement: PlacementPlan | None = plan.placements.get(entry.request.placement)
    values: dict[str, Value] = {"request.placement": entry.request.placement}
    if entry.channel or placement is not None:
        values["request.channel"] = entry.channel or (placement.placement.channel if placement is not None else "")
    values |= {f"relationship.{name}": value for name, value in entry.relationship.items()}
    if not entry.x:
        return Seen(values, RECORD)
    x = np.frombuffer(entry.x, dtype=np.float32)
    at = {name: k for k, name in enumerate(plan.layout.columns)}
    if len(x) != len(at):
        return Seen(values, RECORD)
    for feature in plan.catalog.features:
        path = f"{_root(feature)}.{feature.name}"
        if feature.origin == "context":
            values[path] = entry.request.context.get(feature.name, feature.default)
        elif feature.name in (*entry.quarantined, *entry.stale) or (feature.is_personal and not entry.personalised):
            values[path] = plan.untouched[feature.name]
        else:
            columns = x[[at[name] for name in plan.layout.columns_of([feature.name])]]
            if _tells(feature, columns):
                values[path] = _decoded(feature, columns)
    for name, text in zip(plan.catalog.segments, entry.segments, strict=False):
        feature = next(each for each in plan.catalog.features if each.name == name)
        if feature.type == "category":
            values[f"{_root(feature)}.{name}"] = text
    return Seen(values, RECORD)


def _root(feature: Feature) -> str:
    return "request" if feature.origin == "context" else "customer"


def _tells(feature: Feature, columns: NDArray[np.float32]) -> bool:
    """Tell whether the value that was encoded can be read off its columns."""
    kind = feature.encoding.kind
    if kind == "onehot":
        return bool(columns.any())
    return kind == "flag" or (kind in ("standard", "log") and abs(columns[0]) < CLIP)


def _decoded(feature: Feature, columns: NDArray[np.float32]) -> Value:
    """Return the value that was encoded; `_tells` has said that it can be told."""
    encoding, scaled = feature.encoding, float(columns[0])
    match encoding.kind:
        case "onehot":
            return encoding.categories[int(columns.argmax())]
        case "flag":
            return bool(scaled)
        case "standard":
            return _rounded(scaled * encoding.sd + encoding.mean)
    return _rounded(math.expm1(scaled * math.log1p(encoding.sd)))


def _rounded(number: float) -> float:
    return float(f"{number:.6g}")
