"""What any event feeds: aggregates, journeys, concerns, and the balance by how the customer felt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.experience import journeys
from nbx.experience.relationship import charge, mood_points, weighed
from nbx.features.aggregates import fold_event

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbx.catalog.rules import Rules
    from nbx.experience.entries import Event
    from nbx.features.schema import Value
    from nbx.features.state import CustomerState


def happen(state: CustomerState, kind: str, properties: Mapping[str, Value], at_ms: int, rules: Rules, by: str) -> None:
    """Let an event of a type feed aggregates, journeys and concerns."""
    for name, aggregate in rules.aggregates.get(kind, ()):
        cells = fold_event(aggregate, state.aggregates.get(name, []), properties, at_ms)
        if cells:
            state.aggregates[name] = cells
    journeys.feed(state, kind, at_ms, rules, by)


def properties_of(event: Event) -> Mapping[str, Value]:
    """Return what aggregates read: properties, and what an event says of itself where none has that name."""
    if event.sentiment is None and event.effort is None and event.value is None:
        return event.properties
    own = {"sentiment": event.sentiment, "effort": event.effort, "value": event.value}
    return {name: value for name, value in own.items() if value is not None} | event.properties


def feel(state: CustomerState, event: Event, at_ms: int, rules: Rules) -> None:
    """Charge the balance for what a customer says of an encounter that is no prompt; an agent says nothing for them."""
    points = mood_points(event.sentiment, event.effort, rules.experience)
    if points and event.by == "customer":
        charge(state, weighed(points, rules.experience), at_ms, rules.experience)
