"""Decisions over gRPC: unary, in batches and over one stream, against a grpc.aio echo of as many bytes.

    python -m benchmarks.run --only grpc

The server under test is pinned to core 0, its Python client shares core 1 with Redis and costs about as much as the
server: so what counts is what a second of the server's CPU answers. 32 calls are in flight, or 64 messages of a
stream. The echo decodes nothing and has no store; both answer the same number of bytes. Ways take turns.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import grpc

from benchmarks.bench_events_http import decision
from benchmarks.harness import PYTHON, Bar, Result, Size, Table, at_share
from benchmarks.pinned import Pinned, cpu_s, on_service, peer, ready
from nbx.v1 import nbx_pb2 as pb

IN_FLIGHT, WINDOW, BATCH = 32, 64, 20
UNARY_BAR, STREAM_BAR = 0.5, 3.0
CUSTOMERS = 20_000
_ECHO = "/echo/"
_NBX = "/nbx.v1.DecisionService/"


class Way(NamedTuple):
    """One way of asking one server."""

    pid: int
    run: Callable[[float], Awaitable[list[float]]]
    """Ask for so many seconds; returns the latency of each decision, milliseconds."""


def measure(size: Size) -> Result:
    """Measure on a service of its own."""
    return on_service(measure_on, size)


async def measure_on(nbx: Pinned, size: Size) -> Result:
    """Measure on a service that runs."""
    rounds, seconds = (1, 0.3) if size == "smoke" else (5, 2.0)
    await ready(nbx.port, decision)
    target = f"127.0.0.1:{nbx.environment['NBX_GRPC_PORT']}"
    async with grpc.aio.insecure_channel(target) as mine:
        await mine.channel_ready()
        ask: Any = mine.unary_unary(f"{_NBX}Decide")
        first: bytes = await ask(_packed(1))
        with peer("echo_app", len(first)) as echo:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{echo.port}") as theirs:
                await asyncio.wait_for(theirs.channel_ready(), 20)
                ways = {
                    "nbx unary": Way(nbx.pid, lambda s: _unary(mine, f"{_NBX}Decide", s)),
                    "echo unary": Way(echo.pid, lambda s: _unary(theirs, f"{_ECHO}Decide", s)),
                    f"nbx batches of {BATCH}": Way(nbx.pid, lambda s: _batch(mine, s)),
                    "nbx stream": Way(nbx.pid, lambda s: _stream(mine, f"{_NBX}DecideStream", s)),
                    "echo stream": Way(echo.pid, lambda s: _stream(theirs, f"{_ECHO}DecideStream", s)),
                }
                found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in ways}
                for way in ways.values():
                    await way.run(seconds / 4)
                for _ in range(rounds):
                    for name, way in ways.items():
                        before_s, began = cpu_s(way.pid), time.perf_counter()
                        late = await way.run(seconds)
                        wall_s, used_s = time.perf_counter() - began, max(cpu_s(way.pid) - before_s, 0.01)
                        row = (len(late) / wall_s, len(late) / used_s, at_share(late, 0.5), at_share(late, 0.99))
                        found[name].append(row)
    return _result(found, rounds, size)


def _result(found: dict[str, list[tuple[float, float, float, float]]], rounds: int, size: Size) -> Result:
    middles = {
        name: tuple(statistics.median(column) for column in zip(*rows, strict=True)) for name, rows in found.items()
    }
    unary, echo, stream, streamed = (
        1e6 / middles[name][1] for name in ("nbx unary", "echo unary", "nbx stream", "echo stream")
    )
    decision = max(stream - streamed, 0.0)
    return Result(
        title="Deciding over gRPC",
        what=f"50 candidates, 32 columns, one process on one core; medians of {rounds} rounds",
        against="a grpc.aio echo of as many bytes",
        command=f"{PYTHON} --only grpc",
        tables=(
            Table(
                ("decisions or echoes", "per s", "per cpu-s", "µs of CPU", "p50 ms", "p99 ms", "of echo unary"),
                tuple(
                    (name, rate, per_cpu, 1e6 / per_cpu, p50, p99, f"{per_cpu * echo / 1e6:.2f} ×")
                    for name, (rate, per_cpu, p50, p99) in middles.items()
                ),
            ),
        ),
        bars=(
            Bar(
                "unary decisions per cpu-second, of the echo",
                echo / unary,
                UNARY_BAR,
                at_least=True,
                why=f"grpc.aio needs {echo:.0f} µs of CPU for a call that does nothing, and the bar leaves as much "
                f"again for all else; a decision with message and Redis takes {decision:.0f} µs in a stream, and "
                f"{max(unary - echo - decision, 0.0):.0f} µs more in a call: grpc.aio accepts one after the other, "
                "so fewer are decided together, with colder caches.",
            ),
            Bar(
                "stream, of own unary, per cpu-second",
                unary / stream,
                STREAM_BAR,
                at_least=True,
                why=f"grpc.aio needs {echo:.0f} µs for a call and {streamed:.0f} µs for a message of a stream: "
                f"{echo / streamed:.1f} × without any deciding. With {decision:.0f} µs for the decision on both sides "
                f"it is {(echo + decision) / (streamed + decision):.1f} ×: what is found above that is lost by calls, "
                "not won by streams. Deciding faster brings it nearer to the former, never beyond.",
            ),
        ),
        size=size,
    )


def _request(number: int) -> Any:
    context = {f"f{i}": pb.Value(number=number % 7 / 7) for i in (1, 5, 9, 13)}
    return pb.DecideRequest(customer_id=f"c{number * 7919 % CUSTOMERS}", placement="hero", context=context)


def _packed(number: int) -> bytes:
    return bytes(_request(number).SerializeToString())


async def _unary(channel: grpc.aio.Channel, method: str, seconds: float) -> list[float]:
    call: Any = channel.unary_unary(method)
    return await _in_flight(lambda number: call(_packed(number)), seconds, 1)


async def _batch(channel: grpc.aio.Channel, seconds: float) -> list[float]:
    call: Any = channel.unary_unary(f"{_NBX}DecideBatch")

    def ask(number: int) -> Awaitable[bytes]:
        rows = [_request(number * BATCH + k) for k in range(BATCH)]
        answer: Awaitable[bytes] = call(pb.DecideBatchRequest(requests=rows).SerializeToString())
        return answer

    return await _in_flight(ask, seconds, BATCH)


async def _in_flight(ask: Callable[[int], Awaitable[bytes]], seconds: float, each: int) -> list[float]:
    until, number, late = time.perf_counter() + seconds, 0, list[float]()

    async def repeat() -> None:
        nonlocal number
        while (began := time.perf_counter()) < until:
            number += 1
            await ask(number)
            late.extend([(time.perf_counter() - began) * 1000] * each)

    await asyncio.gather(*(repeat() for _ in range(IN_FLIGHT)))
    return late


async def _stream(channel: grpc.aio.Channel, method: str, seconds: float) -> list[float]:
    until, late, sent = time.perf_counter() + seconds, list[float](), list[float]()
    gate = asyncio.Semaphore(WINDOW)

    async def requests() -> AsyncIterator[bytes]:
        number = 0
        while (now := time.perf_counter()) < until:
            await gate.acquire()
            number += 1
            sent.append(now)
            yield _packed(number)

    call: Any = channel.stream_stream(method)
    async for _ in call(requests()):
        late.append((time.perf_counter() - sent[len(late)]) * 1000)
        gate.release()
    return late
