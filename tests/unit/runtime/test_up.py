"""`nbx up` as an operator meets it: a process that is started, killed and started again.

The children are a small program with the four commands: these tests need no model and no catalog. Redis is real.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest

from nbx.runtime.embedded_redis import redis_client
from nbx.runtime.up import child_environment, lock_holder, locked, up
from nbx.settings import Settings, load_settings

ROOT = Path(__file__).parents[3]
PROGRAM = """
import http.server, json, os, signal, socket, sys
def stop(number, frame): sys.exit(0)
signal.signal(signal.SIGTERM, stop)
class Live(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"pid": os.getpid(), **os.environ}).encode()
        self.send_response(200 if self.path == "/health/live" else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
class Server(http.server.HTTPServer):
    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()
match sys.argv[1]:
    case "api": Server((os.environ["NBX_HOST"], int(os.environ["NBX_PORT"])), Live).serve_forever()
    case "learner" | "keeper": signal.pause()
"""
RUN = """
import asyncio, os, sys
from nbx.runtime.up import up
from nbx.settings import load_settings
async def ready(): print("READY", flush=True)
say = lambda line: print(line, flush=True)
command = (sys.executable, sys.argv[1])
sys.exit(asyncio.run(up(load_settings(os.environ), on_ready=ready, say=say, command=command)))
"""


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    port, grpc_port = free_ports(2)
    return Settings(data_dir=tmp_path / "data", port=port, grpc_port=grpc_port, workers=2, redis_fsync="always")


class Installation:
    """A running `nbx up` and what it said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def read_until(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if text in line:
                return
        raise AssertionError("\n".join([f"it ended without saying {text!r}:", *self.lines]))

    def read_all(self) -> None:
        assert self.process.stdout is not None
        self.lines += [line.rstrip() for line in self.process.stdout]

    def pid(self, name: str) -> int:
        found = [line for line in self.lines if f" {name}: starting pid " in line]
        return int(found[-1].rsplit(" ", 1)[1])

    def names(self, words: str) -> list[str]:
        return [line.split(" ")[1].rstrip(":") for line in self.lines if words in line]


@contextmanager
def running(settings: Settings) -> Iterator[Installation]:
    program = settings.data_dir.with_name("program.py")
    program.write_text(PROGRAM)
    environment = {**os.environ, **settings.environment(), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", textwrap.dedent(RUN), str(program)]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True) as process:
        installation = Installation(process)
        try:
            installation.read_until("READY")
            yield installation
        finally:
            process.kill()


def gone(pids: list[int]) -> None:
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive


def redis(settings: Settings, *, add: int = 0) -> int:
    """Add to a number in Redis, one acknowledged write each, and read it."""

    async def run() -> int:
        async with redis_client(settings.effective_redis_url) as client:
            for _ in range(add):
                await client.incr("n")
            return int(await client.get("n") or 0)

    return asyncio.run(run())


CHILDREN = ("redis", "api-0", "api-1", "learner", "keeper")


def test_sigterm_stops_all_in_order_and_leaves_nothing(settings: Settings) -> None:
    with running(settings) as installation:
        assert installation.names(": starting pid") == list(CHILDREN)
        pids = [installation.pid(name) for name in CHILDREN]
        assert all(psutil.pid_exists(pid) for pid in pids)
        answer = httpx.get(f"{settings.url}/health/live", trust_env=False).json()
        assert lock_holder(settings.data_dir) == installation.process.pid
        installation.process.send_signal(signal.SIGTERM)
        installation.read_all()
        assert installation.process.wait() == 0
    assert answer["pid"] in pids
    assert answer["NBX_WORKER"] in ("0", "1")
    assert answer["OPENBLAS_NUM_THREADS"] == answer["OMP_NUM_THREADS"] == answer["MKL_NUM_THREADS"] == "1"
    assert answer["PROMETHEUS_MULTIPROC_DIR"] == str(settings.data_dir / "metrics")
    assert load_settings(answer) == settings
    ends = installation.names(": exited with 0")
    assert sorted(ends[:-1]) == ["api-0", "api-1", "keeper", "learner"]
    assert ends[-1] == "redis"
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert lock_holder(settings.data_dir) is None


def test_a_killed_redis_comes_back_with_its_data(settings: Settings) -> None:
    with running(settings) as installation:
        others = [installation.pid(name) for name in CHILDREN[1:]]
        first = installation.pid("redis")
        redis(settings, add=50)
        os.kill(first, signal.SIGKILL)
        installation.read_until("redis: ready in")
        assert installation.pid("redis") != first
        assert any("redis: exited with -9, restart in 0.2 s" in line for line in installation.lines)
        assert redis(settings) == 50
        assert all(psutil.pid_exists(pid) for pid in others)
        installation.process.terminate()
        installation.read_all()
        assert installation.process.wait() == 0


def test_after_a_kill_of_everything_the_next_start_has_all_data(settings: Settings) -> None:
    with running(settings) as installation:
        pids = [installation.pid(name) for name in CHILDREN]
        redis(settings, add=50)
        for pid in [installation.process.pid, *pids]:
            os.kill(pid, signal.SIGKILL)
    with running(settings) as installation:
        assert redis(settings) == 50


def test_children_of_a_killed_supervisor_do_not_hinder_the_next(settings: Settings) -> None:
    with running(settings) as installation:
        pids = [installation.pid(name) for name in CHILDREN]
        os.kill(installation.pid("api-0"), signal.SIGSTOP)  # cannot obey the signal of the kernel
        redis(settings, add=7)
        installation.process.kill()
    with running(settings) as installation:
        assert redis(settings) == 7
        assert not set(pids) & {installation.pid(name) for name in CHILDREN}
        gone(pids)
        installation.process.terminate()
        installation.read_all()


def refused(settings: Settings) -> str:
    lines: list[str] = []
    assert asyncio.run(up(settings, say=lines.append, command=("/no/such/program",))) == 2
    (text,) = lines
    return text


def test_a_second_start_says_who_is_there(settings: Settings) -> None:
    with locked(settings.data_dir):
        text = refused(settings)
        assert lock_holder(settings.data_dir) == os.getpid()
    assert f"in use by nbx with pid {os.getpid()}" in text
    assert f"kill {os.getpid()}" in text
    assert lock_holder(settings.data_dir) is None


def test_taken_ports_are_named_with_their_holder_before_anything_starts(settings: Settings) -> None:
    with (
        socket.create_server(("127.0.0.1", settings.port)),
        socket.create_server(("127.0.0.1", settings.grpc_port), reuse_port=True),
    ):
        text = refused(settings)
    assert f"NBX_PORT: port {settings.port} is in use by pid {os.getpid()} (" in text
    assert f"NBX_GRPC_PORT: port {settings.grpc_port} is in use by pid {os.getpid()} (" in text
    assert not (settings.data_dir / "redis").exists()


def test_a_host_that_is_not_ours_is_refused(settings: Settings) -> None:
    assert "cannot listen on 192.0.2.1" in refused(msgspec.structs.replace(settings, host="192.0.2.1"))


def test_a_redis_that_does_not_answer_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbx.runtime.up.EXTERNAL_REDIS_S", 0.05)
    away = msgspec.structs.replace(settings, redis_url="redis://user:s3cret@127.0.0.1:1")
    assert refused(away).startswith("Redis at redis://user:***@127.0.0.1:1: no answer within 0.05 s")


def test_a_failing_command_ends_the_start_and_stops_redis(settings: Settings) -> None:
    lines: list[str] = []
    assert asyncio.run(up(settings, say=lines.append, command=(sys.executable, "-c", "raise SystemExit(9)"))) == 1
    words = "exited with 9 before it was ready"
    assert any(f"cannot start: api-{worker}: {words}" in line for line in lines for worker in (0, 1))
    (pid,) = [int(line.rsplit(" ", 1)[1]) for line in lines if "redis: starting pid" in line]
    assert not psutil.pid_exists(pid)


def test_children_get_these_settings_and_no_other(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBX_CONFIG", "/etc/nbx.toml")
    monkeypatch.setenv("NBX_PARTITIONS", "7")
    environment = child_environment(settings)
    assert "NBX_CONFIG" not in environment
    assert load_settings(environment) == settings
