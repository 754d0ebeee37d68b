"""The catalog as data: what a release says, after parsing and checking. Durations are milliseconds, money is one
currency.

Everything is frozen: a published release is one immutable value, and its JSON (`msgspec.json.encode`) is what is
stored.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from nbx.features.schema import Feature

ActionClass = Literal["mandatory", "service", "recovery", "promotional"]
Impressions = Literal["reported", "implicit"]
OutcomeName = Literal[
    "accepted", "declined", "dismissed", "ignored", "converted", "failed", "complained", "not_seen", "not_delivered"
]


class Limit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most `max` proved exposures (plus open reservations) per rolling window, per customer and action."""

    max: int
    per_ms: int


class Pause(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long an action stays away from a customer after an outcome, in milliseconds; 0: no pause."""

    declined_ms: int = 0
    dismissed_ms: int = 0
    ignored_ms: int = 0


class Treatment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rendering of an action for some placements."""

    name: str
    placements: tuple[str, ...]
    content: dict[str, Any] = field(default_factory=dict)
    """What the channel renders; passed through untouched."""


class DefaultChoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a placement shows when nothing can be decided."""

    action: str
    treatment: str


class Goal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a customer may do after a decision, whatever it held: silence has an outcome too."""

    event: str
    """Type of a behaviour event."""
    within_ms: int
    """After the decision."""
    value: float
    """Worth of reaching it for the company, money, > 0."""


class Placement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A spot that asks for actions."""

    name: str
    channel: str
    impressions: Impressions
    """`reported`: the channel sends delivered/seen. `implicit`: deciding is showing, as on an agent's desktop."""
    slots: int = 1
    """Most slots a request may ask for."""
    delivery_ms: int = 60_000
    """Without `delivered` or `seen` by then: not_delivered."""
    attention_ms: int = 1_800_000
    """Seen and unanswered by then: ignored."""
    default: DefaultChoice | None = None
    stakes: float = 0.0
    """0..1: exploration is scaled by 1 − stakes; at 1 nothing is tried out here."""
    goal: Goal | None = None


class Group(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Actions that share evidence and policy."""

    name: str
    topic: str = ""
    limits: tuple[Limit, ...] = ()
    pause: Pause | None = None


class Action(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing the company may do."""

    name: str
    group: str
    action_class: ActionClass = field(name="class", default="promotional")
    topic: str = ""
    """Topic of obligations and concerns; the group's when empty."""
    value: float = 0.0
    """Worth of an acceptance for the company, money, ≥ 0; when it is learned, what is expected before any report."""
    value_strength: float = 0.0
    """Reported acceptances that `value` counts for when the worth is learned; 0: it is not, `value` holds."""
    customer_value: float = 0.0
    """Worth of an acceptance for the customer, money."""
    gives: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    eligible: str = ""
    """CEL condition; empty: everyone."""
    limits: tuple[Limit, ...] = ()
    pause: Pause | None = None
    """The group's when None."""
    attention_ms: int = 0
    """Overrides the placement's when > 0."""
    treatments: tuple[Treatment, ...] = ()
    owner: str = ""


class ExperiencePolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How outcomes are charged to the relationship."""

    half_life_ms: int = 30 * 86_400_000
    loss_aversion: float = 2.0
    """Negative points weigh this many times."""
    exchange: float = 1.0
    """Money per experience point (μ)."""
    floor: float = -20.0
    """Below this balance only service and recovery actions may be shown."""
    points: dict[OutcomeName, float] = field(default_factory=dict)
    """Points per outcome for the customer; those not named keep `DEFAULT_POINTS`."""


DEFAULT_POINTS: dict[OutcomeName, float] = {
    "accepted": 1.0,
    "converted": 2.0,
    "declined": -0.3,
    "dismissed": -0.5,
    "ignored": -0.5,
    "failed": -2.0,
    "complained": -5.0,
    "not_seen": 0.0,
    "not_delivered": 0.0,
}


class Exploration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is tried out."""

    floor: float = 0.01
    """Share of every choice spread evenly over candidates and none, for safe off-policy use."""
    scale: float = 1.0
    """Multiplies the exploration that the learner calibrates, itself a multiple of posterior standard deviations."""


class Catalog(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One catalog: everything a release says."""

    name: str
    features: tuple[Feature, ...] = ()
    placements: tuple[Placement, ...] = ()
    groups: tuple[Group, ...] = ()
    actions: tuple[Action, ...] = ()
    experience: ExperiencePolicy = ExperiencePolicy()
    exploration: Exploration = Exploration()
    attribution_ms: int = 7 * 86_400_000
    """How long after a decision its events still count."""
    correction_ms: int = 7 * 86_400_000
    """How long after that a late truth may still replace an outcome."""
