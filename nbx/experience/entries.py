"""Entries of the log: the source of truth. State and models are folds over them.

An entry is packed as a msgpack array with its tag first, so a log row of fifty candidates stays small. Arrays inside
are raw little-endian bytes. New fields go to the end with a default.
"""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct, field, msgpack

from nbx.catalog.model import OutcomeName
from nbx.features.schema import Value

FACTORS = ("mean", "sd", "value", "context_weight", "lever", "experience", "probability", "utility")
"""Columns of `DecisionEntry.factors`: posterior mean and sd of the response's log-odds, money, weight, weight, expected
points, chance to be drawn into the first arbitrated slot, expected utility in money."""


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened, as a caller reports it."""

    event_id: str
    """Unique per event; a second one with the same id changes nothing."""
    type: str
    """An outcome event of a slot (`nbx.experience.lifecycle.SLOT_EVENTS`) or a behaviour event of the catalog."""
    decision_id: str = ""
    slot: int = 0
    customer_id: str = ""
    """May be left out when `decision_id` is there."""
    by: str = "customer"
    """`customer`, or `agent`: who acted. What an agent does never counts as the customer's answer."""
    cause: str = ""
    reason: str = ""
    value: float | None = None
    sentiment: float | None = None
    """-1..1."""
    effort: float | None = None
    """1..7."""
    properties: dict[str, Value] = field(default_factory=dict)
    at: int | datetime | None = None
    """When it happened: epoch milliseconds or RFC 3339 with a zone; None: now."""


class Outcome(Struct, frozen=True, kw_only=True, array_like=True):
    """A terminal outcome of a slot, or its correction: what the learner reads."""

    decision_id: str
    slot: int
    revision: int
    """0 for the first; r replaces r − 1."""
    customer_id: str
    action: str
    group: str
    treatment: str
    placement: str
    outcome: OutcomeName
    previous: OutcomeName | None
    """Outcome of the revision that this one replaces."""
    cause: str
    """Empty for outcomes that are not negative."""
    confidence: float
    evidence: tuple[str, ...]
    response: int | None
    """1 accepted, 0 not, None: tells nothing about the response."""
    response_weight: float
    experience: float
    """Points for the customer."""
    experience_weight: float
    release: int
    """Release of the decision: gives the columns of x."""
    at_ms: int
    x: bytes
    """float32[d]."""


class RequestRecord(Struct, frozen=True, kw_only=True, array_like=True):
    """What was asked."""

    placement: str
    slots: int
    context: dict[str, Value]
    exclude: tuple[str, ...]
    request_id: str


class Removed(Struct, frozen=True, array_like=True):
    """An action that was not a candidate."""

    action: str
    reason: str
    """Stable code, see `nbx.decision.eligibility`."""
    detail: str


class PolicyRecord(Struct, frozen=True, kw_only=True, array_like=True):
    """Scalars that entered the choice."""

    exchange: float
    strain: float
    scale: float
    floor: float
    salt: str


class SharedLimit(Struct, frozen=True, array_like=True):
    """Candidates of which at most `allowance` may be shown together: what a group's limits leave for this slate."""

    members: tuple[int, ...]
    """Indices into the candidates."""
    allowance: int


class SlotRecord(Struct, frozen=True, kw_only=True, array_like=True):
    """What one slot holds; `action` is empty for none."""

    action: str
    treatment: str
    group: str
    p_response: float
    propensity: float
    none: str
    """Why silence; empty with an action."""
    implicit: bool
    """Deciding is showing."""
    delivery_ms: int
    attention_ms: int
    expires_at_ms: int


class DecisionEntry(Struct, frozen=True, kw_only=True, array_like=True, tag="decision"):
    """A complete decision: enough to recompute it, and to say why."""

    customer_id: str
    at_ms: int
    release: int
    decision_id: str
    snapshot: int
    state_version: int
    """Version of the state it was made on."""
    request: RequestRecord
    policy: PolicyRecord
    x: bytes
    """float32[d]."""
    relationship: dict[str, float]
    removed: tuple[Removed, ...]
    actions: tuple[str, ...]
    """Candidates, in catalog order."""
    treatments: tuple[str, ...]
    factors: bytes
    """float32[len(actions), len(FACTORS)]."""
    none_probability: float
    """Chance of none in the first arbitrated slot."""
    mandatory: tuple[str, ...]
    """Actions placed before arbitration."""
    shared: tuple[SharedLimit, ...]
    slots: tuple[SlotRecord, ...]
    holdout: str
    degraded: tuple[str, ...]
    took_us: int
    """Microseconds from the request until this record was made."""


class EventEntry(Struct, frozen=True, kw_only=True, array_like=True, tag="event"):
    """An accepted event and the outcomes it led to."""

    customer_id: str
    at_ms: int
    """When it happened, never in the future of `received_ms`."""
    release: int
    event: Event
    received_ms: int
    outcomes: tuple[Outcome, ...] = ()


class TimerEntry(Struct, frozen=True, kw_only=True, array_like=True, tag="timer"):
    """A timer that ran out."""

    customer_id: str
    at_ms: int
    """When it was due: the fold does not depend on when the keeper came round."""
    release: int
    decision_id: str
    slot: int
    kind: str
    """`delivery` or `attention`."""
    outcomes: tuple[Outcome, ...] = ()


class ProfileEntry(Struct, frozen=True, kw_only=True, array_like=True, tag="profile"):
    """Declared features that changed; None forgets the value."""

    customer_id: str
    at_ms: int
    release: int
    changes: dict[str, Value | None]


Entry = DecisionEntry | EventEntry | TimerEntry | ProfileEntry

_ENCODER = msgpack.Encoder()
_DECODER: msgpack.Decoder[Entry] = msgpack.Decoder(Entry)


def encode_entry(entry: Entry) -> bytes:
    """Pack an entry for the log."""
    return _ENCODER.encode(entry)


def decode_entry(packed: bytes) -> Entry:
    """Unpack a log entry; `msgspec.DecodeError` when it is none."""
    return _DECODER.decode(packed)
