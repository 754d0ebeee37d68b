"""Shadow runs of a running service: over HTTP and on the command line, with no trace in Redis and no decision late."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from nbx.features.keys import partition_keys
from tests.edge.test_cli import nbx
from tests.service import CATALOG, Running, eventually

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

DECISIONS = 60
DEARER = CATALOG.replace("value: 5\n", "value: 500\n")
BROKEN = CATALOG + "nonsense: 1\n"


@pytest.fixture(scope="module", autouse=True)
def decided(service: Running) -> list[str]:
    """Decide for some customers; every other accepts."""
    ids = []
    for number in range(DECISIONS):
        reply = service.decide(f"shadow-{number % 40}", slots=2)
        ids.append(reply["decision_id"])
        if number % 2 and reply["slots"][0].get("action"):
            slot = {"decision_id": ids[-1], "slot": 0}
            service.record(
                {"event_id": f"shadow-s{number}", "type": "seen", **slot},
                {"event_id": f"shadow-a{number}", "type": "accepted", **slot},
            )
    return ids


def shadow(service: Running, text: str, **query: Any) -> httpx.Response:
    return service.http.post("/v1/catalog/shadow", content=text.encode(), params=query)


def everything(service: Running) -> dict[bytes, bytes]:
    """Serialise what a shadow run could touch: states, decisions, logs, timers, releases, drafts, budgets."""
    keys = sorted(service.redis.scan_iter("nbx:*", count=1000))
    kept = [key for key in keys if b":s:" not in key and not key.startswith((b"nbx:lease", b"nbx:model"))]
    return {key: dumped for key in kept if (dumped := service.redis.dump(key)) is not None}


def due_soon(service: Running) -> int:
    """Count the timers that run out within a minute: the keeper would change something meanwhile."""
    until_ms = int(service.redis.time()[0]) * 1000 + 60_000
    sets = [partition_keys(partition).timers for partition in range(service.settings.partitions)]
    return sum(int(service.redis.zcount(each, "-inf", until_ms)) for each in sets)


def test_a_run_over_http_tells_what_changes_and_leaves_no_trace(service: Running) -> None:
    service.settled_checkpoint()
    eventually(lambda: not due_soon(service), 10.0, "no timer runs out meanwhile")
    before = everything(service)
    answer = shadow(service, DEARER, last=DECISIONS, placement="web", by=["is_mobile", "hour"])
    assert answer.status_code == 200, answer.text
    report = answer.json()
    assert everything(service) == before
    assert report["left_out"] == []
    assert report["whole"]["decisions"] == DECISIONS
    assert report["whole"]["changed"] > 0
    gained = {each["name"]: each["after"] - each["before"] for each in report["whole"]["actions"]}
    assert gained["help"] > 0.1
    assert {each["by"] for each in report["segments"]} == {"is_mobile", "hour"}
    assert report["snapshot"] >= 1
    assert report["limits"]


def test_the_catalog_in_force_changes_nothing(service: Running) -> None:
    number = service.http.get("/v1/catalog/releases").json()[0]["number"]
    text = service.http.get(f"/v1/catalog/releases/{number}/text").text
    report = shadow(service, text, last=DECISIONS).json()
    assert report["whole"]["changed"] == 0
    assert report["whole"]["actions"] == report["reasons"] == report["segments"] == []


def test_a_draft_is_run_by_its_id_and_read_on_the_command_line(service: Running, tmp_path: Path) -> None:
    made = service.http.post("/v1/catalog/drafts", content=DEARER.encode())
    assert made.status_code == 201, made.text
    name = made.json()["id"]
    by_id = service.http.post("/v1/catalog/shadow", params={"draft": name, "last": DECISIONS}).json()
    assert by_id["whole"] == shadow(service, DEARER, last=DECISIONS).json()["whole"]
    done = nbx(service, "catalog", "shadow", name, "--last", str(DECISIONS), "--by", "is_mobile")
    assert done.code == 0, done.err
    assert f"over the latest {DECISIONS} decisions" in done.out
    assert "help" in done.out
    file = tmp_path / "draft.yaml"
    file.write_text(DEARER)
    done = nbx(service, "catalog", "shadow", str(file), "--last", "10", "--placement", "web", "--json")
    assert done.code == 0, done.err
    assert done.json()["whole"]["decisions"] == 10


@pytest.mark.parametrize(
    ("text", "query", "status", "field"),
    [
        (BROKEN, {}, 422, ""),
        (DEARER, {"last": 0}, 400, "last"),
        (DEARER, {"last": 1_000_000}, 400, "last"),
        (DEARER, {"placement": "nowhere"}, 404, "placement"),
        (DEARER, {"by": "shoe_size"}, 404, "by"),
        (DEARER, {"draft": "0123456789abcdef"}, 400, "draft"),
        ("", {"draft": "0123456789abcdef"}, 404, "draft"),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    service: Running, text: str, query: dict[str, Any], status: int, field: str
) -> None:
    answer = shadow(service, text, **query)
    assert answer.status_code == status, answer.text
    assert answer.json().get("field", "") == field


def test_it_needs_the_scope_of_the_catalog(service: Running) -> None:
    key, _ = service.new_key("decide", "audit")
    answer = service.http.post("/v1/catalog/shadow", content=DEARER.encode(), headers=service.headers(key))
    assert answer.status_code == 403


def test_decisions_go_on_meanwhile(service: Running) -> None:
    """Every worker answers while runs are under way, and none of the answers is a degraded one."""
    over = threading.Event()

    def ask() -> list[bool]:
        with service.client() as client:
            degraded = []
            while not over.is_set():
                degraded.append(bool(service.decide("shadow-busy", "silent", client=client)["degraded"]))
        return degraded

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            for _ in range(3):
                assert shadow(service, DEARER, last=DECISIONS).is_success
        finally:
            over.set()
        answers = [each.result() for each in asking]
    assert min(len(each) for each in answers) > 10
    assert not any(any(each) for each in answers)
