"""Goals in a world with faults: every order, duplicates, late events, lost replies and conflicts, all from one seed.

The world is that of `test_lifecycle_simulation`, its placements with goals. A slow reference reads the log afterwards.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from nbx.bandits.snapshot import bind
from nbx.catalog.parse import parse_catalog
from nbx.catalog.plan import Plan
from nbx.experience.entries import DecisionEntry, Entry, EraseEntry, EventEntry, GoalOutcome, TimerEntry
from nbx.experience.lifecycle import decode_open
from tests.simulation import test_lifecycle_simulation as lifecycle
from tests.simulation.test_lifecycle_simulation import CATALOG, World

if TYPE_CHECKING:
    from nbx.experience.entries import Event

SEEDS = range(100, 112)
WITHIN_MS = {"web": 600_000, "desk": 60_000}
WITH_GOALS = CATALOG.replace("delivery: 30s", "goal: {event: came_back, within: 10m, value: 9}, delivery: 30s").replace(
    "impressions: implicit", "goal: {event: came_back, within: 1m, value: 9}, impressions: implicit"
)
"""Ten minutes and one: events are late by nothing, half a second, a minute or fifteen."""


class GoalWorld(World):
    """Customers come back, too."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.plan = Plan(parse_catalog(WITH_GOALS, source="simulation"), 1)
        self.model = bind(None, self.plan.layout.columns, self.plan.action_names, self.plan.action_groups)

    def _new_event(self) -> Event:
        event = super()._new_event()
        if self.rng.random() < 0.4:
            kind = "came_back" if self.rng.random() < 0.8 else "left"
            customer_id = f"customer-{self.rng.integers(lifecycle.CUSTOMERS)}"
            by = "agent" if self.rng.random() < 0.1 else "customer"
            return type(event)(event_id=event.event_id, type=kind, at=event.at, customer_id=customer_id, by=by)
        return event


async def lived(seed: int, monkeypatch: pytest.MonkeyPatch) -> GoalWorld:
    world = GoalWorld(seed)
    monkeypatch.setattr("nbx.decision.service.new_decision_id", world.decision_id)
    for _ in range(lifecycle.STEPS):
        await world.step()
    await world.settle()
    return world


def expected(log: list[Entry]) -> dict[str, list[int | None]]:
    """Return what each decision's goal is told, in order: all the log says of its customer, gone through for each."""
    told: dict[str, list[int | None]] = {}
    for place, entry in enumerate(log):
        if not isinstance(entry, DecisionEntry) or entry.goal is None or entry.goal.slot < 0:
            continue
        until_ms = entry.at_ms + WITHIN_MS[entry.request.placement]
        answers: list[int | None] = []
        for later in log[place + 1 :]:
            if later.customer_id != entry.customer_id or None in answers:
                continue
            if isinstance(later, EraseEntry):
                break
            if isinstance(later, TimerEntry) and (later.decision_id, later.kind) == (entry.decision_id, "goal"):
                answers += [] if answers else [0]
            elif isinstance(later, EventEntry):
                event = later.event
                mine = event.decision_id == entry.decision_id and event.slot == entry.goal.slot
                if mine and event.type == "skipped" and event.cause == "execution":
                    answers += [None]
                elif event.type == "came_back" and event.by == "customer" and 1 not in answers:
                    answers += [1] if entry.at_ms <= later.at_ms <= until_ms else []
        told[entry.decision_id] = [] if answers == [None] else answers
    return told


@pytest.mark.parametrize("seed", SEEDS)
def test_every_goal_ends_once_and_as_the_log_says(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        world = await lived(seed, monkeypatch)
        log = await world.log()
        erased = {entry.decision_id for entry, _ in lifecycle.erasures_of(log)}
        told: dict[str, list[GoalOutcome]] = {}
        for entry in log:
            for goal in entry.goals if isinstance(entry, EventEntry | TimerEntry) else ():
                told.setdefault(goal.decision_id, []).append(goal)
        for decision_id, answers in expected(log).items():
            outcomes = told.pop(decision_id, [])
            assert [goal.response for goal in outcomes] == answers, decision_id
            assert [goal.revision for goal in outcomes] == list(range(len(answers)))
            packed = await world.opened(decision_id)
            assert (packed is None) == (decision_id in erased)
            kept = decode_open(packed).goal if packed is not None else None
            assert kept is None or kept.response == (answers[-1] if answers else None)
        assert told == {}
        await lifecycle.check_outcomes_and_balance(world, log)
        await lifecycle.check_rebuild(world, log)

    asyncio.run(run())


def test_these_worlds_have_everything_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would prove less than it says."""
    found: set[tuple[int | None, ...]] = set()
    silent = 0
    for seed in SEEDS:
        log = asyncio.run(asyncio.run(lived(seed, monkeypatch)).log())
        found |= {tuple(answers) for answers in expected(log).values()}
        silent += sum(isinstance(e, DecisionEntry) and e.goal is not None and not e.goal.action for e in log)
    assert found >= {(0,), (1,), (0, 1), (), (0, None)}
    assert silent > 0
