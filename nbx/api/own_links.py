"""Links to a customer's own view: signed, expiring, and all that their holder needs.

A token is `<payload>.<mac>` in base64url: the payload holds the customer's id and when the link ends, the mac is
HMAC-SHA256 over it with a secret of the installation, made once in Redis by whichever worker needs it first. Nothing is
stored per link. Whoever holds one may look at the view and use its controls until it ends, and nothing else;
deleting the key in Redis ends all links. Every refusal but expiry reads alike.
"""

from __future__ import annotations

import binascii
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from hmac import compare_digest, digest

import msgspec
from redis.asyncio import Redis

from nbx.catalog.time_words import duration_ms
from nbx.errors import Forbidden, Invalid, Unavailable
from nbx.features.keys import OWN_SIGNER

LIFETIME_MS = 3_600_000
"""How long a link lasts unless told."""
LONGEST_MS = 30 * 86_400_000
"""How long it may last: a link in a letter."""
_SECRET_BYTES = 32
_REFUSED = "this link is not valid: ask for a new one where you got it"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, int]).decode


async def own_secret(redis: Redis) -> bytes:
    """Return the installation's secret, made at its first use."""
    await redis.set(OWN_SIGNER, secrets.token_bytes(_SECRET_BYTES), nx=True)
    found = await redis.get(OWN_SIGNER)
    if not isinstance(found, bytes):
        raise Unavailable("the key that signs customers' links is gone from Redis; try again")
    return found


def lifetime_ms(text: str) -> int:
    """Read how long a link shall last, such as `1h`; empty: as long as usual."""
    wanted = duration_ms(text) if text else LIFETIME_MS
    if wanted is None or not 0 < wanted <= LONGEST_MS:
        raise Invalid(f"lifetime is {text[:40]!r}; it must be a duration up to 30d, such as 1h", field="lifetime")
    return wanted


def make_token(secret: bytes, customer_id: str, expires_ms: int) -> str:
    """Make a token.

    Examples
    --------
    >>> token = make_token(b"secret", "anna", 5_000)
    >>> read_token(b"secret", token, 4_999)
    'anna'
    >>> read_token(b"other", token, 4_999)
    Traceback (most recent call last):
    nbx.errors.Forbidden: this link is not valid: ask for a new one where you got it
    """
    payload = _encode((customer_id, expires_ms))
    return f"{_text(payload)}.{_text(digest(secret, payload, sha256))}"


def read_token(secret: bytes, token: str, now_ms: int) -> str:
    """Return the customer whose token it is.

    Raises
    ------
    Forbidden
        It is none of ours (`link_invalid`), or has ended (`link_expired`).
    """
    first, _, mac = token.partition(".")
    payload = _bytes(first)
    genuine = compare_digest(_text(digest(secret, payload, sha256)).encode(), mac.encode())
    if not genuine or _text(payload) != first:
        raise Forbidden(_REFUSED, code="link_invalid")
    customer_id, expires_ms = _decode(payload)
    if now_ms >= expires_ms:
        raise Forbidden("this link has expired: ask for a new one where you got it", code="link_expired")
    return customer_id


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""
