"""Messages of the HTTP face that are not part of the data plane itself."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from nbx.decision.examples import ExampleResult
from nbx.decision.replayed import Replay
from nbx.features.schema import Value


class Candidate(Struct, frozen=True, kw_only=True):
    """Factors of one candidate of a logged decision."""

    action: str
    treatment: str
    mean: float
    sd: float
    value: float
    context_weight: float
    lever: float
    experience: float
    probability: float
    utility: float
    goal: float | None = None
    """Chance of the placement's goal; None when it has none."""


class DecisionReport(Struct, frozen=True, kw_only=True):
    """A logged decision, its arrays unpacked, and where its slots stand."""

    decision_id: str
    record: dict[str, Any]
    """As logged, fields by name; its packed arrays are in `x` and `candidates`."""
    x: dict[str, float]
    """Column → value."""
    candidates: tuple[Candidate, ...]
    slots: list[dict[str, Any]] | None
    """None: no longer open to correction."""
    goal: dict[str, Any] | None
    """Where the decision's goal stands; None: it has none, or is no longer open to correction."""
    replay: Replay


class PurposeReport(Struct, frozen=True, kw_only=True):
    """Whether a customer allows something."""

    granted: bool
    said_ms: int
    """When the customer said so, epoch milliseconds; 0: never, it is the catalog's default."""


class PromiseReport(Struct, frozen=True, kw_only=True):
    """Something the company undertook. Times: epoch milliseconds, 0: not."""

    what: str
    due_ms: int
    made_ms: int
    kept_ms: int
    broken: bool
    topic: str


class AliasPost(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another id that turned out to be the customer's."""

    alias: str


class AliasReply(Struct, frozen=True, kw_only=True):
    """Whom an alias stands for from now on."""

    customer_id: str
    """The canonical id: that of the request, unless it is an alias itself."""
    alias: str


class CustomerReport(Struct, frozen=True, kw_only=True):
    """What is known about a customer, and what happened lately."""

    customer_id: str
    state_version: int
    profile: dict[str, Value]
    features: dict[str, Value]
    """Every declared feature as a decision would see it now, context ones at their default."""
    relationship: dict[str, float]
    outcomes: dict[str, int]
    paused: dict[str, str]
    """Scope (an action, `group:`, `channel:`, `class:`, `overall`) → why and until when (epoch milliseconds)."""
    exposures: dict[str, list[int]]
    """Action → times it was seen, epoch seconds."""
    timeline: list[dict[str, Any]]
    """Newest first."""
    consent: dict[str, PurposeReport]
    """Purpose (`contact:<channel>`, `personalise`, `learn`) → what holds of it now."""
    journeys: dict[str, str]
    """Journey → step the customer is in; empty: none."""
    concerns: dict[str, bool]
    """Concern → whether it is open."""
    holdout: str
    """`silent` or `random`; empty: not held out."""
    aliases: list[str]
    """Other ids of the customer."""
    obligations: dict[str, int]
    """Topic with an open obligation → since when, epoch milliseconds."""
    promises: list[PromiseReport]
    """Kept in mind, by when they are due."""
    gives: dict[str, int]
    """Give → how often it was received."""
    asks: dict[str, int]
    """Ask → how often it was made."""


class PublishReply(Struct, frozen=True, kw_only=True):
    """A release as published."""

    release: int
    catalog: str
    author: str
    note: str
    at_ms: int
    warnings: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    """Against the release before, in words; empty: it says the same."""
    approved_by: str = ""
    rollback_of: int = 0


class CatalogCheck(Struct, frozen=True, kw_only=True):
    """Result of checking a catalog that has no fault."""

    catalog: str
    actions: int
    placements: int
    features: int
    columns: int
    warnings: tuple[str, ...] = ()
    examples: int = 0
    failing: tuple[str, ...] = ()
    """Examples that do not hold, in words: it would not be published."""


class CatalogTest(Struct, frozen=True, kw_only=True):
    """A catalog's own examples, run."""

    passed: bool
    examples: tuple[ExampleResult, ...]


class CatalogDiff(Struct, frozen=True, kw_only=True):
    """What a catalog changes."""

    against: int
    """Release; 0: none."""
    changes: tuple[str, ...]
    """In words; empty: nothing."""


class Ready(Struct, frozen=True, kw_only=True):
    """Whether decisions can be made."""

    ready: bool
    release: int = 0
    snapshot: int = 0
    reason: str = ""


class LatestSlot(Struct, frozen=True, kw_only=True):
    """One slot of a decision on the console."""

    slot: int
    action: str
    none: str
    propensity: float
    p_response: float
    outcome: str


class LatestDecision(Struct, frozen=True, kw_only=True):
    """One decision on the console."""

    decision_id: str
    at_ms: int
    customer_id: str
    placement: str
    slots: list[LatestSlot]
    degraded: tuple[str, ...]
    took_ms: float
    words: tuple[str, ...]


class OutcomeCount(Struct, frozen=True, kw_only=True):
    """How often an outcome with a cause was reached."""

    outcome: str
    cause: str
    count: int


class ActionCount(Struct, frozen=True, kw_only=True):
    """How an action does."""

    action: str
    shown: int
    accepted: int
    negative: int


class PlacementCount(Struct, frozen=True, kw_only=True):
    """How often a placement asked."""

    placement: str
    count: int


class Buckets(Struct, frozen=True, kw_only=True):
    """A cumulative histogram."""

    buckets: list[tuple[float, int]]
    """(upper bound, observations at or below it)."""
    count: int = 0
    sum_ms: float = 0.0


class Live(Struct, frozen=True, kw_only=True):
    """Everything the console shows; counters are cumulative."""

    now_ms: int
    release: int
    catalog: str
    snapshot: int
    learned: int
    decisions: dict[str, int]
    events: dict[str, int]
    latency: Buckets
    outcomes: list[OutcomeCount]
    strain: Buckets
    placements: list[PlacementCount]
    actions: list[ActionCount]
    latest: list[LatestDecision]
