"""Catalogs of a given size for benchmarks."""

from __future__ import annotations

from nbx.catalog.model import Action, Catalog, Exploration, Group, Limit, Placement, Treatment
from nbx.features.schema import Aggregate, Encoding, Feature

BUILT_IN = 5
"""Columns every layout has: the constant and the relationship."""


def sized(actions: int, width: int, conditions: int = 0) -> Catalog:
    """Return a catalog with `actions` candidates on placement `hero` and `width` columns of x."""
    day_ms = 86_400_000
    declared = width - BUILT_IN
    features = []
    for i in range(declared):
        origin = (
            Aggregate(event="page_view", kind="count", window_ms=7 * day_ms)
            if i % 8 == 0
            else ("context" if i % 4 == 1 else "profile")
        )
        features.append(
            Feature(name=f"f{i}", type="number", encoding=Encoding(kind="standard"), default=0.0, origin=origin)  # type: ignore[arg-type]
        )
    return Catalog(
        name="sized",
        features=tuple(features),
        placements=(Placement(name="hero", channel="web", impressions="reported"),),
        groups=(Group(name="g0"), Group(name="g1")),
        actions=tuple(
            Action(
                name=f"a{i}",
                group=f"g{i % 2}",
                value=10.0 + i,
                gives=("something",),
                eligible=f"customer.f{i % declared} < {100 + i % conditions}.0" if conditions else "",
                limits=(Limit(max=20, per_ms=7 * day_ms),) if i % 2 else (),
                treatments=(Treatment(name="t", placements=("hero",), content={"headline": "Something for you"}),),
            )
            for i in range(actions)
        ),
        exploration=Exploration(),
    )
