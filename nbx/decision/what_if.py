"""What could have been otherwise at a past decision, and the customer or request that it gives.

A variable is something a rule or the model reads that is not the company's protection of the customer: a feature, a
context value, a behaviour, a journey step, a concern, the customer's consent, the caller's exclusion. Limits, pauses,
quiet hours, floor, budgets and holdout are none: they are told with their end (`nbx.decision.held`), never as something
to change. Values worth a try are complete where a name is compared with fixed values: both booleans, every category,
of numbers each threshold and one from each span between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Literal, NamedTuple

from msgspec import structs

from nbx.catalog.cel_syntax import Chain, Conditional, Node, Unary, names_in, parse_condition, parts_of
from nbx.catalog.cel_syntax import Literal as LiteralNode
from nbx.catalog.plan import Plan
from nbx.decision.again import Again
from nbx.decision.examples import cells_of, way_to
from nbx.decision.messages import DecideRequest
from nbx.experience.consent import PERSONALISE, contact_purpose
from nbx.features.schema import Aggregate, Feature, Value
from nbx.features.state import Consent, CustomerState, ProfileValue

Whose = Literal["customer", "fact", "request", "behaviour", "consent", "caller"]
"""Who could have made it so: the customer's own choice; a fact about the customer, which nobody simply changes; the
request; what the customer does; the customer's consent; the caller, who excluded the action."""

CONSENT, EXCLUDE = "consent", "exclude"
VALUES = 16
"""Values of one variable that are tried, those nearest to the present one."""
_STEP_MS = 1000


class Span(NamedTuple):
    """A value to try and, of a number, the span it stands for: low = high for a threshold itself."""

    value: Value
    low: float = 0.0
    high: float = 0.0


class Variable(NamedTuple):
    """Something that could have been otherwise."""

    path: str
    """As conditions write it; `consent.<purpose>`, `exclude.<action>`."""
    whose: Whose
    now: Value
    spans: tuple[Span, ...]
    """Worth a try, the nearest first."""


class Step(NamedTuple):
    """One thing made otherwise."""

    variable: Variable
    span: Span


Steps = tuple[Step, ...]


def feature_of(plan: Plan, path: str) -> Feature | None:
    """Return the feature that a path of a condition names; None: it names something else."""
    root, _, name = path.partition(".")
    if root not in ("customer", "request"):
        return None
    found = (each for each in plan.catalog.features if each.name == name)
    return next((each for each in found if (each.origin == "context") == (root == "request")), None)


def variables(plan: Plan, paths: Iterable[str], sources: Iterable[str], now: Mapping[str, Value]) -> list[Variable]:
    """Return what of some paths can be varied, the customer's own choices first.

    Parameters
    ----------
    plan
        Of the release that decided.
    paths
        As conditions write them; the relationship, the cluster, placement and channel cannot be varied.
    sources
        Conditions from which values worth a try are taken.
    now
        Path → present value.
    """
    trees = [parse_condition(source) for source in sources]
    found = []
    for path in sorted(set(paths)):
        if path not in now or (whose := _whose(plan, path)) is None:
            continue
        compared = list(dict.fromkeys(value for tree in trees for value in _compared(tree, path, now)))
        spans = tuple(_spans(plan, path, now[path], compared))[:VALUES]
        if spans:
            found.append(Variable(path, whose, now[path], spans))
    return sorted(found, key=lambda each: (each.whose != "customer", each.path))


def consents(asked: Again, *, personal: bool, contact: bool) -> list[Variable]:
    """Return the consents that were missing and would have been needed."""
    channel = asked.plan.placements[asked.request.placement].placement.channel
    purposes = [PERSONALISE] * personal + [contact_purpose(channel)] * contact
    return [Variable(f"{CONSENT}.{purpose}", "consent", False, (Span(True),)) for purpose in purposes]


def exclusion(action: str) -> Variable:
    """Return the caller's exclusion of an action."""
    return Variable(f"{EXCLUDE}.{action}", "caller", True, (Span(False),))


def applied(asked: Again, steps: Steps) -> tuple[CustomerState, DecideRequest]:
    """Return customer and request with some things made otherwise; what was is not touched."""
    plan, now_ms, request = asked.plan, asked.entry.at_ms, asked.request
    state = CustomerState(**{name: getattr(asked.state, name) for name in asked.state.__struct_fields__})
    for (path, *_), (value, *_) in steps:
        root, _, name = path.partition(".")
        feature = feature_of(plan, path)
        if root == CONSENT:
            state.consent = state.consent | {name: Consent(bool(value), now_ms)}
        elif root == EXCLUDE:
            request = structs.replace(request, exclude=tuple(each for each in request.exclude if each != name))
        elif root == "journey":
            journey = plan.rules.journeys[name]
            way = way_to(journey, str(value)) or ()
            state.journeys = state.journeys | {
                name: {step: now_ms - _STEP_MS * back for back, step in enumerate(reversed(way))}
            }
        elif root == "concern":
            state.concerns = state.concerns | {name: [now_ms, 0] if value else [0, 0]}
        elif feature is not None and feature.origin == "context":
            request = structs.replace(request, context=request.context | {name: value})
        elif feature is not None and isinstance(feature.origin, Aggregate):
            state.aggregates = state.aggregates | {name: cells_of(feature.origin, value, now_ms)}
        else:
            state.profile = state.profile | {name: ProfileValue(value, now_ms)}
    return state, request


def changed_values(now: Mapping[str, Value], steps: Steps) -> dict[str, Value]:
    """Return path → value with some things made otherwise."""
    return {**now, **{step.variable.path: step.span.value for step in steps}}


def _whose(plan: Plan, path: str) -> Whose | None:
    if path.startswith(("journey.", "concern.")):
        return "behaviour"
    feature = feature_of(plan, path)
    if feature is None:
        return None
    if isinstance(feature.origin, Aggregate):
        return "behaviour"
    if feature.origin == "context":
        return "request"
    return "customer" if feature.controllable else "fact"


def _compared(node: Node, path: str, now: Mapping[str, Value]) -> Iterator[Value]:
    """Yield what a name is compared with: literals, and the present values of other names."""
    is_logic = isinstance(node, Chain) and node.signs[0] in ("&&", "||")
    if is_logic or isinstance(node, Conditional) or (isinstance(node, Unary) and node.sign == "!"):
        for part in parts_of(node):
            yield from _compared(part, path, now)
    elif path in names_in(node):
        yield from _literals(node)
        yield from (now[other] for other in sorted(names_in(node) - {path}) if other in now)


def _literals(node: Node) -> Iterator[Value]:
    if isinstance(node, LiteralNode) and isinstance(node.value, bool | int | float | str):
        yield node.value
    for part in parts_of(node):
        yield from _literals(part)


def _spans(plan: Plan, path: str, now: Value, compared: list[Value]) -> Iterator[Span]:
    if isinstance(now, bool):
        yield Span(not now)
    elif isinstance(now, str):
        texts = [each for each in compared if isinstance(each, str)]
        yield from (Span(text) for text in dict.fromkeys([*texts, *_declared(plan, path)]) if text != now)
    else:
        numbers = {float(each) for each in compared if not isinstance(each, str | bool)}
        yield from number_spans(sorted(numbers | _usual(plan, path)), float(now))


def _declared(plan: Plan, path: str) -> tuple[str, ...]:
    root, _, name = path.partition(".")
    if root == "journey":
        return (
            "",
            *(step.name for step in plan.rules.journeys[name].steps if way_to(plan.rules.journeys[name], step.name)),
        )
    feature = feature_of(plan, path)
    return (*feature.encoding.categories, str(feature.default), "") if feature is not None else ()


def _usual(plan: Plan, path: str) -> set[float]:
    """Values of an encoded number that the model tells apart: a standard deviation to either side of the mean."""
    feature = feature_of(plan, path)
    encoding = feature.encoding if feature is not None and feature.controllable else None
    if encoding is None or encoding.kind not in ("standard", "log"):
        return set()
    return (
        {encoding.mean - encoding.sd, encoding.mean + encoding.sd}
        if encoding.kind == "standard"
        else {0.0, encoding.sd}
    )


def number_spans(thresholds: list[float], now: float) -> Iterator[Span]:
    """Yield each threshold and the open spans before, between and after them, nearest to `now` first, its own left out.

    Examples
    --------
    >>> [span.value for span in number_spans([18.0, 65.0], 42.0)]
    [65.0, 66.0, 18.0, 17.0]
    """
    infinity = float("inf")
    spans = [(each, each) for each in thresholds]
    spans += pairwise((-infinity, *thresholds, infinity)) if thresholds else ()
    spans = [(low, high) for low, high in spans if not (low < now < high or low == high == now)]
    for low, high in sorted(spans, key=lambda span: (max(span[0] - now, now - span[1], 0.0), span[0] != span[1])):
        yield Span(_within(low, high), low, high)


def _within(low: float, high: float) -> float:
    """Return a number of a span, a whole one where there is one at hand."""
    if low == high:
        return low
    if low == -float("inf"):
        return high - 1.0
    return low + 1.0 if low + 1.0 < high else (low + high) / 2
