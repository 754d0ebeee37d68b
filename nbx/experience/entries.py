"""Entries of the log: the source of truth. State and models are folds over them.

An entry is packed as a msgpack array with its tag first, so a log row of fifty candidates stays small. Arrays inside
are raw little-endian bytes. New fields go to the end with a default.
"""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct, field, msgpack

from nbx.catalog.model import OutcomeName
from nbx.features.schema import Value
from nbx.features.state import Handover

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
    text: str = ""
    """What the customer (or an agent) said, in free words; kept in the log, read by people."""


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
    """By cause; for `unknown` a prior, in whose place the learner puts what it has learned about the placement."""
    experience: float
    """Points for the customer."""
    experience_weight: float
    release: int
    """Release of the decision: gives the columns of x."""
    at_ms: int
    x: bytes
    """float32[d]."""
    value: float | None = None
    """Money of the acceptance as reported; None without one, or when nobody said."""
    seen_reported: bool = True
    """The channel reported the exposure (or it is implicit); False: at best the answer itself proves it."""
    previous_cause: str = ""
    """Cause told with the revision that this one replaces."""
    previous_seen_reported: bool = True
    """`seen_reported` of the revision that this one replaces."""
    learns: bool = True
    """The customer agreed to learning, when it was decided and now; False: no model may change by it."""
    pauses: dict[str, int] = field(default_factory=dict)
    """Scope → until when this outcome keeps it away from the customer, epoch milliseconds."""
    rule: str = ""
    """Which rule gave the cause, see `nbx.experience.causes`; empty for outcomes that are not negative."""
    channel: str = ""
    """Of the placement."""
    stakes: float = 0.0
    """Of the journey step at the time of the decision; the balance was charged 1 + stakes times."""
    cluster: int = -1
    """Of the customer at the time of the decision; -1: none."""
    after: str = ""
    """Action accepted last before this decision; empty: none."""
    balance: float = 0.0
    """Of the relationship at the time of the decision."""
    stale: tuple[str, ...] = ()
    """As `DecisionEntry.stale`."""
    quarantined: tuple[str, ...] = ()
    """As `DecisionEntry.quarantined`."""
    previous_evidence: tuple[str, ...] = ()
    """Evidence told with the revision that this one replaces, likewise the rule."""
    previous_rule: str = ""
    personalised: bool = True
    """As `DecisionEntry.personalised`."""


class GoalOutcome(Struct, frozen=True, kw_only=True, array_like=True):
    """Whether the customer reached a placement's goal after a decision, or its correction: what the learner reads."""

    decision_id: str
    revision: int
    """0 for the first; r replaces r − 1."""
    customer_id: str
    placement: str
    action: str
    """What the decision held; empty: silence."""
    response: int | None
    """1 reached in time, 0 not, None: the decision never got to the customer, it tells nothing."""
    release: int
    """Release of the decision: gives the columns of x."""
    at_ms: int
    x: bytes
    """float32[d]."""
    learns: bool = True
    """As `Outcome.learns`."""

    @property
    def slot(self) -> int:
        """A goal belongs to no slot; its sites are on record under a number that none has."""
        return -1


class GoalRecord(Struct, frozen=True, kw_only=True, array_like=True):
    """The goal of a decision's placement, and what it did to the choice."""

    event: str
    within_ms: int
    value: float
    """Money of reaching it."""
    none: float
    """Modelled chance that silence reaches it."""
    reached: bytes
    """float32[len(actions)], modelled chance that each candidate does."""
    action: str
    """Whose success it will be: the choice of the first arbitrated slot; empty: silence."""
    slot: int
    """That slot; -1: none was arbitrated, and no goal is waited for."""


class Continued(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An open thread that was last touched on another channel than the decision's: what an agent can pick up."""

    kind: str
    """`concern`, `obligation` or `promise`."""
    name: str
    """Of the concern, topic of the obligation, what was promised."""
    channel: str
    """Where it was last touched; empty: on none."""
    opened_at: int
    """Epoch milliseconds."""
    last_at: int
    """Epoch milliseconds."""
    last: str
    """Event that last touched it."""
    due_at: int = 0
    """Of a promise, epoch milliseconds."""


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
    """Candidates of which at most `allowance` may be shown together: what limits and budgets leave for this slate."""

    members: tuple[int, ...]
    """Indices into the candidates."""
    allowance: int
    exempt: tuple[int, ...] = ()
    """Those of the members that use the allowance up and are not held back by it."""


class Spent(Struct, frozen=True, array_like=True):
    """What a decision took from a budget."""

    resource: str
    """`<budget>/units` or `<budget>/money`."""
    lease: str
    """Lease of the worker that it was taken from."""
    amount: int
    """Units, or money in `limits.MONEY_PARTS`."""


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
    goal: GoalRecord | None = None
    """None: the placement has no goal, or nothing was chosen."""
    learns: bool = True
    """The customer agreed to learning."""
    personalised: bool = True
    """False: without the customer's consent to it, nothing personal was used."""
    spent: tuple[Spent, ...] = ()
    channel: str = ""
    """Of the placement."""
    stale: tuple[str, ...] = ()
    """Profile features the placement uses whose value was older than `max_age`, so that the default stood in."""
    quarantined: tuple[str, ...] = ()
    """Features that were not to be trusted (`nbx.bandits.quarantine`): at their default for everybody."""
    stakes: float = 0.0
    """Of the customer's journey step."""
    cluster: int = -1
    """Of the customer; -1: none."""
    segments: tuple[str, ...] = ()
    """Values of the catalog's `segments`, as text, in their order."""
    after: str = ""
    """Action accepted last before; empty: none."""
    continues: tuple[Continued, ...] = ()
    release_digest: str = ""
    """`nbx.catalog.plan.Plan.digest` of the release, so that one that is not the same any more is noticed."""
    build: str = ""
    """Fingerprint of the build that decided (`nbx.build`); empty: it did not say."""


class EventEntry(Struct, frozen=True, kw_only=True, array_like=True, tag="event"):
    """An accepted event and the outcomes it led to."""

    customer_id: str
    at_ms: int
    """When it happened, never in the future of `received_ms`."""
    release: int
    event: Event
    received_ms: int
    outcomes: tuple[Outcome, ...] = ()
    goals: tuple[GoalOutcome, ...] = ()


class TimerEntry(Struct, frozen=True, kw_only=True, array_like=True, tag="timer"):
    """A timer that ran out."""

    customer_id: str
    at_ms: int
    """When it was due: the fold does not depend on when the keeper came round."""
    release: int
    decision_id: str
    slot: int
    kind: str
    """`delivery`, `attention`, `goal` or `promise` (of no decision)."""
    outcomes: tuple[Outcome, ...] = ()
    goals: tuple[GoalOutcome, ...] = ()
    broken: tuple[str, ...] = ()
    """Promises that are past due: what was promised."""


class ProfileEntry(Struct, frozen=True, kw_only=True, array_like=True, tag="profile"):
    """Declared features that changed; None forgets the value."""

    customer_id: str
    at_ms: int
    release: int
    changes: dict[str, Value | None]
    outcomes: tuple[Outcome, ...] = ()
    """Corrections of outcomes that the changed values throw light on."""
    by: str = ""
    """`customer` or `agent`, who corrected it in the customer's own view; empty: the company's systems."""


class Taught(Struct, frozen=True, array_like=True):
    """A slot or goal whose latest outcome taught the models, and where in the log that outcome stands."""

    decision_id: str
    slot: int
    revision: int
    entry_id: str
    """Log id of the entry that holds the outcome: what the learner needs is read there, not written a second time."""


class EraseEntry(Struct, frozen=True, kw_only=True, array_like=True, tag="erase"):
    """A customer was erased: everything of the life before this entry is gone from state, and next from the models."""

    customer_id: str
    at_ms: int
    release: int
    erasure_id: str
    """Made like a decision id: the keys follow from it."""
    by: str
    """Who asked: name and id of the API key."""
    state_version: int  # of the state that was removed
    decisions: int
    """Open decisions removed."""
    timers: int
    replies: int
    """Stored replies removed."""
    taught: tuple[Taught, ...]
    """In the order in which the slots first taught something."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Other ids of the customer → their own erasure, made before this one."""


class AliasEntry(Struct, frozen=True, kw_only=True, array_like=True, tag="alias"):
    """An id is about to be merged into this customer, who has to stay canonical for it; or that came to nothing."""

    customer_id: str
    """The canonical one."""
    at_ms: int
    release: int
    alias: str
    by: str
    """Who asked: name and id of the API key."""
    withdrawn: bool = False


class MovedEntry(Struct, frozen=True, kw_only=True, array_like=True, tag="moved"):
    """A customer turned out to be another one: its state is handed over; or that one in turn to be a third."""

    customer_id: str
    """The alias."""
    at_ms: int
    release: int
    into: str


class AbsorbEntry(Struct, frozen=True, kw_only=True, array_like=True, tag="absorb"):
    """A canonical customer takes in what an alias hands over."""

    customer_id: str
    at_ms: int
    release: int
    alias: str
    handed: Handover
    holdout: str = ""
    """`silent` or `random` when a state is taken in and one of the two was held out: so are both from now on."""


class DeliveredEntry(Struct, frozen=True, kw_only=True, array_like=True, tag="delivered"):
    """What an alias handed over, up to a sequence, has been taken in."""

    customer_id: str
    """The alias."""
    at_ms: int
    release: int
    sequence: int


Merge = AliasEntry | MovedEntry | AbsorbEntry | DeliveredEntry
"""What a merge is made of."""
Entry = DecisionEntry | EventEntry | TimerEntry | ProfileEntry | EraseEntry | Merge
AnyOutcome = Outcome | GoalOutcome
"""What teaches a model: `slot` and `revision` tell them apart within a decision."""

_ENCODER = msgpack.Encoder()
_DECODER: msgpack.Decoder[Entry] = msgpack.Decoder(Entry)


def outcomes_of(entry: Entry) -> tuple[AnyOutcome, ...]:
    """Return everything an entry teaches: outcomes of slots, then of goals."""
    match entry:
        case EventEntry() | TimerEntry():
            return (*entry.outcomes, *entry.goals)
        case ProfileEntry():
            return entry.outcomes
        case _:
            return ()


def encode_entry(entry: Entry) -> bytes:
    """Pack an entry for the log."""
    return _ENCODER.encode(entry)


def decode_entry(packed: bytes) -> Entry:
    """Unpack a log entry; `msgspec.DecodeError` when it is none."""
    return _DECODER.decode(packed)
