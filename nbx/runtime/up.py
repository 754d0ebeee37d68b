"""`nbx up`: everything on one machine under one supervisor.

Order: lock the data directory → end what a killed predecessor left → see that the ports are free → embedded Redis →
api × workers, learner, keeper → `on_ready`. What can be known to fail is found before any start.

The lock is an flock: the kernel releases it when the process ends, however it ends; there is no stale lock to remove.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil

from nbx.clock import SystemClock
from nbx.errors import NbxError, SetupError, Unavailable
from nbx.runtime.embedded_redis import keep_synced, redis_child, stop_leftover, stop_process, wait_ready
from nbx.runtime.supervise import Child, Supervisor
from nbx.settings import PREFIX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from nbx.settings import Settings

NBX = (sys.executable, "-m", "nbx")
LOCK = "nbx.lock"
"""File in the data directory; holds the process id of the holder."""
API_START_S = 180.0
"""Seconds until an api process must answer: a few as a rule; the first of all compiles the kernels, half a minute."""
EXTERNAL_REDIS_S = 10.0
"""Seconds in which a Redis that is not ours must answer: it may be starting beside us."""
LOOK_S = 0.05
"""Seconds between two looks while an api process starts."""
LEFTOVER_S = 5.0
"""Seconds a process of a killed predecessor may take to end."""
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


async def up(
    settings: Settings,
    *,
    on_ready: Callable[[], Awaitable[None]] | None = None,
    say: Callable[[str], None] | None = None,
    command: tuple[str, ...] = NBX,
) -> int:
    """Run until SIGTERM or SIGINT.

    Parameters
    ----------
    on_ready
        Called once when all processes run and answer. An NbxError from it stops everything.
    say
        Takes each line an operator should see; default: standard error.
    command
        Program that knows `api`, `learner` and `keeper`.

    Returns
    -------
    int
        0: stopped when asked to. 1: a process could not start, or had to be killed. 2: nothing was started, because the
        machine or the settings do not allow it; `say` got the reason.
    """
    say = say or _to_stderr
    try:
        with locked(settings.data_dir):
            await _end_leftovers(settings)
            _ports_free(settings)
            _empty_metrics(settings)
            supervisor = await _supervisor(settings, say, command)
            syncing = asyncio.create_task(keep_synced(settings))
            try:
                return await supervisor.run(on_ready)
            finally:
                syncing.cancel()
    except NbxError as error:
        say(str(error))
        return 2


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data directory; make it when there is none.

    Raises
    ------
    SetupError
        Another process holds it, or it cannot be written.
    """
    path = data_dir / LOCK
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SetupError(f"data_dir {data_dir}: cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = path.read_text("ascii").strip() or "unknown"
            raise SetupError(
                f"data_dir {data_dir} is in use by nbx with pid {holder}: use that one, stop it (kill {holder}), "
                "or give this one its own NBX_DATA_DIR, NBX_PORT and NBX_GRPC_PORT"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def lock_holder(data_dir: Path) -> int | None:
    """Tell the process id of the `nbx up` that holds a data directory; None when nobody does, 0 when unknown."""
    try:
        with (data_dir / LOCK).open("rb") as file:
            holder = file.read()
            if holder:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(holder) if holder.strip().isdigit() else 0
    except OSError:
        return None
    return None


def child_environment(settings: Settings) -> dict[str, str]:
    """Variables of every child: these settings and nothing else of nbx, one thread per BLAS, and where metrics go."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {
        **inherited,
        **_ONE_THREAD,
        **settings.environment(),
        "NBX_SUPERVISOR": str(os.getpid()),
        "PROMETHEUS_MULTIPROC_DIR": str(_metrics(settings)),
        "PYTHONUNBUFFERED": "1",
    }


def _metrics(settings: Settings) -> Path:
    return settings.data_dir.absolute() / "metrics"


def _empty_metrics(settings: Settings) -> None:
    """Metrics of processes that are gone would be counted for ever."""
    shutil.rmtree(_metrics(settings), ignore_errors=True)
    _metrics(settings).mkdir(parents=True)


async def _supervisor(settings: Settings, say: Callable[[str], None], command: tuple[str, ...]) -> Supervisor:
    environment = child_environment(settings)
    stages: list[list[Child]] = []
    if settings.redis_url:
        try:
            await wait_ready(settings.redis_url, start_s=EXTERNAL_REDIS_S)
        except Unavailable as error:
            raise SetupError(f"Redis at {settings.redis_label}: {error.message}") from error
    else:
        stages.append([redis_child(settings, environment)])

    async def ready(pid: int) -> None:
        await _api_ready(settings, pid)

    workers = [
        Child(
            name=f"api-{worker}",
            argv=(*command, "api"),
            environment={**environment, "NBX_WORKER": str(worker)},
            ready=ready,
            stop_timeout_s=30.0,
        )
        for worker in range(settings.workers)
    ]
    rest = [
        Child(name=name, argv=(*command, name), environment=environment, stop_timeout_s=30.0)
        for name in ("learner", "keeper")
    ]
    return Supervisor([*stages, [*workers, *rest]], settings.data_dir / "logs", say=say, clock=SystemClock())


async def _api_ready(settings: Settings, pid: int) -> None:
    """Wait until this process listens and the port answers: all workers share it, so an answer alone proves little."""
    loop = asyncio.get_running_loop()
    began, reason = loop.time(), "it does not listen"
    # the certificate is for the callers' name of this machine, and a proxy is not on the way to it
    async with httpx.AsyncClient(base_url=settings.url, verify=False, trust_env=False, timeout=2.0) as client:  # noqa: S501
        while loop.time() - began < API_START_S:
            if _listens(pid, settings.port):
                try:
                    answer = await client.get("/health/live")
                except httpx.HTTPError as error:
                    reason = f"GET /health/live: {error!r}"
                else:
                    if answer.status_code == httpx.codes.OK:
                        return
                    reason = f"GET /health/live answers {answer.status_code}"
            await asyncio.sleep(LOOK_S)
    raise Unavailable(f"not ready within {API_START_S:g} s: {reason}")


def _listens(pid: int, port: int) -> bool:
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port for c in connections)


async def _end_leftovers(settings: Settings) -> None:
    """End processes of a predecessor that was killed: they have this data directory, and we have its lock."""
    await stop_leftover(settings)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and _is_child_of(settings, process.environ()):
                await stop_process(process, LEFTOVER_S)


def _is_child_of(settings: Settings, environ: dict[str, str]) -> bool:
    data_dir = environ.get("NBX_DATA_DIR") if "NBX_SUPERVISOR" in environ else None
    return bool(data_dir) and Path(str(data_dir)).resolve() == settings.data_dir.resolve()


def _ports_free(settings: Settings) -> None:
    faults = [
        fault
        for name, port in (("port", settings.port), ("grpc_port", settings.grpc_port))
        if (fault := _port_fault(settings.host, port, PREFIX + name.upper()))
    ]
    if faults:
        raise SetupError("nothing was started", faults=tuple(faults))


def _port_fault(host: str, port: int, variable: str) -> str:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a listener still refuses; TIME_WAIT does not
            probe.bind(address)
    except socket.gaierror as error:
        return f"NBX_HOST: {host!r} is no address of this machine: {error.strerror}"
    except PermissionError:
        return f"{variable}: port {port} needs privileges; use one above 1023"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"{variable}: port {port} is in use by {_port_holder(port)}; stop that, or use another port"
        return f"{variable}: cannot listen on {host} port {port}: {error.strerror}"
    return ""


def _port_holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    break
                return f"pid {connection.pid} ({' '.join(psutil.Process(connection.pid).cmdline())[:80]})"
    except psutil.Error:
        pass
    return "a process of another user"


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
