"""HTTP clients for benchmarks, closed and open loop: raw sockets, one request in flight per connection, little CPU."""

from __future__ import annotations

import asyncio
import time
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
    free: asyncio.LifoQueue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.LifoQueue()
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]
    for connection in opened:
        free.put_nowait(connection)
    began_s = loop.time() + 0.05

    async def one(number: int) -> Sent:
        due_s = began_s + number / rate
        await asyncio.sleep(due_s - loop.time())
        reader, writer = connection = await free.get()
        writer.write(requests[number])
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        at = head.index(b"content-length:") + 15
        body = await reader.readexactly(int(head[at : head.index(b"\r", at)]))
        if look is not None:
            look(body)
        free.put_nowait(connection)
        return Sent(due_s, loop.time(), head.startswith(b"http/1.1 20"))

    sent = await asyncio.gather(*(one(number) for number in range(len(requests))))
    for _, writer in opened:
        writer.close()
    return sent
