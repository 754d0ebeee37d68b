"""What folds need of a release: policies by name, and the scopes in which contacts are counted.

A scope is what a rule of contact speaks of: an action (its name), `group:<name>`, `channel:<name>`, `class:<name>` or
`overall`. The same words are the keys of pauses in a customer's state.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from nbx.catalog.model import (
    DEFAULT_POINTS,
    Action,
    ActionClass,
    Catalog,
    ContactRule,
    Group,
    JourneyStep,
    Limit,
    OutcomeName,
    Pause,
)
from nbx.catalog.usage import used_features
from nbx.features.schema import Aggregate
from nbx.limits import EXPOSURES_MS

OVERALL = "overall"
CHANNEL = "channel:"
_NO_RULE = ContactRule()


def group_scope(name: str) -> str:
    """Return the scope of a group."""
    return f"group:{name}"


def channel_scope(name: str) -> str:
    """Return the scope of a channel."""
    return f"{CHANNEL}{name}"


def class_scope(name: str) -> str:
    """Return the scope of a class."""
    return f"class:{name}"


def topic_of(action: Action, group: Group) -> str:
    """Return the topic of an action's obligations: its own, its group's, or the group's name."""
    return action.topic or group.topic or group.name


@dataclass(frozen=True, slots=True)
class ActionRules:
    """Policies of one action, its group's defaults applied."""

    group: str
    action_class: ActionClass
    limits: tuple[Limit, ...]
    """The action's own."""
    group_limits: tuple[Limit, ...]
    counts_in: tuple[str, ...]
    """Scopes in which its exposures count, but for the channel's and the overall one."""
    pauses: tuple[tuple[str, Pause], ...]
    """(scope, what an outcome of the action pauses there), but for the channel's."""
    topic: str
    """Of obligations: the action's, the group's, or the group's name."""
    gives: tuple[str, ...]
    asks: tuple[str, ...]
    resolves: tuple[str, ...]
    """Topics that an acceptance makes good."""


class Rules:
    """What folds need of a release.

    Attributes
    ----------
    release : int
    experience : ExperiencePolicy
    points : dict
        Outcome → points, defaults filled in.
    aggregates : dict
        Event type → the aggregate features it feeds.
    keep_s : int
        How long exposures matter, seconds.
    channels : frozenset
        Of the placements.
    steps : dict
        Event type → (journey, step) that it enters.
    deeds : dict
        Event type → (journey, step, 0: the customer's side, 1: the company's) that it counts for.
    sided : dict
        Journey → its steps with a side, of journeys that have some.
    staked : tuple of Journey
        Those with stakes.
    turns : dict
        Event type → (concern, 0: it opens it, 1: it resolves it).
    undertakings : dict
        (action, treatment) → what accepting it promises.
    limited : frozenset
        (action, channel) whose prompts some limit counts.
    profile : frozenset
        Declared profile features.
    uses : dict
        Placement → the profile features it uses.
    """

    def __init__(self, catalog: Catalog, release: int) -> None:
        self.release = release
        self.experience = catalog.experience
        self.contact = catalog.contact
        self.consent = catalog.consent
        self.points: dict[OutcomeName, float] = DEFAULT_POINTS | catalog.experience.points
        self.aggregates: dict[str, list[tuple[str, Aggregate]]] = defaultdict(list)
        for feature in catalog.features:
            if isinstance(feature.origin, Aggregate):
                self.aggregates[feature.origin.event].append((feature.name, feature.origin))
        self.profile = frozenset(feature.name for feature in catalog.features if feature.origin == "profile")
        self.uses = used_features(catalog)
        self.placements = {placement.name: placement for placement in catalog.placements}
        self.channels = frozenset(placement.channel for placement in catalog.placements)
        self.journeys = {journey.name: journey for journey in catalog.journeys}
        self.concerns = {concern.name: concern for concern in catalog.concerns}
        self.steps: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for journey in catalog.journeys:
            for step in journey.steps:
                self.steps[step.event].append((journey.name, step.name))
        self.deeds: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
        for journey in catalog.journeys:
            for step in journey.steps:
                for side, events in enumerate((step.does, step.owes)):
                    for event in events:
                        self.deeds[event].append((journey.name, step.name, side))
        sided = {each.name: tuple(s for s in each.steps if s.does or s.owes) for each in catalog.journeys}
        self.sided: dict[str, tuple[JourneyStep, ...]] = {name: steps for name, steps in sided.items() if steps}
        self.staked = tuple(each for each in catalog.journeys if any(step.stakes for step in each.steps))
        self.turns: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for concern in catalog.concerns:
            for place, events in enumerate((concern.opens, concern.resolves)):
                for event in events:
                    self.turns[event].append((concern.name, place))
        self.groups = {group.name: group for group in catalog.groups}
        self.members: dict[str, tuple[str, ...]] = {
            name: tuple(a.name for a in catalog.actions if a.group == name) for name in self.groups
        }
        self.actions = {
            action.name: ActionRules(
                action.group,
                action.action_class,
                action.limits,
                self.groups[action.group].limits,
                (action.name, group_scope(action.group), class_scope(action.action_class)),
                tuple(
                    (scope, pause)
                    for scope, pause in (
                        (action.name, action.pause or self.groups[action.group].pause),
                        (group_scope(action.group), self.groups[action.group].pause_group),
                        (class_scope(action.action_class), self.class_rule(action.action_class).pause),
                        (OVERALL, self.contact.overall.pause),
                    )
                    if pause is not None
                ),
                topic_of(action, self.groups[action.group]),
                action.gives,
                action.asks,
                action.resolves,
            )
            for action in catalog.actions
        }
        self.undertakings = {
            (action.name, treatment.name): treatment.promise
            for action in catalog.actions
            for treatment in action.treatments
            if treatment.promise is not None
        }
        everywhere = bool(self.contact.overall.limits)
        self.limited = frozenset(
            (name, channel)
            for name, known in self.actions.items()
            for channel in self.channels
            if everywhere
            or known.limits
            or known.group_limits
            or self.class_rule(known.action_class).limits
            or self.channel_rule(channel).limits
        )
        self.keep_s = -(-max(_windows_ms(catalog)) // 1000)
        self.remember_ms = catalog.attribution_ms + catalog.correction_ms

    def class_rule(self, action_class: ActionClass) -> ContactRule:
        """Return the contact rule of a class; one without bounds when none is declared."""
        return self.contact.classes.get(action_class, _NO_RULE)

    def channel_rule(self, channel: str) -> ContactRule:
        """Return the contact rule of a channel; one without bounds when none is declared."""
        return self.contact.channels.get(channel, _NO_RULE)

    def pauses_of(self, action: str, channel: str) -> list[tuple[str, Pause]]:
        """Return (scope, policy) of everything that an outcome of an action on a channel may pause."""
        known = self.actions.get(action)
        found = [] if known is None else list(known.pauses)
        rule = self.channel_rule(channel)
        return found if rule.pause is None else [*found, (channel_scope(channel), rule.pause)]


def _windows_ms(catalog: Catalog) -> list[int]:
    """Return every time over which exposures are counted, and the least for which they are kept."""
    contact = catalog.contact
    rules = [contact.overall, *contact.channels.values(), *contact.classes.values()]
    owners: tuple[Action | Group | ContactRule, ...] = (*catalog.actions, *catalog.groups, *rules)
    limits = [limit for owner in owners for limit in owner.limits]
    # a second more: exposures are kept in whole ones
    return [EXPOSURES_MS, *(limit.per_ms + 1000 for limit in limits), *(rule.gap_ms + 1000 for rule in rules)]
