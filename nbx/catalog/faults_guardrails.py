"""What forbids publishing contact, consent, budgets and concerns; `nbx.catalog.faults_journeys` has the rest."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from nbx.catalog.conditions import KEYWORDS
from nbx.catalog.faults_journeys import journey_faults, reserved_event, telling_apart_faults
from nbx.catalog.findings import Finding, found
from nbx.catalog.names import keyed, numbered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbx.catalog.model import Budget, Catalog, Concern, ContactPolicy
    from nbx.catalog.names import Names


def guardrail_faults(catalog: Catalog, names: Names) -> Iterator[Finding]:
    """Yield what is wrong with everything that bounds what is said."""
    if catalog.time_zone_feature:
        yield from _time_zone(catalog.time_zone_feature, names)
    yield from _contact(catalog.contact, names)
    yield from names.unknown("channel", keyed("consent.channels", catalog.consent.channels))
    yield from _budgets(catalog, names)
    taken = dict.fromkeys(names.features, "feature")
    for journey in catalog.journeys:
        yield from _clash(f"journeys.{journey.name}", journey.name, "journey", taken)
        yield from journey_faults(journey, names)
    for concern in catalog.concerns:
        yield from _clash(f"concerns.{concern.name}", concern.name, "concern", taken)
        yield from _concern(concern)
    yield from telling_apart_faults(catalog, names)


def _time_zone(name: str, names: Names) -> Iterator[Finding]:
    yield from names.unknown("feature", [("time_zone.feature", name)])
    feature = names.features.get(name)
    if feature is not None and (feature.origin != "profile" or feature.type != "category"):
        text = f"`{name}` must be a category of the profile, with IANA names such as Europe/Berlin"
        yield found("time_zone.feature", "time_zone_feature", text)


def _contact(contact: ContactPolicy, names: Names) -> Iterator[Finding]:
    yield from names.unknown("channel", keyed("contact.channels", contact.channels))
    for i, hours in enumerate(contact.quiet_hours):
        yield from names.unknown("channel", numbered(f"contact.quiet_hours[{i}].channels", hours.channels))
    for i, actions in enumerate(contact.exclusive):
        path = f"contact.exclusive[{i}]"
        yield from names.unknown("action", numbered(path, actions))
        if len(actions) == 1:
            yield found(path, "too_few", "must name at least two actions, of which a slate holds one")


def _budgets(catalog: Catalog, names: Names) -> Iterator[Finding]:
    members = defaultdict(list)
    for action in catalog.actions:
        members[action.group].append(action.name)
    for budget in catalog.budgets:
        path = f"budgets.{budget.name}"
        yield from names.unknown("action", numbered(f"{path}.actions", budget.actions))
        yield from names.unknown("group", numbered(f"{path}.groups", budget.groups))
        if not budget.units and not budget.money:
            yield found(path, "no_bound", "has neither units nor money: say how much there is")
        held = {*budget.actions, *(name for group in budget.groups for name in members[group])}
        if not held:
            yield found(path, "no_action", "holds no action: name actions, or groups that have some")
        yield from _costs(budget, held, names)


def _costs(budget: Budget, held: set[str], names: Names) -> Iterator[Finding]:
    for action in (names.actions[name] for name in sorted(held) if name in names.actions):
        if budget.money and not action.cost:
            text = f"budget `{budget.name}` counts money and this action costs none: give it a cost, or count units"
            yield found(f"actions.{action.name}.cost", "no_cost", text)
        elif budget.money and action.cost > budget.money:
            text = f"is more than budget `{budget.name}` has, so that it could never be given out: correct one"
            yield found(f"actions.{action.name}.cost", "cost_above_budget", text)


def _clash(path: str, name: str, kind: str, taken: dict[str, str]) -> Iterator[Finding]:
    if name in KEYWORDS:
        yield found(path, "reserved", "has a meaning of its own in conditions: choose another name")
    elif name in taken:
        yield found(path, "name_clash", f"is the name of a {taken[name]} too: choose another name")
    taken.setdefault(name, kind)


def _concern(concern: Concern) -> Iterator[Finding]:
    path = f"concerns.{concern.name}"
    for kind, events in (("opens", concern.opens), ("resolves", concern.resolves)):
        for i, event in enumerate(events):
            yield from reserved_event(f"{path}.{kind}[{i}]", event)
    for event in sorted({*concern.opens} & {*concern.resolves} - {""}):
        yield found(f"{path}.resolves", "opens_and_resolves", f"`{event}` cannot open and resolve it: keep one")
