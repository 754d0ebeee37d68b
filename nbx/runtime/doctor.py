"""`nbx doctor`: looks at everything an installation depends on, changes nothing, and says what to do about what is bad.

Findings are data; the command line prints them. What cannot be looked at (Redis is down) is named once, not guessed.
Customers' memory and the logs are sampled, so that a look at a large installation stays a look.
"""

from __future__ import annotations

import importlib
import platform
import shutil
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

import httpx
from msgspec import Struct
from redis.exceptions import RedisError, ResponseError

import nbx
from nbx.audit.chain import Chain
from nbx.audit.log_ids import parsed
from nbx.audit.signals import decode_signals
from nbx.clock import SystemClock
from nbx.errors import NbxError
from nbx.features import keys
from nbx.runtime.archiving import check_head, decode_head
from nbx.runtime.embedded_redis import redis_client, redis_policy
from nbx.runtime.up import lock_holder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from redis.asyncio import Redis

    from nbx.clock import Clock
    from nbx.settings import Settings

COMPILED = (
    "cel",
    "grpc",
    "hiredis",
    "httptools",
    "llvmlite.binding",
    "msgspec",
    "numba",
    "numpy",
    "pyarrow",
    "river",
    "scipy.special",
    "uvloop",
)
"""Modules with compiled parts: those a platform without wheels, or a broken install, lacks."""
DISK_BYTES = 1 << 30
"""Free bytes below which the disk is a warning: the append-only file may double while it is rewritten."""
BEHIND_S = 60
"""Seconds for which the archive may lag behind three of its intervals: it waits as long after a failure."""
SKEW_MS = 1_000
"""Difference of clocks that is still good: due times and decay are minutes and days."""
CUSTOMER_BYTES = 1_024
"""Goal for the memory of an idle customer."""
SAMPLE = 200
"""Customers whose memory is asked for."""
SCANS = 100
"""Calls of SCAN spent on finding them, 1,000 keys each."""
LATENCY_MS = 5.0
"""Median round trip above which Redis is too far away for a deadline of 50 ms with two trips and retries."""
PINGS = 11

Status = Literal["good", "warning", "bad"]


class Check(Struct, frozen=True, kw_only=True):
    """One finding."""

    name: str
    status: Status
    words: str
    """What was found; for warning and bad also what to do."""


async def examine(settings: Settings, clock: Clock | None = None) -> list[Check]:
    """Look at the machine, the data directory, Redis and the running processes.

    Returns
    -------
    list[Check]
        In a fixed order: machine first, then Redis, then what is in it, then the processes.
    """
    checks = [_python(), _modules(), *_data_dir(settings)]
    async with redis_client(settings.effective_redis_url) as redis:
        checks.append(await _reachable(settings, redis))
        if checks[-1].status == "bad":
            words = "durability, partitions, release, leases and memory were not looked at: Redis is away"
            checks.append(_check("stored", "warning", words))
        else:
            looks: list[tuple[str, Callable[[], Awaitable[list[Check]]]]] = [
                ("durability", partial(_durability, settings, redis)),
                ("partitions", partial(_partitions, settings, redis)),
                ("release", partial(_release, redis)),
                ("learner", partial(_lease, redis, "learner", keys.LEASE_LEARNER)),
                ("keeper", partial(_lease, redis, "keeper", keys.LEASE_KEEPER)),
                ("signals", partial(_signals, redis)),
                ("clock", partial(_skew, redis, clock or SystemClock())),
                ("customers", partial(_customers, redis)),
                ("logs", partial(_logs, settings, redis)),
                ("archive", partial(_archive, settings, redis, clock or SystemClock())),
            ]
            for name, look in looks:
                try:
                    checks += await look()
                except RedisError as error:
                    checks.append(_check(name, "bad", f"Redis answers: {error}; see its log and try again"))
    checks.append(await _api(settings))
    return checks


def _check(name: str, status: Status, words: str) -> Check:
    return Check(name=name, status=status, words=words)


def _python() -> Check:
    words = f"Python {platform.python_version()} on {platform.machine()}, nbx {nbx.__version__}"
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever runs from a source tree may have any
        return _check("python", "bad", f"{words}: install Python 3.11 or newer")
    return _check("python", "good", words)


def _modules() -> Check:
    missing = []
    for name in COMPILED:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:
            missing.append(f"{name} ({error})")
    if missing:
        words = f"cannot import {'; '.join(missing)}: install nbx again into a fresh environment (`make clean demo`)"
        return _check("modules", "bad", words)
    return _check("modules", "good", f"{len(COMPILED)} compiled modules can be imported")


def _data_dir(settings: Settings) -> list[Check]:
    path = settings.data_dir
    if not path.exists():
        words = f"{path} does not exist yet: `nbx up` makes it"
        return [_check("data_dir", "good" if settings.redis_url else "warning", words)]
    try:
        probe = path / ".doctor"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        words = f"{path} cannot be written ({error.strerror}): give it to the user that runs nbx"
        return [_check("data_dir", "bad", words)]
    free = shutil.disk_usage(path).free
    words = f"{path} is writable, {_size(free)} free"
    if free < DISK_BYTES:
        checks = [_check("data_dir", "warning", f"{words}: make room, Redis needs it to rewrite its file")]
    else:
        checks = [_check("data_dir", "good", words)]
    holder = lock_holder(path)
    held = "no `nbx up` runs on it" if holder is None else f"held by `nbx up` with pid {holder or 'unknown'}"
    return [*checks, _check("lock", "good", held)]


async def _reachable(settings: Settings, redis: Redis) -> Check:
    took_ms = []
    try:
        for _ in range(PINGS):
            began_ns = time.perf_counter_ns()
            await redis.ping()
            took_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
        info = await redis.info("server")
    except (RedisError, OSError) as error:
        todo = "start that server or correct NBX_REDIS_URL" if settings.redis_url else "start it with `nbx up`"
        return _check("redis", "bad", f"{settings.redis_label} does not answer ({error}): {todo}")
    median_ms = sorted(took_ms)[PINGS // 2]
    product = f"{info.get('server_name', 'redis')} {info.get('valkey_version') or info['redis_version']}"
    words = f"{settings.redis_label}: {product}, {median_ms:.2f} ms round trip"
    if median_ms > LATENCY_MS:
        return _check("redis", "warning", f"{words}: move it nearer, decisions will often be degraded")
    return _check("redis", "good", words)


async def _durability(settings: Settings, redis: Redis) -> list[Check]:
    persistence = await redis.info("persistence")
    problems = []
    status: Status = "good"
    if not persistence.get("aof_enabled"):
        problems.append(
            "the append-only file is off, acknowledged writes are lost with the process: CONFIG SET appendonly yes"
        )
        status = "bad"
    elif persistence.get("aof_last_write_status") != "ok":
        problems.append("the last write of the append-only file failed: look at the disk and the log of Redis")
        status = "bad"
    try:
        fsync = (await redis.config_get("appendfsync")).get("appendfsync", "unknown")
        policy = (await redis.config_get("maxmemory-policy")).get("maxmemory-policy", "unknown")
    except ResponseError:
        words = "CONFIG is not allowed here: see that appendfsync is not `no` and maxmemory-policy is noeviction"
        return [_check("durability", "bad" if problems else "warning", "; ".join([*problems, words]))]
    if fsync == "no" and settings.redis_url:
        problems.append(
            "appendfsync is `no`, half a minute is lost when the machine fails: CONFIG SET appendfsync everysec"
        )
    elif not settings.redis_url and fsync != redis_policy(settings):
        problems.append(f"appendfsync is {fsync}, the settings ask for {redis_policy(settings)}: restart `nbx up`")
    if policy != "noeviction":
        problems.append(f"maxmemory-policy is {policy}, customers would vanish: CONFIG SET maxmemory-policy noeviction")
        status = "bad"
    if problems:
        return [_check("durability", "bad" if status == "bad" else "warning", "; ".join(problems))]
    return [_check("durability", "good", f"append-only file on, fsync {_fsync_words(settings, fsync)}, {policy}")]


def _fsync_words(settings: Settings, fsync: str | None) -> str:
    return f"{settings.redis_fsync} (by `nbx up`)" if fsync == "no" and not settings.redis_url else str(fsync)


async def _partitions(settings: Settings, redis: Redis) -> list[Check]:
    stored = await redis.get(keys.PARTITIONS)
    if stored is None:
        return [_check("partitions", "good", f"none stored yet: {settings.partitions} at first start")]
    if int(stored) != settings.partitions:
        words = f"{int(stored)} are stored, the settings say {settings.partitions}: set NBX_PARTITIONS={int(stored)}"
        return [_check("partitions", "bad", f"{words}, the number cannot be changed later")]
    return [_check("partitions", "good", f"{settings.partitions}, as stored")]


async def _release(redis: Redis) -> list[Check]:
    current = await redis.get(keys.CATALOG_CURRENT)
    if current is None:
        return [_check("release", "bad", "nothing is published: `nbx catalog publish FILE`")]
    return [_check("release", "good", f"release {int(current)} is in force")]


async def _lease(redis: Redis, name: str, key: str) -> list[Check]:
    left_ms = await redis.pttl(key)
    if left_ms == -2:
        return [_check(name, "bad", f"no {name} holds the lease: start `nbx {name}` or `nbx up`, or see its log")]
    if left_ms == -1:
        return [_check(name, "bad", f"the lease {key} has no end: delete it, no {name} sets it so")]
    return [_check(name, "good", f"lease held, {left_ms / 1000:.1f} s left")]


async def _signals(redis: Redis) -> list[Check]:
    signals = decode_signals(cast("bytes | None", await redis.get(keys.MODEL_SIGNALS)))
    if signals.lost:
        lost = ", ".join(
            f"{health.placement} (seen {health.answers_recent_ratio:.2f}, usually {health.answers_usual_ratio:.2f})"
            for health in signals.lost
        )
        words = f"{lost} lost the `seen` events and teach nothing: see that the channel sends them"
        return [_check("signals", "bad", words)]
    return [_check("signals", "good", f"`seen` events: {len(signals.placements)} placements as usual")]


async def _skew(redis: Redis, clock: Clock) -> list[Check]:
    before_ms = clock.now_ms()
    seconds, micros = await redis.time()
    skew_ms = seconds * 1000 + micros // 1000 - (before_ms + clock.now_ms()) // 2
    if abs(skew_ms) > SKEW_MS:
        words = f"Redis is {skew_ms} ms ahead of this machine: let both follow NTP, due times are compared"
        return [_check("clock", "bad", words)]
    return [_check("clock", "good", f"Redis differs by {skew_ms} ms")]


async def _customers(redis: Redis) -> list[Check]:
    found: list[bytes | str] = []
    cursor = 0
    for _ in range(SCANS):
        cursor, some = await redis.scan(cursor, match="nbx:{p*}:c:*", count=1000)
        found += some
        if cursor == 0 or len(found) >= SAMPLE:
            break
    sizes = [size for key in found[:SAMPLE] if (size := await redis.memory_usage(key))]
    if not sizes:
        return [_check("customers", "good", "none found yet")]
    mean = sum(sizes) / len(sizes)
    words = (
        f"{len(sizes)} looked at: {mean:.0f} bytes of memory each, at most {max(sizes)}; the goal is {CUSTOMER_BYTES}"
    )
    if mean > CUSTOMER_BYTES:
        return [_check("customers", "warning", f"{words}: declare fewer features or shorter windows")]
    return [_check("customers", "good", words)]


async def _logs(settings: Settings, redis: Redis) -> list[Check]:
    entries = total_bytes = 0
    for partition in range(settings.partitions):
        log = keys.partition_keys(partition).log
        entries += await redis.xlen(log)
        total_bytes += await redis.memory_usage(log, samples=5) or 0
    memory = cast("dict[str, int]", await redis.info("memory"))
    used = memory["used_memory"]
    words = f"{entries} entries in {settings.partitions} logs, {_size(total_bytes)} of {_size(used)} used"
    limit = memory.get("maxmemory", 0)
    if limit and used > 0.8 * limit:
        words = f"{words}, limit {_size(limit)}: let the keeper archive, or raise maxmemory before writes are refused"
        return [_check("logs", "warning", words)]
    return [_check("logs", "good", words)]


async def _archive(settings: Settings, redis: Redis, clock: Clock) -> list[Check]:
    path = settings.archive_path
    known = await redis.get(keys.ARCHIVE_HEAD)
    if known is None:
        if settings.archive == "off":
            return [_check("archive", "good", "off: the log stays in Redis and grows")]
        return [_check("archive", "good", f"nothing is archived yet; the keeper will, to {path}")]
    try:
        check_head(path, decode_head(known))
        chain = Chain.open(path)
    except NbxError as error:
        return [_check("archive", "bad", error.message)]
    except OSError as error:
        words = f"{path} cannot be read ({error.strerror}): mount it, or point NBX_ARCHIVE_DIR at the archive"
        return [_check("archive", "bad", words)]
    behind_s = await _behind_s(settings, redis, chain.last_ids(), clock.now_ms())
    free = shutil.disk_usage(path).free
    rows = sum(record.rows for record in chain.segments.values())
    words = (
        f"{len(chain.segments)} segments with {rows} rows in {path}, the chain ends where Redis says; "
        f"{behind_s:.0f} s behind, {_size(free)} free"
    )
    if fault := cast("bytes | None", await redis.get(keys.ARCHIVE_FAULT)):
        words = f"{words}; it cannot be written, and nothing is trimmed until it can: {fault.decode()}"
        return [_check("archive", "bad", words)]
    if settings.archive == "on" and behind_s > 3 * settings.archive_interval_s + BEHIND_S:
        return [_check("archive", "bad", f"{words}: see that a keeper runs, and its log")]
    if free < DISK_BYTES:
        return [_check("archive", "warning", f"{words}: make room, nothing is trimmed when it is full")]
    return [_check("archive", "good", words)]


async def _behind_s(settings: Settings, redis: Redis, last: Mapping[int, str], now_ms: int) -> float:
    """Return the age of the oldest log entry that is not archived; 0: all are."""
    oldest_ms = now_ms
    for partition in range(settings.partitions):
        start = f"({last[partition]}" if partition in last else "-"
        head = await redis.xrange(keys.partition_keys(partition).log, start, count=1)
        for entry_id, _ in cast("list[tuple[bytes, object]]", head):
            oldest_ms = min(oldest_ms, parsed(entry_id.decode())[0])
    return (now_ms - oldest_ms) / 1000


async def _api(settings: Settings) -> Check:
    url = f"{settings.url}/health/ready"
    # the certificate is for the callers' name of this machine, and a proxy is not on the way to it
    async with httpx.AsyncClient(verify=False, trust_env=False, timeout=2.0) as client:  # noqa: S501
        try:
            answer = await client.get(url)
        except httpx.HTTPError as error:
            return _check("api", "bad", f"{url} does not answer ({error!r}): start `nbx up` or `nbx api`")
    if answer.status_code != httpx.codes.OK:
        words = f"{url} answers {answer.status_code}: {answer.text[:200]}; mend what is bad above"
        return _check("api", "bad", words)
    return _check("api", "good", f"{url} answers")


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GB"
