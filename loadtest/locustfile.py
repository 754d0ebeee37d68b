"""Website visitors for those who know Locust (`pip install locust`; nbx itself does not need it).

    NBX_API_KEY=$(cat data/cli.key) locust -f loadtest/locustfile.py --host http://127.0.0.1:8080

Mind what it measures. Locust is closed-loop: each user waits for an answer before asking again. When the service
stalls, Locust stops sending, so the requests that would have suffered are never made and are in no percentile; under
overload it slows down together with the service. Its latencies are those of service, not those of customers who come
whatever the service does. Use it to explore; for numbers use `nbx loadtest browsing`, which is open-loop. See
docs/loadtest.md.
"""

from __future__ import annotations

import os
import uuid
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from locust import HttpUser, between, task
from locust.exception import StopUser

SECTIONS = ("cards", "savings", "loans", "travel", "support")


class Visitor(HttpUser):
    """Reads pages, is shown a hero and a sidebar, sees most of it and clicks on little."""

    wait_time = between(1, 5)

    def on_start(self) -> None:
        """Become somebody; refuse to load another machine unless NBX_LOCUST_ALLOW_REMOTE is set."""
        name = urlsplit(self.host or "").hostname or ""
        if not _is_loopback(name) and not os.environ.get("NBX_LOCUST_ALLOW_REMOTE"):
            print(f"{name} is not this machine: set NBX_LOCUST_ALLOW_REMOTE=1 when its owner agrees")  # noqa: T201
            raise StopUser
        if key := os.environ.get("NBX_API_KEY", ""):
            self.client.headers.update({"authorization": f"Bearer {key}"})
        self.customer = f"locust-{uuid.uuid4().hex[:12]}"
        self.count = 0

    @task(3)
    def home(self) -> None:
        """Open the home page."""
        self.visit("web_home_hero", 1)

    @task(2)
    def article(self) -> None:
        """Read a page with a sidebar."""
        section = SECTIONS[self.count % len(SECTIONS)]
        self.tell("page view", {"type": "page_view", "customer_id": self.customer, "properties": {"section": section}})
        self.visit("web_sidebar", 2)

    def visit(self, placement: str, slots: int) -> None:
        """Ask, and report what became of the first action."""
        body = {
            "customer_id": self.customer,
            "placement": placement,
            "slots": slots,
            "request_id": uuid.uuid4().hex,
            "context": {"is_mobile": self.count % 2 == 0},
        }
        with self.client.post("/v1/decisions", json=body, name=f"decide {placement}", catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return
            reply = response.json()
            if reply["degraded"]:
                response.failure(f"degraded: {', '.join(reply['degraded'])}")
        shown = next((slot["slot"] for slot in reply["slots"] if slot.get("action")), None)
        if shown is not None:
            happened = ["delivered", "seen"] + (["dismissed"] if self.count % 10 == 0 else [])
            for kind in happened:
                self.tell("feedback", {"type": kind, "decision_id": reply["decision_id"], "slot": shown})

    def tell(self, name: str, event: dict[str, Any]) -> None:
        """Report an event; a rejected one is a failure."""
        self.count += 1
        rows = [{"event_id": uuid.uuid4().hex, **event}]
        with self.client.post("/v1/events", json=rows, name=name, catch_response=True) as response:
            if response.status_code == 200 and response.json()[0]["status"] == "rejected":
                response.failure(f"rejected: {response.json()[0]['code']}")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
