"""Late truth and erasure on real Redis: state, log and model are corrected once, whenever the learner is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import msgspec
import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray
from redis.asyncio import Redis

from nbx.bandits.learner import LearnedSites, Learner
from nbx.catalog.parse import parse_catalog
from nbx.catalog.releases import publish
from nbx.clock import ManualClock, SystemClock
from nbx.decision.messages import DecideRequest
from nbx.experience.entries import Entry, EraseEntry, Event, EventEntry, Outcome, TimerEntry, decode_entry
from nbx.experience.erasure import ErasureService, Receipt
from nbx.experience.service import EventService
from nbx.features.keys import LEASE_LEARNER, MODEL_VERSION, partition_keys
from nbx.features.lease import Lease
from nbx.features.state import CustomerState, decode_state
from nbx.features.store import Timer, versioned
from nbx.ids import partition_of
from nbx.limits import ERASED_SITES_MS
from nbx.runtime.journal import RedisJournal
from nbx.runtime.learner_process import LogLearner
from nbx.runtime.publishing import Publisher
from nbx.runtime.weighing import observation_of
from tests.unit.runtime.test_learner_process import Place, place
from tests.worlds import CATALOG, DAY_MS, PARTITIONS

GOAL = "goal: {event: came_back, within: 30m, value: 3}"
Natural = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Action → sums of sites (τ x xᵀ, ν x)."""


class Story:
    """Customers of a place, a learner that may be killed, and what it is compared with."""

    def __init__(self, place: Place, publisher: Publisher) -> None:
        self.place = place
        self.publisher = publisher
        self.learner = self.new_learner()
        self.checkpoints = [self.learner.checkpoint()]
        self.erasures = ErasureService(place.store, place.serving.plan, SystemClock(), partitions=PARTITIONS)

    def new_learner(self, checkpoint: bytes = b"") -> LogLearner:
        learner = self.place.learner()
        learner.learner = Learner(adaptive=False)
        if checkpoint:
            learner.restore(checkpoint)
        return learner

    async def shown(self, customer: str) -> str:
        for _ in range(100):
            if decision_id := await self.place.shown(customer):
                return decision_id
        raise AssertionError("100 times silence")

    async def ignored(self, customer: str) -> str:
        """Show something, prove that it was seen, and let attention run out."""
        decision_id = await self.shown(customer)
        await self.place.answer(decision_id, "seen")
        due_ms = int(decision_id[3:14], 16) + 1
        await self.place.events.run_timer(int(decision_id[:3], 16), Timer(f"attention:{decision_id}:0", due_ms))
        return decision_id

    async def step(self, *, killed: bool = False) -> None:
        """Learn what is there as one journalled step, by a learner that was started anew when `killed`."""
        if killed:
            self.learner = self.new_learner(self.checkpoints[-1])
            await self.learner.redo(RedisJournal(self.place.connection))
        if await self.learner.take_step():
            await self.publisher.journal(self.learner.step, self.learner.reached)
            await self.learner.write_receipts()
            self.checkpoints.append(self.learner.checkpoint())

    async def erase(self, customer: str) -> Receipt:
        return await self.erasures.erase(customer)

    async def log(self) -> list[Entry]:
        rows = [row for p in range(PARTITIONS) for row in await self.place.store.log_range(p, "-", "+", 10**6)]
        return [decode_entry(row.payload) for row in rows]

    async def state(self, customer: str) -> CustomerState:
        key = partition_keys(partition_of(customer, PARTITIONS)).customer(customer)
        return decode_state(versioned((await self.place.store.read([key], 1000))[0])[1])

    async def latest(self, erased: Iterable[str] = ()) -> list[Outcome]:
        """Return the last outcome of every slot, without what erased customers did before they were erased."""
        last: dict[tuple[str, int], Outcome] = {}
        for entry in await self.log():
            if isinstance(entry, EventEntry | TimerEntry):
                last |= {(o.decision_id, o.slot): o for o in entry.outcomes}
            elif isinstance(entry, EraseEntry) and entry.customer_id in erased:
                last = {key: o for key, o in last.items() if o.customer_id != entry.customer_id}
        return list(last.values())

    async def redone(self) -> None:
        """Kill and start anew from every checkpoint, and from none: the same bits, model and receipts."""
        receipts = {key: await self.get(key) for key in await self.keys("nbx:*:x:*")}
        for checkpoint in (b"", *self.checkpoints):
            again = self.new_learner(checkpoint)
            await again.redo(RedisJournal(self.place.connection))
            assert again.checkpoint() == self.learner.checkpoint()
            await again.write_receipts()
            assert {key: await self.get(key) for key in receipts} == receipts

    async def keys(self, pattern: str) -> list[bytes]:
        return sorted(await self.place.connection.execute("KEYS", pattern, timeout_ms=1000))

    async def get(self, key: bytes) -> bytes:
        found: bytes = await self.place.connection.execute("GET", key, timeout_ms=1000)
        return found

    async def check_model(self, erased: Iterable[str] = ()) -> None:
        """Compare with a learner that never saw what was corrected or erased."""
        never = Learner(adaptive=False)
        plan = self.place.serving.plan()
        never.register_layout(plan.release, plan.layout.columns)
        on_record: Natural = {}
        for outcome in await self.latest(erased):
            sites = await self._sites(outcome)
            weights = {
                "response_weight": sites.response.weight if sites.response else 0.0,
                "experience_weight": sites.experience.weight if sites.experience else 0.0,
            }
            never.learn(structs.replace(observation_of(outcome), revision=0, **weights), None)
            if sites.response is not None:
                x = np.frombuffer(outcome.x, "<f4").astype(float)
                precision, mean = on_record.get(outcome.action, (np.zeros((len(x), len(x))), np.zeros(len(x))))
                on_record[outcome.action] = (
                    precision + sites.response.tau * np.outer(x, x),
                    mean + sites.response.nu * x,
                )
        model = self.learner.learner
        evidence = {action: count for action, count in model.evidence.items() if count}
        assert evidence == pytest.approx({action: count for action, count in never.evidence.items() if count}, abs=1e-8)
        same(natural(model, "experience"), natural(never, "experience"))
        same(natural(model, "response"), on_record)

    async def _sites(self, outcome: Outcome) -> LearnedSites:
        key = partition_keys(int(outcome.decision_id[:3], 16)).sites(outcome.decision_id)
        field = f"{outcome.slot}/{outcome.revision}"
        packed = await self.place.connection.execute("HGET", key, field, timeout_ms=1000)
        return msgspec.msgpack.decode(packed, type=LearnedSites)


def natural(learner: Learner, target: str) -> Natural:
    """Return the natural parameters of every action's model, prior left out."""
    posteriors = {action: getattr(models, target).posterior for action, models in learner._models.items()}
    return {action: (p.sites_precision, p.sites_mean) for action, p in posteriors.items()}


def same(one: Natural, other: Natural) -> None:
    for action in one.keys() | other.keys():
        nothing = (np.zeros(()), np.zeros(()))
        for mine, theirs in zip(one.get(action, nothing), other.get(action, nothing), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-8)


def with_story(test: Callable[[Story], Awaitable[None]]) -> None:
    async def run() -> None:
        async with place() as it:
            lease = Lease(it.connection, LEASE_LEARNER, "first", 60_000)
            assert await lease.acquire()
            await test(Story(it, Publisher(it.connection, lease)))

    asyncio.run(run())


@pytest.mark.parametrize("step_between", [False, True])
@pytest.mark.parametrize("killed", [False, True])
def test_a_late_accept_corrects_state_log_and_model_once(step_between: bool, killed: bool) -> None:
    async def check(story: Story) -> None:
        await story.place.live(0, 20)
        late = [await story.ignored(f"late{n}") for n in range(6)]
        assert (await story.state("late0")).outcomes == {"ignored": 1}
        if step_between:
            await story.step()
        event = [Event(event_id=f"late-{id_}", type="accepted", decision_id=id_) for id_ in late[:4]]
        for status in ("accepted", "duplicate"):
            for result in await story.place.events.record(event):
                assert result.status == status
            await story.step(killed=killed)
        repeated = [Event(event_id=f"again-{id_}", type="accepted", decision_id=id_) for id_ in late[:4]]
        assert {r.status for r in await story.place.events.record(repeated)} == {"accepted"}, "no duplicate, no news"
        await story.step(killed=killed)
        for number, decision_id in enumerate(late[:4]):
            state = await story.state(f"late{number}")
            assert state.outcomes == {"ignored": 0, "accepted": 1}
            assert (state.ignored_s, state.pauses) == ([], {})
            assert state.balance > 0
            entries = [e for e in await story.log() if isinstance(e, EventEntry | TimerEntry)]
            told = [(o.revision, o.outcome) for e in entries for o in e.outcomes if o.decision_id == decision_id]
            assert told == [(0, "ignored"), (1, "accepted")]
        assert story.learner.learned == sum(o.revision + 1 for o in await story.latest())
        await story.check_model()
        await story.redone()

    with_story(check)


def test_a_late_accept_after_the_window_is_refused_in_words_and_changes_nothing() -> None:
    async def check(story: Story) -> None:
        decision_id = await story.ignored("late")
        await story.step()
        key = partition_keys(int(decision_id[:3], 16)).decision(decision_id)
        window_ms = story.place.serving.plan().rules.remember_ms
        left = await story.place.connection.execute("PTTL", key, timeout_ms=1000)
        assert window_ms - 60_000 < left <= window_ms
        await story.place.connection.execute("PEXPIRE", key, 0, timeout_ms=1000)
        clock = ManualClock(SystemClock().now_ms() + window_ms + 1)
        later = EventService(
            story.place.store, story.place.serving.plan, clock, partitions=PARTITIONS, dedupe_ms=DAY_MS
        )
        before, logged = await story.state("late"), await story.log()
        (result,) = await later.record([Event(event_id="late", type="accepted", decision_id=decision_id)])
        assert (result.status, result.code) == ("rejected", "decision_expired")
        assert result.detail == f"decision {decision_id} can no longer be corrected: its window has closed"
        assert (await story.state("late"), await story.log()) == (before, logged)
        assert await story.learner.take_step() == 0
        await story.check_model()

    with_story(check)


def test_a_model_forgets_what_erased_customers_taught_whenever_the_learner_is_killed() -> None:
    async def check(story: Story) -> None:
        await story.place.live(0, 15)
        await story.place.answer(await story.shown("anna"), "declined")
        corrected = await story.ignored("anna")
        await story.step()
        await story.place.answer(corrected, "accepted")
        await story.place.answer(await story.shown("ben"), "accepted")
        ben = await story.erase("ben")  # in the step that learns what it subtracts
        await story.place.answer(await story.shown("ben"), "declined")  # a new life
        await story.step(killed=True)
        await story.check_model(erased=["ben"])
        anna = await story.erase("anna")
        assert (anna.status, anna.taught, anna.step) == ("pending", 2, 0)
        await story.place.live(15, 10)
        await story.step(killed=True)
        await story.check_model(erased=["ben", "anna"])
        for erased, step, slots in ((ben, 2, 1), (anna, 3, 2)):
            receipt = await story.erasures.receipt(erased.erasure_id)
            assert (receipt.step, receipt.response, receipt.experience, receipt.beyond) == (step, slots, slots, 0)
            assert receipt.status == "pending", "no snapshot is out yet"
        assert (await story.erase("ben")).taught == 1
        await story.step()
        await story.check_model(erased=["ben", "anna"])
        await story.redone()
        await story.publisher.snapshot(b"s", 3)
        assert (await story.erasures.receipt(anna.erasure_id)).status == "forgotten"

    with_story(check)


def test_what_is_beyond_the_window_is_counted_and_stays() -> None:
    async def check(story: Story) -> None:
        old, young = await story.ignored("anna"), await story.ignored("anna")
        await story.step()
        sites = {id_: partition_keys(int(id_[:3], 16)).sites(id_) for id_ in (old, young)}
        await story.place.connection.execute("DEL", sites[old], timeout_ms=1000)
        erased = await story.erase("anna")
        await story.step()
        receipt = await story.erasures.receipt(erased.erasure_id)
        assert (receipt.taught, receipt.experience, receipt.beyond) == (2, 1, 1)
        assert sum(story.learner.learner.evidence.values()) == pytest.approx(1.0), "the one beyond"
        left = await story.place.connection.execute("PTTL", sites[young], timeout_ms=1000)
        assert ERASED_SITES_MS - 60_000 < left <= ERASED_SITES_MS, "long enough to do the step again, no longer"
        again = story.new_learner(story.checkpoints[1])
        await again.redo(RedisJournal(story.place.connection))
        assert again.checkpoint() == story.learner.checkpoint()

    with_story(check)


def test_a_receipt_waits_for_the_journal() -> None:
    """An overtaken learner must not tell that a step subtracted which never was."""

    async def check(story: Story) -> None:
        await story.ignored("anna")
        erased = await story.erase("anna")
        await story.learner.take_step()
        assert (await story.erasures.receipt(erased.erasure_id)).step == 0
        await story.learner.write_receipts()
        assert (await story.erasures.receipt(erased.erasure_id)).step == 1
        assert await story.place.store.read([MODEL_VERSION], 1000) == [None]

    with_story(check)


def test_a_customer_called_decision_teaches_as_well() -> None:
    async def check(story: Story) -> None:
        await story.place.answer(await story.shown("decision"), "accepted")
        await story.step()
        assert story.learner.learned == 1
        await story.erase("decision")
        await story.step()
        assert sum(story.learner.learner.evidence.values()) == 0.0

    with_story(check)


def test_goals_that_an_erased_customer_reached_are_forgotten_too() -> None:
    async def check(story: Story) -> None:
        it = story.place
        text = CATALOG.replace("impressions: reported,", f"impressions: reported, {GOAL},")
        admin = Redis.from_url(it.connection.address)
        await publish(admin, parse_catalog(text), author="t", note="", at_ms=0)
        await admin.aclose()
        await it.serving.refresh()
        back = [Event(event_id=name, type="came_back", customer_id=name) for name in ("anna", "ben")]
        for name, mobile in (("anna", True), ("anna", False), ("ben", True)):
            await it.decisions.decide(DecideRequest(customer_id=name, placement="hero", context={"is_mobile": mobile}))
        results = await it.events.record(back)
        assert {result.status for result in results} == {"accepted"}
        await story.step()
        assert sum(story.learner.learner.evidence.values()) == pytest.approx(3.0)
        erased = await story.erase("anna")
        await story.step(killed=True)
        receipt = await story.erasures.receipt(erased.erasure_id)
        assert (receipt.taught, receipt.response, receipt.experience, receipt.beyond) == (2, 2, 0, 0)
        assert sum(story.learner.learner.evidence.values()) == pytest.approx(1.0)
        await story.erase("ben")
        await story.step()
        same(natural(story.learner.learner, "response"), {})
        await story.redone()

    with_story(check)
