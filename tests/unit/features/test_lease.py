from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from nbx.features.connection import RedisConnection
from nbx.features.lease import Lease
from tests.redis_server import SERVERS, RedisServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

KEY = "nbx:lease:test"
LONG_MS = 60_000
SHORT_MS = 50


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(request.param) as running:
        yield running


def run(server: RedisServer, story: Callable[[RedisConnection], Awaitable[None]]) -> None:
    async def scene() -> None:
        connection = RedisConnection(server.url)
        await connection.connect()
        try:
            await connection.execute("FLUSHALL", timeout_ms=1_000)
            await story(connection)
        finally:
            await connection.close()

    asyncio.run(scene())


async def acquired(lease: Lease) -> int:
    """Poll until the lease is ours."""
    async with asyncio.timeout(10):
        while (token := await lease.acquire()) is None:  # noqa: ASYNC110 - the server's clock cannot be driven
            await asyncio.sleep(0.005)
    return token


def test_one_holds_it_until_released(server: RedisServer) -> None:
    async def story(connection: RedisConnection) -> None:
        # the same name twice: two objects are two holders
        one, two = Lease(connection, KEY, "learner", LONG_MS), Lease(connection, KEY, "learner", LONG_MS)
        first = await one.acquire()
        assert first is not None
        assert await two.acquire() is None
        assert await one.renew()
        assert not await two.renew()
        await two.release()
        assert await two.acquire() is None
        await one.release()
        second = await two.acquire()
        assert second is not None
        assert second > first
        assert await one.acquire() is None
        assert not await one.renew()

    run(server, story)


def test_acquiring_again_keeps_the_token(server: RedisServer) -> None:
    async def story(connection: RedisConnection) -> None:
        lease = Lease(connection, KEY, "a", LONG_MS)
        token = await lease.acquire()
        assert await lease.acquire() == token
        await lease.release()
        assert not await lease.renew()
        assert await lease.acquire() == (token or 0) + 1

    run(server, story)


def test_an_expired_lease_passes_on_and_cannot_be_renewed(server: RedisServer) -> None:
    async def story(connection: RedisConnection) -> None:
        sleeper, other = Lease(connection, KEY, "sleeper", SHORT_MS), Lease(connection, KEY, "other", LONG_MS)
        overtaken = await sleeper.acquire()
        assert overtaken is not None
        assert await acquired(other) > overtaken
        assert not await sleeper.renew()
        await sleeper.release()
        assert await other.renew()

    run(server, story)


def test_renewing_moves_the_end(server: RedisServer) -> None:
    async def story(connection: RedisConnection) -> None:
        lease = Lease(connection, KEY, "a", LONG_MS)
        await lease.acquire()
        await connection.execute("PEXPIRE", KEY, 1_000, timeout_ms=1_000)
        assert await lease.renew()
        assert await connection.execute("PTTL", KEY, timeout_ms=1_000) > LONG_MS / 2
        await connection.execute("PEXPIRE", KEY, 1_000, timeout_ms=1_000)
        await lease.acquire()
        assert await connection.execute("PTTL", KEY, timeout_ms=1_000) > LONG_MS / 2

    run(server, story)


def test_lease_and_counter_share_a_cluster_slot() -> None:
    connection = RedisConnection("redis://localhost")
    names = [Lease(connection, key, "o", 1).token_key for key in ("nbx:lease:a", "nbx:{p1}:lease")]
    assert names == ["{nbx:lease:a}:token", "nbx:{p1}:lease:token"]
