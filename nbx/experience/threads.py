"""Threads: what is open between company and customer, where it was last touched, and what an agent can pick up.

A thread is an open concern, obligation or promise. What touches it: the events that open or settle it, events of slots
on its topic, and behaviour events that name it by a property `concern` or `topic`. The channel is that of the decision,
or what the event says as property `channel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.experience import promises
from nbx.experience.entries import Continued
from nbx.experience.journeys import is_open
from nbx.experience.obligations import RESOLVED_EVENT, open_topics
from nbx.features.state import Touch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbx.catalog.rules import Rules
    from nbx.experience.entries import Event
    from nbx.features.state import CustomerState


def touch(state: CustomerState, event: Event, at_ms: int, channel: str, topic: str, rules: Rules) -> None:
    """Note in `state` what an event touches; `topic` is that of its slot's action, empty: it has none."""
    if not (state.concerns or state.obligations or state.promises):
        return
    said = event.properties
    for key in _touched(state, event, topic, rules):
        known = state.touched.get(key)
        where = channel or (str(said["channel"]) if "channel" in said else "")
        if known is None or (at_ms, event.type, where) > (known.at_ms, known.event, known.channel):
            state.touched[key] = Touch(where, at_ms, event.type)
    if len(state.touched) > len(state.concerns) + len(state.obligations) + len(state.promises):
        remembered = {f"concern:{name}" for name in state.concerns}
        remembered |= {f"obligation:{topic}" for topic in state.obligations}
        remembered |= {f"promise:{what}" for what in state.promises}
        state.touched = {key: last for key, last in state.touched.items() if key in remembered}


def _touched(state: CustomerState, event: Event, topic: str, rules: Rules) -> Iterator[str]:
    said = event.properties
    for concern, _ in rules.turns.get(event.type, ()):
        yield f"concern:{concern}"
    if (concern := str(said.get("concern", ""))) in state.concerns:
        yield f"concern:{concern}"
    for each in {topic, str(said.get("topic", ""))} if event.type != RESOLVED_EVENT or "topic" in said else ():
        if each in state.obligations and each:
            yield f"obligation:{each}"
    what = str(said.get("what", ""))
    for each, promise in state.promises.items():
        if event.type in promise.events or (each == what and event.type in (promises.PROMISE, promises.KEPT)):
            yield f"promise:{each}"


def continued(state: CustomerState, rules: Rules, now_ms: int, channel: str) -> tuple[Continued, ...]:
    """Return the open threads that were last touched on another channel than this one, latest touch first."""
    if not (state.concerns or state.obligations or state.promises):
        return ()
    opened: list[tuple[str, str, int, int]] = []
    for name, concern in rules.concerns.items():
        if is_open(concern, turns := state.concerns.get(name, [0, 0]), now_ms):
            opened.append(("concern", name, turns[0], 0))
    opened += [("obligation", topic, at_ms, 0) for topic, at_ms in open_topics(state, now_ms, rules.experience).items()]
    opened += [
        ("promise", what, promise.made_ms, promise.due_ms)
        for what, promise in state.promises.items()
        if promises.is_open(promise)
    ]
    found = []
    for kind, name, at_ms, due_ms in opened:
        last = state.touched.get(f"{kind}:{name}") or Touch("", at_ms, "")
        if not last.channel or last.channel != channel:
            found.append(
                Continued(
                    kind=kind,
                    name=name,
                    channel=last.channel,
                    opened_at=at_ms,
                    last_at=last.at_ms,
                    last=last.event,
                    due_at=due_ms,
                )
            )
    return tuple(sorted(found, key=lambda each: (-each.last_at, each.kind, each.name)))
