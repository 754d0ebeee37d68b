"""Lets decisions in by groups, so that they do the same thing at the same time.

grpc.aio hands calls and messages to the event loop one by one. Decided as they come, each writes its Redis commands
alone and finds the processor's caches cold: the same decision costs half as much again as over HTTP, whose server reads
all connections that have something before anything is decided. So whoever comes while others are being decided waits
for these to be done, and goes in with all who came meanwhile; who finds nobody inside does not wait. That is group
commit: groups grow with the load, and with none there are none.

What always holds: nobody waits longer than `WAIT_S` for those inside, who may be waiting for a slow Redis; no more than
`GROUP` go in at once; first come, first in.
"""

from __future__ import annotations

import asyncio
from collections import deque

WAIT_S = 0.003
"""Longest wait for a group to be done: a few times what Redis takes, and little of a deadline."""
FEW = 3
"""A group of fewer says that there is little to do: the next one goes in as soon as it is done, however small."""
MANY = 16
"""As many make a group worth going in; under load fewer wait for more, until `WAIT_S` is over."""
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
            self._timer = self._loop.call_later(WAIT_S, self._admit)
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
        if self._waiting and not self._inside and (self._size < FEW or len(self._waiting) >= MANY):
            self._admit()

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
            self._timer = self._loop.call_later(WAIT_S, self._admit)
