"""Identifiers: validation of the caller's, creation of ours.

A decision id is 26 lower-case hex digits: 3 of the partition, 11 of the millisecond, 12 random. So the keys and the
place in the log of a decision are found from the id alone, and an id whose record is gone tells when it was made.
"""

from __future__ import annotations

from os import urandom
from typing import NamedTuple

from nbx.errors import Invalid, TooLarge
from nbx.hashing import hash64
from nbx.limits import ID_LENGTH

_ID_DIGITS = 26


class DecisionRef(NamedTuple):
    """What a decision id tells about itself."""

    partition: int
    at_ms: int


def checked_id(value: str, field: str) -> str:
    """Return `value` when it may be used as an id.

    Raises
    ------
    Invalid
        Empty, or holding control characters or surrogates.
    TooLarge
        Longer than `limits.ID_LENGTH` characters.

    Examples
    --------
    >>> checked_id("customer-7", "customer_id")
    'customer-7'
    """
    if not value:
        raise Invalid(f"{field} is empty", field=field, code="id_invalid")
    if len(value) > ID_LENGTH:
        raise TooLarge(f"{field} has {len(value)} characters, at most {ID_LENGTH} are allowed", field=field)
    if not value.isprintable():
        raise Invalid(f"{field} holds control or unprintable characters", field=field, code="id_invalid")
    return value


def partition_of(customer_id: str, partitions: int) -> int:
    """Partition of a canonical customer id, in [0, partitions)."""
    return hash64(customer_id, "partition") % partitions


def new_decision_id(partition: int, now_ms: int) -> str:
    """Make a decision id for a partition and time.

    Examples
    --------
    >>> decision_ref(new_decision_id(7, 1_700_000_000_000))
    DecisionRef(partition=7, at_ms=1700000000000)
    """
    return f"{partition:03x}{now_ms:011x}{urandom(6).hex()}"


def decision_ref(decision_id: str, field: str = "decision_id") -> DecisionRef:
    """Read partition and time from a decision id; `Invalid` when it is none of ours."""
    try:
        if len(decision_id) != _ID_DIGITS or not decision_id.isalnum():
            raise ValueError  # noqa: TRY301 - one message for all that can be wrong
        int(decision_id, 16)
        return DecisionRef(int(decision_id[:3], 16), int(decision_id[3:14], 16))
    except ValueError:
        raise Invalid(
            f"{field} is not an id that this service gave out", field=field, code="decision_id_invalid"
        ) from None
