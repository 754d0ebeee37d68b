"""A world whose decisions are made again: lively customers, a learner that is killed, releases, an erasure, a merge.

Its clock and its ids follow from a seed, so what happens in it repeats; only Redis has a clock of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec import structs
from redis.asyncio import Redis

from nbx.audit.journal import Step
from nbx.audit.reading import Window
from nbx.bandits.snapshot import encode
from nbx.build import Build, current_build
from nbx.catalog.parse import parse_catalog
from nbx.catalog.releases import publish
from nbx.clock import ManualClock
from nbx.decision.ledger import Ledger
from nbx.decision.messages import DecideRequest
from nbx.decision.replayed import Replay
from nbx.decision.service import DecisionService
from nbx.decision.serving import Serving
from nbx.decision.warm_up import warm_up
from nbx.experience.entries import DecisionEntry, Entry, Event, decode_entry, encode_entry
from nbx.experience.erasure import ErasureService
from nbx.experience.service import EventService
from nbx.features.budget_redis import RedisBudgets
from nbx.features.builds import note_build
from nbx.features.connection import RedisConnection
from nbx.features.keys import LEASE_LEARNER
from nbx.features.lease import Lease
from nbx.features.schema import Value
from nbx.features.store_redis import RedisStore
from nbx.runtime.deep_replay import DeepReplay
from nbx.runtime.journal import RedisJournal
from nbx.runtime.keeper_process import run_due
from nbx.runtime.publishing import Publisher
from nbx.runtime.replaying import draw, wanted_of
from tests.unit.runtime.test_learner_process import Place
from tests.worlds import CATALOG, DAY_MS, PARTITIONS

if TYPE_CHECKING:
    from nbx.features.store import LogEntry, Store
    from nbx.runtime.learner_process import LogLearner

SALT = "t"
ROUNDS = 8
TEXT = (
    CATALOG.replace("slots: 3, delivery", "slots: 3, goal: {event: back, within: 30m, value: 3}, delivery")
    + """
journeys: {start: {steps: {funded: {event: deposit, stakes: 0.5}}}}
clusters: {features: [age], count: 2, track_weight: 2}
holdout: {silent: 0.1, random: 0.1}
budgets:
  few: {actions: [travel_card, gold_card], units: 26, per: 3650d}
"""
)
INCOME = "  income: {type: number, encode: {log: 1000}, default: 0}\n"
TEXT_2 = TEXT.replace("  is_mobile:", f"{INCOME}  is_mobile:").replace("value: 40", "value: 45")
CUSTOMERS = tuple(f"c{number}" for number in range(14))
GONE, ALIAS = "c1", "cookie"
BEGAN_MS = 1_700_000_000_000
EVER = 4_000_000_000_000


@dataclass
class Lived:
    """What is left of a world when it is over."""

    url: str
    published: dict[int, bytes] = field(default_factory=dict)
    """Snapshots as published, by version."""
    counts: dict[str, int] = field(default_factory=dict)


class World(Place):
    """Real services over a real Redis; one seed decides what happens."""

    def __init__(
        self, connection: RedisConnection, store: RedisStore, serving: Serving, lived: Lived, rounds: int
    ) -> None:
        super().__init__(connection, store, serving)
        self.rounds = rounds
        self.rng = np.random.default_rng(3)
        self.lived = lived
        self.clock = ManualClock(BEGAN_MS)
        self.decisions = self._service(5_000)
        self.late = self._service(0)
        self.events = EventService(store, serving.plan, self.clock, partitions=PARTITIONS, dedupe_ms=DAY_MS)
        self.erasures = ErasureService(store, serving.plan, self.clock, partitions=PARTITIONS)
        self.publisher = Publisher(
            connection, Lease(connection, LEASE_LEARNER, "one", 600_000), current_build().fingerprint
        )

    def _service(self, deadline_ms: int) -> DecisionService:
        return DecisionService(
            self.store,
            self.serving,
            self.clock,
            partitions=PARTITIONS,
            deadline_ms=deadline_ms,
            request_ttl_ms=DAY_MS,
            salt=SALT,
            ledger=Ledger(RedisBudgets(self.connection), PARTITIONS),
            build=current_build().fingerprint,
        )

    async def go_on(self) -> None:
        await note_build(self.connection, current_build(), "test", 1)
        assert await self.publisher._lease.acquire()
        learner, checkpoint = self.learner(), b""
        for turn in range(self.rounds):
            for _ in range(40):
                await self._something()
            if turn == 4:
                await self._publish(TEXT_2)
            if turn == 5:
                await self.erasures.erase(GONE)
                await self.events.merging.merge(CUSTOMERS[2], ALIAS)
            while await learner.take_step():
                await self.publisher.journal(learner.step, learner.reached)
            if turn == 2:
                checkpoint = learner.checkpoint()
            if turn == 3:  # killed: what it had in memory is gone
                learner = self.learner()
                learner.restore(checkpoint)
                assert await learner.redo(RedisJournal(self.connection)) > 0
            await self._serve(learner)
        for number in range(3):
            await self.late.decide(DecideRequest(customer_id=CUSTOMERS[number], placement="hero", slots=2))
        while self.late.degraded:
            await self.late.log_degraded(self.late.degraded.popleft())
        await self._decide(CUSTOMERS[3])

    async def _serve(self, learner: LogLearner) -> None:
        packed = encode(learner.snapshot())
        self.lived.published[learner.step] = packed
        await self.publisher.snapshot(packed, learner.step)
        await self.serving.refresh()

    async def _publish(self, text: str) -> None:
        async with Redis.from_url(self.connection.address) as redis:
            await publish(redis, parse_catalog(text), author="t", note="", at_ms=1)
        await self.serving.refresh()

    async def _something(self) -> None:
        self.clock.advance(int(self.rng.integers(90_000)))
        customer = str(self.rng.choice([*CUSTOMERS, ALIAS]))
        what = int(self.rng.integers(12))
        if what == 0:
            await self.events.change_profile(customer, {"age": float(self.rng.integers(20, 90))})
        elif what == 1:
            yes = bool(self.rng.integers(3))
            purpose = ("personalise", "learn", "contact")[int(self.rng.integers(3))]
            await self._tell("consent", customer_id=customer, properties={purpose: yes})
        elif what < 4:
            kind = ("page_view", "deposit", "back")[int(self.rng.integers(3))]
            await self._tell(kind, customer_id=customer)
        elif what == 4:
            await run_due(self.store, self.events, PARTITIONS, self.clock.now_ms())
        else:
            await self._decide(customer)

    async def _decide(self, customer: str) -> None:
        placement = ("hero", "hero", "desk")[int(self.rng.integers(3))]
        slots = 1 + int(self.rng.integers(3 if placement == "hero" else 2))
        context: dict[str, Value] = {"is_mobile": bool(self.rng.integers(2))}
        exclude = ("pay_card",) if self.rng.random() < 0.1 else ()
        request = DecideRequest(
            customer_id=customer, placement=placement, slots=slots, context=context, exclude=exclude
        )
        reply = await self.decisions.decide(request)
        for slot in reply.slots:
            if slot.action and self.rng.random() < 0.8:
                for kind in (("seen", "accepted"), ("seen", "declined"), ("seen",))[int(self.rng.integers(3))]:
                    await self._tell(kind, decision_id=reply.decision_id, slot=slot.slot)
                if self.rng.random() < 0.2:
                    self.late_truth = (reply.decision_id, slot.slot)
        if self.rng.random() < 0.2 and getattr(self, "late_truth", None):
            decision_id, at = self.late_truth
            await self._tell("accepted", decision_id=decision_id, slot=at)

    async def _tell(self, kind: str, **more: Any) -> None:
        self.count += 1
        (result,) = await self.events.record([Event(event_id=f"e{self.count}", type=kind, **more)])
        self.lived.counts[result.status] = self.lived.counts.get(result.status, 0) + 1


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[RedisConnection, RedisStore]]:
    """Connect to a world that is over."""
    connection = RedisConnection(url)
    await connection.connect()
    try:
        yield connection, RedisStore(connection)
    finally:
        await connection.close()


async def make(url: str, rounds: int = ROUNDS) -> Lived:
    """Let a world live; returns what is left of it."""
    warm_up()
    lived, rng = Lived(url), np.random.default_rng(11)
    async with Redis.from_url(url) as redis:
        await publish(redis, parse_catalog(TEXT), author="t", note="", at_ms=0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("nbx.ids.urandom", rng.bytes)
        async with opened(url) as (connection, store):
            serving = Serving(store)
            await serving.refresh()
            await World(connection, store, serving, lived, rounds).go_on()
    return lived


class AlteredStore:
    """The store with some log entries other than they are, or gone."""

    def __init__(self, store: Store, alter: Callable[[LogEntry, Entry], Entry | None]) -> None:
        self._store = store
        self._alter = alter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def log_range(self, partition: int, start: str, end: str, count: int) -> list[LogEntry]:
        rows = []
        for row in await self._store.log_range(partition, start, end, count):
            entry = decode_entry(row.payload)
            other = self._alter(row, entry)
            if other is not None:
                rows.append(row if other is entry else row._replace(payload=encode_entry(other)))
        return rows


class AlteredJournal:
    """A journal some of whose steps are other than they are, or gone."""

    def __init__(self, journal: RedisJournal, alter: Callable[[Step], Step | None]) -> None:
        self._journal = journal
        self._alter = alter

    async def steps(self, after: int, until: int) -> AsyncIterator[Step]:
        async for step in self._journal.steps(after, until):
            other = self._alter(step)
            if other is not None:
                yield other


@dataclass
class Question:
    """What is replayed, and how the world is not what it was."""

    only: Callable[[DecisionEntry], bool] = lambda _: True
    entry: Callable[[LogEntry, Entry], Entry | None] = lambda _, entry: entry
    step: Callable[[Step], Step | None] = lambda step: step
    build: Build = field(default_factory=current_build)
    most: int = 0


async def replays(lived: Lived, question: Question | None = None) -> list[tuple[DecisionEntry, Replay]]:
    """Replay a world's decisions deeply."""
    asked = question or Question()
    async with opened(lived.url) as (connection, real):
        store: Any = AlteredStore(real, asked.entry)
        journal: Any = AlteredJournal(RedisJournal(connection), asked.step)
        rows = (await draw(store, PARTITIONS, _ever(), 0, 0)).rows
        entries = {entry.decision_id: entry for entry in map(_decision, rows) if asked.only(entry)}
        wanted = [each for each in map(wanted_of, rows) if each is not None and each.decision_id in entries]
        deep = DeepReplay(store, journal, PARTITIONS, build=asked.build, salt=SALT, most=asked.most)
        return [(entries[each.decision_id], each) async for each in deep.run(wanted)]


async def decisions(lived: Lived) -> list[DecisionEntry]:
    """Return a world's decisions in the order of the log."""
    async with opened(lived.url) as (_, store):
        drawn = await draw(store, PARTITIONS, _ever(), 0, 0)
        rows = sorted(drawn.rows, key=lambda row: tuple(map(int, row.entry_id.split("-"))))
        return [_decision(row) for row in rows]


def _ever() -> Window:
    return Window(0, EVER)


def _decision(row: LogEntry) -> DecisionEntry:
    entry = decode_entry(row.payload)
    assert isinstance(entry, DecisionEntry)
    return entry


def changing(decision_id: str, **fields: Any) -> Callable[[LogEntry, Entry], Entry | None]:
    """Alter a record."""

    def alter(_: LogEntry, entry: Entry) -> Entry | None:
        if isinstance(entry, DecisionEntry) and entry.decision_id == decision_id:
            return structs.replace(entry, **fields)
        return entry

    return alter


def verdicts(found: Iterable[tuple[DecisionEntry, Replay]]) -> set[str]:
    """Return all verdicts there are."""
    return {difference.verdict for _, each in found for difference in each.differences}
