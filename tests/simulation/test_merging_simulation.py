"""A small world with faults in which ids turn out to be one customer, at any moment and while everything else goes on.

The world is that of `test_lifecycle_simulation`: real services, a store that fails and gives way between calls, one
seed. What either id of a customer went through must be what the canonical one went through in the end, once.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from nbx.errors import Conflict, Invalid, Unavailable
from nbx.experience.entries import DecisionEntry, Entry, EventEntry, TimerEntry
from nbx.experience.fold import fold
from nbx.experience.lifecycle import OpenDecision, encode_open
from nbx.features.state import CustomerState, encode_state
from tests.reference.relationship import Relationship
from tests.simulation.test_lifecycle_simulation import CUSTOMERS, STEPS, World, check_promises, check_relationship

if TYPE_CHECKING:
    from collections.abc import Awaitable

SEEDS = range(6)
NIGHTLY = range(6, 60)
NAMES = [f"customer-{number}" for number in range(CUSTOMERS)]


class Meeting(World):
    """Now and then two ids are merged; nobody is erased."""

    def _something(self) -> Awaitable[Any]:
        return self._merge() if self.rng.random() < 0.03 else super()._something()

    async def _erase(self) -> None:
        await self._keep()

    async def _merge(self) -> None:
        one, other = self.rng.choice(NAMES, size=2, replace=False)
        with contextlib.suppress(Unavailable, Invalid, Conflict):
            await self.events.merging.merge(str(one), str(other))


@cache
def lived(seed: int) -> Meeting:
    world = Meeting(seed)

    async def live() -> None:
        for _ in range(STEPS):
            await world.step()
        await world.settle()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("nbx.decision.service.new_decision_id", world.decision_id)
        asyncio.run(live())
    return world


@pytest.mark.parametrize("seed", [*SEEDS, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in NIGHTLY)])
def test_merges_in_a_world_with_faults_lose_and_double_nothing(seed: int) -> None:
    world = lived(seed)

    async def check() -> None:
        log = await world.log()
        check_promises(world, log)
        await check_families(world, log)
        await check_rebuild(world, log)

    asyncio.run(check())


async def check_families(world: Meeting, log: list[Entry]) -> None:
    """Each canonical customer lived the lives of all its ids; an alias has nothing left."""
    families: dict[str, list[str]] = {}
    for name in NAMES:
        state = await world.stored(name)
        families.setdefault((await world.events.merging.peek(name)).customer_id, []).append(name)
        if state.merged_into:
            left = CustomerState(merged_into=state.merged_into, handed_over=state.handed_over)
            assert encode_state(state) == encode_state(left), name
    rules = world.plan.rules
    for root, names in families.items():
        state = await world.stored(root)
        assert {alias for alias, sequence in state.aliases.items() if sequence > 0} == set(names) - {root}
        reference = Relationship({rules.release: world.plan.catalog})
        own = [entry for entry in log if entry.customer_id in names]
        for entry in own:
            reference.take(entry)
        reference.run_out(world.clock.now_ms())
        check_relationship(world, reference, state)
        ends = [ended[0] for slot in reference.slots.values() if (ended := slot.outcome())]
        assert {name: count for name, count in state.outcomes.items() if count} == {n: ends.count(n) for n in ends}
        assert state.balance == pytest.approx(reference.worth(rules.release, state.balance_at_ms), abs=1e-9)
        seen: dict[str, list[int]] = {}
        for slot in reference.slots.values():
            if (at_ms := slot.exposed_ms()) is not None:
                seen.setdefault(slot.action, []).append(at_ms // 1000)
        assert {action: times for action, times in state.exposures.items() if times} == {
            action: sorted(times) for action, times in seen.items()
        }
        assert {key: each for key, each in state.reserved.items() if each.until_ms > world.clock.now_ms()} == {}
        views = [e for e in own if isinstance(e, EventEntry) and e.event.type == "page_view"]
        values = world.plan.resolver.resolve(state, {}, world.clock.now_ms())
        since_ms = world.clock.now_ms() - 23 * 3_600_000
        assert sum(view.at_ms > since_ms for view in views) <= float(values["visits"]) <= len(views)


async def check_rebuild(world: Meeting, log: list[Entry]) -> None:
    """Folding each partition's log anew gives the same bytes, of states and of open decisions."""
    states: dict[str, CustomerState] = {}
    opened: dict[str, OpenDecision] = {}
    for entry in log:
        state = states.setdefault(entry.customer_id, CustomerState())
        decision_id = entry.event.decision_id if isinstance(entry, EventEntry) else getattr(entry, "decision_id", "")
        folded = fold(state, opened.get(decision_id), entry, world.plan.rules, opened)
        if folded.decision is not None:
            opened[decision_id] = folded.decision
        if isinstance(entry, EventEntry | TimerEntry):
            assert (folded.outcomes, folded.goals) == (entry.outcomes, entry.goals)
    for name, state in states.items():
        assert encode_state(state) == encode_state(await world.stored(name))
    for decision_id, decision in opened.items():
        assert encode_open(decision) == await world.opened(decision_id)


def test_the_worlds_have_merges_at_bad_moments_in_them() -> None:
    """Else the tests above would prove less than they say."""
    kinds: dict[str, int] = {}
    late = 0
    for seed in SEEDS:
        world = lived(seed)
        merged: set[str] = set()
        for entry in asyncio.run(world.log()):
            kinds[type(entry).__name__] = kinds.get(type(entry).__name__, 0) + 1
            if type(entry).__name__ == "MovedEntry":
                merged.add(entry.customer_id)
            late += entry.customer_id in merged and isinstance(entry, EventEntry | TimerEntry | DecisionEntry)
        assert world.store.stale > 5, "no conflicts"
    assert kinds["MovedEntry"] >= 8
    assert late >= 20, "hardly anything happened to decisions of aliases"
    assert kinds["AbsorbEntry"] > kinds["MovedEntry"]
