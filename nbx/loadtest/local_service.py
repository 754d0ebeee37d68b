"""The processes of the `nbx up` that holds the data directory of this machine: what may be disturbed, nothing else."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import psutil

from nbx.errors import SetupError, Unavailable
from nbx.runtime.up import lock_holder
from nbx.settings import Settings

SPARE_S = 2.0
"""Seconds after which a held process goes on although whoever held it was killed."""
_GO_ON = "import os,signal,sys,time; time.sleep(float(sys.argv[2])); os.kill(int(sys.argv[1]), signal.SIGCONT)"


class LocalService:
    """A service of this machine, found through its data directory.

    Parameters
    ----------
    settings
        Of the service: its data directory names the supervisor.
    url
        That the load goes to; one of the supervisor's processes has to listen there.

    Raises
    ------
    SetupError
        No `nbx up` holds the data directory, or it is not the one behind the URL.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        holder = lock_holder(settings.data_dir)
        if not holder:
            raise SetupError(
                f"disturbances need the `nbx up` of this machine, and none holds data_dir {settings.data_dir}: "
                "set NBX_DATA_DIR to that of the service"
            )
        self._supervisor = holder
        port = urlsplit(url).port
        if not any(_listens(process, port) for process in self._children()):
            raise SetupError(f"disturbances: the `nbx up` of data_dir {settings.data_dir} is not the one behind {url}")

    def process(self, name: str) -> psutil.Process:
        """Find a process by its name; `SetupError` when it does not run."""
        names = []
        for process in self._children():
            with contextlib.suppress(psutil.Error):
                names.append(_name(process))
                if names[-1] == name:
                    return process
        raise SetupError(f"disturbances: {name} does not run; there is {', '.join(sorted(filter(None, names)))}")

    def redis_url(self) -> str:
        """Return the URL of the embedded Redis; a Redis of somebody else is not paused."""
        if self._settings.redis_url:
            raise SetupError("disturbances: pause_redis is for the embedded Redis, and NBX_REDIS_URL names another one")
        return self._settings.effective_redis_url

    def _children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._supervisor).children()
        except psutil.Error as error:
            raise Unavailable(f"the `nbx up` with pid {self._supervisor} is gone") from error


@contextlib.contextmanager
def held(process: psutil.Process, length_s: float) -> Iterator[None]:
    """Hold a process (SIGSTOP) while the block lasts; it goes on after `length_s` even if this process is killed."""
    command = [sys.executable, "-I", "-S", "-c", _GO_ON, str(process.pid), str(length_s + SPARE_S)]
    watching = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - our own program
    try:
        process.suspend()
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
        watching.kill()
        watching.wait()


def _name(process: psutil.Process) -> str:
    command = process.cmdline()
    if process.name() in ("valkey-server", "redis-server"):  # it writes its own title over its arguments
        return "redis"
    last = command[-1] if command else ""
    return f"api-{process.environ().get('NBX_WORKER', '0')}" if last == "api" else last


def _listens(process: psutil.Process, port: int | None) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(
            c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port for c in process.net_connections("tcp")
        )
    return False
