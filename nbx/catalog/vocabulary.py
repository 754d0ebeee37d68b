"""The names that conditions may use, with what is known of their values."""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

from nbx.catalog.model import Clusters, Concern, Journey, Placement
from nbx.features.schema import Aggregate, Feature, FeatureType

ROOTS = ("customer", "request", "relationship", "journey", "concern")
REQUEST = ("placement", "channel")
"""Built-in names under `request`."""
RELATIONSHIP: dict[str, tuple[float, float]] = {
    "balance": (-math.inf, math.inf),
    "strain": (0.0, 1.0),
    "ignored_30d": (0.0, math.inf),
    "minutes_since_prompt": (0.0, 10_080.0),
    "asked": (0.0, math.inf),
    "given": (0.0, math.inf),
    "obligations": (0.0, math.inf),
    "promises_broken": (0.0, math.inf),
    "promises_open": (0.0, math.inf),
}
"""What conditions read of the relationship, each with its least and greatest value; minutes end at a week."""
CLUSTER = "cluster"
"""Under `relationship` too, where the catalog declares clusters: the customer's, -1: none yet."""


class Variable(Struct, frozen=True, kw_only=True):
    """A name a condition may use."""

    type: FeatureType
    low: float = -math.inf
    """Least value of a number."""
    high: float = math.inf
    """Greatest value of a number."""
    known: tuple[str, ...] = ()
    """Values that a category is compared with; empty: any."""
    known_as: str = ""
    """What each of them is, such as `category of customer.tier`."""


def vocabulary(
    features: Iterable[Feature],
    journeys: Iterable[Journey] = (),
    concerns: Iterable[Concern] = (),
    placements: Iterable[Placement] = (),
    *,
    clusters: Clusters | None = None,
) -> dict[str, Variable]:
    """Return every path a condition may use.

    Examples
    --------
    >>> words = vocabulary([], concerns=[Concern(name="payment", opens=("payment_failed",))])
    >>> words["concern.payment"].type, words["relationship.strain"].high
    ('boolean', 1.0)
    """
    words = {f"relationship.{name}": _number(low, high) for name, (low, high) in RELATIONSHIP.items()}
    if clusters is not None:
        words[f"relationship.{CLUSTER}"] = _number(-1.0, clusters.count - 1.0)
    spots = list(placements)
    for name in REQUEST:
        known = tuple(dict.fromkeys(spot.name if name == "placement" else spot.channel for spot in spots))
        words[f"request.{name}"] = Variable(type="category", known=known, known_as=name)
    for feature in features:
        root = "request" if feature.origin == "context" else "customer"
        words[f"{root}.{feature.name}"] = _variable(feature, f"{root}.{feature.name}")
    for journey in journeys:
        known = ("", *(step.name for step in journey.steps))
        known_as = f"step of journey `{journey.name}`"
        words[f"journey.{journey.name}"] = Variable(type="category", known=known, known_as=known_as)
    for concern in concerns:
        words[f"concern.{concern.name}"] = Variable(type="boolean")
    return words


def is_personal_path(path: str, features: Iterable[Feature]) -> bool:
    """Tell whether reading a name of a condition needs the customer's consent to personalise.

    Examples
    --------
    >>> is_personal_path("journey.onboarding", ()), is_personal_path("request.placement", ())
    (True, False)
    """
    root, _, name = path.partition(".")
    if root not in ("customer", "request"):
        return True
    return any(
        feature.is_personal
        for feature in features
        if feature.name == name and (feature.origin == "context") == (root == "request")
    )


def _variable(feature: Feature, path: str) -> Variable:
    if feature.type == "boolean":
        return Variable(type="boolean")
    if feature.type == "number":
        never_below_0 = isinstance(feature.origin, Aggregate) and feature.origin.kind in ("count", "time_since")
        return _number(min(0.0, float(feature.default)) if never_below_0 else -math.inf)
    categories = feature.encoding.categories
    known = tuple(dict.fromkeys((*categories, str(feature.default), ""))) if categories else ()
    return Variable(type="category", known=known, known_as=f"category of {path}")


def _number(low: float, high: float = math.inf) -> Variable:
    return Variable(type="number", low=low, high=high)
