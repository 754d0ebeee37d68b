"""Reads the sections of a catalog file that bound what is said: contact, consent, budgets, holdout; and concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from nbx.catalog.model import (
    ActionClass,
    Budget,
    Concern,
    ConsentDefault,
    ConsentPolicy,
    ContactPolicy,
    ContactRule,
    Holdout,
    QuietHours,
)
from nbx.catalog.parse_actions import limits_of, pause_of
from nbx.catalog.readers import BUDGET, COST

if TYPE_CHECKING:
    from nbx.catalog.nodes import Node
    from nbx.catalog.readers import Reader

QUIET_HOURS = 64
"""Most quiet hours: all are looked at when a day of a zone is first met."""
EXCLUSIVE = 256
"""Most sets of actions that exclude each other: each is looked at in every slate."""
BUDGETS = 100
"""Most budgets: each worker holds a share of each."""
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_RULE = ("limits", "gap", "pause")
_CLASSES: tuple[ActionClass, ...] = get_args(ActionClass)
_DEFAULTS: tuple[ConsentDefault, ...] = get_args(ConsentDefault)


def contact(read: Reader, node: Node | None) -> ContactPolicy:
    """Read the contact policy."""
    fields = read.fields(node, (*_RULE, "channels", "classes", "quiet_hours", "exempt", "exclusive"))
    classes = read.fields(fields.get("classes"), _CLASSES)
    return ContactPolicy(
        overall=_rule(read, fields),
        channels={name: _rule(read, read.fields(each, _RULE)) for name, each in read.named(fields.get("channels"))},
        classes={name: _rule(read, read.fields(classes[name], _RULE)) for name in _CLASSES if name in classes},
        quiet_hours=tuple(
            _quiet_hours(read, item) for item in read.items(read.few(fields.get("quiet_hours"), QUIET_HOURS))
        ),
        exempt=_exempt(read, fields.get("exempt")),
        exclusive=tuple(read.names(item) for item in read.items(read.few(fields.get("exclusive"), EXCLUSIVE))),
    )


def _rule(read: Reader, fields: dict[str, Node]) -> ContactRule:
    limits, pause = limits_of(read, fields.get("limits")), pause_of(read, fields.get("pause"))
    return ContactRule(limits=limits, gap_ms=read.duration(fields.get("gap"), 0, least=0), pause=pause)


def _quiet_hours(read: Reader, node: Node) -> QuietHours:
    fields = read.fields(node, ("from", "to", "channels", "days"), required=("from", "to"))
    days = read.choices(fields.get("days"), DAYS)
    return QuietHours(
        from_minute=read.minute(fields.get("from")),
        to_minute=read.minute(fields.get("to"), last=True),
        days=tuple(sorted({DAYS.index(day) for day in days})),
        channels=read.names(fields.get("channels")),
    )


def _exempt(read: Reader, node: Node | None) -> tuple[ActionClass, ...]:
    if node is not None and node.kind == "list" and not node.items:
        return ()
    return ContactPolicy().exempt if node is None else read.choices(node, _CLASSES)


def consent(read: Reader, node: Node | None) -> ConsentPolicy:
    """Read what holds while a customer has said nothing."""
    fields = read.fields(node, ("contact", "channels", "personalise", "learn", "exempt"))
    return ConsentPolicy(
        contact=read.choice(fields.get("contact"), _DEFAULTS, "opt_out"),
        channels={name: read.choice(each, _DEFAULTS, "opt_out") for name, each in read.named(fields.get("channels"))},
        personalise=read.choice(fields.get("personalise"), _DEFAULTS, "opt_out"),
        learn=read.choice(fields.get("learn"), _DEFAULTS, "opt_out"),
        exempt=_exempt(read, fields.get("exempt")),
    )


def budget(read: Reader, name: str, node: Node) -> Budget:
    """Read one budget."""
    fields = read.fields(node, ("actions", "groups", "units", "money", "per", "starts"), required=("per",))
    money = read.money(fields.get("money"), COST) if "money" in fields else 0.0
    if "money" in fields and not money:
        read.fault(fields["money"], "range", f"must be > 0, found {fields['money'].text[:40]}")
    return Budget(
        name=name,
        actions=read.names(fields.get("actions")),
        groups=read.names(fields.get("groups")),
        units=read.whole(fields["units"], 1, least=1, most=BUDGET) if "units" in fields else 0,
        money=money,
        per_ms=read.duration(fields.get("per"), 1),
        starts_ms=read.moment(fields.get("starts")),
    )


def holdout(read: Reader, node: Node | None) -> Holdout:
    """Read the shares of customers that are kept out."""
    fields = read.fields(node, ("silent", "random"))
    silent = read.number(fields.get("silent"), 0.0, least=0.0, most=1.0)
    random = read.number(fields.get("random"), 0.0, least=0.0, most=1.0)
    if node is not None and silent + random > 1.0:
        read.fault(node, "range", f"silent and random must not exceed 1 together, found {silent + random:g}")
        return Holdout()
    return Holdout(silent=silent, random=random)


def concern(read: Reader, name: str, node: Node) -> Concern:
    """Read one concern."""
    fields = read.fields(node, ("opens", "resolves", "timeout"), required=("opens",))
    plain = Concern(name=name, opens=())
    return Concern(
        name=name,
        opens=tuple(read.event(item) for item in read.some(fields.get("opens"))),
        resolves=tuple(read.event(item) for item in read.some(fields.get("resolves"))),
        timeout_ms=read.duration(fields.get("timeout"), plain.timeout_ms),
    )
