"""Goals and values on their way from events through a real log into the model: once, corrected once, and forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from redis.asyncio import Redis

from nbx.bandits.snapshot import bind
from nbx.catalog.parse import parse_catalog
from nbx.catalog.releases import publish
from nbx.clock import SystemClock
from nbx.decision.messages import DecideRequest
from nbx.decision.serving import Serving
from nbx.experience.entries import Event
from nbx.experience.erasure import ErasureService
from nbx.features.connection import RedisConnection
from nbx.features.keys import LEASE_LEARNER, partition_keys
from nbx.features.lease import Lease
from nbx.features.store_redis import RedisStore
from nbx.ids import partition_of
from nbx.runtime.journal import RedisJournal
from nbx.runtime.keeper_process import run_due
from nbx.runtime.learner_process import LogLearner
from nbx.runtime.publishing import Publisher
from tests.redis_server import RedisServer
from tests.unit.runtime.test_learner_process import Place, lead
from tests.worlds import CATALOG, PARTITIONS

WITH_GOALS = CATALOG.replace("slots: 3, delivery", "slots: 3, goal: {event: back, within: 30m, value: 3}, delivery")
HOUR_MS = 3_600_000


class GoalPlace(Place):
    """A real Redis with a catalog that has a goal."""

    async def decide(self, customer: str) -> str:
        """Return what was chosen; empty: silence."""
        reply = await self.decisions.decide(DecideRequest(customer_id=customer, placement="hero"))
        self.last, self.last_ms = reply.decision_id, SystemClock().now_ms()
        return reply.slots[0].action

    async def come_back(self, customer: str, at: int | None = None) -> None:
        self.count += 1
        (result,) = await self.events.record(
            [Event(event_id=f"b{self.count}", type="back", customer_id=customer, at=at)]
        )
        assert result.status == "accepted", result

    async def run_timers(self) -> None:
        while await run_due(self.store, self.events, PARTITIONS, SystemClock().now_ms() + HOUR_MS):
            pass


@asynccontextmanager
async def place() -> AsyncIterator[GoalPlace]:
    with RedisServer() as server:
        redis = Redis.from_url(server.url)
        await publish(redis, parse_catalog(WITH_GOALS), author="t", note="", at_ms=0)
        connection = RedisConnection(server.url)
        store = RedisStore(connection)
        await connection.connect()
        serving = Serving(store)
        await serving.refresh()
        try:
            yield GoalPlace(connection, store, serving)
        finally:
            await connection.close()
            await redis.aclose()


def with_place(test: Callable[[GoalPlace, Publisher], Awaitable[None]]) -> None:
    async def run() -> None:
        async with place() as it:
            lease = Lease(it.connection, LEASE_LEARNER, "first", 60_000)
            assert await lease.acquire()
            await test(it, Publisher(it.connection, lease))

    asyncio.run(run())


def goals_in(learner: LogLearner) -> dict[str, float]:
    return {name: count for name, count in learner.learner.evidence.items() if name.startswith("goal:")}


def means(learner: LogLearner) -> dict[str, list[float]]:
    """Return each action's mean as it is served."""
    snapshot = learner.learner.snapshot(1, 1)
    table = np.frombuffer(snapshot.mean, "<f4").reshape(len(snapshot.actions), -1)
    return dict(zip(snapshot.actions, table.tolist(), strict=True))


def test_goals_teach_models_of_their_own_and_are_corrected_once_also_after_a_kill() -> None:
    async def check(it: GoalPlace, publisher: Publisher) -> None:
        expected: dict[str, float] = {}
        decided_ms, corrected = {}, ""
        for number in range(12):
            chosen = f"goal:hero/{await it.decide(f'c{number}') or 'none'}"
            expected[chosen] = expected.get(chosen, 0.0) + 1.0
            decided_ms[number] = it.last_ms
            corrected = chosen if number == 1 else corrected
            if number % 3 == 0:
                await it.come_back(f"c{number}")
        await it.run_timers()
        learner = it.learner()
        await lead(it, learner, publisher)
        assert goals_in(learner) == pytest.approx(expected)
        assert not (
            learner.learner.evidence.keys() - expected.keys() - {"gold_card", "travel_card", "pay_card", "tips"}
        )
        before, missed = learner.checkpoint(), means(learner)[corrected]
        for _ in range(2):
            await it.come_back("c1", at=decided_ms[1] + 1)
        await lead(it, learner, publisher)
        assert goals_in(learner) == pytest.approx(expected), "a correction is no second observation"
        assert means(learner)[corrected] != pytest.approx(missed, abs=1e-3)
        killed = it.learner()
        killed.restore(before)
        await killed.redo(RedisJournal(it.connection))
        assert killed.checkpoint() == learner.checkpoint()
        prompt = it.learner()
        await prompt.take_step()
        for action, mean in means(prompt).items():
            assert means(learner)[action] == pytest.approx(mean, abs=1e-6)
        plan = it.serving.plan()
        snapshot = learner.learner.snapshot(1, 1)
        model = bind(snapshot, plan.layout.columns, plan.action_names, plan.action_groups)
        rows = plan.placements["hero"].goal_rows
        assert {plan.action_names[row] for row in rows} == {
            f"goal:hero/{name}" for name in ("gold_card", "travel_card", "pay_card", "tips", "alert", "none")
        }
        assert dict(
            zip([plan.action_names[row] for row in rows], model.evidence[rows].tolist(), strict=True)
        ).items() >= (expected.items())
        assert not model.experience[rows].any(), "goals are no experience"

    with_place(check)


def test_an_erased_customers_goals_are_forgotten() -> None:
    async def check(it: GoalPlace, publisher: Publisher) -> None:
        for number in range(6):
            await it.decide(f"c{number}")
            await it.come_back(f"c{number}")
        learner = it.learner()
        await lead(it, learner, publisher)
        others = goals_in(learner), means(learner)
        chosen = await it.decide("gone")
        await it.come_back("gone")
        await it.decide("gone")
        await lead(it, learner, publisher)
        assert sum(goals_in(learner).values()) == pytest.approx(7.0)
        erasures = ErasureService(it.store, it.serving.plan, SystemClock(), partitions=PARTITIONS)
        keys = partition_keys(partition_of("gone", PARTITIONS))
        before = await it.connection.execute("ZRANGE", keys.timers, 0, -1, timeout_ms=1000)
        assert f"goal:{it.last}:0".encode() in before
        receipt = await erasures.erase("gone")
        assert receipt.taught == 1
        assert receipt.timers >= 1, "the second decision's goal was open"
        timers = await it.connection.execute("ZRANGE", keys.timers, 0, -1, timeout_ms=1000)
        assert f"goal:{it.last}:0".encode() not in timers
        await lead(it, learner, publisher)
        await learner.write_receipts()
        receipt = await erasures.receipt(receipt.erasure_id)
        assert (receipt.response, receipt.experience, receipt.beyond) == (1, 0, 0), "a goal is no experience"
        left = {name: count for name, count in goals_in(learner).items() if count > 1e-9}
        assert left == pytest.approx(others[0]), chosen
        for action, mean in others[1].items():
            assert means(learner)[action] == pytest.approx(mean, abs=1e-4)
        await it.run_timers()
        assert await learner.take_step() >= 0
        assert sum(goals_in(learner).values()) == pytest.approx(6.0)

    with_place(check)


def test_the_value_of_acceptances_is_learned_and_corrected() -> None:
    async def check(it: GoalPlace, publisher: Publisher) -> None:
        learner = it.learner()
        values: dict[str, list[float]] = {}
        number = 0
        while sum(map(len, values.values())) < 6:
            number += 1
            chosen = await it.decide(f"c{number}")
            if not chosen:
                continue
            worth = float(number)
            event = Event(event_id=f"a{number}", value=worth, type="accepted", decision_id=it.last)
            (result,) = await it.events.record([event])
            assert result.outcome == "accepted"
            await lead(it, learner, publisher)
            if number % 2:
                worth = -2.0 * number
                await it.events.record(
                    [Event(event_id=f"v{number}", value=worth, type="converted", decision_id=it.last)]
                )
            values.setdefault(chosen, []).append(worth)
        await lead(it, learner, publisher)
        snapshot = learner.learner.snapshot(1, 1)
        learned = dict(zip(snapshot.actions, zip(snapshot.values, snapshot.value_counts, strict=True), strict=True))
        for action, reported in values.items():
            assert learned[action] == pytest.approx((np.mean(reported), len(reported)))

    with_place(check)
