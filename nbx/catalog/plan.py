"""A release compiled to what serving needs: arrays, lookups and compiled conditions. Built once, swapped whole.

`PlacementPlan` is the part that deciding needs, as parallel arrays over the actions that have a treatment for the
placement, in catalog order. What folds need is `nbx.catalog.rules.Rules`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from nbx.catalog.budgets import BudgetPlan, ResourceUse, budget_plans, resource_uses
from nbx.catalog.condition_code import Evaluate, compile_all
from nbx.catalog.conditions import Condition, compile_condition
from nbx.catalog.model import LAYERS, Action, Catalog, Exploration, Group, Layer, Limit, Placement, Policy, Treatment
from nbx.catalog.rules import OVERALL, Rules, channel_scope, class_scope, group_scope, topic_of
from nbx.catalog.vocabulary import is_personal_path, vocabulary
from nbx.features.schema import Value
from nbx.features.state import CustomerState
from nbx.features.vector import Resolver, VectorLayout

Positions = NDArray[np.int64]
COUNTLESS = 1 << 62
"""More exposures than anybody has."""


def goal_model(placement: str, action: str) -> tuple[str, str]:
    """Return name and group of the model that tells how likely a placement's goal is after an action (empty: silence).

    Examples
    --------
    >>> goal_model("hero", "")
    ('goal:hero/none', 'goal:hero')
    """
    return f"goal:{placement}/{action or 'none'}", f"goal:{placement}"


class Check(NamedTuple):
    """A condition that some actions need."""

    number: int
    """In `Plan.conditions`."""
    layer: Layer
    positions: Positions


class Weight(NamedTuple):
    """A factor on the worth of some actions while a condition holds."""

    number: int
    """In `Plan.conditions`."""
    weight: float
    positions: Positions


class Term(NamedTuple):
    """When some actions are on offer, epoch milliseconds; 0: without that end."""

    starts_ms: int
    ends_ms: int
    positions: Positions


class Option(NamedTuple):
    """A treatment that an action may have on a placement."""

    name: str
    content: Any
    """Encoded JSON (msgspec.Raw)."""
    starts_ms: int
    ends_ms: int
    checks: tuple[tuple[Layer, int], ...]
    """(layer, condition in `Plan.conditions`)."""


class Scope(NamedTuple):
    """Where contacts are counted together; an action is one too."""

    key: str
    """As `nbx.catalog.rules` says."""
    limits: tuple[Limit, ...]
    gap_ms: int
    counted: Positions
    """Actions of the placement that count."""
    held: Positions
    """Those of them that it may hold back."""


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    """Arrays over the n actions that can be shown on a placement."""

    placement: Placement
    rows: NDArray[np.int32]
    """(n,) position of the action in `Plan.action_names`."""
    names: tuple[str, ...]
    actions: tuple[Action, ...]
    position: dict[str, int]
    everything: Positions
    """(n,) all positions."""
    nothing_removed: NDArray[np.bool_]
    """(n,) true."""
    options: tuple[tuple[Option, ...], ...]
    """(n,) treatments in the order in which they are tried."""
    choosy: tuple[int, ...]
    """Positions whose treatment depends on its policy."""
    treatment_names: tuple[str, ...]
    """(n,) first treatments."""
    content: tuple[Any, ...]
    """(n,) contents of the first treatments."""
    value: NDArray[np.float32]
    learned: Positions
    """Positions of the actions whose value is learned."""
    strength: NDArray[np.float64]
    """(len(learned),) acceptances their `value` counts for, > 0."""
    goal_rows: NDArray[np.int32]
    """(n + 1,) rows of the goal's model per action, last is silence's; empty without a goal."""
    context_weight: NDArray[np.float32]
    """(n,) ones: what holds while no weight's condition does."""
    lever: NDArray[np.float32]
    promotional: NDArray[np.bool_]
    """Blocked below the experience floor."""
    on_topic: dict[str, Positions]
    """Topic → promotional actions of it, blocked while an obligation is open."""
    recovery: Positions
    """Recovery actions, worth more meanwhile."""
    asking: Positions
    """Promotional actions that ask something."""
    asks: NDArray[np.float64]
    """(len(asking),) how much they ask."""
    mandatory: NDArray[np.bool_]
    forces: bool
    """Some of them are."""
    priced: NDArray[np.float32]
    """(3, n) value, context weight and lever, where no value is learned and no weight's condition holds."""
    optional: Positions
    """Actions that are not mandatory."""
    plain: bool
    """There is no mandatory action and no goal: a decision on one slot is one kernel's call."""
    consenting: Positions
    """Actions that need the customer's consent to contact."""
    quieted: Positions
    """Actions that keep quiet hours."""
    terms: tuple[Term, ...]
    checks: tuple[Check, ...]
    """By layer; a group's before its actions'."""
    weights: tuple[Weight, ...]
    compiled: dict[int, int]
    """Condition in `Plan.conditions` that `evaluate` answers → its place in the answer."""
    evaluate: Evaluate
    paths: frozenset[str]
    """Names that the conditions read, `customer.age` and the like: no others are prepared where `cel` is asked."""
    walks: bool
    """Some of them are of a journey or a concern."""
    scopes: dict[str, Scope]
    """Key → scope, of those with limits."""
    gaps: tuple[Scope, ...]
    """Scopes that have a gap."""
    least: dict[str, int]
    """Scope → `max` of its least limit."""
    least_own: int
    """The smallest of those of actions, `COUNTLESS` without any; likewise the next, of all other scopes."""
    least_shared: int
    pausable: dict[str, Positions]
    """Scope → positions that its pause holds back."""
    together: tuple[tuple[Positions, int], ...]
    """Actions of which one slate holds at most so many."""
    budgets: tuple[ResourceUse, ...]


class Plan:
    """A release, compiled.

    Parameters
    ----------
    catalog
        Checked by `nbx.catalog.parse`.
    release
        Its number, ≥ 1.
    digest
        Of the release as stored (`nbx.catalog.releases.digest_of`); empty: it is not stored.
    """

    def __init__(self, catalog: Catalog, release: int, digest: str = "") -> None:
        self.catalog = catalog
        self.digest = digest
        self.release = release
        self.rules = Rules(catalog, release)
        self.layout = VectorLayout(catalog.features, catalog.clusters.count if catalog.clusters is not None else 0)
        self.resolver = Resolver(catalog.features)
        self.context_features = {f.name: f for f in catalog.features if f.origin == "context"}
        self.profile_features = {f.name: f for f in catalog.features if f.origin == "profile"}
        self.untouched: dict[str, Value] = self.resolver.resolve(CustomerState(), {}, 0)
        """Features → what they are of a customer nothing is known about."""
        self.impersonal = {f.name: self.untouched[f.name] for f in catalog.features if f.is_personal}
        """The same, of personal features only."""
        rows = [(action.name, action.group) for action in catalog.actions]
        goal_rows = {}
        for placement in catalog.placements:
            goals = _goal_models(catalog, placement)
            goal_rows[placement.name] = np.arange(len(rows), len(rows) + len(goals), dtype=np.int32)
            rows += goals
        self.action_names = tuple(name for name, _ in rows)
        """Names of models: every action, then those of the goals; `action_groups` has their groups."""
        self.action_groups = tuple(group for _, group in rows)
        self.exploration: Exploration = catalog.exploration
        self.budgets: tuple[BudgetPlan, ...] = budget_plans(catalog)
        sources = dict.fromkeys(_sources(catalog))
        self.conditions: tuple[Condition, ...] = tuple(compile_condition(source) for source in sources)
        self.personal = frozenset(
            number
            for number, condition in enumerate(self.conditions)
            if any(is_personal_path(path, catalog.features) for path in condition.paths)
        )
        """Conditions that read something personal."""
        self.words = vocabulary(catalog.features, catalog.journeys, catalog.concerns, clusters=catalog.clusters)
        """Names that conditions may use."""
        self._types = {path: word.type for path, word in self.words.items()}
        self._number = {source: i for i, source in enumerate(sources)}
        self.placements = {p.name: self._placement_plan(p, goal_rows[p.name]) for p in catalog.placements}

    def _placement_plan(self, placement: Placement, goal_rows: NDArray[np.int32]) -> PlacementPlan:
        shown = _shown(self.catalog, placement)
        actions = tuple(action for _, action, _ in shown)
        groups = [self.rules.groups[action.group] for action in actions]
        options = tuple(tuple(self._option(t) for t in treatments) for _, _, treatments in shown)
        learned = [position for position, action in enumerate(actions) if action.value_strength]
        checks, weights = self._checks(actions), self._weights(actions)
        used = {check.number for check in checks} | {weight.number for weight in weights}
        used |= {number for each in options for option in each for _, number in option.checks}
        position = {action.name: i for i, action in enumerate(actions)}
        scopes = list(self._scopes(placement, actions))
        least = {scope.key: min(limit.max for limit in scope.limits) for scope in scopes if scope.limits}
        ordered = sorted(used)
        fixed = {"request.placement": placement.name, "request.channel": placement.channel}
        answered, evaluate = compile_all((self.conditions[number].source for number in ordered), self._types, fixed)
        compiled = [number for number, known in zip(ordered, answered, strict=True) if known]
        contact, consent = self.catalog.contact, self.catalog.consent
        mandatory = np.array([a.action_class == "mandatory" for a in actions], dtype=bool)
        value = np.array([action.value for action in actions], dtype=np.float32)
        context_weight = np.ones(len(actions), dtype=np.float32)
        lever = np.array([a.lever * g.lever for a, g in zip(actions, groups, strict=True)], dtype=np.float32)
        return PlacementPlan(
            placement=placement,
            rows=np.array([row for row, _, _ in shown], dtype=np.int32),
            names=tuple(action.name for action in actions),
            actions=actions,
            position=position,
            everything=np.arange(len(actions)),
            nothing_removed=np.ones(len(actions), dtype=np.bool_),
            options=options,
            choosy=tuple(i for i, each in enumerate(options) if each[0].checks or each[0].starts_ms or each[0].ends_ms),
            treatment_names=tuple(each[0].name for each in options),
            content=tuple(each[0].content for each in options),
            value=value,
            learned=np.array(learned, dtype=np.int64),
            strength=np.array([actions[position].value_strength for position in learned], dtype=np.float64),
            goal_rows=goal_rows,
            context_weight=context_weight,
            lever=lever,
            promotional=np.array([a.action_class == "promotional" for a in actions], dtype=bool),
            on_topic={
                topic: _where(
                    a.action_class == "promotional" and topic_of(a, g) == topic
                    for a, g in zip(actions, groups, strict=True)
                )
                for topic in dict.fromkeys(topic_of(a, g) for a, g in zip(actions, groups, strict=True))
            },
            recovery=_where(a.action_class == "recovery" for a in actions),
            asking=(asking := _where(a.action_class == "promotional" and bool(a.asks) for a in actions)),
            asks=np.array([len(actions[position].asks) for position in asking], dtype=np.float64),
            mandatory=mandatory,
            forces=bool(mandatory.any()),
            priced=np.array([value, context_weight, lever]),
            optional=np.flatnonzero(~mandatory),
            plain=placement.goal is None and not mandatory.any(),
            consenting=_where(a.action_class not in consent.exempt for a in actions),
            quieted=_where(a.action_class not in contact.exempt for a in actions),
            terms=tuple(_terms(actions, groups)),
            checks=checks,
            weights=weights,
            compiled={number: i for i, number in enumerate(compiled)},
            evaluate=evaluate,
            paths=(paths := frozenset(path for number in used for path in self.conditions[number].paths)),
            walks=any(path.startswith(("journey.", "concern.")) for path in paths),
            scopes={scope.key: scope for scope in scopes if scope.limits},
            gaps=tuple(scope for scope in scopes if scope.gap_ms),
            least=least,
            least_own=min((most for key, most in least.items() if key in position), default=COUNTLESS),
            least_shared=min((most for key, most in least.items() if key not in position), default=COUNTLESS),
            pausable={scope.key: scope.held for scope in scopes},
            together=tuple(_together(self.catalog, actions)),
            budgets=resource_uses(self.budgets, actions),
        )

    def _option(self, treatment: Treatment) -> Option:
        checks = tuple((layer, self._number[source]) for layer in LAYERS if (source := getattr(treatment, layer)))
        content = msgspec.Raw(msgspec.json.encode(treatment.content))
        return Option(treatment.name, content, treatment.starts_ms, treatment.ends_ms, checks)

    def _checks(self, actions: tuple[Action, ...]) -> tuple[Check, ...]:
        needed: dict[tuple[Layer, int], list[int]] = defaultdict(list)
        for layer in LAYERS:
            for position, action in enumerate(actions):
                for owner in (self.rules.groups[action.group], action):
                    if source := getattr(owner, layer):
                        needed[layer, self._number[source]].append(position)
        return tuple(
            Check(number, layer, np.array(sorted(set(rows)), dtype=np.int64))
            for (layer, number), rows in needed.items()
        )

    def _weights(self, actions: tuple[Action, ...]) -> tuple[Weight, ...]:
        found: dict[tuple[int, float], list[int]] = defaultdict(list)
        for position, action in enumerate(actions):
            for each in (*self.rules.groups[action.group].context_weights, *action.context_weights):
                found[self._number[each.when], each.weight].append(position)
        return tuple(Weight(number, weight, np.array(rows)) for (number, weight), rows in found.items())

    def _scopes(self, placement: Placement, actions: tuple[Action, ...]) -> Iterator[Scope]:
        contact = self.catalog.contact
        held = _where(action.action_class not in contact.exempt for action in actions)
        everything = np.arange(len(actions))
        for position, action in enumerate(actions):
            itself = np.array([position])
            yield Scope(action.name, action.limits, 0, itself, itself)
        for group in self.catalog.groups:
            members = _where(action.group == group.name for action in actions)
            if len(members):
                yield Scope(group_scope(group.name), group.limits, 0, members, members)
        rule = self.rules.channel_rule(placement.channel)
        yield Scope(channel_scope(placement.channel), rule.limits, rule.gap_ms, everything, held)
        for name, rule in contact.classes.items():
            members = _where(action.action_class == name for action in actions)
            yield Scope(
                class_scope(name),
                rule.limits,
                rule.gap_ms,
                members,
                members if name not in contact.exempt else held[:0],
            )
        yield Scope(OVERALL, contact.overall.limits, contact.overall.gap_ms, everything, held)


def _where(flags: Iterable[bool]) -> Positions:
    return np.flatnonzero(np.fromiter(flags, dtype=np.bool_))


def _sources(catalog: Catalog) -> Iterator[str]:
    """Yield the source of every condition."""
    owners: tuple[Group | Action, ...] = (*catalog.groups, *catalog.actions)
    for owner in owners:
        yield from (source for layer in LAYERS if (source := getattr(owner, layer)))
        yield from (each.when for each in owner.context_weights)
    for action in catalog.actions:
        for treatment in action.treatments:
            yield from (source for layer in LAYERS if (source := getattr(treatment, layer)))


def _shown(catalog: Catalog, placement: Placement) -> list[tuple[int, Action, list[Treatment]]]:
    """Return what can be shown on a placement, in catalog order: row, action, its treatments for it."""
    found = []
    for row, action in enumerate(catalog.actions):
        if treatments := [each for each in action.treatments if placement.name in each.placements]:
            found.append((row, action, treatments))
    return found


def _goal_models(catalog: Catalog, placement: Placement) -> list[tuple[str, str]]:
    if placement.goal is None:
        return []
    return [goal_model(placement.name, name) for name in (*(a.name for _, a, _ in _shown(catalog, placement)), "")]


def _terms(actions: tuple[Action, ...], groups: Iterable[Policy]) -> Iterator[Term]:
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for position, (action, group) in enumerate(zip(actions, groups, strict=True)):
        ends = [end_ms for end_ms in (action.ends_ms, group.ends_ms) if end_ms]
        found[max(action.starts_ms, group.starts_ms), min(ends, default=0)].append(position)
    for (starts_ms, ends_ms), rows in found.items():
        if starts_ms or ends_ms:
            yield Term(starts_ms, ends_ms, np.array(rows))


def _together(catalog: Catalog, actions: tuple[Action, ...]) -> Iterator[tuple[Positions, int]]:
    """Yield the sets of actions that bound each other in one slate."""
    at = {action.name: i for i, action in enumerate(actions)}
    for group in catalog.groups:
        if group.per_slate:
            yield _where(action.group == group.name for action in actions), group.per_slate
    pairs = {frozenset((a.name, other)) for a in actions for other in a.not_with}
    for names in (*catalog.contact.exclusive, *sorted(tuple(sorted(pair)) for pair in pairs)):
        members = np.array(sorted(at[name] for name in names if name in at), dtype=np.int64)
        if len(members) > 1:
            yield members, 1
