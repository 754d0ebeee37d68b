"""Real processes, started, crashed and stopped."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import psutil
import pytest

from nbx.clock import ManualClock
from nbx.errors import SetupError, Unavailable
from nbx.runtime.child_logs import LOG_BYTES, ChildLog
from nbx.runtime.supervise import Backoff, Child, Supervisor

ENVIRONMENT = dict(os.environ)
FOREVER = "import signal; signal.pause()"


def python(name: str, code: str, **more: object) -> Child:
    return Child(name=name, argv=(sys.executable, "-c", code), environment=ENVIRONMENT, **more)  # type: ignore[arg-type]


async def until(true: Callable[[], object], limit_s: float = 10.0) -> None:
    async with asyncio.timeout(limit_s):
        while not true():  # noqa: ASYNC110 - what it waits for is outside this process
            await asyncio.sleep(0.005)


async def ready_at_once(pid: int) -> None:
    assert psutil.pid_exists(pid)


class Run:
    """One run of a supervisor; `act` is called when it is ready. Then it is stopped, unless `act` sees to that."""

    def __init__(
        self, stages: Sequence[Sequence[Child]], logs: Path, backoff: Backoff | None = None, *, stops: bool = True
    ) -> None:
        self.lines: list[str] = []
        self.pids: dict[str, int] = {}
        self._arguments = (stages, logs, backoff)
        self._stops = stops

    def __call__(self, act: Callable[[Supervisor], Awaitable[None]] | None = None) -> int:
        return asyncio.run(self._run(act))

    async def _run(self, act: Callable[[Supervisor], Awaitable[None]] | None) -> int:
        stages, logs, backoff = self._arguments
        supervisor = Supervisor(stages, logs, say=self.say, clock=ManualClock(1_000), backoff=backoff)

        async def ready() -> None:
            self.pids = supervisor.pids()
            if act is not None:
                await act(supervisor)
            if self._stops:
                supervisor.stop()

        return await asyncio.wait_for(supervisor.run(ready), 30)

    def say(self, line: str) -> None:
        time, _, rest = line.partition(" ")
        assert time == "1970-01-01T00:00:01.000Z"
        self.lines.append(rest)

    def said(self, *parts: str) -> list[str]:
        return [line for line in self.lines if any(part in line for part in parts)]


def test_stages_start_in_order_and_stop_in_reverse(tmp_path: Path) -> None:
    store = python("store", FOREVER, ready=ready_at_once)
    run = Run([[store], [python("a", FOREVER), python("b", FOREVER)]], tmp_path)
    assert run() == 0
    starts = [line.split(":")[0] for line in run.said("starting")]
    assert starts == ["store", "a", "b"]
    ready = next(i for i, line in enumerate(run.lines) if line.startswith("store: ready in "))
    assert ready < run.lines.index(f"a: starting pid {run.pids['a']}")
    stops = [line.split(":")[0] for line in run.said("stopping pid", "exited with")]
    assert stops[:2] == ["b", "a"]
    assert stops[-2:] == ["store", "store"]
    assert sorted(stops[2:4]) == ["a", "b"]
    assert not any(psutil.pid_exists(pid) for pid in run.pids.values())


def test_a_crash_loop_is_backed_off(tmp_path: Path) -> None:
    run = Run([[python("bad", "raise SystemExit(3)"), python("good", FOREVER)]], tmp_path, Backoff(first_s=0.01))

    async def act(supervisor: Supervisor) -> None:
        await until(lambda: len(run.said("restart in")) >= 4)
        assert supervisor.pids()["good"] == run.pids["good"]

    assert run(act) == 0
    pauses = [line.removeprefix("bad: exited with 3, restart in ") for line in run.said("restart in")]
    assert pauses[:4] == ["0.01 s", "0.02 s", "0.04 s", "0.08 s"]


def test_a_healthy_while_forgets_crashes(tmp_path: Path) -> None:
    run = Run([[python("bad", "raise SystemExit(3)")]], tmp_path, Backoff(first_s=0.01, healthy_s=0.0))

    async def act(supervisor: Supervisor) -> None:
        await until(lambda: len(run.said("restart in")) >= 3)

    assert run(act) == 0
    assert {line[-6:] for line in run.said("restart in")} == {"0.01 s"}


def test_stop_ends_a_long_pause(tmp_path: Path) -> None:
    run = Run([[python("bad", "raise SystemExit(3)")]], tmp_path, Backoff(first_s=1_000.0, most_s=1_000.0))

    async def act(supervisor: Supervisor) -> None:
        await until(lambda: run.said("restart in 1000 s"))

    assert run(act) == 0


def test_a_start_that_fails_stops_everything_and_shows_the_log(tmp_path: Path) -> None:
    bad = python("bad", "print('the port is taken'); raise SystemExit(1)", ready=never)
    run = Run([[python("first", FOREVER)], [bad], [python("never", FOREVER)]], tmp_path)
    assert run() == 1
    (fault,) = run.said("cannot start")
    assert fault == "nbx: cannot start: bad: exited with 1 before it was ready\n  the port is taken"
    assert run.said("first: exited with -15")
    assert not run.said("never:")


async def never(pid: int) -> None:
    await asyncio.Event().wait()


async def too_late(pid: int) -> None:
    raise Unavailable("no answer within 0 s")


def test_a_child_that_is_not_ready_in_time_is_killed(tmp_path: Path) -> None:
    run = Run([[python("late", FOREVER, ready=too_late)]], tmp_path)
    assert run() == 1
    assert run.said("cannot start: late: no answer within 0 s")
    assert not psutil.pid_exists(int(run.said("starting")[0].rsplit(" ", 1)[1]))


def test_a_failed_step_or_an_unknown_program_ends_the_start(tmp_path: Path) -> None:
    assert Run([[python("step", "raise SystemExit(4)", ready=never)]], tmp_path)() == 1
    unknown = Child(name="unknown", argv=("/no/such/program",), environment=ENVIRONMENT, ready=never)
    run = Run([[unknown]], tmp_path)
    assert run() == 1
    assert run.said("No such file or directory: '/no/such/program'") or run.said("FileNotFoundError")


def test_an_error_of_the_hook_ends_the_run(tmp_path: Path) -> None:
    run = Run([[python("good", FOREVER)]], tmp_path)

    async def act(supervisor: Supervisor) -> None:
        raise SetupError("the catalog is wrong")

    assert run(act) == 1
    assert run.said("cannot start: the catalog is wrong")
    assert run.said("good: exited with -15")


STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"


def test_a_child_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    run = Run([[python("deaf", STUBBORN, stop_timeout_s=0.05)]], tmp_path)

    async def act(supervisor: Supervisor) -> None:
        await until((tmp_path / "deaf.log").read_text)

    assert run(act) == 1
    assert run.said("deaf: did not stop in 0.05 s: killing it")
    assert run.said("deaf: exited with -9")


def test_the_second_signal_kills(tmp_path: Path) -> None:
    again: list[asyncio.Task[None]] = []
    stages = [[python("store", FOREVER)], [python("deaf", STUBBORN, stop_timeout_s=1_000.0)]]
    run = Run(stages, tmp_path, stops=False)

    async def act(supervisor: Supervisor) -> None:
        await until((tmp_path / "deaf.log").read_text)
        again.append(asyncio.create_task(interrupt()))
        os.kill(os.getpid(), signal.SIGTERM)

    async def interrupt() -> None:
        await until(lambda: run.said("deaf: stopping"))
        os.kill(os.getpid(), signal.SIGINT)

    assert run(act) == 1
    assert run.said("deaf: exited with -9")
    assert not any(psutil.pid_exists(pid) for pid in run.pids.values())


def test_signals_are_handled_only_while_it_runs(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    assert Run([[python("good", FOREVER)]], tmp_path)() == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


def test_a_console_that_is_gone_does_not_hinder_stopping(tmp_path: Path) -> None:
    class Gone(Run):
        def say(self, line: str) -> None:
            super().say(line)
            raise BrokenPipeError

    run = Gone([[python("store", FOREVER)], [python("good", FOREVER)]], tmp_path)
    assert run() == 0
    assert run.said("store: exited with -15")
    assert not any(psutil.pid_exists(pid) for pid in run.pids.values())


def test_children_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux ends the children of a dead process")
    code = f"""
        import asyncio, os
        from pathlib import Path
        from nbx.clock import SystemClock
        from nbx.runtime.supervise import Child, Supervisor
        async def main():
            child = Child(name="stay", argv=("sleep", "1000"), environment=dict(os.environ))
            supervisor = Supervisor([[child]], Path({str(tmp_path)!r}), say=lambda line: None, clock=SystemClock())
            async def ready():
                os.write(1, b"%d\\n" % supervisor.pids()["stay"])
            await supervisor.run(ready)
        asyncio.run(main())
        """
    argv = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env={**ENVIRONMENT, "PYTHONPATH": os.getcwd()}) as supervisor:  # noqa: PTH109
        assert supervisor.stdout is not None
        try:
            child = psutil.Process(int(supervisor.stdout.readline()))
            asyncio.run(
                until(lambda: child.cmdline()[:1] == ["sleep"])
            )  # it has asked the kernel, and become the program
        finally:
            supervisor.kill()
    child.wait(10)


def test_warnings_in_a_childs_log_are_repeated_and_nothing_else(tmp_path: Path) -> None:
    code = "import logging as l; l.warning('disk is slow'); l.warning('ignore me'); print('fine'); raise ValueError(7)"
    child = python("noisy", code, unremarkable=("ignore me",))
    run = Run([[child]], tmp_path, Backoff(first_s=1_000.0, most_s=1_000.0))

    async def act(supervisor: Supervisor) -> None:
        await until(lambda: run.said("restart in"))

    assert run(act) == 0
    assert run.said(" | ") == ["noisy: | WARNING:root:disk is slow", "noisy: | ValueError: 7"]


def test_logs_are_bounded_and_appended_to(tmp_path: Path) -> None:
    log = ChildLog(tmp_path / "logs" / "x.log")
    descriptor = log.open()
    os.write(descriptor, b"y" * LOG_BYTES)
    log.cut()
    assert log.path.stat().st_size == LOG_BYTES
    os.write(descriptor, b"\nERROR one\nERROR tw")
    assert log.alarms() == ["ERROR one"]
    os.write(descriptor, b"o\n")
    assert log.alarms() == ["ERROR two"]
    log.cut()
    assert log.path.stat().st_size == 0
    assert (tmp_path / "logs" / "x.log.1").stat().st_size > LOG_BYTES
    os.write(descriptor, b"ERROR three\nlast\n")
    assert log.alarms() == ["ERROR three"]
    assert log.last(1) == ["last"]
    os.write(descriptor, b"ERROR\n" * 100)
    assert len(log.alarms()) == 11
    os.close(descriptor)
