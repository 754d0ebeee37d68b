"""The command line against a running service: what it prints, and its exit codes."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tests.service import CATALOG, ROOT, Running, environment_of, eventually

if TYPE_CHECKING:
    from pathlib import Path


class Done:
    """A finished command."""

    def __init__(self, finished: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = finished.returncode, finished.stdout, finished.stderr

    def json(self) -> Any:
        return msgspec.json.decode(self.out)


def nbx(service: Running, *arguments: str, **variables: str) -> Done:
    finished = subprocess.run(
        [sys.executable, "-m", "nbx", *arguments],
        env={**service.environment, **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in finished.stderr, finished.stderr
    return Done(finished)


def test_decide_event_and_look_at_it(service: Running) -> None:
    done = nbx(
        service, "decide", "cli-anna", "web", "--slots", "3", "--context", "hour=9", "--context", "is_mobile=true"
    )
    assert done.code == 0, done.err
    reply = done.json()
    assert len(reply["slots"]) == 3
    assert reply["explanation"]["words"]
    decision_id = reply["decision_id"]
    (slot,) = [slot["slot"] for slot in reply["slots"] if slot.get("action")][:1]
    done = nbx(service, "event", "accepted", "--decision", decision_id, "--slot", str(slot), "--event-id", "cli-1")
    assert (done.code, done.json()["outcome"]) == (0, "accepted")
    again = nbx(service, "event", "accepted", "--decision", decision_id, "--slot", str(slot), "--event-id", "cli-1")
    assert (again.code, again.json()["status"]) == (0, "duplicate")
    wrong = nbx(service, "event", "accepted", "--decision", decision_id, "--slot", "9")
    assert (wrong.code, wrong.json()["code"]) == (1, "slot_out_of_range")
    shown = nbx(service, "decisions", "show", decision_id)
    assert (shown.code, shown.json()["decision_id"]) == (0, decision_id)
    customer = nbx(service, "customer", "show", "cli-anna")
    assert customer.code == 0
    assert customer.json()["outcomes"] == {"accepted": 1}
    assert [row["what"] for row in customer.json()["timeline"]] == ["event", "decision"]


def test_a_preview_leaves_no_trace(service: Running) -> None:
    before = service.dump()
    assert nbx(service, "decide", "cli-preview", "web", "--preview", "--explain", "full").code == 0
    assert service.dump() == before


def test_explain_and_replay(service: Running) -> None:
    decision_id = service.decide("cli-explain", slots=2)["decision_id"]
    told = nbx(service, "decisions", "explain", decision_id)
    assert told.code == 0
    assert "slot 0: " in told.out
    assert "not grown_up: we may not offer it to this customer" in told.out
    assert nbx(service, "decisions", "explain", decision_id, "--json").json()["candidates"]
    replayed = nbx(service, "decisions", "replay", decision_id)
    assert (replayed.code, replayed.out) == (0, f"{decision_id}: same\n")
    assert nbx(service, "decisions", "replay", decision_id, "--json").json()["same"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("decisions", "show", "nonsense"), 1, "decision_id_invalid: decision_id: "),
        (("decisions", "replay", "fff00000000000000000000000"), 1, "decision_unknown"),
        (("customer", "show", "cli-nobody"), 1, "customer_unknown"),
        (("decide", "cli-anna", "nowhere"), 1, "placement_unknown: placement: "),
        (("decide", "cli-anna", "web", "--context", "hour"), 2, "'hour' is not NAME=VALUE"),
        (("decide",), 2, "Missing argument"),
        (("nonsense",), 2, "No such command"),
        (("catalog", "check", "no-such-file.yaml"), 2, "no-such-file.yaml cannot be read"),
        (("keys", "create", "x", "--scope", "everything"), 1, "'everything' is not a scope"),
        (("keys", "revoke", "00000000"), 1, "key_unknown"),
    ],
)
def test_what_is_wrong_is_said_in_words(service: Running, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = nbx(service, *arguments)
    assert (done.code, words in done.err) == (code, True), done.err


def test_no_service_and_no_key(service: Running) -> None:
    away = nbx(service, "decide", "x", "web", "--url", "http://127.0.0.1:9")
    assert away.code == 1
    assert "is `nbx up` running there?" in away.err
    assert nbx(service, "decide", "x", "web", NBX_API_KEY="nbx_wrong").err.startswith("unauthenticated: ")
    faulty = nbx(service, "decide", "x", "web", NBX_PORT="none")
    assert (faulty.code, "NBX_PORT" in faulty.err) == (2, True)


def test_keys_are_made_listed_and_revoked(service: Running) -> None:
    made = nbx(service, "keys", "create", "cli", "--scope", "decide", "--scope", "audit")
    assert made.code == 0, made.err
    key = made.out.strip()
    key_id = key.split("_")[1]
    listed = {record["id"]: record for record in nbx(service, "keys", "list", "--json").json()}
    assert listed[key_id]["scopes"] == ["decide", "audit"]
    assert key not in str(listed)
    assert "sha256" not in str(listed)

    def allowed() -> bool:
        return service.http.get("/v1/customers/x", headers=service.headers(key)).status_code != 401

    eventually(allowed, 5.0, "the key is known")
    assert nbx(service, "event", "page_view", "--customer", "x", NBX_API_KEY=key).err.startswith("forbidden: ")
    revoked = nbx(service, "keys", "revoke", key_id)
    assert (revoked.code, revoked.out) == (0, f"key {key_id} is revoked\n")
    eventually(lambda: not allowed(), 5.0, "the key is refused")
    assert "revoked" in nbx(service, "keys", "list").out


def test_catalog_check_and_publish(service: Running, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(CATALOG)
    bad.write_text(CATALOG.replace("type: boolean", "type: colour").replace("value: 20", "value: -20"))
    checked = nbx(service, "catalog", "check", str(good))
    assert (checked.code, "good. 9 actions, 4 placements, 5 features" in checked.out) == (0, True)
    faulty = nbx(service, "catalog", "check", str(bad))
    assert faulty.code == 1
    line = CATALOG[: CATALOG.index("type: boolean")].count("\n") + 1
    for place in (f"{bad}:{line}:", "features.is_mobile.type", "actions.grown_up.value"):
        assert place in faulty.err, faulty.err
    assert len(nbx(service, "catalog", "check", str(bad), "--json").json()["faults"]) == 2
    release = service.http.get("/health/ready").json()["release"]
    refused = nbx(service, "catalog", "publish", str(bad))
    assert refused.code == 1
    assert "actions.grown_up.value" in refused.err
    stale = nbx(service, "catalog", "publish", str(good), "--base", str(release + 1))
    assert (stale.code, "release_stale" in stale.err) == (1, True)
    published = nbx(service, "catalog", "publish", str(good), "--base", str(release), "--note", "the same again")
    assert (published.code, published.out.splitlines()[0]) == (0, f"release {release + 1} of tests is in force")


def test_doctor(service: Running, tmp_path: Path) -> None:
    done = nbx(service, "doctor", "--json")
    checks = done.json()
    assert done.code == (1 if any(check["status"] == "bad" for check in checks) else 0)
    assert not [check for check in checks if check["status"] == "bad"], checks
    assert all(check["name"] and check["words"] for check in checks)
    nowhere = {"data_dir": tmp_path / "none", "port": 9, "grpc_port": 10}
    away = nbx(service, "doctor", **environment_of(nowhere))
    assert away.code == 1, away.out
    assert "bad" in away.out


def test_up_twice_on_one_directory_is_refused(service: Running) -> None:
    done = nbx(service, "up")
    assert done.code == 2
    assert "is in use by nbx with pid" in done.err
