"""The two clients: how steps are sent and waited for, blocking and async; what the steps are is in `calls`."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing, closing
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

import httpx

from nbx import __version__
from nbx.client import calls
from nbx.client.calls import DEADLINE_S, Caller
from nbx.client.patience import Answer, Lost, Retry, Send, Steps, Wait
from nbx.errors import SetupError

CONNECTIONS = 100
KEPT_S = 30.0
"""How long an idle connection is kept: less than the service does, so that it is rarely closed under a request."""
P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", threading.Semaphore, asyncio.Semaphore)
H = TypeVar("H", httpx.HTTPTransport, httpx.AsyncHTTPTransport)


class _Connected(Generic[H, S]):
    """Where a client calls, and as whom.

    Requests under way take a lane each: a transport with one connection. A transport with many looks at all of them for
    each request: with 32 under way a call cost 2.4 ms of CPU, with lanes 1.0 ms.

    Parameters
    ----------
    url
        Of the service.
    key
        An API key, or empty.
    certificate
        PEM file trusted besides the system's authorities.
    deadline_s
        Seconds that a call may take in all its attempts, unless it says so itself.
    retry
        How often and how soon a call is tried again.
    seed
        Of the random pauses; None: a new one.
    connections
        Open at a time, at most.
    keep_alive
        Keep them open between calls.
    """

    _make: Callable[..., H]
    _turn: Callable[[int], S]

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        key: str = "",
        certificate: Path | None = None,
        *,
        deadline_s: float = DEADLINE_S,
        retry: Retry = Retry(),  # noqa: B008 - immutable
        seed: int | None = None,
        connections: int = CONNECTIONS,
        keep_alive: bool = True,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise SetupError(f"{url!r} is no URL of a service: it begins with http:// or https://", field="url")
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise SetupError(f"{url!r} is no URL: {error}", field="url") from error
        self.caller = Caller(url, retry, deadline_s, f"{secrets.randbits(32) if seed is None else seed:x}:")
        self._headers = {"user-agent": f"nbx/{__version__}"} | ({"authorization": f"Bearer {key}"} if key else {})
        trusted = (
            ssl.create_default_context() if self._url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        )
        if certificate is not None:
            trusted.load_verify_locations(certificate)
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=int(keep_alive), keepalive_expiry=KEPT_S)
        self._open: Callable[[], H] = partial(self._make, verify=trusted, trust_env=False, limits=limits)
        self._turns: S = self._turn(connections)
        self._lanes: list[H] = []
        self._free: list[H] = []

    def _take(self) -> H:
        """Return a lane nobody uses; the one used last, whose connection is the least likely to be closed by now."""
        try:
            return self._free.pop()
        except IndexError:
            lane = self._open()
            self._lanes.append(lane)
            return lane

    def _request(self, send: Send, timeout_s: float | None, **extensions: Any) -> httpx.Request:
        return httpx.Request(
            send.method,
            self._url.join(send.path),
            content=send.body,
            params=dict(send.query) or None,
            headers=self._headers | ({"content-type": send.content_type} if send.body else {}),
            extensions=extensions | {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)},
        )


def _no_authorities() -> ssl.SSLContext:
    """Make what a transport wants of a caller without TLS; reading the system's authorities takes 20 ms."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _blocking(steps: Callable[Concatenate[Caller, P], Steps[T]]) -> Callable[Concatenate[Client, P], T]:
    @wraps(steps)
    def call(client: Client, /, *args: P.args, **named: P.kwargs) -> T:
        return client.run(steps(client.caller, *args, **named))

    return call


def _awaited(
    steps: Callable[Concatenate[Caller, P], Steps[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    @wraps(steps)
    async def call(client: AsyncClient, /, *args: P.args, **named: P.kwargs) -> T:
        return await client.run(steps(client.caller, *args, **named))

    return call


class Client(_Connected[httpx.HTTPTransport, threading.Semaphore]):
    """Calls that block; may be shared by threads. Close it, or use it as a context manager."""

    _make = httpx.HTTPTransport
    _turn = threading.Semaphore

    decide = _blocking(calls.decide)
    decide_many = _blocking(calls.decide_many)
    record = _blocking(calls.record)
    interact = _blocking(calls.interact)
    change_profile = _blocking(calls.change_profile)
    request = _blocking(calls.request)
    call = _blocking(calls.call)

    delivered = _blocking(calls.delivered)
    seen = _blocking(calls.seen)
    accepted = _blocking(calls.accepted)
    declined = _blocking(calls.declined)
    dismissed = _blocking(calls.dismissed)
    converted = _blocking(calls.converted)
    complained = _blocking(calls.complained)
    failed = _blocking(calls.failed)
    skipped = _blocking(calls.skipped)
    unsuitable = _blocking(calls.unsuitable)
    no_time = _blocking(calls.no_time)

    def text(self, path: str) -> str:
        """GET something that is no JSON, as text; raises as `request`."""
        return self.request("GET", path).decode()

    def close(self) -> None:
        """Close all connections."""
        for lane in self._lanes:
            lane.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, steps: Steps[T]) -> T:
        """Take the steps of a call."""
        come: Answer | Lost | None = None
        with closing(steps):
            while True:
                try:
                    step = steps.send(come)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return] # is what `Steps` says it returns
                if isinstance(step, Wait):
                    time.sleep(step.seconds)
                    come = None
                else:
                    come = self._answer(step)

    def _answer(self, send: Send) -> Answer | Lost:
        until_s = time.monotonic() + send.timeout_s

        def restrict(*_: object) -> None:
            """Let each phase of the request (connect, write, read) have what is left, not all of the time again."""
            timeouts.update(dict.fromkeys(timeouts, max(0.001, until_s - time.monotonic())))

        if not self._turns.acquire(timeout=send.timeout_s):
            return Lost(TimeoutError("all connections are busy"), in_time=False)
        lane = self._take()
        try:
            request = self._request(send, until_s - time.monotonic(), trace=restrict)
            timeouts: dict[str, float] = request.extensions["timeout"]
            with closing(lane.handle_request(request)) as answer:
                body = b""
                for part in answer.iter_bytes():
                    body += part
                    if time.monotonic() > until_s:
                        return Lost(TimeoutError("the answer came too slowly"), in_time=False)
        except httpx.TimeoutException as error:
            return Lost(error, in_time=False)
        except httpx.HTTPError as error:
            return Lost(error, in_time=True)
        finally:
            self._free.append(lane)
            self._turns.release()
        return Answer(answer.status_code, answer.headers.get("retry-after", ""), body)


class AsyncClient(_Connected[httpx.AsyncHTTPTransport, asyncio.Semaphore]):
    """Calls to await, all on one event loop. Close it, or use it as a context manager.

    A cancelled call ends at once and leaves nothing open; what it asked for may have been done.
    """

    _make = httpx.AsyncHTTPTransport
    _turn = asyncio.Semaphore

    decide = _awaited(calls.decide)
    decide_many = _awaited(calls.decide_many)
    record = _awaited(calls.record)
    interact = _awaited(calls.interact)
    change_profile = _awaited(calls.change_profile)
    request = _awaited(calls.request)
    call = _awaited(calls.call)

    delivered = _awaited(calls.delivered)
    seen = _awaited(calls.seen)
    accepted = _awaited(calls.accepted)
    declined = _awaited(calls.declined)
    dismissed = _awaited(calls.dismissed)
    converted = _awaited(calls.converted)
    complained = _awaited(calls.complained)
    failed = _awaited(calls.failed)
    skipped = _awaited(calls.skipped)
    unsuitable = _awaited(calls.unsuitable)
    no_time = _awaited(calls.no_time)

    async def close(self) -> None:
        """Close all connections."""
        for lane in self._lanes:
            await lane.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def run(self, steps: Steps[T]) -> T:
        """Take the steps of a call."""
        come: Answer | Lost | None = None
        with closing(steps):
            while True:
                try:
                    step = steps.send(come)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return] # is what `Steps` says it returns
                if isinstance(step, Wait):
                    await asyncio.sleep(step.seconds)
                    come = None
                else:
                    come = await self._answer(step)

    async def _answer(self, send: Send) -> Answer | Lost:
        try:
            async with asyncio.timeout(send.timeout_s), self._turns:
                lane = self._take()
                try:
                    async with aclosing(await lane.handle_async_request(self._request(send, None))) as answer:
                        body = await answer.aread()
                finally:
                    self._free.append(lane)
        except TimeoutError as error:
            return Lost(error, in_time=False)
        except httpx.HTTPError as error:
            return Lost(error, in_time=True)
        return Answer(answer.status_code, answer.headers.get("retry-after", ""), body)
