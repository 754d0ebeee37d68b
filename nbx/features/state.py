"""What is kept per customer: one versioned struct, packed as a msgpack array.

Everything in it is a feature to somebody. Only `nbx.experience.fold` changes it. New fields go to the end with a
default, so older bytes still decode; a change of meaning raises `FORMAT`. Times are epoch milliseconds; exposures are
whole seconds, as there are many of them.
"""

from __future__ import annotations

from msgspec import DecodeError, Struct, field, msgpack

from nbx.errors import Unsupported
from nbx.features.schema import Value

FORMAT = 1
ERASED = b"\x90"
"""Struct left where a customer was erased: an empty array, which decodes to a customer never met and is no other's."""


class ProfileValue(Struct, array_like=True):
    """A declared feature's value and when it became true."""

    value: Value
    at_ms: int


class Pause(Struct, array_like=True):
    """A scope kept away from the customer, by the outcome of `source` (`<decision_id>/<slot>`)."""

    until_ms: int
    outcome: str
    source: str
    """`unanswered`: several ignored prompts together, those in `CustomerState.unanswered`."""
    shorter: list[Pause] = field(default_factory=list)
    """Other pauses of the scope, which hold should this one be withdrawn; longest first."""


class Reservation(Struct, array_like=True):
    """An exposure that may still happen; counts against limits until `until_ms` unless seen or lost before."""

    action: str
    until_ms: int
    channel: str = ""


class Unanswered(Struct, array_like=True):
    """A prompt that was ignored, and still is."""

    source: str
    """`<decision_id>/<slot>`."""
    at_ms: int


class Consent(Struct, array_like=True):
    """What the customer last said about a purpose."""

    granted: bool
    at_ms: int


class GoalWatch(Struct, array_like=True):
    """A decision waiting for the customer to reach its placement's goal; or ran out, waiting for late truth."""

    decision_id: str
    event: str
    until_ms: int
    """Last moment at which the event counts."""
    kept_until_ms: int
    """An event that arrives after that changes nothing any more."""


class Handover(Struct, array_like=True):
    """What an alias has yet to give to its canonical customer."""

    sequence: int
    """Grows from one to the next: epoch milliseconds, or one more than the last. Makes it happen once."""
    state: bytes = b""
    """The alias's state, packed, as it was merged; empty for what happened since, which is told by the other two."""
    entry: bytes = b""
    """Log entry, packed."""
    decision: bytes = b""
    """The open decision that it concerns, packed, as it was before; empty: none."""


class Promise(Struct, array_like=True):
    """Something the company undertook, by `what` in `CustomerState.promises`. Times: epoch milliseconds, 0: not."""

    due_ms: int
    made_ms: int
    topic: str = ""
    """Topic of the obligation that breaking it opens; empty: none."""
    events: tuple[str, ...] = ()
    """Behaviour events that keep it, besides `promise_kept` of this `what`."""
    kept_ms: int = 0
    broken: bool = False
    """Its time ran out, it was told or made anew after that, and nothing heard of says that it was kept in time."""
    charged: float = 0.0
    """Weighed points now in the balance for it."""
    charged_at_ms: int = 0
    source: str = ""
    """`<decision_id>/<slot>` whose acceptance made it; empty: an event."""
    told: bool = False
    """It was told that it is past due; at most once."""
    earlier: list[Promise] = field(default_factory=list)
    """Of the latest: those of the same thing before it, oldest first, `limits.TERMS` with it at most."""
    kept: list[int] = field(default_factory=list)
    """Of the latest: when it or one before it was kept, epoch milliseconds, ascending, at most `limits.DEEDS`."""


class Tally(Struct, array_like=True):
    """A sum that decays with the half-life of the balance, as of its newest addition."""

    amount: float = 0.0
    at_ms: int = 0


class Touch(Struct, array_like=True):
    """Where an open thread was last touched."""

    channel: str
    at_ms: int
    event: str


class Recent(Struct, array_like=True):
    """A decision that gave out an action, which a corrected value may throw light on and the customer may look at."""

    decision_id: str
    at_ms: int


class Control(Struct, array_like=True):
    """What the customer last said about being prompted in a scope."""

    until_ms: int
    """Nothing of it before then, `limits.STOPPED_MS`: until the customer says otherwise; 0: prompts are welcome."""
    said_ms: int


class CustomerState(Struct, array_like=True):
    """State of one customer; the defaults are a customer never met.

    Examples
    --------
    >>> decode_state(encode_state(CustomerState(balance=1.5))).balance
    1.5
    """

    format: int = FORMAT
    profile: dict[str, ProfileValue] = field(default_factory=dict)
    aggregates: dict[str, list[Value]] = field(default_factory=dict)
    """Cells of each aggregate feature; their meaning is `nbx.features.aggregates`'s."""
    exposures: dict[str, list[int]] = field(default_factory=dict)
    """Action → times it was provably seen, epoch seconds, ascending, at most `limits.CONTACTS`."""
    reserved: dict[str, Reservation] = field(default_factory=dict)
    """`<decision_id>/<slot>` → open reservation."""
    pauses: dict[str, Pause] = field(default_factory=dict)
    """Scope → its pause: an action's name, `group:<name>`, `channel:<name>`, `class:<name>` or `overall`."""
    balance: float = 0.0
    """Decayed sum of experience points as of `balance_at_ms`."""
    balance_at_ms: int = 0
    ignored_s: list[int] = field(default_factory=list)
    """Times of ignored prompts within 30 days of the latest, epoch seconds, ascending."""
    last_prompt_ms: int = 0
    """Latest proved exposure; 0: never."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """Terminal outcome → count, after corrections."""
    goals: list[GoalWatch] = field(default_factory=list)
    """Goals not reached yet, by decision, oldest first, at most `limits.GOALS`."""
    touches: dict[str, list[int]] = field(default_factory=dict)
    """Channel → times anything was provably seen on it, as `exposures`."""
    unanswered: dict[str, list[Unanswered]] = field(default_factory=dict)
    """Scope, as in `pauses` → ignored prompts that count towards its pause, by time."""
    consent: dict[str, Consent] = field(default_factory=dict)
    """Purpose → what the customer said: `contact`, `contact:<channel>`, `personalise`, `learn`."""
    journeys: dict[str, dict[str, int]] = field(default_factory=dict)
    """Journey → step → when its event last happened, epoch milliseconds."""
    concerns: dict[str, list[int]] = field(default_factory=dict)
    """Concern → when it was last opened and last resolved, epoch milliseconds, 0: never."""
    holdout: str = ""
    """`silent` or `random` when it was fixed by a merge; empty: as the hash of the id says."""
    merged_into: str = ""
    """Customer who this one turned out to be; everything said of this one is meant for that one."""
    aliases: dict[str, int] = field(default_factory=dict)
    """Ids merged into this one → sequence of the last handover taken in; below 0: being merged since −epoch ms."""
    outbox: list[Handover] = field(default_factory=list)
    """Of an alias: what its canonical customer has not taken in yet, oldest first."""
    handed_over: int = 0
    """Of an alias: sequence of its last handover."""
    obligations: dict[str, list[int]] = field(default_factory=dict)
    """Topic → when an obligation was last opened and last resolved, epoch milliseconds, 0: never."""
    promises: dict[str, Promise] = field(default_factory=dict)
    """What → the latest promise of it, at most `limits.PROMISES`."""
    given: Tally = field(default_factory=Tally)
    """Gives received by accepting."""
    asked: Tally = field(default_factory=Tally)
    """Asks made by prompts that were seen."""
    gives: dict[str, int] = field(default_factory=dict)
    """Give → how often it was received, ever."""
    asks: dict[str, int] = field(default_factory=dict)
    """Ask → how often it was made, ever."""
    touched: dict[str, Touch] = field(default_factory=dict)
    """`concern:<name>`, `obligation:<topic>`, `promise:<what>` → its latest touch."""
    corrected: dict[str, int] = field(default_factory=dict)
    """Profile feature → when its value was last changed to another one, epoch milliseconds."""
    recent: list[Recent] = field(default_factory=list)
    """Latest decisions that gave out an action, oldest first, at most `limits.RECENT`."""
    meetings: dict[str, list[int]] = field(default_factory=dict)
    """`<journey>.<step>` → when it was entered, when the customer and when the company did its part since; epoch
    milliseconds, 0: not yet."""
    last_touch: str = ""
    """Action that was accepted last."""
    last_touch_ms: int = 0
    deeds: dict[str, list[list[int]]] = field(default_factory=dict)
    """`<journey>.<step>` → when the customer and when the company did something for it since it was entered, epoch
    milliseconds, ascending, the latest `limits.DEEDS` of each."""
    controls: dict[str, Control] = field(default_factory=dict)
    """Scope, as in `pauses` but for classes → what the customer last said of it; kept when it has run out."""


_DECODER = msgpack.Decoder(CustomerState)
_ENCODER = msgpack.Encoder()


def encode_state(state: CustomerState) -> bytes:
    """Pack a state; equal states give equal bytes when their dicts were filled in the same order."""
    return _ENCODER.encode(state)


def decode_state(packed: bytes | None) -> CustomerState:
    """Unpack a state; None is a customer never met.

    Raises
    ------
    Unsupported
        The bytes are of another format than this build's.
    """
    if packed is None:
        return CustomerState()
    try:
        state = _DECODER.decode(packed)
    except DecodeError as error:
        raise Unsupported(f"customer state cannot be read: {error}", code="state_format") from error
    if state.format != FORMAT:
        raise Unsupported(f"customer state has format {state.format}; this build reads {FORMAT}", code="state_format")
    return state
