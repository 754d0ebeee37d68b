"""The console in a real browser, fed with pictures made of the service's own schema, under the service's own policy."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from nbx.api.console_routes import _HEADERS
from nbx.api.schemas import ActionCount, Buckets, LatestDecision, LatestSlot, Live, OutcomeCount, PlacementCount

CONSOLE = Path(__file__).parents[2] / "nbx" / "api" / "console"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")

EMPTY = Live(
    now_ms=1_790_000_000_000,
    release=0,
    catalog="",
    snapshot=0,
    learned=0,
    decisions={},
    events={},
    latency=Buckets(buckets=[]),
    outcomes=[],
    strain=Buckets(buckets=[]),
    placements=[],
    actions=[],
    latest=[],
)


def busy(tick: int) -> Live:
    """Return the picture after `tick` seconds: 100 decisions, 40 outcomes and 10 acceptances a second."""
    decision = LatestDecision(
        decision_id="00" * 13,
        at_ms=1_790_000_000_000,
        customer_id=HOSTILE,
        placement="web_home_hero",
        slots=[LatestSlot(slot=0, action="card_upgrade", none="", propensity=0.31, p_response=0.2, outcome="accepted")],
        degraded=(),
        took_ms=1.25,
        words=(
            "slot 0: card_upgrade, because",
            f"not travel_card: not_eligible ({HOSTILE})",
            "not x: limit (2 per 604800 s)",
        ),
    )
    return msgspec.structs.replace(
        EMPTY,
        now_ms=EMPTY.now_ms + 1_000 * tick,
        release=3,
        catalog="retail_bank",
        snapshot=12,
        learned=1_234,
        decisions={"action": 80 * tick, "none": 20 * tick},
        latency=Buckets(buckets=[(1.0, 50 * tick), (2.0, 100 * tick), (float("inf"), 100 * tick)], count=100 * tick),
        outcomes=[
            OutcomeCount(outcome="accepted", cause="", count=10 * tick),
            OutcomeCount(outcome="ignored", cause="assumption", count=30 * tick),
            OutcomeCount(outcome="failed", cause="execution", count=2 * tick),
        ],
        strain=Buckets(buckets=[(0.5, 60 * tick), (1.0, 100 * tick)], count=100 * tick),
        placements=[PlacementCount(placement="web_home_hero", count=100 * tick)],
        actions=[ActionCount(action="card_upgrade", shown=80 * tick, accepted=20 * tick, negative=4 * tick)],
        latest=[decision],
    )


class Service(ThreadingHTTPServer):
    """Serves the console's files and one picture after another; `status` other than 200: the service is away."""

    pictures: Iterator[Live] = iter(())
    status = 200
    asked: list[str]


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/":
            loader = FileSystemLoader(CONSOLE)
            pages = Environment(loader=loader, undefined=StrictUndefined, autoescape=select_autoescape(["jinja"]))
            self._send("text/html", pages.get_template("index.html.jinja").render(version="1").encode())
        elif self.path == "/v1/console/live":
            body = msgspec.json.encode(next(self.server.pictures)) if self.server.status == 200 else b"{}"
            self._send("application/json", body, self.server.status)
        elif self.path in ("/console/console.js", "/console/console.css"):
            kind = "text/javascript" if self.path.endswith(".js") else "text/css"
            self._send(kind, (CONSOLE / Path(self.path).name).read_bytes())
        else:
            self._send("text/plain", b"", 404)

    def _send(self, kind: str, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {
            **_HEADERS,
            "content-type": f"{kind}; charset=utf-8",
            "content-length": str(len(body)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service(("127.0.0.1", 0), _Handler)
    server.asked = []
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Page(HTMLParser):
    """Text, ids and elements of a dumped page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._raw = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.text += data

    def attributes(self, id_: str) -> dict[str, str | None]:
        return next(attributes for _, attributes in self.tags if attributes.get("id") == id_)


def look(service: Service, *, seconds: int = 4) -> Page:
    """Open the page for some seconds of the browser's time and return what it shows then."""
    assert BROWSER is not None
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                BROWSER,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                f"--user-data-dir={profile}",
                f"--virtual-time-budget={seconds * 1000}",
                "--dump-dom",
                f"http://127.0.0.1:{service.server_port}/",
            ],
            capture_output=True,
            text=True,
            timeout=90,
            check=True,
        )
    return Page(done.stdout)


def test_an_empty_service_says_what_to_do(service: Service) -> None:
    service.pictures = (msgspec.structs.replace(EMPTY, now_ms=EMPTY.now_ms + 1_000 * i) for i in range(100))
    page = look(service)
    assert "nbx catalog publish" in page.text
    assert "nbx decide CUSTOMER PLACEMENT" in page.text
    assert "NaN" not in page.text
    assert page.attributes("status")["data-state"] == "idle"
    assert "hidden" in page.attributes("actions")


def test_rates_shares_and_quantiles_come_from_differences(service: Service) -> None:
    service.pictures = (busy(tick) for tick in range(5, 200))
    page = look(service)
    assert page.attributes("status")["data-state"] == "live"
    assert "100 per second" in " ".join(page.text.split())
    assert "25.0 %" in page.text, "10 accepted of 40 seen"
    assert "75.0 %" in page.text, "30 ignored of 40 seen"
    assert "99 of 100 within 2.0 ms" in page.text
    assert "silent in 20 %" in page.text
    assert "40 % of decisions were for strained customers" in page.text
    assert [t for t, a in page.tags if t == "path" and a.get("d")], "curves are drawn"


def test_decisions_open_to_why_and_why_not_and_names_stay_text(service: Service) -> None:
    service.pictures = (busy(tick) for tick in range(5, 200))
    page = look(service)
    assert "slot 0: card_upgrade, because" in page.text
    assert "per 7 days" in page.text
    assert page.text.count(HOSTILE) >= 2, "customer and reason are shown as they are"
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "owned" not in page.text.replace(HOSTILE, "")


def test_a_service_that_is_away_is_said_so(service: Service) -> None:
    service.status = 503
    page = look(service, seconds=6)
    assert page.attributes("status")["data-state"] == "away"
    assert "HTTP 503" in page.text
    assert service.asked.count("/v1/console/live") >= 2, "it tries again"


def test_nothing_comes_from_elsewhere_and_nothing_is_inline(service: Service) -> None:
    service.pictures = (busy(tick) for tick in range(5, 200))
    page = look(service)
    assert set(service.asked) <= {"/", "/console/console.js", "/console/console.css", "/v1/console/live"}
    for tag, attributes in page.tags:
        if tag == "script":
            assert attributes.get("src") == "/console/console.js"
        assert tag != "style"
        assert not [name for name in attributes if name.startswith("on")]
