"""What may be published but is probably not meant: `lint_catalog`.

A function of the model, as `nbx.catalog.faults`; `nbx.catalog.parse` adds line and column by path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.catalog.conditions import comparisons, did_you_mean
from nbx.catalog.findings import Finding, found
from nbx.features.schema import Aggregate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbx.catalog.model import Action, Catalog


def lint_catalog(catalog: Catalog) -> list[Finding]:
    """Return what may be published but is probably not meant.

    Codes: `unused` (a placement or group without actions), `no_owner`, `no_limit` (a promotional action that may be
    shown without end), `unknown_category` (a condition compares with a value that is not among the categories),
    `never_is_recent` (a `time_since` whose default says that what never happened happened just now).
    """
    return [*_unused(catalog), *_careless_actions(catalog), *_unknown_categories(catalog), *_recent_defaults(catalog)]


def _placements_of(action: Action) -> set[str]:
    return {name for treatment in action.treatments for name in treatment.placements}


def _unused(catalog: Catalog) -> Iterator[Finding]:
    shown = {name for action in catalog.actions for name in _placements_of(action)}
    for placement in catalog.placements:
        if placement.name not in shown:
            yield found(f"placements.{placement.name}", "unused", "no action has a treatment for it: it answers none")
    grouped = {action.group for action in catalog.actions}
    for group in catalog.groups:
        if group.name not in grouped:
            yield found(f"groups.{group.name}", "unused", "no action is in it")


def _careless_actions(catalog: Catalog) -> Iterator[Finding]:
    limited = {group.name for group in catalog.groups if group.limits}
    for action in catalog.actions:
        path = f"actions.{action.name}"
        if not action.owner:
            yield found(f"{path}.owner", "no_owner", "has no owner: nobody is told when it fails customers")
        if action.action_class == "promotional" and not action.limits and action.group not in limited:
            text = "a promotional action without limits, nor has its group any: a customer may see it every time"
            yield found(f"{path}.limits", "no_limit", text)


def _unknown_categories(catalog: Catalog) -> Iterator[Finding]:
    categories = {
        f"{'request' if feature.origin == 'context' else 'customer'}.{feature.name}": feature.encoding.categories
        for feature in catalog.features
        if feature.encoding.categories
    }
    for action in catalog.actions:
        for each in comparisons(action.eligible) if action.eligible else ():
            known = categories.get(each.path, ())
            if known and isinstance(each.literal, str) and each.literal and each.literal not in known:
                text = f"{each.path} is compared with `{each.literal:.80}`, which is not among its categories."
                text += did_you_mean(each.literal, known)
                yield found(f"actions.{action.name}.eligible", "unknown_category", text)


def _recent_defaults(catalog: Catalog) -> Iterator[Finding]:
    for feature in catalog.features:
        if isinstance(feature.origin, Aggregate) and feature.origin.kind == "time_since" and feature.default == 0:
            text = (
                "its default of 0 hours says that what never happened happened just now: give a long time, such as 720"
            )
            yield found(f"features.{feature.name}.default", "never_is_recent", text)
