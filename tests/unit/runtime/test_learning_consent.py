"""Nothing that is learned depends on who did not agree: the model is bit for bit that of a log without them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec
import pytest
from msgspec import structs
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from nbx.audit.learning import LearningTally
from nbx.audit.reading import Window
from nbx.bandits.snapshot import encode
from nbx.catalog.parse import parse_catalog
from nbx.catalog.releases import publish
from nbx.clock import SystemClock
from nbx.decision.serving import Serving
from nbx.decision.warm_up import warm_up
from nbx.experience.entries import Event, EventEntry, Outcome, TimerEntry, decode_entry, encode_entry, outcomes_of
from nbx.experience.erasure import ErasureService
from nbx.features.connection import RedisConnection
from nbx.features.keys import LEASE_LEARNER, partition_keys
from nbx.features.lease import Lease
from nbx.features.store_redis import RedisStore
from nbx.runtime.journal import RedisJournal
from nbx.runtime.keeper_process import run_due
from nbx.runtime.learner_process import LogLearner
from nbx.runtime.publishing import Publisher
from tests.redis_server import RedisServer
from tests.unit.runtime.test_learner_process import Place, lead
from tests.worlds import CATALOG, PARTITIONS

WITH_GOALS = CATALOG.replace("slots: 3, delivery", "slots: 3, goal: {event: back, within: 30m, value: 3}, delivery")
HOUR_MS = 3_600_000


class Learned(NamedTuple):
    """Everything that is learned."""

    learner: bytes
    teaching: bytes
    snapshot: bytes


def learned(learner: LogLearner) -> Learned:
    teaching = msgspec.msgpack.encode(learner.weighing.teaching)
    return Learned(learner.learner.checkpoint(), teaching, encode(learner.learner.snapshot(0, 0)))


class ConsentPlace(Place):
    """A real Redis with customers who say what they allow."""

    async def say(self, customer: str, *, learn: bool) -> None:
        """Say it now; a no a second ago, as a yes of the same millisecond would not overrule it."""
        at = SystemClock().now_ms() - (0 if learn else 1000)
        await self.tell("consent", customer_id=customer, properties={"learn": learn}, at=at)

    async def tell(self, kind: str, **more: object) -> None:
        self.count += 1
        (result,) = await self.events.record(
            [msgspec.convert({"event_id": f"t{self.count}", "type": kind, **more}, Event)]
        )
        assert result.status == "accepted", result

    async def shown(self, customer: str) -> str:
        decision_id = ""
        while not decision_id:
            decision_id = await super().shown(customer)
        return decision_id

    async def live_through_everything(self, customer: str) -> None:
        """Accept, decline for a known and an unknown cause, fail, correct, ignore, come back."""
        first, second, third, _ = [await self.shown(customer) for _ in range(4)]
        await self.tell("seen", decision_id=first)
        await self.tell("declined", decision_id=first, reason="too_expensive")
        await self.tell("failed", decision_id=second)
        await self.tell("failed", decision_id=second, cause="execution")
        await self.tell("back", customer_id=customer)
        await self.tell("accepted", decision_id=first, value=12.0)
        await self.tell("seen", decision_id=third)

    async def run_timers(self) -> None:
        while await run_due(self.store, self.events, PARTITIONS, SystemClock().now_ms() + HOUR_MS):
            pass

    async def rewrite(self, change: Callable[[EventEntry | TimerEntry], EventEntry | TimerEntry | None]) -> None:
        """Put other entries with outcomes in the log's place, with the same ids; None: the entry is left out."""
        for partition in range(PARTITIONS):
            key = partition_keys(partition).log
            rows = await self.connection.execute("XRANGE", key, "-", "+", timeout_ms=5000)
            await self.connection.execute("DEL", key, timeout_ms=5000)
            for entry_id, fields in rows:
                entry = decode_entry(fields[1])
                if isinstance(entry, EventEntry | TimerEntry):
                    changed = change(entry)
                    if changed is None:
                        continue
                    fields[1] = encode_entry(changed)
                await self.connection.execute("XADD", key, entry_id, *fields, timeout_ms=5000)

    async def sites(self) -> set[bytes]:
        return set(await self.connection.execute("KEYS", "nbx:*:s:*", timeout_ms=5000))

    async def forget_sites(self) -> None:
        """Delete what learners stored, so that the next one begins from the log alone."""
        for key in await self.sites():
            await self.connection.execute("DEL", key, timeout_ms=5000)


@asynccontextmanager
async def place() -> AsyncIterator[ConsentPlace]:
    warm_up()  # a decision that waits for its kernels may miss its deadline
    with RedisServer() as server:
        redis = Redis.from_url(server.url)
        await publish(redis, parse_catalog(WITH_GOALS), author="t", note="", at_ms=0)
        connection = RedisConnection(server.url)
        await connection.connect()
        store = RedisStore(connection)
        serving = Serving(store)
        await serving.refresh()
        try:
            yield ConsentPlace(connection, store, serving)
        finally:
            await connection.close()
            await redis.aclose()


def with_place(test: Callable[[ConsentPlace], Awaitable[None]]) -> None:
    async def run() -> None:
        async with place() as it:
            await test(it)

    asyncio.run(run())


async def fresh(it: ConsentPlace) -> LogLearner:
    """Return a learner that took the whole log in one step."""
    await it.forget_sites()
    learner = it.learner()
    assert await learner.take_step() > 0
    return learner


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_no_byte_depends_on_who_did_not_agree() -> None:
    async def check(it: ConsentPlace) -> None:
        await it.say("never", learn=False)
        for number in range(3):
            await it.live_through_everything(f"yes{number}")
            await it.live_through_everything("never")
        open_until = await it.shown("withdrew")
        decided_before = await it.shown("agreed")
        await it.say("withdrew", learn=False)
        await it.tell("declined", decision_id=open_until)
        await it.tell("back", customer_id="withdrew")
        await it.say("agreed", learn=False)
        during = await it.shown("agreed")
        await it.say("agreed", learn=True)
        await it.tell("declined", decision_id=during)
        await it.tell("accepted", decision_id=decided_before)
        await it.run_timers()
        lease = Lease(it.connection, LEASE_LEARNER, "first", 60_000)
        assert await lease.acquire()
        publisher = Publisher(it.connection, lease)
        counted = metric("nbx_not_taught_total", placement="hero", reason="no_consent")
        learner = it.learner()
        await lead(it, learner, publisher)
        learner.weighing.tell()
        told: list[Outcome] = []
        passed_over = 0

        def agreed(entry: EventEntry | TimerEntry) -> EventEntry | TimerEntry | None:
            nonlocal passed_over
            told.extend(entry.outcomes)
            lost = sum(not each.learns for each in outcomes_of(entry))
            passed_over += lost
            assert lost in (0, len(outcomes_of(entry)))
            return None if lost else entry

        killed = it.learner()
        await killed.redo(RedisJournal(it.connection))
        assert killed.checkpoint() == learner.checkpoint()
        sites = await it.sites()
        await it.rewrite(agreed)
        assert {o.customer_id for o in told if o.learns} == {"yes0", "yes1", "yes2", "agreed"}
        assert {o.customer_id for o in told if not o.learns} == {"never", "withdrew", "agreed"}
        assert {o.outcome for o in told if not o.learns} >= {"declined", "failed", "accepted", "ignored"}
        without = await fresh(it)
        assert without.learned == learner.learned
        assert learned(without) == learned(learner)
        assert sites == await it.sites(), "no site of them is stored"
        assert metric("nbx_not_taught_total", placement="hero", reason="no_consent") == counted + passed_over

    with_place(check)


def test_every_byte_would_depend_on_them() -> None:
    """The same log, had they agreed, is another model: what is compared above could differ."""

    async def check(it: ConsentPlace) -> None:
        await it.live_through_everything("yes")
        await it.say("never", learn=False)
        await it.live_through_everything("never")
        await it.run_timers()
        one = learned(await fresh(it))

        def as_if_agreed(entry: EventEntry | TimerEntry) -> EventEntry | TimerEntry:
            return structs.replace(
                entry,
                outcomes=tuple(structs.replace(each, learns=True) for each in entry.outcomes),
                goals=tuple(structs.replace(each, learns=True) for each in entry.goals),
            )

        await it.rewrite(as_if_agreed)
        other = learned(await fresh(it))
        assert all(mine != theirs for mine, theirs in zip(one, other, strict=True))

    with_place(check)


def test_a_correction_without_consent_leaves_what_was_learned_until_the_erasure() -> None:
    async def check(it: ConsentPlace) -> None:
        await it.live_through_everything("other")
        learner = it.learner()
        await learner.take_step()
        others = sum(learner.learner.evidence.values())
        decision_id = await it.shown("anna")
        await it.tell("declined", decision_id=decision_id)
        await learner.take_step()
        before = learned(learner)
        await it.say("anna", learn=False)
        await it.tell("accepted", decision_id=decision_id, value=3.0)
        assert await learner.take_step() == 2
        assert learned(learner) == before
        await it.say("anna", learn=True)
        await it.tell("converted", decision_id=decision_id, value=4.0)
        assert await learner.take_step() == 2
        assert learned(learner) == before, "nothing is added beside what it would replace"
        erasures = ErasureService(it.store, it.serving.plan, SystemClock(), partitions=PARTITIONS)
        assert (await erasures.erase("anna")).taught == 1
        await learner.take_step()
        assert sum(learner.learner.evidence.values()) == pytest.approx(others)
        assert learned(learner) != before

    with_place(check)


def test_the_learning_report_counts_what_was_not_learned_for_want_of_consent() -> None:
    async def check(it: ConsentPlace) -> None:
        await it.tell("accepted", decision_id=await it.shown("yes"))
        await it.say("no", learn=False)
        for _ in range(2):
            await it.tell("accepted", decision_id=await it.shown("no"))
        tally = LearningTally(Window(0, SystemClock().now_ms() + 1000))
        for partition in range(PARTITIONS):
            rows = await it.store.log_range(partition, "-", "+", 1000)
            tally.take(decode_entry(row.payload) for row in rows)
        uses = {(use.outcome, use.use): use.count for use in tally.report().uses}
        assert uses == {("accepted", "learned"): 1, ("accepted", "no_consent"): 2}

    with_place(check)
