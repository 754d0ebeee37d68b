"""Changes of settings in the admin trail: each process tells, when it starts, what it runs with that it did not before.

The settings of the last start are kept in Redis, by machine and kind of process; the processes of one `nbx up` count as
one. Comparing, keeping and writing the entry of the trail are one script, so of processes that start together one
tells. Before the first start everything was at its default. Values that hold secrets are told as keyed hashes.
"""

from __future__ import annotations

import os
import socket
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from nbx.errors import Unavailable
from nbx.features.keys import ADMIN_LOG, SETTINGS_KNOWN
from nbx.features.secrets import pseudonym_key
from nbx.features.trail import Change
from nbx.runtime.process import log
from nbx.settings import PREFIX, Settings, without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbx.clock import Clock
    from nbx.features.connection import RedisConnection

SECRET: Final = ("redis_url", "salt")
"""Settings whose values are not told."""
TIMEOUT_MS: Final = 5_000.0

# KEYS 1 settings known, 2 admin trail; ARGV 1 field, 2 what it was, '' for nothing, 3 what it is, 4 entry of the trail
_TELL = """
local known = redis.call('HGET', KEYS[1], ARGV[1])
if (known or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
if ARGV[4] ~= '' then redis.call('XADD', KEYS[2], '*', 'e', ARGV[4]) end
return 1
"""


async def tell_settings(connection: RedisConnection, settings: Settings, kind: str, clock: Clock) -> bool:
    """Note the settings of a process that starts; True when they are others than before, and the trail says so.

    Parameters
    ----------
    kind
        `api`, `learner`, `keeper`.

    Raises
    ------
    Unavailable
        Redis does not answer.
    """
    process = f"{socket.gethostname()} {'up' if 'NBX_SUPERVISOR' in os.environ else kind}"
    key = await pseudonym_key(connection, settings.pseudonym_key_file)
    now = shown(settings, key)
    packed: bytes | None = await connection.execute("HGET", SETTINGS_KNOWN, process, timeout_ms=TIMEOUT_MS)
    before = shown(Settings(), key) if packed is None else msgspec.json.decode(packed, type=dict[str, str])
    changes = changed(before, now)
    if packed is not None and not changes:
        return False
    entry = b""
    if changes:
        who = f"nbx {kind if 'NBX_SUPERVISOR' not in os.environ else 'up'}"
        details: dict[str, str | int] = {"process": process, **changes}
        entry = msgspec.json.encode(Change(at_ms=clock.now_ms(), who=who, what="settings_changed", details=details))
    is_told = await connection.execute(
        "EVAL", _TELL, 2, SETTINGS_KNOWN, ADMIN_LOG, process, packed or b"", msgspec.json.encode(now), entry,
        timeout_ms=TIMEOUT_MS,
    )  # fmt: skip
    return bool(is_told and changes)


async def note_settings(connection: RedisConnection, settings: Settings, kind: str, clock: Clock) -> None:
    """As `tell_settings`, for processes that go on without: the next start tells what this one could not."""
    try:
        await tell_settings(connection, settings, kind, clock)
    except Unavailable as error:
        log.warning("the settings of this start are not in the admin trail: %s", error)


def shown(settings: Settings, key: bytes) -> dict[str, str]:
    """Return the settings as the trail may tell them.

    Examples
    --------
    >>> told = shown(Settings(redis_url="redis://:s3cret@host", port=9000), b"key")
    >>> told["port"], told["redis_url"].startswith("redis://:***@host #"), "s3cret" in str(told)
    ('9000', True, False)
    """
    values = {name.removeprefix(PREFIX).lower(): value for name, value in settings.environment().items()}
    return values | {name: _hidden(values[name], key) for name in SECRET}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return what is another value, as old → new; a setting that only one of the two knows has none in the other.

    Examples
    --------
    >>> changed({"port": "8080", "host": "::1"}, {"port": "9000", "host": "::1", "new": ""})
    {'port': '8080 → 9000', 'new': 'none → '}
    """
    names = [*now, *(name for name in before if name not in now)]
    pairs = {name: (before.get(name, "none"), now.get(name, "none")) for name in names}
    return {name: f"{old} → {new}" for name, (old, new) in pairs.items() if old != new}


def _hidden(value: str, key: bytes) -> str:
    if not value:
        return ""
    digest = blake2b(value.encode(), digest_size=4, key=blake2b(key, digest_size=32).digest()).hexdigest()
    return f"{without_secrets(value) if '://' in value else ''} #{digest}".strip()
