"""One row per call: when it was due, sent and answered, and what came of it."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nbx.loadtest.wire import Reply

TIMEOUT = "timeout"


class Rows(NamedTuple):
    """All rows as arrays. Times: int64 nanoseconds since the beginning."""

    entry: NDArray[np.int64]
    due_ns: NDArray[np.int64]
    late_ns: NDArray[np.int64]
    """How long after it was due the generator came to it: its own fault, not the service's."""
    sent_ns: NDArray[np.int64]
    """Handed to the network; -1: never, it had no connection."""
    done_ns: NDArray[np.int64]
    ok: NDArray[np.bool_]
    degraded: NDArray[np.bool_]
    timeout: NDArray[np.bool_]
    status: NDArray[np.int64]
    """Number in `statuses`."""
    statuses: tuple[str, ...]


class Records:
    """Collects rows."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._statuses: dict[str, int] = {}
        self.answered = self.errors = self.degraded = 0

    def add(self, entry: int, times_ns: tuple[int, int, int, int], reply: Reply) -> None:
        """Add a call: times are due, lateness, sent and done."""
        status = self._statuses.setdefault(reply.status, len(self._statuses))
        flags = reply.ok | reply.degraded << 1 | (reply.status == TIMEOUT) << 2
        self._numbers.extend((entry, *times_ns, flags, status))
        self.answered += 1
        self.errors += not reply.ok
        self.degraded += reply.degraded

    def rows(self) -> Rows:
        """Return what was collected."""
        table = np.frombuffer(self._numbers, np.int64).reshape(-1, 7) if self._numbers else np.zeros((0, 7), np.int64)
        flags = table[:, 5]
        return Rows(
            entry=table[:, 0],
            due_ns=table[:, 1],
            late_ns=table[:, 2],
            sent_ns=table[:, 3],
            done_ns=table[:, 4],
            ok=(flags & 1).astype(bool),
            degraded=(flags & 2).astype(bool),
            timeout=(flags & 4).astype(bool),
            status=table[:, 6],
            statuses=tuple(self._statuses),
        )
