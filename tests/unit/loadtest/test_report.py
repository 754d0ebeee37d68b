"""Reports: pages that need nothing but themselves, plots that stay in their frame, results that are read as written."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nbx.errors import SetupError
from nbx.loadtest.arrivals import Stretch
from nbx.loadtest.compare import compare
from nbx.loadtest.measuring import generator_report, judge, part_of, parts_by_call, parts_by_stretch, series_of
from nbx.loadtest.plots import HEIGHT, WIDTH, Band, Line, linear, logarithmic, plot
from nbx.loadtest.records import TIMEOUT, Records
from nbx.loadtest.report import render_comparison, render_run, summary, write_page
from nbx.loadtest.result import Environment, Happened, LoadResult, read_result, write_result
from nbx.loadtest.scenario import Expected, Limits
from nbx.loadtest.wire import Reply

LENGTH_S = 10.0
EVIL = "<script>alert(1)</script>"


def result(*, slower: float = 1.0, late_ms: float = 0.1, errors: int = 5) -> LoadResult:
    """Make the result of 1000 calls with known latencies: 1 to 1000 ms, times a factor."""
    records = Records()
    for number in range(1000):
        due = number * 10_000_000
        took = round((number + 1) * slower * 1e6)
        reply = Reply("200", ok=True, degraded=number % 100 == 0, decision_id="d", slot=0)
        if number < errors:
            reply = Reply(TIMEOUT if number == 0 else "503", ok=False)
        records.add(number % 2, (due, round(late_ms * 1e6), due + took // 2, due + took), reply)
    rows = records.rows()
    total = part_of(rows, "all calls", np.ones(1000, bool), 0.0, LENGTH_S)
    expected = Expected(errors=0.001, p50_below=None)
    return LoadResult(
        scenario=f"x{EVIL}",
        scenario_text=f"scenario: x # {EVIL}",
        started_ms=1_700_000_000_000,
        length_s=LENGTH_S,
        transport="http",
        target="http://127.0.0.1:8080",
        connections=128,
        seed=1,
        rate_factor=1.0,
        time_factor=1.0,
        customers=10,
        total=total,
        calls=parts_by_call(rows, ["decide", EVIL, "never"], LENGTH_S),
        stretches=parts_by_stretch(rows, [Stretch("calm", 0.0, 4.0, 400), Stretch("rush", 4.0, 10.0, 600)]),
        series=series_of(rows, LENGTH_S),
        generator=generator_report(rows, Limits(), busy=0.1, machine_busy=0.5),
        feedback_left_over=3,
        interrupted=False,
        happened=[Happened(at_s=2.0, until_s=3.0, words=f"held {EVIL}")],
        judged=list(judge(expected, total)),
        environment=Environment(
            command="nbx loadtest x", machine="m", cores=2, usable_cores=2, python="3.11", versions={"nbx": "0"}
        ),
    )


def test_parts_say_what_happened() -> None:
    total = result().total
    assert (total.due, total.ok, total.errors, total.timeouts, total.degraded) == (1000, 995, 5, 1, 9)
    assert total.statuses == {"timeout": 1, "503": 4, "200": 995}
    assert total.latency.count == 996  # a timeout has its time, an error has none
    assert total.latency.p50_ms == pytest.approx(502.5, rel=0.002)
    assert total.latency.max_ms == pytest.approx(1000, rel=0.001)
    assert total.service.p50_ms == pytest.approx(251, rel=0.005)  # they waited half of their time for a connection
    assert total.intended_rate == 100
    assert total.achieved_rate == pytest.approx(0.1 * (995 - 91), abs=0.2)  # the last ones came after the end
    calm, rush = result().stretches
    assert (calm.due, rush.due, calm.intended_rate) == (400, 600, 100)
    assert calm.latency.max_ms == pytest.approx(400, rel=0.001)
    assert [part.name for part in result().calls] == ["decide", EVIL]


def test_a_page_needs_nothing_but_itself_and_runs_nothing() -> None:
    page = render_run(result())
    assert EVIL not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"https?://(?!127\.0\.0\.1)|<link|<script|@import|url\(|\ssrc=", page)
    assert "Fails: errors at most 0.1 %, found 0.5 %" in page
    assert "held" in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(svg)  # noqa: S314 - our own
    assert page.count("<svg") == 6


def test_a_saturated_generator_is_told_loudly() -> None:
    saturated = result(late_ms=80)
    assert (saturated.valid, saturated.passed) == (False, False)
    assert "NOT VALID, the generator was the bottleneck" in render_run(saturated)
    assert "NOT VALID, the generator was the bottleneck" in str(next(iter(summary(saturated))))
    assert result().valid
    assert "NOT VALID" not in render_run(result())
    interrupted = replace(result(), interrupted=True)
    assert not interrupted.valid
    assert "NOT VALID, it was interrupted" in render_run(interrupted)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_result(result(), tmp_path / "x.json")
    assert read_result(tmp_path / "x.json") == result()
    (tmp_path / "bad.json").write_text('{"version": 1}')
    with pytest.raises(SetupError, match=r"bad\.json is no result of `nbx loadtest`"):
        read_result(tmp_path / "bad.json")
    with pytest.raises(SetupError, match="cannot be read"):
        read_result(tmp_path / "none.json")


def test_comparing_tells_ratios_and_what_differs(tmp_path: Path) -> None:
    same = compare(result(), result())
    assert same.warnings == []
    assert {pair.ratio for pair in same.pairs if pair.first} == {1.0}
    slower = result(slower=2.0, late_ms=80)
    compared = compare(result(), replace(slower, seed=2, scenario_text="other"))
    ratios = {(pair.part, pair.what): pair.ratio for pair in compared.pairs}
    assert ratios["all calls", "p50 ms"] == pytest.approx(2, rel=0.01)
    assert ratios["decide", "p99 ms"] == pytest.approx(2, rel=0.01)
    assert any("the second run is not valid" in words for words in compared.warnings)
    assert "their scenarios differ" in compared.warnings
    assert "seed: 1 in the first, 2 in the second" in compared.warnings
    write_page(render_comparison(result(), slower, compared), tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert EVIL not in page
    assert page.count("<svg") == 3
    assert msgspec.json.decode(msgspec.json.encode(compared))["pairs"]


def test_expectations_are_held_against_what_was_found() -> None:
    total = result().total
    held = Expected.__struct_fields__
    assert len(held) == 6
    for name, good, bad in (
        ("p50_below", 0.6, 0.4),
        ("p99_below", 1.1, 0.5),
        ("p999_below", 1.1, 0.5),
        ("errors", 0.01, 0.0),
        ("degraded", 0.01, 0.001),
        ("achieved", 0.5, 0.99),
    ):
        for limit, passed in ((good, True), (bad, False)):
            (judged,) = judge(msgspec.convert({name: limit}, Expected, dec_hook=lambda kind, value: kind(value)), total)
            assert judged.passed is passed, judged


@given(
    st.lists(st.tuples(st.floats(-10, 150), st.floats(0, 1e6)), min_size=1, max_size=30),
    st.booleans(),
    st.text(min_size=1, max_size=12),
)
def test_plots_stay_in_their_frame(points: list[tuple[float, float]], logarithm: bool, name: str) -> None:
    values = [value for _, value in points]
    y = logarithmic(values, "ms") if logarithm else linear(max(values), "calls")
    x = linear(100, "seconds")
    drawn = plot(name, [Line(name, points, 0, filled=True)], x, y, [Band(-5, 50, name), Band(90, 500, name)])
    root = ET.fromstring(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "", str(drawn)))  # noqa: S314
    for shape in root.iter():
        if points_text := shape.get("points"):
            for pair in points_text.split():
                across, down = map(float, pair.split(","))
                assert 0 <= across <= WIDTH
                assert 0 <= down <= HEIGHT
        if shape.tag == "rect":
            assert float(shape.attrib["x"]) >= 0
            assert float(shape.attrib["x"]) + float(shape.attrib["width"]) <= WIDTH
