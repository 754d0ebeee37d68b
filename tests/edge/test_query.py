"""Asking the log of a running service: SQL and searches over HTTP and on the command line, and what is refused."""

from __future__ import annotations

import csv
import socket
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pyarrow.parquet as pq
import pytest

from nbx.audit.query_views import VIEWS
from tests.edge.test_cli import nbx
from tests.service import Running, eventually

ASKED = 12


@pytest.fixture(scope="module", autouse=True)
def answered(service: Running) -> list[tuple[str, str]]:
    """Decide for some customers, who all accept; returns customers and decisions."""
    found = []
    for number in range(ASKED):
        customer, reply = service.decide_shown(f"query-{number}", "web")
        found.append((customer, reply["decision_id"]))
        stem = {"decision_id": reply["decision_id"], "slot": 0}
        service.record({"event_id": f"query-seen-{number}", "type": "seen", **stem})
        service.record({"event_id": f"query-{number}", "type": "accepted", **stem})
    return found


def ask(service: Running, sql: str, client: httpx.Client | None = None, **more: Any) -> httpx.Response:
    return (client or service.http).post("/v1/audit/query", json={"sql": sql, **more})


def rows(service: Running, sql: str, **more: Any) -> list[list[Any]]:
    answer = ask(service, sql, **more)
    assert answer.is_success, answer.text
    return list(answer.json()["rows"])


def refused(answer: httpx.Response, status: int, code: str, field: str = "") -> str:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json().get("field", "") == field
    return str(answer.json()["detail"])


def test_every_view_answers_of_what_was_just_done(service: Running) -> None:
    sql = """SELECT (SELECT count(*) FROM decisions WHERE customer_id LIKE 'query-%'),
        (SELECT count(*) FROM slots WHERE customer_id LIKE 'query-%' AND action <> ''),
        (SELECT count(*) FROM outcomes WHERE customer_id LIKE 'query-%' AND outcome = 'accepted' AND latest),
        (SELECT count(*) FROM candidates WHERE customer_id LIKE 'query-%' AND drawn) > 0,
        (SELECT count(*) FROM catalog_changes WHERE what = 'published') > 0,
        (SELECT count(*) FROM customers_timeline WHERE customer_id LIKE 'query-%' AND what = 'seen')"""
    ((decisions, slots, outcomes, drawn, published, seen),) = rows(service, sql)
    assert decisions >= ASKED
    assert slots >= ASKED
    assert (outcomes, drawn, published, seen) == (ASKED, True, True, ASKED)
    answer = ask(service, "SELECT at, customer_id FROM decisions WHERE at >= now() - INTERVAL 1 HOUR", limit=3).json()
    assert answer["columns"] == [{"name": "at", "type": "TIMESTAMP"}, {"name": "customer_id", "type": "VARCHAR"}]
    assert (len(answer["rows"]), answer["truncated"], answer["notes"]) == (3, True, [])
    assert answer["took_ms"] > 0
    assert rows(service, "SELECT count(*) FROM decisions", until="1h") == [[0]]


def test_what_is_wrong_names_its_field(service: Running) -> None:
    refused(ask(service, "SELECT 1; SELECT 2"), 400, "sql_refused", "sql")
    told = refused(ask(service, "SELECT * FROM read_text('/etc/passwd')"), 400, "sql_refused", "sql")
    assert "root:" not in told
    assert "LINE 1" in refused(ask(service, "SELECT nope FROM slots"), 400, "sql_invalid", "sql")
    refused(ask(service, "SELECT 1", limit=0), 400, "field_invalid", "limit")
    refused(ask(service, "SELECT 1", since="yesterday"), 400, "time_invalid", "since")
    refused(ask(service, "SELECT 1", since="1h", until="2h"), 400, "window_empty", "since")
    assert "sinse" in refused(ask(service, "SELECT 1", sinse="1h"), 400, "field_invalid")
    refused(ask(service, "SELECT 1" + " " * 30_000), 413, "too_large", "sql")
    assert service.http.post("/v1/audit/query", json={"sql": 1}).status_code == 400
    key, _ = service.new_key("decide")
    assert (
        service.http.post("/v1/audit/query", json={"sql": "SELECT 1"}, headers=service.headers(key)).status_code == 403
    )
    assert service.http.get("/v1/decisions", headers=service.headers(key)).status_code == 403
    for name, value in (("outcome", "sold"), ("cause", "x"), ("reason", "x"), ("holdout", "x"), ("limit", "0")):
        refused(service.http.get("/v1/decisions", params={name: value}), 400, "field_invalid", name)
    assert service.http.get("/v1/decisions", params={"degraded": "maybe"}).status_code == 400


def test_a_heavy_query_harms_nobody_and_goes_with_its_caller(service: Running) -> None:
    body = msgspec.json.encode({"sql": "SELECT count(*) FROM range(1000000000) a, range(1000000) b"})
    lines = ["POST /v1/audit/query HTTP/1.1", "Host: test", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {service.key}", f"Content-Length: {len(body)}"]
    caller = socket.create_connection(("127.0.0.1", service.settings.port))
    caller.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    def queries() -> list[psutil.Process]:
        pids = [pid for child, pid in service.pids().items() if child.startswith("api-")]
        return [p for pid in pids for p in psutil.Process(pid).children() if "nbx.runtime.query_worker" in p.cmdline()]

    (query,) = eventually(queries, 20.0, "the query's process")
    worker = psutil.Process(query.ppid())
    before = worker.memory_info().rss
    with service.workers() as clients:
        busy = [ask(service, "SELECT 1", each) for each in clients.values()]
        assert sorted(answer.status_code for answer in busy) == [200, 503]
        refused(next(answer for answer in busy if answer.status_code == 503), 503, "query_busy")
        for number in range(10):
            for name, client in clients.items():
                assert service.decide(f"query-meanwhile-{name}-{number}", client=client)["degraded"] == []
    assert query.is_running()
    caller.close()
    eventually(lambda: not query.is_running(), 10.0, "the process ends with its caller")
    assert worker.memory_info().rss - before < 40 << 20
    assert rows(service, "SELECT 1") == [[1]]


def test_decisions_are_found(service: Running, answered: list[tuple[str, str]]) -> None:
    customer, decision = answered[3]
    found = service.http.get("/v1/decisions", params={"customer": customer}).json()
    (told,) = found["decisions"]
    assert (told["decision_id"], told["customer_id"], told["slots"][0]["outcome"]) == (decision, customer, "accepted")
    everything = {"outcome": "accepted", "since": "1h", "limit": 1000}
    ids = [each["decision_id"] for each in service.http.get("/v1/decisions", params=everything).json()["decisions"]]
    assert {decision for _, decision in answered} <= set(ids)
    nobody = service.http.get("/v1/decisions", params={"customer": "nobody-at-all"}).json()
    assert nobody["decisions"] == []
    assert "no decision with customer nobody-at-all" in nobody["words"]


def test_the_command_line_asks_and_exports(service: Running, tmp_path: Path, answered: list[tuple[str, str]]) -> None:
    counted = "SELECT count(*) AS n FROM outcomes WHERE customer_id LIKE 'query-%' AND latest AND outcome = 'accepted'"
    assert nbx(service, "log", "sql", counted, "--json").json()["rows"] == [[ASKED]]
    assert nbx(service, "log", "sql", counted, "--csv").out == f"n\n{ASKED}\n"
    assert str(ASKED) in nbx(service, "log", "sql", counted).out
    out = tmp_path / "slots.parquet"
    nbx(service, "log", "export", str(out), "--format", "parquet", "--view", "slots")
    table = pq.read_table(out)
    assert {decision for _, decision in answered} <= set(table.column("decision_id").to_pylist())
    plain = tmp_path / "found.csv"
    nbx(
        service,
        "log",
        "sql",
        "SELECT customer_id, slots FROM decisions WHERE customer_id LIKE 'query-%'",
        "--out",
        str(plain),
    )
    with plain.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert msgspec.json.decode(lines[0]["slots"])[0]["slot"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.csv", "slots.parquet"], "nothing half-written"
    customer, decision = answered[0]
    assert decision in nbx(service, "decisions", "find", "--customer", customer).out
    assert "no decision with customer nobody" in nbx(service, "decisions", "find", "--customer", "nobody").out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("log", "sql", "DROP VIEW slots"), 1, "sql_refused"),
        (("log", "sql", "SELECT nope FROM slots"), 1, "nope"),
        (("log", "sql", "SELECT 1", "--dir", "/nowhere"), 2, "is no archive"),
        (("log", "sql", "SELECT 1", "--out", "x.json"), 1, "must end with .csv or .parquet"),
        (("log", "export", "x.csv", "--format", "csv"), 2, next(iter(VIEWS))),
        (("log", "export", "x.csv", "--format", "csv", "--view", "nothing"), 2, "no view 'nothing'"),
        (("log", "export", "x.csv", "--format", "parquet", "--view", "slots"), 1, "must end with .parquet"),
        (("decisions", "find", "--reason", "limit"), 1, "reason must be one of"),
    ],
)
def test_wrong_use_of_the_command_line_is_told(
    service: Running, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = nbx(service, *arguments)
    assert done.code == code
    assert words in done.err
