"""What may be published but is probably not meant: `lint_catalog`.

A function of the model, as `nbx.catalog.faults`; `nbx.catalog.parse` adds line and column by path. Here is what the
declarations show; `nbx.catalog.lint_policies` adds what follows from conditions.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from nbx.catalog.condition_logic import Logic
from nbx.catalog.findings import Finding, found
from nbx.catalog.lint_policies import policy_warnings
from nbx.catalog.model import LAYERS
from nbx.catalog.time_words import duration
from nbx.catalog.vocabulary import vocabulary
from nbx.features.schema import Aggregate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbx.catalog.model import Action, Catalog, ContactRule, Group, Limit, Policy

    _Limited: TypeAlias = Action | Group | ContactRule


def lint_catalog(catalog: Catalog) -> list[Finding]:
    """Return what may be published but is probably not meant; some 0.5 ms per action.

    Codes of what is declared:

    - `unused`: a placement or group without actions; a feature, journey or concern that nothing reads.
    - `no_owner`: an action nobody answers for.
    - `no_limit`: a promotional action that may be shown without end.
    - `limit_without_effect`: a limit that another one, or a gap, is never looser than.
    - `asks_without_gives`: an action that asks of the customer and gives nothing.
    - `never_is_recent`: a `time_since` whose default says that what never happened happened just now.
    - `constant_feature`: a category with a single value.
    - `unreachable_step`: a journey's step that no customer comes to.
    - `attention_longer_than_pause`: an ignored action is paused for less time than it takes to count as ignored.
    - `default_held_back`: a default whose conditions, term or limits are not asked when it is shown.

    Codes of what conditions say, see `nbx.catalog.lint_policies`: `never_eligible`, `contradictory_layers`,
    `unreachable_treatment`, `no_treatment_for_placement`, `weight_never_applies`.
    """
    logic = Logic(
        vocabulary(catalog.features, catalog.journeys, catalog.concerns, catalog.placements, clusters=catalog.clusters)
    )
    return [
        *_unused(catalog),
        *_careless_actions(catalog),
        *_features(catalog, logic),
        *_journeys(catalog),
        *_limits(catalog),
        *_short_pauses(catalog),
        *_defaults(catalog),
        *policy_warnings(catalog, logic),
    ]


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
    contact = catalog.contact
    rule = contact.classes.get("promotional")
    covered = "promotional" not in contact.exempt and bool(contact.overall.limits or (rule and rule.limits))
    limited = {group.name for group in catalog.groups if group.limits}
    for action in catalog.actions:
        path = f"actions.{action.name}"
        if not action.owner:
            yield found(f"{path}.owner", "no_owner", "has no owner: nobody is told when it fails customers")
        if action.action_class == "promotional":
            if not action.limits and action.group not in limited and not covered:
                text = "a promotional action without limits, nor has its group any: a customer may see it every time"
                yield found(f"{path}.limits", "no_limit", text)
        elif action.asks and not action.gives:
            text = "asks of the customer and gives nothing: say under gives what it is good for, or ask for less"
            yield found(f"{path}.asks", "asks_without_gives", text)


def _features(catalog: Catalog, logic: Logic) -> Iterator[Finding]:
    read = {catalog.time_zone_feature, *catalog.segments}.union(*map(logic.names, dict.fromkeys(_sources(catalog))))
    for feature in catalog.features:
        path = f"features.{feature.name}"
        root = "request" if feature.origin == "context" else "customer"
        if feature.encoding.kind == "none" and not {feature.name, f"{root}.{feature.name}"} & read:
            text = "no condition reads it and encode is none: nothing depends on it. Use it, encode it or remove it"
            yield found(path, "unused", text)
        if len(feature.encoding.categories) == 1:
            text = f"only tells `{feature.encoding.categories[0]}` from all else: name the other values, or make it a "
            yield found(f"{path}.encode", "constant_feature", text + "boolean")
        if isinstance(feature.origin, Aggregate) and feature.origin.kind == "time_since" and feature.default == 0:
            text = (
                "its default of 0 hours says that what never happened happened just now: give a long time, such as 720"
            )
            yield found(f"{path}.default", "never_is_recent", text)
    one_sided = [each for each in catalog.journeys if not any(s.does or s.owes or s.stakes for s in each.steps)]
    for kind, names in (("journey", one_sided), ("concern", catalog.concerns)):
        for each in names:
            if f"{kind}.{each.name}" not in read:
                text = f"no condition reads {kind}.{each.name}: nothing depends on it. Use it or remove it"
                yield found(f"{kind}s.{each.name}", "unused", text)


def _sources(catalog: Catalog) -> Iterator[str]:
    policies: tuple[Policy, ...] = (*catalog.groups, *catalog.actions)
    for policy in (*policies, *chain.from_iterable(action.treatments for action in catalog.actions)):
        yield from (source for layer in LAYERS if (source := getattr(policy, layer)))
    weights = [
        *(group.context_weights for group in catalog.groups),
        *(each.context_weights for each in catalog.actions),
    ]
    yield from (each.when for each in chain.from_iterable(weights))


def _journeys(catalog: Catalog) -> Iterator[Finding]:
    for journey in catalog.journeys:
        reached: set[str] = set()
        before = -1
        while len(reached) > before:
            before = len(reached)
            reached |= {step.name for step in journey.steps if not step.after or reached & {*step.after}}
        for step in journey.steps:
            if step.name not in reached:
                text = "no customer comes to it: none of the steps in after is ever reached. Leave after out of one"
                yield found(f"journeys.{journey.name}.steps.{step.name}", "unreachable_step", text)


def _limits(catalog: Catalog) -> Iterator[Finding]:
    """Compare each limit with all that bound at least the same actions and count at least the same exposures."""
    contact = catalog.contact
    overall = ("contact", contact.overall)
    classes = {name: (f"contact.classes.{name}", rule) for name, rule in contact.classes.items()}
    groups = {group.name: (f"groups.{group.name}", group) for group in catalog.groups}
    wider: list[tuple[str, _Limited]]
    for action in catalog.actions:
        wider = [groups[action.group]] if action.group in groups else []
        if action.action_class not in contact.exempt:
            wider += [*([classes[action.action_class]] if action.action_class in classes else []), overall]
        yield from _void_limits(f"actions.{action.name}", action, wider)
    for path, group in groups.values():
        held = {action.action_class for action in catalog.actions if action.group == group.name}
        free = held & {*contact.exempt}
        of_class = [classes[name] for name in classes if held == {name}]
        yield from _void_limits(path, group, [] if free else [*of_class, overall])
    for name, (path, rule) in classes.items():
        if name not in contact.exempt:
            yield from _void_limits(path, rule, [overall])
        else:
            text = "never holds anything back: the class is exempt. Remove it here, or from contact.exempt"
            yield found(path, "limit_without_effect", text)
    for channel, rule in contact.channels.items():
        yield from _void_limits(f"contact.channels.{channel}", rule, [overall])
    yield from _void_limits(*overall, [])


def _void_limits(path: str, owner: _Limited, wider: list[tuple[str, _Limited]]) -> Iterator[Finding]:
    for i, limit in enumerate(owner.limits):
        reason = _looser_than(limit, i, path, owner, wider)
        if reason:
            text = f"{_limit_words(limit)} never holds anything back: {reason}. Remove it, or make it stricter"
            yield found(f"{path}.limits[{i}]", "limit_without_effect", text)


def _looser_than(limit: Limit, i: int, path: str, owner: _Limited, wider: list[tuple[str, _Limited]]) -> str:
    """Return in words what is reached whenever a limit is."""
    for j, other in enumerate(owner.limits):
        if j != i and _covers(other, limit) and (j < i or not _covers(limit, other)):
            return f"{_limit_words(other)} is stricter"
    for place, each in wider:
        for other in each.limits:
            if _covers(other, limit):
                return f"{_limit_words(other)} of {place} is at least as strict"
    for place, each in [(path, owner), *wider]:
        gap_ms = getattr(each, "gap_ms", 0)
        if gap_ms >= limit.per_ms:
            return f"the gap of {duration(gap_ms)} of {place} is as long"
    return ""


def _covers(strict: Limit, loose: Limit) -> bool:
    """Tell whether one limit is reached whenever another is."""
    return strict.max <= loose.max and strict.per_ms >= loose.per_ms


def _limit_words(limit: Limit) -> str:
    return f"{limit.max} per {duration(limit.per_ms)}"


def _short_pauses(catalog: Catalog) -> Iterator[Finding]:
    placements = {placement.name: placement for placement in catalog.placements}
    groups = {group.name: group for group in catalog.groups}
    for action in catalog.actions:
        group = groups.get(action.group)
        pause = action.pause or (group.pause if group else None)
        if pause is None or not pause.ignored_ms:
            continue
        waits = {
            name: action.attention_ms or placements[name].attention_ms
            for name in sorted(_placements_of(action))
            if name in placements
        }
        name = max(waits, key=lambda each: waits[each], default="")
        if name and waits[name] > pause.ignored_ms:
            text = (
                f"on `{name}` it counts as ignored only after an attention of {duration(waits[name])}, in "
                f"which it may come again, and then it is paused for {duration(pause.ignored_ms)} only: "
                "shorten attention or lengthen the pause"
            )
            yield found(f"actions.{action.name}.pause.ignored", "attention_longer_than_pause", text)


def _defaults(catalog: Catalog) -> Iterator[Finding]:
    actions = {action.name: action for action in catalog.actions}
    groups = {group.name: group for group in catalog.groups}
    for placement in catalog.placements:
        choice = placement.default
        action = actions.get(choice.action) if choice is not None else None
        if choice is None or action is None:
            continue
        treatments = [each for each in action.treatments if choice.treatment in ("", each.name)]
        policies: list[Policy] = [action, *treatments]
        if action.group in groups:
            policies.append(groups[action.group])
        held = []
        if any(getattr(policy, layer) for policy in policies for layer in LAYERS):
            held.append("conditions")
        if any(policy.starts_ms or policy.ends_ms for policy in policies):
            held.append("term")
        if action.limits:
            held.append("limits")
        if held:
            text = (
                f"`{action.name}` has {' and '.join(held)}, which cannot be asked when nothing is known of the "
                "customer: it is then shown all the same. Choose one that everybody may see at any time"
            )
            yield found(f"placements.{placement.name}.default", "default_held_back", text)
