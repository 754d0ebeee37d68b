"""The back-test from end to end against a real private service, and what stops it before one is started."""

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from nbx.backtest.report import BacktestResult
from nbx.backtest.run import backtest
from nbx.backtest.service import private_service
from nbx.backtest.spec import read_spec
from nbx.errors import NbxError, SetupError, Unavailable

from .log import log_rows, write_csv, write_spec

ROOT = Path(__file__).parents[3]


def run(data: Path, spec: Path, *, url: str = "", rows: int = 0, seed: int | None = None) -> BacktestResult:
    return asyncio.run(backtest(data, spec, url=url, rows=rows, seed=seed, console=Console(file=io.StringIO())))


def leftovers() -> set[str]:
    """Command lines of processes of private services of this test process; other tests have services of their own."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "nbx-backtest-" in process.environ().get("NBX_DATA_DIR", ""):
                found.add(" ".join(process.cmdline()))
    return found


def test_a_clearly_better_arm_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    count = 1800
    rows = log_rows(count)
    spec = write_spec(tmp_path, ("columns:", "id: customer\ncolumns:"))
    result = run(write_csv(tmp_path / "log.csv", rows), spec, seed=3)
    # a match has a chance of 1/3 whatever the policy does: 5 standard deviations
    assert abs(result.accepted - count / 3) < 5 * (count * 2 / 9) ** 0.5
    uniform, red, green, blue = result.compared
    assert (uniform.policy, blue.policy) == ("uniform", "always blue")
    assert result.rows == count
    assert sum(each.reward.count for each in (red, green, blue)) == count
    assert (result.degraded, result.held_out) == (0, 0)
    assert blue.chosen is not None
    assert blue.chosen > 0.7 * count
    assert result.nbx.low > uniform.reward.high
    assert result.second_half.mean > 0.5  # blue has 0.6
    assert "always blue" in [str(cell) for cell in result.table().columns[0].cells]
    assert list((tmp_path / "tmp").iterdir()) == []
    assert leftovers() == set()


def test_a_running_service_is_used_when_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, spec = write_csv(tmp_path / "log.csv", log_rows(600)), write_spec(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    service_of = tmp_path / "service"
    service_of.mkdir()
    console = Console(file=io.StringIO())

    async def both() -> BacktestResult:
        # its placement, actions and features are the specification's; what else it says sways its choices
        text = read_spec(spec).catalog_text.replace("exchange: 0", "exchange: 1")
        async with private_service(text, service_of) as service:
            monkeypatch.setenv("NBX_API_KEY", (service_of / "data" / "cli.key").read_text().strip())
            changed = write_spec(other, ("mail:", "post:"), ("[mail]", "[post]"))
            with pytest.raises(SetupError) as caught:
                await backtest(data, changed, url=service.url, console=console)
            assert caught.value.faults[0] == "placement post is not in force there; it has mail"
            assert await service.learned() == 0
            return await backtest(data, spec, url=service.url, rows=400, console=console)

    result = asyncio.run(both())
    assert result.rows == 400
    assert result.notes[-1].endswith("experience.exchange is 1: write exchange: 0, only the response counts")


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    data, spec = write_csv(tmp_path / "log.csv", log_rows(60_000)), write_spec(tmp_path)
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "nbx", "backtest", str(data), "--spec", str(spec)],
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=tmp_path,
        start_new_session=True,
    )
    try:
        until(lambda: logged_bytes(tmp_path / "tmp") > 500_000)  # decisions are being made
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 5  # up, Redis, api, learner, keeper
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode not in (0, 2)
    assert b"Traceback" not in output
    assert not [p for p in started if p.is_running()]
    assert list((tmp_path / "tmp").iterdir()) == []


def logged_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*/service/data/**/*.aof"))


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def stopped(tmp_path: Path, rows: list[tuple[str, ...]], *changes: tuple[str, str]) -> str:
    with pytest.raises(SetupError) as caught:
        run(write_csv(tmp_path / "log.csv", rows), write_spec(tmp_path, *changes))
    assert leftovers() == set()
    return str(caught.value)


def test_a_log_that_cannot_be_used_stops_before_anything_is_started(tmp_path: Path) -> None:
    rows = log_rows(300)
    assert "has no rows" in stopped(tmp_path, [])
    assert "row 300 column bought: 'x' is no outcome" in stopped(tmp_path, [*rows[:-1], (*rows[-1][:-1], "x")])
    assert "no row" in stopped(tmp_path, [(*row[:-1], "0") for row in rows])
    assert "no row of" in stopped(tmp_path, [row for row in rows if row[4] != "B"])
    skewed = [row for k, row in enumerate(rows) if row[4] != "B" or k % 3 == 0]
    assert "were not drawn with the probabilities" in stopped(tmp_path, skewed)


def test_the_command_line_ends_with_2_on_wrong_use(tmp_path: Path) -> None:
    spec = write_spec(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "nbx", "backtest", str(tmp_path / "none.csv"), "--spec", str(spec)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip().endswith("none.csv: there is no such file")


@pytest.mark.parametrize(("url", "kind"), [("http://127.0.0.1:9", Unavailable), ("127.0.0.1", NbxError)])
def test_a_service_that_does_not_answer(tmp_path: Path, url: str, kind: type[NbxError]) -> None:
    with pytest.raises(kind, match=url):
        run(write_csv(tmp_path / "log.csv", log_rows(300)), write_spec(tmp_path), url=url)
