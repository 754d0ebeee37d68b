"""Deep replay: log entries per second of one core, beside the live learner over the same log.

Command: `python -m benchmarks.bench_replay [--smoke]`. The log holds as many decisions of 50 candidates as outcomes, at
32 columns; a learner takes it in and journals its steps; then a decision on its last snapshot is asked for, so that all
steps are done again, with a thousand customers folded on the way. CPU is this process's own; Redis is another one.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from msgspec import structs
from redis.asyncio import Redis

from benchmarks.bench_learner_process import ACTIONS, PARTITIONS, WIDTH, entry_of, outcomes_made
from benchmarks.catalogs import sized
from nbx.bandits.learner import warm_up as warm_up_learning
from nbx.bandits.snapshot import bind
from nbx.build import current_build
from nbx.catalog.plan import Plan
from nbx.catalog.releases import publish
from nbx.decision.choice import decide
from nbx.decision.messages import DecideRequest
from nbx.decision.record import decision_entry
from nbx.decision.serving import Serving
from nbx.decision.warm_up import warm_up
from nbx.experience.entries import DecisionEntry, encode_entry
from nbx.features.connection import RedisConnection
from nbx.features.keys import LEASE_LEARNER, partition_keys
from nbx.features.lease import Lease
from nbx.features.state import CustomerState
from nbx.features.store_redis import RedisStore
from nbx.ids import new_decision_id, partition_of
from nbx.runtime.deep_replay import DeepReplay, Wanted
from nbx.runtime.journal import RedisJournal
from nbx.runtime.learner_process import LogLearner
from nbx.runtime.publishing import Publisher
from nbx.runtime.sites import RedisSites
from tests.redis_server import RedisServer

CUSTOMERS = 1_000
NOW_MS = 1_700_000_000_000


def main(*, smoke: bool) -> float:
    """Measure and print; returns entries per cpu-second."""
    return asyncio.run(_main(2_000 if smoke else 20_000))


async def _main(count: int) -> float:
    warm_up()
    warm_up_learning()
    with RedisServer() as server:
        redis = Redis.from_url(server.url)
        catalog = sized(ACTIONS, WIDTH)
        await publish(redis, catalog, author="", note="", at_ms=0)
        record = _record(Plan(catalog, 1))
        async with redis.pipeline(transaction=False) as pipe:
            for number, outcome in enumerate(outcomes_made(count)):
                customer = f"c{number % CUSTOMERS}"
                partition = partition_of(customer, PARTITIONS)
                one = structs.replace(record, customer_id=customer, decision_id=new_decision_id(partition, number))
                pipe.xadd(partition_keys(partition).log, {"e": encode_entry(one)})
                pipe.xadd(partition_keys(int(outcome.decision_id[:3], 16)).log, {"e": entry_of(outcome)})
            await pipe.execute()
        connection = RedisConnection(server.url)
        store = RedisStore(connection)
        await connection.connect()
        learner_s, steps = await _learn(connection, store)
        last = (await store.log_tail(0, 1))[0].entry_id
        wanted = [Wanted(f"d{k}", f"c{k}", 0, last, steps) for k in range(CUSTOMERS)]
        build = current_build()
        rates = []
        for asked in (wanted[:1], wanted):
            deep = DeepReplay(store, RedisJournal(connection), PARTITIONS, build=build, salt="s")
            began = time.process_time()
            async for _ in deep.run(asked):
                raise AssertionError("none of these is in the log")
            assert deep.learner.learned == count
            spent_s = time.process_time() - began
            rates.append(deep.entries / spent_s)
            print(
                f"{deep.entries} log entries, {count} outcomes, {len(asked)} customers folded: "
                f"{rates[-1]:9.0f} entries per cpu-second, {spent_s / learner_s:.2f} x of the live learner's time"
            )
        await connection.close()
        await redis.aclose()
    return rates[0]


async def _learn(connection: RedisConnection, store: RedisStore) -> tuple[float, int]:
    lease = Lease(connection, LEASE_LEARNER, "bench", 600_000)
    assert await lease.acquire()
    publisher = Publisher(connection, lease)
    learner = LogLearner(store, Serving(store), PARTITIONS, RedisSites(connection))
    began = time.process_time()
    while await learner.take_step():
        await publisher.journal(learner.step, learner.reached)
    return time.process_time() - began, learner.step


def _record(plan: Plan) -> DecisionEntry:
    placement = next(iter(plan.placements))
    request = DecideRequest(customer_id="c", placement=placement)
    model = bind(None, plan.layout.columns, plan.action_names, plan.action_groups)
    choice = decide(plan, model, CustomerState(), request, "0" * 26, NOW_MS, salt="s")
    return decision_entry(choice, request, "0" * 26, NOW_MS, release=1, snapshot=0, state_version=0, took_us=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    main(smoke=parser.parse_args().smoke)
