"""Return on experience of a running service: over HTTP and on the command line, with what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.edge.test_cli import nbx
from tests.service import Running


@pytest.fixture(scope="module", autouse=True)
def decided(service: Running) -> None:
    """Decide for somebody."""
    service.decide_shown("roi", "web")


def test_the_report_says_that_nobody_is_held_out(service: Running) -> None:
    answer = service.http.get("/v1/reports/roi")
    assert answer.is_success, answer.text
    report = answer.json()
    assert report["decisions"] >= 1
    assert report["followed"] >= 1
    assert report["shares_since_ms"] == report["since_ms"] > 0
    assert report["comparisons"] == []
    assert any("nobody is held out" in each for each in report["findings"])
    told = nbx(service, "report", "roi", "--follow", "1h", COLUMNS="100")
    assert told.code == 0, told.err
    assert "nobody is held out: give the catalog" in told.out
    assert nbx(service, "report", "roi", "--json").json()["follow_ms"] == 7 * 86_400_000


@pytest.mark.parametrize(
    ("query", "status", "code", "field"),
    [
        ({"since": "yesterday"}, 400, "time_invalid", "since"),
        ({"since": "1h", "until": "2h"}, 400, "window_empty", "since"),
        ({"placement": "nowhere"}, 404, "placement_unknown", "placement"),
        ({"follow": "a while"}, 400, "duration_invalid", "follow"),
        ({"follow": "1s"}, 400, "duration_invalid", "follow"),
        ({"follow": "9999d"}, 400, "duration_invalid", "follow"),
    ],
)
def test_what_is_asked_wrongly_is_named(
    service: Running, query: dict[str, Any], status: int, code: str, field: str
) -> None:
    answer = service.http.get("/v1/reports/roi", params=query)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem.get("field", "")) == (status, code, field), problem
