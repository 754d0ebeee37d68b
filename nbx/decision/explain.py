"""Why this, and why not that: read from a decision's record, without touching anything."""

from __future__ import annotations

from msgspec import Struct

from nbx.bandits import kernels
from nbx.decision.goals import unpack_goal
from nbx.decision.record import unpack_factors
from nbx.decision.slate import HELD_OUT, NO_CANDIDATE, NONE_CHOSEN, RANDOM
from nbx.experience.entries import DecisionEntry, GoalRecord, Removed

_SILENCE = {
    NONE_CHOSEN: "silence was drawn over every candidate left",
    NO_CANDIDATE: "no action was allowed, or none was left",
    HELD_OUT: "the customer is held out, and gets mandatory actions only",
}


class CandidateView(Struct, frozen=True, kw_only=True):
    """One candidate and its factors; money and points as in docs/design.md section 4."""

    action: str
    treatment: str
    p_response: float
    sd: float
    """Of the log-odds: how unsure the model is."""
    value: float
    context_weight: float
    lever: float
    experience: float
    goal: float | None
    """Chance of the placement's goal; None when it has none."""
    utility: float
    probability: float
    """Chance to be drawn into the first arbitrated slot."""


class GoalView(Struct, frozen=True, kw_only=True):
    """The goal of the placement, which silence may reach too."""

    event: str
    value: float
    """Money."""
    none: float
    """Chance that silence reaches it."""


class Explanation(Struct, frozen=True, kw_only=True):
    """The record in words and numbers; `candidates` only in full."""

    words: tuple[str, ...]
    removed: tuple[Removed, ...]
    candidates: tuple[CandidateView, ...] = ()
    none_probability: float = 0.0
    relationship: dict[str, float] = {}
    exchange: float = 0.0
    goal: GoalView | None = None


def explain(entry: DecisionEntry, *, full: bool) -> Explanation:
    """Explain a decision from its record alone."""
    views, goal = _views(entry), entry.goal
    return Explanation(
        words=tuple(_words(entry, views)),
        removed=entry.removed,
        candidates=views if full else (),
        none_probability=entry.none_probability,
        relationship=entry.relationship,
        exchange=entry.policy.exchange,
        goal=None if goal is None else GoalView(event=goal.event, value=goal.value, none=goal.none),
    )


def _views(entry: DecisionEntry) -> tuple[CandidateView, ...]:
    factors, table = unpack_factors(entry)
    goal = unpack_goal(entry)
    p_response = kernels.response_probability(factors.mean, factors.sd)
    return tuple(
        CandidateView(
            action=action,
            treatment=entry.treatments[i],
            p_response=float(p_response[i]),
            sd=float(factors.sd[i]),
            value=float(factors.value[i]),
            context_weight=float(factors.context_weight[i]),
            lever=float(factors.lever[i]),
            experience=float(factors.experience[i]),
            goal=None if goal is None else float(goal.reached[i]),
            utility=float(table[i, -1]),
            probability=float(table[i, -2]),
        )
        for i, action in enumerate(entry.actions)
    )


def _goal_words(reached: float, goal: GoalRecord) -> str:
    return f", {goal.event} {reached:.1%} against {goal.none:.1%} in silence × value {goal.value:g}"


def _words(entry: DecisionEntry, views: tuple[CandidateView, ...]) -> list[str]:
    by_action = {view.action: view for view in views}
    best = max(views, key=lambda view: view.utility, default=None)
    words = []
    for number, slot in enumerate(entry.slots):
        if slot.action in entry.mandatory:
            words.append(f"slot {number}: {slot.action}, mandatory")
        elif slot.action and slot.action in by_action:
            view = by_action[slot.action]
            top = best is not None and view.action == best.action
            tried = "explored" if entry.policy.scale or entry.policy.floor else "most likely the best"
            highest = best.action if best else ""
            how = "highest expected utility" if top else f"{tried}; the highest expected was {highest}"
            if entry.holdout == RANDOM:
                how = "picked by chance, as the customer is held out"
            goal = "" if view.goal is None or entry.goal is None else _goal_words(view.goal, entry.goal)
            words.append(
                f"slot {number}: {slot.action}, expected utility {view.utility:.2f} "
                f"(acceptance {view.p_response:.1%} × value {view.value:g}, experience {view.experience:+.2f} points"
                f"{goal}), chosen with chance {slot.propensity:.1%}: {how}"
            )
        else:
            why = _SILENCE.get(slot.none, slot.none)
            words.append(f"slot {number}: none, chance {slot.propensity:.1%}: {why}")
    words += [f"not {r.action}: {r.reason}{f' ({r.detail})' if r.detail else ''}" for r in entry.removed]
    return words
