"""One pipelined connection to Redis: hiredis parses, what is said in one tick of the event loop leaves in one write.

Why own this: redis-py asyncio spends 15 to 20 times the client CPU per command (`benchmarks/bench_store.py`), nearly
all of it per command and not per byte. Discovery, pub/sub and all that is not hot stay with redis-py. Writing each
command at once and leaving the joining to uvloop was tried: 7.0 instead of 3.9 µs per GET, 64 in flight.

What always holds:

- replies are matched in order; a command that timed out or was cancelled keeps its place, its late reply is dropped;
- nothing is queued for later: while disconnected, full or broken, `execute` raises at once;
- nothing is sent twice: a lost connection fails what was in flight, and only the caller knows whether to repeat it.

Time-outs. One timer per connection, set to the earliest deadline in flight. A `call_later` per command, cancelled by
its reply, was tried: 5.8 instead of 3.9 µs per GET on uvloop, 9.8 instead of 5.1 on asyncio. When it fires late,
it was the loop that stalled, with replies unread and commands unsent: it gets `GRACE_S` to catch up before Redis is
blamed (libuv runs timers right after a round of socket callbacks, before what came meanwhile).

Breaker. `STRIKES` time-outs with no timely answer between them open it for `OPEN_S`; then one caller's command is the
probe. A late reply does not close it: Redis that answers after the deadline is of no use. A connection whose oldest
command is overdue by `STALL_S` is dropped and made anew, as a vanished host sends nothing, not even a reset.

Not here: cluster topology (one connection speaks to one node), RESP3, pushes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from hiredis import ProtocolError, Reader, ReplyError, pack_command

from nbx.errors import SetupError, Unavailable
from nbx.features.redis_url import parse_redis_url

if TYPE_CHECKING:
    from collections.abc import Callable

IN_FLIGHT = 10_000
"""Commands awaiting their reply: at 20 µs of server time each, more could not be answered in 200 ms."""
STRIKES = 20
"""Consecutive time-outs that open the breaker: more than one request's worth, a tick's worth under load."""
OPEN_S = 0.25
"""How long an open breaker refuses before it lets one probe through."""
LATE_S = 0.002
"""How late a timer may fire before the loop counts as stalled: above uvloop's resolution of 1 ms."""
GRACE_S = 0.005
"""Time given to a loop that stalled, for sending and reading what waits: a few round trips."""
STALL_S = 5.0
"""How long the oldest command may be overdue before the connection counts as dead."""
CONNECT_S = 2.0
"""Bound on connecting and on the handshake."""
BACKOFF_FIRST_S = 0.05
BACKOFF_LAST_S = 1.0

_REFUSALS = {
    "LOADING": ("state_loading", "Redis is loading its data set"),
    "READONLY": ("state_readonly", "Redis is a read-only replica: point the URL at the primary"),
    "OOM": ("state_out_of_memory", "Redis has reached maxmemory and refuses writes"),
    "MISCONF": ("state_not_persisting", "Redis cannot write to its disk and refuses writes"),
    "BUSY": ("state_busy", "Redis is busy with a long-running script"),
    "CLUSTERDOWN": ("state_cluster_down", "the Redis cluster does not serve this slot"),
    "MASTERDOWN": ("state_replica_stale", "the Redis replica has lost its primary"),
    "NOREPLICAS": ("state_no_replicas", "Redis has too few replicas and refuses writes"),
    "ERR max number of clients": ("state_too_many_clients", "Redis has reached maxclients"),
    "TRYAGAIN": ("state_resharding", "the Redis cluster is moving this slot"),
}
_PASSWORD_WORDS = ("WRONGPASS", "NOAUTH", "NOPERM", "ERR AUTH", "ERR Client sent AUTH", "ERR invalid password")

_log = logging.getLogger(__name__)


class RedisConnection:
    """A connection that keeps itself alive.

    Parameters
    ----------
    url
        As `nbx.features.redis_url` reads it: `redis://`, `rediss://` or `unix://`.

    Raises
    ------
    SetupError
        The URL is malformed.

    Examples
    --------
    >>> RedisConnection("redis://:secret@cache.local/3").address
    'redis://cache.local:6379/3'
    """

    def __init__(self, url: str) -> None:
        self._target = parse_redis_url(url)
        self.address = self._target.address
        """Where it connects to, fit for messages: no credentials."""
        self._prepared: list[tuple[bytes | str | int, ...]] = []
        self._pipe: _Pipe | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._closed = False
        self._fault = "connect() was not called"

    @property
    def connected(self) -> bool:
        """Whether commands are being sent (the breaker may still be open)."""
        return self._pipe is not None

    @property
    def in_flight(self) -> int:
        """Commands whose reply has not come, those that timed out included."""
        return len(self._pipe.waiting) if self._pipe is not None else 0

    def prepare(self, *args: bytes | str | int) -> None:
        """Have a command sent on every connect from now on, before any other (loading a script, naming the client)."""
        self._prepared.append(args)

    def execute(self, *args: bytes | str | int, timeout_ms: float) -> asyncio.Future[Any]:
        """Send a command with the others of this tick.

        Parameters
        ----------
        *args
            The command and its arguments; text is sent as UTF-8.
        timeout_ms
            Milliseconds from now, > 0; noticed at most 5 ms late, or when the loop comes round.

        Returns
        -------
        Future
            bytes, int, None or a list of these, as the command has it. Fails with `Unavailable` (codes
            `state_timeout`, `state_unavailable`, and one per state of the server that passes) or with
            `hiredis.ReplyError` when the server refuses the command itself.

        Raises
        ------
        Unavailable
            At once, nothing sent: disconnected or breaker open (`state_unavailable`), or `IN_FLIGHT` commands are
            waiting already (`state_overloaded`).
        """
        pipe = self._pipe
        if pipe is None or self._closed:
            raise Unavailable(f"not connected to Redis at {self.address}: {self._fault}", code="state_unavailable")
        return pipe.send(args, timeout_ms)

    async def connect(self) -> None:
        """Connect once; from then on a lost connection is restored in the background.

        Raises
        ------
        SetupError
            The server refuses the credentials, the database or the certificate: retrying would not help.
        Unavailable
            It cannot be reached, or not in time: the caller may try again.
        """
        if self._pipe is not None or self._closed:
            raise RuntimeError("connect() is called once, on a connection that is not closed")
        await self._attach()

    async def close(self, wait_s: float = 1.0) -> None:
        """Refuse new commands, wait at most `wait_s` seconds for replies in flight, then disconnect. Idempotent."""
        self._closed = True
        self._fault = "it was closed"
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait({self._attempt})
            self._attempt = None
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            await pipe.drain(wait_s)

    async def _attach(self) -> None:
        """Connect, greet, and only then let commands through."""
        target = self._target
        loop = asyncio.get_running_loop()
        pipe = _Pipe(loop, self.address, self._detached)
        answers: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(CONNECT_S):
                if target.path:
                    await loop.create_unix_connection(lambda: pipe, target.path)
                else:
                    await loop.create_connection(lambda: pipe, target.host, target.port, ssl=target.tls)
                answers = [pipe.send(args, CONNECT_S * 1000) for args in (*target.greeting, *self._prepared)]
                await asyncio.wait(answers)
            # every outcome is looked at: asyncio complains about a failed future that nobody read
            faults = [fault for answer in answers if (fault := answer.exception())]
            if faults:
                raise faults[0]
        except ssl.SSLCertVerificationError as error:
            raise SetupError(
                f"the certificate of Redis at {self.address} is not trusted: {error.verify_message}"
            ) from None
        except TimeoutError:
            raise Unavailable(
                f"Redis at {self.address} did not answer within {CONNECT_S:g} s", code="state_unavailable"
            ) from None
        except OSError as error:
            raise Unavailable(f"cannot reach Redis at {self.address}: {error}", code="state_unavailable") from None
        except ReplyError as error:
            raise SetupError(_greeting_fault(self.address, str(error)), field="redis_url") from None
        else:
            if pipe.lost:
                raise Unavailable(f"Redis at {self.address} hung up", code="state_unavailable")
            self._pipe = pipe
        finally:
            if self._pipe is not pipe:
                for answer in answers:
                    answer.cancel()
                pipe.abort()

    def _detached(self, pipe: _Pipe) -> None:
        """Start over when the serving connection was lost."""
        if self._pipe is not pipe:
            return
        self._pipe = None
        self._fault = "the connection was lost"
        _log.warning("lost the connection to Redis at %s; reconnecting", self.address)
        self._attempt = asyncio.get_running_loop().create_task(self._reattach())

    async def _reattach(self) -> None:
        """Try until connected, waiting 50 ms, 100 ms … 1 s between attempts."""
        pause_s = BACKOFF_FIRST_S
        while True:
            try:
                await self._attach()
            except (Unavailable, SetupError) as error:
                if self._fault != error.message:
                    self._fault = error.message
                    _log.warning("reconnecting: %s", error.message)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, BACKOFF_LAST_S)
            else:
                _log.warning("connected to Redis at %s again", self.address)
                return


class _Pipe(asyncio.Protocol):
    """One socket from connect to loss: what was sent, who waits, and the breaker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str, on_lost: Callable[[_Pipe], None]) -> None:
        self.waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self.lost = False
        self._loop = loop
        self._now = loop.time
        self._address = address
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._reader = Reader()
        self._outbox: list[bytes] = []
        self._sweep_at = math.inf
        self._sweep: asyncio.TimerHandle | None = None
        self._strikes = 0
        self._open_until = 0.0
        self._probe: asyncio.Future[Any] | None = None
        self._drained: asyncio.Event | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, args: tuple[bytes | str | int, ...], timeout_ms: float) -> asyncio.Future[Any]:
        now = self._now()
        waiting = self.waiting
        broken = self._strikes >= STRIKES
        if broken:
            self._admit_probe(now)
        if len(waiting) >= IN_FLIGHT:
            raise Unavailable(f"{IN_FLIGHT} commands are waiting for Redis already", code="state_overloaded")
        packed = pack_command(args)
        future = self._loop.create_future()
        deadline = now + timeout_ms * 0.001
        waiting.append((future, deadline))
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(packed)
        if deadline < self._sweep_at:
            self._arm(deadline)
        if broken:
            self._probe = future
        return future

    def data_received(self, data: bytes) -> None:
        gets = self._reader.gets
        take = self.waiting.popleft
        try:
            self._reader.feed(data)
            while (reply := gets()) is not False:
                future, _ = take()
                if future.done():  # timed out or cancelled: its late reply ends here
                    continue
                if type(reply) is ReplyError:
                    future.set_exception(_classified(reply))
                else:
                    future.set_result(reply)
                self._strikes = 0
        except (ProtocolError, IndexError):
            _log.exception("Redis at %s broke the protocol; dropping the connection", self._address)
            self.abort()
        if self._drained is not None and not self.waiting:
            self._drained.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._outbox.clear()
        if self._sweep is not None:
            self._sweep.cancel()
        reason = f" ({exc})" if exc else ""
        message = (
            f"the connection to Redis at {self._address} was lost{reason}; whether the command was applied is unknown"
        )
        for future, _ in self.waiting:
            if not future.done():
                future.set_exception(Unavailable(message, code="state_unavailable"))
        self.waiting.clear()
        if self._drained is not None:
            self._drained.set()
        self._on_lost(self)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def drain(self, wait_s: float) -> None:
        """Wait for replies, then hang up and wait until that is done."""
        drained = self._drained = asyncio.Event()
        if self.waiting and not self.lost:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await drained.wait()
        if not self.lost:
            drained.clear()
            self.abort()
            await drained.wait()

    def _flush(self) -> None:
        if self._outbox and self._transport is not None:
            self._transport.write(b"".join(self._outbox))
            self._outbox.clear()

    def _admit_probe(self, now: float) -> None:
        """Refuse unless the breaker has been open long enough and no other probe is out."""
        if now < self._open_until or (self._probe is not None and not self._probe.done()):
            raise Unavailable(
                f"Redis at {self._address} let {self._strikes} commands in a row time out; not asking it for now",
                code="state_unavailable",
            )

    def _arm(self, deadline: float) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep_at = deadline
        self._sweep = self._loop.call_at(deadline, self._due)

    def _due(self) -> None:
        """Judge, but not right after a stall. `_sweep_at` stays in the past: nothing re-arms meanwhile."""
        now = self._now()
        if now - self._sweep_at > LATE_S:
            self._sweep = self._loop.call_later(GRACE_S, self._judge, now)
        else:
            self._judge(now)

    def _judge(self, cutoff: float) -> None:
        """Fail the commands whose deadline was before `cutoff`; arm for the next. O(commands in flight)."""
        nearest = math.inf
        for future, deadline in self.waiting:
            if future.done():
                continue
            if deadline > cutoff:
                nearest = min(nearest, deadline)
                continue
            future.set_exception(
                Unavailable(
                    f"Redis at {self._address} did not answer in time; whether the command was applied is unknown",
                    code="state_timeout",
                )
            )
            self._strikes += 1
            if self._strikes == STRIKES or future is self._probe:
                self._open_until = self._now() + OPEN_S
        self._sweep, self._sweep_at = None, math.inf
        if nearest < math.inf:
            self._arm(nearest)
        if self.waiting and self.waiting[0][1] + STALL_S < cutoff:
            _log.warning("Redis at %s has been silent for %g s; dropping the connection", self._address, STALL_S)
            self.abort()


def _classified(error: Exception) -> Exception:
    """Return `Unavailable` for an error that passes by itself or by an operator's hand, else the error as it is."""
    text = str(error)
    for word, (code, meaning) in _REFUSALS.items():
        # Redis before 7 wraps what a script's command answered: `ERR Error running script … -OOM …`
        if text.startswith(f"{word} ") or f" -{word} " in text:
            return Unavailable(f"{meaning} (it says: {text})", code=code)
    return error


def _greeting_fault(address: str, text: str) -> str:
    if text.startswith(_PASSWORD_WORDS):
        return f"Redis at {address} refuses the user or password of the Redis URL (it says: {text})"
    return f"Redis at {address} refuses the connection (it says: {text})"
