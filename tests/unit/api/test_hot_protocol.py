"""The short way of hot calls, over real sockets: uvicorn's own answers, whatever a connection goes through."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import pytest
import uvicorn

from nbx.api.auth import KeyRing
from nbx.api.front import Front
from nbx.api.hot_protocol import HotProtocol
from nbx.api.plane import DataPlane
from nbx.limits import BODY_BYTES
from tests.worlds import Desk, run

BODY = msgspec.json.encode({"customer_id": "anna", "placement": "hero"})
SHORT: dict[str, Any] = {}
LONG: dict[str, Any] = {"expect": "nothing"}
"""A header that has uvicorn go its own way."""
KEEP_ALIVE_S = 1


class Wire:
    """A client that writes bytes and reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, *parts: bytes) -> None:
        """Send parts, each in a packet of its own."""
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
            await asyncio.sleep(0.02 if len(parts) > 1 else 0)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one answer: status, headers, body."""
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 5)).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), headers, await self._reader.readexactly(int(headers.get("content-length", 0)))

    async def at_end(self, within_s: float = 5) -> bool:
        """Whether the other side hangs up."""
        try:
            return await asyncio.wait_for(self._reader.read(1), within_s) == b""
        except TimeoutError:
            return False

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


class Service:
    """A server that runs."""

    def __init__(self, port: int, state: Any, desk: Desk) -> None:
        self.port, self.state, self.desk = port, state, desk
        self.wires: list[Wire] = []

    async def connect(self) -> Wire:
        """Connect to it."""
        self.wires.append(Wire(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.wires[-1]


@contextlib.asynccontextmanager
async def serving(call: Callable[[bytes], Awaitable[bytes]] | None = None) -> AsyncIterator[Service]:
    """Serve a desk; `call` stands in for its decisions."""
    desk = Desk()
    plane = DataPlane(desk.decisions, desk.events)
    if call is not None:
        plane.decide = call  # type: ignore[method-assign, assignment]
    front = Front(_elsewhere, plane, KeyRing(is_open=True))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            front, loop="none", http=partial(HotProtocol, front), lifespan="off", log_config=None,  # type: ignore[arg-type]
            server_header=False, date_header=False, timeout_keep_alive=KEEP_ALIVE_S,
        )  # fmt: skip
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment, method-assign]
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        service = Service(listener.getsockname()[1], server.server_state, desk)
        yield service
        server.should_exit = True
        await asyncio.wait_for(task, 10)
        for wire in service.wires:
            wire.close()


async def _elsewhere(scope: Any, receive: Any, send: Any) -> None:
    """Answer what is not hot."""
    await receive()
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": scope["path"][-4:].encode()})


def post(body: bytes = BODY, path: str = "/v1/decisions", version: str = "1.1", **headers: Any) -> bytes:
    """Return the bytes of a request."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    length = "" if "transfer_encoding" in headers else f"content-length: {len(body)}\r\n"
    return f"POST {path} HTTP/{version}\r\nhost: here\r\n{length}{lines}\r\n".encode() + body


def decided(body: bytes) -> str:
    """Return the id of a decision that was answered."""
    return str(msgspec.json.decode(body)["decision_id"])


def test_both_ways_answer_alike() -> None:
    async def both(request: Callable[..., bytes]) -> list[tuple[int, dict[str, str], bytes]]:
        async with serving() as service:
            wire, found = await service.connect(), []
            for way in (SHORT, LONG):
                await wire.send(request(**way))
                found.append(await wire.answer())
            return found

    cases: list[Callable[..., bytes]] = [
        partial(post, b'{"customer_id": "anna", "placement": "nowhere"}'),
        partial(post, b"{"),
        partial(post, b""),
        partial(post, b"x" * (BODY_BYTES + 1)),
        partial(post, b"[]", path="/v1/events"),
        partial(post, b'{"requests": []}', path="/v1/decisions:batch"),
        partial(post, b"{}", path="/v1/elsewhere"),
    ]
    for request in cases:
        short, long = run(both(request))
        assert short == long
        assert short[0] != 200
    short, long = run(both(post))
    assert short[0] == long[0] == 200
    assert short[1].keys() == long[1].keys()
    assert decided(short[2]) != decided(long[2])


def test_a_body_may_come_in_pieces_or_chunks() -> None:
    async def play() -> None:
        async with serving() as service:
            wire = await service.connect()
            whole = post()
            await wire.send(whole[:7], whole[7:60], whole[60:-5], whole[-5:])
            assert (await wire.answer())[0] == 200
            chunked = post(b"", transfer_encoding="chunked")
            parts = [b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:10], BODY[10:])]
            await wire.send(chunked, *parts, b"0\r\n\r\n")
            status, _, body = await wire.answer()
            assert status == 200
            assert decided(body)

    run(play())


def test_requests_behind_each_other_are_answered_in_order() -> None:
    async def call(body: bytes) -> bytes:
        await asyncio.sleep(0.05 if body == b"0" else 0.0)
        return body

    async def play() -> None:
        async with serving(call) as service:
            wire = await service.connect()
            await wire.send(b"".join(post(b"%d" % n) for n in range(5)) + post(b"", path="/v1/away") + post(b"last"))
            found = [(await wire.answer())[2] for _ in range(7)]
            assert found == [b"0", b"1", b"2", b"3", b"4", b"away", b"last"]

    run(play())


def test_too_much_is_refused_before_its_end_and_the_connection_lives_on() -> None:
    async def play() -> None:
        async with serving() as service:
            wire = await service.connect()
            whole = post(b"x" * (3 * BODY_BYTES))
            await wire.send(whole[: BODY_BYTES + 200])
            assert (await wire.answer())[0] == 413
            await wire.send(whole[BODY_BYTES + 200 :] + post())
            assert (await wire.answer())[0] == 200

    run(play())


def test_the_connection_ends_when_asked_to_and_not_before() -> None:
    async def play() -> None:
        async with serving() as service:
            for request, ends in ((post(connection="close"), True), (post(version="1.0"), True), (post(), False)):
                wire = await service.connect()
                await wire.send(request)
                status, headers, _ = await wire.answer()
                assert status == 200
                assert (headers.get("connection") == "close") == ends
                assert await wire.at_end(0.3) == ends

    run(play())


def test_an_idle_connection_is_closed_in_time_and_a_slow_request_is_not() -> None:
    async def play() -> None:
        async with serving() as service:
            idle, slow = await service.connect(), await service.connect()
            for wire in (idle, slow):
                await wire.send(post())
                assert (await wire.answer())[0] == 200
            await asyncio.sleep(KEEP_ALIVE_S / 2)
            whole = post()
            await slow.send(whole[:30])
            assert await idle.at_end(2 * KEEP_ALIVE_S)
            assert not await slow.at_end(KEEP_ALIVE_S)
            await slow.send(whole[30:])
            assert (await slow.answer())[0] == 200
            assert await slow.at_end(2 * KEEP_ALIVE_S)

    run(play())


def test_who_hangs_up_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def call(body: bytes) -> bytes:
        entered.set()
        await leave.wait()
        return body

    async def play() -> None:
        async with serving(call) as service:
            midway, waiting = await service.connect(), await service.connect()
            await midway.send(post()[:-5])
            await waiting.send(post())
            await entered.wait()
            assert len(service.state.tasks) == 1
            midway.close()
            waiting.close()
            await asyncio.sleep(0.05)
            leave.set()
            await asyncio.sleep(0.05)
            assert not service.state.tasks
            assert not service.state.connections

    run(play())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_what_goes_wrong_inside_is_not_told() -> None:
    async def call(_: bytes) -> bytes:
        raise RuntimeError("a secret")

    async def play() -> None:
        async with serving(call) as service:
            wire = await service.connect()
            found = []
            for way in (SHORT, LONG):
                await wire.send(post(**way))
                found.append(await wire.answer())
            assert found[0] == found[1]
            assert found[0][0] == 500
            assert b"secret" not in found[0][2]

    run(play())


def test_a_request_in_flight_is_answered_when_the_server_stops() -> None:
    async def call(body: bytes) -> bytes:
        await asyncio.sleep(0.4)
        return body

    async def play() -> None:
        async with serving(call) as service:
            wire = await service.connect()
            await wire.send(post(b"late"))
            await asyncio.sleep(0.05)
        status, headers, body = await wire.answer()
        assert (status, headers["connection"], body) == (200, "close", b"late")
        assert await wire.at_end()

    run(play())
