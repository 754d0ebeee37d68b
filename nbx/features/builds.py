"""Which builds computed here: each written down once, with the admin trail, when a process of it first starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nbx.build import Build
from nbx.features.keys import ADMIN_LOG, build_key
from nbx.features.trail import Change

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nbx.features.connection import RedisConnection
    from nbx.features.store import Store

TIMEOUT_MS = 2_000.0

# KEYS 1 build, 2 admin log; ARGV 1 build, 2 change
_NOTE = """
if not redis.call('SET', KEYS[1], ARGV[1], 'NX') then return 0 end
redis.call('XADD', KEYS[2], '*', 'e', ARGV[2])
return 1
"""
_DECODE = msgspec.json.Decoder(Build).decode


async def note_build(connection: RedisConnection, build: Build, who: str, now_ms: int) -> bool:
    """Write a build down; False when it is known already."""
    details: dict[str, str | int] = {
        "build": build.fingerprint, "nbx": build.version, "code": build.code, **build.libraries
    }  # fmt: skip
    change = Change(at_ms=now_ms, who=who, what="build_started", details=details)
    keys = (build_key(build.fingerprint), ADMIN_LOG)
    values = (msgspec.json.encode(build), msgspec.json.encode(change))
    return bool(await connection.execute("EVAL", _NOTE, len(keys), *keys, *values, timeout_ms=TIMEOUT_MS))


async def noted_builds(store: Store, fingerprints: Iterable[str]) -> dict[str, Build | None]:
    """Return builds by fingerprint; None: nobody wrote it down, or what is there is not what the fingerprint says."""
    found: dict[str, Build | None] = {}
    for fingerprint in sorted(set(fingerprints)):
        (packed,) = await store.read([build_key(fingerprint)], TIMEOUT_MS)
        build = None
        if packed is not None:
            try:
                build = _DECODE(packed)
            except msgspec.DecodeError:
                build = None
        found[fingerprint] = build if build is not None and build.fingerprint == fingerprint else None
    return found
