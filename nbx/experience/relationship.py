"""The relationship: a decayed balance of experience points per customer, and the features read from it.

balance(t) = Σ points · 2^(−(t − t_i) / half_life), negative points weighed by loss aversion. The sum is kept as of its
newest event, so folding is O(1), late events enter at their own age, and the order of events does not matter.
"""

from __future__ import annotations

import math

from nbx.catalog.model import ExperiencePolicy
from nbx.experience.giveget import amount_at
from nbx.experience.obligations import open_topics
from nbx.features.state import CustomerState

IGNORED_WINDOW_S = 30 * 86_400
NEVER_MINUTES = 10_080.0
"""`minutes_since_prompt` of a customer never prompted: a week, after which it hardly matters."""


def weighed(points: float, policy: ExperiencePolicy) -> float:
    """Points with loss aversion applied.

    Examples
    --------
    >>> weighed(1.0, ExperiencePolicy()), weighed(-1.0, ExperiencePolicy(loss_aversion=2.0))
    (1.0, -2.0)
    """
    return points if points >= 0 else points * policy.loss_aversion


def balance_at(state: CustomerState, now_ms: int, policy: ExperiencePolicy) -> float:
    """Balance decayed to `now_ms`; a moment before the newest event counts as that event's."""
    age_ms = max(now_ms - state.balance_at_ms, 0)
    return float(state.balance * 2.0 ** (-age_ms / policy.half_life_ms))


def charge(state: CustomerState, points: float, at_ms: int, policy: ExperiencePolicy) -> None:
    """Add weighed points of time `at_ms` to the balance of `state`, in place."""
    if at_ms >= state.balance_at_ms:
        state.balance = balance_at(state, at_ms, policy) + points
        state.balance_at_ms = at_ms
    else:
        state.balance += points * 2.0 ** ((at_ms - state.balance_at_ms) / policy.half_life_ms)


def mood_points(sentiment: float | None, effort: float | None, policy: ExperiencePolicy) -> float:
    """Points, not weighed, for what a customer says of an encounter: sentiment −1..1, effort 1 (least) to 7.

    Examples
    --------
    >>> mood_points(-1.0, 7.0, ExperiencePolicy(sentiment=1.0, effort=0.5)), mood_points(None, 4.0, ExperiencePolicy())
    (-1.5, 0.0)
    """
    points = 0.0 if sentiment is None else policy.sentiment * sentiment
    return points if effort is None else points + policy.effort * (4.0 - effort) / 3.0


def strain(balance: float) -> float:
    """Logistic of −balance, in [0, 1].

    Examples
    --------
    >>> strain(0.0), round(strain(-5.0), 3)
    (0.5, 0.993)
    """
    return 1.0 / (1.0 + math.exp(min(max(balance, -500.0), 500.0)))


def relationship_features(state: CustomerState, now_ms: int, policy: ExperiencePolicy) -> dict[str, float]:
    """What conditions read of the relationship now; `nbx.features.vector.RELATIONSHIP` are columns of x too."""
    balance = balance_at(state, now_ms, policy)
    since_s = now_ms // 1000 - IGNORED_WINDOW_S
    minutes = (now_ms - state.last_prompt_ms) / 60_000 if state.last_prompt_ms else NEVER_MINUTES
    ignored_s, promises = state.ignored_s, state.promises  # mostly there are none: not a generator for nothing
    return {
        "balance": balance,
        "strain": strain(balance),
        "ignored_30d": float(sum(1 for at_s in ignored_s if at_s > since_s)) if ignored_s else 0.0,
        "minutes_since_prompt": min(max(minutes, 0.0), NEVER_MINUTES),
        "asked": max(amount_at(state.asked, now_ms, policy), 0.0),
        "given": max(amount_at(state.given, now_ms, policy), 0.0),
        "obligations": float(len(open_topics(state, now_ms, policy))),
        "promises_broken": float(sum(each.broken for each in promises.values())) if promises else 0.0,
        "promises_open": float(
            sum(bool(each.due_ms) and not each.broken and not each.kept_ms for each in promises.values())
            if promises
            else 0
        ),
    }
