"""A real browser driven over its debugging pipe: open a page, look, fill in, press, take a picture."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_S = 30.0


class Tab:
    """One page of a browser."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._count = 0
        self._rest = b""
        self.console: list[str] = []
        """What the page complained about: refused by its policy, not found, script errors."""
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable", {})

    def open(self, url: str) -> None:
        """Go somewhere and wait until it is there."""
        self._call("Page.navigate", {"url": url})
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, script: str) -> Any:
        """Return what a script says."""
        answer = self._call("Runtime.evaluate", {"expression": script, "returnByValue": True})
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self) -> str:
        """Return the text of the page as it is seen."""
        return str(self.evaluate("document.body.innerText"))

    def press(self, script: str) -> None:
        """Press what a script finds, and wait for the page that comes of it."""
        self.evaluate("window.before = true")
        self.evaluate(f"({script}).click()")
        self.wait("document.readyState === 'complete' && window.before === undefined")

    def wait(self, script: str) -> None:
        """Wait until a script says yes."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError):  # between two pages there is none to ask
                if self.evaluate(script):
                    return
            time.sleep(0.02)
        raise AssertionError(f"not within {WAIT_S:g} s: {script}")

    def resize(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Be a window of a size, light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self._call("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", {"features": [scheme]})

    def picture(self, path: Path) -> None:
        """Save the whole page as a PNG."""
        taken = self._call("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"})
        path.write_bytes(base64.b64decode(taken["data"]))

    def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.console.append(json.dumps(answer["params"]))
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._back, 1 << 16)
            assert part, "the browser is gone"
            self._rest += part
        packed, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(packed)
        return message


@contextlib.contextmanager
def browser() -> Iterator[Tab]:
    """Run a browser for the length of a block."""
    assert BROWSER is not None
    theirs_in, to = os.pipe()
    back, theirs_out = os.pipe()
    # out of the way of 3 and 4, which is where the browser looks for its pipe
    high = [fcntl.fcntl(each, fcntl.F_DUPFD, 100) for each in (theirs_in, theirs_out)]

    def take_their_places() -> None:
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                BROWSER,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--remote-debugging-pipe",
                f"--user-data-dir={profile}",
            ],
            pass_fds=(3, 4),
            preexec_fn=take_their_places,  # noqa: PLW1509 - it only moves two descriptors
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for each in (theirs_in, theirs_out, *high):
            os.close(each)
        try:
            yield Tab(to, back)
        finally:
            process.terminate()
            process.wait(WAIT_S)
            os.close(to)
            os.close(back)
