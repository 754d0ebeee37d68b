"""The customer's own view: why this was shown, what is remembered, what own choices unlock, what can be stopped.

A pure function of plan, state, the latest prompts and time. It tells a customer what concerns this customer: no score,
no money of the company, nobody else's data. It reads the same state that decisions are made on, so a control that has
taken effect shows here and in the next decision alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from nbx.bandits.snapshot import BoundModel
from nbx.catalog.model import LAYERS
from nbx.catalog.plan import Plan
from nbx.catalog.rules import OVERALL
from nbx.decision.budgets import NO_BUDGETS
from nbx.decision.explain import explain
from nbx.decision.plain_words import OUTCOMES, condition_words, headline, spoken
from nbx.decision.slate import RANDOM
from nbx.decision.unlocking import Unlock, find_unlocks
from nbx.experience import journeys
from nbx.experience.consent import LEARN, PERSONALISE, contact_purpose, may_contact, may_learn, may_personalise, said_of
from nbx.experience.controls import held_ms, scopes_of
from nbx.experience.entries import DecisionEntry
from nbx.experience.holdout import assignment
from nbx.experience.lifecycle import OpenDecision, OpenSlot
from nbx.experience.obligations import open_topics
from nbx.experience.relationship import balance_at
from nbx.features.schema import Aggregate, Value
from nbx.features.state import CustomerState

_WELL, _BADLY = 1.0, -1.0
"""Balances, in points, from which on things have gone well, or badly."""


class Prompt(NamedTuple):
    """A decision that gave out something, as far as it is still on record."""

    entry: DecisionEntry
    opened: OpenDecision | None
    """Where its slots stand; None: no longer kept."""
    plan: Plan
    """Of its release."""


class Shown(Struct, frozen=True, kw_only=True):
    """Something that was shown, or was about to be."""

    decision_id: str
    slot: int
    at_ms: int
    channel: str
    placement: str
    action: str
    group: str
    headline: str
    why: tuple[str, ...]
    gives: tuple[str, ...]
    asks: tuple[str, ...]
    outcome: str
    """Code; empty: none yet."""
    became: str
    """The same in words."""


class Known(Struct, frozen=True, kw_only=True):
    """A value on file."""

    feature: str
    label: str
    description: str
    value: Value
    since_ms: int
    in_use: bool
    """False: too old, or not declared any more; no decision reads it."""


class Counted(Struct, frozen=True, kw_only=True):
    """What is counted of the customer's behaviour."""

    feature: str
    label: str
    words: str
    """What it is made of."""
    value: Value


class Allows(Struct, frozen=True, kw_only=True):
    """Whether the customer allows something."""

    purpose: str
    words: str
    granted: bool
    said_ms: int
    """When the customer said so; 0: never, it is what holds for everybody."""


class Paused(Struct, frozen=True, kw_only=True):
    """A scope that is kept away."""

    scope: str
    words: str
    until_ms: int
    """`limits.STOPPED_MS`: until the customer says otherwise."""
    by: str
    """`customer`, or the outcome that called for it."""


class Owed(Struct, frozen=True, kw_only=True):
    """What the company has undertaken, or has to make good."""

    kind: str
    """`promise` or `obligation`."""
    what: str
    since_ms: int
    due_ms: int
    """0: no date."""
    overdue: bool


class Remembered(Struct, frozen=True, kw_only=True):
    """Everything that is kept and used."""

    profile: tuple[Known, ...]
    counted: tuple[Counted, ...]
    consent: tuple[Allows, ...]
    paused: tuple[Paused, ...]
    concerns: dict[str, int]
    """Open concern → since when, epoch milliseconds."""
    journeys: dict[str, str]
    """Journey → step; those the customer is not in are left out."""
    owed: tuple[Owed, ...]
    gives: dict[str, int]
    """What the customer got → how often."""
    asks: dict[str, int]
    """What the customer was asked for → how often."""
    relationship: tuple[str, ...]
    """In words."""


class ScopeControl(Struct, frozen=True, kw_only=True):
    """Something that can be stopped, paused and resumed."""

    scope: str
    kind: str
    """`overall`, `channel`, `group` or `action`."""
    words: str
    held_until_ms: int
    """0: it is not held back by the customer's word."""


class Correctable(Struct, frozen=True, kw_only=True):
    """A value that can be corrected."""

    feature: str
    label: str
    description: str
    type: str
    categories: tuple[str, ...]
    """Of a category with declared ones; empty: any text."""
    controllable: bool
    value: Value
    """As a decision sees it now."""


class Controls(Struct, frozen=True, kw_only=True):
    """What can be said; consent to the purposes of `Remembered.consent` too."""

    scopes: tuple[ScopeControl, ...]
    correctable: tuple[Correctable, ...]


class OwnView(Struct, frozen=True, kw_only=True):
    """Everything a customer is told."""

    customer_id: str
    at_ms: int
    shown: tuple[Shown, ...]
    """Newest first."""
    remembered: Remembered
    unlocks: tuple[Unlock, ...]
    unlocks_cut: bool
    """More might be unlocked than was looked for."""
    controls: Controls


def own_view(
    plan: Plan,
    state: CustomerState,
    customer_id: str,
    prompts: Sequence[Prompt],
    now_ms: int,
    *,
    salt: str,
    purse: Mapping[str, int] = NO_BUDGETS,
    model: BoundModel | None = None,
) -> OwnView:
    """Build the view.

    Parameters
    ----------
    plan, state, now_ms, salt, purse, model
        As of `nbx.decision.choice.allowed`; the state is read only.
    customer_id
        The canonical one.
    prompts
        Newest first.
    """
    found = find_unlocks(plan, state, customer_id, now_ms, salt=salt, purse=purse, model=model)
    return OwnView(
        customer_id=customer_id,
        at_ms=now_ms,
        shown=tuple(shown for prompt in prompts for shown in _shown(prompt)),
        remembered=_remembered(plan, state, customer_id, now_ms, salt),
        unlocks=found.unlocks,
        unlocks_cut=found.cut,
        controls=_controls(plan, state, now_ms),
    )


def _shown(prompt: Prompt) -> Iterator[Shown]:
    entry, plan = prompt.entry, prompt.plan
    placement = plan.placements[entry.request.placement]
    for number, slot in enumerate(entry.slots):
        if not slot.action:
            continue
        action = next(each for each in plan.catalog.actions if each.name == slot.action)
        treatment = next(each for each in action.treatments if each.name == slot.treatment)
        stands = prompt.opened.slots[number] if prompt.opened is not None else None
        outcome = (stands.outcome or "") if stands is not None else ""
        yield Shown(
            decision_id=entry.decision_id,
            slot=number,
            at_ms=entry.at_ms,
            channel=placement.placement.channel,
            placement=placement.placement.name,
            action=slot.action,
            group=action.group,
            headline=headline(slot.action, treatment.content),
            why=(_picked(entry, slot.action), *_conditions(plan, slot.action, slot.treatment)),
            gives=action.gives,
            asks=action.asks,
            outcome=outcome,
            became=_became(stands),
        )


def _became(slot: OpenSlot | None) -> str:
    if slot is None:
        return "too long ago to tell"
    if slot.outcome:
        return OUTCOMES[slot.outcome]
    return "you saw it" if slot.seen_at_ms else "on its way to you"


def _picked(entry: DecisionEntry, action: str) -> str:
    """Say how the choice came about."""
    if entry.degraded:
        return "We could not look anything up in time, and showed what anybody sees here."
    if action in entry.mandatory:
        return "Everybody concerned has to get this message."
    if entry.holdout == RANDOM:
        return "Chance picked it: you are in a small group for whom it always does, to see what choosing is worth."
    views = explain(entry, full=True).candidates
    best = max(views, key=lambda view: view.utility)
    many = f"of {len(views)} things we could have shown" if len(views) > 1 else "compared with saying nothing"
    unknowing = "" if entry.personalised else " Nothing personal was used."
    if best.action == action:
        return f"We expected most of it, for you and for us, {many}.{unknowing}"
    return f"We were not sure what suits you and tried this, {many}.{unknowing}"


def _conditions(plan: Plan, action: str, treatment: str) -> Iterator[str]:
    """Yield what had to hold for it, once each."""
    declared = next(each for each in plan.catalog.actions if each.name == action)
    owners = (plan.rules.groups[declared.group], declared, *(t for t in declared.treatments if t.name == treatment))
    sources = [source for layer in LAYERS for owner in owners if (source := getattr(owner, layer))]
    told = dict.fromkeys(words for source in sources for words in condition_words(source, plan.words))
    return (f"{words[0].upper()}{words[1:]}." for words in told)


def _remembered(plan: Plan, state: CustomerState, customer_id: str, now_ms: int, salt: str) -> Remembered:
    rules = plan.rules
    walks = journeys.values(state, rules, now_ms)
    return Remembered(
        profile=tuple(_known(plan, state, now_ms)),
        counted=tuple(_counted(plan, state, now_ms)),
        consent=tuple(_consent(plan, state)),
        paused=tuple(_paused(state, now_ms)),
        concerns={name: state.concerns[name][journeys.OPENED] for name, is_open in walks["concern"].items() if is_open},
        journeys={name: str(step) for name, step in walks["journey"].items() if step},
        owed=tuple(_owed(plan, state, now_ms)),
        gives=dict(state.gives),
        asks=dict(state.asks),
        relationship=tuple(_relationship(plan, state, customer_id, now_ms, salt)),
    )


def _known(plan: Plan, state: CustomerState, now_ms: int) -> Iterator[Known]:
    for name, known in sorted(state.profile.items()):
        feature = plan.profile_features.get(name)
        fresh = feature is not None and not (feature.max_age_ms and now_ms - known.at_ms > feature.max_age_ms)
        yield Known(
            feature=name,
            label=spoken(name),
            description=feature.description if feature is not None else "",
            value=known.value,
            since_ms=known.at_ms,
            in_use=fresh,
        )


_KINDS = {
    "count": "how often there was",
    "sum": "the sum of {property} over every",
    "last": "the latest {property} of every",
    "time_since": "the hours since the last",
    "decayed_mean": "the average {property}, of late, over every",
}


def _counted(plan: Plan, state: CustomerState, now_ms: int) -> Iterator[Counted]:
    values = plan.resolver.resolve(state, {}, now_ms)
    for feature in plan.catalog.features:
        origin = feature.origin
        if isinstance(origin, Aggregate) and feature.name in state.aggregates:
            made = _KINDS[origin.kind].format(property=spoken(origin.property))
            yield Counted(
                feature=feature.name,
                label=spoken(feature.name),
                words=feature.description or f"{made} {spoken(origin.event)}",
                value=values[feature.name],
            )


def _consent(plan: Plan, state: CustomerState) -> Iterator[Allows]:
    policy, channels = plan.rules.consent, sorted(plan.rules.channels)
    holds = [(contact_purpose(c), f"contact you by {spoken(c)}", may_contact(state, policy, c)) for c in channels]
    holds.append((PERSONALISE, "use what we know about you to choose", may_personalise(state, policy)))
    holds.append((LEARN, "learn from how you respond", may_learn(state, policy)))
    for purpose, words, granted in holds:
        said = said_of(state, purpose)
        yield Allows(purpose=purpose, words=words, granted=granted, said_ms=said.at_ms if said is not None else 0)


def _paused(state: CustomerState, now_ms: int) -> Iterator[Paused]:
    for scope in sorted({*state.controls, *state.pauses}):
        if until_ms := held_ms(state, scope, now_ms):
            yield Paused(scope=scope, words=scope_words(scope), until_ms=until_ms, by="customer")
        pause = state.pauses.get(scope)
        if pause is not None and pause.until_ms > now_ms:
            yield Paused(scope=scope, words=scope_words(scope), until_ms=pause.until_ms, by=pause.outcome)


def _owed(plan: Plan, state: CustomerState, now_ms: int) -> Iterator[Owed]:
    for topic, opened_ms in sorted(open_topics(state, now_ms, plan.rules.experience).items()):
        if opened_ms in state.obligations.get(topic, ()):  # otherwise it is a broken promise's, which is told below
            yield Owed(kind="obligation", what=topic, since_ms=opened_ms, due_ms=0, overdue=False)
    for what, promise in sorted(state.promises.items()):
        if not promise.kept_ms:
            overdue = promise.broken or promise.due_ms <= now_ms
            yield Owed(kind="promise", what=what, since_ms=promise.made_ms, due_ms=promise.due_ms, overdue=overdue)


def _relationship(plan: Plan, state: CustomerState, customer_id: str, now_ms: int, salt: str) -> Iterator[str]:
    policy = plan.rules.experience
    balance = balance_at(state, now_ms, policy)
    if balance < policy.floor:
        yield "Too much went wrong between us: we offer you nothing until it is better, and only help."
    elif balance <= _BADLY:
        yield "Things have not gone well between us lately: we hold back."
    elif balance >= _WELL:
        yield "Things have gone well between us lately."
    else:
        yield "Nothing much, good or bad, has happened between us lately."
    held_out = assignment(customer_id, state, plan.catalog.holdout, salt)
    if held_out == "silent":
        yield "You are in a small group that gets necessary messages only, so that we see what the others are worth."
    elif held_out:
        yield "You are in a small group for whom chance picks what is shown, so that we see what choosing is worth."


def scope_words(scope: str) -> str:
    """Return a scope in words.

    Examples
    --------
    >>> scope_words("overall"), scope_words("channel:web"), scope_words("group:loans"), scope_words("travel_card")
    ('everything', 'everything on web', 'everything about loans', 'travel card')
    """
    kind, _, name = scope.rpartition(":")
    if scope == OVERALL:
        return "everything"
    lead = {"channel": "everything on ", "group": "everything about ", "class": "everything of the kind "}
    return f"{lead.get(kind, '')}{spoken(name)}"


def _controls(plan: Plan, state: CustomerState, now_ms: int) -> Controls:
    values = plan.resolver.resolve(state, {}, now_ms)
    scopes = (
        ScopeControl(
            scope=scope,
            kind="overall" if scope == OVERALL else scope.rpartition(":")[0] or "action",
            words=scope_words(scope),
            held_until_ms=held_ms(state, scope, now_ms),
        )
        for scope in scopes_of(plan.rules)
    )
    correctable = (
        Correctable(
            feature=feature.name,
            label=spoken(feature.name),
            description=feature.description,
            type=feature.type,
            categories=feature.encoding.categories,
            controllable=feature.controllable,
            value=values[feature.name],
        )
        for feature in plan.profile_features.values()
    )
    return Controls(scopes=tuple(scopes), correctable=tuple(correctable))
