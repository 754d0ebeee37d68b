"""Scenario files: ours are right, and wrong ones are told with file and field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from nbx.catalog.parse import parse_catalog
from nbx.errors import SetupError
from nbx.loadtest.arrivals import Phase
from nbx.loadtest.draws import Customers, Delay, Draw, Hot
from nbx.loadtest.run import Options, adapted
from nbx.loadtest.scenario import (
    Answers,
    Call,
    Disturbance,
    Emitted,
    EventsCall,
    Expected,
    Feedback,
    Limits,
    Publish,
    Scenario,
    parse_scenario,
    read_scenario,
)
from nbx.loadtest.target import target_of
from nbx.loadtest.wire_http import PATHS
from nbx.settings import Settings

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "loadtest").glob("*.yaml"))
GOOD = """
scenario: x
arrivals: [{shape: poisson, rate: 100, for: 10s}]
mix: [{call: decide, placement: web, feedback: f}]
feedback: {f: {delivered: {after: {fixed: 1s}}}}
disturbances: [{do: stop, at: 2s, process: learner, for: 1s}]
"""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_our_scenarios_are_right_and_speak_of_the_sample_catalog(file: Path) -> None:
    scenario = read_scenario(file).scenario
    assert scenario.scenario == file.stem
    assert scenario.description
    sample = ROOT / "examples" / "retail_bank.yaml"
    catalog = parse_catalog(sample.read_text())
    placements = {placement.name: placement for placement in catalog.placements}
    context = {feature.name for feature in catalog.features if feature.origin == "context"}
    profile = {feature.name for feature in catalog.features if feature.origin == "profile"}
    for call in scenario.mix:
        if not isinstance(call, EventsCall):
            assert call.slots <= placements[call.placement].slots
            assert set(call.context) <= context
    assert set(scenario.customers.profile) <= profile
    for disturbance in scenario.disturbances:
        if isinstance(disturbance, Publish):
            assert (file.parent / disturbance.catalog).is_file()


@pytest.mark.parametrize(
    ("good", "bad", "told"),
    [
        ("rate: 100", "rate: 0", "arrivals[0].rate: Expected `float` > 0"),
        ("rate: 100", "rate: many", "arrivals[0].rate: Expected `float`, got `str`"),
        ("for: 10s", "for: 10 parsecs", "arrivals[0].for: '10 parsecs' is no duration such as 250ms"),
        ("for: 10s", "for: 0s", "arrivals[0].for: must be longer than nothing"),
        ("for: 10s", "for: 25h", "at most 86400 are allowed"),
        ("for: 10s", "fro: 10s", "arrivals[0]: Object contains unknown field `fro`"),
        ("shape: poisson", "shape: sawtooth", "arrivals[0].shape: Invalid value 'sawtooth'"),
        ("call: decide, ", "call: dream, ", "mix[0].call: Invalid value 'dream'"),
        ("call: decide, ", "", "mix[0]: Object missing required field `call`"),
        ("placement: web, ", "", "mix[0]: Object missing required field `placement`"),
        ("placement: web, ", "placement: web, slots: 99, ", "mix[0].slots: Expected `int` <= 10"),
        ("feedback: f}", "feedback: g}", "mix[0].feedback: g is not declared under feedback; there is f"),
        ("{fixed: 1s}", "{fixed: 1s, exponential: 2s}", "feedback[...].delivered.after: needs exactly one of"),
        ("{fixed: 1s}", "{}", "has none"),
        ("{after:", "{chance: 1.5, after:", "feedback[...].delivered.chance: Expected `float` <= 1.0"),
        ("at: 2s", "at: 12s", "disturbances[0].at: is after the end of the arrivals (10 s)"),
        ("process: learner", "process: postgres", "disturbances[0].process: Expected `str` matching"),
        ("scenario: x", "scenario: [", "is not YAML"),
        ("scenario: x", "", "Object missing required field `scenario`"),
        ("scenario: x", "scenario: x\ntimeout: 0s", "timeout: must be longer than nothing"),
        ("scenario: x", "scenario: x\nexpect: {p98_below: 1s}", "expect: Object contains unknown field `p98_below`"),
        ("scenario: x", "scenario: x\ncustomers: {count: 3, hot: {customers: 3, share: 0.5}}", "hot.customers"),
        ("shape: poisson, ", "shape: spike, peak: 9, at: 8s, width: 5s, ", "the spike ends after its phase"),
    ],
)
def test_faults_name_file_and_field(good: str, bad: str, told: str) -> None:
    parse_scenario(GOOD, "x.yaml")
    assert good in GOOD
    with pytest.raises(SetupError) as caught:
        parse_scenario(GOOD.replace(good, bad, 1), "x.yaml")
    assert "x.yaml: " in str(caught.value)
    assert told in str(caught.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no\.yaml cannot be read"):
        read_scenario(tmp_path / "no.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SetupError, match="is not UTF-8"):
        read_scenario(binary)
    with pytest.raises(SetupError, match="Expected `object`, got `null`"):
        parse_scenario("", "x.yaml")


def test_options_scale_the_whole_run_and_keep_within_bounds() -> None:
    scenario = parse_scenario(GOOD, "x.yaml")
    changed, rate_factor, time_factor = adapted(scenario, Options(rate=50, duration_s=5, transport="grpc", seed=9))
    assert (changed.transport, changed.seed, rate_factor, time_factor) == ("grpc", 9, 0.5, 0.5)
    assert adapted(scenario, Options()) == (scenario, 1.0, 1.0)
    with pytest.raises(SetupError, match="more than the 5000000 a run may send"):
        adapted(scenario, Options(rate=100_000, duration_s=60))
    with pytest.raises(SetupError, match="longer than a run may be"):
        adapted(scenario, Options(duration_s=100_000))
    interaction = GOOD.replace("call: decide,", "call: interaction, events: [{type: x}],")
    with pytest.raises(SetupError, match="over HTTP only"):
        adapted(parse_scenario(interaction, "x.yaml"), Options(transport="grpc"))


@pytest.mark.parametrize(
    ("url", "grpc"),
    [
        ("http://192.168.0.1:8080", ""),
        ("https://example.org", ""),
        ("http://127.0.0.1.example.org", ""),
        ("http://[2001:db8::1]:80", ""),
        ("http://127.0.0.1:8080", "example.org:8081"),
    ],
)
def test_another_machine_is_refused_unless_it_is_allowed(url: str, grpc: str) -> None:
    with pytest.raises(SetupError, match="allowed with --allow-remote"):
        target_of(url, grpc, "", Settings(), allow_remote=False)
    assert target_of(url, grpc, "", Settings(), allow_remote=True).url.startswith(url)


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://localhost", "http://", "http://x:y@localhost", "http://h:99999"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(SetupError, match="is no URL of a service"):
        target_of(url, "", "", Settings(), allow_remote=True)


def test_the_reference_is_a_scenario_that_has_every_field() -> None:
    page = (ROOT / "docs" / "loadtest.md").read_text()
    block = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert block
    scenario = parse_scenario(block.group(1), "docs/loadtest.md")
    kinds = {type(part) for part in (*scenario.arrivals, *scenario.mix, *scenario.disturbances)}
    assert kinds == {*get_args(Phase), *get_args(Call), *get_args(Disturbance)}
    for kind in (Scenario, Customers, Feedback, Answers, Expected, Limits, Hot, Emitted, *kinds, Draw, Delay):
        for name in kind.__struct_encode_fields__:
            assert re.search(rf"\b{name}\b", page), f"{kind.__name__}.{name}"
    for file in FILES:
        assert f"`{file.stem}`" in page


def test_the_locust_file_asks_for_what_there_is() -> None:
    text = (ROOT / "loadtest" / "locustfile.py").read_text()
    compile(text, "locustfile.py", "exec")
    paths = set(re.findall(r'"(/v1/[a-z:/]+)"', text))
    assert paths
    assert paths <= set(PATHS.values())
    catalog = parse_catalog((ROOT / "examples" / "retail_bank.yaml").read_text())
    assert set(re.findall(r'visit\("(\w+)"', text)) <= {placement.name for placement in catalog.placements}
