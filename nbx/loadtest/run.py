"""A load test from beginning to end: check, prepare, send, measure, judge."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version

import numpy as np
import psutil
import uvloop
from msgspec import Struct
from msgspec.structs import replace

from nbx.client import AsyncClient
from nbx.clock import SystemClock
from nbx.errors import SetupError
from nbx.loadtest.arrivals import mean_rate, schedule
from nbx.loadtest.disturbances import Disturbances
from nbx.loadtest.generator import Generator
from nbx.loadtest.measuring import generator_report, judge, part_of, parts_by_call, parts_by_stretch, series_of
from nbx.loadtest.result import Environment, LoadResult
from nbx.loadtest.scenario import LONGEST_S, MOST_REQUESTS, InteractionCall, Read, Scenario, Transport
from nbx.loadtest.target import Target, release_in_force, try_calls
from nbx.loadtest.traffic import Traffic
from nbx.loadtest.wire import Wire
from nbx.loadtest.wire_grpc import GrpcWire
from nbx.loadtest.wire_http import HttpWire

CONNECTIONS = {"http": 128, "grpc": 4, "grpc_stream": 4}
PROFILES_AT_ONCE = 32
FEEDBACK = "feedback"
PACKAGES = ("nbx", "uvloop", "httptools", "grpcio", "msgspec", "numpy")


class Options(Struct, frozen=True, kw_only=True):
    """What the command line changes of a scenario; None: nothing."""

    rate: float | None = None
    """Mean rate of the whole run, requests per second: all phases are scaled alike."""
    duration_s: float | None = None
    """Length of the whole run: all phases and times of disturbances are scaled alike."""
    transport: Transport | None = None
    connections: int | None = None
    seed: int | None = None


def run_load(
    read: Read,
    target: Target,
    options: Options = Options(),  # noqa: B008 - immutable
    look: Callable[[Generator], None] | None = None,
) -> LoadResult:
    """Run a scenario against a service.

    Parameters
    ----------
    read
        The scenario.
    target
        The service.
    options
        What to change of the scenario.
    look
        Called every half second while the load runs.

    Returns
    -------
    LoadResult
        Also when it was interrupted (SIGINT): then of what was sent until then.

    Raises
    ------
    NbxError
        The scenario cannot be run there: nothing was sent.
    """
    scenario, rate_factor, time_factor = adapted(read.scenario, options)
    release = release_in_force(target, is_start=True)
    try_calls(target, scenario.mix)
    run = f"{SystemClock().now_ms():x}"
    when = schedule(scenario.arrivals, scenario.seed, rate_factor=rate_factor, time_factor=time_factor)
    disturbances = Disturbances(
        scenario.disturbances,
        read.file.parent,
        url=target.url,
        key=target.key,
        settings=target.settings,
        time_factor=time_factor,
    )
    traffic = Traffic(scenario, when, run)
    generator = Generator(
        traffic,
        _wire(scenario, target),
        timeout_s=float(scenario.timeout),
        feedback_entry=len(scenario.mix),
        look=look,
    )
    started_ms = SystemClock().now_ms()
    with contextlib.closing(disturbances), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        machine_busy = runner.run(_send(generator, traffic, disturbances, target))
    rows = generator.records.rows()
    length_s = generator.length_s
    total = part_of(rows, "all calls", np.ones(len(rows.ok), bool), 0.0, length_s)
    stretches = [s._replace(end_s=min(s.end_s, length_s)) for s in when.stretches if s.start_s < length_s]
    return LoadResult(
        scenario=scenario.scenario,
        scenario_text=read.text,
        started_ms=started_ms,
        length_s=length_s,
        transport=scenario.transport,
        target=target.url if scenario.transport == "http" else target.grpc,
        connections=_connections(scenario),
        seed=scenario.seed,
        rate_factor=rate_factor,
        time_factor=time_factor,
        customers=len(np.unique(traffic.customer)),
        total=total,
        calls=parts_by_call(rows, [*scenario.names(), FEEDBACK], length_s),
        stretches=parts_by_stretch(rows, stretches),
        series=series_of(rows, length_s),
        generator=generator_report(
            rows,
            scenario.generator,
            busy=generator.cpu_s / max(generator.took_s, 1e-9),
            machine_busy=machine_busy,
        ),
        feedback_left_over=generator.left_over,
        interrupted=generator.interrupted,
        happened=sorted(disturbances.happened, key=lambda happened: happened.at_s),
        judged=list(judge(scenario.expect, total)),
        environment=_environment(release, release_in_force(target)),
    )


def adapted(scenario: Scenario, options: Options) -> tuple[Scenario, float, float]:
    """Apply options: the scenario as it is run, and the factors of its rates and times.

    Raises
    ------
    SetupError
        They do not go with it, or it would be longer or larger than a run may be.
    """
    changed: dict[str, object] = {
        name: value for name in ("transport", "connections", "seed") if (value := getattr(options, name)) is not None
    }
    scenario = replace(scenario, **changed)
    if scenario.transport != "http" and any(isinstance(call, InteractionCall) for call in scenario.mix):
        raise SetupError(f"the mix has an interaction, which is there over HTTP only, not over {scenario.transport}")
    mean, length_s = mean_rate(scenario.arrivals), sum(float(phase.lasts_s) for phase in scenario.arrivals)
    rate, duration_s = options.rate or mean, options.duration_s or length_s
    if duration_s > LONGEST_S:
        raise SetupError(f"--duration: {duration_s:g} s is longer than a run may be ({LONGEST_S:g} s)")
    if rate * duration_s > MOST_REQUESTS:
        raise SetupError(
            f"{rate:g} requests per second for {duration_s:g} s are more than the {MOST_REQUESTS} a run may send: "
            "use a lower --rate or a shorter --duration"
        )
    return scenario, rate / mean, duration_s / length_s


async def _send(generator: Generator, traffic: Traffic, disturbances: Disturbances, target: Target) -> float:
    """Send everything; returns the share of all cores that was busy meanwhile."""
    await _tell_profiles(traffic, target)
    disturbing: list[asyncio.Task[None]] = []
    psutil.cpu_percent()
    with _stopped_by_interrupt(generator):
        try:
            await generator.run(lambda start_ns: disturbing.append(asyncio.create_task(disturbances.run(start_ns))))
        finally:
            for task in disturbing:
                task.cancel()
            ended = await asyncio.gather(*disturbing, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error
    return psutil.cpu_percent() / 100


async def _tell_profiles(traffic: Traffic, target: Target) -> None:
    waiting = iter(traffic.profiles.items())
    async with AsyncClient(
        target.url, target.key, target.settings.tls_cert, connections=PROFILES_AT_ONCE, deadline_s=30.0
    ) as client:

        async def tell() -> None:
            for customer, profile in waiting:
                await client.change_profile(customer, profile)

        async with asyncio.TaskGroup() as group:
            for _ in range(PROFILES_AT_ONCE):
                group.create_task(tell())


@contextlib.contextmanager
def _stopped_by_interrupt(generator: Generator) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, generator.stop)
    except (ValueError, RuntimeError):  # not the main thread: who interrupts it is somebody else's
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _connections(scenario: Scenario) -> int:
    return scenario.connections or CONNECTIONS[scenario.transport]


def _wire(scenario: Scenario, target: Target) -> Wire:
    connections, certificate = _connections(scenario), target.settings.tls_cert
    if scenario.transport == "http":
        return HttpWire(target.url, target.key, connections, certificate)
    streams = scenario.transport == "grpc_stream"
    return GrpcWire(target.grpc, target.key, connections, streams=streams, certificate=certificate)


def _environment(release_before: int, release_after: int) -> Environment:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Environment(
        command=shlex.join(["nbx", *sys.argv[1:]]),
        machine=f"{platform.system()} {platform.release()} {platform.machine()}",
        cores=os.cpu_count() or 1,
        usable_cores=usable,
        python=platform.python_version(),
        versions={name: version(name) for name in PACKAGES},
        release_before=release_before,
        release_after=release_after,
    )
