"""What the doctor finds on a dead, a fresh and a sick installation."""

import asyncio
import http.server
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from nbx.audit.chain import CHAIN
from nbx.clock import ManualClock, SystemClock
from nbx.features import keys
from nbx.runtime.archiving import Head
from nbx.runtime.doctor import Check, examine
from nbx.runtime.embedded_redis import embedded_redis, redis_client
from nbx.runtime.up import locked
from nbx.settings import Settings
from tests.archives import START_MS, write_archive

Prepare = Callable[[Redis], Awaitable[object]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, port=9, partitions=4)


def look(settings: Settings, prepare: Prepare | None = None, clock: ManualClock | None = None) -> dict[str, Check]:
    async def run() -> list[Check]:
        async with embedded_redis(settings) as url:
            if prepare is not None:
                async with redis_client(url) as client:
                    await prepare(client)
            return await examine(settings, clock)

    return {check.name: check for check in asyncio.run(run())}


@contextmanager
def api(status: int) -> Iterator[int]:
    """An api that answers /health/ready with this status; gives its port."""

    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/ready" else 404)
            self.end_headers()
            self.wfile.write(b"no release")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the standard library's
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Ready) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


async def healthy(redis: Redis) -> None:
    await redis.set(keys.PARTITIONS, 4)
    await redis.set(keys.CATALOG_CURRENT, 3)
    for lease in (keys.LEASE_LEARNER, keys.LEASE_KEEPER):
        await redis.set(lease, "1", px=60_000)
    for number in range(300):
        await redis.set(keys.partition_keys(number % 4).customer(f"customer-{number}"), b"x" * 500)
    for number in range(40):
        await redis.xadd(keys.partition_keys(number % 4).log, {"e": "x" * 100})


def test_a_dead_redis_is_one_clear_finding(settings: Settings) -> None:
    found = {check.name: check for check in asyncio.run(examine(settings))}
    assert list(found) == ["python", "modules", "data_dir", "lock", "redis", "stored", "api"]
    assert found["redis"].status == "bad"
    assert found["redis"].words.endswith("start it with `nbx up`")
    assert found["stored"].status == "warning"
    assert found["api"].status == "bad"
    assert found["modules"].status == "good", found["modules"].words


def test_a_dead_external_redis_is_named_without_its_password(settings: Settings) -> None:
    away = msgspec.structs.replace(settings, redis_url="redis://app:s3cret@127.0.0.1:1/0")
    found = {check.name: check for check in asyncio.run(examine(away))}
    assert found["redis"].words.startswith("redis://app:***@127.0.0.1:1/0 does not answer")
    assert "NBX_REDIS_URL" in found["redis"].words
    assert not any("s3cret" in check.words for check in found.values())


def test_a_healthy_installation_is_good_throughout(settings: Settings) -> None:
    with api(200) as port, locked(settings.data_dir):
        found = look(msgspec.structs.replace(settings, port=port), healthy)
    assert {check.name: check.words for check in found.values() if check.status != "good"} == {}
    assert "held by `nbx up` with pid" in found["lock"].words
    assert "append-only file on, fsync everysec (by `nbx up`), noeviction" in found["durability"].words
    assert found["release"].words == "release 3 is in force"
    assert found["customers"].words.startswith("200 looked at: ")
    assert found["logs"].words.startswith("40 entries in 4 logs, ")


def test_a_fresh_installation_lacks_a_release_and_its_processes(settings: Settings) -> None:
    found = look(settings)
    bad = {name for name, check in found.items() if check.status == "bad"}
    assert bad == {"release", "learner", "keeper", "api"}
    assert "nbx catalog publish" in found["release"].words
    assert "none stored yet: 4" in found["partitions"].words


async def sick(redis: Redis) -> None:
    await redis.config_set("appendonly", "no")
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    await redis.set(keys.PARTITIONS, 16)
    await redis.set(keys.LEASE_LEARNER, "1")
    await redis.set(keys.partition_keys(0).customer("anna"), b"x" * 5_000)


def test_a_sick_installation_is_told_what_to_do(settings: Settings) -> None:
    with api(503) as port:
        found = look(msgspec.structs.replace(settings, port=port), sick)
    assert {name for name, check in found.items() if check.status == "bad"} >= {"durability", "partitions", "learner"}
    assert "CONFIG SET appendonly yes" in found["durability"].words
    assert "CONFIG SET maxmemory-policy noeviction" in found["durability"].words
    assert "set NBX_PARTITIONS=16" in found["partitions"].words
    assert "has no end: delete it" in found["learner"].words
    assert found["customers"].status == "warning"
    assert found["api"].status == "bad"
    assert "answers 503: no release" in found["api"].words


def test_other_settings_than_those_that_run(settings: Settings) -> None:
    found = look(settings, lambda redis: redis.config_set("appendfsync", "always"))
    assert found["durability"].status == "warning"
    assert "appendfsync is always, the settings ask for no" in found["durability"].words


def test_memory_near_its_limit(settings: Settings) -> None:
    async def prepare(redis: Redis) -> None:
        await redis.set("filler", b"x" * 9_000_000)
        await redis.config_set("maxmemory", "11mb")

    assert look(settings, prepare)["logs"].status == "warning"


@pytest.mark.parametrize(("off_ms", "status"), [(0, "good"), (60_000, "bad"), (-60_000, "bad")])
def test_clocks_are_compared(settings: Settings, off_ms: int, status: str) -> None:
    check = look(settings, clock=ManualClock(SystemClock().now_ms() + off_ms))["clock"]
    assert check.status == status
    if off_ms:
        ahead_ms = int(check.words.split("Redis is ")[1].split(" ms")[0])
        assert abs(ahead_ms + off_ms) < 10_000


def test_a_key_of_the_wrong_kind_does_not_end_the_examination(settings: Settings) -> None:
    found = look(settings, lambda redis: redis.rpush(keys.CATALOG_CURRENT, "x"))
    assert found["release"].status == "bad"
    assert "WRONGTYPE" in found["release"].words
    assert found["clock"].status == "good"


def test_a_data_directory_that_is_not_there(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "none", port=9)
    found = {check.name: check for check in asyncio.run(examine(settings))}
    assert found["data_dir"].status == "warning"
    assert not (tmp_path / "none").exists(), "looking changes nothing"


@pytest.mark.parametrize(
    ("harm", "status", "words"),
    [
        ("", "good", "2 segments with 18 rows"),
        ("cut", "bad", "restored from a copy"),
        ("gone", "bad", "NBX_ARCHIVE_DIR"),
        ("fault", "bad", "No space left on device"),
        ("behind", "bad", "see that a keeper runs"),
    ],
)
def test_the_archive_is_looked_at(settings: Settings, harm: str, status: str, words: str) -> None:
    chain = write_archive(settings.archive_path, segments=2, rows=5)
    path = settings.archive_path / CHAIN
    head = Head(2, chain.hash, path.stat().st_size)
    now_ms = START_MS + 10**9

    async def prepare(redis: Redis) -> None:
        await redis.set(keys.ARCHIVE_HEAD, msgspec.json.encode(head))
        late_ms = 961_000 if harm == "behind" else 959_000
        await redis.xadd(keys.partition_keys(0).log, {"e": "x"}, id=f"{now_ms - late_ms}-0")
        match harm:
            case "cut":
                path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
            case "gone":
                settings.archive_path.rename(settings.data_dir / "away")
            case "fault":
                await redis.set(keys.ARCHIVE_FAULT, "No space left on device")

    found = look(settings, prepare, ManualClock(now_ms))["archive"]
    assert (found.status, words in found.words) == (status, True), found.words


def test_an_archive_that_is_off_or_not_begun_is_good(settings: Settings) -> None:
    assert look(settings)["archive"].words == f"nothing is archived yet; the keeper will, to {settings.archive_path}"
    off = msgspec.structs.replace(settings, archive="off")
    assert look(off)["archive"].words == "off: the log stays in Redis and grows"
