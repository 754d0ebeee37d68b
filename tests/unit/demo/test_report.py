"""The last page of the demonstration."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from nbx.catalog.parse import parse_catalog
from nbx.demo.comparators import Compared
from nbx.demo.report import print_report
from nbx.demo.run import DemoResult, Latency, demo_catalog
from nbx.demo.tally import Tally
from nbx.demo.world import Response, World

SAMPLE = Path(__file__).parents[3] / "examples" / "retail_bank.yaml"


@pytest.fixture
def tally() -> Tally:
    catalog = demo_catalog(parse_catalog(SAMPLE.read_text()))
    world = World(1, customers=5, visits=4, length_ms=1_000, day_ms=100)
    counted = Tally(catalog)
    yes, no = Response((), "accepted", seen=True), Response((), "ignored", seen=True)
    lost, notice = Response((), "failed", seen=False), Response((), "accepted", seen=True)
    shown = [
        [("card_upgrade", yes)],
        [("card_upgrade", no)],
        [("savings_start", lost)],
        [("payment_delay_notice", notice)],
    ]
    for visit, slots in zip(world.visits, shown, strict=True):
        counted.visited(visit, slots)
    counted.balances = [1.0, -3.0]
    return counted


@pytest.fixture
def result(tally: Tally) -> DemoResult:
    return DemoResult(
        nbx=Compared("nbx", tally),
        others=[Compared("random", tally)],
        latency={"HTTP": Latency(4, 1.5, 9.0)},
        visits=4,
        customers=5,
        seconds=60.0,
        achieved_rate=150.0,
        late_ms=3.0,
        errors=Counter(),
        degraded=0,
        knew_before=False,
        checked_customers=2,
        checked_outcomes=3,
    )


def _printed(result: DemoResult, width: int = 100) -> str:
    out = StringIO()
    print_report(result, Console(file=out, width=width, force_terminal=False), ["curl it"])
    return out.getvalue()


def test_sums(tally: Tally) -> None:
    summary = tally.summary()
    assert (summary.visits, summary.prompts, summary.silent) == (4, 2, 0.25)
    assert summary.accepted_of_seen == 0.5
    assert summary.value_per_visit == 60 / 4
    # +1 accepted, −0.5 × 2 ignored, −2 × 2 failed
    assert summary.worth_per_visit == pytest.approx((60 + 1 - 1 - 4) / 4)
    assert summary.failed_of_chosen == pytest.approx(1 / 3)
    assert summary.balance == -1.0
    assert tally.summary(slice(0, 1)).accepted_of_seen == 1.0


def test_the_page_holds_the_numbers_and_the_next_step(result: DemoResult) -> None:
    page = _printed(result)
    for expected in ("50.0%", "15.00", "-1.00", "1.5 ms", "9.0 ms", "2.0 weeks", "all as lived", "curl it"):
        assert expected in page


def test_what_spoils_the_numbers_is_said(result: DemoResult) -> None:
    spoiled = replace(
        result,
        errors=Counter({"HTTP 503: away": 3}),
        degraded=7,
        late_ms=900.0,
        knew_before=True,
        wrong_customers=["demo-1"],
    )
    page = _printed(spoiled, width=200)
    for expected in ("3 × HTTP 503", "7 decisions were degraded", "900 ms late", "learned before", "demo-1"):
        assert expected in page


def test_it_fits_eighty_columns(result: DemoResult) -> None:
    assert max(map(len, _printed(result, width=80).splitlines())) <= 80
