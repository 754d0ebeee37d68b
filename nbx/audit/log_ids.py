"""Log ids as numbers, in their order."""

from __future__ import annotations

from typing import Final

LAST_SEQUENCE: Final = 2**63 - 1
Id = tuple[int, int]
"""Log id as numbers: milliseconds, sequence."""
FIRST: Final[Id] = (0, 0)
LAST: Final[Id] = (2**63 - 1, LAST_SEQUENCE)


def parsed(entry_id: str) -> Id:
    """Return a log id as numbers.

    Examples
    --------
    >>> parsed("1700000000000-2")
    (1700000000000, 2)
    """
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence or 0)


def after(place: Id) -> Id:
    """Return the least id beyond one.

    Examples
    --------
    >>> after((5, 1))
    (5, 2)
    """
    return place[0], place[1] + 1
