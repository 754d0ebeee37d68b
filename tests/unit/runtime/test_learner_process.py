"""The learner over a real log: exactly once, the same bits after a kill at any step, corrections, fences, poison."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import numpy as np
import pytest
from redis.asyncio import Redis

from nbx.bandits.snapshot import decode_snapshot
from nbx.catalog.parse import parse_catalog
from nbx.catalog.releases import publish
from nbx.clock import SystemClock
from nbx.decision.messages import DecideRequest
from nbx.decision.service import DecisionService
from nbx.decision.serving import Serving
from nbx.errors import Unsupported
from nbx.experience.entries import Event
from nbx.experience.service import EventService
from nbx.features.connection import RedisConnection
from nbx.features.keys import LEASE_LEARNER, MODEL_CHECKPOINT, MODEL_SNAPSHOT, MODEL_VERSION, partition_keys
from nbx.features.lease import Lease
from nbx.features.store_redis import RedisStore
from nbx.runtime.journal import RedisJournal
from nbx.runtime.learner_process import LogLearner
from nbx.runtime.publishing import Overtaken, Publisher, Reached
from nbx.runtime.sites import RedisSites
from tests.redis_server import RedisServer
from tests.worlds import CATALOG, DAY_MS, PARTITIONS


class Place:
    """A real Redis with a published catalog and services over it."""

    def __init__(self, connection: RedisConnection, store: RedisStore, serving: Serving) -> None:
        self.connection = connection
        self.store = store
        self.serving = serving
        clock = SystemClock()
        self.decisions = DecisionService(
            store,
            serving,
            clock,
            partitions=PARTITIONS,
            deadline_ms=5000,
            request_ttl_ms=DAY_MS,
            salt="t",
        )
        self.events = EventService(store, serving.plan, clock, partitions=PARTITIONS, dedupe_ms=DAY_MS)
        self.count = 0

    def learner(self) -> LogLearner:
        return LogLearner(self.store, Serving(self.store), PARTITIONS, RedisSites(self.connection))

    async def shown(self, customer: str) -> str:
        """Return a decision that shows something in slot 0."""
        reply = await self.decisions.decide(DecideRequest(customer_id=customer, placement="hero"))
        return reply.decision_id if reply.slots[0].action else ""

    async def answer(self, decision_id: str, kind: str, reason: str = "") -> None:
        self.count += 1
        event = Event(event_id=f"e{self.count}", type=kind, decision_id=decision_id, reason=reason)
        (result,) = await self.events.record([event])
        assert result.status == "accepted", result

    async def live(self, first: int, count: int) -> None:
        """Make `count` customers answer, declining every second time."""
        for number in range(first, first + count):
            decision_id = await self.shown(f"c{number}")
            if decision_id:
                await self.answer(decision_id, "declined" if number % 2 else "accepted")


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    with RedisServer() as server:
        redis = Redis.from_url(server.url)
        await publish(redis, parse_catalog(CATALOG), author="t", note="", at_ms=0)
        connection = RedisConnection(server.url)
        store = RedisStore(connection)
        await connection.connect()
        serving = Serving(store)
        await serving.refresh()
        try:
            yield Place(connection, store, serving)
        finally:
            await connection.close()
            await redis.aclose()


def with_place(test: Callable[[Place], Awaitable[None]]) -> None:
    async def run() -> None:
        async with place() as it:
            await test(it)

    asyncio.run(run())


async def lead(it: Place, learner: LogLearner, publisher: Publisher) -> None:
    """Take what there is as one journalled step."""
    if await learner.take_step():
        await publisher.journal(learner.step, learner.reached)


def test_a_learner_killed_at_any_step_arrives_at_the_same_bits() -> None:
    async def check(it: Place) -> None:
        lease = Lease(it.connection, LEASE_LEARNER, "first", 60_000)
        assert await lease.acquire()
        publisher = Publisher(it.connection, lease)
        whole = it.learner()
        checkpoints = [whole.checkpoint()]
        for part in range(5):
            await it.live(part * 12, 12)
            await lead(it, whole, publisher)
            checkpoints.append(whole.checkpoint())
        assert whole.learned > 20
        assert len(set(checkpoints)) == 6
        for checkpoint in checkpoints:
            again = it.learner()
            again.restore(checkpoint)
            await again.redo(RedisJournal(it.connection))
            assert again.checkpoint() == checkpoints[-1]
        fresh = it.learner()
        assert await fresh.redo(RedisJournal(it.connection)) == 5, "and from the log alone"
        assert fresh.checkpoint() == checkpoints[-1]
        assert await fresh.take_step() == 0

    with_place(check)


def test_an_outcome_replaced_before_or_after_a_kill_counts_once() -> None:
    async def check(it: Place) -> None:
        lease = Lease(it.connection, LEASE_LEARNER, "first", 60_000)
        assert await lease.acquire()
        publisher = Publisher(it.connection, lease)
        decision_id = ""
        while not decision_id:
            it.count += 1
            decision_id = await it.shown(f"late{it.count}")
        learner = it.learner()
        await it.answer(decision_id, "declined")
        await lead(it, learner, publisher)
        before = learner.checkpoint()
        await it.answer(decision_id, "accepted")
        await lead(it, learner, publisher)
        assert learner.learned == 2
        assert sum(learner.learner.evidence.values()) == pytest.approx(1.0), "one slot, one observation"
        killed = it.learner()
        killed.restore(before)
        await killed.redo(RedisJournal(it.connection))
        assert killed.checkpoint() == learner.checkpoint(), "sites are found by revision, so doing it again is the same"
        prompt = it.learner()
        await prompt.take_step()
        snapshot, other = learner.learner.snapshot(1, 1), prompt.learner.snapshot(1, 1)
        assert np.allclose(np.frombuffer(snapshot.mean, "<f4"), np.frombuffer(other.mean, "<f4"), atol=1e-6)

    with_place(check)


def test_execution_failures_leave_every_model_byte_alone() -> None:
    async def check(it: Place) -> None:
        await it.live(0, 20)
        learner = it.learner()
        await learner.take_step()
        before = learner.learner.snapshot(1, 1)
        for number in range(100, 120):
            decision_id = await it.shown(f"c{number}")
            if decision_id:
                await it.answer(decision_id, "failed", reason="page_error")
        assert await learner.take_step() > 0
        assert learner.learner.snapshot(1, 1) == before

    with_place(check)


def test_an_overtaken_learner_writes_nothing() -> None:
    async def check(it: Place) -> None:
        first = Lease(it.connection, LEASE_LEARNER, "first", 60_000)
        assert await first.acquire()
        publisher = Publisher(it.connection, first)
        await publisher.snapshot(b"one", 1)
        await it.connection.execute("DEL", LEASE_LEARNER, timeout_ms=1000)
        assert await Lease(it.connection, LEASE_LEARNER, "second", 60_000).acquire()
        for write in (
            publisher.snapshot(b"two", 2),
            publisher.checkpoint(b"c", Reached(1, {})),
            publisher.journal(9, {0: "1-1"}),
        ):
            with pytest.raises(Overtaken):
                await write
        assert await it.store.read([MODEL_SNAPSHOT, MODEL_VERSION, MODEL_CHECKPOINT], 1000) == [b"one", b"1", None]

    with_place(check)


def test_what_is_no_entry_is_skipped_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async def check(it: Place) -> None:
        await it.connection.execute("XADD", partition_keys(0).log, "*", "e", b"\xc1 not msgpack", timeout_ms=1000)
        await it.live(0, 10)
        learner = it.learner()
        assert await learner.take_step() > 1
        assert learner.learned > 0

    with_place(check)
    assert "is skipped" in caplog.text


def test_a_checkpoint_of_another_format_is_refused_in_words() -> None:
    async def check(it: Place) -> None:
        learner = it.learner()
        for packed in (b"", b"nonsense", msgspec.msgpack.encode({"format": 99})):
            with pytest.raises(Unsupported, match="learn anew from the log"):
                learner.restore(packed)

    with_place(check)


def test_a_published_snapshot_reaches_serving() -> None:
    async def check(it: Place) -> None:
        lease = Lease(it.connection, LEASE_LEARNER, "first", 60_000)
        assert await lease.acquire()
        await it.live(0, 30)
        learner = it.learner()
        await learner.take_step()
        from nbx.bandits.snapshot import encode

        packed = encode(learner.learner.snapshot(7, learner.step))
        await Publisher(it.connection, lease).snapshot(packed, 7)
        assert await it.serving.refresh()
        plan, model = it.serving.current()
        assert model.version == 7
        assert model.mean.shape == (len(plan.action_names), len(plan.layout.columns))
        assert model.mean.any()
        assert decode_snapshot(packed).version == 7
        assert not await it.serving.refresh(), "nothing changed"

    with_place(check)
