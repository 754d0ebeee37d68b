"""What a choice was worth in money, candidate by candidate, and how each slot came by what it holds.

Everything is worked out of the record: the factors that were used, and the distribution that was drawn from. Utility is
acceptance + experience + goal, all money; silence is worth 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from msgspec import Struct

from nbx.bandits.thompson import choose_slate
from nbx.decision.arbitration import Factors, Utility, utility
from nbx.decision.goals import unpack_goal
from nbx.decision.record import unpack_factors
from nbx.decision.slate import RANDOM
from nbx.experience.entries import DecisionEntry

How = Literal["mandatory", "best", "explored", "chance", "default", "no_candidate", "held_out"]
"""Everybody gets it; the best expected was drawn; another one was; chance alone picks for this customer; nothing could
be looked up; there was nothing to choose from; the customer is held out."""


class Worth(Struct, frozen=True, kw_only=True):
    """What a candidate was expected to be worth; money but where said."""

    action: str
    acceptance: float
    """Chance of a yes × value × context weight × lever."""
    points: float
    """Expected experience of the customer, points."""
    price: float
    """Money per point: exchange × (1 + strain)."""
    experience: float
    """points × price."""
    goal: float
    """What it does for the placement's goal, over silence; 0 where there is none."""
    utility: float
    """Sum of the three."""
    chance: float
    """To be drawn into the first slot that was drawn, 0..1."""


class SlotView(Struct, frozen=True, kw_only=True):
    """How one slot came by what it holds."""

    slot: int
    action: str
    """Empty: silence."""
    treatment: str
    how: How
    chance: float
    """That the slot came out so, given the slots before it."""
    best: str
    """Highest expected utility of what this slot could hold; empty: silence."""
    best_chance: float
    explored_chance: float
    """That something else than the best was drawn."""
    least_chance: float
    """What everything allowed gets at least, so that it can be judged."""
    short_of_best: float
    """Money by which the best was expected to be worth more."""


def worths(entry: DecisionEntry) -> tuple[Worth, ...]:
    """Return every candidate's worth, in the order of the record; empty for a degraded decision."""
    if not entry.actions:
        return ()
    factors, table = unpack_factors(entry)
    goal, policy = unpack_goal(entry), entry.policy
    priced = utility(factors, policy, goal)
    price = policy.exchange * (1.0 + policy.strain)
    toward = goal.worth() if goal is not None else np.zeros(len(entry.actions))
    acceptance, expected = priced.gain * priced.p_response, priced.expected()
    return tuple(
        Worth(
            action=action,
            acceptance=float(acceptance[i]),
            points=float(factors.experience[i]),
            price=price,
            experience=price * float(factors.experience[i]),
            goal=float(toward[i]),
            utility=float(expected[i]),
            chance=float(table[i, -2]),
        )
        for i, action in enumerate(entry.actions)
    )


def slot_views(entry: DecisionEntry) -> tuple[SlotView, ...]:
    """Return how each slot came by what it holds."""
    if entry.degraded or not entry.actions:
        how: How = "default" if entry.degraded else "held_out" if entry.holdout == "silent" else "no_candidate"
        return tuple(_given(entry, number, how) for number in range(len(entry.slots)))
    factors, _ = unpack_factors(entry)
    priced = utility(factors, entry.policy, unpack_goal(entry))
    views: list[SlotView] = []
    silent = False
    for number, free in enumerate(_free(entry)):
        action = entry.slots[number].action
        if action in entry.mandatory and action:
            views.append(_given(entry, number, "mandatory"))
        elif silent or not free:
            views.append(_given(entry, number, "held_out" if entry.holdout == "silent" else "no_candidate"))
        else:
            views.append(_drawn(entry, number, free, factors, priced))
        silent = silent or not action
    return tuple(views)


def free_for(entry: DecisionEntry, slot: int) -> list[int]:
    """Return what a slot could hold, as positions in `DecisionEntry.actions`."""
    return next(free for number, free in enumerate(_free(entry)) if number == slot)


def _free(entry: DecisionEntry) -> Iterator[list[int]]:
    """Yield per slot what the slots before it leave, as `nbx.decision.slate` does."""
    open_ = [True] * len(entry.actions)
    left = [limit.allowance for limit in entry.shared]
    for record in entry.slots:
        yield [i for i, is_open in enumerate(open_) if is_open]
        if record.action not in entry.actions:
            continue
        chosen = entry.actions.index(record.action)
        open_[chosen] = False
        for number, limit in enumerate(entry.shared):
            if chosen in limit.members:
                left[number] -= 1
                if left[number] <= 0:
                    for member in set(limit.members) - set(limit.exempt):
                        open_[member] = False


def _given(entry: DecisionEntry, number: int, how: How) -> SlotView:
    record = entry.slots[number]
    return SlotView(
        slot=number,
        action=record.action,
        treatment=record.treatment,
        how=how,
        chance=record.propensity,
        best=record.action,
        best_chance=record.propensity,
        explored_chance=0.0,
        least_chance=0.0,
        short_of_best=0.0,
    )


def _drawn(entry: DecisionEntry, number: int, free: list[int], factors: Factors, priced: Utility) -> SlotView:
    record, policy = entry.slots[number], entry.policy
    expected = np.append(priced.expected()[free], 0.0)
    names = [*(entry.actions[i] for i in free), ""]
    if entry.holdout == RANDOM:
        chances, least, expected = np.full(len(free), 1.0 / len(free)), 1.0 / len(free), expected[:-1]
    else:
        chances = choose_slate(
            factors.mean[free],
            factors.sd[free],
            priced.gain[free],
            priced.shift[free],
            scale=policy.scale,
            floor=policy.floor,
            slots=1,
            uniforms=(0.5,),
        ).probabilities
        least = policy.floor / len(names)
    best = int(expected.argmax())
    how: How = "chance" if entry.holdout == RANDOM else "best" if names[best] == record.action else "explored"
    return SlotView(
        slot=number,
        action=record.action,
        treatment=record.treatment,
        how=how,
        chance=record.propensity,
        best=names[best],
        best_chance=float(chances[best]),
        explored_chance=max(1.0 - float(chances[best]), 0.0),
        least_chance=least,
        short_of_best=float(expected[best] - expected[names.index(record.action)]) if record.action in names else 0.0,
    )
