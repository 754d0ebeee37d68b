"""Reads the section `examples` of a catalog file: its own tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nbx import limits
from nbx.catalog.model import Example, Expect, Given

if TYPE_CHECKING:
    from nbx.catalog.nodes import Node
    from nbx.catalog.readers import Reader

NAME_LENGTH = 200
"""Characters in the name of an example: a sentence."""
EXAMPLES = 1000
"""Most examples of a catalog: all of them are run before it is published."""
_HOLDOUTS: tuple[Literal["silent", "random"], ...] = ("silent", "random")


def examples(read: Reader, node: Node | None) -> tuple[Example, ...]:
    """Read all examples."""
    named = read.any_named(read.few(node, EXAMPLES), most=NAME_LENGTH)
    return tuple(_example(read, name, each) for name, each in named)


def _example(read: Reader, name: str, node: Node) -> Example:
    fields = read.fields(node, ("given", "expect"), required=("given", "expect"))
    return Example(name=name, given=_given(read, fields.get("given")), expect=_expect(read, fields.get("expect")))


def _given(read: Reader, node: Node | None) -> Given:
    known = (
        "placement", "slots", "customer", "request", "relationship", "journey", "concern", "seen", "paused", "consent",
        "obligations", "spent", "holdout", "at",
    )  # fmt: skip
    fields = read.fields(node, known, required=("placement",))
    plain = Given(placement=read.name(fields.get("placement")))
    return Given(
        placement=plain.placement,
        slots=read.whole(fields.get("slots"), plain.slots, least=1, most=limits.SLOTS),
        customer={name: read.value(each) for name, each in read.named(fields.get("customer"))},
        request={name: read.value(each) for name, each in read.named(fields.get("request"))},
        relationship={name: read.number(each, 0.0) for name, each in read.named(fields.get("relationship"))},
        journey={name: read.text(each) for name, each in read.named(fields.get("journey"))},
        concern={name: read.boolean(each) for name, each in read.named(fields.get("concern"))},
        seen={
            name: tuple(read.duration(item, 0, least=0) for item in read.items(read.few(each, limits.CONTACTS)))
            for name, each in read.named(fields.get("seen"))
        },
        paused=read.names(fields.get("paused")),
        consent={name: read.boolean(each) for name, each in read.any_named(fields.get("consent"), most=NAME_LENGTH)},
        obligations=read.names(fields.get("obligations")),
        spent=read.names(fields.get("spent")),
        holdout=read.choice(fields["holdout"], _HOLDOUTS, "silent") if "holdout" in fields else "",
        at_ms=read.moment(fields.get("at"), plain.at_ms),
    )


def _expect(read: Reader, node: Node | None) -> Expect:
    fields = read.fields(node, ("allowed", "blocked", "ranked", "silent"))
    blocked = {name: read.name(each) for name, each in read.named(fields.get("blocked"))}
    return Expect(
        allowed=read.names(fields.get("allowed")),
        blocked={name: "" if reason == "any" else reason for name, reason in blocked.items()},
        ranked=tuple(read.names(item) for item in read.items(fields.get("ranked"))),
        silent=read.boolean(fields.get("silent")),
    )
