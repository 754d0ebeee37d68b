"""The store contract on real servers and on the fake; then, for real servers only, what happens when they fail."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest
import uvloop
from msgspec import structs

from nbx.clock import ManualClock
from nbx.errors import Unavailable
from nbx.features.connection import STRIKES, RedisConnection
from nbx.features.keys import partition_keys
from nbx.features.store import Commit, Committed, LogEntry, Put, Spend, Store, Timer, Verdict, versioned
from nbx.features.store_redis import RedisStore
from tests.redis_server import SERVERS, RedisServer
from tests.simulation.store_fake import FakeStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

TIMEOUT_MS = 5_000
PATIENCE_S = 20.0
KEYS = partition_keys(3)
ANNA = KEYS.customer("anna")
FAR_MS = 4_000_000_000_000
ALL_BYTES = bytes(range(256)) + b"\r\n$5\r\n" + b"\xff\x00" * 3

LOOPS = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
]


def commit_of(
    expected: int = 0,
    *,
    state: bytes = b"state",
    key: str = ANNA,
    partition: int = 3,
    entries: tuple[bytes, ...] = (),
    puts: tuple[Put, ...] = (),
    arm: tuple[Timer, ...] = (),
    cancel: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
    spends: tuple[Spend, ...] = (),
) -> Commit:
    return Commit(
        partition=partition,
        customer_key=key,
        expected_version=expected,
        state=state,
        entries=entries,
        puts=puts,
        arm=arm,
        cancel=cancel,
        drop=drop,
        spends=spends,
    )


async def eventually(condition: Callable[[], Awaitable[bool]], between: Callable[[], None] = lambda: None) -> None:
    """Poll until `condition` holds; fail after `PATIENCE_S`."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            between()
            await asyncio.sleep(0.005)


class World:
    """A store of some kind, and how time passes for it."""

    def __init__(self, server: RedisServer | None) -> None:
        self._server = server
        self._clock = ManualClock(1_700_000_000_000)

    def run(self, story: Callable[[Store], Awaitable[None]]) -> None:
        async def scene() -> None:
            if self._server is None:
                await story(FakeStore(self._clock))
                return
            connection = RedisConnection(self._server.url)
            store = RedisStore(connection)
            await connection.connect()
            try:
                await connection.execute("FLUSHALL", timeout_ms=TIMEOUT_MS)
                await story(store)
            finally:
                await connection.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(scene())

    def pass_time(self) -> None:
        """Ten milliseconds for the fake; real servers have their own clock."""
        self._clock.advance(10)


@pytest.fixture(scope="module", params=[*SERVERS, pytest.param("", id="fake")])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if not request.param:
        yield World(None)
        return
    with RedisServer(request.param) as server:
        yield World(server)


async def log_of(store: Store, partition: int = 3) -> list[bytes]:
    return [entry.payload for entry in await store.log_range(partition, "-", "+", 10_000)]


def test_versions_count_commits(world: World) -> None:
    async def story(store: Store) -> None:
        assert await store.read([ANNA], TIMEOUT_MS) == [None]
        for version in range(300):  # past one byte of version
            assert await store.commit(commit_of(version, state=b"%d" % version), TIMEOUT_MS) == Committed(Verdict.DONE)
        (blob,) = await store.read([ANNA], TIMEOUT_MS)
        assert versioned(blob) == (300, b"299")

    world.run(story)


@pytest.mark.parametrize("expected", [0, 1, 3])
def test_stale_changes_nothing(world: World, expected: int) -> None:
    async def story(store: Store) -> None:
        for version in range(2):
            await store.commit(commit_of(version, arm=(Timer("kept", 5),)), TIMEOUT_MS)
        late = commit_of(
            expected,
            state=b"late",
            entries=(b"entry",),
            puts=(Put(KEYS.request("anna", "r"), b"reply", 1_000), Put(KEYS.event("e"), b"", 1_000, only_new=True)),
            arm=(Timer("new", 5),),
            cancel=("kept",),
        )
        assert await store.commit(late, TIMEOUT_MS) == Committed(Verdict.STALE)
        keys = [ANNA, KEYS.request("anna", "r"), KEYS.event("e")]
        assert await store.read(keys, TIMEOUT_MS) == [bytes(7) + b"\x02state", None, None]
        assert await log_of(store) == []
        assert await store.due(3, 10, 10) == [Timer("kept", 5)]

    world.run(story)


def test_version_of_an_absent_state_is_stale(world: World) -> None:
    async def story(store: Store) -> None:
        assert (await store.commit(commit_of(1), TIMEOUT_MS)).verdict is Verdict.STALE
        assert await store.read([ANNA], TIMEOUT_MS) == [None]

    world.run(story)


def test_exists_comes_before_stale_and_tells_the_first(world: World) -> None:
    async def story(store: Store) -> None:
        first, second, third = (Put(KEYS.event(name), name.encode(), 60_000, only_new=True) for name in "abc")
        await store.commit(commit_of(0, puts=(second, third)), TIMEOUT_MS)
        again = commit_of(7, entries=(b"x",), puts=(first, third, second), arm=(Timer("t", 1),))  # stale as well
        assert await store.commit(again, TIMEOUT_MS) == Committed(Verdict.EXISTS, b"c")
        current = commit_of(1, entries=(b"x",), puts=(first, second))
        assert await store.commit(current, TIMEOUT_MS) == Committed(Verdict.EXISTS, b"b")
        assert await store.read([ANNA, first.key], TIMEOUT_MS) == [bytes(7) + b"\x01state", None]
        assert await log_of(store) == []
        assert await store.due(3, 10, 10) == []

    world.run(story)


def test_an_empty_value_exists_too(world: World) -> None:
    async def story(store: Store) -> None:
        mark = Put(KEYS.event("e"), b"", 60_000, only_new=True)
        assert (await store.commit(commit_of(0, puts=(mark,)), TIMEOUT_MS)).verdict is Verdict.DONE
        assert await store.commit(commit_of(1, puts=(mark,)), TIMEOUT_MS) == Committed(Verdict.EXISTS, b"")

    world.run(story)


def test_puts_overwrite_unless_only_new(world: World) -> None:
    async def story(store: Store) -> None:
        key = KEYS.decision("d")
        await store.commit(commit_of(0, puts=(Put(key, b"one", 60_000),)), TIMEOUT_MS)
        await store.commit(commit_of(1, puts=(Put(key, b"two", 60_000),)), TIMEOUT_MS)
        assert await store.read([key], TIMEOUT_MS) == [b"two"]

    world.run(story)


def test_puts_end_and_may_then_be_new_again(world: World) -> None:
    async def story(store: Store) -> None:
        short, long = Put(KEYS.event("e"), b"1", 40, only_new=True), Put(KEYS.event("f"), b"2", 60_000)
        await store.commit(commit_of(0, puts=(short, long)), TIMEOUT_MS)

        async def ended() -> bool:
            return await store.read([short.key], TIMEOUT_MS) == [None]

        await eventually(ended, world.pass_time)
        assert await store.read([long.key, ANNA], TIMEOUT_MS) == [b"2", bytes(7) + b"\x01state"]
        assert (await store.commit(commit_of(1, puts=(short,)), TIMEOUT_MS)).verdict is Verdict.DONE

    world.run(story)


def test_dropped_keys_are_gone_all_or_none(world: World) -> None:
    async def story(store: Store) -> None:
        a, b, c = KEYS.decision("a"), KEYS.decision("b"), KEYS.decision("c")
        puts = (Put(a, b"A", 60_000), Put(b, b"B", 60_000))
        await store.commit(commit_of(0, puts=puts, arm=(Timer("a", 1),)), TIMEOUT_MS)
        drop = commit_of(1, entries=(b"e",), puts=(Put(c, b"C", 60_000),), drop=(a, "gone", b), cancel=("a",))
        assert (await store.commit(structs.replace(drop, expected_version=7), TIMEOUT_MS)).verdict is Verdict.STALE
        assert await store.read([a, b, c], TIMEOUT_MS) == [b"A", b"B", None]
        assert (await store.commit(drop, TIMEOUT_MS)).verdict is Verdict.DONE
        assert await store.read([a, b, c], TIMEOUT_MS) == [None, None, b"C"]
        assert await log_of(store) == [b"e"]
        assert await store.due(3, 1, 1) == []
        both = commit_of(2, puts=(Put(c, b"D", 60_000, only_new=True),), drop=(c,))
        assert await store.commit(both, TIMEOUT_MS) == Committed(Verdict.EXISTS, b"C"), "a drop is no leave to put"

    world.run(story)


def test_a_put_on_the_state_gives_it_an_end_and_a_commit_takes_the_end_away(world: World) -> None:
    async def story(store: Store) -> None:
        ending = Put(ANNA, bytes(7) + b"\x02last", 40)
        await store.commit(commit_of(0), TIMEOUT_MS)
        assert (await store.commit(commit_of(1, puts=(ending,)), TIMEOUT_MS)).verdict is Verdict.DONE
        assert (await store.commit(commit_of(1), TIMEOUT_MS)).verdict is Verdict.STALE
        assert (await store.commit(commit_of(2, state=b"on"), TIMEOUT_MS)).verdict is Verdict.DONE
        ben = KEYS.customer("ben")
        await store.commit(commit_of(0, key=ben, puts=(Put(ben, bytes(7) + b"\x01end", 40),)), TIMEOUT_MS)

        async def ended() -> bool:
            return await store.read([ben], TIMEOUT_MS) == [None]

        await eventually(ended, world.pass_time)
        assert await store.read([ANNA], TIMEOUT_MS) == [bytes(7) + b"\x03on"]

    world.run(story)


def test_timers_are_due_in_order_until_cancelled(world: World) -> None:
    async def story(store: Store) -> None:
        now = 1_700_000_000_000
        timers = (Timer("late", now + 2), Timer("b", now), Timer("é", now), Timer("a", now), Timer("early", now - 5))
        await store.commit(commit_of(0, arm=timers), TIMEOUT_MS)
        due = [Timer("early", now - 5), Timer("a", now), Timer("b", now), Timer("é", now)]
        assert await store.due(3, now, 10) == due
        assert await store.due(3, now, 10) == due
        assert await store.due(3, now, 2) == due[:2]
        assert await store.due(3, now, 0) == []
        assert await store.due(3, now - 6, 10) == []
        assert await store.due(4, now, 10) == []
        await store.commit(commit_of(1, cancel=("a", "early", "never-armed")), TIMEOUT_MS)
        assert await store.due(3, now + 2, 10) == [Timer("b", now), Timer("é", now), Timer("late", now + 2)]

    world.run(story)


def test_arming_again_moves_a_timer_and_comes_after_cancelling(world: World) -> None:
    async def story(store: Store) -> None:
        await store.commit(commit_of(0, arm=(Timer("a", 10), Timer("b", 20))), TIMEOUT_MS)
        await store.commit(commit_of(1, arm=(Timer("a", 30),)), TIMEOUT_MS)
        await store.commit(commit_of(2, cancel=("b",), arm=(Timer("b", 40),)), TIMEOUT_MS)
        assert await store.due(3, 100, 10) == [Timer("a", 30), Timer("b", 40)]

    world.run(story)


def test_timers_can_be_dropped_without_a_commit(world: World) -> None:
    async def story(store: Store) -> None:
        await store.drop_timers(3, ["a"])
        await store.commit(commit_of(0, arm=(Timer("a", 1), Timer("b", 2), Timer("é", 3))), TIMEOUT_MS)
        await store.drop_timers(3, [])
        await store.drop_timers(4, ["b"])
        await store.drop_timers(3, ["a", "é", "gone"])
        assert await store.due(3, 10, 10) == [Timer("b", 2)]

    world.run(story)


def test_log_keeps_order_and_reads_by_range(world: World) -> None:
    async def story(store: Store) -> None:
        await store.commit(commit_of(0, entries=(b"0", b"1", b"2")), TIMEOUT_MS)
        await store.commit(commit_of(1, entries=(b"3",)), TIMEOUT_MS)
        await store.commit(commit_of(0, key=KEYS.customer("ben"), entries=(b"4", b"5")), TIMEOUT_MS)
        entries = await store.log_range(3, "-", "+", 100)
        assert [entry.payload for entry in entries] == [b"0", b"1", b"2", b"3", b"4", b"5"]
        assert {entry.partition for entry in entries} == {3}
        ids = [tuple(int(part) for part in entry.entry_id.split("-")) for entry in entries]
        assert ids == sorted(set(ids))

        async def page(start: str, end: str, count: int = 100) -> list[LogEntry]:
            return await store.log_range(3, start, end, count)

        first, last = entries[1].entry_id, entries[4].entry_id
        assert await page(first, last) == entries[1:5]
        assert await page(f"({first}", last) == entries[2:5]
        assert await page(first, f"({last}") == entries[1:4]
        assert await page(f"({first}", "+", 2) == entries[2:4]
        assert await page("-", "+", 0) == []
        assert await page(f"({entries[-1].entry_id}", "+") == []
        assert await page(last, first) == []

    world.run(story)


def test_log_tail_is_newest_first(world: World) -> None:
    async def story(store: Store) -> None:
        assert await store.log_tail(3, 5) == []
        assert await store.log_range(3, "-", "+", 5) == []
        await store.commit(commit_of(0, entries=(b"0", b"1", b"2")), TIMEOUT_MS)
        entries = await store.log_range(3, "-", "+", 5)
        assert await store.log_tail(3, 2) == [entries[2], entries[1]]
        assert await store.log_tail(3, 100) == entries[::-1]
        assert await store.log_tail(3, 0) == []

    world.run(story)


def test_reads_keep_the_order_asked_for(world: World) -> None:
    async def story(store: Store) -> None:
        a, b, gone = KEYS.decision("a"), KEYS.decision("b"), KEYS.decision("gone")
        await store.commit(commit_of(0, puts=(Put(a, b"A", 60_000), Put(b, b"", 60_000))), TIMEOUT_MS)
        assert await store.read([], TIMEOUT_MS) == []
        assert await store.read([b, gone, a, b], TIMEOUT_MS) == [b"", None, b"A", b""]

    world.run(story)


def test_every_byte_survives(world: World) -> None:
    async def story(store: Store) -> None:
        key, put = KEYS.customer("Zoë {x}\t✓"), KEYS.request("Zoë", "a:b")
        commit = commit_of(
            0, key=key, state=ALL_BYTES, entries=(ALL_BYTES, b"", bytes(3)), puts=(Put(put, ALL_BYTES, 60_000),),
            arm=(Timer("Zoë/0 ✓", 1),),
        )  # fmt: skip
        assert (await store.commit(commit, TIMEOUT_MS)).verdict is Verdict.DONE
        state, reply = await store.read([key, put], TIMEOUT_MS)
        assert versioned(state) == (1, ALL_BYTES)
        assert reply == ALL_BYTES
        assert await log_of(store) == [ALL_BYTES, b"", bytes(3)]
        assert await store.due(3, 1, 1) == [Timer("Zoë/0 ✓", 1)]

    world.run(story)


def test_a_commit_may_be_large(world: World) -> None:
    async def story(store: Store) -> None:
        commit = commit_of(
            0,
            state=b"s" * 200_000,
            entries=tuple(b"%d" % i for i in range(1_000)),
            puts=tuple(Put(KEYS.event(f"{i}"), b"%d" % i, 60_000, only_new=i % 2 == 0) for i in range(1_000)),
            arm=tuple(Timer(f"{i:04}", i) for i in range(1_000)),
            cancel=tuple(f"x{i}" for i in range(1_000)),
        )
        assert (await store.commit(commit, TIMEOUT_MS)).verdict is Verdict.DONE
        assert await log_of(store) == list(commit.entries)
        assert await store.read([put.key for put in commit.puts], TIMEOUT_MS) == list(commit.entries)
        assert await store.due(3, 1_000, 2_000) == list(commit.arm)

    world.run(story)


@pytest.mark.parametrize(
    "wrong",
    [
        commit_of(0, state=b""),
        commit_of(0, puts=(Put("k", b"", 60_000), Put("l", b"", 0))),
        commit_of(0, puts=(Put("k", b"", 60_000),), spends=(Spend("b", 1, FAR_MS), Spend("c", 0, FAR_MS))),
    ],
    ids=["state", "ttl", "amount"],
)
def test_wrong_commits_are_refused_before_anything(world: World, wrong: Commit) -> None:
    async def story(store: Store) -> None:
        with pytest.raises(ValueError, match=r"state|ttl_ms|amount"):
            await store.commit(wrong, TIMEOUT_MS)
        assert await store.read([ANNA, "k"], TIMEOUT_MS) == [None, None]

    world.run(story)


def test_one_of_many_wins_each_version_and_none_is_lost(world: World) -> None:
    committers = 100

    async def story(store: Store) -> None:
        async def attempt(name: bytes) -> tuple[int, Verdict]:
            (blob,) = await store.read([ANNA], TIMEOUT_MS)
            version, members = versioned(blob)
            state = (members or b"") + name + b" "
            commit = commit_of(version, state=state, entries=(name,))
            return version, (await store.commit(commit, TIMEOUT_MS)).verdict

        async def insist(name: bytes) -> list[tuple[int, Verdict]]:
            tries = [await attempt(name)]
            while tries[-1][1] is not Verdict.DONE:
                tries.append(await attempt(name))
            return tries

        names = [b"%d" % i for i in range(committers)]
        tried = await asyncio.gather(*(insist(name) for name in names))
        won = [version for tries in tried for version, verdict in tries if verdict is Verdict.DONE]
        assert sorted(won) == list(range(committers))
        (blob,) = await store.read([ANNA], TIMEOUT_MS)
        version, members = versioned(blob)
        assert version == committers
        assert members is not None
        assert members.split() == await log_of(store)
        assert sorted(members.split()) == sorted(names)

    world.run(story)


def test_of_commits_at_one_version_exactly_one_wins(world: World) -> None:
    async def story(store: Store) -> None:
        made = await asyncio.gather(*(store.commit(commit_of(0, state=b"%d" % i), TIMEOUT_MS) for i in range(100)))
        verdicts = [committed.verdict for committed in made]
        assert verdicts.count(Verdict.DONE) == 1
        assert verdicts.count(Verdict.STALE) == 99
        (blob,) = await store.read([ANNA], TIMEOUT_MS)
        assert versioned(blob) == (1, b"%d" % verdicts.index(Verdict.DONE))

    world.run(story)


@pytest.mark.parametrize("seed", range(5))
def test_answers_as_the_fake_does(world: World, seed: int) -> None:
    """Three hundred drawn commits, the same answers and the same traces as the fake gives."""

    async def story(store: Store) -> None:
        fake = FakeStore(ManualClock(1))
        rng = np.random.default_rng(seed)
        customers = [KEYS.customer(f"c{i}") for i in range(3)]
        marks = [KEYS.event(f"e{i}") for i in range(40)]
        counters = [KEYS.spending(f"l{i}") for i in range(3)]
        for step in range(300):
            key = customers[rng.integers(3)]
            version, _ = versioned((await fake.read([key], TIMEOUT_MS))[0])
            commit = commit_of(
                max(0, version - int(rng.random() < 0.2)),
                key=key,
                state=rng.bytes(int(rng.integers(1, 50))),
                entries=tuple(rng.bytes(5) for _ in range(rng.integers(3))),
                puts=tuple(
                    Put(marks[rng.integers(40)], b"%d" % step, 600_000, only_new=bool(rng.random() < 0.3))
                    for _ in range(rng.integers(3))
                ),
                arm=tuple(Timer(f"t{rng.integers(20)}", int(rng.integers(100))) for _ in range(rng.integers(3))),
                cancel=tuple(f"t{rng.integers(20)}" for _ in range(rng.integers(3))),
                drop=tuple(marks[rng.integers(40)] for _ in range(rng.integers(2))),
                spends=tuple(
                    Spend(key, int(rng.integers(1, 9)), 1 if rng.random() < 0.1 else FAR_MS)
                    for key in rng.choice(counters, rng.integers(3), replace=False).tolist()
                ),
            )
            assert await store.commit(commit, TIMEOUT_MS) == await fake.commit(commit, TIMEOUT_MS)
        keys = customers + marks + counters
        assert await store.read(keys, TIMEOUT_MS) == await fake.read(keys, TIMEOUT_MS)
        assert await log_of(store) == await log_of(fake)
        assert await store.due(3, 60, 100) == await fake.due(3, 60, 100)

    world.run(story)


def test_faults_of_the_fake() -> None:
    async def story() -> None:
        store = FakeStore(ManualClock(1))
        store.failing_reads = store.failing_commits_before = 1
        with pytest.raises(Unavailable):
            await store.read([ANNA], TIMEOUT_MS)
        with pytest.raises(Unavailable):
            await store.commit(commit_of(0), TIMEOUT_MS)
        assert await store.read([ANNA], TIMEOUT_MS) == [None]
        store.failing_commits_after = 1
        with pytest.raises(Unavailable):
            await store.commit(commit_of(0), TIMEOUT_MS)
        assert versioned((await store.read([ANNA], TIMEOUT_MS))[0]) == (1, b"state")

    asyncio.run(story())


@pytest.mark.parametrize("blob", [b"", bytes(8)])
def test_a_blob_without_a_struct_is_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match="bytes"):
        versioned(blob)


if TYPE_CHECKING:
    Drama = Callable[[RedisServer, RedisConnection, RedisStore], Awaitable[None]]


@pytest.fixture(params=LOOPS)
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    factory: Callable[[], asyncio.AbstractEventLoop] = request.param
    return factory


@pytest.fixture(params=SERVERS)
def perform(
    request: pytest.FixtureRequest, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> Iterator[Callable[[Drama], None]]:
    """Run a story on a server of its own, whose writes survive `kill`."""
    with RedisServer(request.param, "--appendfsync", "always") as server:

        def run(drama: Drama) -> None:
            async def scene() -> None:
                connection = RedisConnection(server.url)
                store = RedisStore(connection)
                await connection.connect()
                try:
                    await drama(server, connection, store)
                finally:
                    await connection.close(wait_s=0.1)

            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(scene())

        yield run


async def recovered(store: Store) -> None:
    """Poll until the store answers again."""

    async def answers() -> bool:
        try:
            await store.read([ANNA], 1_000)
        except Unavailable:
            return False
        return True

    await eventually(answers)


async def assert_replies_match(connection: RedisConnection) -> None:
    """Ask a hundred different things at once: a shifted reply would show."""
    asked = [b"%d" % i for i in range(100)]
    assert await asyncio.gather(*(connection.execute("ECHO", text, timeout_ms=TIMEOUT_MS) for text in asked)) == asked


def test_commits_survive_a_script_flush(perform: Callable[[Drama], None]) -> None:
    async def drama(_: RedisServer, connection: RedisConnection, store: RedisStore) -> None:
        flushes = []

        async def commit(i: int) -> Committed:
            if i % 10 == 0:
                flushes.append(connection.execute("SCRIPT", "FLUSH", timeout_ms=TIMEOUT_MS))
            return await store.commit(commit_of(0, key=KEYS.customer(f"{i}"), entries=(b"%d" % i,)), TIMEOUT_MS)

        made = await asyncio.gather(*(commit(i) for i in range(200)))
        assert len(await asyncio.gather(*flushes)) == 20
        assert {committed.verdict for committed in made} == {Verdict.DONE}
        assert sorted(await log_of(store)) == sorted(b"%d" % i for i in range(200))

    perform(drama)


def test_a_killed_connection_fails_at_once_and_comes_back(perform: Callable[[Drama], None]) -> None:
    async def drama(server: RedisServer, connection: RedisConnection, store: RedisStore) -> None:
        admin = RedisConnection(server.url)
        await admin.connect()
        me = await connection.execute("CLIENT", "ID", timeout_ms=TIMEOUT_MS)
        await admin.execute("CLIENT", "PAUSE", 60_000, "WRITE", timeout_ms=TIMEOUT_MS)
        commits = asyncio.gather(
            *(store.commit(commit_of(0, entries=(b"%d" % i,)), 60_000) for i in range(50)), return_exceptions=True
        )
        await assert_replies_match(admin)  # gives the commits time to leave
        await admin.execute("CLIENT", "KILL", "ID", me, timeout_ms=TIMEOUT_MS)
        failed = await commits
        assert [fault.code for fault in failed if isinstance(fault, Unavailable)] == ["state_unavailable"] * 50
        await admin.execute("CLIENT", "UNPAUSE", timeout_ms=TIMEOUT_MS)
        await recovered(store)
        assert await log_of(store) == []
        assert await store.commit(commit_of(0), TIMEOUT_MS) == Committed(Verdict.DONE)
        await assert_replies_match(connection)
        await admin.close()

    perform(drama)


def test_a_stalled_server_times_out_opens_the_breaker_and_recovers(perform: Callable[[Drama], None]) -> None:
    async def drama(server: RedisServer, connection: RedisConnection, store: RedisStore) -> None:
        await store.commit(commit_of(0), TIMEOUT_MS)
        server.send_signal(signal.SIGSTOP)
        try:
            reads = [store.read([ANNA], 50) for _ in range(STRIKES)]
            failed = await asyncio.gather(*reads, return_exceptions=True)
            assert [fault.code for fault in failed if isinstance(fault, Unavailable)] == ["state_timeout"] * STRIKES
            waiting = connection.in_flight
            with pytest.raises(Unavailable, match="in a row") as refused:
                await store.commit(commit_of(1), TIMEOUT_MS)
            assert refused.value.code == "state_unavailable"
            assert connection.in_flight == waiting == STRIKES
        finally:
            server.send_signal(signal.SIGCONT)
        await recovered(store)
        assert versioned((await store.read([ANNA], TIMEOUT_MS))[0]) == (1, b"state")
        await assert_replies_match(connection)
        assert connection.in_flight == 0

    perform(drama)


def test_a_killed_server_comes_back_with_all_that_was_acknowledged(perform: Callable[[Drama], None]) -> None:
    async def drama(server: RedisServer, connection: RedisConnection, store: RedisStore) -> None:
        acknowledged: dict[str, int] = {}

        async def commit(customer: str) -> None:
            for version in range(10_000):
                put = Put(KEYS.event(f"{customer}-{version}"), b"", 600_000, only_new=True)
                try:
                    await store.commit(commit_of(version, key=customer, entries=(b"e",), puts=(put,)), TIMEOUT_MS)
                except Unavailable:
                    return
                acknowledged[customer] = version + 1

        committers = asyncio.gather(*(commit(KEYS.customer(f"{i}")) for i in range(20)))

        async def under_way() -> bool:
            return len(await store.log_tail(3, 500)) == 500

        await eventually(under_way)
        server.kill()
        await committers
        with pytest.raises(Unavailable, match="not connected"):
            await store.read([ANNA], TIMEOUT_MS)
        server.start()
        await recovered(store)
        versions = [versioned(blob)[0] for blob in await store.read(list(acknowledged), TIMEOUT_MS)]
        assert len(versions) == 20
        for version, told in zip(versions, acknowledged.values(), strict=True):
            assert told <= version <= told + 1  # the one in flight may have been applied
        assert len(await store.log_range(3, "-", "+", 1_000_000)) == sum(versions)
        await assert_replies_match(connection)

    perform(drama)
