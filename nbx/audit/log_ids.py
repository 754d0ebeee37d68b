"""Places in the log: ids as numbers, in their order, and the streams that are no partition of customers."""

from __future__ import annotations

from typing import Final

ADMIN: Final = -1
"""Partition under which the admin trail is archived."""
JOURNAL: Final = -2
"""Partition under which the learner's journal is archived; a row's payload is a msgpack map of the stream's fields."""
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
