"""Policies to compare nbx with, living in the same world by the same rules.

What a policy may show is decided by `nbx.decision.choice.allowed`, and what happens to the customer by
`nbx.experience.fold`: limits, pauses, floor and balance are serving's own code, driven by a clock that jumps from event
to event. Only the choice among the candidates differs: `random`, a fixed `single` action, or `by_value`, the highest
value first, which is how a bank ranks its campaigns by hand.

The best single action is known only in hindsight: each is tried on a share of the visits, the `FINALISTS` best on all.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import get_context
from typing import Protocol

from nbx.catalog.model import Catalog
from nbx.catalog.plan import PlacementPlan, Plan
from nbx.decision.choice import allowed
from nbx.decision.messages import DecideRequest
from nbx.demo.tally import Tally
from nbx.demo.world import Mind, Response, Step, Visit, World
from nbx.experience.entries import (
    DecisionEntry,
    Event,
    EventEntry,
    Outcome,
    PolicyRecord,
    RequestRecord,
    SlotRecord,
    TimerEntry,
)
from nbx.experience.fold import Folded, fold
from nbx.experience.lifecycle import OpenDecision
from nbx.experience.relationship import balance_at
from nbx.features.state import CustomerState, ProfileValue
from nbx.hashing import uniform

FINALISTS = 2
TRIAL_SHARE = 0.12


class Policy(Protocol):
    """Chooses among what is allowed."""

    def choose(self, plan: Plan, visit: Visit, state: CustomerState, decision_id: str, now_ms: int) -> list[str]:
        """Return the actions to show, at most one per slot; empty: silence."""
        ...

    def learn(self, decision: DecisionEntry, outcomes: Sequence[Outcome]) -> None:
        """Hear of outcomes; most policies have nothing to learn."""
        ...


@dataclass(frozen=True, slots=True)
class Ranking:
    """Mandatory actions first, then candidates from the highest rank down; those without a rank are never shown."""

    rank: Callable[[Visit, str], float | None]

    def choose(self, plan: Plan, visit: Visit, state: CustomerState, decision_id: str, now_ms: int) -> list[str]:
        """Fill the slots, within shared limits."""
        del decision_id
        placement = plan.placements[visit.placement]
        request = DecideRequest(
            customer_id=str(visit.customer), placement=visit.placement, slots=visit.slots, context=visit.context
        )
        _, found, shared = allowed(plan, state, request, now_ms, salt="")
        positions = found.positions
        ranks = {index: self._rank_of(placement, visit, int(p)) for index, p in enumerate(positions)}
        order = sorted((index for index, rank in ranks.items() if rank is not None), key=lambda i: -(ranks[i] or 0.0))
        left = [limit.allowance for limit in shared]
        chosen: list[str] = []
        for index in order:
            concerned = [i for i, limit in enumerate(shared) if index in limit.members]
            held = any(left[i] <= 0 and index not in shared[i].exempt for i in concerned)
            if len(chosen) == visit.slots or held:
                continue
            for i in concerned:
                left[i] -= 1
            chosen.append(placement.names[positions[index]])
        return chosen

    def _rank_of(self, placement: PlacementPlan, visit: Visit, position: int) -> float | None:
        return float("inf") if placement.mandatory[position] else self.rank(visit, placement.names[position])

    def learn(self, decision: DecisionEntry, outcomes: Sequence[Outcome]) -> None:
        """Learn nothing."""


def random(seed: int) -> Ranking:
    """Any candidate, with equal chance."""
    return Ranking(lambda visit, action: 1.0 + uniform(f"{visit.customer}/{visit.number}/{action}/rank", str(seed)))


def single(action: str) -> Ranking:
    """Always this action, when it is allowed."""
    return Ranking(lambda _, name: 1.0 if name == action else None)


def by_value(catalog: Catalog) -> Ranking:
    """Highest value first."""
    value = {action.name: action.value for action in catalog.actions}
    return Ranking(lambda _, name: value[name])


@dataclass(slots=True)
class _Life:
    """One customer under a policy."""

    state: CustomerState
    mind: Mind = field(default_factory=Mind)


@dataclass(slots=True)
class _Open:
    """A decision on its way."""

    entry: DecisionEntry
    customer: int
    decision: OpenDecision
    armed: dict[str, int] = field(default_factory=dict)


_Due = tuple[Visit] | tuple[_Open, int, Step] | tuple[_Open, str]


class Play:
    """Lets a policy live through a world.

    Parameters
    ----------
    world, plan, policy
        Who, under which release, chosen how.
    start_ms
        Epoch milliseconds at which the world begins.
    """

    def __init__(self, world: World, plan: Plan, policy: Policy, start_ms: int) -> None:
        self._world, self._plan, self._policy, self._start_ms = world, plan, policy, start_ms
        self._lives = [
            _Life(CustomerState(profile={k: ProfileValue(v, start_ms) for k, v in customer.profile.items()}))
            for customer in world.customers
        ]
        self._due: list[tuple[int, int, _Due]] = []
        self._order = count()
        self.tally = Tally(plan.catalog)

    def run(self, visits: Iterable[Visit], end_ms: int = 0) -> Tally:
        """Play visits to their end, timers included, and count; balances are as of `end_ms`, 0: the last event."""
        for visit in visits:
            self._at(self._start_ms + visit.at_ms, (visit,))
        now_ms = self._start_ms
        while self._due:
            now_ms, _, due = heapq.heappop(self._due)
            match due:
                case (Visit() as visit,):
                    self._visit(visit, now_ms)
                case (opened, int(slot), Step() as step):
                    self._event(opened, slot, step, now_ms)
                case (opened, str(member)):
                    self._timer(opened, member, now_ms)
        policy = self._plan.rules.experience
        self.tally.balances = [balance_at(life.state, end_ms or now_ms, policy) for life in self._lives]
        return self.tally

    def outcomes(self) -> dict[str, int]:
        """Return how often each outcome was reached, from the customers' states."""
        totals: dict[str, int] = {}
        for life in self._lives:
            for outcome, times in life.state.outcomes.items():
                totals[outcome] = totals.get(outcome, 0) + times
        return {outcome: times for outcome, times in totals.items() if times}

    def _at(self, at_ms: int, due: _Due) -> None:
        heapq.heappush(self._due, (at_ms, next(self._order), due))

    def _visit(self, visit: Visit, now_ms: int) -> None:
        life = self._lives[visit.customer]
        plan = self._plan
        customer_id = self._world.customers[visit.customer].customer_id
        for number, behaviour in enumerate(visit.behaviour):
            event = Event(event_id=str(number), type=behaviour.type, properties=behaviour.properties)
            entry = EventEntry(
                customer_id=customer_id, at_ms=now_ms, release=plan.release, event=event, received_ms=now_ms
            )
            fold(life.state, None, entry, plan.rules)
        decision_id = f"{visit.customer}.{visit.number}"
        chosen = self._policy.choose(plan, visit, life.state, decision_id, now_ms)
        decided = _decision(plan, visit, customer_id, chosen, decision_id, now_ms)
        folded = fold(life.state, None, decided, plan.rules)
        assert folded.decision is not None
        opened = _Open(decided, visit.customer, folded.decision)
        self._take(opened, folded)
        implicit = plan.placements[visit.placement].placement.impressions == "implicit"
        lived: list[tuple[str, Response]] = []
        for slot, action in enumerate(chosen):
            response = self._world.respond(visit, action, life.mind, now_ms - self._start_ms, implicit=implicit)
            lived.append((action, response))
            for step in response.steps:
                self._at(now_ms + step.delay_ms, (opened, slot, step))
        self.tally.visited(visit, lived)

    def _event(self, opened: _Open, slot: int, step: Step, now_ms: int) -> None:
        decision_id, customer_id = opened.entry.decision_id, opened.entry.customer_id
        event = Event(event_id="", type=step.type, decision_id=decision_id, slot=slot, by=step.by, reason=step.reason)
        entry = EventEntry(
            customer_id=customer_id, at_ms=now_ms, release=self._plan.release, event=event, received_ms=now_ms
        )
        state = self._lives[opened.customer].state
        self._take(opened, fold(state, opened.decision, entry, self._plan.rules))

    def _timer(self, opened: _Open, member: str, now_ms: int) -> None:
        if opened.armed.get(member) != now_ms:
            return
        kind, decision_id, slot = member.split(":")
        entry = TimerEntry(
            customer_id=opened.entry.customer_id,
            at_ms=now_ms,
            release=self._plan.release,
            decision_id=decision_id,
            slot=int(slot),
            kind=kind,
        )
        state = self._lives[opened.customer].state
        self._take(opened, fold(state, opened.decision, entry, self._plan.rules))

    def _take(self, opened: _Open, folded: Folded) -> None:
        for member in folded.cancel:
            opened.armed.pop(member, None)
        for timer in folded.arm:
            if opened.armed.get(timer.member) != timer.due_ms:
                opened.armed[timer.member] = timer.due_ms
                self._at(timer.due_ms, (opened, timer.member))
        if folded.outcomes:
            self._policy.learn(opened.entry, folded.outcomes)


@dataclass(frozen=True, slots=True)
class Compared:
    """A comparator's name and what its customers lived through."""

    name: str
    tally: Tally


def compare(
    world: World, plan: Plan, start_ms: int, end_ms: int, balances_of: Sequence[int], *, processes: int = 2
) -> list[Compared]:
    """Play random choice, the best single action and highest value first; about 15 s for 10,000 visits on two cores.

    Parameters
    ----------
    world, plan
        As nbx met them.
    start_ms, end_ms
        When the world began, and as of when balances are compared, epoch milliseconds.
    balances_of
        Customers whose balance is compared.
    processes
        How many to use.
    """
    asked = {visit.placement for visit in world.visits}
    actions = [
        action.name
        for action in plan.catalog.actions
        if action.action_class != "mandatory" and any(asked & set(t.placements) for t in action.treatments)
    ]
    trial = [visit for visit in world.visits if visit.customer < len(world.customers) * TRIAL_SHARE]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:

        def play(policies: Sequence[str], visits: Sequence[Visit]) -> list[Tally]:
            jobs = [pool.submit(_play, world, plan.catalog, policy, visits, start_ms, end_ms) for policy in policies]
            return [job.result() for job in jobs]

        trials = zip(actions, play([f"single:{action}" for action in actions], trial), strict=True)
        ranked = sorted(trials, key=lambda pair: -pair[1].summary().worth_per_visit)
        finalists = [action for action, _ in ranked[:FINALISTS]]
        chance, value, *singles = play(
            ["random", "by_value", *(f"single:{action}" for action in finalists)], world.visits
        )
    best, tally = max(zip(finalists, singles, strict=True), key=lambda pair: pair[1].summary().worth_per_visit)
    for each in (chance, value, tally):
        each.balances = [each.balances[customer] for customer in balances_of]
    return [
        Compared("random", chance),
        Compared(f"best single: {best}", tally),
        Compared("highest value first", value),
    ]


def _play(world: World, catalog: Catalog, policy: str, visits: Sequence[Visit], start_ms: int, end_ms: int) -> Tally:
    kind, _, action = policy.partition(":")
    chosen = single(action) if kind == "single" else by_value(catalog) if kind == "by_value" else random(world.seed)
    return Play(world, Plan(catalog, 1), chosen, start_ms).run(visits, end_ms)


def _decision(
    plan: Plan, visit: Visit, customer_id: str, chosen: Sequence[str], decision_id: str, now_ms: int
) -> DecisionEntry:
    placement = plan.placements[visit.placement]
    declared = placement.placement
    slots = []
    for action in [*chosen, *[""] * (visit.slots - len(chosen))]:
        at = placement.position[action] if action else -1
        slots.append(
            SlotRecord(
                action=action,
                treatment=placement.treatment_names[at] if action else "",
                group=placement.actions[at].group if action else "",
                p_response=0.0,
                propensity=1.0,
                none="" if action else "none_chosen",
                implicit=declared.impressions == "implicit",
                delivery_ms=declared.delivery_ms,
                attention_ms=(placement.actions[at].attention_ms if action else 0) or declared.attention_ms,
                expires_at_ms=now_ms + declared.delivery_ms,
            )
        )
    return DecisionEntry(
        customer_id=customer_id,
        at_ms=now_ms,
        release=plan.release,
        decision_id=decision_id,
        snapshot=0,
        state_version=0,
        request=RequestRecord(
            placement=visit.placement, slots=visit.slots, context=visit.context, exclude=(), request_id=""
        ),
        policy=PolicyRecord(exchange=0.0, strain=0.0, scale=0.0, floor=0.0, salt=""),
        x=b"",
        relationship={},
        removed=(),
        actions=(),
        treatments=(),
        factors=b"",
        none_probability=0.0,
        mandatory=(),
        shared=(),
        slots=tuple(slots),
        holdout="",
        degraded=(),
        took_us=0,
        channel=declared.channel,
    )
