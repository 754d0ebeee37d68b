"""Erasing a customer of a running service: HTTP, command line, a killed learner, and what is left."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from nbx.experience.entries import EraseEntry
from nbx.features.keys import MODEL_VERSION, partition_keys
from nbx.features.state import ERASED
from nbx.limits import ERASED_MS, ERASURE_KEPT_MS
from tests.edge.test_cli import nbx
from tests.service import Running, decisions_in, eventually, evidence_in_log, evidence_learned, running

if TYPE_CHECKING:
    from collections.abc import Iterator

WITHIN_S = 30.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One of its own: other tests compare the model with the whole log."""
    with running(tmp_path_factory.mktemp("erasing")) as started:
        yield started


def answered(service: Running, stem: str, kind: str) -> str:
    """Let new customers come until one is shown something, which is answered; returns the customer."""
    customer, reply = service.decide_shown(stem)
    event = {"event_id": f"{customer}-{kind}", "type": kind, "decision_id": reply["decision_id"]}
    assert service.record(event)[0]["outcome"] == kind
    return customer


def erase(service: Running, customer: str) -> Any:
    answer = service.http.delete(f"/v1/customers/{customer}")
    assert answer.status_code == 202, answer.text
    return answer.json()


def forgotten(service: Running, erasure_id: str) -> Any:
    """Wait until the models are without the customer."""

    def look() -> Any:
        receipt = service.http.get(f"/v1/erasures/{erasure_id}").json()
        return receipt if receipt["status"] == "forgotten" else None

    return eventually(look, WITHIN_S, "the models have forgotten")


def check_model(service: Running) -> None:
    """The model holds what the log holds, without the lives that were ended."""
    checkpoint = service.settled_checkpoint(WITHIN_S)
    kept: dict[str, list[Any]] = {}
    for entry in service.entries():
        if isinstance(entry, EraseEntry):
            kept.pop(entry.customer_id, None)
        else:
            kept.setdefault(entry.customer_id, []).append(entry)
    expected = evidence_in_log(entry for entries in kept.values() for entry in entries)
    learned = {action: count for action, count in evidence_learned(checkpoint).items() if count > 1e-9}
    assert learned == pytest.approx(expected, abs=1e-9)


def test_an_erased_customer_is_unknown_and_the_model_forgets(service: Running) -> None:
    for number in range(5):
        answered(service, f"other-{number}", "declined")
    customer = answered(service, "erased", "accepted")
    (decided,) = decisions_in(service.entries_of(customer))
    check_model(service)
    before = sum(evidence_learned(service.settled_checkpoint()).values())
    receipt = erase(service, customer)
    assert (receipt["customer_id"], receipt["taught"], receipt["status"]) == (customer, 1, "pending")
    assert receipt["by"].startswith("first (")
    gone = service.http.get(f"/v1/customers/{customer}")
    assert (gone.status_code, gone.json()["code"]) == (404, "customer_unknown")
    late = {"event_id": "late", "type": "converted", "decision_id": decided.decision_id}
    (refused,) = service.record(late)
    assert (refused["code"], "its customer was erased" in refused["detail"]) == ("decision_unknown", True)
    final = forgotten(service, receipt["erasure_id"])
    assert (final["response"], final["experience"], final["beyond"]) == (1, 1, 0)
    assert 0 < final["step"] <= int(service.redis.get(MODEL_VERSION))
    check_model(service)
    assert sum(evidence_learned(service.settled_checkpoint()).values()) == pytest.approx(before - 1.0)
    assert service.decide(customer)["degraded"] == [], "a new life"


def test_what_is_left_is_what_the_receipt_says(service: Running) -> None:
    customer = answered(service, "left", "accepted")
    service.decide(customer, request_id="r")
    receipt = forgotten(service, erase(service, customer)["erasure_id"])
    partition = int(receipt["erasure_id"][:3], 16)
    keys = partition_keys(partition)
    ends = {
        keys.customer(customer): service.settings.erased_keep_s * 1000,
        keys.event(f"{customer}-accepted"): service.settings.request_ttl_s * 1000,  # the id is the caller's
    }
    assert {key.decode() for key in service.redis.scan_iter(count=1000) if customer.encode() in key} == ends.keys()
    ends |= {keys.erasure(receipt["erasure_id"]): ERASURE_KEPT_MS, keys.erased(customer): ERASED_MS}
    assert {key for key, ttl_ms in ends.items() if not ttl_ms - 60_000 < service.redis.pttl(key) <= ttl_ms} == set()
    assert service.redis.get(keys.customer(customer))[8:] == ERASED
    decision_ids = {entry.decision_id for entry in decisions_in(service.entries_of(customer))}
    holding = [key for key in service.redis.scan_iter(count=1000) if any(id_.encode() in key for id_ in decision_ids)]
    assert {key.split(b":")[2] for key in holding} == {b"s"}, "sites only"
    timers = [member for member, _ in service.redis.zscan_iter(keys.timers)]
    assert not any(id_.encode() in member for member in timers for id_ in decision_ids)


def test_a_learner_killed_meanwhile_subtracts_once(service: Running) -> None:
    customers = [answered(service, f"killed-{number}", "accepted") for number in range(3)]
    check_model(service)
    pid = service.pids()["learner"]
    erased = [erase(service, customers[0])]
    os.kill(pid, signal.SIGKILL)
    erased += [erase(service, customer) for customer in customers[1:]]
    answered(service, "after-the-kill", "declined")
    eventually(lambda: service.pids()["learner"] != pid, WITHIN_S, "the learner was started again")
    for receipt in erased:
        final = forgotten(service, receipt["erasure_id"])
        assert (final["response"], final["experience"], final["beyond"]) == (1, 1, 0)
    check_model(service)


def test_who_may_erase_and_what_is_refused(service: Running) -> None:
    customer = answered(service, "guarded", "accepted")
    weak, _ = service.new_key("decide", "events", "audit", "catalog")
    for headers, status in ((service.headers(""), 401), (service.headers(weak), 403)):
        with service.client() as client:
            client.headers.clear()
            assert client.delete(f"/v1/customers/{customer}", headers=headers).status_code == status
    assert service.http.get(f"/v1/customers/{customer}").status_code == 200
    for path, status, code in (
        ("customers/nobody", 404, "customer_unknown"),
        ("customers/" + "x" * 200, 413, "too_large"),
    ):
        answer = service.http.delete(f"/v1/{path}")
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.json()["field"] == "customer_id"
    for path, status, code in (
        ("erasures/nothing", 400, "decision_id_invalid"),
        ("erasures/" + "0" * 26, 404, "erasure_unknown"),
    ):
        answer = service.http.get(f"/v1/{path}")
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (status, code, "erasure_id")


def test_the_command_line_asks_erases_and_shows_the_receipt(service: Running) -> None:
    customer = answered(service, "typed", "accepted")
    refused = nbx(service, "customer", "erase", customer)
    assert (refused.code, "for good?" in refused.err) == (1, True)
    assert service.http.get(f"/v1/customers/{customer}").status_code == 200
    receipt = nbx(service, "customer", "erase", customer, "--yes", "--json")
    assert (receipt.code, receipt.json()["customer_id"]) == (0, customer)
    erasure_id = receipt.json()["erasure_id"]
    final = forgotten(service, erasure_id)
    assert nbx(service, "customer", "erasure", erasure_id, "--json").json() == final
    words = nbx(service, "customer", "erasure", erasure_id)
    assert words.code == 0
    assert "1 response and 1 experience sites subtracted, 0 beyond" in words.out
    assert f"so from snapshot {final['step']}" in words.out
    assert "remains: log" in words.out
    again = nbx(service, "customer", "erase", customer, "--yes")
    assert (again.code, erasure_id in again.err) == (1, True)
