"""Reads what a catalog file says of customers' ways and how they are told apart: journeys, clusters, segments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.catalog.model import Clusters, Journey, JourneyStep
from nbx.catalog.readers import FACTOR
from nbx.limits import CLUSTERS, SEGMENTS

if TYPE_CHECKING:
    from nbx.catalog.nodes import Node
    from nbx.catalog.readers import Reader

JOURNEYS = 32
"""Most journeys, most steps of one, and most concerns: all are worked out in every decision that reads one."""
SIDE_EVENTS = 16
"""Most events of one side of a step: each is looked up by event, so this only keeps a file readable."""


def journey(read: Reader, name: str, node: Node) -> Journey:
    """Read one journey."""
    steps = read.few(read.fields(node, ("steps",), required=("steps",)).get("steps"), JOURNEYS)
    if steps is not None and steps.kind == "map" and not steps.entries:
        read.fault(steps, "missing", "must have at least one step")
    return Journey(name=name, steps=tuple(_step(read, word, each) for word, each in read.named(steps)))


def _step(read: Reader, name: str, node: Node) -> JourneyStep:
    fields = read.fields(node, ("event", "after", "does", "owes", "stakes"), required=("event",))
    does, does_within_ms = _side(read, fields.get("does"))
    owes, owes_within_ms = _side(read, fields.get("owes"), promised=True)
    return JourneyStep(
        name=name,
        event=read.event(fields.get("event")),
        after=read.names(fields.get("after")),
        does=does,
        does_within_ms=does_within_ms,
        owes=owes,
        owes_within_ms=owes_within_ms,
        stakes=read.number(fields.get("stakes"), 0.0, least=0.0, most=1.0),
    )


def _side(read: Reader, node: Node | None, *, promised: bool = False) -> tuple[tuple[str, ...], int]:
    """Read one side of a step: a list of events, or a mapping with a time; what is promised needs the time."""
    if node is None:
        return (), 0
    if node.kind != "map":
        if promised and node.kind == "list":
            read.fault(node, "missing", "must say by when: {events: [...], within: 1d}")
        return _events(read, node), 0
    required = ("events", "within") if promised else ("events",)
    fields = read.fields(node, ("events", "within"), required=required)
    return _events(read, fields.get("events")), read.duration(fields.get("within"), 0)


def _events(read: Reader, node: Node | None) -> tuple[str, ...]:
    return tuple(read.event(item) for item in read.some(read.few(node, SIDE_EVENTS)))


def clusters(read: Reader, node: Node | None) -> Clusters | None:
    """Read by what customers are told apart online; None: they are not."""
    if node is None:
        return None
    fields = read.fields(node, ("features", "count", "track_weight"), required=("features",))
    plain = Clusters(features=read.names(fields.get("features")))
    return Clusters(
        features=plain.features,
        count=read.whole(fields.get("count"), plain.count, least=2, most=CLUSTERS),
        track_weight=read.above_zero(fields.get("track_weight"), plain.track_weight, most=FACTOR),
    )


def segments(read: Reader, node: Node | None) -> tuple[str, ...]:
    """Read the features by which reports split customers."""
    return read.names(read.few(node, SEGMENTS))
