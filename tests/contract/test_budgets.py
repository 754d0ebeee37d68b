"""The contract of budgets on real servers and on the fake: grants, closing and settling, and the commits that spend."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import uvloop

from nbx.clock import Clock, ManualClock, SystemClock
from nbx.features import budget_redis
from nbx.features.budget import Book, Budgets, Granted, Window
from nbx.features.budget_redis import REST_SHARE, SHARE, RedisBudgets
from nbx.features.connection import RedisConnection
from nbx.features.keys import partition_keys
from nbx.features.store import Commit, Committed, Put, Spend, Store, Timer, Verdict
from nbx.features.store_redis import RedisStore
from nbx.limits import BUDGET_KEPT_MS, BUDGET_PARTS
from tests.redis_server import SERVERS, RedisServer
from tests.simulation.budget_fake import FakeBudgets
from tests.simulation.store_fake import FakeStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

TIMEOUT_MS = 5_000.0
DAY_MS = 86_400_000
KEYS = partition_keys(3)
ANNA = KEYS.customer("anna")
DONE, STALE, CLOSED = Committed(Verdict.DONE), Committed(Verdict.STALE), Committed(Verdict.CLOSED)


class Scene(NamedTuple):
    """What a story plays on."""

    budgets: Budgets
    store: Store
    clock: Clock
    window: Window

    async def commit(self, version: int, *spends: Spend) -> Committed:
        """Commit everything a commit may hold."""
        put, timer = Put(KEYS.event(f"e{version}"), b"1", DAY_MS, only_new=True), Timer(f"t{version}", 5)
        return await self.store.commit(
            Commit(
                partition=3, customer_key=ANNA, expected_version=version, state=b"s", entries=(b"entry",),
                puts=(put,), arm=(timer,), spends=spends,
            ),
            TIMEOUT_MS,
        )  # fmt: skip

    def spend(self, lease: str, amount: int, until_ms: int = 0) -> Spend:
        return Spend(KEYS.spending(lease), amount, until_ms or self.window.until_ms)

    async def counted(self, lease: str) -> bytes | None:
        return (await self.store.read([KEYS.spending(lease)], TIMEOUT_MS))[0]

    async def grant(self, lease: str, known: int, asked: int, total: int = 1_000_000) -> Granted:
        return await self.budgets.grant(self.window, lease, known, asked, total, TIMEOUT_MS)


class World:
    """Budgets of some kind, and how time passes for them."""

    def __init__(self, server: RedisServer | None) -> None:
        self._server = server
        self.clock: Clock = ManualClock(1_700_000_000_000) if server is None else SystemClock()

    def run(self, story: Callable[[Scene], Awaitable[None]], per_ms: int = DAY_MS, age_ms: int = 0) -> None:
        async def scene() -> None:
            window = Window("gifts/units", self.clock.now_ms() - age_ms, per_ms)
            if self._server is None:
                assert isinstance(self.clock, ManualClock)
                store = FakeStore(self.clock)
                await story(Scene(FakeBudgets(store), store, self.clock, window))
                return
            connection = RedisConnection(self._server.url)
            real = RedisStore(connection)
            await connection.connect()
            try:
                await connection.execute("FLUSHALL", timeout_ms=TIMEOUT_MS)
                await story(Scene(RedisBudgets(connection), real, self.clock, window))
            finally:
                await connection.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(scene())

    async def pass_time(self, by_ms: int) -> None:
        if isinstance(self.clock, ManualClock):
            self.clock.advance(by_ms)
        else:
            await asyncio.sleep(by_ms / 1000)


@pytest.fixture(scope="module", params=[*SERVERS, pytest.param("", id="fake")])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if not request.param:
        yield World(None)
        return
    with RedisServer(request.param) as server:
        yield World(server)


@pytest.mark.parametrize("total", [1, 10, 1_000, 123_457, BUDGET_PARTS])
def test_no_more_than_the_total_is_granted_and_all_of_it_is(world: World, total: int) -> None:
    async def story(scene: Scene) -> None:
        known: dict[str, int] = {}
        for turn in range(100_000):
            lease = f"{turn % 7:x}"
            answer = await scene.grant(lease, known.get(lease, 0), 1, total)
            more = answer.amount - known.get(lease, 0)
            rest = total - sum(known.values())
            assert more == min(rest, max(1, min(total // SHARE, rest // REST_SHARE)))
            if not more:
                break
            known[lease] = answer.amount
        assert sum(known.values()) == total
        assert await scene.budgets.book(scene.window) == Book(total, known)
        assert (await scene.grant("0", known["0"], 1, total)).amount == known["0"], "what it has it keeps"
        assert (await scene.grant("0", known["0"], 9, total - 1)).amount == known["0"], "also when the total falls"
        assert (await scene.grant("0", known["0"], 5, total + 3)).amount == min(known["0"] + 3, known["0"] + 5)

    world.run(story)


def test_what_is_asked_for_is_granted_however_much(world: World) -> None:
    async def story(scene: Scene) -> None:
        assert await scene.grant("a", 0, 70, 100) == Granted(70)
        assert await scene.grant("b", 0, 70, 100) == Granted(30)
        assert await scene.grant("a", 70, 1, 100) == Granted(70)

    world.run(story)


def test_who_does_not_know_what_its_lease_has_is_told_so(world: World) -> None:
    async def story(scene: Scene) -> None:
        assert (await scene.grant("a", 0, 1, 10)).amount == 1
        assert await scene.grant("a", 0, 1, 10) == Granted(-1), "the reply to the first was lost"
        assert await scene.grant("a", 2, 0, 10) == Granted(-1)
        assert await scene.grant("b", 1, 1, 10) == Granted(-1), "it was settled by somebody"
        assert await scene.budgets.book(scene.window) == Book(1, {"a": 1})

    world.run(story)


def test_settling_gives_back_once_what_was_not_spent(world: World) -> None:
    async def story(scene: Scene) -> None:
        await scene.budgets.settle(scene.window, "a", 0)
        assert await scene.budgets.book(scene.window) == Book(0, {})
        await scene.grant("a", 0, 10, 100)
        await scene.grant("b", 0, 5, 100)
        for _ in range(3):
            await scene.budgets.settle(scene.window, "a", 4)
        assert await scene.budgets.book(scene.window) == Book(9, {"b": 5})
        await scene.budgets.settle(scene.window, "b", 5)
        assert await scene.budgets.book(scene.window) == Book(9, {})
        assert (await scene.grant("c", 0, 1_000, 100)).amount == 91
        assert await scene.grant("a", 10, 1, 100) == Granted(-1)

    world.run(story)


def test_amounts_are_exact_as_far_as_totals_go(world: World) -> None:
    async def story(scene: Scene) -> None:
        assert (await scene.grant("a", 0, BUDGET_PARTS - 1, BUDGET_PARTS)).amount == BUDGET_PARTS - 1
        assert (await scene.grant("b", 0, 7, BUDGET_PARTS)).amount == 1
        await scene.budgets.settle(scene.window, "a", BUDGET_PARTS - 2)
        assert await scene.budgets.book(scene.window) == Book(BUDGET_PARTS - 1, {"b": 1})

    world.run(story)


def test_a_lease_left_alone_is_told_to_who_finds_too_little(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_redis, "LEASE_MS", 200)

    async def story(scene: Scene) -> None:
        await scene.grant("a", 0, 4, 10)
        await scene.grant("b", 0, 4, 10)
        assert await scene.grant("c", 0, 3, 10) == Granted(2, ""), "nobody left anything alone yet"
        await world.pass_time(250)
        assert await scene.grant("b", 4, 0, 10) == Granted(4, ""), "prolonged"
        assert await scene.grant("c", 2, 0, 10) == Granted(2, "")
        assert await scene.grant("c", 2, 1, 10) == Granted(2, "a")
        await scene.budgets.settle(scene.window, "a", 0)
        assert await scene.grant("c", 2, 1, 10) == Granted(3, ""), "enough"
        await world.pass_time(250)
        await scene.grant("b", 4, 0, 10)
        assert await scene.grant("c", 3, 9, 10) == Granted(6, ""), "nobody's but its own"

    world.run(story)


def test_long_after_its_end_a_window_grants_nothing_and_pays_nothing(world: World) -> None:
    async def story(scene: Scene) -> None:
        assert (await scene.grant("a", 0, 1, 10)).amount == 1
        early = Window("gifts/units", scene.clock.now_ms() - BUDGET_KEPT_MS - 1_000, 1_000)
        assert (await scene.budgets.grant(early, "b", 0, 1, 10, TIMEOUT_MS)).amount == 0
        assert await scene.commit(0, scene.spend("a", 1, scene.clock.now_ms())) == CLOSED
        assert await scene.commit(0, scene.spend("a", 1)) == DONE

    world.run(story, per_ms=1_000, age_ms=BUDGET_KEPT_MS - 2_000)


def test_spending_is_counted_with_the_commit_or_not_at_all(world: World) -> None:
    async def story(scene: Scene) -> None:
        a, b = scene.spend("a", 3), scene.spend("b", 10**15)
        assert await scene.commit(0, a, b) == DONE
        assert await scene.commit(0, a, b) == Committed(Verdict.EXISTS, b"1")
        assert await scene.commit(7, a, b) == STALE
        assert await scene.commit(1, a) == DONE
        assert [await scene.counted(lease) for lease in "ab"] == [b"6", b"%d" % 10**15]

    world.run(story)


def test_a_closed_lease_pays_for_nothing_and_its_count_stays(world: World) -> None:
    async def story(scene: Scene) -> None:
        until_ms = scene.window.until_ms
        await scene.commit(0, scene.spend("a", 3))
        for _ in range(2):
            assert await scene.budgets.close("a", 3, until_ms) == 3
            assert await scene.budgets.close("b", 3, until_ms) == 0
        assert await scene.budgets.close("a", 2, until_ms) == 0, "another partition"
        for spends in ((scene.spend("a", 1),), (scene.spend("b", 1),), (scene.spend("c", 1), scene.spend("a", 1))):
            assert await scene.commit(1, *spends) == CLOSED
        assert await scene.commit(7, scene.spend("a", 1)) == STALE
        assert await scene.commit(0, scene.spend("a", 1)) == Committed(Verdict.EXISTS, b"1")
        assert await scene.store.read([ANNA, KEYS.event("e1")], TIMEOUT_MS) == [bytes(7) + b"\x01s", None]
        assert len(await scene.store.log_tail(3, 9)) == 1
        assert await scene.store.due(3, 9, 9) == [Timer("t0", 5)]
        assert [await scene.counted(lease) for lease in "abc"] == [b"c3", b"c0", None]
        assert await scene.commit(1, scene.spend("c", 1)) == DONE

    world.run(story)


def test_keys_of_a_window_outlive_its_spending(world: World) -> None:
    async def story(scene: Scene) -> None:
        if not isinstance(scene.store, RedisStore):
            return
        await scene.grant("a", 0, 1, 10)
        await scene.commit(0, scene.spend("a", 1))
        await scene.budgets.close("b", 3, scene.window.until_ms)
        for key in (scene.window.key, KEYS.spending("a"), KEYS.spending("b")):
            ends_ms = await scene.store._connection.execute("PEXPIRETIME", key, timeout_ms=TIMEOUT_MS)
            assert ends_ms == scene.window.until_ms + BUDGET_KEPT_MS, key

    world.run(story)


@pytest.mark.parametrize("seed", range(4))
def test_answers_as_the_fake_does(world: World, seed: int) -> None:
    async def story(scene: Scene) -> None:
        store = FakeStore(ManualClock(scene.clock.now_ms()))
        fake = FakeBudgets(store)
        rng = np.random.default_rng(seed)
        total = int(rng.integers(1, 3_000))
        for _ in range(300):
            lease = f"{rng.integers(4)}"
            book = await fake.book(scene.window)
            match rng.integers(4):
                case 0:
                    spent = int(rng.integers(book.leases.get(lease, 0) + 1))
                    await fake.settle(scene.window, lease, spent)
                    await scene.budgets.settle(scene.window, lease, spent)
                case _:
                    known = book.leases.get(lease, 0) + int(rng.random() < 0.1)
                    asked = int(rng.integers(30))
                    expected = await fake.grant(scene.window, lease, known, asked, total, TIMEOUT_MS)
                    assert await scene.grant(lease, known, asked, total) == expected
            assert await scene.budgets.book(scene.window) == await fake.book(scene.window)

    world.run(story)
