"""The learner's journal as a port: which log entries each of its steps took in, so that any model can be had again.

`nbx.runtime.journal.RedisJournal` reads what Redis keeps of it, `WholeJournal` the archive too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple, Protocol


class Step(NamedTuple):
    """A step of the learner."""

    step: int
    """Counted from 1; a snapshot's version is the last step in it."""
    offsets: Mapping[int, str]
    """Partition → log id of the last entry that it took in, of those of which it took any."""
    build: str = ""
    """Fingerprint of the build that learned it; empty: it did not say."""


class Journal(Protocol):
    """Reads steps."""

    def steps(self, after: int, until: int) -> AsyncIterator[Step]:
        """Yield the steps that are kept with after < step ≤ until, in their order; none: nothing."""
        ...
