"""A catalog played fast: all of its durations divided, for demonstrations and simulations."""

from __future__ import annotations

import math

from msgspec.structs import replace

from nbx.catalog.model import Action, Catalog, ContactPolicy, ContactRule, Group, Limit, Pause, Placement
from nbx.errors import SetupError
from nbx.features.schema import Aggregate, Feature


def scale_durations(catalog: Catalog, factor: float, *, least_attention_ms: int) -> Catalog:
    """Divide every duration by `factor`, so that a demonstration plays weeks in a minute.

    Delivery and attention never fall below `least_attention_ms`; no other duration that is set falls below 1 ms. The
    default and the encoding of a `time_since` feature are durations in hours and are divided too. Hours or minutes
    written inside a condition, dates and quiet hours stay as they are; examples speak of the catalog as written and
    are left out.

    Parameters
    ----------
    factor
        > 0, finite.

    Raises
    ------
    SetupError
        `factor` is not a positive number.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise SetupError(f"factor must be a number > 0, found {factor}", field="factor")

    def scaled(ms: int, least: int = 1) -> int:
        return max(round(ms / factor), least) if ms else 0

    def limited(all_limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
        return tuple(replace(each, per_ms=scaled(each.per_ms)) for each in all_limits)

    def paused(pause: Pause | None) -> Pause | None:
        return pause and replace(
            pause,
            declined_ms=scaled(pause.declined_ms),
            dismissed_ms=scaled(pause.dismissed_ms),
            ignored_ms=scaled(pause.ignored_ms),
            ignored_within_ms=scaled(pause.ignored_within_ms),
        )

    def rule(each: ContactRule) -> ContactRule:
        return ContactRule(limits=limited(each.limits), gap_ms=scaled(each.gap_ms), pause=paused(each.pause))

    def contact(each: ContactPolicy) -> ContactPolicy:
        return replace(
            each,
            overall=rule(each.overall),
            channels={name: rule(of) for name, of in each.channels.items()},
            classes={name: rule(of) for name, of in each.classes.items()},
        )

    def group(each: Group) -> Group:
        pause, pause_group = paused(each.pause), paused(each.pause_group)
        return replace(each, limits=limited(each.limits), pause=pause, pause_group=pause_group)

    def feature(each: Feature) -> Feature:
        each = replace(each, max_age_ms=scaled(each.max_age_ms))
        origin = each.origin
        if not isinstance(origin, Aggregate):
            return each
        if origin.kind == "time_since" and not isinstance(each.default, str):
            encoding = replace(each.encoding, mean=each.encoding.mean / factor, sd=each.encoding.sd / factor)
            each = replace(each, default=each.default / factor, encoding=encoding)
        window, half_life = scaled(origin.window_ms), scaled(origin.half_life_ms)
        return replace(each, origin=replace(origin, window_ms=window, half_life_ms=half_life))

    def placement(each: Placement) -> Placement:
        delivery, attention = (
            scaled(each.delivery_ms, least_attention_ms),
            scaled(each.attention_ms, least_attention_ms),
        )
        goal = each.goal and replace(each.goal, within_ms=scaled(each.goal.within_ms))
        return replace(each, delivery_ms=delivery, attention_ms=attention, goal=goal)

    def action(each: Action) -> Action:
        attention = scaled(each.attention_ms, least_attention_ms)
        return replace(each, limits=limited(each.limits), pause=paused(each.pause), attention_ms=attention)

    return replace(
        catalog,
        features=tuple(map(feature, catalog.features)),
        placements=tuple(map(placement, catalog.placements)),
        groups=tuple(map(group, catalog.groups)),
        actions=tuple(map(action, catalog.actions)),
        experience=replace(catalog.experience, half_life_ms=scaled(catalog.experience.half_life_ms)),
        contact=contact(catalog.contact),
        budgets=tuple(replace(each, per_ms=scaled(each.per_ms)) for each in catalog.budgets),
        concerns=tuple(replace(each, timeout_ms=scaled(each.timeout_ms)) for each in catalog.concerns),
        examples=(),
        attribution_ms=scaled(catalog.attribution_ms),
        correction_ms=scaled(catalog.correction_ms),
    )
