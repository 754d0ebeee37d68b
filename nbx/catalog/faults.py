"""What forbids publishing a catalog and no single value shows: `catalog_faults`.

A function of the model, so a catalog that never was YAML (a test, an import) is held to the same rules.
`nbx.catalog.parse` adds line and column by path. What one value alone can break is checked where it is read, there.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, get_args

from nbx import limits
from nbx.catalog.conditions import KEYWORDS, RELATIONSHIP, REQUEST, did_you_mean
from nbx.catalog.faults_examples import example_faults
from nbx.catalog.faults_guardrails import guardrail_faults
from nbx.catalog.faults_journeys import reserved_event
from nbx.catalog.findings import Finding, found
from nbx.catalog.model import LAYERS, OutcomeName
from nbx.catalog.names import Names, numbered
from nbx.catalog.vocabulary import CLUSTER
from nbx.features.schema import Aggregate, Feature
from nbx.features.vector import RELATIONSHIP as BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbx.catalog.model import Action, Catalog, DefaultChoice, Goal, Policy, Treatment

RESERVED_FEATURES = frozenset({*RELATIONSHIP, CLUSTER})
"""Names of features that every catalog has without declaring them."""
BUILT_IN_WIDTH = 1 + len(BUILT_IN)
"""Columns of x that are not declared: the intercept and one per relationship feature; besides one per cluster."""
NONE = "none"
"""The choice to stay silent; no action may be called that."""
SLOT_EVENTS = frozenset(get_args(OutcomeName)) | {"delivered", "seen", "skipped", "unsuitable", "no_time"}
"""Events of a slot, which silence cannot have: no goal may be one of them."""


def catalog_faults(catalog: Catalog) -> Iterator[Finding]:
    """Yield everything that forbids publishing and that no single value shows; O(size of the catalog).

    An empty reference is skipped: whoever left it empty has reported that.
    """
    names = Names(catalog)
    yield from _feature_faults(catalog)
    yield from _placement_faults(catalog, names)
    for group in catalog.groups:
        yield from _dates(f"groups.{group.name}", group)
    for action in catalog.actions:
        yield from _action_faults(action, names)
    yield from guardrail_faults(catalog, names)
    yield from example_faults(catalog, names)


def feature_width(feature: Feature) -> int:
    """Return the number of columns of x a feature takes."""
    widths = {"onehot": len(feature.encoding.categories), "hash": feature.encoding.buckets, "none": 0}
    return widths.get(feature.encoding.kind, 1)


def _feature_faults(catalog: Catalog) -> Iterator[Finding]:
    width = BUILT_IN_WIDTH + (catalog.clusters.count if catalog.clusters is not None else 0)
    for feature in catalog.features:
        path = f"features.{feature.name}"
        if feature.name in RESERVED_FEATURES:
            yield found(path, "reserved", "is built in and kept by nbx: use it as it is, or choose another name")
        elif feature.name in KEYWORDS or (feature.origin == "context" and feature.name in REQUEST):
            yield found(path, "reserved", "has a meaning of its own in conditions: choose another name")
        if isinstance(feature.origin, Aggregate):
            yield from reserved_event(f"{path}.from.event", feature.origin.event)
        before, width = width, width + feature_width(feature)
        if before <= limits.FEATURE_WIDTH < width:
            text = f"x must have at most {limits.FEATURE_WIDTH} columns, has {width} with this feature: "
            yield found(f"{path}.encode", "too_wide", text + "use fewer categories or buckets, or encode: none")


def _placement_faults(catalog: Catalog, names: Names) -> Iterator[Finding]:
    budgeted = {name for budget in catalog.budgets for name in budget.actions}
    grouped = {name for budget in catalog.budgets for name in budget.groups}
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
            yield from _default_faults(f"{path}.default", placement.name, placement.default, names)
            action = names.actions.get(placement.default.action)
            if action is not None and (action.name in budgeted or action.group in grouped):
                text = "has a budget, which cannot be asked when the default is shown: take another action"
                yield found(f"{path}.default.action", "default_with_budget", text)


def _goal_faults(path: str, goal: Goal, attribution_ms: int) -> Iterator[Finding]:
    yield from reserved_event(f"{path}.event", goal.event)
    if goal.event in SLOT_EVENTS:
        text = f"`{goal.event}` happens to an action that was shown, never to silence: name a behaviour event"
        yield found(f"{path}.event", "goal_event", text)
    if goal.within_ms > attribution_ms:
        text = "is longer than the catalog's attribution, after which events of a decision no longer count: shorten it"
        yield found(f"{path}.within", "goal_too_late", text)


def _default_faults(path: str, placement: str, choice: DefaultChoice, names: Names) -> Iterator[Finding]:
    yield from names.unknown("action", [(f"{path}.action", choice.action)])
    if choice.action not in names.actions:
        return
    treatments = {treatment.name: treatment for treatment in names.actions[choice.action].treatments}
    if choice.treatment and choice.treatment not in treatments:
        hint = did_you_mean(choice.treatment, treatments)
        text = f"unknown treatment `{choice.treatment}` of action `{choice.action}`.{hint}"
        yield found(f"{path}.treatment", "unknown_treatment", text)
    elif choice.treatment and placement not in treatments[choice.treatment].placements:
        text = f"treatment `{choice.treatment}` is not made for `{placement}`: add it to the treatment's placements"
        yield found(f"{path}.treatment", "default_elsewhere", text)


def _placements_of(action: Action) -> set[str]:
    return {name for treatment in action.treatments for name in treatment.placements}


def _action_faults(action: Action, names: Names) -> Iterator[Finding]:
    path = f"actions.{action.name}"
    if action.name == NONE:
        yield found(path, "reserved", "`none` is the choice to stay silent: choose another name")
    yield from names.unknown("group", [(f"{path}.group", action.group)])
    yield from names.unknown("action", numbered(f"{path}.not_with", action.not_with))
    yield from names.unknown("topic", numbered(f"{path}.resolves", action.resolves))
    if action.name in action.not_with:
        yield found(
            f"{path}.not_with", "with_itself", "names the action itself, which is in a slate once anyway: remove"
        )
    yield from _dates(path, action)
    if action.action_class == "promotional" and action.asks and not action.gives:
        text = "a promotional action must not ask without giving: say under gives what the customer gets"
        yield found(f"{path}.asks", "asks_without_giving", text)
    if not action.treatments:
        yield found(
            f"{path}.treatments",
            "no_treatment",
            "has no treatment, so it cannot be shown: add one or remove the action",
        )
    yield from _treatment_faults(path, action, names)


def _treatment_faults(path: str, action: Action, names: Names) -> Iterator[Finding]:
    taken: dict[str, Treatment] = {}
    for treatment in action.treatments:
        where = f"{path}.treatments.{treatment.name}"
        yield from _dates(where, treatment)
        where = f"{where}.placements"
        if not treatment.placements:
            yield found(where, "no_placement", "names no placement, so the treatment cannot be shown: name one")
        yield from names.unknown("placement", numbered(where, treatment.placements))
        for i, name in enumerate(treatment.placements):
            before = taken.get(name)
            if before is treatment:
                yield found(f"{where}[{i}]", "duplicate", f"`{name}` is listed twice: keep one")
            elif before is not None and not has_policy(before):
                text = f"`{name}` has treatment `{before.name}`, which always holds, so that this one is never shown: "
                text += f"give `{before.name}` a condition or dates, or keep one of them"
                yield found(f"{where}[{i}]", "second_treatment", text)
            elif name:
                taken[name] = treatment


def has_policy(policy: Policy) -> bool:
    """Tell whether something may hold it back."""
    return bool(any(getattr(policy, layer) for layer in LAYERS) or policy.starts_ms or policy.ends_ms)


def _dates(path: str, policy: Policy) -> Iterator[Finding]:
    if policy.ends_ms and policy.starts_ms >= policy.ends_ms:
        yield found(f"{path}.ends", "ends_before_starts", "is not after starts, so it is never on offer: correct one")
