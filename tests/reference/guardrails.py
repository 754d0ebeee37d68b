"""What guardrails promise, checked the slow way: over the log alone, each decision by what was known when it was made.

Written from the words of `nbx.catalog.model` and docs/design.md, not from the code that decides. `Guardrails.check`
returns every breach: an action given out that some rule held back, a slate that holds what may not stand together, a
budget spent beyond its total; and an action removed for a reason that did not hold, or not for the first one that did.

Counting in whole seconds may hold an action back up to a second longer than the words say, never shorter. Time never
runs back here: what was over at one entry of a customer is over at the next, though a worker's clock is behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from math import inf
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

import cel

from nbx.catalog.model import LAYERS, Action, Catalog, ContactRule, Limit, Pause, Policy, QuietHours
from nbx.experience.entries import DecisionEntry, Entry, EraseEntry, EventEntry, ProfileEntry, SlotRecord, TimerEntry
from nbx.features.schema import Value
from tests.reference import journeys
from tests.reference.lifecycle import SlotKey
from tests.reference.relationship import OF_SLOTS, UNITS_MS, Relationship

PARTS = 10_000
"""In which money is counted."""
NEAR = 0.05
"""Points by which a balance may be on either side of the floor, and asks be of what gives bear."""


class Stage(NamedTuple):
    """A rule that is asked about an action."""

    codes: frozenset[str]
    """Reasons it may give."""
    holds: bool
    """It surely removes the action."""
    may: bool
    """It may do so, within what rounding leaves open."""


class Seen(NamedTuple):
    """A prompt given out."""

    action: str
    channel: str
    exposed_ms: int | None
    """When it was proved to be seen; None: it was not."""
    open: bool
    """It may still be seen."""


@dataclass
class Life:
    """One customer, as of a place in the log."""

    slots: Relationship
    channels: dict[SlotKey, str] = field(default_factory=dict)
    told: dict[SlotKey, int] = field(default_factory=dict)
    """Release by which a slot's outcome was last told."""
    unanswered: dict[str, int] = field(default_factory=dict)
    """Scope → until when several ignored prompts together keep it away."""
    said: list[journeys.Said] = field(default_factory=list)
    history: list[journeys.Happened] = field(default_factory=list)
    profile: dict[str, tuple[int, Value]] = field(default_factory=dict)
    wishes: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Scope → everything the customer said of it: (when, until when nothing of it is wanted)."""
    latest_ms: int = 0

    def seen(self, now_ms: int) -> list[Seen]:
        """Return every prompt."""
        return [
            Seen(slot.action, self.channels[key], slot.exposed_ms(), slot.reserved(now_ms))
            for key, slot in self.slots.slots.items()
        ]


def says_quiet(hours: Iterable[QuietHours], channel: str, zone: str, at_ms: int) -> bool:
    """Tell whether quiet hours hold at what the clock on the customer's wall shows."""
    wall = datetime.fromtimestamp(at_ms // 1000, ZoneInfo(zone))
    minute, today = wall.hour * 60 + wall.minute, wall.weekday()
    for each in hours:
        begins = each.days or range(7)
        if each.channels and channel not in each.channels:
            continue
        if each.from_minute < each.to_minute:
            holds = today in begins and each.from_minute <= minute < each.to_minute
        else:
            late = today in begins and minute >= each.from_minute
            holds = late or ((today - 1) % 7 in begins and minute < each.to_minute)
        if holds:
            return True
    return False


class Guardrails:
    """Reads a log and remembers every breach.

    Parameters
    ----------
    catalogs
        Release → catalog.
    """

    def __init__(self, catalogs: Mapping[int, Catalog]) -> None:
        self.catalogs = catalogs
        self.breaches: list[str] = []
        self.reasons: Counter[str] = Counter()
        """Reason → how often it removed an action and did so rightly."""
        self.given: Counter[str] = Counter()
        self.spent: Counter[tuple[str, int]] = Counter()
        """(resource, beginning of its window) → amount."""
        self._lives: dict[str, Life] = {}
        self._holdout: dict[str, str] = {}

    def check(self, log: Iterable[Entry]) -> list[str]:
        """Read on; returns all breaches so far."""
        for entry in log:
            life = self._lives.setdefault(entry.customer_id, Life(Relationship(self.catalogs)))
            if isinstance(entry, DecisionEntry):
                life.latest_ms = max(life.latest_ms, entry.at_ms)
                self.breaches += [
                    f"{entry.decision_id} of {entry.customer_id} at {entry.at_ms}: {words}"
                    for words in _Decided(self, life, entry).breaches()
                ]
                self._spend(entry)
            self._take(life, entry)
        return self.breaches

    def _take(self, life: Life, entry: Entry) -> None:
        life.latest_ms = max(life.latest_ms, entry.at_ms)
        life.slots.take(entry)
        match entry:
            case DecisionEntry():
                for number in range(len(entry.slots)):
                    life.channels[entry.decision_id, number] = self._channel(entry)
            case ProfileEntry():
                for name, value in entry.changes.items():
                    if value is None:
                        life.profile.pop(name, None)
                    elif entry.at_ms >= life.profile.get(name, (0, ""))[0]:
                        life.profile[name] = (entry.at_ms, value)
            case EraseEntry():
                self._lives[entry.customer_id] = Life(Relationship(self.catalogs), latest_ms=life.latest_ms)
            case EventEntry() | TimerEntry():
                if isinstance(entry, EventEntry) and entry.event.type not in OF_SLOTS:
                    self._hear(life, entry)
                for outcome in entry.outcomes:
                    self._tell(life, (outcome.decision_id, outcome.slot), entry.release)

    def _hear(self, life: Life, entry: EventEntry) -> None:
        life.history.append(journeys.Happened(entry.event.type, entry.at_ms))
        if entry.event.type == "consent":
            life.said += [(purpose, bool(word), entry.at_ms) for purpose, word in entry.event.properties.items()]
        if entry.event.type == "control":
            said = entry.event.properties
            life.wishes.setdefault(str(said["scope"]), []).append((entry.at_ms, _until_ms(said, entry.at_ms)))

    def _tell(self, life: Life, key: SlotKey, release: int) -> None:
        """Note by which release an outcome holds, and what it means together with other ignored prompts."""
        if key not in life.slots.slots:
            return
        life.told[key] = release
        catalog = self.catalogs[release]
        for scope, pause in pauses(catalog, life.slots.slots[key].action, life.channels[key]):
            if pause.ignored_count > 1:
                life.unanswered[scope] = self._unanswered(life, catalog, scope, pause)

    def _unanswered(self, life: Life, catalog: Catalog, scope: str, pause: Pause) -> int:
        times = sorted(
            outcome[1]
            for key, slot in life.slots.slots.items()
            if (outcome := slot.outcome()) is not None and outcome[0] == "ignored"
            if scope in scopes(catalog, slot.action, life.channels[key])
        )
        runs = zip(times, times[pause.ignored_count - 1 :], strict=False)
        ends = [last + pause.ignored_ms for first, last in runs if last - first <= pause.ignored_within_ms]
        return max(ends, default=0) if pause.ignored_ms else 0

    def _channel(self, entry: DecisionEntry) -> str:
        return next(p.channel for p in self.catalogs[entry.release].placements if p.name == entry.request.placement)

    def held_out(self, entry: DecisionEntry) -> Iterator[str]:
        """Yield a breach when a customer's holdout is not what it was."""
        before = self._holdout.setdefault(entry.customer_id, entry.holdout)
        if before != entry.holdout:
            yield f"holdout {before!r} became {entry.holdout!r}"

    def _spend(self, entry: DecisionEntry) -> None:
        catalog = self.catalogs[entry.release]
        due: Counter[str] = Counter()
        for budget in catalog.budgets:
            members = {a.name: a for a in catalog.actions if a.name in budget.actions or a.group in budget.groups}
            given = [slot.action for slot in entry.slots if slot.action in members]
            units, money = len(given), sum(round(members[name].cost * PARTS) for name in given)
            start_ms = budget.starts_ms or 4 * 86_400_000
            begins_ms = entry.at_ms - (entry.at_ms - start_ms) % budget.per_ms
            for kind, amount, total in (("units", units, budget.units), ("money", money, round(budget.money * PARTS))):
                if total and amount:
                    due[f"{budget.name}/{kind}"] += amount
                    self.spent[f"{budget.name}/{kind}", begins_ms] += amount
                    if self.spent[f"{budget.name}/{kind}", begins_ms] > total:
                        self.breaches.append(f"{entry.decision_id}: {budget.name}/{kind} is spent beyond {total}")
        taken: Counter[str] = Counter()
        for spent in entry.spent:
            taken[spent.resource] += spent.amount
        if taken != due:
            self.breaches.append(f"{entry.decision_id}: took {dict(taken)} from budgets for what costs {dict(due)}")


def scopes(catalog: Catalog, action: str, channel: str) -> set[str]:
    """Return every scope that a prompt is in."""
    found = {action, f"channel:{channel}", "overall"}
    for each in catalog.actions:
        if each.name == action:
            found |= {f"group:{each.group}", f"class:{each.action_class}"}
    return found


def pauses(catalog: Catalog, action: str, channel: str) -> Iterator[tuple[str, Pause]]:
    """Yield what an outcome of an action on a channel may pause, and how."""
    contact = catalog.contact
    if channel in contact.channels and (rule := contact.channels[channel]).pause:
        yield f"channel:{channel}", rule.pause
    if contact.overall.pause:
        yield "overall", contact.overall.pause
    for each in catalog.actions:
        if each.name != action:
            continue
        (group,) = [group for group in catalog.groups if group.name == each.group]
        if own := each.pause or group.pause:
            yield action, own
        if group.pause_group:
            yield f"group:{group.name}", group.pause_group
        if each.action_class in contact.classes and (rule := contact.classes[each.action_class]).pause:
            yield f"class:{each.action_class}", rule.pause


class _Decided:
    """One decision against everything known before it."""

    def __init__(self, book: Guardrails, life: Life, entry: DecisionEntry) -> None:
        self.book, self.life, self.entry = book, life, entry
        self.catalog = book.catalogs[entry.release]
        self.actions = {action.name: action for action in self.catalog.actions}
        self.groups = {group.name: group for group in self.catalog.groups}
        (self.placement,) = [p for p in self.catalog.placements if p.name == entry.request.placement]
        self.now_ms = entry.at_ms
        self.seen = life.seen(life.latest_ms)
        self.given = [slot.action for slot in entry.slots if slot.action]
        stated = str(life.profile.get(self.catalog.time_zone_feature, (0, ""))[1])
        self.zone = stated if stated in _zones() else self.catalog.time_zone
        self.values = self._values()
        self.paused, self.maybe_paused = self._paused(life.latest_ms), self._paused(self.now_ms)
        self.owed = life.slots.open_topics(entry.release, self.now_ms)

    def breaches(self) -> Iterator[str]:
        entry = self.entry
        yield from self.book.held_out(entry)
        if entry.degraded:
            yield from self._degraded()
            return
        yield from self._together()
        yield from self._chance()
        if entry.learns != self._agreed("learn", self.catalog.consent.learn):
            yield f"learns is {entry.learns}"
        if entry.personalised != self._personal():
            yield f"personalised is {entry.personalised}"
        for number, slot in enumerate(entry.slots):
            if slot.action:
                self.book.given[slot.action] += 1
                yield from self._given(number, slot)
        for removed in entry.removed:
            words = self._unjustified(removed.action, removed.reason)
            if words:
                yield words
            else:
                self.book.reasons[removed.reason] += 1

    def _degraded(self) -> Iterator[str]:
        """Check what holds also when nothing is known of the customer."""
        for name in self.given:
            action = self.actions[name]
            if self.entry.holdout == "silent" and action.action_class != "mandatory":
                yield f"{name} is given to a customer of the silent holdout, degraded"
            if action.action_class not in self.catalog.contact.exempt and self._quiet(self.now_ms):
                yield f"{name} is given within quiet hours, degraded"
            if name in self.entry.request.exclude:
                yield f"{name} is given although excluded, degraded"

    def _given(self, number: int, slot: SlotRecord) -> Iterator[str]:
        action = self.actions[slot.action]
        for stage in self._stages(action, self.given[: self.given.index(slot.action)]):
            if stage.holds:
                yield f"slot {number}: {slot.action} is given against {'/'.join(sorted(stage.codes))}"
        right = self._treatment(action)
        if right != slot.treatment:
            yield f"slot {number}: {slot.action} has treatment {slot.treatment!r}, not {right!r}"
        exempt = action.action_class in self.catalog.contact.exempt
        if not exempt and not slot.implicit:
            minutes = range(self.now_ms, self.now_ms + slot.delivery_ms, 60_000)
            if any(self._quiet(at_ms) for at_ms in (*minutes, self.now_ms + slot.delivery_ms - 1)):
                yield f"slot {number}: {slot.action} may be shown within quiet hours"

    def _unjustified(self, name: str, reason: str) -> str:
        """Say why an action should not have been removed for a reason; empty when all is well."""
        for stage in self._stages(self.actions[name], []):
            if reason in stage.codes and stage.may:
                return ""
            if stage.holds:
                return f"{name} is removed by {reason}, and {'/'.join(sorted(stage.codes))} is asked before"
        return "" if reason == "budget_spent" else f"{name} is removed by {reason}, which does not hold"

    def _stages(self, action: Action, before: list[str]) -> Iterator[Stage]:
        """Yield every rule in the order in which it is asked; `before`: what the slate holds in earlier slots."""
        contact, consent, entry, life = self.catalog.contact, self.catalog.consent, self.entry, self.life
        yield _sure("excluded", action.name in entry.request.exclude)
        yield _sure("holdout", entry.holdout == "silent" and action.action_class != "mandatory")
        owners: list[Policy] = [self.groups[action.group], action]
        yield _sure("not_started", any(self.now_ms < owner.starts_ms for owner in owners))
        yield _sure("ended", any(owner.ends_ms and self.now_ms >= owner.ends_ms for owner in owners))
        allowed = journeys.contact_allowed(life.said, consent, self.placement.channel)
        yield _sure("no_consent", action.action_class not in consent.exempt and not allowed)
        for layer in LAYERS:
            codes = {code for owner in owners if (code := self._fails(getattr(owner, layer), layer))}
            yield Stage(frozenset(codes), bool(codes), bool(codes))
        misfits = [self._misfit(each) for each in action.treatments if self.placement.name in each.placements]
        yield Stage(frozenset(misfits[:1]), all(misfits), all(misfits))
        worth = self._balance() if action.action_class == "promotional" else 0.0
        floor = self.catalog.experience.floor
        yield Stage(frozenset(["experience_floor"]), worth < floor - NEAR, worth < floor + NEAR)
        promotional = action.action_class == "promotional"
        yield _sure("obligation_open", promotional and life.slots.topic(entry.release, action) in self.owed)
        over = self._asks_over(action) if promotional and action.asks else -1.0
        yield Stage(frozenset(["asks_too_much"]), over > NEAR, over > -NEAR)
        held = action.action_class not in contact.exempt
        yield _sure("quiet_hours", held and self._quiet(self.now_ms))
        scopes_of = self._own(action) + self._wider(action) * held
        wished = not self._wished().isdisjoint(scopes_of)
        sure, may = (wished or not paused.isdisjoint(scopes_of) for paused in (self.paused, self.maybe_paused))
        yield Stage(frozenset(["paused"]), sure, may)
        rules = [(scope, self._rule(scope)) for scope in self._wider(action) * held]
        gaps = [self._close(scope, rule.gap_ms) for scope, rule in rules if rule.gap_ms]
        yield Stage(frozenset(["too_soon"]), any(sure for sure, _ in gaps), any(may for _, may in gaps))
        limits = [(action.name, limit) for limit in action.limits]
        limits += [(f"group:{action.group}", limit) for limit in self.groups[action.group].limits]
        limits += [(scope, limit) for scope, rule in rules for limit in rule.limits]
        counts = [(limit, self._count(scope, limit, before)) for scope, limit in limits]
        sure, may = (any(count[i] >= limit.max for limit, count in counts) for i in (0, 1))
        yield Stage(frozenset(["limit_reached"]), sure, may)

    def _own(self, action: Action) -> list[str]:
        return [action.name, f"group:{action.group}"]

    def _wider(self, action: Action) -> list[str]:
        return [f"channel:{self.placement.channel}", f"class:{action.action_class}", "overall"]

    def _rule(self, scope: str) -> ContactRule:
        kind, _, name = scope.partition(":")
        contact = self.catalog.contact
        if kind == "overall":
            return contact.overall
        if kind == "channel":
            return contact.channels.get(name, ContactRule())
        return next((rule for each, rule in contact.classes.items() if each == name), ContactRule())

    def _count(self, scope: str, limit: Limit, before: list[str]) -> tuple[int, int]:
        """Count what a limit counts, the slate's own included: surely, and with a second's rounding."""
        found = [s for s in self.seen if scope in scopes(self.catalog, s.action, s.channel)]
        mine = sum(scope in scopes(self.catalog, name, self.placement.channel) for name in before)
        since_ms = self.now_ms - limit.per_ms
        sure, may = (
            mine + sum(s.open or (s.exposed_ms is not None and s.exposed_ms > since_ms - slack) for s in found)
            for slack in (0, 1000)
        )
        return sure, may

    def _close(self, scope: str, gap_ms: int) -> tuple[bool, bool]:
        """Tell whether a prompt of the scope is too near: surely, and with a second's rounding."""
        found = [s for s in self.seen if scope in scopes(self.catalog, s.action, s.channel)]
        times = [s.exposed_ms for s in found if s.exposed_ms is not None]
        open_ = any(s.open for s in found)
        sure, may = (open_ or any(self.now_ms - at_ms < gap_ms + slack for at_ms in times) for slack in (0, 1000))
        return sure, may

    def _paused(self, now_ms: int) -> set[str]:
        """Return the scopes that outcomes keep away at a time.

        What was over at the latest entry may have been forgotten, or be called for by one that came later: a worker
        whose clock is behind holds to it then.
        """
        life = self.life
        found = {scope for scope, until_ms in life.unanswered.items() if until_ms > now_ms}
        for key, slot in life.slots.slots.items():
            outcome = slot.outcome()
            if key not in life.told or outcome is None or outcome[0] not in ("declined", "dismissed", "ignored"):
                continue
            for scope, pause in pauses(self.book.catalogs[life.told[key]], slot.action, life.channels[key]):
                alone = outcome[0] != "ignored" or pause.ignored_count == 1
                length_ms: int = getattr(pause, f"{outcome[0]}_ms")
                if alone and length_ms and outcome[1] + length_ms > now_ms:
                    found.add(scope)
        return found

    def _quiet(self, at_ms: int) -> bool:
        return says_quiet(self.catalog.contact.quiet_hours, self.placement.channel, self.zone, at_ms)

    def _balance(self) -> float:
        charges = self.life.slots.charges(self.entry.release)
        latest_ms = max((at_ms for at_ms, _ in charges), default=0)
        return self.life.slots.worth(self.entry.release, max(self.now_ms, latest_ms))

    def _asks_over(self, action: Action) -> float:
        """Return by how much an action asks beyond what was given; below 0: it does not."""
        release, known = self.entry.release, self.life.slots
        if not (most := self.catalog.experience.asks_per_give):
            return -1.0
        asks, gives = known.asks(release), known.gives(release)
        asked, given = (
            known.amount(release, each, max(self.now_ms, *(at_ms for at_ms, _ in each), 0)) for each in (asks, gives)
        )
        return asked + len(action.asks) - most * (given + 1)

    def _wished(self) -> set[str]:
        """Return the scopes of which the customer wants nothing now."""
        return {scope for scope, words in self.life.wishes.items() if max(words)[1] > self.now_ms}

    def _agreed(self, purpose: str, default: str) -> bool:
        word = journeys.last_word(self.life.said, purpose)
        return default == "opt_out" if word is None else word

    def _personal(self) -> bool:
        return self._agreed("personalise", self.catalog.consent.personalise)

    def _values(self) -> dict[str, dict[str, Value]]:
        """Return what conditions read."""
        customer: dict[str, Value] = {}
        request: dict[str, Value] = {"placement": self.placement.name, "channel": self.placement.channel}
        for feature in self.catalog.features:
            if feature.origin == "context":
                request[feature.name] = self.entry.request.context.get(feature.name, feature.default)
            elif feature.origin == "profile":
                customer[feature.name] = self.life.profile.get(feature.name, (0, feature.default))[1]
        history = self.life.history
        return {
            "customer": customer,
            "request": request,
            "relationship": {**self.entry.relationship},
            "journey": {each.name: journeys.step(each, history) for each in self.catalog.journeys},
            "concern": {each.name: journeys.concern_open(each, history, self.now_ms) for each in self.catalog.concerns},
        }

    def _fails(self, source: str, layer: str) -> str:
        """Return the code of a condition that does not hold; empty when it does."""
        if not source:
            return ""
        personal = [f"customer.{f.name}" for f in self.catalog.features if f.origin != "context" and f.is_personal]
        if not self._personal() and any(f in source for f in (*personal, "relationship.", "journey.", "concern.")):
            return "needs_personalise"
        return "" if cel.evaluate(source, self.values) else f"not_{layer}"

    def _misfit(self, treatment: Policy) -> str:
        """Return why a treatment may not be used; empty when it may."""
        if self.now_ms < treatment.starts_ms:
            return "not_started"
        if treatment.ends_ms and self.now_ms >= treatment.ends_ms:
            return "ended"
        failures = (self._fails(getattr(treatment, layer), layer) for layer in LAYERS)
        return next((failure for failure in failures if failure), "")

    def _treatment(self, action: Action) -> str:
        fitting = (t.name for t in action.treatments if self.placement.name in t.placements and not self._misfit(t))
        return next(fitting, "")

    def _together(self) -> Iterator[str]:
        """Yield what may not stand together in a slate."""
        given = set(self.given)
        if len(given) < len(self.given):
            yield "an action is given twice"
        for names in self.catalog.contact.exclusive:
            if len(given.intersection(names)) > 1:
                yield f"{sorted(given)} holds more than one of {names}"
        for name in self.given:
            if clash := given.intersection(self.actions[name].not_with):
                yield f"{name} stands with {sorted(clash)}"
        for group in self.catalog.groups:
            if group.per_slate and sum(self.actions[name].group == group.name for name in given) > group.per_slate:
                yield f"more than {group.per_slate} of group {group.name}: {sorted(given)}"

    def _chance(self) -> Iterator[str]:
        """Yield propensities in the random holdout that are not even, for slates of one slot."""
        entry = self.entry
        if entry.holdout == "random" and len(entry.slots) == 1 and not entry.mandatory:
            even = 1.0 / max(len(entry.actions), 1)
            if abs(entry.slots[0].propensity - even) > 1e-9 or (entry.actions and not self.given):
                yield f"propensity {entry.slots[0].propensity} in the random holdout, not {even}"


def _until_ms(said: Mapping[str, Value], at_ms: int) -> float:
    """Return until when a customer who said this at a time wants nothing; 0: prompts are welcome."""
    if said.get("stop"):
        return inf
    pause = said.get("pause", 0)
    return at_ms + int(pause[:-1]) * UNITS_MS[pause[-1]] if isinstance(pause, str) else pause


def _sure(code: str, holds: bool) -> Stage:
    return Stage(frozenset([code]), holds, holds)


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())
