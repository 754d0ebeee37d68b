"""What a customer's own choices would unlock: which changes of `controllable` features make an action allowed.

Nothing is worked out from the conditions themselves: their trees only tell which values are worth a try, and each try
is asked of the real rules (`nbx.decision.choice.allowed`) on a copy of the state. So what is promised holds by
construction, whatever the conditions are. Values tried are complete where a feature is compared with fixed values: both
booleans; every category declared or compared with; of numbers one from each span between the thresholds, and these.

An action whose conditions would hold but that a limit, a pause or the like holds back is told with that reason, never
as available. Tries are bounded (`TRIES`), changes of one feature first; `cut` tells when more might be found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise, product
from typing import NamedTuple

from msgspec import Struct, structs

from nbx.bandits.snapshot import BoundModel
from nbx.catalog.cel_syntax import Literal, Node, parse_condition, parts_of
from nbx.catalog.model import REASONS
from nbx.catalog.plan import PlacementPlan, Plan
from nbx.decision.budgets import NO_BUDGETS
from nbx.decision.choice import allowed
from nbx.decision.messages import DecideRequest
from nbx.decision.plain_words import NOT_NOW, decoded, headline, spoken
from nbx.features.schema import Feature, Value
from nbx.features.state import CustomerState, ProfileValue

TRIES = 96
"""Changes that the rules are asked about, per placement: 22 ms with 200 actions."""
THRESHOLDS = 12
"""Thresholds and categories of one feature that are tried."""
_FAILED = frozenset({"not_eligible", "not_applicable", "not_suitable", "condition_error"})
_LATER = frozenset(REASONS[REASONS.index("condition_error") + 1 :])
"""Asked after all conditions: who is removed for one of these meets them."""


class OwnChoice(Struct, frozen=True, kw_only=True):
    """A feature and what the customer would have to make of it."""

    feature: str
    label: str
    description: str
    now: Value
    """As a decision sees it now: the default where nothing is known, or too old."""
    to: Value
    words: str
    """The change in words; a number stands for all of its span."""


class Opened(Struct, frozen=True, kw_only=True):
    """An action that would be open to the customer."""

    action: str
    headline: str
    gives: tuple[str, ...]
    asks: tuple[str, ...]
    channels: tuple[str, ...]
    placements: dict[str, str]
    """Placement → why not right now, a reason code; empty: right now."""
    not_now: str
    """Why nowhere right now, in words; empty: it could be shown at once."""


class Unlock(Struct, frozen=True, kw_only=True):
    """One choice, or two together, and what follows."""

    choices: tuple[OwnChoice, ...]
    opens: tuple[Opened, ...]
    closes: tuple[str, ...]
    """Actions that are open now and would not be any more."""


class Unlocks(NamedTuple):
    """Everything found."""

    unlocks: tuple[Unlock, ...]
    cut: bool
    """There was more to try than `TRIES`."""


class _Try(NamedTuple):
    """A value of a feature worth a try."""

    feature: str
    value: Value
    words: str


Change = tuple[_Try, ...]


class _Spot:
    """A placement: what is blocked there by conditions, and which features of the customer's own they read."""

    def __init__(
        self, plan: Plan, placement: PlacementPlan, removed: Mapping[str, str], own: Mapping[str, str]
    ) -> None:
        self.placement = placement
        self.blocked: dict[str, frozenset[str]] = {}
        conditions: dict[int, set[int]] = {}
        for check in placement.checks:
            for position in check.positions.tolist():
                conditions.setdefault(position, set()).add(check.number)
        for name, reason in removed.items():
            if reason in _FAILED:
                position = placement.position[name]
                numbers = conditions.get(position, set()) | {
                    number for option in placement.options[position] for _, number in option.checks
                }
                paths = frozenset().union(*(plan.conditions[number].paths for number in numbers))
                if reads := frozenset(own[path] for path in paths & own.keys()):
                    self.blocked[name] = reads


def find_unlocks(
    plan: Plan,
    state: CustomerState,
    customer_id: str,
    now_ms: int,
    *,
    salt: str,
    purse: Mapping[str, int] = NO_BUDGETS,
    model: BoundModel | None = None,
) -> Unlocks:
    """Find what a customer's own choices would unlock.

    Parameters
    ----------
    plan, state, now_ms, salt, purse, model
        As of `nbx.decision.choice.allowed`; the state is read only.
    customer_id
        The canonical one.
    """
    own = {f"customer.{name}": name for name, feature in plan.profile_features.items() if feature.controllable}
    if not own:
        return Unlocks((), cut=False)

    def removed(placement: str, changed: CustomerState) -> dict[str, str]:
        request = DecideRequest(customer_id=customer_id, placement=placement)
        left = allowed(plan, changed, request, now_ms, salt=salt, purse=purse, model=model)
        return {each.action: each.reason for each in left.candidates.removed}

    asked = _Rules(state, now_ms, removed)
    spots = [_Spot(plan, spot, asked.removed(name, ()), own) for name, spot in plan.placements.items()]
    spots = [spot for spot in spots if spot.blocked]
    values = plan.resolver.resolve(state, {}, now_ms)
    wanted = {name for spot in spots for reads in spot.blocked.values() for name in reads}
    tries = {name: list(_tries(plan, plan.profile_features[name], values[name])) for name in sorted(wanted)}
    found: dict[Change, dict[str, dict[str, str]]] = {}
    """Change → action → placement → reason why not now."""
    for changes in (_alone, _together):
        opened = {(name, action) for by_action in found.values() for action, at in by_action.items() for name in at}
        for spot, change in changes(spots, tries, opened):
            if asked.count == TRIES:
                return Unlocks(_told(plan, asked, found, values), cut=True)
            after = asked.removed(spot.placement.placement.name, change)
            reads = {each.feature for each in change}
            for action, needs in spot.blocked.items():
                reason = after.get(action, "")
                already = len(change) > 1 and (spot.placement.placement.name, action) in opened
                if reads <= needs and not already and (not reason or reason in _LATER):
                    places = found.setdefault(change, {}).setdefault(action, {})
                    places[spot.placement.placement.name] = reason
    return Unlocks(_told(plan, asked, found, values), cut=False)


class _Rules:
    """The real rules, asked about the customer with something changed; none is asked twice."""

    def __init__(self, state: CustomerState, now_ms: int, ask: Callable[[str, CustomerState], dict[str, str]]) -> None:
        self._state, self._now_ms, self._ask = state, now_ms, ask
        self._known: dict[tuple[str, Change], dict[str, str]] = {}
        self.count = 0
        """Changes asked about."""

    def removed(self, placement: str, change: Change) -> dict[str, str]:
        """Return action → reason of everything a change leaves removed on a placement."""
        key = placement, change
        if key not in self._known:
            self.count += bool(change)
            profile = dict(self._state.profile)
            profile.update((each.feature, ProfileValue(each.value, self._now_ms)) for each in change)
            self._known[key] = self._ask(placement, structs.replace(self._state, profile=profile))
        return self._known[key]


Spots = Sequence[_Spot]
Opens = set[tuple[str, str]]


def _alone(spots: Spots, tries: Mapping[str, list[_Try]], _: Opens) -> Iterator[tuple[_Spot, Change]]:
    for spot in spots:
        for name in sorted(frozenset().union(*spot.blocked.values())):
            yield from ((spot, (each,)) for each in tries[name])


def _together(spots: Spots, tries: Mapping[str, list[_Try]], opened: Opens) -> Iterator[tuple[_Spot, Change]]:
    """Yield pairs for what no change alone opens."""
    for spot in spots:
        left = [reads for name, reads in spot.blocked.items() if (spot.placement.placement.name, name) not in opened]
        pairs = dict.fromkeys(pair for reads in left for pair in combinations(sorted(reads), 2))
        for one, other in pairs:
            yield from ((spot, change) for change in product(tries[one], tries[other]))


def _told(
    plan: Plan, asked: _Rules, found: Mapping[Change, Mapping[str, Mapping[str, str]]], values: Mapping[str, Value]
) -> tuple[Unlock, ...]:
    """Put what was found in words; of spans of a number only the nearest that opens the same is told."""
    told, seen = [], set[tuple[tuple[str, ...], frozenset[tuple[str, str]]]]()
    for change, actions in found.items():
        names = tuple(each.feature for each in change)
        opens = frozenset((action, placement) for action, places in actions.items() for placement in places)
        is_number = all(plan.profile_features[name].type == "number" for name in names)
        if is_number and any(opens <= before for known, before in seen if known == names):
            continue
        seen.add((names, opens))
        spots = dict.fromkeys(placement for _, placement in sorted(opens))
        told.append(
            Unlock(
                choices=tuple(_choice(plan.profile_features[each.feature], each, values) for each in change),
                opens=tuple(_opened(plan, action, dict(places)) for action, places in actions.items()),
                closes=tuple(dict.fromkeys(name for spot in spots for name in _closed(asked, spot, change))),
            )
        )
    return tuple(told)


def _closed(asked: _Rules, placement: str, change: Change) -> Iterator[str]:
    before = asked.removed(placement, ())
    return (name for name, why in asked.removed(placement, change).items() if why in _FAILED and name not in before)


def _choice(feature: Feature, each: _Try, values: Mapping[str, Value]) -> OwnChoice:
    label = spoken(feature.name)
    return OwnChoice(
        feature=feature.name,
        label=label,
        description=feature.description,
        now=values[feature.name],
        to=each.value,
        words=f"{label}: {each.words}",
    )


def _opened(plan: Plan, action: str, places: dict[str, str]) -> Opened:
    spots = [plan.placements[name] for name in places]
    position = spots[0].position[action]
    declared = spots[0].actions[position]
    reasons = list(places.values())
    return Opened(
        action=action,
        headline=headline(action, decoded(spots[0].content[position])),
        gives=declared.gives,
        asks=declared.asks,
        channels=tuple(dict.fromkeys(spot.placement.channel for spot in spots)),
        placements=places,
        not_now="" if "" in reasons else NOT_NOW.get(reasons[0], "not now"),
    )


def _tries(plan: Plan, feature: Feature, now: Value) -> Iterator[_Try]:
    """Yield the values of a feature worth a try, those nearest to the present one first."""
    if feature.type == "boolean":
        yield _Try(feature.name, not now, "no" if now else "yes")
        return
    path = f"customer.{feature.name}"
    sources = [condition.source for condition in plan.conditions if path in condition.paths]
    literals = dict.fromkeys(value for source in sources for value in _literals(parse_condition(source)))
    if feature.type == "category":
        texts = dict.fromkeys((*feature.encoding.categories, *(each for each in literals if isinstance(each, str))))
        for text in list(texts)[:THRESHOLDS]:
            if text != now:
                yield _Try(feature.name, text, text or "not known")
        return
    numbers = sorted({float(each) for each in literals if not isinstance(each, str | bool)})[:THRESHOLDS]
    at = float(now)
    for low, high in sorted(_spans(numbers), key=lambda span: max(span[0] - at, at - span[1], 0.0)):
        if not (low < at < high or low == high == at):
            yield _Try(feature.name, _within(low, high), _span_words(low, high))


def _literals(node: Node) -> Iterator[Value]:
    if isinstance(node, Literal) and isinstance(node.value, bool | int | float | str):
        yield node.value
    for part in parts_of(node):
        yield from _literals(part)


def _spans(numbers: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Yield each threshold, and the open spans before, between and after them."""
    infinity = float("inf")
    yield from ((number, number) for number in numbers)
    yield from pairwise((-infinity, *numbers, infinity)) if numbers else ()


def _within(low: float, high: float) -> float:
    if low == -float("inf"):
        return high - 1.0
    if high == float("inf"):
        return low + 1.0
    return low if low == high else (low + high) / 2


def _span_words(low: float, high: float) -> str:
    if low == high:
        return f"{low:g}"
    if low == -float("inf"):
        return f"below {high:g}"
    return f"above {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
