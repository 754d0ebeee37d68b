"""What can be read off a packed log entry at once: whoever reads a whole log unpacks only what concerns it."""

from __future__ import annotations

from typing import NamedTuple

_ARRAY16, _FIXSTR, _FIXSTR_LENGTH, _STR8, _STR16 = 0xDC, 0xA0, 0x1F, 0xD9, 0xDA
"""Of MessagePack: heads of arrays and strings."""
_INTEGERS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
"""Head of an integer → bytes that follow; any other is the number itself."""


class Head(NamedTuple):
    """What can be read of a packed entry without unpacking it."""

    customer: bytes
    """UTF-8; empty: it is no entry."""
    at_ms: int
    release: int


def head_of(packed: bytes) -> Head:
    """Read whose an entry is, and under which release it was made.

    Examples
    --------
    >>> from nbx.experience.entries import MovedEntry, encode_entry
    >>> head_of(encode_entry(MovedEntry(customer_id="anna", at_ms=1, release=300, into="bea")))
    Head(customer=b'anna', at_ms=1, release=300)
    >>> head_of(b"what is this?").customer
    b''
    """
    try:
        at = 3 if packed[0] == _ARRAY16 else 1
        at += 1 + (packed[at] & _FIXSTR_LENGTH)  # the tag
        size = {_STR8: 1, _STR16: 2}.get(packed[at], 0)
        length = int.from_bytes(packed[at + 1 : at + 1 + size], "big") if size else packed[at] & _FIXSTR_LENGTH
        if not size and packed[at] & ~_FIXSTR_LENGTH != _FIXSTR:
            return Head(b"", 0, 0)
        customer = packed[at + 1 + size : at + 1 + size + length]
        at += 1 + size + length
        at_ms, at = _integer(packed, at)
        return Head(customer, at_ms, _integer(packed, at)[0])
    except IndexError:
        return Head(b"", 0, 0)


def _integer(packed: bytes, at: int) -> tuple[int, int]:
    """Read an integer, and where it ends."""
    size = _INTEGERS.get(packed[at], 0)
    end = at + 1 + size
    return int.from_bytes(packed[at + 1 : end], "big") if size else packed[at], end


DECISION_TAG = b"\xa8decision"
"""How a packed decision begins, after the head of its array."""


def is_decision(packed: bytes) -> bool:
    """Tell whether a packed entry is a decision, without unpacking it.

    Examples
    --------
    >>> from nbx.experience.entries import MovedEntry, encode_entry
    >>> is_decision(encode_entry(MovedEntry(customer_id="decision", at_ms=1, release=1, into="bea")))
    False
    """
    return DECISION_TAG in packed[:12]  # where no other entry's customer id ends, were it `decision`
