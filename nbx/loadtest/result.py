"""What a run showed: a document that keeps the whole histograms, so that it can be compared and read again later."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from nbx.errors import SetupError
from nbx.loadtest.histogram import Histogram

VERSION = 1
QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999, "p9999_ms": 0.9999, "max_ms": 1.0}


class Latency(Struct, frozen=True, kw_only=True):
    """Times of calls, milliseconds, with the histogram they are of."""

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    p9999_ms: float
    max_ms: float
    histogram: str
    """Microseconds, as HdrHistogram V2 compressed base64."""

    @classmethod
    def of(cls, histogram: Histogram) -> Latency:
        """Summarise a histogram of microseconds."""
        found = histogram.quantiles_us(list(QUANTILES.values())) / 1000
        return cls(
            count=histogram.count,
            mean_ms=histogram.mean_us / 1000,
            histogram=histogram.encode(),
            **dict(zip(QUANTILES, found.tolist(), strict=True)),
        )


class Part(Struct, frozen=True, kw_only=True):
    """Calls that belong together: all, those of one call of the mix, those due in one stretch of the schedule."""

    name: str
    start_s: float
    end_s: float
    due: int
    """Calls that were due."""
    intended_rate: float
    achieved_rate: float
    """Good answers per second that came within the part's time."""
    ok: int
    degraded: int
    """Good answers that were degraded."""
    errors: int
    timeouts: int
    """Of the errors: those that were given up."""
    statuses: dict[str, int]
    latency: Latency
    """Since a call was due; answered calls, and those given up with the time they were waited for. Other errors have no
    latency."""
    service: Latency
    """Since a call was handed to the network; of the same calls, but those that never were."""

    @property
    def error_share(self) -> float:
        """Errors among all calls."""
        return self.errors / max(self.due, 1)

    @property
    def degraded_share(self) -> float:
        """Degraded among good answers."""
        return self.degraded / max(self.ok, 1)


class Series(Struct, frozen=True, kw_only=True):
    """How it went over time: one number per interval. Latencies stand where their calls were due."""

    interval_s: float
    intended_rate: list[float]
    achieved_rate: list[float]
    errors: list[int]
    timeouts: list[int]
    degraded: list[int]
    p50_ms: list[float]
    p99_ms: list[float]
    max_ms: list[float]
    late_ms: list[float]
    """99 % of the interval's calls were sent within this of their time."""


class GeneratorReport(Struct, frozen=True, kw_only=True):
    """How well the generator kept its own schedule."""

    late: Latency
    """How long after they were due it came to calls."""
    busy: float
    """Share of one core that its thread used."""
    machine_busy: float
    """Share of all cores that all processes used."""
    bottleneck: list[str]
    """Why the run says more of the generator than of the service; empty: it does not."""


class Judged(Struct, frozen=True, kw_only=True):
    """An expectation and what became of it."""

    what: str
    limit: str
    found: str
    passed: bool


class Happened(Struct, frozen=True, kw_only=True):
    """Something that was done to the service."""

    at_s: float
    until_s: float
    words: str


class Environment(Struct, frozen=True, kw_only=True):
    """Where and with what it was measured."""

    command: str
    machine: str
    cores: int
    usable_cores: int
    """That the generator may run on."""
    python: str
    versions: dict[str, str]
    release_before: int = 0
    release_after: int = 0


class LoadResult(Struct, frozen=True, kw_only=True):
    """A run."""

    version: int = VERSION
    scenario: str
    scenario_text: str
    started_ms: int
    """Epoch milliseconds."""
    length_s: float
    """Of the schedule."""
    transport: str
    target: str
    connections: int
    seed: int
    rate_factor: float
    time_factor: float
    customers: int
    """That came."""
    total: Part
    calls: list[Part]
    """Per call of the mix, and feedback."""
    stretches: list[Part]
    series: Series
    generator: GeneratorReport
    feedback_left_over: int
    """Events that would have come after the end: not sent."""
    interrupted: bool
    happened: list[Happened]
    judged: list[Judged]
    environment: Environment

    @property
    def valid(self) -> bool:
        """Whether it was the service that was measured, to the end."""
        return not self.generator.bottleneck and not self.interrupted

    @property
    def passed(self) -> bool:
        """Whether it is valid and everything that was expected held."""
        return self.valid and all(judged.passed for judged in self.judged)


def write_result(result: LoadResult, file: Path) -> None:
    """Write a run as JSON."""
    file.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def read_result(file: Path) -> LoadResult:
    """Read a run; `SetupError` when it is none."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=LoadResult)
    except OSError as error:
        raise SetupError(f"{file} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{file} is no result of `nbx loadtest`: {error}") from error
