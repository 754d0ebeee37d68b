"""Keeps child processes running: starts them in order, restarts what crashes, stops them in reverse order.

Design. Children stand in *stages*. The children of a stage start together; the next stage starts when all of them are
ready. Stopping goes the other way, and a stage is gone before the one below it is asked to go: requests in flight
finish while Redis is still there. A child that fails before it was ever ready ends the start (a wrong setting does not
get better by trying); afterwards crashes are met with exponential back-off.

Each child runs in a session of its own, so that Ctrl-C in a terminal reaches the supervisor only. When the supervisor
dies without a word (kill -9), the kernel ends the children: `PR_SET_PDEATHSIG`. It has to be set in the child, between
fork and exec. `preexec_fn` would run Python there and can deadlock, as asyncio keeps threads; so the child begins as a
small isolated interpreter that makes the call and then *becomes* the program (same pid; about 20 ms per start). Where
the call does not exist (macOS) children outlive a killed supervisor until the next `nbx up` ends them.

There is no polling except for the logs, see `child_logs`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct

from nbx.errors import NbxError, SetupError
from nbx.runtime.child_logs import ChildLog

if TYPE_CHECKING:
    from pathlib import Path

    from nbx.clock import Clock

FOLLOW_S = 0.5
"""Seconds between two looks at the logs of the children."""

_BECOME = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Child(Struct, frozen=True, kw_only=True):
    """A process to keep running."""

    name: str
    """Short and unique: stands in log lines and names the log file."""
    argv: tuple[str, ...]
    """Program and arguments."""
    environment: dict[str, str]
    """All of its variables: nothing is inherited."""
    ready: Callable[[int], Awaitable[None]] | None = None
    """Returns when the process with this pid can serve, raises NbxError when it takes too long. None: ready at once."""
    stop_signal: int = signal.SIGTERM
    stop_timeout_s: float = 10.0
    """Seconds between the stop signal and SIGKILL: a request lasts milliseconds, a checkpoint a second or two."""
    unremarkable: tuple[str, ...] = ()
    """Log lines that contain one of these are not repeated as warnings."""


class Backoff(Struct, frozen=True, kw_only=True):
    """How long to wait before a crashed child is started again.

    Examples
    --------
    >>> [Backoff().pause_s(failures) for failures in (1, 2, 3, 7)]
    [0.2, 0.4, 0.8, 10.0]
    """

    first_s: float = 0.2
    most_s: float = 10.0
    healthy_s: float = 30.0
    """Seconds a child has to run for its earlier crashes to be forgotten."""

    def pause_s(self, failures: int) -> float:
        """Seconds to wait after this many crashes in a row, >= 1."""
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 60))


class _Watched:
    """A child with what is known of it now."""

    def __init__(self, child: Child, logs: Path) -> None:
        self.child = child
        self.log = ChildLog(logs / f"{child.name}.log", child.unremarkable)
        self.process: asyncio.subprocess.Process | None = None
        self.leaving = asyncio.Event()
        self.up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None


class Supervisor:
    """Runs stages of children until it is told to stop.

    Parameters
    ----------
    stages
        Started in this order, stopped in reverse.
    logs
        Directory of the children's log files.
    say
        Takes each line an operator should see, with its time, without line end.
    clock
        For the time in those lines.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Child]],
        logs: Path,
        *,
        say: Callable[[str], None],
        clock: Clock,
        backoff: Backoff | None = None,
    ) -> None:
        self._stages = stages
        self._logs = logs
        self._say_line = say
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._watched: list[list[_Watched]] = []
        self._stopping = asyncio.Event()
        self._unclean = False

    def stop(self) -> None:
        """Stop in order; called again, kill. What SIGTERM, SIGINT and SIGHUP do."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._say("nbx", "stopping; once more to kill")
            return
        self._say("nbx", "killing")
        self._unclean = True
        for watched in self._all():
            watched.leaving.set()
            self._kill(watched)

    def pids(self) -> dict[str, int]:
        """Process id of each child that runs, by name."""
        return {w.child.name: w.process.pid for w in self._all() if w.process is not None and w.alive}

    async def run(self, on_ready: Callable[[], Awaitable[None]] | None = None) -> int:
        """Start everything, keep it running, stop it.

        Parameters
        ----------
        on_ready
            Called once when all stages are ready; an NbxError from it ends the run.

        Returns
        -------
        int
            0: stopped when asked to. 1: could not start, or something had to be killed.
        """
        with self._signals():
            follower = asyncio.create_task(self._follow())
            start = asyncio.create_task(self._start(on_ready))
            stopping = asyncio.create_task(self._stopping.wait())
            try:
                await asyncio.wait({start, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if start.done():
                    start.result()
                    await stopping
            except NbxError as error:
                self._unclean = True
                self._say("nbx", f"cannot start: {error}")
            finally:
                await _cancel(start)
                self._stopping.set()
                for stage in reversed(self._watched):
                    await asyncio.gather(*(self._leave(watched) for watched in reversed(stage)))
                await _cancel(stopping)
                await _cancel(follower)
                self._repeat_alarms()
        self._say("nbx", "stopped")
        return int(self._unclean)

    async def _start(self, on_ready: Callable[[], Awaitable[None]] | None) -> None:
        for children in self._stages:
            stage = [_Watched(child, self._logs) for child in children]
            self._watched.append(stage)
            for watched in stage:
                watched.task = asyncio.create_task(self._keep(watched))
                watched.task.add_done_callback(partial(self._ended, watched))
            await asyncio.gather(*(watched.up for watched in stage))
        if on_ready is not None:
            await on_ready()

    async def _keep(self, watched: _Watched) -> None:
        """Run one child until it is to leave, or has failed before it was ever ready."""
        loop, child, failures = asyncio.get_running_loop(), watched.child, 0
        while not watched.leaving.is_set():
            began = loop.time()
            process = watched.process = await self._spawn(watched)
            exited = asyncio.create_task(process.wait())
            fault = await _until_ready(child, process.pid, exited)
            if not fault:
                if child.ready is not None:
                    self._say(child.name, f"ready in {loop.time() - began:.2f} s")
                if not watched.up.done():
                    watched.up.set_result(None)
            elif not exited.done():
                self._kill(watched)
            code = await exited
            words = fault or f"exited with {code}"
            if watched.leaving.is_set():
                break
            if not watched.up.done():
                raise SetupError(f"{child.name}: {words}", faults=tuple(watched.log.last()))
            failures = 1 if not fault and loop.time() - began >= self._backoff.healthy_s else failures + 1
            pause_s = self._backoff.pause_s(failures)
            self._say(child.name, f"{words}, restart in {pause_s:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(watched.leaving.wait(), pause_s)

    async def _spawn(self, watched: _Watched) -> asyncio.subprocess.Process:
        child = watched.child
        argv = child.argv
        if sys.platform == "linux":
            argv = (sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *argv)
        watched.log.cut()
        log = watched.log.open()
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=child.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        except OSError as error:
            raise SetupError(f"{child.name}: {argv[0]} cannot be started: {error.strerror}") from error
        finally:
            os.close(log)
        self._say(child.name, f"starting pid {process.pid}")
        if watched.leaving.is_set():
            process.send_signal(child.stop_signal)
        return process

    async def _leave(self, watched: _Watched) -> None:
        child, task = watched.child, watched.task
        watched.leaving.set()
        if task is None or task.done():
            return
        process = watched.process if watched.alive else None
        if process is not None:
            self._say(child.name, f"stopping pid {process.pid}")
            process.send_signal(child.stop_signal)
        await asyncio.wait({task}, timeout=child.stop_timeout_s)
        if not task.done():
            self._say(child.name, f"did not stop in {child.stop_timeout_s:g} s: killing it")
            self._kill(watched)
            await asyncio.wait({task})
        if process is not None:
            self._say(child.name, f"exited with {process.returncode}")

    def _kill(self, watched: _Watched) -> None:
        if watched.process is not None and watched.alive:
            self._unclean = self._unclean or watched.leaving.is_set()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(watched.process.pid, signal.SIGKILL)

    def _ended(self, watched: _Watched, task: asyncio.Task[None]) -> None:
        """Pass on why a child is not kept any more."""
        error = None if task.cancelled() else task.exception()
        if not watched.up.done():
            if error is not None:
                watched.up.set_exception(error)
            else:
                watched.up.cancel()
        elif error is not None:
            self._unclean = True
            self._say(watched.child.name, f"cannot be kept running: {error}")
            self._stopping.set()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        wanted = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            wanted.append(signal.SIGHUP)
        for number in wanted:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in wanted:
                loop.remove_signal_handler(number)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_S)
            self._repeat_alarms()
            for watched in self._all():
                watched.log.cut()

    def _repeat_alarms(self) -> None:
        for watched in self._all():
            for line in watched.log.alarms():
                self._say(watched.child.name, f"| {line}")

    def _all(self) -> list[_Watched]:
        return [watched for stage in self._watched for watched in stage]

    def _say(self, name: str, words: str) -> None:
        time = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC).isoformat(timespec="milliseconds")
        with contextlib.suppress(OSError):  # the terminal or pipe is gone: stopping has to work all the same
            self._say_line(f"{time.removesuffix('+00:00')}Z {name}: {words}")


async def _until_ready(child: Child, pid: int, exited: asyncio.Task[int]) -> str:
    """Wait until the process is ready; return why it is not, or ""."""
    if child.ready is None:
        return ""
    ready = asyncio.ensure_future(child.ready(pid))
    try:
        await asyncio.wait({ready, exited}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            return f"exited with {exited.result()} before it was ready"
        ready.result()
    except NbxError as error:
        return error.message
    finally:
        await _cancel(ready)
    return ""


async def _cancel(task: asyncio.Future[object] | asyncio.Task[object]) -> None:
    """Cancel a task and wait for its end; what it raised does not matter any more."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
