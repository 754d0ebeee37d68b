"""Reports and the export of a running service: over HTTP, on the command line, with what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nbx.ids import decision_ref
from tests.edge.test_cli import nbx
from tests.service import Running, eventually

if TYPE_CHECKING:
    from pathlib import Path

ANSWERED = 40


@pytest.fixture(scope="module", autouse=True)
def answered(service: Running) -> list[str]:
    """Decide for some customers; half of them accept, the others decline."""
    ids = []
    for number in range(ANSWERED):
        _, reply = service.decide_shown(f"report-{number}", "web")
        ids.append(reply["decision_id"])
        kind = "accepted" if number % 2 else "declined"
        stem = {"decision_id": reply["decision_id"], "slot": 0}
        service.record(
            {"event_id": f"report-seen-{number}", "type": "seen", **stem},
            {"event_id": f"report-{number}", "type": kind, **stem},
        )
    return ids


def read(service: Running, path: str, **query: Any) -> Any:
    answer = service.http.get(f"/v1/reports/{path}", params=query)
    assert answer.is_success, answer.text
    return answer.json()


def test_the_learning_report_tells_of_what_was_answered(service: Running) -> None:
    report = read(service, "learning", since="1h")
    assert report["decisions"] >= ANSWERED
    assert report["calibration"]["count"] >= ANSWERED
    assert report["exploration"]["decisions"] >= ANSWERED
    uses = {(use["outcome"], use["use"]): use["count"] for use in report["uses"]}
    assert uses["accepted", "learned"] >= ANSWERED // 2
    assert report["release"] >= 1
    assert {"alpha", "help"} <= {each["name"] for each in report["evidence"]}

    def learned() -> bool:
        behind = read(service, "learning", since="1h")["evidence"]
        known = sum(each["observations"] for each in behind if not each["name"].startswith("goal:"))
        return bool(known >= ANSWERED - 1)

    eventually(learned, 20.0, "the published snapshot knows the answers")
    assert {"offers", "service"} <= {each["name"] for each in read(service, "learning")["group_evidence"]}
    assert read(service, "learning", since="1h", until="59m")["decisions"] == 0


def test_the_policy_report_of_the_release_in_force_is_the_log(service: Running, answered: list[str]) -> None:
    release = service.http.get("/health/ready").json()["release"]
    since = decision_ref(answered[0]).at_ms  # what other tests decided under other releases is another policy's
    report = read(service, "policy", release=release, since=since, young=True, placement="web")
    assert report["decisions"] >= ANSWERED
    acceptance = report["rewards"][0]
    assert acceptance["reward"] == "acceptance"
    assert acceptance["estimates"][0]["estimator"] == "ips"
    assert acceptance["estimates"][0]["value"] == pytest.approx(acceptance["logged"]["value"], abs=1e-6)
    assert acceptance["support"]["effective_rows"] == pytest.approx(report["decisions"], rel=1e-6)
    assert report["limits"]
    strict = read(service, "policy", release=release, since="1h", placement="web")
    assert strict["left_out"]["young"] >= ANSWERED, "attention runs for two hours here"
    assert strict["reliable"] is False


def test_the_journeys_report_tells_where_both_sides_met(service: Running) -> None:
    rows = [
        ("report-0", "account_opened"),
        ("report-0", "card_sent"),
        ("report-0", "deposit"),
        ("report-1", "account_opened"),
    ]
    for number, (customer, kind) in enumerate(rows):
        service.record({"event_id": f"journey-{number}", "type": kind, "customer_id": customer})
    report = read(service, "journeys", since="1h")
    (opened,) = report["steps"]
    assert (opened["journey"], opened["step"], opened["entries"], opened["open"]) == ("opening", "opened", 2, 0)
    assert (opened["harmony"]["count"], opened["harmony"]["share"]) == (2, 0.5)
    assert opened["harmony"]["examples"] == ["report-1"]
    assert read(service, "journeys", since="1h", until="59m")["steps"][0]["entries"] == 0
    told = nbx(service, "report", "journeys", "--since", "1h", COLUMNS="100")
    assert told.code == 0, told.err
    assert "opening.opened: the customer did not, such as with report-1" in told.out
    assert nbx(service, "report", "journeys", "--json").json()["steps"][0]["entries"] == 2


def test_failures_are_told_by_cause_with_their_decisions(service: Running) -> None:
    ids = []
    for number in range(6):
        _, reply = service.decide_shown(f"report-failed-{number}", "web")
        ids.append(reply["decision_id"])
        stem = {"decision_id": reply["decision_id"], "slot": 0, "type": "failed"}
        service.record({"event_id": f"report-failed-{number}", "reason": "page_error", "text": "it broke", **stem})
    report = read(service, "failures", since=decision_ref(ids[0]).at_ms, placement="web")
    overall = report["parts"][0]
    execution = next(each for each in overall["causes"] if each["cause"] == "execution")
    assert execution["negative"]["count"] >= 6
    assert execution["money"] >= 6 * 2.0 * 2.0, "two points each, loss aversion 2, exchange 1"
    assert 0.0 < execution["negative"]["low"] <= execution["negative"]["share"] <= execution["negative"]["high"] <= 1.0
    for decision_id in execution["decisions"]:
        assert service.http.get(f"/v1/decisions/{decision_id}/explanation").is_success
    assert any(each["flagged"] and each["by_cause"] is not None for each in report["acceptance"]) or all(
        each["alike"] == 0.0 for each in report["acceptance"]
    )
    assert any("reason=page_error" in each["evidence"] for each in report["evidence"])
    assert report["signals"]["placements"]
    told = read(service, "experience", since=decision_ref(ids[0]).at_ms, placement="web")
    failed = next(each for each in told["sums"] if each["outcome"] == "failed")
    assert failed["count"] >= 6
    assert {"it broke"} == {each["text"] for each in told["comments"]}
    assert told["relationship"]["balance"]["count"] >= 6
    assert sum(each["opened"] for each in told["obligations"]) >= 6
    assert read(service, "experience", since="1h", until="59m")["decisions"] == 0


def test_what_is_asked_wrongly_is_named(service: Running) -> None:
    cases: tuple[tuple[str, dict[str, Any], int, str, str], ...] = (
        ("learning", {"since": "yesterday"}, 400, "time_invalid", "since"),
        ("failures", {"since": "yesterday"}, 400, "time_invalid", "since"),
        ("failures", {"since": "1h", "until": "2h"}, 400, "window_empty", "since"),
        ("failures", {"placement": "nowhere"}, 404, "placement_unknown", "placement"),
        ("experience", {"until": "2026-01-01"}, 400, "time_invalid", "until"),
        ("experience", {"placement": "nowhere"}, 404, "placement_unknown", "placement"),
        ("policy", {"release": 999}, 404, "release_unknown", "release"),
        ("policy", {"release": 0}, 400, "field_invalid", "release"),
        ("policy", {"release": 1, "placement": "nowhere"}, 404, "placement_unknown", "placement"),
        ("policy", {"release": 1, "clip": 0}, 400, "clip_invalid", "clip"),
    )
    for path, query, status, code, field in cases:
        answer = service.http.get(f"/v1/reports/{path}", params=query)
        problem = answer.json()
        found = (answer.status_code, problem["code"], problem.get("field", ""))
        assert found == (status, code, field), (path, query, problem)
    nameless = service.http.get("/v1/reports/policy")
    assert (nameless.status_code, "release" in nameless.json()["detail"]) == (400, True), nameless.text


def test_reports_need_the_audit_scope(service: Running) -> None:
    key, _ = service.new_key("decide", "events", "catalog")
    for path in ("learning", "journeys", "policy?release=1"):
        assert service.http.get(f"/v1/reports/{path}", headers=service.headers(key)).status_code == 403


def test_the_command_line_shows_both(service: Running) -> None:
    told = nbx(service, "report", "learning", "--since", "1h", COLUMNS="100")
    assert told.code == 0, told.err
    assert "predicted and observed acceptance" in told.out
    assert max(len(line.rstrip()) for line in told.out.splitlines()) <= 100
    for name, words in (("failures", "decisions behind"), ("experience", "points per showing")):
        told = nbx(service, "report", name, "--since", "1h", COLUMNS="100")
        assert (told.code, words in told.out) == (0, True), told.err
        assert max(len(line.rstrip()) for line in told.out.splitlines()) <= 100
    assert nbx(service, "report", "failures", "--placement", "web", "--json").json()["placement"] == "web"
    assert "time_invalid" in nbx(service, "report", "experience", "--since", "yesterday").err
    little = nbx(service, "report", "policy", "--release", "1", "--since", "1h", "--placement", "silent")
    assert (little.code, "NOT RELIABLE" in little.out) == (1, True), little.out
    report = nbx(service, "report", "policy", "--release", "1", "--since", "1h", "--young", "--json")
    assert report.code == (0 if report.json()["reliable"] else 1)
    assert nbx(service, "report", "policy").code == 2


def test_the_log_is_exported(service: Running, tmp_path: Path, answered: list[str]) -> None:
    out = tmp_path / "log.npz"
    done = nbx(service, "log", "export", str(out), "--since", "1h", "--young", "--release", "1", "--json")
    assert done.code == 0, done.err
    with np.load(out) as found:
        assert found["n_rounds"] == done.json()["rows"] >= len(answered)
        assert found["reward"].sum() >= ANSWERED // 2
    empty = nbx(service, "log", "export", str(tmp_path / "none.npz"), "--since", "1h", "--until", "59m")
    assert (empty.code, "nothing_to_export" in empty.err) == (1, True)
    assert nbx(service, "log", "export", str(out), "--format", "vw").code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.npz"]


def test_the_schema_documents_the_reports(service: Running) -> None:
    schema = service.http.get("/schema").json()
    names = ("learning", "policy", "journeys", "experience", "failures")
    assert {f"/v1/reports/{name}" for name in names} <= schema["paths"].keys()
    parts = schema["components"]["schemas"]["FailuresReport"]["properties"]
    assert {"parts", "acceptance", "signals", "findings"} <= parts.keys()
