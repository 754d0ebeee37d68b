"""The fold: the only code that changes a customer's state.

`fold(state, open_decision, entry, rules)` is a pure function of its arguments' *values*; for speed it changes the state
and decision it is given and returns them, so callers decode them afresh and hand them over. Serving, the keeper,
rebuild and simulation all go through it; deleting every state and folding the log again gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from nbx.catalog.model import OutcomeName
from nbx.catalog.plan import Rules
from nbx.experience import goals, lifecycle
from nbx.experience.causes import ROUTES, diagnose, response_of
from nbx.experience.entries import (
    DecisionEntry,
    Entry,
    EraseEntry,
    EventEntry,
    GoalOutcome,
    Outcome,
    ProfileEntry,
    TimerEntry,
)
from nbx.experience.lifecycle import SLOT_EVENTS, OpenDecision, OpenSlot
from nbx.experience.relationship import IGNORED_WINDOW_S, charge, weighed
from nbx.features.aggregates import fold_event
from nbx.features.state import CustomerState, Pause, ProfileValue, Reservation
from nbx.features.store import Timer
from nbx.limits import CONTACTS


class Folded(NamedTuple):
    """What one entry led to."""

    decision: OpenDecision | None
    """The open decision after the entry, to be stored; None when the entry concerns none."""
    outcomes: tuple[Outcome, ...]
    arm: tuple[Timer, ...]
    cancel: tuple[str, ...]
    goals: tuple[GoalOutcome, ...] = ()
    """Goals of this or of other decisions that were reached, missed or corrected; those decisions changed too."""


_NOTHING = Folded(None, (), (), ())


def fold(
    state: CustomerState,
    decision: OpenDecision | None,
    entry: Entry,
    rules: Rules,
    others: Mapping[str, OpenDecision | None] = MappingProxyType({}),
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
    """
    _expire(state, entry.at_ms)
    match entry:
        case DecisionEntry():
            return _decided(state, entry, rules)
        case ProfileEntry():
            for name, value in entry.changes.items():
                if value is None:
                    state.profile.pop(name, None)
                elif name not in state.profile or entry.at_ms >= state.profile[name].at_ms:
                    state.profile[name] = ProfileValue(value, entry.at_ms)
            return _NOTHING
        case EraseEntry():
            never_met = CustomerState()
            for name in never_met.__struct_fields__:
                setattr(state, name, getattr(never_met, name))
            return _NOTHING
        case TimerEntry():
            return _NOTHING if decision is None else _timer(state, decision, entry, rules)
        case EventEntry():
            _feed_aggregates(state, entry, rules)
            if entry.event.type not in SLOT_EVENTS:
                reached = goals.reach(state, entry, others)
                over = tuple(goals.goal_timer(each.decision_id) for each in reached)
                return Folded(None, (), (), over, reached) if reached else _NOTHING
            if decision is None:
                return _NOTHING
            return _event(state, decision, entry, rules)


def _expire(state: CustomerState, now_ms: int) -> None:
    """Drop what has run out; only sizes change by it, never an answer."""
    for key in [key for key, reserved in state.reserved.items() if reserved.until_ms <= now_ms]:
        del state.reserved[key]
    for action in [action for action, pause in state.pauses.items() if pause.until_ms <= now_ms]:
        del state.pauses[action]
    goals.expire(state, now_ms)


def _decided(state: CustomerState, entry: DecisionEntry, rules: Rules) -> Folded:
    slots = [lifecycle.open_slot(record, entry.at_ms) for record in entry.slots]
    decision = OpenDecision(
        customer_id=entry.customer_id,
        at_ms=entry.at_ms,
        placement=entry.request.placement,
        release=entry.release,
        x=entry.x,
        slots=slots,
        goal=goals.open_goal(state, entry, rules.remember_ms),
    )
    arm: list[Timer] = []
    if decision.goal is not None:
        arm.append(Timer(goals.goal_timer(entry.decision_id), decision.goal.until_ms))
    for number, slot in enumerate(slots):
        if not slot.action:
            continue
        key = f"{entry.decision_id}/{number}"
        if slot.seen_at_ms:
            _expose(state, slot, key, entry.at_ms, rules)
        elif (policy := rules.actions.get(slot.action)) is not None and policy.keep_s:
            until_ms = entry.at_ms + slot.delivery_ms + slot.attention_ms
            state.reserved[key] = Reservation(slot.action, until_ms)
        arm += lifecycle.timers(entry.decision_id, number, slot, entry.at_ms)[0]
    return Folded(decision, (), tuple(arm), ())


def _event(state: CustomerState, decision: OpenDecision, entry: EventEntry, rules: Rules) -> Folded:
    event = entry.event
    slot = decision.slots[event.slot]
    key = f"{event.decision_id}/{event.slot}"
    if not slot.action:  # silence has no life, but a goal may hang on it
        return Folded(decision, (), (), *_withdrawn(state, decision, entry))
    change = lifecycle.apply_event(slot, event.type, event.cause, event.reason, entry.at_ms, event.value)
    if change.exposed:
        _expose(state, slot, key, entry.at_ms, rules)
    if change.hidden_at_ms:
        _hide(state, slot, change.hidden_at_ms)
    outcomes = (_settled(state, decision, key, entry, rules),) if change.settled else ()
    arm, cancel = lifecycle.timers(event.decision_id, event.slot, slot, decision.at_ms)
    over, taken_back = _withdrawn(state, decision, entry)
    return Folded(decision, outcomes, tuple(arm), (*cancel, *over), taken_back)


def _withdrawn(
    state: CustomerState, decision: OpenDecision, entry: EventEntry
) -> tuple[tuple[str, ...], tuple[GoalOutcome, ...]]:
    """Take the decision's goal back when its slot was skipped for a technical reason: timers to cancel, outcomes."""
    event = entry.event
    technical = event.type == "skipped" and event.cause == "execution"
    if decision.goal is None or decision.goal.slot != event.slot or not technical:
        return (), ()
    return (goals.goal_timer(event.decision_id),), goals.withdraw(state, decision, entry)


def _timer(state: CustomerState, decision: OpenDecision, entry: TimerEntry, rules: Rules) -> Folded:
    if entry.kind == "goal":
        return Folded(decision, (), (), (goals.goal_timer(entry.decision_id),), goals.miss(decision, entry))
    slot = decision.slots[entry.slot]
    key = f"{entry.decision_id}/{entry.slot}"
    changed = lifecycle.apply_timer(slot, entry.kind, entry.at_ms)
    outcomes = (_settled(state, decision, key, entry, rules),) if changed else ()
    arm, cancel = lifecycle.timers(entry.decision_id, entry.slot, slot, decision.at_ms)
    fired = f"{entry.kind}:{entry.decision_id}:{entry.slot}"
    return Folded(decision, outcomes, tuple(t for t in arm if t.member != fired), (*cancel, fired))


def _expose(state: CustomerState, slot: OpenSlot, key: str, at_ms: int, rules: Rules) -> None:
    """Count a proved exposure, and free its reservation."""
    state.reserved.pop(key, None)
    state.last_prompt_ms = max(state.last_prompt_ms, at_ms)
    policy = rules.actions.get(slot.action)
    if policy is None or not policy.keep_s:
        return
    times = sorted([*state.exposures.get(slot.action, ()), at_ms // 1000])
    state.exposures[slot.action] = [at_s for at_s in times if at_s > times[-1] - policy.keep_s][-CONTACTS:]


def _hide(state: CustomerState, slot: OpenSlot, at_ms: int) -> None:
    """Take back an exposure that was assumed."""
    times = state.exposures.get(slot.action, [])
    if at_ms // 1000 in times:
        times.remove(at_ms // 1000)


def _settled(
    state: CustomerState, decision: OpenDecision, key: str, entry: EventEntry | TimerEntry, rules: Rules
) -> Outcome:
    """Charge the relationship for a slot's new outcome in place of its old one, and tell the learner."""
    decision_id, _, number = key.rpartition("/")
    slot = decision.slots[int(number)]
    assert slot.outcome is not None
    diagnosis = diagnose(slot.outcome, cause=slot.cause, reason=slot.reason, seen=bool(slot.seen_at_ms))
    points = rules.points[slot.outcome]
    previous = _recharge(state, slot, weighed(points, rules.experience), rules)
    _repause(state, slot, key, rules)
    state.reserved.pop(key, None)
    slot.revision += 1
    previous_cause, previous_seen = slot.told_cause, slot.told_seen
    slot.told_cause, slot.told_seen = diagnosis.cause, slot.seen_reported
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
        response_weight=1.0 if response == 1 else route.response,
        experience=points,
        experience_weight=route.experience if decision.x else 0.0,
        release=decision.release,
        at_ms=entry.at_ms,
        x=decision.x,
        value=slot.value,
        seen_reported=slot.seen_reported,
        previous_cause=previous_cause,
        previous_seen_reported=previous_seen,
    )


def _recharge(state: CustomerState, slot: OpenSlot, points: float, rules: Rules) -> OutcomeName | None:
    """Replace what this slot put on the account; returns the outcome that was there."""
    assert slot.outcome is not None
    previous = slot.told
    if previous is not None:
        charge(state, -slot.charged, slot.charged_at_ms, rules.experience)
        state.outcomes[previous] -= 1
        if previous == "ignored" and slot.charged_at_ms // 1000 in state.ignored_s:
            state.ignored_s.remove(slot.charged_at_ms // 1000)
    charge(state, points, slot.outcome_at_ms, rules.experience)
    slot.told, slot.charged, slot.charged_at_ms = slot.outcome, points, slot.outcome_at_ms
    state.outcomes[slot.outcome] = state.outcomes.get(slot.outcome, 0) + 1
    if slot.outcome == "ignored":
        times = sorted([*state.ignored_s, slot.outcome_at_ms // 1000])
        state.ignored_s = [at_s for at_s in times if at_s > times[-1] - IGNORED_WINDOW_S][-CONTACTS:]
    return previous


def _repause(state: CustomerState, slot: OpenSlot, key: str, rules: Rules) -> None:
    """Replace the pause this slot's outcome called for."""
    pause = state.pauses.get(slot.action)
    if pause is not None and pause.source == key:
        del state.pauses[slot.action]
        pause = None
    policy = rules.actions.get(slot.action)
    if policy is None or slot.outcome not in ("declined", "dismissed", "ignored"):
        return
    length_ms = getattr(policy.pause, f"{slot.outcome}_ms")
    until_ms = slot.outcome_at_ms + length_ms
    if length_ms and (pause is None or until_ms > pause.until_ms):
        state.pauses[slot.action] = Pause(until_ms, slot.outcome, key)


def _feed_aggregates(state: CustomerState, entry: EventEntry, rules: Rules) -> None:
    for name, aggregate in rules.aggregates.get(entry.event.type, ()):
        cells = fold_event(aggregate, state.aggregates.get(name, []), entry.event.properties, entry.at_ms)
        if cells:
            state.aggregates[name] = cells
