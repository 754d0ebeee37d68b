"""The fold: the only code that changes a customer's state.

`fold(state, open_decision, entry, rules)` is a pure function of its arguments' *values*; for speed it changes the state
and decision it is given and returns them, so callers decode them afresh and hand them over. Serving, the keeper,
rebuild and simulation all go through it; deleting every state and folding the log again gives the same bytes.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from msgspec.structs import replace

from nbx.catalog.model import Pause as PausePolicy
from nbx.catalog.rules import Rules
from nbx.experience import corrections, giveget, goals, identity, lifecycle, promises, threads
from nbx.experience.behaviour import feel, happen, properties_of
from nbx.experience.causes import ROUTES, diagnose_slot, response_of, signs_of
from nbx.experience.commitments import of_topic, undertake
from nbx.experience.consent import CONSENT, fold_consent, still_learns
from nbx.experience.controls import CONTROL, fold_control
from nbx.experience.entries import (
    AbsorbEntry,
    AliasEntry,
    DecisionEntry,
    DeliveredEntry,
    Entry,
    EraseEntry,
    EventEntry,
    GoalOutcome,
    MovedEntry,
    Outcome,
    ProfileEntry,
    TimerEntry,
)
from nbx.experience.exposure import expose, hide, reserve
from nbx.experience.lifecycle import SLOT_EVENTS, OpenDecision, OpenSlot, encode_open
from nbx.experience.relationship import IGNORED_WINDOW_S, charge, mood_points, weighed
from nbx.features.state import CustomerState, Pause, ProfileValue, Recent, Reservation, Unanswered
from nbx.features.store import Timer
from nbx.limits import CONTACTS, PAUSES


class Folded(NamedTuple):
    """What one entry led to."""

    decision: OpenDecision | None
    """The open decision after the entry, to be stored; None when the entry concerns none."""
    outcomes: tuple[Outcome, ...]
    arm: tuple[Timer, ...]
    cancel: tuple[str, ...]
    goals: tuple[GoalOutcome, ...] = ()
    """Goals of this or of other decisions that were reached, missed or corrected; those decisions changed too."""
    broken: tuple[str, ...] = ()
    """Promises that ran out."""


_WORDS = {CONSENT: fold_consent, CONTROL: fold_control}
"""Event type → what takes in the customer's own word."""
_NOTHING = Folded(None, (), (), ())


def fold(
    state: CustomerState,
    decision: OpenDecision | None,
    entry: Entry,
    rules: Rules,
    others: Mapping[str, OpenDecision | None] = MappingProxyType({}),
    canonical: CustomerState | None = None,
) -> Folded:
    """Fold one log entry into a customer's state.

    Parameters
    ----------
    state
        Handed over; changed in place.
    decision
        The open decision that the entry names, handed over; None when it names none or is no longer kept.
    entry
        What happened. Its `outcomes` are not read: they are what this function returns.
    rules
        Of the entry's release.
    others
        Decisions by id, handed over, among them those whose goal the entry may reach (`goals.awaited`).
    canonical
        Where `state` is an alias's, the canonical customer's as far as it is known, handed over: outcomes follow its
        consent and pauses. It is not what is stored: it will hear of the entry by itself.
    """
    _expire(state, entry.at_ms)
    if state.merged_into and isinstance(entry, DecisionEntry | EventEntry | TimerEntry):
        return _passed_on(state, decision, entry, rules, others, canonical or CustomerState())
    match entry:
        case DecisionEntry():
            return _decided(state, entry, rules)
        case ProfileEntry():
            for name, value in entry.changes.items():
                corrections.note(state, name, value, entry.at_ms)
                if value is None:
                    state.profile.pop(name, None)
                elif name not in state.profile or entry.at_ms >= state.profile[name].at_ms:
                    state.profile[name] = ProfileValue(value, entry.at_ms)
            return Folded(None, _diagnosed_anew(state, entry, rules, others), (), ())
        case EraseEntry():
            never_met = CustomerState()
            for name in never_met.__struct_fields__:
                setattr(state, name, getattr(never_met, name))
            return _NOTHING
        case AliasEntry() | MovedEntry() | AbsorbEntry() | DeliveredEntry():
            if (happened := identity.fold_merge(state, entry, rules)) is not None:
                fold(state, happened.decision, happened.entry, rules)
            return _NOTHING
        case TimerEntry() if entry.kind == "promise":
            broken = promises.break_due(state, rules.experience, entry.at_ms)
            for _ in broken:
                happen(state, promises.BROKEN, {}, entry.at_ms, rules, "company")
            return Folded(None, (), (), (), broken=broken)
        case TimerEntry():
            return _NOTHING if decision is None else _timer(state, decision, entry, rules)
        case EventEntry():
            return _taken_in(state, decision, entry, rules, others)


def _taken_in(
    state: CustomerState,
    decision: OpenDecision | None,
    entry: EventEntry,
    rules: Rules,
    others: Mapping[str, OpenDecision | None],
) -> Folded:
    """Fold an event: what it is to anybody, then what it is to its slot, or to goals."""
    event, of_slot = entry.event, entry.event.type in SLOT_EVENTS
    happen(state, event.type, properties_of(event), entry.at_ms, rules, event.by)
    ran_out = undertake(state, event, entry.at_ms, rules)
    if take_word := _WORDS.get(event.type):
        take_word(state, event, entry.at_ms)
    topic, undertaken = of_topic(state, decision, event, entry.at_ms, rules) if of_slot else ("", [])
    for due_ms in (*ran_out, *undertaken):
        happen(state, promises.BROKEN, {}, due_ms, rules, "company")
    threads.touch(state, event, entry.at_ms, decision.channel if decision else "", topic, rules)
    if of_slot:
        return _NOTHING if decision is None else _event(state, decision, entry, rules)
    feel(state, event, entry.at_ms, rules)
    reached = goals.reach(state, entry, others, rules.consent)
    over = tuple(goals.goal_timer(each.decision_id) for each in reached)
    return Folded(None, (), (), over, reached) if reached else _NOTHING


def _expire(state: CustomerState, now_ms: int) -> None:
    """Drop what has run out; only sizes change by it, never an answer."""
    for key in [key for key, reserved in state.reserved.items() if reserved.until_ms <= now_ms]:
        del state.reserved[key]
    for scope in [scope for scope, pause in state.pauses.items() if pause.until_ms <= now_ms]:
        del state.pauses[scope]
    goals.expire(state, now_ms)


def _passed_on(
    state: CustomerState,
    decision: OpenDecision | None,
    entry: DecisionEntry | EventEntry | TimerEntry,
    rules: Rules,
    others: Mapping[str, OpenDecision | None],
    canonical: CustomerState,
) -> Folded:
    """Fold what happened under an alias: the decision lives on here with its goal, the customer elsewhere."""
    before = encode_open(replace(decision, x=b"")) if decision is not None else b""  # no state depends on x
    state.goals, canonical.goals = canonical.goals, state.goals
    # a cause is told by what this partition's log knows: of what the customer did elsewhere nothing is evidence here
    canonical.exposures, canonical.corrected, canonical.concerns = {}, {}, {}
    folded = fold(canonical, decision, entry, rules, others)
    state.goals, canonical.goals = canonical.goals, state.goals
    identity.hand_over(state, entry, before)
    return folded


def _decided(state: CustomerState, entry: DecisionEntry, rules: Rules) -> Folded:
    if any(record.action for record in entry.slots):
        state.recent = identity.with_latest(state.recent, Recent(entry.decision_id, entry.at_ms))
    slots = [lifecycle.open_slot(record, entry.at_ms) for record in entry.slots]
    decision = OpenDecision(
        customer_id=entry.customer_id,
        at_ms=entry.at_ms,
        placement=entry.request.placement,
        release=entry.release,
        x=entry.x,
        slots=slots,
        goal=goals.open_goal(state, entry, rules.remember_ms),
        learns=entry.learns,
        channel=entry.channel,
        stale=entry.stale,
        quarantined=entry.quarantined,
        stakes=entry.stakes,
        cluster=entry.cluster,
        after=entry.after,
        balance=entry.relationship.get("balance", 0.0),
        degraded=bool(entry.degraded),
        personalised=entry.personalised,
    )
    arm: list[Timer] = []
    if decision.goal is not None:
        arm.append(Timer(goals.goal_timer(entry.decision_id), decision.goal.until_ms))
    for number, slot in enumerate(slots):
        if not slot.action:
            continue
        key = f"{entry.decision_id}/{number}"
        if slot.seen_at_ms:
            expose(state, slot, decision.channel, key, entry.at_ms, rules)
            giveget.asked(state, slot.action, entry.at_ms, rules)
        else:  # whether a rule counts it or not: the next release's may
            until_ms = entry.at_ms + slot.delivery_ms + slot.attention_ms
            reserve(state, key, Reservation(slot.action, until_ms, decision.channel), rules)
        arm += lifecycle.timers(entry.decision_id, number, slot, entry.at_ms)[0]
    return Folded(decision, (), tuple(arm), ())


def _event(state: CustomerState, decision: OpenDecision, entry: EventEntry, rules: Rules) -> Folded:
    event = entry.event
    slot = decision.slots[event.slot]
    key = f"{event.decision_id}/{event.slot}"
    if not slot.action:  # silence has no life, but a goal may hang on it
        return Folded(decision, (), (), *_withdrawn(state, decision, entry, rules))
    spot = rules.placements.get(decision.placement)
    lifecycle.note_signs(slot, signs_of(event.reason, event.properties, spot.latency_ms if spot else 0, rules))
    change = lifecycle.apply_event(slot, event.type, event.cause, event.reason, entry.at_ms, event.value)
    if change.exposed:
        expose(state, slot, decision.channel, key, entry.at_ms, rules)
        giveget.asked(state, slot.action, decision.at_ms, rules)
    if change.hidden_at_ms:
        hide(state, slot, decision.channel)
        giveget.asked(state, slot.action, decision.at_ms, rules, sign=-1)
    if slot.accepted and not slot.given:
        slot.given = True
        giveget.given(state, slot.action, decision.at_ms, rules)
    mood = (event.sentiment, event.effort) != (None, None) and event.by == "customer"
    felt = mood and lifecycle.say_mood(slot, mood_points(event.sentiment, event.effort, rules.experience), entry.at_ms)
    settled = change.settled or (felt and slot.told is not None) or _told_otherwise(state, decision, slot, rules)
    outcomes = (_settled(state, decision, key, entry, rules),) if settled else ()
    arm, cancel = lifecycle.timers(event.decision_id, event.slot, slot, decision.at_ms)
    over, taken_back = _withdrawn(state, decision, entry, rules)
    return Folded(decision, outcomes, tuple(arm), (*cancel, *over), taken_back)


def _withdrawn(
    state: CustomerState, decision: OpenDecision, entry: EventEntry, rules: Rules
) -> tuple[tuple[str, ...], tuple[GoalOutcome, ...]]:
    """Take the decision's goal back when its slot was skipped for a technical reason: timers to cancel, outcomes."""
    event = entry.event
    technical = event.type == "skipped" and event.cause == "execution"
    if decision.goal is None or decision.goal.slot != event.slot or not technical:
        return (), ()
    return (goals.goal_timer(event.decision_id),), goals.withdraw(state, decision, entry, rules.consent)


def _timer(state: CustomerState, decision: OpenDecision, entry: TimerEntry, rules: Rules) -> Folded:
    if entry.kind == "goal":
        missed = goals.miss(state, decision, entry, rules.consent)
        return Folded(decision, (), (), (goals.goal_timer(entry.decision_id),), missed)
    slot = decision.slots[entry.slot]
    key = f"{entry.decision_id}/{entry.slot}"
    changed = lifecycle.apply_timer(slot, entry.kind, entry.at_ms)
    outcomes = (_settled(state, decision, key, entry, rules),) if changed else ()
    arm, cancel = lifecycle.timers(entry.decision_id, entry.slot, slot, decision.at_ms)
    fired = f"{entry.kind}:{entry.decision_id}:{entry.slot}"
    return Folded(decision, outcomes, tuple(t for t in arm if t.member != fired), (*cancel, fired))


def _told_otherwise(state: CustomerState, decision: OpenDecision, slot: OpenSlot, rules: Rules) -> bool:
    """Tell whether what is known by now makes another diagnosis of an outcome than was told."""
    if slot.told is None or slot.outcome is None:
        return False
    now = diagnose_slot(state, decision, slot, rules)
    return (now.cause, now.evidence) != (slot.told_cause, slot.told_evidence)


def _diagnosed_anew(
    state: CustomerState, entry: ProfileEntry, rules: Rules, others: Mapping[str, OpenDecision | None]
) -> tuple[Outcome, ...]:
    """Tell the outcomes of late decisions on which changed values throw another light."""
    return tuple(
        _settled(state, decision, f"{decision_id}/{number}", entry, rules)
        for decision_id in corrections.affected(state, entry)
        if (decision := others.get(decision_id)) is not None and decision.customer_id == entry.customer_id
        for number, slot in enumerate(decision.slots)
        if _told_otherwise(state, decision, slot, rules)
    )


def _settled(
    state: CustomerState,
    decision: OpenDecision,
    key: str,
    entry: EventEntry | TimerEntry | ProfileEntry,
    rules: Rules,
) -> Outcome:
    """Charge the relationship for a slot's new outcome in place of its old one, and tell the learner.

    After a change of profile only the diagnosis is another one, and the customer's state stays as it is.
    """
    decision_id, _, number = key.rpartition("/")
    slot = decision.slots[int(number)]
    assert slot.outcome is not None
    points, previous = rules.points[slot.outcome] + slot.mood, slot.told
    if isinstance(entry, ProfileEntry):
        pauses = corrections.pauses_by(state, key)
    else:
        _recharge(state, slot, weighed(points, rules.experience) * (1.0 + decision.stakes), rules)
        if slot.accepted and (slot.outcome_at_ms, slot.action) > (state.last_touch_ms, state.last_touch):
            state.last_touch, state.last_touch_ms = slot.action, slot.outcome_at_ms
        pauses = _repause(state, slot, decision.channel, key, rules)
        state.reserved.pop(key, None)
    diagnosis = diagnose_slot(state, decision, slot, rules)
    slot.revision += 1
    previous_cause, previous_seen = slot.told_cause, slot.told_seen
    previous_evidence, previous_rule = slot.told_evidence, slot.told_rule
    slot.told_cause, slot.told_seen = diagnosis.cause, slot.seen_reported
    slot.told_evidence, slot.told_rule = diagnosis.evidence, diagnosis.rule
    route = ROUTES[diagnosis.cause]
    response = response_of(slot.outcome, accepted=slot.accepted) if decision.x else None
    return Outcome(
        decision_id=decision_id,
        slot=int(number),
        revision=slot.revision,
        customer_id=decision.customer_id,
        action=slot.action,
        group=slot.group,
        treatment=slot.treatment,
        placement=decision.placement,
        outcome=slot.outcome,
        previous=previous,
        cause=diagnosis.cause,
        confidence=diagnosis.confidence,
        evidence=diagnosis.evidence,
        response=response,
        response_weight=diagnosis.admission if response == 1 else diagnosis.response_weight,
        experience=points,
        experience_weight=route.experience if decision.x else 0.0,
        release=decision.release,
        at_ms=entry.at_ms,
        x=decision.x,
        value=slot.value,
        seen_reported=slot.seen_reported,
        previous_cause=previous_cause,
        previous_seen_reported=previous_seen,
        learns=still_learns(state, decision, rules.consent),
        pauses=pauses,
        channel=decision.channel,
        stakes=decision.stakes,
        cluster=decision.cluster,
        after=decision.after,
        balance=decision.balance,
        stale=decision.stale,
        quarantined=decision.quarantined,
        rule=diagnosis.rule,
        previous_evidence=previous_evidence,
        previous_rule=previous_rule,
        personalised=decision.personalised,
    )


def _recharge(state: CustomerState, slot: OpenSlot, points: float, rules: Rules) -> None:
    """Replace what this slot put on the account."""
    assert slot.outcome is not None
    previous = slot.told
    if previous is not None:
        charge(state, -slot.charged, slot.charged_at_ms, rules.experience)
        state.outcomes[previous] = state.outcomes.get(previous, 0) - 1
        if previous == "ignored" and slot.charged_at_ms // 1000 in state.ignored_s:
            state.ignored_s.remove(slot.charged_at_ms // 1000)
    charge(state, points, slot.outcome_at_ms, rules.experience)
    slot.told, slot.charged, slot.charged_at_ms = slot.outcome, points, slot.outcome_at_ms
    state.outcomes[slot.outcome] = state.outcomes.get(slot.outcome, 0) + 1
    if slot.outcome == "ignored":
        times = sorted([*state.ignored_s, slot.outcome_at_ms // 1000])
        state.ignored_s = [at_s for at_s in times if at_s > times[-1] - IGNORED_WINDOW_S][-CONTACTS:]


def _repause(state: CustomerState, slot: OpenSlot, channel: str, key: str, rules: Rules) -> dict[str, int]:
    """Replace the pauses this slot's outcome called for; returns scope → end of those it now calls for."""
    found = {}
    policies = rules.pauses_of(slot.action, channel)
    declared = {scope for scope, _ in policies}
    for scope in [scope for scope in state.pauses if scope not in declared]:  # of another release
        _pause(state, scope, Pause(0, "", key))
    for scope in [scope for scope in state.unanswered if scope not in declared]:
        state.unanswered[scope] = [each for each in state.unanswered[scope] if each.source != key]
    for scope, policy in policies:
        until_ms = 0
        if slot.outcome in ("declined", "dismissed", "ignored") and not (
            slot.outcome == "ignored" and policy.ignored_count > 1
        ):
            length_ms: int = getattr(policy, f"{slot.outcome}_ms")
            until_ms = slot.outcome_at_ms + length_ms if length_ms else 0
        _pause(state, scope, Pause(until_ms, slot.outcome or "", key))
        if policy.ignored_count > 1 and (together_ms := _unanswered(state, scope, slot, key, policy)):
            until_ms = together_ms
        if until_ms:
            found[scope] = until_ms
    return found


def _pause(state: CustomerState, scope: str, pause: Pause) -> None:
    """Put a pause in place of the one of the same source; one without an end only takes that away."""
    held = state.pauses.pop(scope, None)
    kept = [] if held is None else [replace(held, shorter=[]), *held.shorter]
    kept = [each for each in kept if each.source != pause.source]
    kept += [pause] if pause.until_ms else []
    kept.sort(key=lambda each: (-each.until_ms, each.source))
    if kept:
        state.pauses[scope] = replace(kept[0], shorter=kept[1:PAUSES])


def _unanswered(state: CustomerState, scope: str, slot: OpenSlot, key: str, policy: PausePolicy) -> int:
    """Keep count of ignored prompts and of the pause several call for; returns its end if this is one of them, or 0."""
    before = state.unanswered.pop(scope, [])
    ignored = [each for each in before if each.source != key]
    if slot.outcome == "ignored":
        insort(ignored, Unanswered(key, slot.outcome_at_ms), key=lambda each: (each.at_ms, each.source))
    if ignored:
        since_ms = ignored[-1].at_ms - policy.ignored_within_ms - policy.ignored_ms
        ignored = [each for each in ignored if each.at_ms >= since_ms][-CONTACTS:]
        state.unanswered[scope] = ignored
    last = policy.ignored_count - 1
    together = [
        (first, final)
        for first, final in zip(ignored, ignored[last:], strict=False)
        if final.at_ms - first.at_ms <= policy.ignored_within_ms
    ]
    until_ms = together[-1][1].at_ms + policy.ignored_ms if together and policy.ignored_ms else 0
    _pause(state, scope, Pause(until_ms, "ignored", "unanswered"))
    called = bool(until_ms) and slot.outcome == "ignored" and together[-1][0].at_ms <= slot.outcome_at_ms
    return until_ms if called else 0
