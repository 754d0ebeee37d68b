"""Heads of the archive's chain, signed, for whoever is to be able to tell later that nothing was rewritten.

A head says: the chain was this long, and its newest record had this hash. As that hash covers every record before, a
chain that no longer has a record with it was rewritten or cut, however consistent it is in itself. The signature lets
the keeper of a head show that it is one of the installation's. Heads are lines of JSON, so a file can collect them.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct, structs

from nbx.audit.chain import Chain
from nbx.errors import Conflict, SetupError, Unknown


class Head(Struct, frozen=True, kw_only=True):
    """The newest record of a chain at some time, signed."""

    n: int
    """Segments there were."""
    hash: str
    """Of the newest record, hexadecimal."""
    at_ms: int
    """When the head was given out, epoch milliseconds."""
    public_key: str
    """Ed25519 key of the installation, hexadecimal."""
    signature: str = ""
    """Ed25519 over the head without it, hexadecimal."""


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Head).decode


def public_hex(key: Ed25519PrivateKey) -> str:
    """Return the public half of a key, hexadecimal."""
    return key.public_key().public_bytes_raw().hex()


def signed_head(chain: Chain, secret: bytes, now_ms: int) -> Head:
    """Return the head of a chain, signed.

    Parameters
    ----------
    secret
        Ed25519 key of the installation, 32 bytes.

    Raises
    ------
    Unknown
        Nothing is archived yet.
    Conflict
        The chain was begun with another key.
    """
    if chain.head is None:
        raise Unknown("nothing is archived yet, so there is no head", code="archive_empty")
    key = Ed25519PrivateKey.from_private_bytes(secret)
    if public_hex(key) != chain.public_key:
        raise Conflict("the archive was begun by an installation with another key; see `nbx log verify`")
    head = Head(n=len(chain.segments), hash=chain.hash, at_ms=now_ms, public_key=chain.public_key)
    return structs.replace(head, signature=key.sign(_encode(head)).hex())


def is_genuine(head: Head) -> bool:
    """Tell whether a head is signed by the key that it names.

    Examples
    --------
    >>> is_genuine(Head(n=1, hash="", at_ms=0, public_key="00" * 32, signature="00" * 64))
    False
    """
    try:
        known = Ed25519PublicKey.from_public_bytes(bytes.fromhex(head.public_key))
        known.verify(bytes.fromhex(head.signature), _encode(structs.replace(head, signature="")))
    except (InvalidSignature, ValueError):
        return False
    return True


def read_heads(path: Path) -> list[Head]:
    """Return the heads of a file: one, or one a line.

    Raises
    ------
    SetupError
        It cannot be read, or holds something else.
    """
    try:
        content = path.read_bytes()
        try:
            heads = [_decode(content)]
        except msgspec.DecodeError:
            heads = [_decode(line) for line in content.splitlines() if line.strip()]
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: is no file of heads as `nbx log heads` writes them: {error}") from error
    if not heads:
        raise SetupError(f"{path}: holds no head")
    return heads
