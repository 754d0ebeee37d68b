"""A logged decision as another release would have made it, and the wait for what became of it.

The policy asked about is recomputed from the decision's own record: its candidates, the model as it was then, with the
values, levers, exchange, goal, stakes and exploration that the release declares. A number it declares as the release
that decided did is the logged one. What the moment put on top of a number that it changes (a boost, a learned worth,
the calibrated exploration) is put on top of the release's: factor on factor. A worth that one of the two releases does
not learn is the declared one. Chances of a goal are those on record, whatever event the release waits for: its models
belong to the placement. Stakes of journey steps are those on record. Without a record they are presumed equal, so that
a new goal moves nothing. What else moved the logged utility is kept as it was. Under the release that decided all of it
comes out as it was logged.

Acceptances are worth what the release says they are, whoever decided: otherwise it would win by raising its prices.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from nbx.audit.reading import Arbitrated, LeftOut, Window, arbitrated
from nbx.bandits import ope
from nbx.bandits.thompson import choose_slate
from nbx.catalog.plan import PlacementPlan, Plan
from nbx.catalog.releases import decode_release
from nbx.decision.arbitration import Factors, utility
from nbx.decision.goals import unpack_goal
from nbx.decision.record import unpack_factors
from nbx.errors import Unknown
from nbx.experience.entries import DecisionEntry, Outcome
from nbx.features.keys import release_key
from nbx.features.store import Store

F64 = NDArray[np.float64]

REWARDS = ("acceptance", "value", "experience", "utility")
"""Share accepted, money of acceptances, points for the customer, and what arbitration maximises, in money, but for
goals: they are reached or not after the outcome that is judged here."""
TIMEOUT_MS = 2_000.0
_ROUNDING = 1e-5
"""Relative difference between utilities as logged, in single precision, and as recomputed."""

Why = Literal[LeftOut, "no_consent", "placement", "other_placement", "erased", "unfinished", "young"]
"""Why a decision does not count: nothing was drawn (degraded, holdout; mandatory: also when the release makes other
actions mandatory), the customer does not want to be learned from, the placement is not in the release or not asked
about, the customer was erased, no outcome yet, or too young for one."""


class Told(NamedTuple):
    """The last word on a slot."""

    revision: int
    accepted: bool
    points: float
    """For the customer."""


class Terms(NamedTuple):
    """What a choice earns."""

    worth: float
    """Money of an acceptance."""
    gain: float
    """What an acceptance adds to utility, in money."""
    price: float
    """Money per point of experience."""

    def rewards(self, told: Told | None) -> tuple[float, float, float, float]:
        """Return each of `REWARDS`; None: nothing was shown.

        Examples
        --------
        >>> Terms(worth=60.0, gain=30.0, price=2.0).rewards(Told(0, accepted=True, points=1.0))
        (1.0, 60.0, 1.0, 32.0)
        """
        if told is None:
            return 0.0, 0.0, 0.0, 0.0
        accepted = float(told.accepted)
        return accepted, accepted * self.worth, told.points, accepted * self.gain + self.price * told.points


class Judged(NamedTuple):
    """A decision as a release sees it; arrays over the m candidates that the release has, then none."""

    names: tuple[str, ...]
    """(m,)"""
    target: F64
    """(m + 1,) distribution under the release."""
    model: F64
    """(m + 1, 4) the model's mean of each of `REWARDS`; none earns 0."""
    expected: F64
    """(4,) the same of the release's choice, on average."""
    predicted: F64
    """(4,) the same of the logged choice."""
    chance: float
    """Of the logged choice under the release."""
    missed: float
    """Chance that the release gives to what the log could not draw."""
    terms: Terms
    """Of the logged choice."""


class Awaited(Struct):
    """A decision that waits for the outcome of its first drawn slot."""

    customer_id: str
    at_ms: int
    placement: str
    slot: int
    shown: bool
    """False: none was chosen, there is nothing to wait for."""
    told: Told | None = None
    erased: bool = False
    """The customer was erased since."""

    def tell(self, outcome: Outcome) -> None:
        """Take in an outcome; the last revision stands."""
        if outcome.slot == self.slot and (self.told is None or outcome.revision > self.told.revision):
            self.told = Told(outcome.revision, outcome.response == 1, outcome.experience)


class Maturity:
    """When decisions are old enough that every action's attention has run out, per placement.

    Among younger ones answers are known and silences are not: to leave out only the unfinished would keep the answers.

    Parameters
    ----------
    now_ms
        When the report is made.
    young
        Count the young ones too, as far as they are finished.
    """

    def __init__(self, now_ms: int, *, young: bool) -> None:
        self._now_ms = now_ms
        self._young = young
        self._longest_ms: dict[str, int] = {}

    def note(self, entry: DecisionEntry) -> None:
        """Take in how long a decision's slots may take."""
        longest = max((slot.delivery_ms + slot.attention_ms for slot in entry.slots), default=0)
        placement = entry.request.placement
        self._longest_ms[placement] = max(self._longest_ms.get(placement, 0), longest)

    def why_not(self, row: Awaited) -> Why | None:
        """Say why a decision does not count yet; None: it does."""
        if row.erased:
            return "erased"
        if not self._young and row.at_ms + self._longest_ms[row.placement] > self._now_ms:
            return "young"
        return "unfinished" if row.shown and row.told is None else None


class Question(Struct, frozen=True):
    """What is asked about a log."""

    span: Window
    plan: Plan | None
    """The release asked about; None: the one that decided."""
    placement: str = ""
    """Empty: all."""


async def asked_plan(store: Store, number: int) -> Plan:
    """Return the plan of a release somebody asks about; `Unknown` when there is none of that number."""
    (packed,) = await store.read([release_key(number)], TIMEOUT_MS)
    if packed is None:
        raise Unknown(f"release {number} does not exist", field="release", code="release_unknown")
    return Plan(decode_release(packed).catalog, number)


def consider(
    entry: DecisionEntry, question: Question, plan_of: Callable[[int], Plan]
) -> tuple[Awaited, Arbitrated, Judged] | Why | None:
    """Judge a decision of the log; None when it is outside the window, or why it does not count."""
    if not question.span.since_ms <= entry.at_ms < question.span.until_ms:
        return None
    if question.placement and entry.request.placement != question.placement:
        return "other_placement"
    if not entry.learns:
        return "no_consent"
    drawn = arbitrated(entry)
    if isinstance(drawn, str):
        return drawn
    own = plan_of(entry.release)
    judged = judge(entry, drawn, question.plan or own, own)
    if isinstance(judged, str):
        return judged
    shown = drawn.chosen < len(drawn.free)
    row = Awaited(entry.customer_id, entry.at_ms, sys.intern(entry.request.placement), drawn.slot, shown)
    return row, drawn, judged


def judge(entry: DecisionEntry, drawn: Arbitrated, plan: Plan, own: Plan) -> Judged | Why:
    """Recompute what a release would have done with a logged decision.

    Parameters
    ----------
    entry, drawn
        The decision, and its first drawn slot.
    plan
        The release asked about.
    own
        The release that decided.

    Returns
    -------
    Judged or str
        Why the decision tells nothing, in the second case.
    """
    placement = plan.placements.get(entry.request.placement)
    declared = own.placements.get(entry.request.placement)
    if placement is None or declared is None:
        return "placement"
    if {name for name in entry.actions if _mandatory(placement, name)} != set(entry.mandatory):
        return "mandatory"
    factors, table = unpack_factors(entry)
    candidates = [entry.actions[i] for i in drawn.free.tolist()]
    mine = _under(factors, drawn.free, candidates, placement, declared)
    apart = _rest(factors, entry, drawn, table)
    goal = unpack_goal(entry)
    if goal is not None and placement.placement.goal is not None:
        apart += structs.replace(goal, value=placement.placement.goal.value).worth()[drawn.free]
    exchange = plan.rules.experience.exchange * (1.0 + entry.stakes)
    worth = utility(mine, structs.replace(entry.policy, exchange=exchange))
    kept = np.array([i for i, name in enumerate(candidates) if name in placement.position], dtype=np.int64)
    n = len(candidates)
    freedom, freed = 1.0 - placement.placement.stakes, 1.0 - declared.placement.stakes
    target = np.zeros(n + 1)
    at = np.append(kept, n)
    target[at] = choose_slate(
        mine.mean[kept],
        mine.sd[kept],
        worth.gain[kept],
        (worth.shift + apart)[kept],
        scale=_moved(plan.exploration.scale * freedom, entry.policy.scale, own.exploration.scale * freed),
        floor=min(_moved(plan.exploration.floor * freedom, entry.policy.floor, own.exploration.floor * freed), 1.0),
        slots=1,
        uniforms=(0.5,),
    ).probabilities
    model = np.zeros((n + 1, len(REWARDS)))
    model[:n, 0] = worth.p_response
    model[:n, 1] = worth.p_response * mine.value
    model[:n, 2] = mine.experience
    model[:n, 3] = worth.expected()
    shown = drawn.chosen < n
    return Judged(
        names=tuple(sys.intern(candidates[i]) for i in kept.tolist()),
        target=target[at],
        model=model[at],
        expected=target @ model,
        predicted=model[drawn.chosen],
        chance=float(target[drawn.chosen]),
        missed=float(ope.unsupported(target, drawn.probability)),
        terms=Terms(
            float(mine.value[drawn.chosen]) if shown else 0.0,
            float(worth.gain[drawn.chosen]) if shown else 0.0,
            exchange * (1.0 + entry.policy.strain),
        ),
    )


def _mandatory(placement: PlacementPlan, name: str) -> bool:
    position = placement.position.get(name)
    return position is not None and bool(placement.mandatory[position])


def _under(
    factors: Factors, free: NDArray[np.int64], names: list[str], placement: PlacementPlan, declared: PlacementPlan
) -> Factors:
    """Return the factors of the free candidates as a release declares them; those it does not have stay as logged."""
    changed = {name: getattr(factors, name)[free].copy() for name in Factors.__struct_fields__}
    for row, name in enumerate(names):
        position, before = placement.position.get(name), declared.position.get(name)
        if position is None:
            continue
        learned = position in placement.learned and before in declared.learned
        for each in ("value", "context_weight", "lever"):
            mine = float(getattr(placement, each)[position])
            if before is None or (each == "value" and not learned):
                changed[each][row] = mine
            else:
                changed[each][row] = _moved(mine, float(changed[each][row]), float(getattr(declared, each)[before]))
    return Factors(**changed)


def _moved(declared: float, logged: float, own: float) -> float:
    """Put on a declared number what the moment put on the release's own, as a factor; the logged one if unchanged."""
    if declared == own:
        return logged
    return declared * (logged / own) if own > 0.0 else declared


def _rest(factors: Factors, entry: DecisionEntry, drawn: Arbitrated, table: NDArray[np.float32]) -> F64:
    """What moved the logged utilities besides the factors and the goal on record, float64[n]."""
    known = utility(factors, entry.policy, unpack_goal(entry)).expected()[drawn.free]
    rest = table[drawn.free, -1].astype(np.float64) - known
    kept: F64 = np.where(np.abs(rest) > _ROUNDING * np.maximum(1.0, np.abs(known)), rest, 0.0)
    return kept
