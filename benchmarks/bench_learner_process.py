"""The learner over a real log: outcomes per second of one core, reading, learning, storing sites, all of it.

Command: `python -m benchmarks.bench_learner_process [--smoke]`. Fills the logs of a private Redis with outcomes of 50
actions at 32 columns and lets the learner take them in; against the in-memory fold alone (`bench_learner`), as a ratio.
CPU is the learner's own process, with event loop and garbage collection as it has them; Redis is another one. Also at
smoke size there are more outcomes than one step takes.
"""

from __future__ import annotations

import argparse
import gc
import time

import numpy as np
import uvloop
from redis.asyncio import Redis

from benchmarks.catalogs import sized
from nbx.bandits.learner import Learner, Observation, warm_up
from nbx.catalog.plan import Plan
from nbx.catalog.releases import publish
from nbx.decision.serving import Serving
from nbx.experience.entries import Event, EventEntry, Outcome, encode_entry
from nbx.features.connection import RedisConnection
from nbx.features.keys import partition_keys
from nbx.features.store_redis import RedisStore
from nbx.ids import new_decision_id
from nbx.runtime.learner_process import PAGE, LogLearner
from nbx.runtime.process import settle
from nbx.runtime.sites import RedisSites
from tests.redis_server import RedisServer

PARTITIONS = 16
ACTIONS = 50
WIDTH = 32
STEP = PARTITIONS * PAGE
"""Outcomes of a step that catches up."""


def main(*, smoke: bool) -> float:
    """Measure and print; returns outcomes per cpu-second of the process."""
    thresholds = gc.get_threshold()
    try:
        per_s: float = uvloop.run(_main(9_000 if smoke else 30_000))
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
    return per_s


async def _main(count: int) -> float:
    warm_up()
    with RedisServer() as server:
        redis = Redis.from_url(server.url)
        await publish(redis, sized(ACTIONS, WIDTH), author="", note="", at_ms=0)
        outcomes = outcomes_made(count)
        async with redis.pipeline(transaction=False) as pipe:
            for outcome in outcomes:
                pipe.xadd(partition_keys(int(outcome.decision_id[:3], 16)).log, {"e": entry_of(outcome)})
            await pipe.execute()
        connection = RedisConnection(server.url)
        store = RedisStore(connection)
        await connection.connect()
        learner = LogLearner(store, Serving(store), PARTITIONS, RedisSites(connection))
        settle()
        began, cpu = time.perf_counter(), time.process_time()
        while await learner.take_step():
            pass
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        assert learner.learned == count
        await connection.close()
        await redis.aclose()
    alone_s = _alone(outcomes)
    print(f"{count} outcomes, {ACTIONS} actions, {WIDTH} columns")
    print(f"  learner over the log  {count / cpu_s:9.0f} per cpu-second, {count / wall_s:9.0f} per second")
    print(f"  fold in memory        {count / alone_s:9.0f} per cpu-second, {cpu_s / alone_s:.2f} x of its time")
    return count / cpu_s


def _alone(outcomes: list[Outcome]) -> float:
    learner = Learner()
    learner.register_layout(1, Plan(sized(ACTIONS, WIDTH), 1).layout.columns)
    observations = [
        Observation(
            key=f"{o.decision_id}/0",
            action=o.action,
            group=o.group,
            layout=1,
            x=o.x,
            response=o.response,
            experience=o.experience,
        )
        for o in outcomes
    ]
    began = time.process_time()
    for at in range(0, len(observations), STEP):
        learner.learn_all(observations[at : at + STEP], {})
    return time.process_time() - began


def outcomes_made(count: int) -> list[Outcome]:
    """Make so many outcomes, of as many customers."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(count, WIDTH)).astype(np.float32)
    chosen = rng.integers(0, ACTIONS, count)
    answers = rng.integers(0, 2, count)
    return [
        Outcome(
            decision_id=new_decision_id(i % PARTITIONS, i),
            slot=0,
            revision=0,
            customer_id=f"c{i}",
            action=f"a{chosen[i]}",
            group=f"g{chosen[i] % 2}",
            treatment="t",
            placement="hero",
            outcome="accepted" if answers[i] else "declined",
            previous=None,
            cause="" if answers[i] else "assumption",
            confidence=1.0,
            evidence=(),
            response=int(answers[i]),
            response_weight=1.0,
            experience=1.0 if answers[i] else -0.3,
            experience_weight=1.0,
            release=1,
            at_ms=i,
            x=x[i].tobytes(),
        )
        for i in range(count)
    ]


def entry_of(outcome: Outcome) -> bytes:
    """Pack the event that led to an outcome."""
    event = Event(event_id=outcome.decision_id, type=outcome.outcome, decision_id=outcome.decision_id)
    return encode_entry(
        EventEntry(
            customer_id=outcome.customer_id,
            at_ms=outcome.at_ms,
            release=1,
            event=event,
            received_ms=outcome.at_ms,
            outcomes=(outcome,),
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    main(smoke=parser.parse_args().smoke)
