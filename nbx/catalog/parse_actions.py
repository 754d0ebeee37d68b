"""Reads the sections of a catalog file that say where nbx speaks and what it may say: placements, groups, actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from nbx import limits
from nbx.catalog.model import (
    LAYERS,
    Action,
    ActionClass,
    ContextWeight,
    DefaultChoice,
    Goal,
    Group,
    Impressions,
    Limit,
    Pause,
    Placement,
    PromisePolicy,
    Treatment,
)
from nbx.catalog.readers import FACTOR, is_nothing

if TYPE_CHECKING:
    from nbx.catalog.nodes import Node
    from nbx.catalog.readers import Reader

VALUE_STRENGTH = 10.0
"""Acceptances that the prior of a learned value counts for, unless said otherwise."""
LIMITS = 16
"""Most limits in one list: each is counted in every decision."""
WEIGHTS = 16
"""Most context weights of an action or a group: each is asked in every decision."""
_POLICY = (*LAYERS, "starts", "ends")


def placement(read: Reader, name: str, node: Node) -> Placement:
    """Read one placement."""
    known = ("channel", "impressions", "slots", "delivery", "attention", "default", "stakes", "goal", "latency")
    fields = read.fields(node, known, required=("channel", "impressions"))
    plain = Placement(name=name, channel=read.name(fields.get("channel")), impressions="reported")
    default = None
    if "default" in fields:
        parts = read.fields(fields["default"], ("action", "treatment"), required=("action", "treatment"))
        default = DefaultChoice(action=read.name(parts.get("action")), treatment=read.name(parts.get("treatment")))
    return Placement(
        name=name,
        channel=plain.channel,
        impressions=read.choice(fields.get("impressions"), get_args(Impressions), plain.impressions),
        slots=read.whole(fields.get("slots"), plain.slots, least=1, most=limits.SLOTS),
        delivery_ms=read.duration(fields.get("delivery"), plain.delivery_ms),
        attention_ms=read.duration(fields.get("attention"), plain.attention_ms),
        default=default,
        stakes=read.number(fields.get("stakes"), plain.stakes, least=0.0, most=1.0),
        goal=_goal(read, fields.get("goal")),
        latency_ms=read.duration(fields.get("latency"), plain.latency_ms),
    )


def _goal(read: Reader, node: Node | None) -> Goal | None:
    if node is None or node.kind == "broken" or is_nothing(node):
        return None
    known = ("event", "within", "value")
    fields = read.fields(node, known, required=known)
    return Goal(
        event=read.event(fields.get("event")),
        within_ms=read.duration(fields.get("within"), 1),
        value=read.above_zero(fields.get("value"), 1.0, most=limits.MONEY),
    )


def limits_of(read: Reader, node: Node | None) -> tuple[Limit, ...]:
    """Read a list of limits."""
    found = []
    for item in read.items(read.few(node, LIMITS)):
        fields = read.fields(item, ("max", "per"), required=("max", "per"))
        most = read.whole(fields.get("max"), 1, least=1, most=limits.CONTACTS)
        found.append(Limit(max=most, per_ms=read.duration(fields.get("per"), 1)))
    return tuple(found)


def pause_of(read: Reader, node: Node | None) -> Pause | None:
    """Read what is paused after which outcome; None when nothing is said."""
    if node is None:
        return None
    fields = read.fields(node, ("declined", "dismissed", "ignored"))
    ignored = fields.get("ignored")
    count, within_ms, length = 1, 0, ignored
    if ignored is not None and ignored.kind == "map":
        parts = read.fields(ignored, ("after", "within", "for"), required=("after", "within", "for"))
        count = read.whole(parts.get("after"), 1, least=1, most=limits.CONTACTS)
        within_ms, length = read.duration(parts.get("within"), 1), parts.get("for")
    return Pause(
        declined_ms=read.duration(fields.get("declined"), 0, least=0),
        dismissed_ms=read.duration(fields.get("dismissed"), 0, least=0),
        ignored_ms=read.duration(length, 0, least=0),
        ignored_count=count,
        ignored_within_ms=within_ms,
    )


def group(read: Reader, name: str, node: Node) -> Group:
    """Read one group."""
    known = ("topic", "limits", "pause", "pause_group", "per_slate", "lever", "context_weights", *_POLICY)
    fields = read.fields(node, known)
    return Group(
        name=name,
        topic=read.name(fields.get("topic")),
        limits=limits_of(read, fields.get("limits")),
        pause=pause_of(read, fields.get("pause")),
        pause_group=pause_of(read, fields.get("pause_group")),
        per_slate=read.whole(fields.get("per_slate"), 0, least=1, most=limits.SLOTS),
        lever=read.number(fields.get("lever"), 1.0, least=0.0, most=FACTOR),
        context_weights=_weights(read, fields.get("context_weights")),
        **_policy(read, fields),
    )


def action(read: Reader, name: str, node: Node) -> Action:
    """Read one action."""
    known = (
        "group", "class", "topic", "value", "customer_value", "gives", "asks", "limits", "pause", "not_with", "cost",
        "lever", "context_weights", *_POLICY, "attention", "owner", "treatments", "resolves",
    )  # fmt: skip
    fields = read.fields(node, known, required=("group", "treatments"))
    value, value_strength = _value(read, fields.get("value"))
    return Action(
        name=name,
        group=read.name(fields.get("group")),
        action_class=read.choice(fields.get("class"), get_args(ActionClass), "promotional"),
        topic=read.name(fields.get("topic")),
        value=value,
        value_strength=value_strength,
        customer_value=read.number(fields.get("customer_value"), 0.0, least=-limits.MONEY, most=limits.MONEY),
        gives=tuple(read.name(item) for item in read.items(fields.get("gives"))),
        asks=tuple(read.name(item) for item in read.items(fields.get("asks"))),
        limits=limits_of(read, fields.get("limits")),
        pause=pause_of(read, fields.get("pause")),
        not_with=read.names(fields.get("not_with")),
        resolves=read.names(fields.get("resolves")),
        cost=read.money(fields.get("cost"), 0.0),
        lever=read.number(fields.get("lever"), 1.0, least=0.0, most=FACTOR),
        context_weights=_weights(read, fields.get("context_weights")),
        attention_ms=read.duration(fields.get("attention"), 0),
        treatments=tuple(_treatment(read, word, each) for word, each in read.named(fields.get("treatments"))),
        owner=read.text(fields.get("owner")),
        **_policy(read, fields),
    )


def _policy(read: Reader, fields: dict[str, Node]) -> dict[str, Any]:
    """Read the fields of `Policy`."""
    dates: dict[str, Any] = {f"{name}_ms": read.moment(fields.get(name)) for name in ("starts", "ends")}
    return dates | {layer: read.condition(fields.get(layer)) for layer in LAYERS}


def _weights(read: Reader, node: Node | None) -> tuple[ContextWeight, ...]:
    found = []
    for item in read.items(read.few(node, WEIGHTS)):
        fields = read.fields(item, ("when", "weight"), required=("when", "weight"))
        weight = read.above_zero(fields.get("weight"), 1.0, most=FACTOR)
        found.append(ContextWeight(when=read.condition(fields.get("when"), needed=True), weight=weight))
    return tuple(found)


def _value(read: Reader, node: Node | None) -> tuple[float, float]:
    """Return a declared value, or what is expected of a learned one and for how many acceptances that counts."""
    if node is None or node.kind != "map":
        return read.number(node, 0.0, least=0.0, most=limits.MONEY), 0.0
    fields = read.fields(node, ("prior", "strength"), required=("prior",))
    prior = read.number(fields.get("prior"), 0.0, least=0.0, most=limits.MONEY)
    return prior, read.above_zero(fields.get("strength"), VALUE_STRENGTH)


def _promise(read: Reader, node: Node | None) -> PromisePolicy | None:
    if node is None or node.kind == "broken" or is_nothing(node):
        return None
    fields = read.fields(node, ("what", "within"), required=("what", "within"))
    return PromisePolicy(what=read.name(fields.get("what")), within_ms=read.duration(fields.get("within"), 1))


def _treatment(read: Reader, name: str, node: Node) -> Treatment:
    fields = read.fields(node, ("placements", "content", "promise", *_POLICY), required=("placements",))
    placements = tuple(read.name(item) for item in read.items(fields.get("placements")))
    content = fields.get("content")
    read.fields(content, tuple(key.text for key, _ in content.entries) if content else ())
    return Treatment(
        name=name,
        placements=placements,
        content=read.any_value(content) if content is not None and content.kind == "map" else {},
        promise=_promise(read, fields.get("promise")),
        **_policy(read, fields),
    )
