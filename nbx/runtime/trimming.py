"""Trims the streams behind learner and archive.

An entry goes once it is archived, is before the learner's checkpoint (a learner that was killed continues from there),
and is older than `log_keep_s`. Without a checkpoint nothing goes. The id before which a partition's stream was trimmed
is written beside it in the same script, which is how `nbx.audit.whole_log` knows what it has to read from the archive.

No lease is compared: what was archived stays archived, so a keeper that was overtaken trims nothing that is needed.
Large amounts go in steps, a few milliseconds of Redis's time each.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from nbx.audit.log_ids import ADMIN, JOURNAL, Id, after, parsed
from nbx.features.keys import ADMIN_LOG, MODEL_JOURNAL, MODEL_REACHED, partition_keys
from nbx.limits import ADMIN_KEPT
from nbx.runtime.publishing import decode_reached

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbx.features.connection import RedisConnection

STEP: Final = 10_000
"""Entries that one call trims at most."""
TIMEOUT_MS: Final = 5_000.0

# KEYS 1 stream, 2 where to note it; ARGV 1 first id that stays, 2 entries per step
_TRIM = """
redis.call('SET', KEYS[2], ARGV[1])
local gone = redis.call('XTRIM', KEYS[1], 'MINID', '~', ARGV[1], 'LIMIT', ARGV[2])
if gone == 0 then gone = -redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[1]) end
return gone
"""


class Trimmer:
    """Trims the streams of an installation.

    Parameters
    ----------
    connection
        Where they are.
    partitions
        Their number.
    keep_s
        Seconds for which entries of the log stay whatever was archived.
    """

    def __init__(self, connection: RedisConnection, *, partitions: int, keep_s: int) -> None:
        self._connection = connection
        self._partitions = partitions
        self._keep_ms = keep_s * 1000
        self._trimmed: dict[int, Id] = {}

    async def trim(self, archived: Mapping[int, str], now_ms: int) -> dict[int, int]:
        """Trim what nobody needs in Redis.

        Parameters
        ----------
        archived
            Partition → last archived log id, `ADMIN` and `JOURNAL` among them.
        now_ms
            Epoch milliseconds.

        Returns
        -------
        dict[int, int]
            Entries removed, by partition; those of which some were.
        """
        packed = await self._connection.execute("GET", MODEL_REACHED, timeout_ms=TIMEOUT_MS)
        if packed is None:
            return {}
        reached = decode_reached(packed)
        keep = max(now_ms - self._keep_ms, 0), 0
        bounds = {
            partition: min(after(parsed(archived[partition])), after(parsed(reached.offsets[partition])), keep)
            for partition in range(self._partitions)
            if partition in archived and partition in reached.offsets
        }
        gone = dict(
            zip(bounds, await asyncio.gather(*(self.trim_to(p, bound) for p, bound in bounds.items())), strict=True)
        )
        if JOURNAL in archived:
            first = min(after(parsed(archived[JOURNAL])), (0, reached.step + 1))
            gone[JOURNAL] = await self._stream(MODEL_JOURNAL, first)
        if ADMIN in archived:
            gone[ADMIN] = await self._admin(after(parsed(archived[ADMIN])))
        return {partition: count for partition, count in gone.items() if count}

    async def trim_to(self, partition: int, first: Id) -> int:
        """Trim a partition's stream before an id, however young that is; returns how many entries went.

        For who knows that all before it is archived and behind the learner's checkpoint.
        """
        keys = partition_keys(partition)
        before = self._trimmed.get(partition)
        if before is None:
            noted = await self._connection.execute("GET", keys.first, timeout_ms=TIMEOUT_MS)
            before = parsed(noted.decode()) if noted else (0, 0)
        if first <= before:
            return 0
        total, gone = 0, 1
        while gone > 0:
            gone = await self._connection.execute(
                "EVAL", _TRIM, 2, keys.log, keys.first, f"{first[0]}-{first[1]}", STEP, timeout_ms=TIMEOUT_MS
            )
            total += abs(gone)
        self._trimmed[partition] = first
        return total

    async def _stream(self, stream: str, first: Id) -> int:
        gone: int = await self._connection.execute(
            "XTRIM", stream, "MINID", "=", f"{first[0]}-{first[1]}", timeout_ms=TIMEOUT_MS
        )
        return gone

    async def _admin(self, first: Id) -> int:
        length = await self._connection.execute("XLEN", ADMIN_LOG, timeout_ms=TIMEOUT_MS)
        if length <= ADMIN_KEPT + ADMIN_KEPT // 10:
            return 0
        rows: list[Any] = await self._connection.execute(
            "XRANGE", ADMIN_LOG, "-", "+", "COUNT", length - ADMIN_KEPT + 1, timeout_ms=TIMEOUT_MS
        )
        return await self._stream(ADMIN_LOG, min(first, parsed(rows[-1][0].decode())))
