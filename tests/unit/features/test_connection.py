from __future__ import annotations

import asyncio
import math
import shutil
import signal
import socket
import ssl
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import uvloop
from hiredis import ReplyError

from benchmarks import bench_store
from nbx.errors import SetupError, Unavailable
from nbx.features import connection as module
from nbx.features.connection import OPEN_S, STRIKES, RedisConnection
from nbx.features.store import Commit
from nbx.features.store_redis import RedisStore
from tests.redis_server import SERVERS, RedisServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path

    Run = Callable[[Coroutine[None, None, None]], None]

TIMEOUT_MS = 5_000
PATIENCE_S = 20.0


@pytest.fixture(
    params=[
        pytest.param(asyncio.new_event_loop, id="asyncio"),
        pytest.param(uvloop.new_event_loop, id="uvloop"),
    ]
)
def run(request: pytest.FixtureRequest) -> Run:
    """Run a story on one of the event loops."""

    def on_loop(story: Coroutine[None, None, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(story)

    return on_loop


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(request.param) as running:
        yield running


class Opened:
    """A connection for the length of a block."""

    def __init__(self, url: str) -> None:
        self._connection = RedisConnection(url)

    async def __aenter__(self) -> RedisConnection:
        await self._connection.connect()
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close(wait_s=0.05)


async def eventually(condition: Callable[[], bool]) -> None:
    """Poll until `condition` holds; fail after `PATIENCE_S`."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - sockets and servers set no event
            await asyncio.sleep(0.002)


async def answers(connection: RedisConnection) -> None:
    """Poll until PING is answered."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(Unavailable):
                assert await connection.execute("PING", timeout_ms=TIMEOUT_MS) == b"PONG"
                return
            await asyncio.sleep(0.002)


async def echoed(connection: RedisConnection, count: int) -> None:
    """Ask `count` different things at once: a shifted reply would show."""
    asked = [b"%d" % i for i in range(count)]
    assert await asyncio.gather(*(connection.execute("ECHO", text, timeout_ms=TIMEOUT_MS) for text in asked)) == asked


def test_replies_come_in_order_and_of_every_kind(server: RedisServer, run: Run) -> None:
    async def story() -> None:
        async with Opened(server.url) as connection:
            await connection.execute("FLUSHALL", timeout_ms=TIMEOUT_MS)
            await echoed(connection, 2_000)
            sent = [
                connection.execute(*args, timeout_ms=TIMEOUT_MS)
                for args in (
                    ("SET", "k", b"\x00\xff\r\n"),
                    ("GET", "k"),
                    ("GET", "none"),
                    ("INCR", "n"),
                    ("EVAL", "return {1, {'a', false}, {}}", 0),
                    ("ECHO", b"x" * 3_000_000),
                )
            ]
            assert await asyncio.gather(*sent) == [
                b"OK", b"\x00\xff\r\n", None, 1, [1, [b"a", None], []], b"x" * 3_000_000,
            ]  # fmt: skip

    run(story())


def test_commands_of_one_tick_leave_in_one_write(server: RedisServer, run: Run) -> None:
    async def story() -> None:
        async with Opened(server.url) as connection:

            async def reads_of_server() -> int:
                text: bytes = await connection.execute("INFO", "stats", timeout_ms=TIMEOUT_MS)
                return int(text.split(b"total_reads_processed:")[1].split(b"\r\n")[0])

            before = await reads_of_server()
            await echoed(connection, 500)
            assert await reads_of_server() - before <= 3  # its buffer takes 16 KB at a time; one of them is INFO

    run(story())


def test_a_late_reply_is_dropped_in_its_place(server: RedisServer, run: Run) -> None:
    async def story() -> None:
        async with Opened(server.url) as connection, Opened(server.url) as other:
            await connection.execute("DEL", "queue", timeout_ms=TIMEOUT_MS)
            loop = asyncio.get_running_loop()
            blocking = connection.execute("BLPOP", "queue", 0, timeout_ms=TIMEOUT_MS)
            late = connection.execute("ECHO", "late", timeout_ms=20)
            cancelled = connection.execute("ECHO", "cancelled", timeout_ms=TIMEOUT_MS)
            patient = connection.execute("ECHO", "patient", timeout_ms=TIMEOUT_MS)
            cancelled.cancel()
            started = loop.time()
            with pytest.raises(Unavailable, match="in time") as timed_out:
                await late
            assert timed_out.value.code == "state_timeout"
            assert loop.time() - started >= 0.015
            assert connection.in_flight == 4
            await other.execute("RPUSH", "queue", "go", timeout_ms=TIMEOUT_MS)
            assert await blocking == [b"queue", b"go"]
            assert await patient == b"patient"
            assert connection.in_flight == 0
            await echoed(connection, 100)

    run(story())


def test_deadlines_of_any_mix_are_kept(server: RedisServer, run: Run) -> None:
    async def story() -> None:
        async with Opened(server.url) as connection:
            loop = asyncio.get_running_loop()
            blocking = connection.execute("BLPOP", "mixed", 0, timeout_ms=90)
            over: dict[int, float] = {}
            for timeout_ms in (60, 20, 80, 40, 5):
                future = connection.execute("PING", timeout_ms=timeout_ms)
                asked = loop.time()
                future.add_done_callback(
                    lambda _, ms=timeout_ms, asked=asked: over.__setitem__(ms, loop.time() - asked)  # type: ignore[misc]
                )
                future.add_done_callback(lambda done: done.exception())
            with pytest.raises(Unavailable):
                await blocking
            assert sorted(over) == [5, 20, 40, 60, 80]
            for timeout_ms, waited_s in over.items():
                assert waited_s >= timeout_ms / 1000 - 0.002

    run(story())


class Asker(asyncio.Protocol):
    """Asks in the loop's socket phase, then blocks the loop until the deadline has passed."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self.asked: asyncio.Future[asyncio.Future[object]] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:  # noqa: ARG002
        self.asked.set_result(self._connection.execute("PING", timeout_ms=10))
        time.sleep(0.05)


def test_a_stalled_loop_catches_up_before_redis_is_judged(
    server: RedisServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE_S", PATIENCE_S)  # however slow the machine, the answer comes before judgement

    async def story() -> None:
        async with Opened(server.url) as connection:
            ours, theirs = socket.socketpair()
            asker = Asker(connection)
            transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: asker, sock=ours)
            try:
                theirs.send(b"x")
                assert await (await asker.asked) == b"PONG"
            finally:  # uvloop waits for ever when it is closed before the transport
                transport.close()
                theirs.close()

    run(story())


def test_the_breaker_opens_probes_and_closes(server: RedisServer, run: Run) -> None:
    async def story() -> None:
        async with Opened(server.url) as connection, Opened(server.url) as other:
            loop = asyncio.get_running_loop()

            def assert_refused() -> None:
                with pytest.raises(Unavailable, match="in a row") as refused:
                    connection.execute("PING", timeout_ms=10)
                assert refused.value.code == "state_unavailable"

            blocking = connection.execute("BLPOP", "breaker", 0, timeout_ms=60_000)
            pings = [connection.execute("PING", timeout_ms=10) for _ in range(STRIKES)]
            failed = await asyncio.gather(*pings, return_exceptions=True)
            assert {fault.code for fault in failed if isinstance(fault, Unavailable)} == {"state_timeout"}
            opened = loop.time()
            assert_refused()

            # after OPEN_S one probe, and only one, is let through; it fails and opens the breaker again
            await eventually(lambda: loop.time() > opened + OPEN_S + 0.01)
            probe = connection.execute("PING", timeout_ms=10)
            assert_refused()
            with pytest.raises(Unavailable):
                await probe
            assert_refused()

            await other.execute("RPUSH", "breaker", "go", timeout_ms=TIMEOUT_MS)
            assert await blocking == [b"breaker", b"go"]

    run(story())


def test_the_breaker_closes_on_a_timely_answer_only(server: RedisServer, run: Run) -> None:
    async def story() -> None:
        async with Opened(server.url) as connection, Opened(server.url) as other:
            loop = asyncio.get_running_loop()
            blocking = connection.execute("BLPOP", "closing", 0, timeout_ms=10)
            pings = [connection.execute("PING", timeout_ms=10) for _ in range(STRIKES - 1)]
            await asyncio.gather(blocking, *pings, return_exceptions=True)
            opened = loop.time()
            await other.execute("RPUSH", "closing", "go", timeout_ms=TIMEOUT_MS)
            await eventually(lambda: connection.in_flight == 0)  # all late replies are here
            if loop.time() < opened + OPEN_S / 2:
                with pytest.raises(Unavailable, match="in a row"):
                    connection.execute("PING", timeout_ms=10)
            await answers(connection)
            assert loop.time() >= opened + OPEN_S - 0.01
            await echoed(connection, 100)

    run(story())


def test_one_answer_between_time_outs_keeps_the_breaker_shut(server: RedisServer, run: Run) -> None:
    async def story() -> None:
        async with Opened(server.url) as connection, Opened(server.url) as other:
            for _ in range(2):
                blocking = connection.execute("BLPOP", "shut", 0, timeout_ms=TIMEOUT_MS)
                pings = [connection.execute("PING", timeout_ms=5) for _ in range(STRIKES - 1)]
                await asyncio.gather(*pings, return_exceptions=True)
                await other.execute("RPUSH", "shut", "go", timeout_ms=TIMEOUT_MS)
                assert await blocking == [b"shut", b"go"]
            assert await connection.execute("PING", timeout_ms=TIMEOUT_MS) == b"PONG"

    run(story())


def test_too_many_in_flight_are_refused(server: RedisServer, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_FLIGHT", 100)

    async def story() -> None:
        async with Opened(server.url) as connection, Opened(server.url) as other:
            blocking = connection.execute("BLPOP", "full", 0, timeout_ms=TIMEOUT_MS)
            pings = [connection.execute("PING", timeout_ms=TIMEOUT_MS) for _ in range(99)]
            with pytest.raises(Unavailable) as refused:
                connection.execute("PING", timeout_ms=TIMEOUT_MS)
            assert refused.value.code == "state_overloaded"
            await other.execute("RPUSH", "full", "go", timeout_ms=TIMEOUT_MS)
            await blocking
            assert await asyncio.gather(*pings) == [b"PONG"] * 99
            await echoed(connection, 100)

    run(story())


def test_an_argument_of_a_wrong_type_sends_nothing(server: RedisServer, run: Run) -> None:
    async def story() -> None:
        async with Opened(server.url) as connection:
            with pytest.raises(TypeError):
                connection.execute("SET", "k", None, timeout_ms=TIMEOUT_MS)  # type: ignore[arg-type]
            assert connection.in_flight == 0
            await echoed(connection, 10)

    run(story())


def test_a_refused_command_tells_why(server: RedisServer, run: Run) -> None:
    async def story() -> None:
        async with Opened(server.url) as connection:
            await connection.execute("SET", "text", "x", timeout_ms=TIMEOUT_MS)
            with pytest.raises(ReplyError, match="WRONGTYPE"):
                await connection.execute("LPOP", "text", timeout_ms=TIMEOUT_MS)
            await echoed(connection, 10)

    run(story())


def test_states_of_a_real_server_that_pass(server: RedisServer, run: Run) -> None:
    async def story() -> None:
        async with Opened(server.url) as connection, Opened(server.url) as other:
            store = RedisStore(connection)
            commit = Commit(partition=0, customer_key="nbx:{p0}:c:a", expected_version=0, state=b"s")

            async def code_of(call: Awaitable[object]) -> str:
                with pytest.raises(Unavailable) as refused:
                    await call
                return refused.value.code

            def execute(*args: bytes | str | int) -> asyncio.Future[object]:
                return other.execute(*args, timeout_ms=TIMEOUT_MS)

            await execute("CONFIG", "SET", "maxmemory", 1)
            assert await code_of(execute("SET", "k", "v")) == "state_out_of_memory"
            assert await code_of(store.commit(commit, TIMEOUT_MS)) == "state_out_of_memory"
            await execute("CONFIG", "SET", "maxmemory", 0)
            await execute("REPLICAOF", "127.0.0.1", 1)
            assert await code_of(execute("SET", "k", "v")) == "state_readonly"
            assert await code_of(store.commit(commit, TIMEOUT_MS)) == "state_readonly"
            await execute("REPLICAOF", "NO", "ONE")
            await execute("CONFIG", "SET", "lua-time-limit", 1)
            endless = connection.execute("EVAL", "while true do end", 0, timeout_ms=60_000)
            code = ""
            async with asyncio.timeout(PATIENCE_S):
                while not code:
                    with suppress(AssertionError, pytest.fail.Exception):
                        code = await code_of(execute("GET", "k"))
            assert code == "state_busy"
            await execute("SCRIPT", "KILL")
            with pytest.raises(ReplyError):
                await endless
            assert await store.read([commit.customer_key], TIMEOUT_MS) == [None]

    run(story())


class Stub:
    """A server that greets properly and then answers every command with the same bytes."""

    def __init__(self, directory: Path, answer: bytes, greeting: bytes = b"+PONG\r\n") -> None:
        self.url = f"unix://{directory}/stub.sock"
        self._path = f"{directory}/stub.sock"
        self._answer = answer
        self._greeting = greeting
        self.accepted = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Stub:
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.append(writer)
        greeted = False
        with suppress(OSError):
            while await reader.read(65_536):
                writer.write(self._answer if greeted else self._greeting)
                greeted = True


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "state_loading"),
        (b"-MISCONF Redis is configured to save RDB snapshots\r\n", "state_not_persisting"),
        (b"-CLUSTERDOWN Hash slot not served\r\n", "state_cluster_down"),
        (b"-NOREPLICAS Not enough good replicas to write.\r\n", "state_no_replicas"),
        (
            b"-ERR Error running script (call to f_1): @user_script:5: @user_script: 5: -OOM command not allowed\r\n",
            "state_out_of_memory",
        ),
    ],
)
def test_other_states_that_pass(tmp_path: Path, run: Run, answer: bytes, code: str) -> None:
    async def story() -> None:
        async with Stub(tmp_path, answer) as stub, Opened(stub.url) as connection:
            with pytest.raises(Unavailable) as refused:
                await connection.execute("GET", "k", timeout_ms=TIMEOUT_MS)
            assert refused.value.code == code
            assert answer[1:].decode().strip() in refused.value.message

    run(story())


@pytest.mark.parametrize("answer", [b"?what is this\r\n", b"+OK\r\n+one too many\r\n"], ids=["garbage", "unasked"])
def test_a_broken_protocol_drops_the_connection_and_makes_a_new_one(tmp_path: Path, run: Run, answer: bytes) -> None:
    async def story() -> None:
        async with Stub(tmp_path, answer) as stub, Opened(stub.url) as connection:
            with suppress(Unavailable):
                await connection.execute("GET", "k", timeout_ms=TIMEOUT_MS)
            await eventually(lambda: stub.accepted == 2 and connection.connected)

    run(story())


def test_a_silent_host_is_given_up(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_S", 0.05)

    async def story() -> None:
        async with Stub(tmp_path, b"") as stub, Opened(stub.url) as connection:
            async with asyncio.timeout(PATIENCE_S):
                while stub.accepted < 2:
                    with pytest.raises(Unavailable):
                        await connection.execute("PING", timeout_ms=10)
                    await asyncio.sleep(0.002)

    run(story())


def test_a_server_that_hangs_up_or_refuses_while_greeting(tmp_path: Path, run: Run) -> None:
    async def story(greeting: bytes, error: type[Exception]) -> None:
        async with Stub(tmp_path, b"", greeting) as stub:
            connection = RedisConnection(stub.url)
            with pytest.raises(error):
                await connection.connect()
            assert not connection.connected
            await connection.close()

    run(story(b"-LOADING Redis is loading\r\n", Unavailable))
    run(story(b"-ERR max number of clients reached\r\n", Unavailable))
    run(story(b"-ERR unknown command 'PING'\r\n", SetupError))
    run(story(b"?\r\n", Unavailable))


def test_a_server_that_never_greets_is_unavailable(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.05)

    async def story() -> None:
        async with Stub(tmp_path, b"", b"") as stub:
            connection = RedisConnection(stub.url)
            with pytest.raises(Unavailable):
                await connection.connect()
            await connection.close()

    run(story())


def test_nobody_there(tmp_path: Path, run: Run) -> None:
    async def story() -> None:
        for url in (f"unix://{tmp_path}/none.sock", "redis://127.0.0.1:1"):
            connection = RedisConnection(url)
            with pytest.raises(Unavailable, match="not connected"):
                connection.execute("PING", timeout_ms=TIMEOUT_MS)
            with pytest.raises(Unavailable, match="cannot reach") as refused:
                await connection.connect()
            assert refused.value.code == "state_unavailable"
            await connection.close()

    run(story())


@pytest.mark.parametrize("binary", SERVERS)
def test_credentials(binary: str, run: Run) -> None:
    async def story() -> None:
        with RedisServer(binary, "--requirepass", "s3cret:/@", "--user", "anna", "on", ">pw", "~*", "+@all") as server:
            for credentials in (":s3cret%3A%2F%40@", "anna:pw@", "default:s3cret%3A%2F%40@"):
                async with Opened(f"unix://{credentials}{server.socket_path}?db=3") as connection:
                    text = await connection.execute("CLIENT", "LIST", timeout_ms=TIMEOUT_MS)
                    assert b" db=3 " in text
            for credentials in ("", ":wrong@", "anna:s3cret@", "nobody:pw@"):
                connection = RedisConnection(f"unix://{credentials}{server.socket_path}")
                with pytest.raises(SetupError, match="user or password") as refused:
                    await connection.connect()
                assert "s3cret" not in str(refused.value)
                await connection.close()
            connection = RedisConnection(f"unix://:s3cret%3A%2F%40@{server.socket_path}?db=99")
            with pytest.raises(SetupError, match="out of range"):
                await connection.connect()
            await connection.close()

    run(story())


def test_a_password_nobody_asked_for(server: RedisServer, run: Run) -> None:
    async def story() -> None:
        connection = RedisConnection(f"unix://:s3cret@{server.socket_path}")
        with pytest.raises(SetupError, match="user or password"):
            await connection.connect()
        await connection.close()

    run(story())


def test_tls(tmp_path: Path, run: Run) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH to make a certificate with")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate,
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(65_536):
                writer.write(b"+PONG\r\n")
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def story() -> None:
        server = await asyncio.start_server(serve, "localhost", 0, ssl=context)
        url = f"rediss://localhost:{server.sockets[0].getsockname()[1]}"
        for options in (f"?ssl_ca_certs={certificate}", "?ssl_cert_reqs=none"):
            async with Opened(url + options) as connection:
                assert await connection.execute("PING", timeout_ms=TIMEOUT_MS) == b"PONG"
        untrusted = RedisConnection(url)
        with pytest.raises(SetupError, match="not trusted"):
            await untrusted.connect()
        await untrusted.close()
        server.close()
        await asyncio.sleep(0)

    run(story())


@pytest.mark.parametrize("binary", SERVERS)
def test_a_restarted_server_is_found_again(binary: str, run: Run) -> None:
    async def story() -> None:
        with RedisServer(binary) as server, RedisServer(binary) as bystander:
            connection = RedisConnection(server.url)
            connection.prepare("CLIENT", "SETNAME", "nbx-test")
            await connection.connect()
            async with Opened(bystander.url) as other:
                blocking = connection.execute("BLPOP", "none", 0, timeout_ms=60_000)
                server.send_signal(signal.SIGSTOP)
                waiting = [connection.execute("PING", timeout_ms=60_000) for _ in range(50)]
                await echoed(other, 10)
                server.kill()
                failed = await asyncio.gather(blocking, *waiting, return_exceptions=True)
                assert {type(fault) for fault in failed} == {Unavailable}
                assert not connection.connected
                with pytest.raises(Unavailable, match="not connected") as refused:
                    connection.execute("PING", timeout_ms=TIMEOUT_MS)
                assert refused.value.code == "state_unavailable"
                server.start()
                await eventually(lambda: connection.connected)
                assert await connection.execute("CLIENT", "GETNAME", timeout_ms=TIMEOUT_MS) == b"nbx-test"
                await echoed(connection, 100)
            await connection.close()

    run(story())


def test_closing_waits_for_replies(server: RedisServer, run: Run) -> None:
    async def story() -> None:
        connection = RedisConnection(server.url)
        await connection.connect()
        sent = [connection.execute("ECHO", b"%d" % i, timeout_ms=TIMEOUT_MS) for i in range(1_000)]
        closing = asyncio.create_task(connection.close())
        assert await asyncio.gather(*sent) == [b"%d" % i for i in range(1_000)]
        await closing
        assert not connection.connected
        with pytest.raises(Unavailable, match="closed"):
            connection.execute("PING", timeout_ms=TIMEOUT_MS)
        await connection.close()

    run(story())


def test_closing_does_not_wait_for_ever(server: RedisServer, run: Run) -> None:
    async def story() -> None:
        connection = RedisConnection(server.url)
        await connection.connect()
        blocking = connection.execute("BLPOP", "none", 0, timeout_ms=60_000)
        await connection.close(wait_s=0.02)
        with pytest.raises(Unavailable):
            await blocking

    run(story())


def test_closing_while_reconnecting(run: Run) -> None:
    async def story() -> None:
        with RedisServer() as server:
            connection = RedisConnection(server.url)
            await connection.connect()
            server.kill()
            await eventually(lambda: not connection.connected)
            await connection.close()
            assert not connection.connected

    run(story())


def test_the_benchmark_runs(server: RedisServer, run: Run) -> None:
    async def story() -> None:
        measured = await bench_store.measure(server, ops=200, rounds=1, in_flight=16)
        assert all(math.isfinite(cost.client_us) for cost in measured.costs.values())
        assert measured.commit_script_us > 0
        assert "redis-py" in bench_store.report(measured)

    run(story())
