"""Merging ids of a running service: HTTP, command line, both workers, and the keeper after a crash."""

from __future__ import annotations

from typing import Any

import pytest

from nbx.catalog.parse import parse_catalog
from nbx.catalog.plan import Plan
from nbx.experience.entries import MovedEntry
from nbx.experience.fold import fold
from nbx.experience.merging import RETRY_MS, merge_timers
from nbx.features.keys import partition_keys
from nbx.features.state import decode_state, encode_state
from nbx.features.store import VERSION_BYTES, versioned
from nbx.ids import partition_of
from tests.edge.test_cli import nbx
from tests.service import CATALOG, Running, eventually


def merge(service: Running, customer: str, alias: Any, key: str | None = None) -> Any:
    return service.http.post(
        f"/v1/customers/{customer}/aliases", json={"alias": alias}, headers=service.headers(key) if key else None
    )


def report(service: Running, customer: str) -> Any:
    answer = service.http.get(f"/v1/customers/{customer}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_merge_on_one_worker_is_known_to_the_next_call_on_the_other(service: Running) -> None:
    with service.workers() as clients:
        first, second = clients.values()
        for number in range(20):
            cookie, person = f"merge-cookie-{number}", f"merge-person-{number}"
            reply = service.decide(cookie, "web", first, exclude=["help"])
            (slot,) = reply["slots"]
            answer = second.post(f"/v1/customers/{person}/aliases", json={"alias": cookie})
            assert (answer.status_code, answer.json()) == (200, {"customer_id": person, "alias": cookie})
            if not slot.get("action"):
                continue
            event = {"event_id": f"merge-{number}", "type": "declined", "decision_id": reply["decision_id"]}
            event["customer_id"] = (person, cookie)[number % 2]
            (result,) = service.record(event, client=first)
            assert result["outcome"] == "declined"
            for name in (person, cookie):
                after = service.decide(name, "web", second, slots=3, explain="reasons")
                assert [slot["action"], "paused"] in [found[:2] for found in after["explanation"]["removed"]]


def test_the_report_of_either_id_is_the_customers(service: Running) -> None:
    for name in ("seen-cookie", "seen-device"):
        service.record({"event_id": f"view-{name}", "type": "page_view", "customer_id": name})
    service.http.patch("/v1/customers/seen-cookie", json={"profile": {"age": 61}})
    assert merge(service, "seen-device", "seen-cookie").status_code == 200
    assert merge(service, "seen-person", "seen-device").status_code == 200
    found = [report(service, name) for name in ("seen-person", "seen-device", "seen-cookie")]
    for each in found:
        assert (each["customer_id"], sorted(each["aliases"])) == ("seen-person", ["seen-cookie", "seen-device"])
        assert (each["features"]["visits"], each["profile"]) == (2.0, {"age": 61})
        told = [row["what"] for row in each["timeline"]]
        assert sorted(told) == sorted(
            ["alias", "absorb", "event", "event", "profile"] + ["alias", "absorb"] + ["moved", "delivered"] * 2
        )
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("customer", "body", "status", "code", "field"),
    [
        ("refused", {"alias": "refused"}, 400, "alias_self", "alias"),
        ("refused", {"alias": ""}, 400, "id_invalid", "alias"),
        ("refused", {"alias": "x" * 129}, 413, "too_large", "alias"),
        ("refused", {"alias": 5}, 400, "field_invalid", "alias"),
        ("refused", {}, 400, "field_invalid", "alias"),
        ("refused", {"alias": "a", "other": 1}, 400, "field_invalid", ""),
        ("x" * 129, {"alias": "a"}, 413, "too_large", "customer_id"),
    ],
)
def test_what_is_refused(service: Running, customer: str, body: Any, status: int, code: str, field: str) -> None:
    answer = service.http.post(f"/v1/customers/{customer}/aliases", json=body)
    found = answer.json()
    assert (answer.status_code, found["code"]) == (status, code), found
    assert found.get("field", "") == field
    assert service.http.get("/v1/customers/refused").status_code == 404, "nothing was written"


def test_an_alias_of_another_customer_and_a_weak_key_are_refused(service: Running) -> None:
    assert merge(service, "taken-one", "taken-cookie").status_code == 200
    answer = merge(service, "taken-two", "taken-cookie")
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (409, "alias_taken", "alias")
    assert "taken-one" in answer.json()["detail"]
    weak, _ = service.new_key("decide", "audit", "catalog")
    assert merge(service, "taken-one", "taken-other", weak).status_code == 403
    good, _ = service.new_key("events")
    assert merge(service, "taken-one", "taken-other", good).status_code == 200


def test_the_command_line_merges_and_erases_all_ids(service: Running) -> None:
    service.decide("typed-cookie", "web")
    done = nbx(service, "customer", "merge", "typed-person", "typed-cookie")
    assert (done.code, done.out) == (0, "typed-cookie is customer typed-person\n")
    again = nbx(service, "customer", "merge", "typed-person", "typed-cookie", "--json")
    assert (again.code, again.json()) == (0, {"customer_id": "typed-person", "alias": "typed-cookie"})
    erased = nbx(service, "customer", "erase", "typed-cookie", "--yes")
    assert erased.code == 0, erased.err
    assert "customer typed-person erased" in erased.out
    assert "also erased: typed-cookie, erasure " in erased.out
    for name in ("typed-person", "typed-cookie"):
        assert service.http.get(f"/v1/customers/{name}").status_code == 404


def test_the_keeper_finishes_what_a_crash_left(service: Running) -> None:
    service.record({"event_id": "left-view", "type": "page_view", "customer_id": "left-cookie"})
    partition = partition_of("left-cookie", service.settings.partitions)
    keys = partition_keys(partition)
    version, struct = versioned(service.redis.get(keys.customer("left-cookie")))
    state = decode_state(struct)
    now_ms = int(service.redis.time()[0]) * 1000
    entry = MovedEntry(customer_id="left-cookie", at_ms=now_ms, release=1, into="left-person")
    fold(state, None, entry, Plan(parse_catalog(CATALOG, source="catalog"), 1).rules)
    ((timer,), _) = merge_timers("left-cookie", state, now_ms)
    assert timer.due_ms == now_ms + RETRY_MS
    pipe = service.redis.pipeline(transaction=True)
    pipe.set(keys.customer("left-cookie"), (version + 1).to_bytes(VERSION_BYTES, "big") + encode_state(state))
    pipe.zadd(keys.timers, {timer.member: timer.due_ms})
    pipe.execute()

    def finished() -> bool:
        answer = service.http.get("/v1/customers/left-person")
        return bool(answer.status_code == 200 and answer.json()["features"]["visits"] == 1.0)

    eventually(finished, 20.0, "the keeper finished the merge")
    assert decode_state(versioned(service.redis.get(keys.customer("left-cookie")))[1]).outbox == []
    assert service.redis.zscore(keys.timers, timer.member) is None
