"""What forbids publishing examples: words that lead nowhere and values that cannot be, before any is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx import limits
from nbx.catalog.conditions import REQUEST
from nbx.catalog.findings import Finding, found, label
from nbx.catalog.model import REASONS
from nbx.catalog.names import keyed, numbered
from nbx.catalog.vocabulary import CLUSTER
from nbx.features.schema import Feature, Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbx.catalog.model import Catalog, Expect, Given
    from nbx.catalog.names import Names

PURPOSES = ("contact", "personalise", "learn")
RANGES = {
    "balance": (-limits.MONEY, limits.MONEY),
    "strain": (0.001, 0.999),
    "ignored_30d": (0.0, 1000.0),
    "minutes_since_prompt": (0.0, 10_080.0),
}
"""What a customer's relationship can be, as far as examples need it."""
_TYPES: dict[str, type] = {"number": float, "boolean": bool, "category": str}


def example_faults(catalog: Catalog, names: Names) -> Iterator[Finding]:
    """Yield what is wrong with the examples."""
    for example in catalog.examples:
        path = f"examples.{label(example.name)}"
        yield from _given(f"{path}.given", example.given, names)
        yield from _expect(f"{path}.expect", example.expect, names)


def _given(path: str, given: Given, names: Names) -> Iterator[Finding]:
    yield from names.unknown("placement", [(f"{path}.placement", given.placement)])
    placement = names.placements.get(given.placement)
    if placement is not None and given.slots > placement.slots:
        yield found(f"{path}.slots", "range", f"must be at most the placement's {placement.slots}, is {given.slots}")
    yield from _values(f"{path}.customer", given.customer, names, of_context=False)
    yield from _values(f"{path}.request", given.request, names, of_context=True)
    yield from _relationship(f"{path}.relationship", given.relationship, names)
    yield from names.unknown("journey", keyed(f"{path}.journey", given.journey))
    for name, step in given.journey.items():
        if name in names.journeys:
            steps = [each.name for each in names.journeys[name].steps]
            yield from names.unknown("step", [(f"{path}.journey.{name}", step)], steps)
    yield from names.unknown("concern", keyed(f"{path}.concern", given.concern))
    yield from names.unknown("action", keyed(f"{path}.seen", given.seen))
    yield from names.unknown("action", numbered(f"{path}.paused", given.paused))
    yield from names.unknown("budget", numbered(f"{path}.spent", given.spent))
    yield from _consent(f"{path}.consent", given, names)


def _values(path: str, values: dict[str, Value], names: Names, *, of_context: bool) -> Iterator[Finding]:
    for name, value in values.items():
        where = f"{path}.{name}"
        feature = names.features.get(name)
        if of_context and name in REQUEST:
            yield found(where, "follows", "follows from the placement: remove it")
        elif feature is None:
            yield from names.unknown("feature", [(where, name)])
        elif (feature.origin == "context") is not of_context:
            other = "customer" if of_context else "request"
            yield found(where, "elsewhere", f"`{name}` is asked as `{other}.{name}`: move it under {other}")
        else:
            yield from _value(where, value, feature)


def _value(path: str, value: Value, feature: Feature) -> Iterator[Finding]:
    known = feature.encoding.categories
    if not isinstance(value, _TYPES[feature.type]):
        hint = ": put it in quotes" if feature.type == "category" else ""
        yield found(path, "type", f"`{feature.name}` is a {feature.type}, found {value!r:.40}{hint}")
    elif isinstance(value, str) and known and value not in (*known, feature.default, ""):
        text = f"`{value:.80}` is not among the categories of `{feature.name}`: {', '.join(known):.200}"
        yield found(path, "unknown_category", text)


def _relationship(path: str, values: dict[str, float], names: Names) -> Iterator[Finding]:
    ranges = dict(RANGES)
    if names.clusters is not None:
        ranges[CLUSTER] = (-1.0, names.clusters.count - 1.0)
    yield from names.unknown("relationship", keyed(path, values), ranges)
    for name, value in values.items():
        least, most = ranges.get(name, (value, value))
        if name == CLUSTER and not value.is_integer():
            yield found(f"{path}.{name}", "range", f"must be a whole number, found {value:g}")
        elif not least <= value <= most:
            yield found(f"{path}.{name}", "range", f"must lie between {least:g} and {most:g}, found {value:g}")


def _consent(path: str, given: Given, names: Names) -> Iterator[Finding]:
    for purpose in given.consent:
        kind, colon, channel = purpose.partition(":")
        where = f"{path}.{label(purpose)}"
        if kind == "contact" and colon:
            yield from names.unknown("channel", [(where, channel or ":")])
        elif purpose not in PURPOSES:
            text = f"there is no purpose `{purpose:.80}`: there are {', '.join(PURPOSES)} and contact:<channel>"
            yield found(where, "unknown_purpose", text)


def _expect(path: str, expect: Expect, names: Names) -> Iterator[Finding]:
    yield from names.unknown("action", numbered(f"{path}.allowed", expect.allowed))
    yield from names.unknown("action", keyed(f"{path}.blocked", expect.blocked))
    for i, ranked in enumerate(expect.ranked):
        yield from names.unknown("action", numbered(f"{path}.ranked[{i}]", ranked))
        if len(ranked) == 1:
            yield found(f"{path}.ranked[{i}]", "too_few", "must name at least two actions, best first")
    yield from names.unknown(
        "reason", ((f"{path}.blocked.{a}", reason) for a, reason in expect.blocked.items()), REASONS
    )
    shown = {*expect.allowed, *(name for ranked in expect.ranked for name in ranked)}
    for name in sorted(shown & expect.blocked.keys()):
        yield found(f"{path}.blocked.{name}", "contradiction", "is expected to be allowed or ranked too: keep one")
    if expect.silent and shown:
        yield found(f"{path}.silent", "contradiction", "nothing can be allowed or ranked then: keep one")
    elif not (expect.silent or shown or expect.blocked):
        yield found(path, "expects_nothing", "says neither allowed, blocked, ranked nor silent: say what must come out")
