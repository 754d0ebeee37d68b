"""Scenario files: who comes when, asks what, answers how, what goes wrong meanwhile, and what is expected of it.

A file is YAML. Its structure is the structs below: a name that is not here, a wrong type or a value out of range is a
fault with file and field; docs/loadtest.md is the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta, Struct, field

from nbx.errors import SetupError
from nbx.limits import BATCH, NAME_LENGTH, SLOTS
from nbx.loadtest.arrivals import Phase
from nbx.loadtest.draws import Customers, Delay, Draw, Share, Weight
from nbx.loadtest.durations import Seconds, seconds

FILE_BYTES = 1 << 20
"""Bytes in a scenario file: the longest of ours has four thousand."""
LONGEST_S = 86_400.0
"""Seconds a run may last: a day."""
MOST_REQUESTS = 5_000_000
"""Requests in one run: 40 bytes each are kept until the report is written."""

Name = Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH)]
Values = dict[str, bool | int | float | str | Draw]
Transport = Literal["http", "grpc", "grpc_stream"]


class Emitted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event of a customer."""

    type: Name
    by: Literal["customer", "agent"] = "customer"
    properties: Values = {}


class _Call(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="call"):
    weight: Weight = 1.0
    name: str = ""
    """In the report; empty: made from call and placement."""


class DecideCall(_Call, frozen=True, kw_only=True, tag="decide"):
    """One decision."""

    placement: Name
    slots: Annotated[int, Meta(ge=1, le=SLOTS)] = 1
    context: Values = {}
    explain: Literal["none", "reasons", "full"] = "none"
    feedback: str = ""
    """Which model of `feedback` says what becomes of it; empty: nothing is reported."""


class BatchCall(_Call, frozen=True, kw_only=True, tag="batch"):
    """Decisions for several customers in one call."""

    placement: Name
    size: Annotated[int, Meta(ge=1, le=BATCH)] = 20
    slots: Annotated[int, Meta(ge=1, le=SLOTS)] = 1
    context: Values = {}


class EventsCall(_Call, frozen=True, kw_only=True, tag="events"):
    """Events of one customer in one call."""

    events: Annotated[list[Emitted], Meta(min_length=1, max_length=BATCH)]


class InteractionCall(_Call, frozen=True, kw_only=True, tag="interaction"):
    """Events and one decision in one call (HTTP only)."""

    events: Annotated[list[Emitted], Meta(min_length=1, max_length=BATCH)]
    placement: Name
    slots: Annotated[int, Meta(ge=1, le=SLOTS)] = 1
    context: Values = {}
    feedback: str = ""


Call = DecideCall | BatchCall | EventsCall | InteractionCall


class Sign(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that may follow."""

    chance: Share = 1.0
    after: Delay


class Answers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What customers say of what they saw: the rest of them say nothing."""

    accepted: Share = 0.0
    declined: Share = 0.0
    dismissed: Share = 0.0
    after: Delay

    def __post_init__(self) -> None:
        if self.accepted + self.declined + self.dismissed > 1 + 1e-9:
            raise ValueError("accepted, declined and dismissed are more than 1 together")


class Feedback(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of an action: each sign follows the one before; delays add up."""

    delivered: Sign | None = None
    seen: Sign | None = None
    answers: Answers | None = None


class Publish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do", tag="publish"):
    """Publish a catalog through the API; the key needs the scope `catalog`."""

    at: Seconds
    catalog: str
    """File, relative to the scenario's."""
    times: Annotated[int, Meta(ge=1, le=100)] = 1
    every: Seconds = Seconds(5)


class Stop(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do", tag="stop"):
    """Hold a process of the local `nbx up` (SIGSTOP), and let it go on (SIGCONT)."""

    at: Seconds
    process: Annotated[str, Meta(pattern=r"^(learner|keeper|redis|api-[0-9]{1,3})$")]
    lasts_s: Seconds = field(name="for")


class PauseRedis(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do", tag="pause_redis"):
    """Have the embedded Redis of the local `nbx up` answer nobody for a while (CLIENT PAUSE)."""

    at: Seconds
    lasts_s: Seconds = field(name="for")


Disturbance = Publish | Stop | PauseRedis


class Expected(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What has to hold: the command ends with 1 when it does not. What is left out is not asked."""

    p50_below: Seconds | None = None
    p99_below: Seconds | None = None
    p999_below: Seconds | None = None
    errors: Share | None = None
    """Largest share of requests that may fail; 0: none."""
    degraded: Share | None = None
    """Largest share of answers that may be degraded."""
    achieved: Share | None = None
    """Smallest share of the intended rate that has to be answered."""


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Beyond which the generator itself was the bottleneck, and the run is not valid."""

    late_p99: Seconds = Seconds(0.010)
    """99 % of requests have to be sent within this of their time."""
    busy: Share = 0.9
    """Of one core that the generator's thread may use."""


class Scenario(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A load test."""

    scenario: Name
    description: str = ""
    seed: Annotated[int, Meta(ge=0)] = 1
    transport: Transport = "http"
    connections: Annotated[int, Meta(ge=1, le=4096)] | None = None
    """HTTP: 128 unless given, one request at a time on each; gRPC: 4 unless given."""
    timeout: Seconds = Seconds(5)
    """Since a request was due; one that is not answered by then is an error of this length."""
    arrivals: Annotated[list[Phase], Meta(min_length=1)]
    mix: Annotated[list[Call], Meta(min_length=1, max_length=100)]
    customers: Customers = Customers()
    feedback: dict[str, Feedback] = {}
    disturbances: list[Disturbance] = []
    expect: Expected = Expected()
    generator: Limits = Limits()

    def names(self) -> list[str]:
        """Return the names of the calls in the mix, each one once."""
        found: list[str] = []
        for number, call in enumerate(self.mix):
            tag = str(call.__struct_config__.tag)
            name = call.name or " ".join(filter(None, (tag, getattr(call, "placement", ""))))
            found.append(f"{name} #{number + 1}" if name in found else name)
        return found


class Read(Struct, frozen=True):
    """A scenario and where it stands."""

    scenario: Scenario
    text: str
    file: Path


def read_scenario(file: Path) -> Read:
    """Read and check a scenario file.

    Raises
    ------
    SetupError
        It cannot be read, or something in it is wrong: says file and field.
    """
    try:
        text = file.read_bytes()[: FILE_BYTES + 1].decode()
    except OSError as error:
        raise SetupError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SetupError(f"{file} is not UTF-8 text: {error}") from error
    if len(text) > FILE_BYTES:
        raise SetupError(f"{file} has more than {FILE_BYTES} bytes")
    return Read(parse_scenario(text, str(file)), text, file)


def parse_scenario(text: str, source: str) -> Scenario:
    """Check the text of a scenario; `SetupError` names `source` and the field.

    Examples
    --------
    >>> parse_scenario("scenario: x", "x.yaml")
    Traceback (most recent call last):
    nbx.errors.SetupError: x.yaml: Object missing required field `arrivals`
    """
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SetupError(f"{source}: is not YAML: {error}") from error
    try:
        scenario: Scenario = msgspec.convert(raw, Scenario, dec_hook=_custom)
    except msgspec.ValidationError as error:
        words, at, path = str(error).rpartition(" - at `$")
        place = path.rstrip("`").removeprefix(".") if at else ""
        raise SetupError(f"{source}: {place}: {words}" if place else f"{source}: {words or error}") from error
    if faults := tuple(f"{source}: {fault}" for fault in _faults(scenario)):
        raise SetupError("the scenario cannot be run", faults=faults)
    return scenario


def _custom(kind: type, value: Any) -> Any:
    if kind is Seconds:
        return seconds(value)
    raise NotImplementedError


def _faults(scenario: Scenario) -> Iterator[str]:
    for number, call in enumerate(scenario.mix):
        model = getattr(call, "feedback", "")
        if model and model not in scenario.feedback:
            known = ", ".join(scenario.feedback) or "none"
            yield f"mix[{number}].feedback: {model} is not declared under feedback; there is {known}"
        if isinstance(call, InteractionCall) and scenario.transport != "http":
            yield f"mix[{number}].call: interaction is there over HTTP only, transport is {scenario.transport}"
    for number, phase in enumerate(scenario.arrivals):
        if phase.lasts_s <= 0:
            yield f"arrivals[{number}].for: must be longer than nothing"
    total_s = sum(phase.lasts_s for phase in scenario.arrivals)
    if total_s > LONGEST_S:
        yield f"arrivals: last {total_s:g} s together, at most {LONGEST_S:g} are allowed"
    for number, disturbance in enumerate(scenario.disturbances):
        if disturbance.at >= total_s:
            yield f"disturbances[{number}].at: is after the end of the arrivals ({total_s:g} s)"
    if scenario.timeout <= 0:
        yield "timeout: must be longer than nothing"
