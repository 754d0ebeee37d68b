"""Clusters over a real log: from outcomes to what is served, the same bits after a kill, nobody unwilling in them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from nbx.bandits.clusters import WARM_UP
from nbx.bandits.snapshot import encode
from nbx.catalog.parse import parse_catalog
from nbx.catalog.releases import publish
from nbx.decision.messages import DecideRequest
from nbx.decision.serving import Serving
from nbx.decision.warm_up import warm_up
from nbx.experience.entries import Event
from nbx.features.connection import RedisConnection
from nbx.features.keys import LEASE_LEARNER
from nbx.features.lease import Lease
from nbx.features.store_redis import RedisStore
from nbx.runtime.journal import RedisJournal
from nbx.runtime.learner_process import LogLearner
from nbx.runtime.publishing import Publisher
from tests.redis_server import RedisServer
from tests.unit.runtime.test_learner_process import Place, lead
from tests.worlds import CATALOG

TEXT = CATALOG.replace(", limits: [{max: 2, per: 1d}], pause: {declined: 7d, dismissed: 2d, ignored: 1d}", "")
TEXT += "clusters: {features: [age], count: 2}\n"


def with_place(test: Callable[[Place], Awaitable[None]]) -> None:
    async def run() -> None:
        warm_up()
        with RedisServer() as server:
            redis = Redis.from_url(server.url)
            await publish(redis, parse_catalog(TEXT), author="t", note="", at_ms=0)
            connection = RedisConnection(server.url)
            await connection.connect()
            store = RedisStore(connection)
            serving = Serving(store)
            await serving.refresh()
            try:
                await test(Place(connection, store, serving))
            finally:
                await connection.close()
                await redis.aclose()

    asyncio.run(run())


async def live(it: Place, first: int, count: int, *, willing: bool = True) -> None:
    """Let so many customers accept and then be failed, half of them 20 and half of them 60 years old."""
    for number in range(first, first + count):
        customer = f"c{number}"
        await it.events.change_profile(customer, {"age": 60.0 if number % 2 else 20.0})
        if not willing:
            no = Event(event_id=f"n{number}", type="consent", customer_id=customer, properties={"personalise": False})
            await it.events.record([no])
        decision_id = ""
        while not decision_id:
            decision_id = await it.shown(customer)
        await it.answer(decision_id, "accepted")
        await it.answer(decision_id, "failed")


def test_clusters_are_served_and_a_killed_learner_arrives_at_the_same_bits() -> None:
    async def check(it: Place) -> None:
        lease = Lease(it.connection, LEASE_LEARNER, "first", 60_000)
        assert await lease.acquire()
        publisher = Publisher(it.connection, lease)
        learner = it.learner()
        checkpoints = [learner.checkpoint()]
        for first, end in ((0, 60), (60, WARM_UP), (WARM_UP, 160)):
            await live(it, first, end - first)
            await lead(it, learner, publisher)
            checkpoints.append(learner.checkpoint())
        for checkpoint in checkpoints:
            again = it.learner()
            again.restore(checkpoint)
            await again.redo(RedisJournal(it.connection))
            assert again.checkpoint() == checkpoints[-1]
            assert again.snapshot() == learner.snapshot()
        await publisher.snapshot(encode(learner.snapshot()), learner.step)
        await it.serving.refresh()
        _, model = it.serving.current()
        assert model.centres.shape == (2, 1)
        assert sorted(model.centres.ravel().tolist()) == [-2.0, 2.0]
        assert sum(learner.snapshot().cluster_sizes) > WARM_UP
        found = set()
        for name, age in (("old", 59.0), ("young", 22.0)):
            await it.events.change_profile(name, {"age": age})
            reply = await it.decisions.decide(
                DecideRequest(customer_id=name, placement="hero", mode="preview", explain="full")
            )
            found.add(reply.explanation.relationship["cluster"])
        assert found == {0.0, 1.0}

    with_place(check)


def test_who_is_not_to_be_personalised_tells_nobody_apart() -> None:
    async def check(it: Place) -> None:
        learner: LogLearner = it.learner()
        await live(it, 0, 6)
        await learner.take_step()
        before = learner.clusters.encode().waiting.copy()
        assert [each.accepted for each in before] == [True] * 6, "and the failure after it is no other answer"
        await live(it, 6, 4, willing=False)
        assert await learner.take_step() > 0
        assert learner.clusters.encode().waiting == before

    with_place(check)
