"""Complete decisions over HTTP against a plain Litestar route with redis-py and against a bare ASGI function.

Command: `python -m benchmarks.bench_decide_http` (two minutes; `--smoke` for a look). The server under test is pinned
to core 0; Redis and the client share core 1; servers take turns. The plain route does one GET and one EVALSHA with
redis-py and decides nothing; the bare function does nothing at all; all return the same number of bytes. First as fast
as 64 connections can (closed loop): rate, rate per second of server CPU, p50 and p99. Then in an open loop at half of
nbx's own peak rate, each call's time counted from when it was due, against the bare function at the same rate.
"""

from __future__ import annotations

import argparse
import statistics
from typing import NamedTuple

from benchmarks.bench_events_http import CONNECTIONS, decision
from benchmarks.harness import PYTHON, Bar, Result, Size, Table, at_share, told
from benchmarks.load_client import Load, load, open_loop
from benchmarks.pinned import Pinned, bare_asgi, cpu_s, on_service, peer, ready

RATE_BAR = 2.0
TAIL_BAR = 4.0
NBX, PLAIN, BARE = "nbx decide", "plain Litestar route", "bare ASGI"


class Round(NamedTuple):
    """One measured stretch."""

    rate: float
    per_cpu: float
    p50_ms: float
    p99_ms: float
    reply_bytes: int


def measure(size: Size) -> Result:
    """Measure on a service of its own."""
    return on_service(measure_on, size)


async def measure_on(nbx: Pinned, size: Size) -> Result:
    """Measure on a service that runs."""
    rounds, seconds = (1, 0.4) if size == "smoke" else (5, 3.0)
    reply_bytes = await ready(nbx.port, decision)
    measured: dict[str, list[Round]] = {NBX: [], PLAIN: [], BARE: []}
    tails: dict[str, list[tuple[float, float]]] = {NBX: [], BARE: []}
    with peer("plain_app", nbx.redis_url, reply_bytes) as plain, bare_asgi(reply_bytes) as bare:
        servers = {NBX: (nbx.port, nbx.pid), PLAIN: plain, BARE: bare}
        for port, _ in servers.values():
            await ready(port, decision)
            await load(port, decision, seconds=seconds / 4, connections=CONNECTIONS)
        for _ in range(rounds):
            for name, (port, pid) in servers.items():
                measured[name].append(await _round(port, pid, seconds))
            await nbx.redis.delete(*[key async for key in nbx.redis.scan_iter("nbx:{p*}:log")])
        half = statistics.median(row.rate for row in measured[NBX]) / 2
        requests = [decision(number) for number in range(max(int(half * seconds), 20))]
        for _ in range(rounds):
            for name, rows in tails.items():
                sent = await open_loop(servers[name][0], requests, rate=half, connections=CONNECTIONS)
                assert all(each.ok for each in sent), "a call failed"
                late_ms = [(each.answered_s - each.due_s) * 1000 for each in sent]
                rows.append((at_share(late_ms, 0.5), at_share(late_ms, 0.99)))
    return _result(measured, tails, half, rounds, size)


def _result(
    measured: dict[str, list[Round]],
    tails: dict[str, list[tuple[float, float]]],
    half: float,
    rounds: int,
    size: Size,
) -> Result:
    middles = {
        name: Round(*(statistics.median(column) for column in zip(*rows, strict=True)))
        for name, rows in measured.items()
    }
    mine, plain = middles[NBX], middles[PLAIN]
    late = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in tails.items()}
    tail = late[NBX][1] / late[BARE][1]
    return Result(
        title="Deciding over HTTP",
        what=f"50 candidates, 32 columns, one process on one core, {CONNECTIONS} connections; medians of {rounds}",
        against="a plain Litestar route with one redis-py GET and EVALSHA that decides nothing; a bare ASGI function",
        command=f"{PYTHON} --only decide_http",
        tables=(
            Table(
                ("closed loop", "per s", "per cpu-s", "µs of CPU", "p50 ms", "p99 ms", "bytes", "rate of plain"),
                tuple(
                    (
                        name,
                        row.rate,
                        row.per_cpu,
                        1e6 / row.per_cpu,
                        row.p50_ms,
                        row.p99_ms,
                        int(row.reply_bytes),
                        row.rate / plain.rate,
                    )
                    for name, row in middles.items()
                ),
            ),
            Table(
                (f"open loop, {half:,.0f} per s", "p50 ms", "p99 ms", "p99 of bare"),
                tuple((name, p50, p99, p99 / late[BARE][1]) for name, (p50, p99) in late.items()),
            ),
        ),
        bars=(
            Bar(
                "complete decisions per cpu-second, of the plain route's answers",
                mine.per_cpu / plain.per_cpu,
                RATE_BAR,
                at_least=True,
                why=f"A decision takes {1e6 / mine.per_cpu:.0f} µs of CPU, the plain route {1e6 / plain.per_cpu:.0f}: "
                "where they go is in [the budget of a decision](#budget). By `perf` 63 % of the api's time is CPython "
                "(some 5,000 bytecodes and 190 calls a decision, most of them rules, state, record and fold), "
                "10 % kernels, 7 % malloc and copies, 6 % sockets, 4 % msgspec, 3 % NumPy. What nbx saves by its own "
                "connection and protocol it spends on deciding, which the plain route does not do; twice its rate "
                "leaves half of CPython's part, and no single piece of it is that large.",
            ),
            Bar(
                "p99 at half of the peak rate, of bare ASGI at that rate",
                tail,
                TAIL_BAR,
                at_least=False,
                why="At half of the peak fewer calls are in flight together, and each costs more CPU (compare 1 and 64 "
                "connections in [the budget](#budget)): the core is far more than half busy, Redis shares its own with "
                "the client, and whatever else the machine does at that moment is waited for. Bare ASGI waits for its "
                f"own core only, and is {1e6 / mine.per_cpu / (1e6 / middles[BARE].per_cpu):.0f} times as quick.",
            ),
        ),
        size=size,
    )


async def _round(port: int, pid: int, seconds: float) -> Round:
    before_s = cpu_s(pid)
    done: Load = await load(port, decision, seconds=seconds, connections=CONNECTIONS)
    spent_s = max(cpu_s(pid) - before_s, 0.01)
    assert done.errors == 0, f"{done.errors} of {done.requests} requests failed"
    return Round(
        done.requests / done.seconds,
        done.requests / spent_s,
        at_share(done.latencies_ms, 0.5),
        at_share(done.latencies_ms, 0.99),
        done.reply_bytes,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    print(told(measure("smoke" if parser.parse_args().smoke else "full")))
