"""Guardrails with four workers: sixteen connections ask for one customer at once while a release is swapped."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from nbx.catalog.parse import parse_catalog
from tests.reference.guardrails import Guardrails
from tests.service import Running, decisions_in, eventually, running

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

WORKERS, WRITERS = 4, 16
ACTIONS = {"gold", "travel", "voucher", "tips", "alert"}
SECONDS, DECISIONS = 1.2, 100
"""Of each release, at least."""
CATALOG = """
catalog: guarded
placements:
  web: {{channel: web, impressions: reported, slots: 3, delivery: 1s, attention: 1s}}
  desk: {{channel: phone, impressions: implicit, slots: 2, attention: 2s}}
  mail: {{channel: email, impressions: reported, delivery: 2h, attention: 2h}}
  letter: {{channel: post, impressions: reported, delivery: 2h, attention: 2h}}
groups:
  cards: {{topic: cards, limits: [{{max: {cards}, per: 1s}}], pause: {{dismissed: 300ms}}}}
  help: {{topic: help, per_slate: 1}}
actions:
  gold: {{group: cards, value: 50, gives: [x], limits: [{{max: 1, per: 2s}}], pause: {{declined: 700ms}},
         not_with: [travel], treatments: {{t: {{placements: [web, desk, mail, letter]}}}}}}
  travel: {{group: cards, value: 45, gives: [x], treatments: {{t: {{placements: [web, desk, mail, letter]}}}}}}
  voucher: {{group: help, value: 40, gives: [x], cost: 1, treatments: {{t: {{placements: [web, desk, letter]}}}}}}
  tips: {{group: help, class: service, value: 9, treatments: {{t: {{placements: [web, desk]}}}}}}
  alert: {{group: help, class: mandatory, limits: [{{max: 2, per: 1s}}], treatments: {{t: {{placements: [web]}}}}}}
contact:
  limits: [{{max: {overall}, per: 1s}}]
  gap: 200ms
  channels: {{phone: {{limits: [{{max: 2, per: 1s}}]}}}}
  classes: {{promotional: {{pause: {{ignored: {{after: 2, within: 5s, for: 600ms}}}}}}}}
  quiet_hours: [{{from: "00:00", to: "00:00", channels: [post]}}]
consent: {{channels: {{email: opt_in}}}}
budgets: {{gifts: {{actions: [voucher], units: 3, per: 30d}}}}
experience: {{floor: -100000}}
exploration: {{floor: 0.05}}
"""
RELEASES = {1: CATALOG.format(cards=3, overall=6), 2: CATALOG.format(cards=2, overall=4)}


def test_sixteen_connections_break_no_guardrail(tmp_path: Path) -> None:
    decided_by: Counter[int] = Counter()
    given: set[str] = set()
    with running(tmp_path, RELEASES[1], workers=WORKERS) as service, contextlib.ExitStack() as opened:
        clients = [opened.enter_context(service.client()) for _ in range(WRITERS)]
        over = threading.Event()
        with ThreadPoolExecutor(WRITERS) as pool:
            writers = [
                pool.submit(_write, service, client, n, over, decided_by, given) for n, client in enumerate(clients)
            ]
            try:
                time.sleep(SECONDS)
                eventually(lambda: decided_by[1] >= DECISIONS, 30.0, "enough decisions by release 1")
                answer = service.http.post("/v1/catalog/releases", content=RELEASES[2])
                assert answer.is_success, answer.text
                time.sleep(SECONDS)
                eventually(lambda: decided_by[2] >= DECISIONS, 30.0, "enough decisions by release 2")
                eventually(lambda: given >= ACTIONS, 60.0, "each action was given out")
            finally:
                over.set()
        for writer in writers:
            writer.result()
        log = service.entries_of("anna")
    book = Guardrails({number: parse_catalog(text) for number, text in RELEASES.items()})
    breaches = book.check(log)
    assert not breaches, f"{len(breaches)} breaches, among them:\n" + "\n".join(breaches[:10])
    decided = [entry for entry in decisions_in(log) if not entry.degraded]
    assert {entry.release for entry in decided} == {1, 2}
    assert len(decided) > DECISIONS
    assert set(book.given) == ACTIONS
    assert {"too_soon", "limit_reached", "no_consent", "quiet_hours"} <= set(book.reasons)


def _write(
    service: Running,
    client: httpx.Client,
    number: int,
    over: threading.Event,
    decided_by: Counter[int],
    given: set[str],
) -> None:
    """Ask and answer until it is over; answers that find the customer contended are dropped, as a page would."""
    rng = np.random.default_rng(number)
    told = 0
    while not over.is_set():
        placement = str(rng.choice(["web", "desk", "mail", "letter"], p=[0.5, 0.3, 0.1, 0.1]))
        reply = service.decide("anna", placement, client, slots=2 if placement in ("web", "desk") else 1)
        decided_by[reply["release"]] += 1
        given |= {slot["action"] for slot in reply["slots"] if slot.get("action") and not reply["degraded"]}
        events: list[dict[str, Any]] = []
        for slot in reply["slots"]:
            if slot.get("action") and rng.random() < 0.7:
                told += 1
                kind = str(rng.choice(["seen", "accepted", "declined", "dismissed"], p=[0.6, 0.2, 0.1, 0.1]))
                event = {"event_id": f"{number}-{told}", "type": kind, "slot": slot["slot"]}
                events.append({**event, "decision_id": reply["decision_id"]})
        if events:
            answer = client.post("/v1/events", json=events)
            assert answer.is_success or answer.json()["code"] == "state_contended", answer.text
