"""Budgets on Redis or Valkey: one hash per window, one counter per lease and partition.

The hash of a window has `granted`, and per lease `<all it was granted>:<when it expires, ms>`. A lease expires only to
tell that its holder has left it alone; it goes on paying until it is closed in every partition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.features.budget import Book, Granted, Window
from nbx.features.keys import partition_keys
from nbx.limits import BUDGET_KEPT_MS

if TYPE_CHECKING:
    from nbx.features.connection import RedisConnection

LEASE_MS = 5_000
"""Milliseconds until a lease that is not prolonged may be taken back."""
SHARE = 200
"""A lease is granted this part of the total at a time: half a percent idles in a worker's hand."""
REST_SHARE = 16
"""Nor more than this part of what is left, so that the last of it is not held by the few who came first."""
TIMEOUT_MS = 1_000.0

# KEYS 1 window; ARGV 1 lease, 2 what its holder knows of, 3 what it asks for besides, 4 total, 5 end of granting,
# 6 end of the key, 7 duration of a lease, 8 part of the total, 9 part of the rest
_GRANT = """
local key, lease, asked, total = KEYS[1], ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HGET', key, lease)
local amount = held and tonumber(string.match(held, '^%d+')) or 0
if amount ~= tonumber(ARGV[2]) then return {-1, ''} end
local granted = tonumber(redis.call('HGET', key, 'granted') or '0')
local rest, more, expired = total - granted, 0, ''
if asked > 0 and rest > 0 and now < tonumber(ARGV[5]) then
  local plenty = math.min(math.floor(total / ARGV[8]), math.floor(rest / ARGV[9]))
  more = math.min(rest, math.max(asked, plenty))
end
if more < asked then
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    local ends = string.match(fields[i + 1], ':(%d+)')
    if ends and fields[i] ~= lease and tonumber(ends) <= now then expired = fields[i] break end
  end
end
if amount + more > 0 then
  redis.call('HSET', key, lease, string.format('%.0f:%.0f', amount + more, now + ARGV[7]),
    'granted', string.format('%.0f', granted + more))
  redis.call('PEXPIREAT', key, ARGV[6])
end
return {amount + more, expired}
"""
# KEYS 1 counter; ARGV 1 end of the key
_CLOSE = """
local paid = redis.call('GET', KEYS[1]) or '0'
if string.sub(paid, 1, 1) == 'c' then return tonumber(string.sub(paid, 2)) end
redis.call('SET', KEYS[1], 'c' .. paid, 'PXAT', ARGV[1])
return tonumber(paid)
"""
# KEYS 1 window; ARGV 1 lease, 2 what it paid for
_SETTLE = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if not held then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
return redis.call('HINCRBY', KEYS[1], 'granted', string.format('%.0f', ARGV[2] - string.match(held, '^%d+')))
"""


class RedisBudgets:
    """`nbx.features.budget.Budgets` over a connection."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    async def grant(self, window: Window, lease: str, known: int, asked: int, total: int, timeout_ms: float) -> Granted:
        """Grant, or only prolong when nothing is asked."""
        until_ms = window.until_ms
        amount, expired = await self._connection.execute(
            "EVAL", _GRANT, 1, window.key, lease, known, asked, total, until_ms, until_ms + BUDGET_KEPT_MS,
            LEASE_MS, SHARE, REST_SHARE, timeout_ms=timeout_ms,
        )  # fmt: skip
        return Granted(amount, expired.decode())

    async def close(self, lease: str, partition: int, until_ms: int) -> int:
        """Close a lease in a partition; what it paid for there."""
        key = partition_keys(partition).spending(lease)
        paid: int = await self._connection.execute(
            "EVAL", _CLOSE, 1, key, until_ms + BUDGET_KEPT_MS, timeout_ms=TIMEOUT_MS
        )
        return paid

    async def settle(self, window: Window, lease: str, spent: int) -> None:
        """Give back what was not spent."""
        await self._connection.execute("EVAL", _SETTLE, 1, window.key, lease, spent, timeout_ms=TIMEOUT_MS)

    async def book(self, window: Window) -> Book:
        """Tell what is granted."""
        flat: list[bytes] = await self._connection.execute("HGETALL", window.key, timeout_ms=TIMEOUT_MS)
        fields = {name.decode(): int(text.partition(b":")[0]) for name, text in zip(flat[::2], flat[1::2], strict=True)}
        return Book(fields.pop("granted", 0), fields)
