"""Messages of the HTTP face that come with decisions and events; light to import, as `nbx.client` needs them."""

from __future__ import annotations

from msgspec import Struct, field

from nbx.decision.messages import DecideReply, DecideRequest
from nbx.experience.entries import Event
from nbx.experience.results import EventResult
from nbx.features.schema import Value


class Fault(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of several faults, with its place."""

    code: str
    detail: str
    field: str = ""
    line: int = 0
    column: int = 0


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str = ""
    faults: tuple[Fault, ...] = ()


class BatchItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One result of a batch: a reply or a problem."""

    reply: DecideReply | None = None
    problem: Problem | None = None


class InteractionRequest(Struct, frozen=True, kw_only=True):
    """Events, then one decision that sees them."""

    events: list[Event] = field(default_factory=list)
    decision: DecideRequest


class InteractionReply(Struct, frozen=True, kw_only=True):
    """Results of both."""

    events: list[EventResult]
    decision: DecideReply


class ProfilePatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Declared features to set, or with null to forget."""

    profile: dict[str, Value | None]
