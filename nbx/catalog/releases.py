"""Releases in Redis: numbered, immutable, one in force.

A release is written under its own key with NX, then `nbx:catalog:current` moves to it, in one transaction that watches
the number it started from: two publishers cannot both win, and no worker can see a number without its release. In the
same transaction go its text as it was written, its line in the history and its entry in the admin trail. The text has a
key of its own, as every worker reads the release, and nobody the text.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from redis.exceptions import WatchError

from nbx.catalog.diff import diff
from nbx.catalog.model import Catalog
from nbx.errors import Conflict, Unknown
from nbx.features.keys import (
    CATALOG_CURRENT,
    CATALOG_DRAFTS,
    CATALOG_HISTORY,
    draft_key,
    draft_text_key,
    release_key,
    release_text_key,
)
from nbx.features.trail import Change, append

if TYPE_CHECKING:
    from redis.asyncio import Redis

HISTORY_SENTENCES = 50
"""Sentences of a difference in the history; the release has them all."""


class Head(Struct, frozen=True, kw_only=True):
    """What history tells of a release."""

    number: int
    """1 for the first."""
    author: str
    note: str
    at_ms: int
    base: int = 0
    """Release it replaced; 0: it was the first, or published when this was not recorded."""
    diff: tuple[str, ...] = ()
    """What it changed, in words."""
    approved_by: str = ""
    """Who released the draft besides its author."""
    rollback_of: int = 0
    """Release whose catalog it brought back; 0: none."""


class Release(Head, frozen=True, kw_only=True):
    """A published catalog."""

    catalog: Catalog


class Source(Struct, frozen=True, kw_only=True):
    """Where the catalog of a new release comes from."""

    text: str = ""
    """As written; empty: it was made by a program."""
    draft: str = ""
    """Id of the draft it was; the draft is gone afterwards."""
    publisher: str = ""
    """Who publishes, when it is not the author."""
    approved_by: str = ""
    rollback_of: int = 0


_DECODE = msgspec.json.Decoder(Release).decode
_DECODE_HEAD = msgspec.json.Decoder(Head).decode


def digest_of(packed: bytes | str) -> str:
    """Digest a stored release, 16 hex digits."""
    return blake2b(packed.encode() if isinstance(packed, str) else packed, digest_size=8).hexdigest()


def decode_release(packed: bytes | str) -> Release:
    """Unpack a stored release."""
    return _DECODE(packed)


async def current_number(redis: Redis) -> int:
    """Return the number of the release in force, 0 when there is none."""
    return int(await redis.get(CATALOG_CURRENT) or 0)


async def packed_release(redis: Redis, number: int) -> bytes | str:
    """Return a release as stored, JSON; `Unknown` when there is none of that number."""
    packed = await redis.get(release_key(number))
    if packed is None:
        raise Unknown(f"release {number} does not exist", field="release", code="release_unknown")
    return packed


async def load_release(redis: Redis, number: int) -> Release:
    """Return a release; `Unknown` when there is none of that number."""
    return await asyncio.to_thread(_DECODE, await packed_release(redis, number))


async def release_text(redis: Redis, number: int) -> str:
    """Return a release's catalog as it was written, with its comments; `Unknown` when it has no text."""
    text = await redis.get(release_text_key(number))
    if text is None:
        await packed_release(redis, number)
        raise Unknown(f"release {number} was published without a text", field="release", code="release_text_unknown")
    return as_text(text)


async def history(redis: Redis, count: int, before: int = 0) -> list[Head]:
    """Return up to `count` releases, newest first; with `before` only those of a lower number."""
    newest = await current_number(redis)
    if before > 0:
        newest = min(newest, before - 1)
    numbers = range(newest, max(0, newest - count), -1)
    if not numbers:
        return []
    heads = await redis.hmget(CATALOG_HISTORY, [str(number) for number in numbers])
    return [
        _DECODE_HEAD(head or await packed_release(redis, number)) for number, head in zip(numbers, heads, strict=True)
    ]


async def publish(
    redis: Redis,
    catalog: Catalog,
    *,
    author: str,
    note: str,
    at_ms: int,
    base: int | None = None,
    source: Source = Source(),  # noqa: B008 - immutable
) -> Release:
    """Publish a checked catalog as the next release. One that changes nothing is published too, and says so.

    Parameters
    ----------
    base
        Number the author started from; None: whatever is in force.
    source
        Where the catalog comes from.

    Raises
    ------
    Conflict
        Another release came in between.
    Unknown
        The draft is gone.
    """
    async with redis.pipeline(transaction=True) as pipe:
        await pipe.watch(CATALOG_CURRENT, draft_key(source.draft))
        current = int(await pipe.get(CATALOG_CURRENT) or 0)
        if base is not None and base != current:
            raise Conflict(
                f"the catalog was changed: it is at release {current}, this draft started from {base}; "
                "take the changes over and publish again",
                field="base",
                code="release_stale",
            )
        if source.draft and not await pipe.exists(draft_key(source.draft)):
            raise Unknown(f"draft {source.draft} does not exist", field="draft", code="draft_unknown")
        release = Release(
            number=current + 1,
            catalog=catalog,
            author=author,
            note=note,
            at_ms=at_ms,
            base=current,
            diff=await difference(await pipe.get(release_key(current)), catalog),
            approved_by=source.approved_by,
            rollback_of=source.rollback_of,
        )
        pipe.multi()  # type: ignore[no-untyped-call] # redis-py
        pipe.set(release_key(release.number), await asyncio.to_thread(msgspec.json.encode, release), nx=True)
        if source.text:
            pipe.set(release_text_key(release.number), source.text)
        pipe.hset(CATALOG_HISTORY, str(release.number), msgspec.json.encode(_head(release)))
        pipe.set(CATALOG_CURRENT, release.number)
        if source.draft:
            pipe.delete(draft_key(source.draft), draft_text_key(source.draft))
            pipe.zrem(CATALOG_DRAFTS, source.draft)
        append(pipe, _change(release, source))
        try:
            await pipe.execute()
        except WatchError:
            raise Conflict(
                "another release was published, or the draft changed, at the same moment; try again",
                code="release_stale",
            ) from None
    return release


async def rollback(
    redis: Redis, number: int, *, author: str, note: str, at_ms: int, base: int | None = None
) -> Release:
    """Publish the catalog of an older release as the next one.

    Raises
    ------
    Unknown
        There is no such release.
    Conflict
        As `publish`.
    """
    old = await load_release(redis, number)
    text = await redis.get(release_text_key(number))
    source = Source(text=as_text(text or b""), rollback_of=number)
    return await publish(redis, old.catalog, author=author, note=note, at_ms=at_ms, base=base, source=source)


async def difference(packed: bytes | str | None, after: Catalog) -> tuple[str, ...]:
    """Say what a catalog changes against a stored release, beside the event loop; None: against nothing."""
    return await asyncio.to_thread(lambda: diff(_DECODE(packed).catalog if packed else None, after))


def as_text(value: object) -> str:
    """Return a value of Redis as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _head(release: Release) -> Head:
    told = {name: getattr(release, name) for name in Head.__struct_fields__}
    more = len(release.diff) - HISTORY_SENTENCES
    if more > 0:
        told["diff"] = (*release.diff[:HISTORY_SENTENCES], f"and {more} more")
    return Head(**told)


def _change(release: Release, source: Source) -> Change:
    details: dict[str, str | int] = {"release": release.number, "catalog": release.catalog.name, "note": release.note}
    for name in ("draft", "approved_by", "rollback_of"):
        if value := getattr(source, name):
            details[name] = value
    if source.publisher:
        details["author"] = release.author
    return Change(
        at_ms=release.at_ms,
        who=source.publisher or release.author,
        what="rolled_back" if source.rollback_of else "published",
        details=details,
    )
