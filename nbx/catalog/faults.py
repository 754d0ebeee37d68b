"""What forbids publishing a catalog and no single value shows: `catalog_faults`.

A function of the model, so a catalog that never was YAML (a test, an import) is held to the same rules.
`nbx.catalog.parse` adds line and column by path. What one value alone can break is checked where it is read, there.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, get_args

from nbx import limits
from nbx.catalog.conditions import KEYWORDS, RELATIONSHIP, REQUEST, did_you_mean
from nbx.catalog.findings import Finding, found
from nbx.catalog.model import OutcomeName
from nbx.features.schema import Feature

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from nbx.catalog.model import Action, Catalog, DefaultChoice, Goal

RESERVED_FEATURES = frozenset(RELATIONSHIP)
"""Names of features that every catalog has without declaring them."""
BUILT_IN_WIDTH = 1 + len(RELATIONSHIP)
"""Columns of x that are not declared: the intercept and one per relationship feature."""
NONE = "none"
"""The choice to stay silent; no action may be called that."""
SLOT_EVENTS = frozenset(get_args(OutcomeName)) | {"delivered", "seen", "skipped", "unsuitable", "no_time"}
"""Events of a slot, which silence cannot have: no goal may be one of them."""


def catalog_faults(catalog: Catalog) -> list[Finding]:
    """Return everything that forbids publishing and that no single value shows; O(size of the catalog).

    An empty reference is skipped: whoever left it empty has reported that.
    """
    faults = [*_feature_faults(catalog), *_placement_faults(catalog)]
    groups = {group.name for group in catalog.groups}
    placements = {placement.name for placement in catalog.placements}
    for action in catalog.actions:
        faults += _action_faults(action, groups, placements)
    return faults


def feature_width(feature: Feature) -> int:
    """Return the number of columns of x a feature takes."""
    widths = {"onehot": len(feature.encoding.categories), "hash": feature.encoding.buckets, "none": 0}
    return widths.get(feature.encoding.kind, 1)


def _unknown(path: str, word: str, name: str, known: Collection[str]) -> Finding:
    hint = did_you_mean(name, known) or (" None is declared" if not known else f" Declare it under {word}s")
    return found(path, f"unknown_{word}", f"unknown {word} `{name}`.{hint}")


def _feature_faults(catalog: Catalog) -> Iterator[Finding]:
    width = BUILT_IN_WIDTH
    for feature in catalog.features:
        path = f"features.{feature.name}"
        if feature.name in RESERVED_FEATURES:
            yield found(path, "reserved", "is built in and kept by nbx: use it as it is, or choose another name")
        elif feature.name in KEYWORDS or (feature.origin == "context" and feature.name in REQUEST):
            yield found(path, "reserved", "has a meaning of its own in conditions: choose another name")
        before, width = width, width + feature_width(feature)
        if before <= limits.FEATURE_WIDTH < width:
            text = f"x must have at most {limits.FEATURE_WIDTH} columns, has {width} with this feature: "
            yield found(f"{path}.encode", "too_wide", text + "use fewer categories or buckets, or encode: none")


def _placement_faults(catalog: Catalog) -> Iterator[Finding]:
    actions = {action.name: action for action in catalog.actions}
    candidates = Counter(name for action in catalog.actions for name in _placements_of(action))
    for placement in catalog.placements:
        path = f"placements.{placement.name}"
        if candidates[placement.name] > limits.CANDIDATES:
            text = (
                f"must have at most {limits.CANDIDATES} actions, has {candidates[placement.name]}: split the placement"
            )
            yield found(path, "too_many_candidates", text)
        if placement.goal is not None:
            yield from _goal_faults(f"{path}.goal", placement.goal, catalog.attribution_ms)
        if placement.default is not None:
            yield from _default_faults(f"{path}.default", placement.name, placement.default, actions)


def _goal_faults(path: str, goal: Goal, attribution_ms: int) -> Iterator[Finding]:
    if goal.event in SLOT_EVENTS:
        text = f"`{goal.event}` happens to an action that was shown, never to silence: name a behaviour event"
        yield found(f"{path}.event", "goal_event", text)
    if goal.within_ms > attribution_ms:
        text = "is longer than the catalog's attribution, after which events of a decision no longer count: shorten it"
        yield found(f"{path}.within", "goal_too_late", text)


def _default_faults(path: str, placement: str, choice: DefaultChoice, actions: dict[str, Action]) -> Iterator[Finding]:
    if not choice.action:
        return
    if choice.action not in actions:
        yield _unknown(f"{path}.action", "action", choice.action, actions)
        return
    treatments = {treatment.name: treatment for treatment in actions[choice.action].treatments}
    if choice.treatment and choice.treatment not in treatments:
        hint = did_you_mean(choice.treatment, treatments)
        text = f"unknown treatment `{choice.treatment}` of action `{choice.action}`.{hint}"
        yield found(f"{path}.treatment", "unknown_treatment", text)
    elif choice.treatment and placement not in treatments[choice.treatment].placements:
        text = f"treatment `{choice.treatment}` is not made for `{placement}`: add it to the treatment's placements"
        yield found(f"{path}.treatment", "default_elsewhere", text)


def _placements_of(action: Action) -> set[str]:
    return {name for treatment in action.treatments for name in treatment.placements}


def _action_faults(action: Action, groups: set[str], placements: set[str]) -> Iterator[Finding]:
    path = f"actions.{action.name}"
    if action.name == NONE:
        yield found(path, "reserved", "`none` is the choice to stay silent: choose another name")
    if action.group and action.group not in groups:
        yield _unknown(f"{path}.group", "group", action.group, groups)
    if action.action_class == "promotional" and action.asks and not action.gives:
        text = "a promotional action must not ask without giving: say under gives what the customer gets"
        yield found(f"{path}.asks", "asks_without_giving", text)
    if not action.treatments:
        yield found(
            f"{path}.treatments",
            "no_treatment",
            "has no treatment, so it cannot be shown: add one or remove the action",
        )
    yield from _treatment_faults(path, action, placements)


def _treatment_faults(path: str, action: Action, placements: set[str]) -> Iterator[Finding]:
    taken: dict[str, str] = {}
    for treatment in action.treatments:
        where = f"{path}.treatments.{treatment.name}.placements"
        if not treatment.placements:
            yield found(where, "no_placement", "names no placement, so the treatment cannot be shown: name one")
        for i, name in enumerate(treatment.placements):
            if name and name not in placements:
                yield _unknown(f"{where}[{i}]", "placement", name, placements)
            elif name and name in taken:
                text = f"`{name}` has treatment `{taken[name]}` of this action already: keep one per placement"
                yield found(f"{where}[{i}]", "second_treatment", text)
            else:
                taken[name] = treatment.name
