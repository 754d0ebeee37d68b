"""What one Redis operation costs: nbx's pipelined connection against redis-py asyncio with hiredis.

    python -m benchmarks.bench_store [--ops 20000] [--rounds 5] [--loop asyncio|uvloop] [--in-flight 64]

One private Valkey over a unix socket; `--in-flight` tasks each repeat one operation. Client cost is the CPU time of
this process per operation, server cost that of the server process (user and system, so its sockets too). Clients take
turns (A B A B); medians over the rounds. The last line asks the server what the commit script itself took.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import psutil
import uvloop
from redis.asyncio import Redis

from nbx.features.connection import RedisConnection
from nbx.features.store import Commit, Put, Timer
from nbx.features.store_redis import RedisStore
from tests.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TIMEOUT_MS = 5_000
SCRIPT = "return redis.call('GET', KEYS[1])"


class Cost(NamedTuple):
    """Medians for one operation of one client, µs per operation."""

    client_us: float
    server_us: float
    elapsed_us: float


class Measured(NamedTuple):
    """All costs by (operation, client), and the commit script's own time by the server's count."""

    costs: dict[tuple[str, str], Cost]
    commit_script_us: float


def _operations(
    connection: RedisConnection, store: RedisStore, peer: Redis, sha: str
) -> dict[tuple[str, str], Callable[[int], Awaitable[object]]]:
    payload, state, vector = bytes(range(256)) * 8, b"s" * 1024, b"x" * 600

    async def commit(i: int) -> None:
        """Commit as a decision does, each for a customer of its own: 2 KB record, open decision, one timer."""
        put = Put(f"nbx:{{p1}}:d:{i}", vector, 60_000)
        await store.commit(
            Commit(
                partition=1,
                customer_key=f"nbx:{{p1}}:c:{time.monotonic_ns()}-{i}",
                expected_version=0,
                state=state,
                entries=(payload,),
                puts=(put,),
                arm=(Timer(f"{i}/0", 1_700_000_000_000 + i),),
            ),
            TIMEOUT_MS,
        )

    return {
        ("GET 1 KB", "nbx"): lambda _: connection.execute("GET", "blob", timeout_ms=TIMEOUT_MS),
        ("GET 1 KB", "redis-py"): lambda _: peer.get("blob"),
        ("EVALSHA", "nbx"): lambda _: connection.execute("EVALSHA", sha, 1, "blob", timeout_ms=TIMEOUT_MS),
        ("EVALSHA", "redis-py"): lambda _: peer.evalsha(sha, 1, "blob"),
        ("commit of a decision", "nbx"): commit,
    }


async def _round(
    operation: Callable[[int], Awaitable[object]], ops: int, in_flight: int, server: psutil.Process
) -> Cost:
    async def repeat(first: int) -> None:
        for i in range(first, ops, in_flight):
            await operation(i)

    before, server_before, started = time.process_time(), server.cpu_times(), time.perf_counter()
    await asyncio.gather(*(repeat(first) for first in range(in_flight)))
    elapsed, used, server_after = time.perf_counter() - started, time.process_time() - before, server.cpu_times()
    served = server_after.user + server_after.system - server_before.user - server_before.system
    return Cost(*(seconds / ops * 1e6 for seconds in (used, served, elapsed)))


async def measure(server: RedisServer, ops: int, rounds: int, in_flight: int) -> Measured:
    """Run all operations `rounds` times, taking turns."""
    connection = RedisConnection(server.url)
    store = RedisStore(connection)
    peer = Redis(unix_socket_path=server.socket_path, max_connections=in_flight)
    await connection.connect()
    try:
        await connection.execute("SET", "blob", b"b" * 1024, timeout_ms=TIMEOUT_MS)
        sha = str(await peer.script_load(SCRIPT))
        operations = _operations(connection, store, peer, sha)
        process = psutil.Process(server.pid)
        runs: dict[tuple[str, str], list[Cost]] = {name: [] for name in operations}
        for name, operation in operations.items():  # connections open, code warm
            await _round(operation, in_flight * 4, in_flight, process)
            runs[name].clear()
        for _ in range(rounds):
            for name, operation in operations.items():
                runs[name].append(await _round(operation, ops, in_flight, process))
        await connection.execute("CONFIG", "RESETSTAT", timeout_ms=TIMEOUT_MS)
        await _round(operations["commit of a decision", "nbx"], ops, in_flight, process)
        statistics = await peer.info("commandstats")
        script_us = float(statistics["cmdstat_evalsha"]["usec_per_call"])
    finally:
        await connection.close()
        await peer.aclose()
    costs = {name: Cost(*(median(column) for column in zip(*taken, strict=True))) for name, taken in runs.items()}
    return Measured(costs, script_us)


def report(measured: Measured) -> str:
    """Lay the costs out, with the ratio of the clients where there are two."""
    lines = [f"{'operation':<22}{'client':<10}{'client µs':>10}{'server µs':>10}{'elapsed µs':>11}{'ratio':>7}"]
    for (operation, client), cost in measured.costs.items():
        ratio = cost.client_us / measured.costs[operation, "nbx"].client_us
        lines.append(
            f"{operation:<22}{client:<10}{cost.client_us:>10.1f}{cost.server_us:>10.1f}{cost.elapsed_us:>11.1f}{ratio:>7.1f}"
        )
    lines.append(f"commit script, by the server's own count: {measured.commit_script_us:.1f} µs")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="few of both, for a look")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="uvloop")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.ops, arguments.rounds = 500, 2
    factory = uvloop.new_event_loop if arguments.loop == "uvloop" else asyncio.new_event_loop
    with RedisServer() as server, asyncio.Runner(loop_factory=factory) as runner:
        measured = runner.run(measure(server, arguments.ops, arguments.rounds, arguments.in_flight))
    print(f"{arguments.loop}, {arguments.in_flight} in flight, {arguments.rounds} rounds of {arguments.ops}")
    print(report(measured))


if __name__ == "__main__":
    main()
