"""A TCP proxy that understands just enough HTTP to lose, delay, halve and refuse answers, one request at a time."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

T = TypeVar("T")
Fault = Literal["none", "drop", "lose", "half", "slow", "stall", "halt", "busy"]
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class FlakyProxy:
    """Passes requests on to a port of this machine; each takes the next of `faults`, none when there is none left.

    `drop`: closes before passing on. `lose`: passes on, closes without an answer. `half`: half an answer, then closes.
    `slow`: answers late. `stall`: passes on, answers never. `halt`: half an answer, late, never the rest. `busy`: 503
    with `Retry-After`, not passed on.
    """

    def __init__(self, target: int) -> None:
        self.faults: deque[Fault] = deque()
        self.retry_after = "0"
        self.slow_s = 0.2
        self.requests: list[bytes] = []
        """Bodies of all requests that came in."""
        self.open = 0
        """Connections of callers that are open."""
        self.port = 0
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._on_loop(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._on_loop(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def will(self, *faults: Fault) -> None:
        """Forget what was, and do these next."""
        self.requests.clear()
        self.faults = deque(faults)

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._one(reader, writer):
                    pass
        finally:
            self.open -= 1
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request; False: the connection ends."""
        request = await _message(reader)
        self.requests.append(request.partition(b"\r\n\r\n")[2])
        fault = self.faults.popleft() if self.faults else "none"
        if fault == "drop":
            return False
        if fault == "busy":
            head = f"HTTP/1.1 503 Busy\r\nretry-after: {self.retry_after}\r\ncontent-length: 4\r\n\r\n"
            writer.write(head.encode() + b"busy")
            return True
        upstream, out = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            out.write(request)
            answer = await _message(upstream)
        finally:
            out.close()
        if fault in ("slow", "halt"):
            await asyncio.sleep(self.slow_s)
        if fault == "halt":
            writer.write(answer[: len(answer) // 2])
        if fault in ("stall", "halt"):
            await reader.read()  # until the caller has enough of it
            return False
        writer.write(answer[: len(answer) // 2] if fault == "half" else b"" if fault == "lose" else answer)
        await writer.drain()
        return fault not in ("half", "lose")


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return head + await reader.readexactly(int(length.group(1)) if length else 0)


def shuffled(faults: Iterable[Fault], share: float, count: int, seed: int) -> list[Fault]:
    """Draw `count` faults, `none` for all but a share of them."""
    rng = np.random.default_rng(seed)
    kinds = list(faults)
    hit = rng.random(count) < share
    return [kinds[rng.integers(len(kinds))] if hit[i] else "none" for i in range(count)]
