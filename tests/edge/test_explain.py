"""Explaining over HTTP and on the command line: complete, clear where it cannot be, and without any trace."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from nbx.features.keys import MODEL_VERSION
from tests.edge.test_cli import nbx
from tests.service import OFFERS, eventually

if TYPE_CHECKING:
    from tests.service import Running

EVERYTHING = 1000
"""Explanations and previews that must leave no trace."""
_COUNTED = re.compile(
    r"^(nbx_(?:decisions|events|slots|outcomes|corrections|learned|timers|budget_spent)_total|nbx_decide_seconds_count"
    r"|nbx_strain_count)\b.*$",
    re.MULTILINE,
)


def explained(service: Running, decision_id: str, **query: str) -> Any:
    answer = service.http.get(f"/v1/decisions/{decision_id}/explanation", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def everything(service: Running) -> tuple[dict[bytes, bytes], list[str]]:
    """Return every key of Redis, serialised, but for leases; and every counter of what was decided and learned."""
    step = service.settled_checkpoint().step
    eventually(lambda: int(service.redis.get(MODEL_VERSION) or 0) == step, 30.0, "what was learned is served")
    keys = sorted(key for key in service.redis.scan_iter("*", count=1000) if not key.startswith(b"nbx:lease:"))
    pipe = service.redis.pipeline(transaction=False)
    for key in keys:
        pipe.dump(key)
    counters = sorted(match[0] for match in _COUNTED.finditer(service.http.get("/metrics").text))
    return dict(zip(keys, pipe.execute(), strict=True)), counters


def test_a_thousand_explanations_and_previews_leave_everything_as_it_was(service: Running) -> None:
    ids = []
    for number in range(10):
        customer, reply = service.decide_shown(f"explain-{number}", slots=2, context={"hour": number})
        service.record({"event_id": f"ex-{number}", "type": "seen", "decision_id": reply["decision_id"]})
        service.record({"event_id": f"ey-{number}", "type": "accepted", "decision_id": reply["decision_id"]})
        again = service.decide(customer, slots=2)
        ids += [reply["decision_id"], again["decision_id"]]
    before = everything(service)
    assert before[1], "there is something to compare"
    for number in range(EVERYTHING):
        decision_id = ids[number % len(ids)]
        if number % 2:
            service.decide(f"explain-{number}", mode="preview", explain="full")
        elif number % 10:
            explained(service, decision_id)
        else:
            explained(service, decision_id, action=("grown_up", "help", "alpha")[number % 3])
    keys, counters = everything(service)
    assert counters == before[1]
    assert [key for key in keys.keys() | before[0].keys() if keys.get(key) != before[0].get(key)] == []


def test_why_not_tells_the_rule_its_place_what_it_saw_and_what_it_takes(service: Running) -> None:
    assert service.http.patch("/v1/customers/explain-old", json={"profile": {"age": 33}}).status_code == 204
    reply = service.decide("explain-old", context={"hour": 9})
    answer = explained(service, reply["decision_id"], action="grown_up")
    assert (answer["doubt"], answer["values_from"]) == ("", "rebuilt")
    why = answer["why_not"]
    assert (why["standing"], why["reason"], why["layer"]) == ("removed", "not_eligible", "eligible")
    (condition,) = why["conditions"]
    assert condition["path"] == "actions.grown_up.eligible"
    assert condition["saw"] == {"customer.age": 33.0}
    text = service.settings.data_dir.parent.joinpath("catalog.yaml").read_text().split("\n")
    assert "customer.age >= 150.0" in text[condition["line"] - 1]
    (change,) = why["smallest"]["changes"]
    assert [(thing["what"], thing["was"], thing["would_be"]) for thing in change["things"]] == [
        ("customer.age", 33.0, 150.0)
    ]
    assert any("age at least 150 instead of 33" in words for words in answer["told"])


def test_the_old_fields_and_the_new_ones_are_there(service: Running) -> None:
    _, reply = service.decide_shown("explain-all", slots=2, context={"hour": 9})
    answer = explained(service, reply["decision_id"])
    assert {"words", "removed", "candidates", "none_probability", "relationship", "exchange", "goal"} <= answer.keys()
    assert {worth["action"] for worth in answer["worth"]} == OFFERS | {"help"}
    assert [slot["slot"] for slot in answer["slots"]] == [0, 1]
    assert answer["slots"][0]["action"] == reply["slots"][0]["action"]
    assert re.fullmatch(r"as_decided|of_snapshot_\d+", answer["weights"])
    for each in answer["contributions"]:
        assert each["base"] + sum(part["log_odds"] for part in each["parts"]) == pytest.approx(each["total"])
        if each["weights"] == "as_decided":
            assert each["total"] == pytest.approx(each["logged"], abs=1e-4)
    assert answer["why_not"] is None
    schema = service.http.get("/schema/openapi.json").json()
    route = schema["paths"]["/v1/decisions/{decision_id}/explanation"]["get"]
    assert [each["name"] for each in route["parameters"]] == ["action", "decision_id"] or {
        each["name"] for each in route["parameters"]
    } == {"action", "decision_id"}
    assert {"Explained", "WhyNot", "SmallestChange", "Contributions", "SlotView", "Worth"} <= {
        name.rpartition("_")[2] for name in schema["components"]["schemas"]
    }


@pytest.mark.parametrize(
    ("decision_id", "action", "status", "code"),
    [
        ("nonsense", "", 400, "decision_id_invalid"),
        ("explain-old", "grown_up", 400, "decision_id_invalid"),
        ("fff00000000000000000000000", "", 404, "decision_unknown"),
        ("00000000000000000000000000", "help", 404, "decision_unknown"),
    ],
)
def test_ids_that_are_none_of_ours(service: Running, decision_id: str, action: str, status: int, code: str) -> None:
    query = {"action": action} if action else {}
    answer = service.http.get(f"/v1/decisions/{decision_id}/explanation", params=query)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_actions_that_are_unknown_or_not_for_this_placement(service: Running) -> None:
    decision_id = service.decide("explain-where", "desk")["decision_id"]
    path = f"/v1/decisions/{decision_id}/explanation"
    answer = service.http.get(path, params={"action": "alhpa"})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (404, "action_unknown", "action")
    assert "Did you mean `alpha`?" in answer.json()["detail"]
    assert service.http.get(path, params={"action": "x" * 5000}).status_code == 404
    elsewhere = explained(service, decision_id, action="grown_up")["why_not"]
    assert (elsewhere["standing"], elsewhere["placements"]) == ("elsewhere", ["web", "silent"])


def test_an_erased_customer_is_not_rebuilt(service: Running) -> None:
    customer, reply = service.decide_shown("explain-erased", context={"hour": 9})
    assert service.http.delete(f"/v1/customers/{customer}").status_code == 202
    for query in ({}, {"action": "grown_up"}):
        answer = explained(service, reply["decision_id"], **query)
        assert (answer["doubt"], answer["contributions"], answer["relationship"]) == ("erased", [], {})
        assert any("was erased" in words for words in answer["told"])
    assert answer["why_not"]["reason"] == "not_eligible"
    assert answer["why_not"]["conditions"][0]["saw"] == {}
    assert answer["why_not"]["smallest"] is None


def test_the_command_line_tells_it_in_words(service: Running) -> None:
    decision_id = service.decide("explain-cli")["decision_id"]
    told = nbx(service, "decisions", "explain", decision_id, "--why-not", "grown_up")
    assert told.code == 0
    assert "age has to be at least 150, and was 42 (actions.grown_up.eligible, line " in told.out
    assert "with age at least 150 instead of 42, grown_up is " in told.out
    as_json = nbx(service, "decisions", "explain", decision_id, "--why-not", "grown_up", "--json").json()
    assert as_json["why_not"]["smallest"]["tries"] >= 1
    unknown = nbx(service, "decisions", "explain", decision_id, "--why-not", "nope")
    assert (unknown.code, "action_unknown" in unknown.err) == (1, True)
