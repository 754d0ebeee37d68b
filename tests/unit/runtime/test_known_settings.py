"""Changed settings in the admin trail, on a real Redis: what was changed, once, and no secret."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from nbx.clock import ManualClock
from nbx.errors import SetupError
from nbx.features.connection import RedisConnection
from nbx.features.keys import ADMIN_LOG
from nbx.features.secrets import pseudonym_key, read_key
from nbx.features.trail import Change, decode_change
from nbx.runtime.known_settings import changed, shown, tell_settings
from nbx.settings import Settings
from tests.redis_server import RedisServer

CLOCK = ManualClock(7)


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


async def trail(connection: RedisConnection) -> list[Change]:
    rows = await connection.execute("XRANGE", ADMIN_LOG, "-", "+", timeout_ms=5_000)
    return [decode_change(fields[1]) for _, fields in rows]


def test_what_changed_is_told_once_and_by_one_of_those_that_start_together(redis_url: str) -> None:
    async def run() -> None:
        connection = RedisConnection(redis_url)
        await connection.connect()
        first = Settings(port=9000, redis_url="redis://:hush@host")
        assert sum(await asyncio.gather(*(tell_settings(connection, first, "api", CLOCK) for _ in range(5)))) == 1
        assert not await tell_settings(connection, first, "api", CLOCK)
        second = msgspec.structs.replace(first, port=9001, salt="other", redis_url="redis://:hash@host")
        assert await tell_settings(connection, second, "api", CLOCK)
        assert await tell_settings(connection, second, "keeper", CLOCK), "another kind of process, from the defaults"
        begun, later, other = await trail(connection)
        assert (begun.what, begun.who, begun.at_ms) == ("settings_changed", "nbx api", 7)
        assert begun.details["port"] == "8080 → 9000"
        assert begun.details.keys() == {"process", "port", "redis_url"}
        assert later.details["port"] == "9000 → 9001"
        assert later.details.keys() == {"process", "port", "redis_url", "salt"}
        assert other.details["process"] != later.details["process"]
        told = msgspec.json.encode([begun, later, other]).decode()
        assert [secret for secret in ("hush", "hash@", "other") if secret in told] == []
        await connection.close()

    asyncio.run(run())


def test_a_setting_of_another_version_is_told_as_come_or_gone() -> None:
    now = shown(Settings(), b"key")
    old = {name: value for name, value in now.items() if name != "port"} | {"gone": "1"}
    assert changed(old, now) == {"port": "none → 8080", "gone": "1 → none"}


def test_the_key_is_the_files_or_made_once(redis_url: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"x" * 32 + b"\n")

    async def run() -> None:
        connection = RedisConnection(redis_url)
        await connection.connect()
        assert await pseudonym_key(connection, file) == b"x" * 32
        made = await asyncio.gather(*(pseudonym_key(connection, None) for _ in range(4)))
        assert len(set(made)) == 1
        assert len(made[0]) == 32
        await connection.close()

    asyncio.run(run())
    file.write_bytes(b"short")
    with pytest.raises(SetupError, match="5 bytes"):
        read_key(file)
    with pytest.raises(SetupError, match="cannot be read"):
        read_key(tmp_path / "none")
