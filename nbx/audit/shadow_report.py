"""What a shadow run tells: who gets what before and after, why not, and what it would earn.

Expected numbers are chances, so they move by the draft alone; drawn numbers are what the same luck would have given.
Rows are told only where something changes: a draft that says what the release in force says has none.
"""

from __future__ import annotations

from msgspec import Struct

from nbx.bandits import ope

PART_ROWS = 10
"""Actions told per placement and segment: those that change most."""
LIMITS = (
    "customers are as they were: what they would have become under the draft is not seen",
    "pauses and points are those of the time, also where the draft says otherwise",
    "a budget is spent where the record says so, whatever the draft leaves in it",
    "the model is the one served now; it has learned from these decisions too",
    "only the first drawn slot is judged, and none of customers held out or who do not want to be learned from",
)


class Shift(Struct, frozen=True, kw_only=True):
    """How often something is shown, before and after; an empty name is silence."""

    name: str
    before: float
    """Per decision, expected: mandatory ones for certain, then the chances in the first drawn slot."""
    after: float
    drawn_before: int
    """Slots that hold it, with the luck of the log."""
    drawn_after: int


class Part(Struct, frozen=True, kw_only=True):
    """Some of the decisions."""

    by: str
    """`placement`, or a feature; empty: all."""
    value: str
    decisions: int
    changed: int
    """Decisions whose first slot holds something else."""
    nothing_before: int
    """Decisions for which no action is allowed."""
    nothing_after: int
    customers: int
    customers_nothing_before: int
    """Customers for whom none is in any of these decisions."""
    customers_nothing_after: int
    actions: tuple[Shift, ...]
    """What changes; of placements and segments the `PART_ROWS` largest."""


class ReasonShift(Struct, frozen=True, kw_only=True):
    """How often a reason removes an action: decisions before and after."""

    action: str
    reason: str
    before: int
    after: int


class LeftOut(Struct, frozen=True, kw_only=True):
    """Decisions that were not replayed."""

    why: str
    """`log_incomplete`, `state_differs`, `placement` or `erased`."""
    decisions: int
    examples: tuple[str, ...]
    """Some of their ids."""


class Earned(Struct, frozen=True, kw_only=True):
    """One reward per decision; money as the draft prices it."""

    reward: str
    """One of `nbx.audit.judging.REWARDS`."""
    model_before: float
    """What the model expects, over all replayed decisions."""
    model_after: float
    logged: ope.Estimate
    before: tuple[ope.Estimate, ...]
    """`ips`, `snips`, `dr`, `sndr` of the release in force; differences are to the log."""
    after: tuple[ope.Estimate, ...]
    """Of the draft."""
    difference: tuple[ope.Estimate, ...]
    """Draft minus release in force, `ips` and `dr`, from the same rows."""
    support: ope.Support
    """Of the draft."""


class ShadowReport(Struct, frozen=True, kw_only=True):
    """What `nbx catalog shadow` tells."""

    release: int = 0
    """In force: what the draft is compared with."""
    snapshot: int = 0
    """Model with which both decided."""
    asked: int = 0
    """Decisions asked for."""
    placement: str = ""
    """Empty: all."""
    since_ms: int
    until_ms: int
    """Of the first and the last decision replayed."""
    left_out: tuple[LeftOut, ...]
    whole: Part
    groups: tuple[Shift, ...]
    placements: tuple[Part, ...]
    segments: tuple[Part, ...]
    """Those in which something changes."""
    reasons: tuple[ReasonShift, ...]
    judged: int
    """Decisions that estimates rest on."""
    not_judged: dict[str, int]
    """Replayed decisions that they do not, by why: see `nbx.audit.judging.Why`."""
    unsupported: float
    """Share of the draft's choices that the log could not have drawn."""
    reliable: bool
    rewards: tuple[Earned, ...]
    """Empty when no decision is judged."""
    limits: tuple[str, ...] = LIMITS
