"""A small HTTP server on a real socket that can stall, hang up, or answer badly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

DECISION = b'{"decision_id": "d1", "slots": [{"slot": 0, "none": "x"}, {"slot": 1, "action": "a"}], "degraded": []}'
EVENTS = b'[{"event_id": "e", "status": "accepted"}]'


def answer(body: bytes, status: bytes = b"200 OK", head: bytes = b"") -> bytes:
    """Write an answer."""
    return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, head, len(body), body)


class Server(asyncio.Protocol):
    """One connection of the server.

    Parameters
    ----------
    respond
        Told the path and how many requests there were before; returns what to send (empty: hang up) and after how many
        seconds (None: never).
    """

    def __init__(self, respond: Callable[[str, int], tuple[bytes, float | None]], count: list[int]) -> None:
        self._respond = respond
        self._count = count

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        body, after_s = self._respond(data.split(b" ", 2)[1].decode(), self._count[0])
        self._count[0] += 1
        if after_s is not None:
            asyncio.get_running_loop().call_later(after_s, self._send, body)

    def _send(self, body: bytes) -> None:
        if body:
            self._transport.write(body)  # type: ignore[attr-defined] # always a transport of a socket
        else:
            self._transport.close()


@asynccontextmanager
async def serving(respond: Callable[[str, int], tuple[bytes, float | None]]) -> AsyncIterator[str]:
    """Serve while the block lasts; gives the URL."""
    count = [0]
    server = await asyncio.get_running_loop().create_server(lambda: Server(respond, count), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
