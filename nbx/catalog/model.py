"""The catalog as data: what a release says, after parsing and checking. Durations are milliseconds, money is one
currency.

Everything is frozen: a published release is one immutable value, and its JSON (`msgspec.json.encode`) is what is
stored.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from nbx.features.schema import Feature, Value

ActionClass = Literal["mandatory", "service", "recovery", "promotional"]
ConsentDefault = Literal["opt_in", "opt_out"]
"""What holds of a customer who said nothing: `opt_in` needs a yes, `opt_out` holds until a no."""
Layer = Literal["eligible", "applicable", "suitable"]
LAYERS: tuple[Layer, ...] = ("eligible", "applicable", "suitable")
"""May we, does it make sense now, is it good for the customer: in the order in which they are asked."""
Impressions = Literal["reported", "implicit"]
OutcomeName = Literal[
    "accepted", "declined", "dismissed", "ignored", "converted", "failed", "complained", "not_seen", "not_delivered"
]

REASONS = (
    "excluded",
    "holdout",
    "not_started",
    "ended",
    "no_consent",
    "needs_personalise",
    "quarantined",
    "not_eligible",
    "not_applicable",
    "not_suitable",
    "condition_error",
    "experience_floor",
    "obligation_open",
    "asks_too_much",
    "quiet_hours",
    "paused",
    "too_soon",
    "limit_reached",
    "budget_spent",
)
"""Why an action is no candidate, in the order in which it is asked."""


class Limit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most `max` proved exposures (plus open reservations) per rolling window, per customer, of what declares it."""

    max: int
    per_ms: int


class Pause(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long something stays away from a customer after an outcome, in milliseconds; 0: no pause."""

    declined_ms: int = 0
    dismissed_ms: int = 0
    ignored_ms: int = 0
    ignored_count: int = 1
    """So many ignored prompts within `ignored_within_ms` call for the pause."""
    ignored_within_ms: int = 0
    """0 only where `ignored_count` is 1."""


class ContextWeight(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Multiplies the worth of an acceptance while a condition holds."""

    when: str
    """CEL condition."""
    weight: float
    """> 0."""


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Engagement policy in three layers, CEL conditions (empty: everyone), and when it is on offer at all."""

    eligible: str = ""
    """May we?"""
    applicable: str = ""
    """Does it make sense now?"""
    suitable: str = ""
    """Is it good for the customer?"""
    starts_ms: int = 0
    """Not before, epoch milliseconds; 0: always."""
    ends_ms: int = 0
    """Not from then on; 0: never ends."""


class PromisePolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the company undertakes when the customer accepts."""

    what: str
    """Kept by a behaviour event `promise_kept` with this as property `what`."""
    within_ms: int
    """After the acceptance."""


class Treatment(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rendering of an action for some placements. Of several for one placement the first whose policy holds."""

    name: str
    placements: tuple[str, ...]
    content: dict[str, Any] = field(default_factory=dict)
    """What the channel renders; passed through untouched."""
    promise: PromisePolicy | None = None


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
    latency_ms: int = 0
    """Delivered later than this after the decision is evidence of poor execution; 0: no such bound."""


class Group(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Actions that share evidence and policy."""

    name: str
    topic: str = ""
    limits: tuple[Limit, ...] = ()
    """Of all its actions together."""
    pause: Pause | None = None
    """Of each action that has none of its own: it pauses that action."""
    pause_group: Pause | None = None
    """An outcome of any of its actions pauses them all."""
    per_slate: int = 0
    """Most actions of the group in one slate; 0: no bound."""
    lever: float = 1.0
    """Multiplies the actions' own."""
    context_weights: tuple[ContextWeight, ...] = ()
    """Apply to each action, besides its own."""


class Action(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing the company may do."""

    name: str
    group: str
    action_class: ActionClass = field(name="class", default="promotional")
    topic: str = ""
    """Topic of obligations and concerns; the group's when empty, and where that is empty too the group's name."""
    resolves: tuple[str, ...] = ()
    """Topics whose obligation an acceptance of this action makes good."""
    value: float = 0.0
    """Worth of an acceptance for the company, money, ≥ 0; when it is learned, what is expected before any report."""
    value_strength: float = 0.0
    """Reported acceptances that `value` counts for when the worth is learned; 0: it is not, `value` holds."""
    customer_value: float = 0.0
    """Worth of an acceptance for the customer, money."""
    gives: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    pause: Pause | None = None
    """The group's when None."""
    not_with: tuple[str, ...] = ()
    """Actions that never stand beside it in a slate; holds both ways."""
    cost: float = 0.0
    """Money that giving it out takes from budgets, ≥ 0."""
    lever: float = 1.0
    """The business's say: multiplies the worth of an acceptance, ≥ 0."""
    context_weights: tuple[ContextWeight, ...] = ()
    """Those that hold are multiplied."""
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
    sentiment: float = 1.0
    """Points for a sentiment of 1, said with any event of the customer; ≥ 0."""
    effort: float = 0.5
    """Points for an effort of 1, the least, and as many taken for 7, the most; 4 is neutral; ≥ 0."""
    promise_kept: float = 1.0
    """Points for a promise kept in time; ≥ 0."""
    promise_broken: float = -3.0
    """Points for a promise not kept by its due time; ≤ 0."""
    obligation_ms: int = 30 * 86_400_000
    """An obligation counts as closed so long after it was last opened."""
    recovery_boost: float = 3.0
    """Multiplies the worth of recovery actions while an obligation is open; ≥ 1."""
    asks_per_give: float = 0.0
    """Most asks per give, over what was asked and given lately (decayed as the balance is); 0: no bound."""


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


class ContactRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a customer may be prompted within a scope: a channel, a class, or overall."""

    limits: tuple[Limit, ...] = ()
    gap_ms: int = 0
    """Least time between two prompts; those of one slate are one prompt. 0: none."""
    pause: Pause | None = None
    """An outcome within the scope pauses all of the scope."""


class QuietHours(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hours of the customer's own clock in which nobody is prompted."""

    from_minute: int
    """Minute of the day at which they begin, 0 to 1439."""
    to_minute: int
    """Minute at which they are over; of the next day unless later than `from_minute`."""
    days: tuple[int, ...] = ()
    """Days on which they begin, 0: Monday; empty: every day."""
    channels: tuple[str, ...] = ()
    """Empty: all."""


class ContactPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Contact policy beyond single actions and groups."""

    overall: ContactRule = ContactRule()
    channels: dict[str, ContactRule] = field(default_factory=dict)
    classes: dict[ActionClass, ContactRule] = field(default_factory=dict)
    quiet_hours: tuple[QuietHours, ...] = ()
    exempt: tuple[ActionClass, ...] = ("mandatory",)
    """Classes that none of this holds back; their exposures count all the same."""
    exclusive: tuple[tuple[str, ...], ...] = ()
    """Sets of actions of which one slate holds at most one."""


class ConsentPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds while a customer has said neither yes nor no, per purpose."""

    contact: ConsentDefault = "opt_out"
    """On channels not named in `channels`."""
    channels: dict[str, ConsentDefault] = field(default_factory=dict)
    personalise: ConsentDefault = "opt_out"
    learn: ConsentDefault = "opt_out"
    exempt: tuple[ActionClass, ...] = ("mandatory",)
    """Classes that need no consent to contact."""


class Budget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What actions may cost together per window, over all customers. Spent when an action is given out."""

    name: str
    actions: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    """All of their actions, besides `actions`."""
    units: int = 0
    """How often they may be given out; 0: no bound."""
    money: float = 0.0
    """Sum of their `cost`; 0: no bound."""
    per_ms: int
    """Length of a window; windows follow each other without gap."""
    starts_ms: int = 0
    """When a window began, epoch milliseconds; 0: the first Monday of 1970, midnight UTC."""


class Holdout(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shares of customers kept out of nbx's choice, to measure what it is worth."""

    silent: float = 0.0
    """0..1: gets nothing but mandatory actions."""
    random: float = 0.0
    """0..1: gets what chance picks among what is allowed."""


class JourneyStep(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step of a journey and how customers come to it."""

    name: str
    event: str
    """Behaviour event that enters it."""
    after: tuple[str, ...] = ()
    """Steps from one of which it is entered; empty: from anywhere, also from outside the journey."""
    does: tuple[str, ...] = ()
    """Behaviour events, any of which is the customer's side of the step; empty: nothing is expected."""
    does_within_ms: int = 0
    """After the step was entered; 0: whenever."""
    owes: tuple[str, ...] = ()
    """Behaviour events, any of which is the company's side; entering the step promises it. Empty: nothing is owed."""
    owes_within_ms: int = 0
    """After the step was entered; > 0 where something is owed."""
    stakes: float = 0.0
    """0..1: exploration is scaled by 1 − stakes while the customer is here, experience weighs 1 + stakes times."""


class Journey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Steps that customers go through; `journey.<name>` is the step they are in, empty: none."""

    name: str
    steps: tuple[JourneyStep, ...]


class Clusters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Customers told apart online by some of their features; the cluster is a feature, `relationship.cluster`."""

    features: tuple[str, ...]
    """Encoded features: their columns of x are what is clustered."""
    count: int = 4
    """Number of clusters, ≥ 2."""
    track_weight: float = 1.0
    """Multiplies the worth of an action that is the next touch on the cluster's track; 1: it changes nothing."""


class Concern(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A topic that keeps a customer busy; `concern.<name>` tells whether it is open."""

    name: str
    opens: tuple[str, ...]
    """Behaviour events that open it."""
    resolves: tuple[str, ...] = ()
    """Behaviour events that close it."""
    timeout_ms: int = 30 * 86_400_000
    """It counts as closed so long after it was last opened."""


class Given(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A customer and a request, as an example tells them; what is not told has its default."""

    placement: str
    slots: int = 1
    customer: dict[str, Value] = field(default_factory=dict)
    """Feature → value."""
    request: dict[str, Value] = field(default_factory=dict)
    """Context feature → value."""
    relationship: dict[str, float] = field(default_factory=dict)
    journey: dict[str, str] = field(default_factory=dict)
    """Journey → step."""
    concern: dict[str, bool] = field(default_factory=dict)
    seen: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Action → how many milliseconds ago it was seen, on the placement's channel."""
    paused: tuple[str, ...] = ()
    """Actions that are paused."""
    consent: dict[str, bool] = field(default_factory=dict)
    """`contact`, `contact:<channel>`, `personalise`, `learn` → what the customer said."""
    obligations: tuple[str, ...] = ()
    """Topics with an open obligation."""
    spent: tuple[str, ...] = ()
    """Budgets of which nothing is left."""
    holdout: Literal["", "silent", "random"] = ""
    at_ms: int = 1_767_225_600_000 + 12 * 3_600_000
    """When; noon of the first day of 2026, UTC, unless told."""


class Expect(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an example demands."""

    allowed: tuple[str, ...] = ()
    """Actions that must be candidates."""
    blocked: dict[str, str] = field(default_factory=dict)
    """Action → reason code that must have removed it; empty: any."""
    ranked: tuple[tuple[str, ...], ...] = ()
    """Actions in falling order of expected utility, before anything is learned."""
    silent: bool = False
    """Nothing may be allowed."""


class Example(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A test of the catalog, in it: publishing refuses while one fails."""

    name: str
    given: Given
    expect: Expect


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
    contact: ContactPolicy = ContactPolicy()
    consent: ConsentPolicy = ConsentPolicy()
    budgets: tuple[Budget, ...] = ()
    holdout: Holdout = Holdout()
    journeys: tuple[Journey, ...] = ()
    concerns: tuple[Concern, ...] = ()
    clusters: Clusters | None = None
    segments: tuple[str, ...] = ()
    """Features by whose values reports split customers, and compare how they are treated; they need not be encoded."""
    examples: tuple[Example, ...] = ()
    time_zone: str = "UTC"
    """IANA name; of dates and times in the catalog, and of customers whose own is not known."""
    time_zone_feature: str = ""
    """Profile feature that holds the customer's own IANA time zone; empty: `time_zone` is everybody's."""
    attribution_ms: int = 7 * 86_400_000
    """How long after a decision its events still count."""
    correction_ms: int = 7 * 86_400_000
    """How long after that a late truth may still replace an outcome."""
