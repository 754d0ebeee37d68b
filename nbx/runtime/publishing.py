"""What the learner publishes: journal, snapshots and checkpoints, each by a script that compares the lease first.

A learner that was overtaken while it slept publishes nothing more: the lease is compared where the write happens.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from nbx.audit.signals import Signals, encode_signals
from nbx.features.connection import RedisConnection
from nbx.features.keys import (
    LEASE_LEARNER,
    MODEL_CHECKPOINT,
    MODEL_JOURNAL,
    MODEL_REACHED,
    MODEL_SIGNALS,
    MODEL_SNAPSHOT,
    MODEL_VERSION,
)
from nbx.features.lease import Lease

TIMEOUT_MS = 5_000.0
JOURNAL = 100_000
"""Steps kept in the journal, some 10 MB; at least those after the checkpoint are needed after a kill."""

# KEYS 1 lease, 2… targets; ARGV 1 holder:token, 2… values. Sets all or none.
_FENCED_SET = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for i = 2, #KEYS do redis.call('SET', KEYS[i], ARGV[i]) end
return 1
"""
# KEYS 1 lease, 2 journal; ARGV 1 holder:token, 2 step, 3 offsets, 4 length to keep, 5 build
_FENCED_JOURNAL = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[4] == '0' then
  redis.call('XADD', KEYS[2], '0-' .. ARGV[2], 'o', ARGV[3], 'b', ARGV[5])
else
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '0-' .. ARGV[2], 'o', ARGV[3], 'b', ARGV[5])
end
return 1
"""


class Reached(Struct, frozen=True):
    """How far a checkpoint reaches: what was before is needed no more by a learner that continues from it."""

    step: int
    offsets: dict[int, str]
    """Partition → last log id taken in."""


decode_reached = msgspec.msgpack.Decoder(Reached).decode


class Overtaken(Exception):
    """The lease is no longer ours."""


class Publisher:
    """Writes journal, snapshots and checkpoints, all fenced by the lease.

    Parameters
    ----------
    connection, lease
        Where to write, and by what right.
    build
        Fingerprint of the build that learns: told with each step.
    journal_steps
        How many the journal keeps; 0: all, somebody archives and trims it.
    """

    def __init__(
        self, connection: RedisConnection, lease: Lease, build: str = "", journal_steps: int = JOURNAL
    ) -> None:
        self._connection = connection
        self._build = build
        self._lease = lease
        self._journal_steps = journal_steps

    async def journal(self, step: int, offsets: Mapping[int, str]) -> None:
        """Note the offsets a step reached."""
        packed = msgspec.msgpack.encode(dict(offsets))
        await self._fenced(_FENCED_JOURNAL, (MODEL_JOURNAL,), step, packed, self._journal_steps, self._build)

    async def snapshot(self, packed: bytes, version: int, told: Signals | None = None) -> None:
        """Publish a snapshot, and with it how placements and features are; workers see the version change."""
        health = encode_signals(told or Signals(step=version, placements=[]))
        await self._fenced(_FENCED_SET, (MODEL_SNAPSHOT, MODEL_VERSION, MODEL_SIGNALS), packed, version, health)

    async def checkpoint(self, packed: bytes, reached: Reached) -> None:
        """Keep a checkpoint, and beside it how far it reached."""
        told = msgspec.msgpack.encode(reached)
        await self._fenced(_FENCED_SET, (MODEL_CHECKPOINT, MODEL_REACHED), packed, told)

    async def _fenced(self, script: str, keys: tuple[str, ...], *values: bytes | str | int) -> None:
        done = await self._connection.execute(
            "EVAL", script, 1 + len(keys), LEASE_LEARNER, *keys, self._lease.fence, *values, timeout_ms=TIMEOUT_MS
        )
        if not done:
            raise Overtaken
