"""YAML (or JSON) text to `model.Catalog`, with every fault at once, each with line, column and path.

Three passes: text becomes a tree of positioned nodes (`nodes.Tree`), typed readers turn nodes into structs
(`readers.Reader`, one `parse_*` module per part of the file), then the rules that need the whole catalog run on the
structs (`faults.catalog_faults`) and conditions are checked. A later fault at a path that has one already is dropped:
it would be a consequence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from nbx import limits
from nbx.catalog import parse_actions, parse_examples, parse_features, parse_guardrails, parse_journeys
from nbx.catalog.conditions import check_condition, vocabulary
from nbx.catalog.faults import catalog_faults
from nbx.catalog.findings import Finding
from nbx.catalog.model import LAYERS, Catalog, ContextWeight, ExperiencePolicy, Exploration, OutcomeName, Policy
from nbx.catalog.nodes import FINDINGS, Node, Sink, Tree
from nbx.catalog.readers import FACTOR, Reader, short
from nbx.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CatalogFaults", "Finding", "parse_catalog"]

CONDITIONS_LENGTH = 300_000
"""Characters of all different conditions together: 500 actions have some 100,000, and 10 µs go into each."""


class CatalogFaults(SetupError):
    """The catalog cannot be published; `findings` holds everything that is wrong, by position."""

    code = "catalog"

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        count = len(findings)
        text = "the catalog has a fault" if count == 1 else f"the catalog has {count} faults"
        super().__init__(text, faults=tuple(str(finding) for finding in findings))
        self.findings = findings


def parse_catalog(text: str, *, source: str = "catalog.yaml") -> Catalog:
    """Read a catalog; 500 actions with four conditions each in about a second.

    Parameters
    ----------
    text
        YAML 1.2 or JSON, at most `limits.CATALOG_BYTES` as UTF-8.
    source
        Name of the file, for messages.

    Raises
    ------
    CatalogFaults
        With every fault. Nothing else is raised, whatever the text.

    Examples
    --------
    >>> parse_catalog("{catalog: retail, attribution: 14d}").attribution_ms
    1209600000
    >>> parse_catalog("catalog: retail\\natribution: 14d")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    nbx.catalog.parse.CatalogFaults: the catalog has a fault
      catalog.yaml:2:1 atribution: unknown key. Did you mean `attribution`?
    """
    sink = Sink(source)
    tree = Tree(text.removeprefix("\ufeff"), sink)
    root = tree.read()
    if root is None:
        raise CatalogFaults(sink.sorted())
    catalog = _catalog(Reader(sink), root)
    for finding in () if sink.full else catalog_faults(catalog):
        node = tree.at(finding.path)
        sink.add_at(finding, (node.line, node.column))
        if sink.full:
            break
    _check_conditions(catalog, tree, sink)
    if findings := sink.sorted():
        raise CatalogFaults(findings)
    return catalog


def _catalog(read: Reader, root: Node) -> Catalog:
    known = (
        "catalog", "time_zone", "attribution", "correction", "features", "placements", "groups", "actions", "contact",
        "consent", "budgets", "holdout", "journeys", "concerns", "clusters", "segments", "experience", "exploration",
        "examples",
    )  # fmt: skip
    if root.kind != "map":
        read.fault(root, "type", f"must be a mapping that starts with `catalog: <name>`; found {short(root)}")
    fields = read.fields(root, known, required=("catalog",)) if root.kind == "map" else {}
    plain = Catalog(name=read.name(fields.get("catalog")))
    zone, zone_feature = _time_zone(read, fields.get("time_zone"))
    return Catalog(
        name=plain.name,
        time_zone=zone,
        time_zone_feature=zone_feature,
        attribution_ms=read.duration(fields.get("attribution"), plain.attribution_ms),
        correction_ms=read.duration(fields.get("correction"), plain.correction_ms),
        features=tuple(parse_features.feature(read, *each) for each in read.named(fields.get("features"))),
        placements=tuple(parse_actions.placement(read, *each) for each in read.named(fields.get("placements"))),
        groups=tuple(parse_actions.group(read, *each) for each in read.named(fields.get("groups"))),
        actions=tuple(parse_actions.action(read, *each) for each in read.named(fields.get("actions"))),
        contact=parse_guardrails.contact(read, fields.get("contact")),
        consent=parse_guardrails.consent(read, fields.get("consent")),
        budgets=tuple(
            parse_guardrails.budget(read, *each)
            for each in read.named(read.few(fields.get("budgets"), parse_guardrails.BUDGETS))
        ),
        holdout=parse_guardrails.holdout(read, fields.get("holdout")),
        journeys=tuple(
            parse_journeys.journey(read, *each)
            for each in read.named(read.few(fields.get("journeys"), parse_journeys.JOURNEYS))
        ),
        concerns=tuple(
            parse_guardrails.concern(read, *each)
            for each in read.named(read.few(fields.get("concerns"), parse_journeys.JOURNEYS))
        ),
        clusters=parse_journeys.clusters(read, fields.get("clusters")),
        segments=parse_journeys.segments(read, fields.get("segments")),
        experience=_experience(read, fields.get("experience")),
        exploration=_exploration(read, fields.get("exploration")),
        examples=parse_examples.examples(read, fields.get("examples")),
    )


def _time_zone(read: Reader, node: Node | None) -> tuple[str, str]:
    """Return the catalog's zone, which later readers use, and the feature that holds the customer's."""
    feature = ""
    if node is not None and node.kind == "map":
        fields = read.fields(node, ("feature", "otherwise"), required=("feature", "otherwise"))
        node, feature = fields.get("otherwise"), read.name(fields.get("feature"))
    return read.use_zone(node), feature


def _experience(read: Reader, node: Node | None) -> ExperiencePolicy:
    known = (
        "half_life", "loss_aversion", "exchange", "floor", "points", "sentiment", "effort", "promise_kept",
        "promise_broken", "obligation", "recovery_boost", "asks_per_give",
    )  # fmt: skip
    fields = read.fields(node, known)
    plain = ExperiencePolicy()
    outcomes: tuple[OutcomeName, ...] = get_args(OutcomeName)
    points = read.fields(fields.get("points"), outcomes)
    return ExperiencePolicy(
        half_life_ms=read.duration(fields.get("half_life"), plain.half_life_ms),
        loss_aversion=read.number(fields.get("loss_aversion"), plain.loss_aversion, least=0.0, most=FACTOR),
        exchange=read.number(fields.get("exchange"), plain.exchange, least=0.0, most=FACTOR),
        floor=read.number(fields.get("floor"), plain.floor, least=-limits.MONEY, most=0.0),
        points={
            name: read.number(points[name], 0.0, least=-limits.MONEY, most=limits.MONEY)
            for name in outcomes
            if name in points
        },
        sentiment=read.number(fields.get("sentiment"), plain.sentiment, least=0.0, most=FACTOR),
        effort=read.number(fields.get("effort"), plain.effort, least=0.0, most=FACTOR),
        promise_kept=read.number(fields.get("promise_kept"), plain.promise_kept, least=0.0, most=FACTOR),
        promise_broken=read.number(fields.get("promise_broken"), plain.promise_broken, least=-FACTOR, most=0.0),
        obligation_ms=read.duration(fields.get("obligation"), plain.obligation_ms),
        recovery_boost=read.number(fields.get("recovery_boost"), plain.recovery_boost, least=1.0, most=FACTOR),
        asks_per_give=read.number(fields.get("asks_per_give"), plain.asks_per_give, least=0.0, most=FACTOR),
    )


def _exploration(read: Reader, node: Node | None) -> Exploration:
    fields = read.fields(node, ("floor", "scale"))
    plain = Exploration()
    return Exploration(
        floor=read.number(fields.get("floor"), plain.floor, least=0.0, most=1.0),
        scale=read.number(fields.get("scale"), plain.scale, least=0.0, most=FACTOR),
    )


def _check_conditions(catalog: Catalog, tree: Tree, sink: Sink) -> None:
    words = vocabulary(
        catalog.features, catalog.journeys, catalog.concerns, catalog.placements, clusters=catalog.clusters
    )
    places: dict[str, list[str]] = {}
    for path, source in conditions_of(catalog):
        places.setdefault(source, []).append(path)
    length = sum(map(len, places))
    if length > CONDITIONS_LENGTH:
        text = f"its conditions have {length} characters, at most {CONDITIONS_LENGTH} are allowed: split the catalog"
        sink.add_at(Finding(path="", code="too_large", message=text), (1, 1))
        return
    for source, paths in places.items():
        if sink.full:
            break
        faults = check_condition(source, words)
        for path in paths[: FINDINGS // len(faults) + 1] if faults else ():
            placed = tree.places(tree.at(path), [fault.offset for fault in faults])
            for fault, place in zip(faults, placed, strict=True):
                sink.add_at(Finding(path=path, code=fault.code, message=fault.message), place, once=False)


def conditions_of(catalog: Catalog) -> Iterator[tuple[str, str]]:
    """Yield path and source of every condition."""
    for group in catalog.groups:
        yield from _layers(f"groups.{group.name}", group)
        yield from _weights(f"groups.{group.name}", group.context_weights)
    for action in catalog.actions:
        yield from _layers(f"actions.{action.name}", action)
        yield from _weights(f"actions.{action.name}", action.context_weights)
        for treatment in action.treatments:
            yield from _layers(f"actions.{action.name}.treatments.{treatment.name}", treatment)


def _layers(path: str, policy: Policy) -> Iterator[tuple[str, str]]:
    for layer in LAYERS:
        if source := getattr(policy, layer):
            yield f"{path}.{layer}", source


def _weights(path: str, weights: tuple[ContextWeight, ...]) -> Iterator[tuple[str, str]]:
    for i, weight in enumerate(weights):
        if weight.when:
            yield f"{path}.context_weights[{i}].when", weight.when
