"""Archives in a child process that is killed when it reaches a line of the code: `python -m tests.archive_victim`.

Reads commands from standard input, one a line: file name, line number and the how-manyth time (`archiving.py 210 1`);
`-` to run to the end; or `full` and a size in bytes beyond which no file may grow. Answers with one line: `killed`,
`done`, or what went wrong, and, after `-`, the lines passed, each as file, function, line and how often.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from nbx.clock import SystemClock
from nbx.features.connection import RedisConnection
from nbx.features.keys import LEASE_KEEPER
from nbx.features.lease import Lease
from nbx.features.store_redis import RedisStore
from nbx.runtime.archive_task import Archiving
from nbx.settings import Settings

WATCHED = {"archiving.py", "trimming.py", "archive_task.py", "chain.py", "scrubbing.py", "scrub.py"}
ROWS = 1_000
_passed: Counter[tuple[str, int]] = Counter()
_functions: dict[tuple[str, int], str] = {}


async def archive(settings: Settings) -> None:
    """Archive and trim as the keeper does, to the end."""
    connection = RedisConnection(settings.effective_redis_url)
    await connection.connect()
    await connection.execute("DEL", LEASE_KEEPER, timeout_ms=5_000)  # of the one that was killed before
    lease = Lease(connection, LEASE_KEEPER, "victim", 60_000)
    await lease.acquire()
    await Archiving(connection, RedisStore(connection), lease, settings, SystemClock(), 0.0).turn()
    await connection.close()


def kill_at(name: str, line: int, times: int) -> None:
    """Have this process killed when it is about to run a line for the `times`-th time; 0: count lines only."""

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            at = Path(frame.f_code.co_filename).name, frame.f_lineno
            _passed[at] += 1
            _functions[at] = frame.f_code.co_name
            if at == (name, line) and _passed[at] == times:
                os.kill(os.getpid(), signal.SIGKILL)
        return local

    def trace(frame: FrameType, _: str, __: Any) -> Any:
        return local if Path(frame.f_code.co_filename).name in WATCHED else None

    threading.settrace(trace)
    sys.settrace(trace)


def child(settings: Settings, command: str) -> None:
    """Run one command and end."""
    if command.startswith("full"):
        size = int(command.split()[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    else:
        name, line, times = command.split() if command != "-" else ("", 0, 0)
        kill_at(name, int(line), int(times))
    said = "done"
    try:
        asyncio.run(archive(settings))
    except Exception as error:  # noqa: BLE001 - told to the one who waits
        said = repr(error)
    sys.settrace(None)
    if command == "-":
        said += " " + " ".join(f"{at[0]}:{_functions[at]}:{at[1]}:{times}" for at, times in sorted(_passed.items()))
    os.write(1, f"{said}\n".encode())
    os._exit(0)


def main(url: str, directory: str, partitions: int) -> None:
    """Fork a child for every command, so that each begins as a new process does, without importing anew."""
    settings = Settings(
        redis_url=url, archive_dir=Path(directory), partitions=partitions, archive_rows=ROWS, log_keep_s=0
    )
    for command in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(settings, command.strip())
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            os.write(1, b"killed\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
