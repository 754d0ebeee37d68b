"""What forbids publishing journeys, clusters and segments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.catalog.findings import Finding, found
from nbx.catalog.names import numbered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbx.catalog.model import Catalog, Clusters, Journey, JourneyStep
    from nbx.catalog.names import Names

RESERVED = {"consent": "say what they allow", "control": "stop and pause prompts"}
"""Behaviour event → what customers do by it; it means nothing else."""


def reserved_event(path: str, event: str) -> Iterator[Finding]:
    """Yield a finding when an event is not free to be used."""
    if event in RESERVED:
        text = f"`{event}` is how customers {RESERVED[event]}: name another event"
        yield found(path, "reserved_event", text)


def journey_faults(journey: Journey, names: Names) -> Iterator[Finding]:
    """Yield what is wrong with a journey."""
    known = [step.name for step in journey.steps]
    for step in journey.steps:
        path = f"journeys.{journey.name}.steps.{step.name}"
        yield from reserved_event(f"{path}.event", step.event)
        yield from names.unknown("step", numbered(f"{path}.after", step.after), known)
        if step.name in step.after:
            yield found(f"{path}.after", "after_itself", "names the step itself: name those that come before it")
        yield from _sides(path, step)


def _sides(path: str, step: JourneyStep) -> Iterator[Finding]:
    for kind, events in (("does", step.does), ("owes", step.owes)):
        for event in dict.fromkeys(events):
            yield from reserved_event(f"{path}.{kind}", event)
            if event and event == step.event:
                text = f"`{event}` enters the step, so it would be done at once: name what follows it"
                yield found(f"{path}.{kind}", "enters_itself", text)
    for event in dict.fromkeys(step.does):
        if event and event in step.owes:
            text = f"`{event}` is what the customer does too, so one event would be both sides: keep one"
            yield found(f"{path}.owes", "both_sides", text)
    if step.owes and not step.owes_within_ms:  # of a catalog that was never YAML
        yield found(f"{path}.owes.within", "missing", "is missing: say by when, such as 1d")


def telling_apart_faults(catalog: Catalog, names: Names) -> Iterator[Finding]:
    """Yield what is wrong with clusters, segments and controllable features."""
    if catalog.clusters is not None:
        yield from _clusters(catalog.clusters, names)
    yield from names.unknown("feature", numbered("segments", catalog.segments))
    for i, name in enumerate(catalog.segments):
        feature = names.features.get(name)
        if feature is not None and (feature.origin != "profile" or feature.type == "number"):
            text = f"`{name}` must be a category or a boolean of the profile: reports split customers by its values"
            yield found(f"segments[{i}]", "segment", text)
    for feature in catalog.features:
        if feature.controllable and feature.origin != "profile":
            text = "only a profile value can be the customer's own choice: remove it, or take it from the profile"
            yield found(f"features.{feature.name}.controllable", "controllable", text)


def _clusters(clusters: Clusters, names: Names) -> Iterator[Finding]:
    yield from names.unknown("feature", numbered("clusters.features", clusters.features))
    for i, name in enumerate(clusters.features):
        feature = names.features.get(name)
        if feature is not None and feature.encoding.kind == "none":
            text = f"`{name}` is not encoded, so it has no columns to tell customers apart by: encode it"
            yield found(f"clusters.features[{i}]", "not_encoded", text)
