"""The open loop: every call is sent when it is due, whatever became of those before.

A latency runs from when a call was due, so time spent waiting (for a connection, for a stalled service, for this very
process) is in it: nothing is omitted because the generator coordinated itself with the service. How late the generator
came to a call is kept apart, and when that is too much the run says that it measured the generator.

It ends by itself: after the last due call no answer is waited for longer than the timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
import time
from collections.abc import Callable, Iterator

from nbx.loadtest.pacer import Pacer
from nbx.loadtest.records import TIMEOUT, Records
from nbx.loadtest.traffic import Traffic
from nbx.loadtest.wire import Pending, Reply, Wire

LEAD_NS = 100_000_000
"""Between the last preparation and the first call."""
SWEEP_S = 0.01
"""Between two looks for calls whose time is over."""
AT_ONCE = 64
"""Calls sent before answers are looked at again, when many are due together."""
LATELY_S = 0.5
"""Between two words on how it goes."""


class Generator:
    """Sends traffic over a wire.

    Parameters
    ----------
    traffic, wire
        What, and how. The wire is opened and closed here.
    timeout_s
        After which a call is given up, since it was due.
    feedback_entry
        Number that feedback gets instead of a call of the mix.
    look
        Called every half second with this generator.
    """

    def __init__(
        self,
        traffic: Traffic,
        wire: Wire,
        *,
        timeout_s: float,
        feedback_entry: int,
        look: Callable[[Generator], None] | None = None,
    ) -> None:
        self._traffic = traffic
        self._wire = wire
        self._timeout_ns = round(timeout_s * 1e9)
        self._feedback_entry = feedback_entry
        self._look = look
        self._due_ns = (traffic.when.due_s * 1e9).round().astype(int).tolist()
        self._end_ns = round(traffic.when.length_s * 1e9)
        self._next = 0
        self._later: list[tuple[int, int, str, str, int]] = []
        self._under_way: dict[Pending, int] = {}
        self._start_ns = 0
        self._finished: asyncio.Future[None] | None = None
        self._pacer: Pacer | None = None
        self._looked_ns = 0
        self.records = Records()
        self.left_over = 0
        """Feedback that would have come after the end."""
        self.interrupted = False
        self.cpu_s = 0.0
        """Of the thread that sends, between first and last call."""
        self.took_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first call was due."""
        return (time.perf_counter_ns() - self._start_ns) / 1e9

    @property
    def length_s(self) -> float:
        """Seconds in which calls were due: shorter than the schedule when it was stopped."""
        return self._end_ns / 1e9

    @property
    def sent(self) -> int:
        """Calls that were sent or wait for a connection."""
        return self.records.answered + len(self._under_way)

    def stop(self) -> None:
        """Send nothing more; what is under way is still waited for."""
        self.interrupted = True
        self._next = len(self._due_ns)
        self._later.clear()
        self._end_ns = min(self._end_ns, time.perf_counter_ns() - self._start_ns)

    async def run(self, on_start: Callable[[int], None] | None = None) -> None:
        """Send everything and wait for the answers.

        Parameters
        ----------
        on_start
            Called with the time at which the load begins, of `time.perf_counter_ns`.

        Raises
        ------
        Unavailable
            Nobody answers there: nothing was sent.
        """
        loop = asyncio.get_running_loop()
        await self._wire.open(self._answered)
        self._finished = loop.create_future()
        self._pacer = Pacer(loop, self._send_due)
        try:
            with _no_collections():
                self._start_ns = time.perf_counter_ns() + LEAD_NS
                if on_start is not None:
                    on_start(self._start_ns)
                cpu_s = time.thread_time()
                self._pacer.at(self._start_ns)
                sweeping = loop.call_later(SWEEP_S, self._sweep)
                try:
                    await self._finished
                finally:
                    sweeping.cancel()
                self.cpu_s = time.thread_time() - cpu_s
                self.took_s = self.elapsed_s
        finally:
            self._pacer.close()
            await self._wire.close()

    def _send_due(self) -> None:
        now_ns = time.perf_counter_ns() - self._start_ns
        for _ in range(AT_ONCE):
            scheduled = self._due_ns[self._next] if self._next < len(self._due_ns) else None
            follows = self._later[0][0] if self._later else None
            if follows is not None and (scheduled is None or follows < scheduled):
                if follows > now_ns:
                    break
                due_ns, number, kind, decision_id, slot = heapq.heappop(self._later)
                request = self._traffic.feedback(number, kind, decision_id, slot)
                self._send(Pending(number, self._feedback_entry, request, due_ns), now_ns)
            elif scheduled is not None and scheduled <= now_ns:
                number, self._next = self._next, self._next + 1
                entry = int(self._traffic.entry[number])
                self._send(Pending(number, entry, self._traffic.request(number), scheduled), now_ns)
            else:
                break
            now_ns = time.perf_counter_ns() - self._start_ns
        self._arm()

    def _send(self, pending: Pending, now_ns: int) -> None:
        self._under_way[pending] = now_ns - pending.due_ns
        self._wire.send(pending)

    def _arm(self) -> None:
        due = [*self._due_ns[self._next : self._next + 1], *(later[0] for later in self._later[:1])]
        if due and self._pacer is not None:
            self._pacer.at(self._start_ns + min(due))

    def _answered(self, pending: Pending, reply: Reply) -> None:
        late_ns = self._under_way.pop(pending, None)
        if late_ns is None:
            return
        pending.done = True
        done_ns = time.perf_counter_ns() - self._start_ns
        sent_ns = pending.sent_ns - self._start_ns if pending.sent_ns else -1
        self.records.add(pending.entry, (pending.due_ns, late_ns, sent_ns, done_ns), reply)
        if reply.slot >= 0 and pending.entry != self._feedback_entry:
            self._expect_feedback(pending, reply, done_ns)

    def _expect_feedback(self, pending: Pending, reply: Reply, now_ns: int) -> None:
        before = self._later[0] if self._later else None
        for later in self._traffic.later(pending.number):
            due_ns = now_ns + round(later.after_s * 1e9)
            if due_ns >= self._end_ns:
                self.left_over += 1
                continue
            heapq.heappush(self._later, (due_ns, pending.number, later.type, reply.decision_id, reply.slot))
        if self._later and self._later[0] != before:
            self._arm()

    def _sweep(self) -> None:
        now_ns = time.perf_counter_ns() - self._start_ns
        expired = []
        for pending in self._under_way:  # in the order in which they were due
            if now_ns - pending.due_ns < self._timeout_ns:
                break
            expired.append(pending)
        for pending in expired:
            self._wire.give_up(pending)
            self._answered(pending, Reply(TIMEOUT, ok=False))
        if self._look is not None and now_ns - self._looked_ns > LATELY_S * 1e9:
            self._looked_ns = now_ns
            self._look(self)
        assert self._finished is not None
        over = self._next == len(self._due_ns) and not self._later and now_ns >= self._end_ns
        if over and not self._under_way and not self._finished.done():
            self._finished.set_result(None)
        else:
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Keep the collector from walking over everything that was prepared, which would delay calls."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
