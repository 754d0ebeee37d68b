"""What the first drawn slot of a decision earns under the release in force and under a draft, for off-policy estimates.

Both are judged by one model of rewards and at one price, the draft's: else a draft would win by raising its prices. The
model of an action is the draft's where it is a candidate of the draft, and that of the release in force elsewhere.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nbx.audit.judging import REWARDS, Awaited, Terms, Why
from nbx.audit.reading import Arbitrated, arbitrated, table_of
from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import PlacementPlan, Plan
from nbx.decision.arbitration import learned_value
from nbx.decision.choice import Choice
from nbx.experience.entries import FACTORS, DecisionEntry

F64 = NDArray[np.float64]
_VALUE, _WEIGHT, _LEVER = (FACTORS.index(name) for name in ("value", "context_weight", "lever"))


class Weighed(Struct, frozen=True, gc=False):
    """The logged choice of a decision, as both releases see it."""

    awaited: Awaited
    propensity: float
    """With which it was drawn."""
    before: float
    """Its chance under the release in force."""
    after: float
    """Its chance under the draft."""
    missed: float
    """Chance that the draft gives to what the log could not draw."""
    predicted: F64
    """(4,) the model's mean of each of `REWARDS` for it."""
    terms: Terms


class Priced(Struct, frozen=True, gc=False):
    """What the model expects of a decision, float64[4] of `REWARDS`, and what the log says."""

    before: F64
    after: F64
    weighed: Weighed | Why
    """Or why the logged choice tells nothing."""


class _Shared(NamedTuple):
    """What the two releases say about a placement."""

    there: NDArray[np.int64]
    """(n,) position on the draft's of each action on the placement in force; −1: not there."""
    value: F64
    """(m,) of the draft's actions."""
    lever: F64


class Pricing:
    """Prices decisions.

    Parameters
    ----------
    draft, base
        The releases.
    model
        Bound to the draft.
    """

    def __init__(self, draft: Plan, base: Plan, model: BoundModel) -> None:
        self._shared = {
            name: _shared(base.placements[name], placement, model)
            for name, placement in draft.placements.items()
            if name in base.placements
        }

    def price(self, entry: DecisionEntry, before: Choice, after: Choice) -> Priced:
        """Price a decision that both releases have made anew."""
        shared = self._shared[entry.request.placement]
        price = after.policy.exchange * (1.0 + after.policy.strain)
        rows_after = _rows(after, after.factors.value, after.factors.lever, price)
        there = shared.there[before.positions]
        known = there >= 0
        value = np.where(known, shared.value[there], before.factors.value)
        rows_before = _rows(before, value, np.where(known, shared.lever[there], before.factors.lever), price)
        index = np.full(len(after.placement.names) + 1, -1)
        index[after.positions] = np.arange(len(after.positions))
        same = index[there]
        rows_before[np.flatnonzero(same >= 0)] = rows_after[same[same >= 0]]
        return Priced(
            before.slate.probability @ rows_before,
            after.slate.probability @ rows_after,
            _weighed(entry, (before, rows_before), (after, rows_after), shared, price),
        )


def _shared(base: PlacementPlan, draft: PlacementPlan, model: BoundModel) -> _Shared:
    value = learned_value(draft, model) if len(draft.learned) else draft.value
    there = np.array([draft.position.get(name, -1) for name in base.names], dtype=np.int64)
    # one more, so that −1 finds something: what it finds is not used
    return _Shared(there, np.append(value, 0.0).astype(np.float64), np.append(draft.lever, 0.0).astype(np.float64))


def _rows(choice: Choice, value: NDArray[np.floating], lever: NDArray[np.floating], price: float) -> F64:
    """Return the model's mean of each of `REWARDS` per candidate, then none's, float64[n + 1, 4]."""
    rows = np.zeros((len(choice.positions) + 1, len(REWARDS)))
    p, points = choice.utility.p_response, choice.factors.experience
    rows[:-1, 0] = p
    rows[:-1, 1] = p * value
    rows[:-1, 2] = points
    rows[:-1, 3] = p * value * lever * choice.factors.context_weight + price * points
    return rows


def _weighed(
    entry: DecisionEntry, before: tuple[Choice, F64], after: tuple[Choice, F64], shared: _Shared, price: float
) -> Weighed | Why:
    if not entry.learns:
        return "no_consent"
    drawn = arbitrated(entry)
    if isinstance(drawn, str):
        return drawn
    placed = [slot.action for slot in entry.slots[: drawn.slot]]
    if any(_placed(choice) != placed for choice, _ in (before, after)):
        return "mandatory"
    name = entry.slots[drawn.slot].action
    index_before, index_after = _index(before[0], name), _index(after[0], name)
    predicted = np.zeros(len(REWARDS))
    if index_after is not None:
        predicted = after[1][index_after]
    elif index_before is not None:
        predicted = before[1][index_before]
    placement = sys.intern(entry.request.placement)
    return Weighed(
        awaited=Awaited(entry.customer_id, entry.at_ms, placement, drawn.slot, bool(name)),
        propensity=drawn.propensity,
        before=_chance(before[0], index_before),
        after=_chance(after[0], index_after),
        missed=_missed(entry, drawn, after[0]),
        predicted=predicted,
        terms=Terms(*_worth(entry, name, after[0], index_after, shared), price),
    )


def _placed(choice: Choice) -> list[str]:
    """Return the mandatory actions before the first drawn slot; of all slots when none was drawn."""
    slate = choice.slate
    first = slate.arbitrated if slate.arbitrated >= 0 else len(slate.chosen)
    return [choice.placement.names[choice.positions[i]] for i in slate.chosen[:first]]


def _index(choice: Choice, name: str) -> int | None:
    """Return where an action (empty: none) stands in a choice's distribution; None: nowhere."""
    if not name:
        return len(choice.positions)
    position = choice.placement.position.get(name, -1)
    i = int(np.searchsorted(choice.positions, position))
    return i if i < len(choice.positions) and choice.positions[i] == position else None


def _chance(choice: Choice, index: int | None) -> float:
    return 0.0 if index is None else float(choice.slate.probability[index])


def _worth(entry: DecisionEntry, name: str, after: Choice, i: int | None, shared: _Shared) -> tuple[float, float]:
    """Return what an acceptance of the logged choice is worth, and what it adds to utility, as the draft says."""
    if not name:
        return 0.0, 0.0
    if i is not None:
        return float(after.factors.value[i]), float(after.utility.gain[i])
    logged = table_of(entry)[entry.actions.index(name)]
    value, lever = float(logged[_VALUE]), float(logged[_LEVER])
    position = after.placement.position.get(name)
    if position is not None:
        value, lever = float(shared.value[position]), float(shared.lever[position])
    return value, value * lever * float(logged[_WEIGHT])


def _missed(entry: DecisionEntry, drawn: Arbitrated, after: Choice) -> float:
    """Return the chance that the draft gives to what the log could not draw."""
    logged = {entry.actions[i]: p for i, p in zip(drawn.free.tolist(), drawn.probability.tolist(), strict=False)}
    logged[""] = float(drawn.probability[-1])
    names = [*(after.placement.names[position] for position in after.positions.tolist()), ""]
    return float(
        sum(p for name, p in zip(names, after.slate.probability.tolist(), strict=True) if not logged.get(name))
    )
