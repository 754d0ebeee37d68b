"""HTTP clients for benchmarks, closed and open loop: raw sockets, one request in flight per connection, little CPU."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Load(NamedTuple):
    """What a run did."""

    requests: int
    seconds: float
    latencies_ms: list[float]
    errors: int
    reply_bytes: int
    """Body bytes of the last reply."""


class _Connection(asyncio.Protocol):
    def __init__(
        self, next_request: Callable[[], bytes | None], done: asyncio.Future[None], look: Callable[[bytes], None] | None
    ) -> None:
        self._next = next_request
        self._look = look
        self._done = done
        self._buffer = b""
        self._sent_ns = 0
        self.latencies_ms: list[float] = []
        self.errors = 0
        self.reply_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # always one for TCP
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = self._buffer[:head].lower()
        at = lower.index(b"content-length:") + 15
        length = int(lower[at : lower.find(b"\r\n", at) if b"\r\n" in lower[at:] else None])
        if len(self._buffer) < head + 4 + length:
            return
        self.latencies_ms.append((time.perf_counter_ns() - self._sent_ns) / 1e6)
        self.errors += not (lower.startswith(b"http/1.1 20"))
        self.reply_bytes = length
        if self._look is not None:
            self._look(self._buffer[head + 4 :])
        self._buffer = self._buffer[head + 4 + length :]
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's
        if not self._done.done():
            self._done.set_result(None)

    def _send(self) -> None:
        request = self._next()
        if request is None:
            self._transport.close()
            return
        self._sent_ns = time.perf_counter_ns()
        self._transport.write(request)


def post(path: str, body: bytes, key: str = "") -> bytes:
    """Return the bytes of a POST."""
    auth = f"authorization: Bearer {key}\r\n" if key else ""
    lines = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{auth}"
    return f"{lines}content-length: {len(body)}\r\n\r\n".encode() + body


async def load(
    port: int,
    make: Callable[[int], bytes | None],
    *,
    seconds: float,
    connections: int,
    look: Callable[[bytes], None] | None = None,
) -> Load:
    """Send `make(i)` for i = 1, 2, … over `connections` connections for a while, or until it is None.

    `look` is shown the body of each reply.
    """
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    count = 0

    def next_request() -> bytes | None:
        nonlocal count
        if time.perf_counter() - began > seconds:
            return None
        count += 1
        return make(count)

    ends = [loop.create_future() for _ in range(connections)]
    made = [
        (await loop.create_connection(lambda end=end: _Connection(next_request, end, look), "127.0.0.1", port))[1]  # type: ignore[misc]
        for end in ends
    ]
    await asyncio.gather(*ends)
    latencies = [ms for connection in made for ms in connection.latencies_ms]
    return Load(
        len(latencies),
        time.perf_counter() - began,
        latencies,
        sum(connection.errors for connection in made),
        made[0].reply_bytes,
    )


class Sent(NamedTuple):
    """One request of an open loop; times are those of the event loop."""

    due_s: float
    answered_s: float
    ok: bool


class _Line(asyncio.Protocol):
    """A connection of an open loop: one request at a time, the next one at once where one waits."""

    def __init__(self, loop: _OpenLoop) -> None:
        self._loop = loop
        self._buffer = b""
        self._due_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment] # always one for TCP

    def ask(self, request: bytes, due_s: float) -> None:
        self._due_s = due_s
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = self._buffer[:head].lower()
        at = lower.index(b"content-length:") + 15
        end = lower.find(b"\r", at)
        size = head + 4 + int(lower[at : end if end >= 0 else None])
        if len(self._buffer) >= size:
            body, self._buffer = self._buffer[head + 4 : size], self._buffer[size:]
            self._loop.answered(self, self._due_s, lower.startswith(b"http/1.1 20"), body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._loop.lost(exc)


class _OpenLoop:
    def __init__(self, count: int, look: Callable[[bytes], None] | None) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent: list[Sent] = []
        self.free: list[_Line] = []
        self._waiting: deque[tuple[bytes, float]] = deque()
        self._count = count
        self._look = look
        self._time = asyncio.get_running_loop().time

    def ask(self, request: bytes, due_s: float) -> None:
        if self.free:
            self.free.pop().ask(request, due_s)
        else:
            self._waiting.append((request, due_s))

    def answered(self, line: _Line, due_s: float, ok: bool, body: bytes) -> None:
        self.sent.append(Sent(due_s, self._time(), ok))
        if self._look is not None:
            self._look(body)
        if self._waiting:
            line.ask(*self._waiting.popleft())
        else:
            self.free.append(line)
        if len(self.sent) == self._count and not self.done.done():
            self.done.set_result(None)

    def lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server hung up"))


async def open_loop(
    port: int,
    requests: Sequence[bytes],
    *,
    rate: float,
    connections: int,
    look: Callable[[bytes], None] | None = None,
) -> list[Sent]:
    """Send each request when it is due, whatever became of those before; in their order.

    One that finds all connections busy waits for the next free one, and its time counts from when it was due. `look`
    is shown the body of each answer.
    """
    loop = asyncio.get_running_loop()
    open_ = _OpenLoop(len(requests), look)
    for _ in range(connections):
        open_.free.append((await loop.create_connection(lambda: _Line(open_), "127.0.0.1", port))[1])
    lines = open_.free.copy()
    gc.collect()
    gc.disable()  # or what this process does besides is told as the server's latency
    try:
        began_s = loop.time()
        for number, request in enumerate(requests):
            due_s = began_s + number / rate
            if (early_s := due_s - loop.time()) > 0:
                await asyncio.sleep(early_s)
            open_.ask(request, due_s)
        await open_.done
    finally:
        gc.enable()
        for line in lines:
            line.transport.close()
    return sorted(open_.sent)
