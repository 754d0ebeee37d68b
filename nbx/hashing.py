"""Stable hashes: the same on every machine, process and Python version (unlike the builtin)."""

from __future__ import annotations

from hashlib import blake2b

PSEUDONYM = "c_"
"""Begins pseudonyms; 26 hexadecimal digits follow."""


def hash64(text: str, salt: str = "") -> int:
    """Hash text to 64 bits.

    Parameters
    ----------
    text
        What to hash.
    salt
        Separates uses of the same text; at most 16 bytes of it count.

    Returns
    -------
    int
        In [0, 2**64).

    Examples
    --------
    >>> hash64("anna") == hash64("anna"), hash64("anna", "a") == hash64("anna", "b")
    (True, False)
    """
    return int.from_bytes(blake2b(text.encode(), digest_size=8, salt=salt.encode()[:16]).digest(), "big")


def uniform(text: str, salt: str = "") -> float:
    """Hash text to a number uniform in [0, 1), with 53 bits.

    Examples
    --------
    >>> 0.0 <= uniform("decision-1/0") < 1.0
    True
    """
    return (hash64(text, salt) >> 11) * 2.0**-53


def pseudonym(key: bytes, customer_id: str) -> str:
    """Return the name that stands for a customer where its id must not: the same for the same key, and no way back.

    Examples
    --------
    >>> pseudonym(b"secret", "anna") == pseudonym(b"secret", "anna"), len(pseudonym(b"secret", "anna"))
    (True, 28)
    >>> pseudonym(b"secret", "anna") == pseudonym(b"other", "anna")
    False
    """
    mixed = blake2b(key, digest_size=32, person=b"nbx pseudonym").digest()
    return PSEUDONYM + blake2b(customer_id.encode(), digest_size=13, key=mixed).hexdigest()
