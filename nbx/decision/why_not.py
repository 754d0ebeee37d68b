"""Why not this action: the rule that removed it with what it saw, what holds it back until when, or what it lacked.

The reason is the record's. With the customer rebuilt, every condition of the action that failed is told, with its place
in the catalog and the values it saw, and `nbx.decision.smallest_change` says what would have let it through; without,
what the record tells.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from nbx.catalog.cel_syntax import CelSyntaxError, Chain, Node, names_in, parse_condition
from nbx.catalog.conditions import ConditionError, build_context, compile_condition
from nbx.catalog.model import LAYERS, Action, Group, Treatment
from nbx.catalog.plan import Plan
from nbx.catalog.suggestions import did_you_mean
from nbx.catalog.value_sets import Choice, Values
from nbx.catalog.vocabulary import Variable
from nbx.decision.again import Again
from nbx.decision.contributions import feature_words, value_words
from nbx.decision.eligibility import NOT_IN_LAYER
from nbx.decision.held import Held, held_again, held_in_record
from nbx.decision.plain_words import node_words
from nbx.decision.seen import Seen
from nbx.decision.smallest_change import SmallestChange, smallest_change
from nbx.decision.worth import Worth, free_for, slot_views, worths
from nbx.errors import Unknown
from nbx.experience.entries import DecisionEntry, Removed
from nbx.features.schema import Value

LAYER_WORDS = {
    "not_eligible": "we may not offer it to this customer",
    "not_applicable": "it makes no sense for this customer now",
    "not_suitable": "it is not good for this customer",
    "condition_error": "its rule could not be answered",
    "needs_personalise": "its rule reads personal data, which the customer did not agree to",
    "quarantined": "its rule reads data that nobody may rely on at the moment",
}
Places = Mapping[str, tuple[int, int]]
"""Path in the catalog → line and column of the file; empty: not known."""


class ConditionSeen(Struct, frozen=True, kw_only=True):
    """A condition that did not hold, and what it saw."""

    layer: str
    """`eligible`, `applicable` or `suitable`; empty: the record does not tell."""
    path: str
    """In the catalog: `actions.gold_card.eligible`; empty: not known."""
    line: int = 0
    """In the catalog file of the release; 0: not known."""
    column: int = 0
    source: str
    saw: dict[str, Value]
    """Name → value when it was decided."""
    unknown: tuple[str, ...] = ()
    """Names whose value is not known any more."""
    error: str = ""
    """Why it could not be answered; empty: it was, with no."""
    words: str


class WhyNot(Struct, frozen=True, kw_only=True):
    """Where an action stood in a decision."""

    action: str
    standing: Literal["shown", "not_drawn", "shut_out", "removed", "elsewhere", "not_asked"]
    """In a slot; a candidate that was not drawn; one that could not stand beside what was; removed by a rule; without a
    treatment for this placement; the decision was degraded or erased, so that no rule was asked or none is told."""
    reason: str = ""
    """Of a removed one, as in the record."""
    layer: str = ""
    detail: str = ""
    conditions: tuple[ConditionSeen, ...] = ()
    """All that failed; of a customer that could not be rebuilt only the first."""
    held: Held | None = None
    """What held it back besides conditions."""
    chance: float = 0.0
    """Of a candidate: to be drawn into the first slot that was drawn."""
    short_by: float = 0.0
    """Of a candidate: money it was expected to be worth less than what was chosen; below 0: more."""
    beside: tuple[str, ...] = ()
    """What it could not stand beside."""
    placements: tuple[str, ...] = ()
    """Where it has a treatment."""
    smallest: SmallestChange | None = None
    """None: the customer could not be rebuilt, or it was shown."""
    words: tuple[str, ...]


class Basis(NamedTuple):
    """What there is to answer from."""

    entry: DecisionEntry
    plan: Plan
    seen: Seen
    asked: Again | None
    """None: the customer could not be rebuilt."""
    places: Places


def why_not(basis: Basis, action: str) -> Generator[None, None, WhyNot]:
    """Say where an action stood; a generator, as `smallest_change` is.

    Raises
    ------
    Unknown
        The release that decided has no such action.
    """
    entry, plan = basis.entry, basis.plan
    declared = next((each for each in plan.catalog.actions if each.name == action), None)
    if declared is None:
        near = did_you_mean(action, [each.name for each in plan.catalog.actions])
        raise Unknown(
            f"release {plan.release}, which decided this, has no action {action[:64]!r}.{near}",
            field="action",
            code="action_unknown",
        )
    shown = next((number for number, slot in enumerate(entry.slots) if slot.action == action), -1)
    if shown >= 0:
        told = f"{action} was shown in slot {shown}, with a chance of {entry.slots[shown].propensity:.1%}"
        return WhyNot(action=action, standing="shown", chance=entry.slots[shown].propensity, words=(told,))
    places = tuple(dict.fromkeys(spot for treatment in declared.treatments for spot in treatment.placements))
    if entry.request.placement not in places:
        told = (
            f"{action} has no treatment for {entry.request.placement}; it can be shown on {', '.join(places) or 'none'}"
        )
        return WhyNot(action=action, standing="elsewhere", placements=places, words=(told,))
    removed = next((each for each in entry.removed if each.action == action), None)
    if removed is not None:
        return (yield from _removed(basis, declared, removed))
    if action in entry.actions:
        return (yield from _not_drawn(basis, action))
    told = f"no rule was asked about {action}: {' '.join(entry.degraded) or 'the record does not tell'}"
    return WhyNot(action=action, standing="not_asked", words=(told,))


def _removed(basis: Basis, action: Action, removed: Removed) -> Generator[None, None, WhyNot]:
    asked, reason = basis.asked, removed.reason
    layer = next((name for name, code in NOT_IN_LAYER.items() if code == reason), "")
    conditions: tuple[ConditionSeen, ...] = ()
    held = None
    if reason in LAYER_WORDS:
        conditions = tuple(_failed(basis, action) if asked is not None else _told_failed(basis, action, removed))
        words = [f"{action.name}: {LAYER_WORDS[reason]}", *(each.words for each in conditions)]
    else:
        held = held_again(asked, removed) if asked is not None else held_in_record(basis.entry, removed, basis.plan)
        words = [f"{action.name}: {held.words}"]
    smallest = None
    if asked is not None:
        smallest = yield from smallest_change(asked, action.name)
        words.append(smallest.words)
    return WhyNot(
        action=action.name,
        standing="removed",
        reason=reason,
        layer=layer,
        detail=removed.detail,
        conditions=conditions,
        held=held,
        smallest=smallest,
        words=tuple(words),
    )


def _not_drawn(basis: Basis, action: str) -> Generator[None, None, WhyNot]:
    entry = basis.entry
    by_action = {each.action: each for each in worths(entry)}
    mine = by_action[action]
    views = slot_views(entry)
    drawn = next((view for view in views if view.how not in ("mandatory", "default")), None)
    at = entry.actions.index(action)
    if drawn is None or at not in free_for(entry, drawn.slot):
        beside = tuple(slot.action for slot in entry.slots if slot.action)
        told = f"{action} could not stand beside {', '.join(beside)}, or no slot was left"
        return WhyNot(action=action, standing="shut_out", chance=mine.chance, beside=beside, words=(told,))
    chosen = by_action.get(drawn.action)
    short_by = (chosen.utility if chosen is not None else 0.0) - mine.utility
    words = [f"{action} was allowed and not drawn: its chance was {mine.chance:.1%}", _lacked(mine, chosen, short_by)]
    smallest = None
    if basis.asked is not None and drawn.how != "chance":
        smallest = yield from smallest_change(basis.asked, action)
        words.append(smallest.words)
    return WhyNot(
        action=action,
        standing="not_drawn",
        chance=mine.chance,
        short_by=short_by,
        smallest=smallest,
        words=tuple(words),
    )


def _lacked(mine: Worth, chosen: Worth | None, short_by: float) -> str:
    """Say in money what a candidate lacked against what was chosen; None: silence."""
    against = f"{chosen.action} {chosen.utility:,.2f}" if chosen is not None else "silence 0.00"
    if short_by <= 0:
        return f"it was expected to be worth {mine.utility:,.2f}, {against}: something else was tried, to learn"
    parts = [
        (mine.acceptance - (chosen.acceptance if chosen is not None else 0.0), "from acceptance"),
        (mine.experience - (chosen.experience if chosen is not None else 0.0), "from the customer's experience"),
        (mine.goal - (chosen.goal if chosen is not None else 0.0), "from the goal"),
    ]
    told = ", ".join(f"{money:+,.2f} {words}" for money, words in sorted(parts) if abs(money) >= 0.005)
    return f"it was expected to be worth {mine.utility:,.2f}, {against}: {short_by:,.2f} less ({told or 'all alike'})"


def _owners(plan: Plan, action: Action, placement: str) -> Iterator[tuple[str, Group | Action | Treatment]]:
    """Yield path and policy of everything whose conditions an action has to meet."""
    group = plan.rules.groups[action.group]
    yield f"groups.{group.name}", group
    yield f"actions.{action.name}", action
    for treatment in action.treatments:
        if placement in treatment.placements:
            yield f"actions.{action.name}.treatments.{treatment.name}", treatment


def _failed(basis: Basis, action: Action) -> Iterator[ConditionSeen]:
    """Yield every condition that did not hold, asked again, layer by layer; of treatments only where none would do."""
    failed: dict[str, list[ConditionSeen]] = {}
    for path, owner in _owners(basis.plan, action, basis.entry.request.placement):
        found = (
            _seen(basis, f"{path}.{layer}", layer, source) for layer in LAYERS if (source := getattr(owner, layer))
        )
        failed[path] = [each for each in found if each is not None]
    treatments = {path for path in failed if ".treatments." in path}
    is_open = any(not failed[path] for path in treatments)
    told = [each for path, found in failed.items() if not (is_open and path in treatments) for each in found]
    order: list[str] = [*LAYERS]
    yield from sorted(told, key=lambda each: order.index(each.layer))


def _told_failed(basis: Basis, action: Action, removed: Removed) -> Iterator[ConditionSeen]:
    """Yield the one condition that the record names."""
    for layer in LAYERS:
        for path, owner in _owners(basis.plan, action, basis.entry.request.placement):
            source: str = getattr(owner, layer)
            named = source and source in removed.detail and removed.reason in (NOT_IN_LAYER[layer], *LAYER_WORDS)
            if named and (removed.reason not in NOT_IN_LAYER.values() or removed.reason == NOT_IN_LAYER[layer]):
                seen = _seen(basis, f"{path}.{layer}", layer, source, failed=True)
                if seen is not None:
                    yield seen
                return


def _seen(basis: Basis, path: str, layer: str, source: str, *, failed: bool = False) -> ConditionSeen | None:
    """Return a condition with what it saw; None when it held. `failed`: that it did not is on record."""
    condition, entry = compile_condition(source), basis.entry
    saw = {name: basis.seen.values[name] for name in sorted(condition.paths) if name in basis.seen.values}
    unknown = tuple(sorted(condition.paths - saw.keys()))
    number = next((n for n, each in enumerate(basis.plan.conditions) if each.source == source), -1)
    not_asked = (not entry.personalised and number in basis.plan.personal) or any(
        f"customer.{name}" in condition.paths for name in entry.quarantined
    )
    error = ""
    if not failed and not not_asked:
        try:
            if condition.holds(build_context(_by_root(saw))):
                return None
        except ConditionError as wrong:
            error = wrong.message
    line, column = basis.places.get(path, (0, 0))
    words = needed_words(source, basis.plan.words, saw)
    if not_asked:
        saw, words = {}, "its rule was not asked"
    return ConditionSeen(
        layer=layer,
        path=path,
        line=line,
        column=column,
        source=source,
        saw=saw,
        unknown=unknown,
        error=error,
        words=f"{words} ({path}{f', line {line}' if line else ''})",
    )


def needed_words(source: str, words: Mapping[str, Variable], saw: Mapping[str, Value]) -> str:
    """Say what a condition needs and what it saw.

    Examples
    --------
    >>> from nbx.catalog.vocabulary import vocabulary
    >>> from nbx.features.schema import Encoding, Feature
    >>> age = Feature(name="age", type="number", encoding=Encoding(kind="none"), default=0.0)
    >>> needed_words("customer.age >= 65", vocabulary([age]), {"customer.age": 42.0})
    'age has to be at least 65, and was 42'
    """
    try:
        failing = [part for part in _conjuncts(parse_condition(source)) if not _held(source, part, saw)]
    except CelSyntaxError:
        return f"`{source}` has to hold"
    return "; ".join(_needed(source, part, words, saw) for part in failing) or f"`{source}` has to hold"


def _needed(source: str, part: Node, words: Mapping[str, Variable], saw: Mapping[str, Value]) -> str:
    said = node_words(part, words, _has_to_be)
    names = [name for name in sorted(names_in(part)) if name in saw]
    was = ", ".join(f"{feature_words(name, None)} was {value_words(saw[name])}" for name in names)
    if said is None:
        return f"`{source[part.start : part.end]}` has to hold" + (f"; {was}" if was else "")
    if len(names) == 1:
        return f"{said}, and was {value_words(saw[names[0]])}"
    return f"{said}; {was}" if was else said


def _has_to_be(path: str, values: Values) -> str:
    return f"{feature_words(path, None)} has to be {_set_words(values)}"


def _set_words(values: Values) -> str:
    if isinstance(values, Choice):
        if values.values <= {True, False}:
            return "yes" if (True in values.values) is not values.all_but else "no"
        if values.values == {""}:
            return "known" if values.all_but else "not known"
    return str(values).replace("`", "")


def _conjuncts(node: Node) -> Iterator[Node]:
    if isinstance(node, Chain) and node.signs[0] == "&&":
        for each in node.operands:
            yield from _conjuncts(each)
    else:
        yield node


def _held(source: str, part: Node, saw: Mapping[str, Value]) -> bool:
    """Tell whether a part of a condition is known to have held."""
    try:
        return compile_condition(source[part.start : part.end]).holds(build_context(_by_root(saw)))
    except ConditionError:
        return False


def _by_root(saw: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    found: dict[str, dict[str, Value]] = {}
    for path, value in saw.items():
        root, _, name = path.partition(".")
        found.setdefault(root, {})[name] = value
    return found


def reasons_in_words(entry: DecisionEntry, plan: Plan | None, most: int = 20) -> Sequence[str]:
    """Say why actions were removed, those alike together."""
    alike: dict[tuple[str, str], list[str]] = {}
    for each in entry.removed:
        if each.reason in LAYER_WORDS:
            words = f"{LAYER_WORDS[each.reason]}: {each.detail}"
        else:
            words = held_in_record(entry, Removed("", each.reason, each.detail), plan).words
        alike.setdefault((each.reason, words), []).append(each.action)
    return [f"not {_few(names, most)}: {words} ({reason})" for (reason, words), names in alike.items()]


def _few(names: Sequence[str], most: int) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
