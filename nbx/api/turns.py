"""Lets decisions in by groups, so that they do the same thing at the same time.

grpc.aio hands calls and messages to the event loop one by one. Decided as they come, each writes its Redis commands
alone and finds the processor's caches cold: the same decision costs half as much again as over HTTP, whose server reads
all connections that have something before anything is decided. So whoever comes while others are being decided waits
for these to be done, and goes in with all who came meanwhile; who finds nobody inside does not wait. That is group
commit: groups grow with the load, and with none there are none. Under load a group that is done is not followed at
once: grpc.aio accepts one call after the other, and gets time to. That saves another tenth of the CPU; a longer pause
saves no more.

What always holds: while somebody waits, a group goes in at the latest `WAIT_S` after the one before, whatever that
waits for; no more than `GROUP` go in at once; who came first is not let in later than who came after.
"""

from __future__ import annotations

import asyncio
from collections import deque

WAIT_S = 0.010
"""Longest wait for a group to be done: a full one takes as long without Redis, and it is little of a deadline."""
LINGER_S = 0.002
"""How long a group that is done is not followed by a smaller one than `MANY`, under load."""
FEW = 3
"""A group of fewer tells that there is little load: the next one goes in as soon as it is done, however small."""
MANY = 16
"""As many wait for nobody else."""
GROUP = 32
"""Decisions that go in at once: with 300 µs each they are done in 10 ms; larger groups gain nothing."""


class Turns:
    """Who is inside, and who waits.

    Parameters
    ----------
    loop
        The event loop of all who enter.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._inside = self._size = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self) -> None:
        """Go in, at once or with the next group; who is in has to `leave`."""
        waiting = self._waiting
        if not self._inside and not waiting:
            self._inside = self._size = 1
            return
        future: asyncio.Future[None] = self._loop.create_future()
        waiting.append(future)
        if self._timer is None:
            self._admit_in(WAIT_S)
        elif len(waiting) >= MANY and not self._inside:
            self._admit()
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():  # let in and cancelled in the same breath
                self.leave()
            raise

    def leave(self) -> None:
        """Tell that one who was in is done."""
        self._inside -= 1
        if self._waiting and not self._inside:
            if self._size < FEW or len(self._waiting) >= MANY:
                self._admit()
            else:
                self._admit_in(LINGER_S)

    def _admit_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._admit)

    def _admit(self) -> None:
        """Let the next group in."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._size = 0
        while self._waiting and self._size < GROUP:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                self._size += 1
        self._inside += self._size
        if self._waiting:
            self._admit_in(WAIT_S)
