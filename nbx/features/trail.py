"""The admin trail: who changed what. An entry is written in the transaction of its change, or neither is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

from nbx.features.keys import ADMIN_LOG

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import Pipeline

What = Literal[
    "draft_created",
    "draft_approved",
    "draft_deleted",
    "published",
    "rolled_back",
    "key_created",
    "key_revoked",
    "build_started",
    "settings_changed",
    "customer_erased",
    "erasure_done",
    "customer_merged",
    "customer_exported",
]
"""What was done. Customers stand in the details under their pseudonyms."""


class Author(Struct, frozen=True):
    """Who does something: an API key, or a program of the operator.

    Examples
    --------
    >>> str(Author("0123abcd", "anna")), str(Author("", "nbx up"))
    ('anna (0123abcd)', 'nbx up')
    """

    key_id: str
    """Empty: not done with a key."""
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.key_id})" if self.key_id else self.name


class Change(Struct, frozen=True, kw_only=True):
    """One change."""

    at_ms: int
    who: str
    """Name of the API key or program, and the key's id in brackets."""
    what: What
    details: dict[str, str | int]


decode_change = msgspec.json.Decoder(Change).decode


def append(pipe: Pipeline, change: Change) -> None:
    """Add an entry to a transaction that is being put together."""
    pipe.xadd(ADMIN_LOG, {"e": msgspec.json.encode(change)})


async def changes(redis: Redis, count: int) -> list[Change]:
    """Return the latest changes, newest first."""
    rows: Any = await redis.xrevrange(ADMIN_LOG, count=count)
    return [decode_change(fields[b"e"]) for _, fields in rows]
