"""Where the learner keeps the sites that it may have to take back: with their decision in Redis, or in memory.

A replay learns the log again from its beginning and must leave no trace, so it keeps them in memory, for as long as
Redis would have: by the log's time, as nobody knows when the learner came round.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from nbx.bandits.learner import LearnedSites
from nbx.features.connection import RedisConnection
from nbx.features.keys import partition_keys
from nbx.limits import ERASED_SITES_MS, ERASURE_KEPT_MS

TIMEOUT_MS = 5_000.0
AT_ONCE = 1_000
"""Sites read or written together: the connection bounds what may be in flight."""
SCRIPTED = 64
"""Sites that one script writes: it holds Redis up for about 0.1 ms."""
_DECODER = msgspec.msgpack.Decoder(LearnedSites)
_ENCODER = msgspec.msgpack.Encoder()
# KEYS of one partition; ARGV field, packed sites and time to live of each
_WRITE = """
for k = 1, #KEYS do
  redis.call('HSET', KEYS[k], ARGV[3 * k - 2], ARGV[3 * k - 1])
  redis.call('PEXPIRE', KEYS[k], ARGV[3 * k])
end
"""


class Place(NamedTuple):
    """What sites are kept under."""

    decision_id: str
    slot: int
    revision: int


class Sites(Protocol):
    """Keeps sites."""

    async def read(self, places: Sequence[Place], *, erased: bool = False) -> list[LearnedSites | None]:
        """Return the sites in the order of `places`; those of an erased customer get another end, soon."""
        ...

    async def write(self, learned: Mapping[Place, LearnedSites], kept_ms: Mapping[Place, int]) -> None:
        """Keep sites for so long from now."""
        ...

    async def tell(self, receipts: Mapping[str, bytes]) -> None:
        """Keep receipts of erasures, by key."""
        ...


class RedisSites:
    """Keeps sites in Redis."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    async def read(self, places: Sequence[Place], *, erased: bool = False) -> list[LearnedSites | None]:
        """As `Sites.read`."""
        found: list[LearnedSites | None] = []
        for at in range(0, len(places), AT_ONCE):
            found += await asyncio.gather(*(self._one(place, erased=erased) for place in places[at : at + AT_ONCE]))
        return found

    async def _one(self, place: Place, *, erased: bool) -> LearnedSites | None:
        key = _key(place)
        packed = await self._connection.execute("HGET", key, _field(place), timeout_ms=TIMEOUT_MS)
        if packed is None:
            return None
        if erased:
            await self._connection.execute("PEXPIRE", key, ERASED_SITES_MS, timeout_ms=TIMEOUT_MS)
        return _DECODER.decode(packed)

    async def write(self, learned: Mapping[Place, LearnedSites], kept_ms: Mapping[Place, int]) -> None:
        """As `Sites.write`."""
        scripts = [
            places[at : at + SCRIPTED]
            for places in _by_partition(learned).values()
            for at in range(0, len(places), SCRIPTED)
        ]
        for at in range(0, len(scripts), AT_ONCE):
            await asyncio.gather(*(self._keep(each, learned, kept_ms) for each in scripts[at : at + AT_ONCE]))

    async def tell(self, receipts: Mapping[str, bytes]) -> None:
        """As `Sites.tell`."""
        for key, receipt in receipts.items():
            await self._connection.execute("SET", key, receipt, "PX", ERASURE_KEPT_MS, timeout_ms=TIMEOUT_MS)

    def _keep(
        self, places: Sequence[Place], learned: Mapping[Place, LearnedSites], kept_ms: Mapping[Place, int]
    ) -> asyncio.Future[None]:
        of_partition = partition_keys(int(places[0].decision_id[:3], 16))
        keys = [of_partition.sites(place.decision_id) for place in places]
        arguments: list[bytes | str | int] = []
        for place in places:
            arguments += _field(place), _ENCODER.encode(learned[place]), kept_ms[place]
        return self._connection.execute("EVAL", _WRITE, len(keys), *keys, *arguments, timeout_ms=TIMEOUT_MS)


class MemorySites:
    """Keeps sites in memory; `now_ms` is to be moved on as the log goes.

    Examples
    --------
    >>> import asyncio
    >>> sites, place = MemorySites(), Place("d", 0, 0)
    >>> learned = LearnedSites(key="d/0", revision=0, response=None, experience=None)
    >>> asyncio.run(sites.write({place: learned}, {place: 1000}))
    >>> asyncio.run(sites.read([place])) == [learned]
    True
    >>> sites.now_ms = 1000
    >>> asyncio.run(sites.read([place]))
    [None]
    """

    def __init__(self) -> None:
        self.now_ms = 0
        self._kept: OrderedDict[str, tuple[int, dict[tuple[int, int], bytes]]] = OrderedDict()
        """Decision → end, and packed sites by slot and revision (a tenth of their size as objects)."""

    async def read(self, places: Sequence[Place], *, erased: bool = False) -> list[LearnedSites | None]:
        """As `Sites.read`."""
        found: list[LearnedSites | None] = []
        for place in places:
            ends_ms, kept = self._kept.get(place.decision_id, (0, {}))
            packed = kept.get((place.slot, place.revision)) if self.now_ms < ends_ms else None
            found.append(_DECODER.decode(packed) if packed is not None else None)
            if packed is not None and erased:
                self._kept[place.decision_id] = (self.now_ms + ERASED_SITES_MS, kept)
        return found

    async def write(self, learned: Mapping[Place, LearnedSites], kept_ms: Mapping[Place, int]) -> None:
        """As `Sites.write`."""
        for place, sites in learned.items():
            ends_ms, kept = self._kept.pop(place.decision_id, (0, {}))
            if self.now_ms >= ends_ms:
                kept = {}
            kept[place.slot, place.revision] = _ENCODER.encode(sites)
            self._kept[place.decision_id] = (self.now_ms + kept_ms[place], kept)
        while self._kept and next(iter(self._kept.values()))[0] <= self.now_ms:
            self._kept.popitem(last=False)

    async def tell(self, receipts: Mapping[str, bytes]) -> None:
        """Nobody waits for them: they were told when it happened."""


def _by_partition(places: Iterable[Place]) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for place in places:
        found.setdefault(place.decision_id[:3], []).append(place)
    return found


def _key(place: Place) -> str:
    return partition_keys(int(place.decision_id[:3], 16)).sites(place.decision_id)


def _field(place: Place) -> str:
    return f"{place.slot}/{place.revision}"
