"""A real Chromium, driven over WebDriver and its developer protocol; and a shop's pages on an origin of their own."""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx

from tests.service import eventually, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_LISTEN = """
window.violations = [];
addEventListener('securitypolicyviolation', (e) => violations.push(`${e.violatedDirective} ${e.blockedURI}`));
"""


class Browser:
    """One window of a browser with a profile of its own."""

    def __init__(self, driver: httpx.Client, session: str) -> None:
        self._driver = driver
        self._session = session
        self.protocol("Page.addScriptToEvaluateOnNewDocument", source=_LISTEN)

    def open(self, url: str) -> None:
        """Go to a page; returns when it is loaded."""
        self._post("url", url=url)

    def reload(self) -> None:
        """Load the page again."""
        self._post("refresh")

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a function's body in the page; waits for a promise."""
        return self._post("execute/sync", script=script, args=list(arguments))

    def press(self, selector: str) -> None:
        """Click as a mouse does, in the middle of an element that is in view."""
        found = self._post("element", using="css selector", value=selector)
        self._post(f"element/{found[_ELEMENT]}/click")

    def type(self, keys: str) -> None:
        """Press keys, whatever has the focus."""
        presses = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("actions", actions=[{"type": "key", "id": "keys", "actions": presses}])

    def protocol(self, command: str, **parameters: Any) -> Any:
        """Send a command of the developer protocol."""
        return self._post("goog/cdp/execute", cmd=command, params=parameters)

    def offline(self, *, off: bool) -> None:
        """Cut the network off, or give it back."""
        self.protocol("Network.enable")
        limits = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.protocol("Network.emulateNetworkConditions", offline=off, **limits)

    def screenshot(self) -> bytes:
        """Take a picture, PNG."""
        return base64.b64decode(self._driver.get(f"/session/{self._session}/screenshot").json()["value"])

    def said(self) -> list[str]:
        """Take what the console got since the last look: warnings and errors."""
        return [entry["message"] for entry in self._post("se/log", type="browser")]

    def _post(self, path: str, **body: Any) -> Any:
        answer = self._driver.post(f"/session/{self._session}/{path}", json=body)
        value = answer.json()["value"]
        assert answer.is_success, value
        return value


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Run a browser for the length of a block."""
    assert CHROMIUM is not None
    assert DRIVER is not None
    (port,) = free_ports(1)
    process = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=900,700"]
    wanted = {
        "browserName": "chrome",
        "goog:loggingPrefs": {"browser": "ALL"},
        "goog:chromeOptions": {"binary": CHROMIUM, "args": [*arguments, f"--user-data-dir={profile}"]},
    }
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as driver:

            def ready() -> bool:
                with contextlib.suppress(httpx.HTTPError):
                    return driver.get("/status").is_success
                return False

            eventually(ready, 30, "chromedriver answers")
            made = driver.post("/session", json={"capabilities": {"alwaysMatch": wanted}}).json()["value"]
            assert "sessionId" in made, made
            yield Browser(driver, made["sessionId"])
            driver.delete(f"/session/{made['sessionId']}")
    finally:
        process.terminate()
        process.wait()


class Shop(ThreadingHTTPServer):
    """Pages by path, each under the policy given; any other path is not found."""

    pages: dict[str, str]
    policy: str
    referrer: str

    @property
    def origin(self) -> str:
        """As browsers send it."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Shop

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path)
        body = (page or "").encode()
        self.send_response(404 if page is None else 200)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.send_header("content-security-policy", self.server.policy)
        self.send_header("referrer-policy", self.server.referrer)
        self.send_header("cache-control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@contextlib.contextmanager
def shop() -> Iterator[Shop]:
    """Serve a shop for the length of a block."""
    server = Shop(("127.0.0.1", 0), _Handler)
    server.pages, server.policy, server.referrer = {}, "default-src 'none'", "strict-origin-when-cross-origin"
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
