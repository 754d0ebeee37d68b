"""Obligations: topics on which the company failed a customer and has not made good yet.

A `failed` or a `complained` of any slot opens an obligation on its action's topic; so does a promise that was broken
and is still not kept. It closes by a `resolved` event of that topic (or of none: of all), by an acceptance of an action
that `resolves` the topic, or by time (`ExperiencePolicy.obligation_ms`). Only latest times are kept, so the order in
which events come in does not matter. While one is open nothing promotional of its topic is shown, on any channel, and
recovery actions are worth more (`nbx.decision.eligibility`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.limits import OBLIGATIONS

if TYPE_CHECKING:
    from nbx.catalog.model import ExperiencePolicy
    from nbx.features.state import CustomerState

RESOLVED_EVENT = "resolved"
OPENING = frozenset({"failed", "complained"})
"""Slot events that open an obligation, whatever becomes the slot's outcome."""
ALL = ""
"""Topic under which it is kept when everything was last resolved."""


def open_obligation(state: CustomerState, topic: str, at_ms: int) -> None:
    """Note in `state` that the company failed the customer on a topic."""
    turns = state.obligations.setdefault(topic, [0, 0])
    turns[0] = max(turns[0], at_ms)
    _bound(state)


def resolve(state: CustomerState, topic: str, at_ms: int) -> None:
    """Note in `state` that what was open on a topic (`ALL`: on every one) until then is made good."""
    turns = state.obligations.setdefault(topic, [0, 0])
    turns[1] = max(turns[1], at_ms)
    _bound(state)


def open_topics(state: CustomerState, now_ms: int, policy: ExperiencePolicy) -> dict[str, int]:
    """Return the topics with an open obligation → since when, epoch milliseconds.

    Examples
    --------
    >>> from nbx.catalog.model import ExperiencePolicy
    >>> from nbx.features.state import CustomerState
    >>> state = CustomerState()
    >>> open_obligation(state, "cards", 10)
    >>> policy = ExperiencePolicy(obligation_ms=100)
    >>> open_topics(state, 20, policy), open_topics(state, 110, policy)
    ({'cards': 10}, {})
    >>> resolve(state, "cards", 15)
    >>> open_topics(state, 20, policy)
    {}
    """
    if not state.obligations and not state.promises:
        return {}
    resolved = {topic: turns[1] for topic, turns in state.obligations.items()}
    everything_ms = resolved.get(ALL, 0)
    opened = [(topic, turns[0]) for topic, turns in state.obligations.items() if topic != ALL]
    opened += [
        (term.topic, term.due_ms)
        for promise in state.promises.values()
        for term in (*promise.earlier, promise)
        if term.broken and not (promise.kept and promise.kept[-1] >= term.made_ms)
    ]
    found: dict[str, int] = {}
    for topic, at_ms in opened:
        if topic and at_ms > max(resolved.get(topic, 0), everything_ms) and now_ms - at_ms < policy.obligation_ms:
            found[topic] = max(found.get(topic, 0), at_ms)
    return found


def _bound(state: CustomerState) -> None:
    """Forget the topics longest untouched when there are too many, those made good first."""
    while len(state.obligations) > OBLIGATIONS:
        ages = {topic: (turns[0] > turns[1], max(turns), topic) for topic, turns in state.obligations.items()}
        del state.obligations[min(ages, key=ages.__getitem__)]
