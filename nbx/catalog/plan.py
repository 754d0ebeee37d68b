"""A release compiled to what serving needs: arrays, lookups and compiled conditions. Built once, swapped whole.

`Rules` is the part that folds need (policies by name); `PlacementPlan` the part that deciding needs, as parallel arrays
over the actions that have a treatment for the placement, in catalog order.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from nbx.catalog.conditions import Condition, compile_condition
from nbx.catalog.model import (
    DEFAULT_POINTS,
    Action,
    Catalog,
    Exploration,
    Limit,
    OutcomeName,
    Pause,
    Placement,
    Treatment,
)
from nbx.features.schema import Aggregate
from nbx.features.vector import Resolver, VectorLayout


def goal_model(placement: str, action: str) -> tuple[str, str]:
    """Return name and group of the model that tells how likely a placement's goal is after an action (empty: silence).

    Examples
    --------
    >>> goal_model("hero", "")
    ('goal:hero/none', 'goal:hero')
    """
    return f"goal:{placement}/{action or 'none'}", f"goal:{placement}"


@dataclass(frozen=True, slots=True)
class ActionRules:
    """Policies of one action, its group's defaults applied."""

    group: str
    limits: tuple[Limit, ...]
    """The action's own."""
    group_limits: tuple[Limit, ...]
    pause: Pause
    keep_s: int
    """How long exposures matter, seconds; 0: they need not be kept."""


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
    """

    def __init__(self, catalog: Catalog, release: int) -> None:
        self.release = release
        self.experience = catalog.experience
        self.points: dict[OutcomeName, float] = DEFAULT_POINTS | catalog.experience.points
        self.aggregates: dict[str, list[tuple[str, Aggregate]]] = defaultdict(list)
        for feature in catalog.features:
            if isinstance(feature.origin, Aggregate):
                self.aggregates[feature.origin.event].append((feature.name, feature.origin))
        self.placements = {placement.name: placement for placement in catalog.placements}
        groups = {group.name: group for group in catalog.groups}
        self.actions = {}
        self.members: dict[str, tuple[str, ...]] = {
            name: tuple(a.name for a in catalog.actions if a.group == name) for name in groups
        }
        for action in catalog.actions:
            group = groups[action.group]
            windows = [limit.per_ms for limit in (*action.limits, *group.limits)]
            self.actions[action.name] = ActionRules(
                action.group,
                action.limits,
                group.limits,
                action.pause or group.pause or Pause(),
                -(-max(windows, default=0) // 1000),
            )
        self.remember_ms = catalog.attribution_ms + catalog.correction_ms


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    """Arrays over the n actions that can be shown on a placement."""

    placement: Placement
    rows: NDArray[np.int32]
    """(n,) position of the action in `Plan.action_names`."""
    names: tuple[str, ...]
    treatment_names: tuple[str, ...]
    actions: tuple[Action, ...]
    content: tuple[Any, ...]
    """Encoded JSON of each treatment's content (msgspec.Raw)."""
    position: dict[str, int]
    value: NDArray[np.float32]
    learned: NDArray[np.int64]
    """Positions of the actions whose value is learned."""
    strength: NDArray[np.float64]
    """(len(learned),) acceptances their `value` counts for, > 0."""
    goal_rows: NDArray[np.int32]
    """(n + 1,) rows of the goal's model per action, last is silence's; empty without a goal."""
    context_weight: NDArray[np.float32]
    lever: NDArray[np.float32]
    promotional: NDArray[np.bool_]
    """Blocked below the experience floor."""
    mandatory: NDArray[np.bool_]
    conditions: tuple[tuple[int, NDArray[np.int64]], ...]
    """(condition in `Plan.conditions`, positions that need it)."""
    condition_paths: frozenset[str]
    """Names that the conditions read, `customer.age` and the like: no others are prepared."""
    groups: dict[str, NDArray[np.int64]]
    """Group that has limits → positions of its actions."""


class Plan:
    """A release, compiled.

    Parameters
    ----------
    catalog
        Checked by `nbx.catalog.parse`.
    release
        Its number, ≥ 1.
    """

    def __init__(self, catalog: Catalog, release: int) -> None:
        self.catalog = catalog
        self.release = release
        self.rules = Rules(catalog, release)
        self.layout = VectorLayout(catalog.features)
        self.resolver = Resolver(catalog.features)
        self.context_features = {f.name: f for f in catalog.features if f.origin == "context"}
        self.profile_features = {f.name: f for f in catalog.features if f.origin == "profile"}
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
        sources = list(dict.fromkeys(a.eligible for a in catalog.actions if a.eligible))
        self.conditions: tuple[Condition, ...] = tuple(compile_condition(source) for source in sources)
        number = {source: i for i, source in enumerate(sources)}
        self.placements = {
            p.name: _placement_plan(catalog, p, self.conditions, number, goal_rows[p.name]) for p in catalog.placements
        }


def _shown(catalog: Catalog, placement: Placement) -> list[tuple[int, Action, Treatment]]:
    """Return what can be shown on a placement, in catalog order."""
    return [
        (row, action, treatment)
        for row, action in enumerate(catalog.actions)
        for treatment in action.treatments
        if placement.name in treatment.placements
    ]


def _goal_models(catalog: Catalog, placement: Placement) -> list[tuple[str, str]]:
    if placement.goal is None:
        return []
    return [goal_model(placement.name, name) for name in (*(a.name for _, a, _ in _shown(catalog, placement)), "")]


def _placement_plan(
    catalog: Catalog,
    placement: Placement,
    conditions: tuple[Condition, ...],
    condition_number: dict[str, int],
    goal_rows: NDArray[np.int32],
) -> PlacementPlan:
    shown = _shown(catalog, placement)
    learned = [position for position, (_, action, _) in enumerate(shown) if action.value_strength]
    actions = tuple(action for _, action, _ in shown)
    needed: dict[int, list[int]] = defaultdict(list)
    for position, action in enumerate(actions):
        if action.eligible:
            needed[condition_number[action.eligible]].append(position)
    ones = np.ones(len(shown), dtype=np.float32)
    return PlacementPlan(
        placement=placement,
        rows=np.array([row for row, _, _ in shown], dtype=np.int32),
        names=tuple(action.name for action in actions),
        treatment_names=tuple(treatment.name for _, _, treatment in shown),
        actions=actions,
        content=tuple(msgspec.Raw(msgspec.json.encode(treatment.content)) for _, _, treatment in shown),
        position={action.name: position for position, action in enumerate(actions)},
        value=np.array([action.value for action in actions], dtype=np.float32),
        learned=np.array(learned, dtype=np.int64),
        strength=np.array([actions[position].value_strength for position in learned], dtype=np.float64),
        goal_rows=goal_rows,
        context_weight=ones,
        lever=ones,
        promotional=np.array([a.action_class not in ("service", "recovery", "mandatory") for a in actions], dtype=bool),
        mandatory=np.array([a.action_class == "mandatory" for a in actions], dtype=bool),
        conditions=tuple((number, np.array(rows)) for number, rows in needed.items()),
        condition_paths=frozenset(path for number in needed for path in conditions[number].paths),
        groups={
            group.name: np.array([i for i, a in enumerate(actions) if a.group == group.name], dtype=np.int64)
            for group in catalog.groups
            if group.limits
        },
    )
