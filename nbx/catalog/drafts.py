"""Drafts in Redis: catalogs on their way to a release, immutable, approved by somebody else than their author.

A draft's text never changes: a change is a new draft. So an approval, which names the text's hash, is an approval of
what will be published. Drafts go when they are published, deleted, too old or too many (`limits.DRAFTS`).
"""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, structs
from redis.exceptions import WatchError

from nbx.catalog.releases import as_text, current_number, difference
from nbx.errors import Conflict, Forbidden, Unknown
from nbx.features.keys import CATALOG_DRAFTS, draft_key, draft_text_key, release_key
from nbx.features.trail import Author, Change, append
from nbx.limits import DRAFT_KEPT_MS, DRAFTS

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import Pipeline

    from nbx.catalog.model import Catalog


class Approval(Struct, frozen=True, kw_only=True):
    """Somebody's yes to a text."""

    by: Author
    at_ms: int
    sha256: str
    """Of the text."""


class Check(Struct, frozen=True, kw_only=True):
    """What the check said of a catalog that has no fault."""

    warnings: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    """Examples that fail, in words: the draft cannot be published."""


class Draft(Struct, frozen=True, kw_only=True):
    """A catalog that is not in force; its text is stored apart."""

    id: str
    """16 hex digits."""
    catalog: str
    author: Author
    note: str
    at_ms: int
    base: int
    """Release that was in force; the draft can be published while it is."""
    sha256: str
    """Hex digest of the text as UTF-8."""
    diff: tuple[str, ...]
    """What it changes, in words."""
    check: Check
    approvals: tuple[Approval, ...] = ()

    def approved_by(self, text: str) -> str:
        """Return who else released exactly this text; empty: nobody."""
        return next(
            (
                str(each.by)
                for each in self.approvals
                if each.by.key_id != self.author.key_id and each.sha256 == digest(text)
            ),
            "",
        )


_DECODE = msgspec.json.Decoder(Draft).decode


def digest(text: str) -> str:
    """Return the hash that approvals name."""
    return sha256(text.encode()).hexdigest()


async def create_draft(
    redis: Redis,
    text: str,
    catalog: Catalog,
    check: Check,
    *,
    author: Author,
    note: str,
    base: int | None,
    at_ms: int,
) -> Draft:
    """Store a draft.

    Parameters
    ----------
    text, catalog, check
        As written, as read, and what the check said.
    base
        Release it started from; None: the one in force.

    Raises
    ------
    Conflict
        `base` is not in force: the draft could never be published.
    """
    current = await current_number(redis)
    if base is not None and base != current:
        raise Conflict(
            f"release {current} is in force, this draft started from {base}; take the changes over and send it again",
            field="base",
            code="release_stale",
        )
    draft = Draft(
        id=secrets.token_hex(8),
        catalog=catalog.name,
        author=author,
        note=note,
        at_ms=at_ms,
        base=current,
        sha256=digest(text),
        diff=await difference(await redis.get(release_key(current)), catalog),
        check=check,
    )
    oldest = await redis.zrange(CATALOG_DRAFTS, 0, -1)
    dropped = [as_text(each) for each in oldest[: max(0, len(oldest) + 1 - DRAFTS)]]
    async with redis.pipeline(transaction=True) as pipe:
        pipe.set(draft_key(draft.id), msgspec.json.encode(draft), px=DRAFT_KEPT_MS)
        pipe.set(draft_text_key(draft.id), text, px=DRAFT_KEPT_MS)
        pipe.zremrangebyscore(CATALOG_DRAFTS, 0, at_ms - DRAFT_KEPT_MS)
        pipe.zadd(CATALOG_DRAFTS, {draft.id: at_ms})
        for each in dropped:
            _remove(pipe, each)
        details: dict[str, str | int] = {"draft": draft.id, "catalog": draft.catalog, "base": draft.base, "note": note}
        details["sha256"] = draft.sha256
        if dropped:
            details["dropped"] = ", ".join(dropped)
        append(pipe, Change(at_ms=at_ms, who=str(author), what="draft_created", details=details))
        await pipe.execute()
    return draft


async def load_draft(redis: Redis, draft_id: str) -> Draft:
    """Return a draft; `Unknown` when there is none of that id."""
    return _found(draft_id, await redis.get(draft_key(draft_id)))


async def draft_text(redis: Redis, draft_id: str) -> str:
    """Return a draft's text; `Unknown` when there is none of that id."""
    text = await redis.get(draft_text_key(draft_id))
    if text is None:
        raise _unknown(draft_id)
    return as_text(text)


async def list_drafts(redis: Redis) -> list[Draft]:
    """Return all drafts, newest first."""
    ids = [as_text(each) for each in await redis.zrevrange(CATALOG_DRAFTS, 0, -1)]
    stored = await redis.mget([draft_key(each) for each in ids]) if ids else []
    return [_DECODE(packed) for packed in stored if packed is not None]


async def approve_draft(redis: Redis, draft_id: str, *, by: Author, at_ms: int, sha256: str = "") -> Draft:
    """Put somebody's yes on a draft; a second one by the same key changes nothing.

    Parameters
    ----------
    sha256
        Of the text that was looked at; empty: the stored one.

    Raises
    ------
    Unknown
        There is no such draft.
    Forbidden
        The author's own key.
    Conflict
        Another text was looked at, or the draft changed at the same moment.
    """
    async with redis.pipeline(transaction=True) as pipe:
        await pipe.watch(draft_key(draft_id))
        draft = _found(draft_id, await pipe.get(draft_key(draft_id)))
        if by.key_id == draft.author.key_id:
            words = f"draft {draft_id} was made with this very API key: somebody else has to approve it, with another"
            raise Forbidden(words, code="approval_own")
        if sha256 and sha256 != draft.sha256:
            words = f"draft {draft_id} has the text {draft.sha256}, not {sha256}: look at it again"
            raise Conflict(words, field="sha256", code="draft_differs")
        if any(each.by.key_id == by.key_id for each in draft.approvals):
            return draft
        approval = Approval(by=by, at_ms=at_ms, sha256=draft.sha256)
        draft = structs.replace(draft, approvals=(*draft.approvals, approval))
        pipe.multi()  # type: ignore[no-untyped-call] # redis-py
        pipe.set(draft_key(draft_id), msgspec.json.encode(draft), keepttl=True)
        details: dict[str, str | int] = {"draft": draft_id, "author": str(draft.author), "sha256": draft.sha256}
        append(pipe, Change(at_ms=at_ms, who=str(by), what="draft_approved", details=details))
        await _executed(pipe, draft_id)
    return draft


async def delete_draft(redis: Redis, draft_id: str, *, by: Author, at_ms: int) -> None:
    """Delete a draft; `Unknown` when there is none of that id."""
    async with redis.pipeline(transaction=True) as pipe:
        await pipe.watch(draft_key(draft_id))
        draft = _found(draft_id, await pipe.get(draft_key(draft_id)))
        pipe.multi()  # type: ignore[no-untyped-call] # redis-py
        _remove(pipe, draft_id)
        details: dict[str, str | int] = {"draft": draft_id, "author": str(draft.author), "sha256": draft.sha256}
        append(pipe, Change(at_ms=at_ms, who=str(by), what="draft_deleted", details=details))
        await _executed(pipe, draft_id)


def _remove(pipe: Pipeline, draft_id: str) -> None:
    pipe.delete(draft_key(draft_id), draft_text_key(draft_id))
    pipe.zrem(CATALOG_DRAFTS, draft_id)


async def _executed(pipe: Pipeline, draft_id: str) -> None:
    try:
        await pipe.execute()
    except WatchError:
        words = f"draft {draft_id} was changed at the same moment; look at it again"
        raise Conflict(words, code="draft_changed") from None


def _found(draft_id: str, packed: bytes | str | None) -> Draft:
    if packed is None:
        raise _unknown(draft_id)
    return _DECODE(packed)


def _unknown(draft_id: str) -> Unknown:
    words = f"draft {draft_id} does not exist: it was published or deleted, or is older than 90 days"
    return Unknown(words, field="draft", code="draft_unknown")
