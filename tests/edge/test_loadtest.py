"""`nbx loadtest` against a real service: what it measures, how it ends, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from nbx.cli import main
from nbx.loadtest.histogram import Histogram
from nbx.loadtest.result import LoadResult, read_result
from tests.service import ROOT, Running, free_ports, running

FILES = sorted((ROOT / "loadtest").glob("*.yaml"))
SCENARIO = """
scenario: edge
timeout: 3s
arrivals: [{shape: poisson, rate: 60, for: 3s}]
mix:
  - {call: decide, weight: 6, placement: web, slots: 2, context: {hour: {whole: [1, 20]}}, feedback: page}
  - {call: batch, weight: 1, placement: quick, size: 3}
  - {call: events, name: page view, weight: 2, events: [{type: page_view}]}
customers: {count: 500, hot: {share: 0.2}, profile: {age: {whole: [20, 60]}}}
feedback:
  page:
    delivered: {after: {fixed: 50ms}}
    seen: {chance: 0.8, after: {exponential: 100ms}}
    answers: {accepted: 0.3, declined: 0.2, after: {exponential: 300ms}}
expect: {errors: 0, achieved: 0.5}
generator: {late_p99: 10s, busy: 1}
"""


class Ended(NamedTuple):
    """A finished command."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def loadtest(service: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process: a new one takes longer to start than most runs here last."""

    def run(*arguments: str, of: Running = service, **variables: str) -> Ended:
        with monkeypatch.context() as patched:
            for name, value in {**of.environment, "NBX_API_KEY": of.key, **variables}.items():
                if name.startswith("NBX_"):
                    patched.setenv(name, value)
            patched.setattr("sys.argv", ["nbx", "loadtest", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        printed = capsys.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else int(code is not None), printed.out, printed.err)

    return run


def result_in(folder: Path, ended: Ended) -> LoadResult:
    """Read what a run wrote."""
    files = list(folder.glob("*.json"))
    assert len(files) == 1, ended.out + ended.err
    return read_result(files[0])


def written(folder: Path, text: str = SCENARIO) -> str:
    file = folder / "edge.yaml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize("transport", ["http", "grpc", "grpc_stream"])
def test_a_run_measures_every_call_and_ends_by_itself(
    loadtest: Command, service: Running, tmp_path: Path, transport: str
) -> None:
    ended = loadtest(written(tmp_path), "--transport", transport, "--out", str(tmp_path))
    assert ended.code == 0, ended.out + ended.err
    result = result_in(tmp_path, ended)
    assert result.transport == transport
    assert result.total.due - result.calls[-1].due == pytest.approx(180, abs=70)  # Poisson
    assert (result.total.errors, result.total.ok) == (0, result.total.due)
    assert sum(part.due for part in result.calls) == result.total.due
    assert [part.name for part in result.calls] == ["decide web", "batch quick", "page view", "feedback"]
    assert result.calls[-1].due >= 20
    latency = result.total.latency
    assert 0 < latency.p50_ms <= latency.p99_ms <= latency.max_ms < 3000
    assert Histogram.decode(latency.histogram).count == latency.count == result.total.due
    assert result.total.service.p50_ms <= latency.p50_ms + 0.001
    assert result.environment.release_before == result.environment.release_after > 0
    (page,) = tmp_path.glob("*.html")
    assert "Latency by percentile" in page.read_text()
    seen = [e for e in service.entries() if e.customer_id.startswith("load-")]
    assert len(seen) >= result.calls[0].due  # what was told as answered is in the log


def test_an_expectation_that_fails_is_exit_code_one(loadtest: Command, tmp_path: Path) -> None:
    text = SCENARIO.replace("expect: {errors: 0,", "expect: {p99_below: 1us,")
    ended = loadtest("run", written(tmp_path, text), "--rate", "20", "--duration", "1s")
    assert ended.code == 1
    assert "FAILS  p99 < 1 µs: " in ended.out
    assert "holds  achieved rate" in ended.out


def test_a_held_process_and_a_paused_redis_are_seen_and_go_on(
    loadtest: Command, service: Running, tmp_path: Path
) -> None:
    text = SCENARIO.replace(
        "expect:",
        "disturbances:\n- {do: stop, process: learner, at: 500ms, for: 1s}\n"
        "- {do: pause_redis, at: 1s, for: 600ms}\n- {do: stop, process: redis, at: 2s, for: 200ms}\nexpect:",
    )
    ended = loadtest(written(tmp_path, text), "--out", str(tmp_path), "--rate", "40")
    result = result_in(tmp_path, ended)
    assert [happened.words for happened in result.happened] == [
        "learner held for 1 s",
        "Redis paused for 600 ms",
        "redis held for 200 ms",
    ]
    assert (
        result.total.latency.max_ms > 300
    )  # those due while Redis was away waited, or were degraded at their deadline
    assert psutil.Process(service.pids()["learner"]).status() != psutil.STATUS_STOPPED


def test_what_cannot_be_run_is_told_in_words_before_anything_is_sent(loadtest: Command, tmp_path: Path) -> None:
    scenario, (port,) = written(tmp_path), free_ports(1)
    nobody = loadtest(scenario, "--url", f"http://127.0.0.1:{port}")
    assert nobody.code == 1
    assert "cannot be reached" in nobody.err
    assert "is `nbx up` running?" in nobody.err
    remote = loadtest(scenario, "--url", "http://192.0.2.1:8080")
    assert remote.code == 2
    assert "--allow-remote" in remote.err
    unkeyed = loadtest(scenario, NBX_API_KEY="nbx_wrong")
    assert unkeyed.code == 2
    assert "unauthenticated" in unkeyed.err
    unplaced = loadtest(written(tmp_path, SCENARIO.replace("placement: web", "placement: moon")))
    assert unplaced.code == 2
    assert "moon" in unplaced.err
    held = SCENARIO.replace("expect:", "disturbances: [{do: stop, process: learner, at: 1s, for: 1s}]\nexpect:")
    elsewhere = loadtest(written(tmp_path, held), NBX_DATA_DIR=str(tmp_path / "elsewhere"))
    assert elsewhere.code == 2
    assert "disturbances need the `nbx up` of this machine" in elsewhere.err
    unknown = loadtest("no_such_scenario")
    assert unknown.code == 2
    assert "browsing" in unknown.err


def test_two_runs_are_compared(loadtest: Command, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        folder = tmp_path / name
        arguments = ("--rate", "20", "--duration", "1s", "--out", str(folder))
        assert loadtest(written(tmp_path), *arguments).code == 0
        files += list(folder.glob("*.json"))
    compared = loadtest("compare", *map(str, files), "--html", str(tmp_path / "both.html"))
    assert compared.code == 0, compared.err
    assert "intended rate" in compared.out
    assert " x" in compared.out
    assert (tmp_path / "both.html").read_text().count("<svg") >= 2


def test_scenarios_are_listed(loadtest: Command, tmp_path: Path) -> None:
    listed = loadtest("list", "--json")
    assert listed.code == 0
    for file in FILES:
        assert f'"{file.stem}"' in listed.out


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("bank"), ROOT / "examples" / "retail_bank.yaml", deadline_ms=500) as started:
        yield started


@pytest.mark.nightly
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_our_scenarios_run(loadtest: Command, bank: Running, tmp_path: Path, file: Path) -> None:
    ended = loadtest(str(file), "--rate", "20", "--duration", "6s", "--out", str(tmp_path), of=bank)
    result = result_in(tmp_path, ended)
    assert result.total.errors == 0, ended.out
    assert result.total.ok == result.total.due > 60
    assert len(result.happened) == {"publish": 5, "learner_down": 1, "redis_pause": 2}.get(file.stem, 0)
    assert not any("not" in happened.words or "failed" in happened.words for happened in result.happened)
