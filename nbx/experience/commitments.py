"""What events commit the company to, and what they make good: promises, obligations, and the topics of slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.experience import journeys, obligations, promises

if TYPE_CHECKING:
    from nbx.catalog.rules import Rules
    from nbx.experience.entries import Event
    from nbx.experience.lifecycle import OpenDecision
    from nbx.features.state import CustomerState


def undertake(state: CustomerState, event: Event, at_ms: int, rules: Rules) -> list[int]:
    """Note what an event promises, keeps or makes good; returns when promises ran out, if that is news by it."""
    policy, said, news = rules.experience, event.properties, list[int]()
    for owed in journeys.all_owed(state, event.type, rules):
        news += promises.make_promise(
            state, policy, owed.what, due_ms=owed.due_ms, made_ms=owed.made_ms, events=owed.events
        )
        if kept_ms := state.meetings[owed.what][1 + journeys.COMPANY]:
            promises.keep(state, policy, owed.what, kept_ms)
    promises.keep_by(state, policy, event.type, at_ms)
    if event.type == promises.PROMISE:
        due_ms, topic = promises.due_of(said["due"], at_ms), str(said.get("topic", ""))
        news += promises.make_promise(state, policy, str(said["what"]), due_ms=due_ms, made_ms=at_ms, topic=topic)
    elif event.type == promises.KEPT:
        promises.keep(state, policy, str(said["what"]), at_ms)
    elif event.type == obligations.RESOLVED_EVENT:
        obligations.resolve(state, str(said.get("topic", obligations.ALL)), at_ms)
    return news


def of_topic(
    state: CustomerState, decision: OpenDecision | None, event: Event, at_ms: int, rules: Rules
) -> tuple[str, list[int]]:
    """Note what an event of a slot does to its topic; returns that (empty: there is none), and as `undertake`."""
    news = list[int]()
    if decision is None or not (slot := decision.slots[event.slot]).action:
        return "", news
    known = rules.actions.get(slot.action)
    topic = known.topic if known is not None else slot.group
    if event.type in obligations.OPENING:
        obligations.open_obligation(state, topic, at_ms)
    elif event.type in ("accepted", "converted"):
        for resolved in known.resolves if known is not None else ():
            obligations.resolve(state, resolved, at_ms)
        if (undertaken := rules.undertakings.get((slot.action, slot.treatment))) is not None:
            news = promises.make_promise(
                state,
                rules.experience,
                undertaken.what,
                due_ms=at_ms + undertaken.within_ms,
                made_ms=at_ms,
                topic=topic,
                source=f"{event.decision_id}/{event.slot}",
            )
    return topic, news
