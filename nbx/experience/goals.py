"""Goals: what a customer does after a decision, whatever it held. Silence has an outcome too.

A placement may name a behaviour event (came back, completed the task) and a time. Each of its decisions, those that
stayed silent included, then opens a goal: reached when such an event of the customer happens in time, missed when the
time is over. That is what tells an action from silence; whether the action was accepted is another question.

The event names no decision, so the customer's state keeps a short list of what is waited for (`GoalWatch`); where a
goal stands is kept with the open decision, so its timer needs no list. A goal has one outcome: an event that happened
in time and arrives after the timer corrects 0 to 1, once, while the decision is kept. A goal that was reached is done.

Every decision that got to the customer's channel counts, also when its action was then not delivered or not seen:
leaving those out would leave out who went away at once, for actions but not for silence. Only a slot skipped for a
technical reason (cause execution) tells nothing, whatever else is said of it: whether the channel failed does not
depend on the customer.
Goals are no prompts: they charge nothing to the relationship and count no exposure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from nbx.experience.consent import still_learns
from nbx.experience.entries import DecisionEntry, Event, EventEntry, GoalOutcome, TimerEntry
from nbx.features.state import CustomerState, GoalWatch
from nbx.limits import GOALS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbx.catalog.model import ConsentPolicy
    from nbx.experience.lifecycle import OpenDecision


class OpenGoal(Struct, array_like=True):
    """Where the goal of a decision stands."""

    action: str
    """Whose success it will be; empty: silence."""
    slot: int
    """Slot that holds it."""
    until_ms: int
    response: int | None = None
    """As last told to the learner; None: not yet, or withdrawn."""
    revision: int = -1
    """Of the last outcome told; -1: none yet."""
    withdrawn: bool = False
    """The decision never got to the customer."""


def goal_timer(decision_id: str) -> str:
    """Return the timer's name."""
    return f"goal:{decision_id}:0"


def open_goal(state: CustomerState, entry: DecisionEntry, remember_ms: int) -> OpenGoal | None:
    """Begin to wait for a decision's goal, in `state`; None when it has none or too many are waited for already.

    When the list is full, the oldest goal that has run out makes room: its late truth will not be known.
    """
    goal = entry.goal
    if goal is None or goal.slot < 0:
        return None
    if len(state.goals) >= GOALS:
        done = next((i for i, watch in enumerate(state.goals) if watch.until_ms <= entry.at_ms), None)
        if done is None:
            return None
        del state.goals[done]
    until_ms = entry.at_ms + goal.within_ms
    state.goals.append(GoalWatch(entry.decision_id, goal.event, until_ms, entry.at_ms + remember_ms))
    return OpenGoal(goal.action, goal.slot, until_ms)


def expire(state: CustomerState, now_ms: int) -> None:
    """Forget goals that can no longer be corrected, in `state`."""
    if state.goals:
        state.goals = [watch for watch in state.goals if watch.kept_until_ms > now_ms]


def awaited(state: CustomerState, event: Event, at_ms: int, received_ms: int) -> list[str]:
    """Return the decisions whose goal an event may be; it is, when the decision was made before `at_ms`."""
    if event.by != "customer":
        return []
    return [
        watch.decision_id
        for watch in state.goals
        if watch.event == event.type and at_ms <= watch.until_ms and received_ms < watch.kept_until_ms
    ]


def reach(
    state: CustomerState, entry: EventEntry, decisions: Mapping[str, OpenDecision | None], consent: ConsentPolicy
) -> tuple[GoalOutcome, ...]:
    """Let an event reach every goal that waits for it; `state` and `decisions` are changed in place.

    A decision that is not among `decisions` is no longer kept, and its goal stays what it is.
    """
    reached = []
    for decision_id in awaited(state, entry.event, entry.at_ms, entry.received_ms):
        decision = decisions.get(decision_id)
        if decision is None or decision.customer_id != entry.customer_id:  # an alias's are reached under the alias
            continue
        if decision.goal is not None and decision.at_ms <= entry.at_ms:
            _forget(state, decision_id)
            reached.append(_told(state, decision, decision_id, 1, entry.at_ms, consent))
    return tuple(reached)


def miss(
    state: CustomerState, decision: OpenDecision, entry: TimerEntry, consent: ConsentPolicy
) -> tuple[GoalOutcome, ...]:
    """Let a goal's time run out; nothing happens when it was reached before."""
    goal = decision.goal
    if goal is None or goal.response is not None or goal.withdrawn:
        return ()
    return (_told(state, decision, entry.decision_id, 0, entry.at_ms, consent),)


def withdraw(
    state: CustomerState, decision: OpenDecision, entry: EventEntry, consent: ConsentPolicy
) -> tuple[GoalOutcome, ...]:
    """Take a goal back: its decision never got to the customer, for a technical reason."""
    goal = decision.goal
    if goal is None or goal.withdrawn:
        return ()
    goal.withdrawn = True
    _forget(state, entry.event.decision_id)
    if goal.response is None:
        return ()
    return (_told(state, decision, entry.event.decision_id, None, entry.at_ms, consent),)


def _forget(state: CustomerState, decision_id: str) -> None:
    state.goals = [watch for watch in state.goals if watch.decision_id != decision_id]


def _told(
    state: CustomerState,
    decision: OpenDecision,
    decision_id: str,
    response: int | None,
    at_ms: int,
    consent: ConsentPolicy,
) -> GoalOutcome:
    goal = decision.goal
    assert goal is not None
    goal.response = response
    goal.revision += 1
    return GoalOutcome(
        decision_id=decision_id,
        revision=goal.revision,
        customer_id=decision.customer_id,
        placement=decision.placement,
        action=goal.action,
        response=response,
        release=decision.release,
        at_ms=at_ms,
        x=decision.x,
        learns=still_learns(state, decision, consent),
    )
