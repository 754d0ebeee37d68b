"""A lease between processes: at most one holder at a time, with a fencing token that only grows.

A lease alone does not exclude: a holder may sleep past its end without noticing. Hence the token: whatever the holder
writes carries it, and a writer with a smaller token than the last one seen has been overtaken.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbx.features.connection import RedisConnection

TIMEOUT_MS = 1_000
"""Milliseconds for one call: leases last seconds."""

# KEYS 1 lease, 2 counter of tokens; ARGV 1 holder, 2 ttl ms. The value is `holder:token`.
_ACQUIRE = """
local held = redis.call('GET', KEYS[1])
if held then
  if string.sub(held, 1, #ARGV[1] + 1) ~= ARGV[1] .. ':' then return false end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return tonumber(string.sub(held, #ARGV[1] + 2))
end
local token = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. token, 'PX', ARGV[2])
return token
"""
# KEYS 1 lease; ARGV 1 `holder:token`, 2 ttl ms
_RENEW = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
_RELEASE = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('DEL', KEYS[1])"


class Lease:
    """A named lease as seen by one would-be holder.

    Parameters
    ----------
    connection
        Where the lease lives.
    key
        Name, e.g. `keys.LEASE_LEARNER`.
    owner
        Shown to operators. Two objects are two holders even when they give the same name.
    ttl_ms
        How long it lasts without renewal; renew at a third of it.
    """

    def __init__(self, connection: RedisConnection, key: str, owner: str, ttl_ms: int) -> None:
        self._connection = connection
        self._key = key
        self._holder = f"{owner}#{secrets.token_hex(8)}"
        self._ttl_ms = ttl_ms
        self._token: int | None = None
        self.token_key = f"{key}:token" if "{" in key else f"{{{key}}}:token"
        """Counter of tokens; the braces put it into the lease's cluster slot."""

    @property
    def fence(self) -> str:
        """What the lease's key holds while it is ours; scripts compare it before they write. Empty when it is not."""
        return "" if self._token is None else f"{self._holder}:{self._token}"

    async def acquire(self) -> int | None:
        """Take the lease, or extend it when held already.

        Returns
        -------
        int or None
            The fencing token: larger than that of every earlier holder, the same while held without a gap. None while
            another one holds it.

        Raises
        ------
        Unavailable
            No answer: call again, a lease taken unnoticed is found then.
        """
        token: int | None = await self._connection.execute(
            "EVAL", _ACQUIRE, 2, self._key, self.token_key, self._holder, self._ttl_ms, timeout_ms=TIMEOUT_MS
        )
        self._token = token
        return token

    async def renew(self) -> bool:
        """Extend the lease; False when it is not held any more (then stop writing at once)."""
        return bool(await self._if_held(_RENEW, self._ttl_ms))

    async def release(self) -> None:
        """Give the lease up; nothing happens when it is not held."""
        await self._if_held(_RELEASE)
        self._token = None

    async def _if_held(self, script: str, *arguments: int) -> int:
        if self._token is None:
            return 0
        answer: int = await self._connection.execute(
            "EVAL", script, 1, self._key, self.fence, *arguments, timeout_ms=TIMEOUT_MS
        )
        return answer
