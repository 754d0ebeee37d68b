"""Catalogs of a given size for benchmarks."""

from __future__ import annotations

from msgspec.structs import replace

from nbx.catalog.model import (
    Action,
    Budget,
    Catalog,
    ContactPolicy,
    ContactRule,
    Exploration,
    Group,
    Holdout,
    Limit,
    Pause,
    Placement,
    QuietHours,
    Treatment,
)
from nbx.features.schema import Aggregate, Encoding, Feature

BUILT_IN = 5
"""Columns every layout has: the constant and the relationship."""


def sized(actions: int, width: int, conditions: int = 0) -> Catalog:
    """Return a catalog with `actions` candidates on placement `hero`, `width` columns, `conditions` distinct ones."""
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
    told = [feature.name for feature in features if feature.origin != "context"]

    def condition(number: int) -> str:
        return f"customer.{told[number % len(told)]} < {100 + number}.0"

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
                eligible=condition(i % conditions) if conditions else "",
                limits=(Limit(max=20, per_ms=7 * day_ms),) if i % 2 else (),
                treatments=(Treatment(name="t", placements=("hero",), content={"headline": "Something for you"}),),
            )
            for i in range(actions)
        ),
        exploration=Exploration(),
    )


def guarded(actions: int, width: int, conditions: int) -> Catalog:
    """Return `sized` with every kind of guardrail: `conditions` distinct ones in three layers, contact policy."""
    hour_ms, day_ms = 3_600_000, 86_400_000
    bare = sized(actions, width)
    numbers = [f for f in bare.features if f.origin != "context"]

    def condition(i: int) -> str:
        feature = numbers[i % len(numbers)].name
        return f"customer.{feature} < {100 + i}.0 && relationship.strain < 0.99"

    layer = ("eligible", "applicable", "suitable")
    return replace(
        bare,
        time_zone="Europe/Berlin",
        groups=tuple(
            Group(
                name=f"g{i}",
                limits=(Limit(max=40, per_ms=7 * day_ms),),
                pause_group=Pause(declined_ms=hour_ms),
                per_slate=2,
            )
            for i in range(20)
        ),
        actions=tuple(
            replace(
                action,
                group=f"g{i % 20}",
                limits=(Limit(max=20, per_ms=7 * day_ms), Limit(max=50, per_ms=30 * day_ms)),
                pause=Pause(declined_ms=day_ms, ignored_ms=day_ms, ignored_count=3, ignored_within_ms=7 * day_ms),
                cost=1.0,
                **{layer[i % conditions % 3]: condition(i % conditions)},
            )
            for i, action in enumerate(bare.actions)
        ),
        contact=ContactPolicy(
            overall=ContactRule(limits=(Limit(max=64, per_ms=7 * day_ms),), gap_ms=60_000),
            channels={"web": ContactRule(limits=(Limit(max=64, per_ms=7 * day_ms),))},
            classes={"promotional": ContactRule(limits=(Limit(max=64, per_ms=7 * day_ms),))},
            quiet_hours=(QuietHours(from_minute=1320, to_minute=300),),
            exclusive=(("a0", "a1", "a2"),),
        ),
        budgets=(Budget(name="all", groups=("g0", "g1"), units=10**9, money=1e9, per_ms=day_ms),),
        holdout=Holdout(silent=0.01, random=0.01),
    )
