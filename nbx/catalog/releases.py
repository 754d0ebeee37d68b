"""Releases in Redis: numbered, immutable, one in force.

A release is written under its own key with NX, then `nbx:catalog:current` moves to it, in one transaction that watches
the number it started from: two publishers cannot both win, and no worker can see a number without its release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from redis.exceptions import WatchError

from nbx.catalog.model import Catalog
from nbx.errors import Conflict, Unknown
from nbx.features.keys import CATALOG_CURRENT, release_key

if TYPE_CHECKING:
    from redis.asyncio import Redis


class Release(Struct, frozen=True, kw_only=True):
    """A published catalog."""

    number: int
    """1 for the first."""
    catalog: Catalog
    author: str
    note: str
    at_ms: int


_DECODE = msgspec.json.Decoder(Release).decode


def decode_release(packed: bytes | str) -> Release:
    """Unpack a stored release."""
    return _DECODE(packed)


async def current_number(redis: Redis) -> int:
    """Return the number of the release in force, 0 when there is none."""
    return int(await redis.get(CATALOG_CURRENT) or 0)


async def load_release(redis: Redis, number: int) -> Release:
    """Return a release; `Unknown` when there is none of that number."""
    packed = await redis.get(release_key(number))
    if packed is None:
        raise Unknown(f"release {number} does not exist", field="release", code="release_unknown")
    return decode_release(packed)


async def publish(
    redis: Redis, catalog: Catalog, *, author: str, note: str, at_ms: int, base: int | None = None
) -> Release:
    """Publish a checked catalog as the next release.

    Parameters
    ----------
    base
        Number the author started from; None: whatever is in force.

    Raises
    ------
    Conflict
        Another release came in between.
    """
    async with redis.pipeline(transaction=True) as pipe:
        await pipe.watch(CATALOG_CURRENT)
        current = int(await pipe.get(CATALOG_CURRENT) or 0)
        if base is not None and base != current:
            raise Conflict(
                f"the catalog was changed: it is at release {current}, this draft started from {base}; "
                "take the changes over and publish again",
                field="base",
                code="release_stale",
            )
        release = Release(number=current + 1, catalog=catalog, author=author, note=note, at_ms=at_ms)
        pipe.multi()  # type: ignore[no-untyped-call] # redis-py
        pipe.set(release_key(release.number), msgspec.json.encode(release), nx=True)
        pipe.set(CATALOG_CURRENT, release.number)
        try:
            await pipe.execute()
        except WatchError:
            raise Conflict(
                "another release was published at the same moment; try again", code="release_stale"
            ) from None
    return release
