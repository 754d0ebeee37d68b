"""Reads the section `features` of a catalog file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from nbx import limits
from nbx.features.schema import Aggregate, AggregateKind, Encoding, Feature, FeatureType, Origin, Value

if TYPE_CHECKING:
    from nbx.catalog.nodes import Node
    from nbx.catalog.readers import Reader


def feature(read: Reader, name: str, node: Node) -> Feature:
    """Read one feature."""
    known = ("type", "from", "encode", "default", "max_age", "personal", "controllable", "description")
    fields = read.fields(node, known, required=("type",))
    kind: FeatureType = read.choice(fields.get("type"), get_args(FeatureType), "number")
    origin = _origin(read, fields.get("from"))
    if isinstance(origin, Aggregate) and origin.kind != "last" and kind != "number" and "type" in fields:
        read.fault(fields["type"], "feature_type", f"{origin.kind} gives a number: write type: number")
    if "max_age" in fields and origin != "profile":
        read.fault(fields["max_age"], "max_age", "only a profile value can grow old: remove max_age")
    defaults: dict[FeatureType, Value] = {"number": 0.0, "boolean": False, "category": ""}
    return Feature(
        name=name,
        type=kind,
        origin=origin,
        encoding=_encoding(read, kind, node, fields.get("encode")),
        default=_default(read, kind, fields["default"]) if "default" in fields else defaults[kind],
        max_age_ms=read.duration(fields.get("max_age"), 0),
        description=read.text(fields.get("description")),
        personal=read.boolean(fields["personal"]) if "personal" in fields else None,
        controllable=read.boolean(fields.get("controllable")),
    )


def _default(read: Reader, kind: FeatureType, node: Node) -> Value:
    if kind == "number":
        return read.number(node, 0.0)
    if kind == "category":
        return read.text(node)
    return read.boolean(node)


def _origin(read: Reader, node: Node | None) -> Origin | Aggregate:
    if node is None or node.kind != "map":
        origins: tuple[Origin, ...] = get_args(Origin)
        return read.choice(node, origins, "profile")
    kinds: tuple[AggregateKind, ...] = get_args(AggregateKind)
    fields = read.fields(node, ("event", *kinds, "property", "window", "half_life"), required=("event",))
    given = [kind for kind in kinds if kind in fields]
    if len(given) != 1:
        if node.kind == "map":
            read.fault(node, "aggregate", f"say one of {', '.join(kinds)}, found {' and '.join(given) or 'none'}")
        return "profile"
    kind = given[0]
    if kind == "time_since":
        read.choice(fields[kind], ("true",), "true")
    needs = {"sum": ("window",), "decayed_mean": ("half_life",)}.get(kind, ())
    allowed = {"event", kind, *needs, *(("property",) if kind == "count" else ())}
    for name in needs:
        if name not in fields:
            read.missing(node, name, f"{kind} needs a {name}, such as 30d")
    for name in fields.keys() - allowed:
        read.fault(fields[name], "aggregate", f"{kind} does not use {name}: remove it")
    return Aggregate(
        event=read.event(fields.get("event")),
        kind=kind,
        property=read.event(fields.get("property" if kind in ("count", "time_since") else kind)),
        window_ms=read.duration(fields.get("count" if kind == "count" else "window"), 0),
        half_life_ms=read.duration(fields.get("half_life"), 0),
    )


def _encoding(read: Reader, kind: FeatureType, feature: Node, node: Node | None) -> Encoding:
    if node is None:
        if kind == "category" and feature.kind == "map":
            read.missing(feature, "encode", "a category needs encode: {onehot: [a, b]}, {hash: 8} or none")
        return Encoding(kind="flag" if kind == "boolean" else "standard")
    usable = {
        "number": ("standard", "log", "none"),
        "boolean": ("flag", "none"),
        "category": ("onehot", "hash", "none"),
    }
    if node.kind != "map":
        plain: tuple[Literal["standard", "flag", "none"], ...] = ("standard", "flag", "none")
        name = read.choice(node, plain, "none")
        if name not in usable[kind]:
            read.fault(node, "encoding", f"a {kind} cannot be encoded as {name}: use {', '.join(usable[kind])}")
        return Encoding(kind=name)
    fields = read.fields(node, ("standard", "log", "onehot", "hash"))
    if len(fields) != 1:
        read.fault(node, "encoding", f"say one of standard, log, onehot, hash; found {' and '.join(fields) or 'none'}")
        return Encoding(kind="none")
    [(word, value)] = fields.items()
    if word not in usable[kind]:
        read.fault(node, "encoding", f"a {kind} cannot be encoded as {word}: use {', '.join(usable[kind])}")
    if word == "log":
        return Encoding(kind="log", sd=read.above_zero(value, 1.0))
    if word == "hash":
        return Encoding(kind="hash", buckets=read.whole(value, 1, least=1, most=limits.FEATURE_WIDTH))
    if word == "onehot":
        return Encoding(kind="onehot", categories=_categories(read, value))
    scale = read.fields(value, ("mean", "sd"))
    return Encoding(kind="standard", mean=read.number(scale.get("mean"), 0.0), sd=read.above_zero(scale.get("sd"), 1.0))


def _categories(read: Reader, node: Node) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for item in read.items(node):
        word = read.text(item)
        if word in found and item.kind == "scalar":
            read.fault(item, "duplicate", f"{word!r} is listed twice: keep one")
        found[word] = None
    if node.kind == "list" and not node.items:
        read.fault(node, "missing", "must name at least one category")
    return tuple(found)
