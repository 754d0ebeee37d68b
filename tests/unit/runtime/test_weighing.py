"""Weights over a real log: the learned share of unknown causes, and a lost signal from the event to the alarm."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from nbx.audit.signals import Signals, encode_signals, read_signals
from nbx.bandits.learner import LearnedSites
from nbx.bandits.signals import Signal
from nbx.bandits.snapshot import decode_snapshot, encode
from nbx.bandits.teaching import Teaching
from nbx.experience.entries import Event
from nbx.features.keys import LEASE_LEARNER, MODEL_SIGNALS, partition_keys
from nbx.features.lease import Lease
from nbx.ids import decision_ref
from nbx.runtime.doctor import examine
from nbx.runtime.journal import RedisJournal
from nbx.runtime.learner_process import LogLearner
from nbx.runtime.publishing import Publisher
from nbx.settings import Settings
from tests.redis_server import RedisServer
from tests.unit.runtime.test_learner_process import Place, with_place

SOON = 1e-4
"""Counts decay while a test runs: in a minute by a part in 60,000."""


async def tell(it: Place, decision_id: str, *kinds: str, **more: Any) -> None:
    for kind in kinds:
        it.count += 1
        event = Event(event_id=f"e{it.count}", type=kind, decision_id=decision_id, **more)
        (result,) = await it.events.record([event])
        assert result.status == "accepted", result


async def show(it: Place) -> str:
    decision_id = ""
    while not decision_id:
        it.count += 1
        decision_id = await it.shown(f"customer-{it.count}")
    return decision_id


async def response_weight(it: Place, decision_id: str, revision: int) -> float:
    """Weight of the stored response site; 0 when there is none."""
    key = partition_keys(decision_ref(decision_id).partition).sites(decision_id)
    packed = await it.connection.execute("HGET", key, f"0/{revision}", timeout_ms=1_000)
    site = msgspec.msgpack.decode(packed, type=LearnedSites).response
    return 0.0 if site is None else site.weight


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_an_unknown_cause_weighs_its_learned_share_until_it_is_known() -> None:
    async def check(it: Place) -> None:
        learner = it.learner()
        first = await show(it)
        await tell(it, first, "failed")
        await learner.take_step()
        assert await response_weight(it, first, 0) == 0.5, "the prior"
        for _ in range(20):
            await tell(it, await show(it), "failed", cause="execution")
        await learner.take_step()
        unknown = await show(it)
        await tell(it, unknown, "failed")
        await learner.take_step()
        before = sum(learner.learner.evidence.values())
        assert await response_weight(it, unknown, 0) == pytest.approx(5 / 30, rel=SOON)
        packed = learner.checkpoint()
        again = it.learner()
        again.restore(packed)
        assert again.checkpoint() == packed
        await tell(it, unknown, "failed", cause="assumption")
        for each in (learner, again):
            assert await each.take_step() > 0
            assert await response_weight(it, unknown, 1) == 1.0
            assert sum(each.learner.evidence.values()) == pytest.approx(before + 1.0 - 5 / 30, rel=SOON), "in its place"
        assert again.checkpoint() == learner.checkpoint()
        last = await show(it)
        await tell(it, last, "failed")
        await learner.take_step()
        assert await response_weight(it, last, 0) == pytest.approx(6 / 31, rel=SOON)

    with_place(check)


def test_a_lost_signal_is_told_once_everywhere(caplog: pytest.LogCaptureFixture) -> None:
    async def check(it: Place) -> None:
        lease = Lease(it.connection, LEASE_LEARNER, "first", 60_000)
        assert await lease.acquire()
        publisher = Publisher(it.connection, lease)
        learner = it.learner()
        assert (await read_signals(it.store)).step == 0
        held = metric("nbx_not_taught_total", placement="hero", reason="unseen")
        for kinds, count in ((("seen", "accepted"), 40), (("accepted",), 35)):
            for _ in range(count):
                await tell(it, await show(it), *kinds)
        await step(learner, publisher)
        (health,) = (await read_signals(it.store)).placements
        assert (health.placement, health.lost, health.reports) == ("hero", True, True)
        assert metric("nbx_signal_lost", placement="hero") == 1.0
        assert metric("nbx_signal_seen_ratio", placement="hero") < 0.3
        assert metric("nbx_not_taught_total", placement="hero", reason="unseen") > held + 20
        assert caplog.text.count("placement hero lost its `seen` events") == 1
        assert sum(learner.learner.evidence.values()) == pytest.approx(40.0), "the rest taught nothing"
        killed = it.learner()
        await killed.redo(RedisJournal(it.connection))
        killed.weighing.tell(again=True)
        assert killed.checkpoint() == learner.checkpoint()
        assert caplog.text.count("lost its `seen` events") == 1, "done again, not told again"
        for _ in range(30):
            await tell(it, await show(it), "seen", "accepted")
        await step(killed, publisher)
        assert not (await read_signals(it.store)).lost
        assert metric("nbx_signal_lost", placement="hero") == 0.0
        assert caplog.text.count("placement hero reports `seen` again") == 1

    with_place(check)


def test_causes_features_and_placements_are_published_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async def check(it: Place) -> None:
        lease = Lease(it.connection, LEASE_LEARNER, "first", 60_000)
        assert await lease.acquire()
        publisher = Publisher(it.connection, lease)
        learner = it.learner()
        for _ in range(35):
            await tell(it, await show(it), "seen", "failed", reason="wrong_data", properties={"feature": "age"})
        await step(learner, publisher)
        for _ in range(60):
            await tell(it, await show(it), "seen", "failed", reason="page_error")
        await step(learner, publisher)
        told = await read_signals(it.store)
        assert [(each.feature, each.quarantined) for each in told.features] == [("age", True), ("tier", False)]
        assert [(each.placement, each.unwell) for each in told.execution] == [("hero", True)]
        assert told.causes.confusion["execution"] == {"unknown": 60}
        assert learner.snapshot().quarantined == ["age"]
        assert decode_snapshot(encode(learner.snapshot())).quarantined == ["age"]
        assert metric("nbx_placement_unwell", placement="hero") == 1.0
        assert metric("nbx_feature_quarantined", feature="age") == 1.0
        killed = it.learner()
        await killed.redo(RedisJournal(it.connection))
        killed.weighing.tell(again=True)
        assert killed.checkpoint() == learner.checkpoint()
        for words in ("placement hero fails far more often", "feature age is quarantined"):
            assert caplog.text.count(words) == 1, "done again, not told again"

    with_place(check)


def test_the_doctor_names_what_is_lost(tmp_path: Path) -> None:
    teaching = Teaching()

    def answered(placement: str, *, seen: bool) -> None:
        teaching.signals.setdefault(placement, Signal()).answer(seen=seen, late=False, decided_ms=0)

    for number in range(80):
        answered("hero", seen=number < 50)
        answered("desk", seen=True)

    async def look(url: str) -> str:
        async with Redis.from_url(url) as redis:
            packed = encode_signals(Signals(step=1, placements=teaching.health()))
            await redis.set(MODEL_SIGNALS, packed)
        settings = Settings(data_dir=tmp_path, redis_url=url, port=9, partitions=4)
        (found,) = [finding for finding in await examine(settings) if finding.name == "signals"]
        return f"{found.status}: {found.words}"

    with RedisServer() as server:
        words = asyncio.run(look(server.url))
        assert words.startswith("bad: hero (seen 0."), words
        assert "desk" not in words
        for _ in range(30):
            answered("hero", seen=True)
        assert asyncio.run(look(server.url)) == "good: `seen` events: 2 placements as usual"


async def step(learner: LogLearner, publisher: Publisher) -> None:
    """Do what the learner process does in a step."""
    assert await learner.take_step() > 0
    await publisher.journal(learner.step, learner.reached)
    learner.weighing.tell()
    packed = encode(learner.snapshot())
    await publisher.snapshot(packed, learner.step, learner.weighing.told(learner.step))
