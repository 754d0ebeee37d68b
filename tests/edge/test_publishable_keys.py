"""Publishable keys: what a page may do, from where, and that nothing else is open to whoever reads its source."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from nbx.experience.promises import PROMISE
from tests.service import ROOT, decisions_in, event_ids_in

if TYPE_CHECKING:
    from tests.service import Running

SHOP, OTHER = "https://shop.example", "https://elsewhere.example"


@pytest.fixture(scope="module")
def key(service: Running) -> str:
    return service.new_key("web", origins=[SHOP])[0]


def send(service: Running, path: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{service.url}{path}", json=body, headers=headers)


def ask(service: Running, key: str, origin: str = SHOP, **more: Any) -> httpx.Response:
    body = {"customer_id": "browser", "placement": "web", "slots": 3, **more}
    return send(service, "/v1/decisions", body, authorization=f"Bearer {key}", origin=origin)


def refused(answer: httpx.Response, status: int, code: str, says: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == code
    assert says in problem["detail"]


def test_a_page_decides_and_gets_no_chances(service: Running, key: str) -> None:
    answer = ask(service, key, context={"is_mobile": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert answer.headers["vary"] == "origin"
    reply = answer.json()
    (entry,) = (e for e in decisions_in(service.entries_of("browser")) if e.decision_id == reply["decision_id"])
    assert entry.slots[0].propensity > 0, "it is on record"
    for slot in reply["slots"]:
        assert not {"propensity", "p_response"} & slot.keys()
        assert slot.get("none") or {"action", "treatment", "expires_at"} <= slot.keys()
    assert (reply["continues"], reply["holdout"]) == ([], "")


def test_a_page_tells_what_the_customer_did_with_its_key_in_the_address(service: Running, key: str) -> None:
    _, reply = service.decide_shown("page-events")
    beacon = httpx.post(
        f"{service.url}/v1/events?key={key}",
        content=f"""[{{"event_id": "web:b1", "type": "seen", "decision_id": "{reply["decision_id"]}"}},
            {{"event_id": "web:b2", "type": "page_view", "customer_id": "page"}},
            {{"event_id": "web:b3", "type": "consent", "customer_id": "page", "properties": {{"learn": false}}}},
            {{"event_id": "web:b4", "type": "page_view", "customer_id": "page", "by": "agent"}},
            {{"event_id": "web:b5", "type": 7}},
            {{"event_id": "web:b6", "type": "{PROMISE}", "customer_id": "page"}}]""",
        headers={"content-type": "text/plain;charset=UTF-8", "origin": SHOP},
    )
    results = beacon.json()
    assert [result["status"] for result in results] == ["accepted"] * 3 + ["rejected"] * 3
    assert (results[3]["code"], results[3]["field"]) == ("forbidden", "events[3].by")
    assert results[4]["field"] == "events[4].type"
    assert (results[5]["code"], results[5]["field"]) == ("forbidden", "events[5].type")
    assert set(event_ids_in(service.entries_of("page"))) == {"web:b2", "web:b3"}


@pytest.mark.parametrize(
    ("more", "field"),
    [({"mode": "preview"}, "mode"), ({"explain": "reasons"}, "explain"), ({"explain": "full"}, "explain")],
)
def test_neither_previews_nor_reasons_are_for_pages(service: Running, key: str, more: Any, field: str) -> None:
    answer = ask(service, key, **more)
    refused(answer, 403, "forbidden", f"leave {field} out")
    assert answer.json()["field"] == field
    assert answer.headers["access-control-allow-origin"] == SHOP, "the page may read why"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/decisions:batch", [{"customer_id": "x", "placement": "web"}]),
        ("POST", "/v1/interactions", {"events": [], "decision": {"customer_id": "x", "placement": "web"}}),
        ("GET", "/v1/customers/browser", None),
        ("PATCH", "/v1/customers/browser", {"profile": {"age": 3}}),
        ("DELETE", "/v1/customers/browser", None),
        ("POST", "/v1/customers/browser/aliases", {"alias": "y"}),
        ("GET", f"/v1/decisions/{'0' * 26}", None),
        ("GET", "/v1/catalog/releases", None),
        ("GET", "/metrics", None),
        ("GET", "/v1/reports/learning", None),
    ],
)
def test_everything_else_is_refused(service: Running, key: str, method: str, path: str, body: Any) -> None:
    for headers in ({"origin": SHOP}, {}):
        with httpx.Client(headers={"authorization": f"Bearer {key}", **headers}) as client:
            refused(client.request(method, f"{service.url}{path}", json=body), 403, "forbidden", "publishable key")
    if method != "GET":  # reading needs no key on the machine itself
        told = httpx.request(method, f"{service.url}{path}?key={key}", json=body).json()
        assert told["code"] in ("unauthenticated", "forbidden"), "an address opens the two calls only"


def test_other_pages_and_other_programs_are_kept_out(service: Running, key: str) -> None:
    for origin in (
        OTHER,
        "null",
        "http://shop.example",
        f"{SHOP}.evil.example",
        f"{SHOP}:8443",
        "https://SHOP.example",
    ):
        answer = ask(service, key, origin)
        refused(answer, 403, "origin_refused", origin)
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["vary"] == "origin"
    body = {"customer_id": "browser", "placement": "web"}
    refused(send(service, "/v1/decisions", body, authorization=f"Bearer {key}"), 403, "forbidden", "lets pages")
    refused(send(service, f"/v1/decisions?key={key}", body), 403, "forbidden", "is for browsers")


def test_a_key_without_origins_is_for_the_services_own_pages(service: Running) -> None:
    key, _ = service.new_key("web")
    assert ask(service, key, service.url).status_code == 200
    answer = ask(service, key, SHOP)
    refused(answer, 403, "origin_refused", "the same origin")
    assert "access-control-allow-origin" not in ask(service, key, service.url).headers


def test_an_address_is_no_place_for_other_keys(service: Running, key: str) -> None:
    body = {"customer_id": "browser", "placement": "web"}
    refused(send(service, f"/v1/decisions?key={service.key}", body, origin=SHOP), 403, "forbidden", "not publishable")
    unknown = send(service, "/v1/decisions?key=nbx_0123abcd_x", body, origin=SHOP)
    refused(unknown, 401, "unauthenticated", "not valid")
    assert unknown.headers["access-control-allow-origin"] == SHOP, "a page that is known may read why"
    refused(send(service, f"/v1/decisions?key={key}&key={key}", body, origin=SHOP), 400, "invalid", "several keys")
    refused(send(service, "/v1/decisions?key=", body), 401, "unauthenticated", "not valid")
    assert send(service, "/v1/decisions?x=1", body, **service.headers()).status_code == 200
    assert send(service, "/v1/decisions", body, origin=OTHER, **service.headers()).status_code == 200


def test_browsers_may_ask_first(service: Running, key: str) -> None:
    assert key
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    answer = httpx.options(f"{service.url}/v1/decisions", headers={"origin": SHOP, **asks})
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert answer.headers["access-control-allow-methods"] == "POST"
    assert int(answer.headers["access-control-max-age"]) > 0
    assert answer.headers["vary"] == "origin"
    made = len(decisions_in(service.entries()))
    assert httpx.options(f"{service.url}/v1/decisions", headers=service.headers()).headers["allow"], "nobody's page"
    body = b'{"customer_id": "x", "placement": "web"}'
    httpx.request("OPTIONS", f"{service.url}/v1/decisions", content=body, headers={"origin": SHOP, **service.headers()})
    assert len(decisions_in(service.entries())) == made, "asking decides nothing"
    other = httpx.options(f"{service.url}/v1/events", headers={"origin": OTHER, **asks})
    refused(other, 403, "forbidden", OTHER)
    assert "access-control-allow-origin" not in other.headers


def test_the_file_is_cached_and_open_to_all_pages(service: Running) -> None:
    got = httpx.get(f"{service.url}/nbx.js")
    assert got.content == (ROOT / "nbx/api/web/nbx.js").read_bytes()
    assert got.headers["content-type"] == "text/javascript; charset=utf-8"
    assert got.headers["cross-origin-resource-policy"] == "cross-origin"
    for tag in (got.headers["etag"], f"W/{got.headers['etag']}", f'"x", {got.headers["etag"]}'):
        again = httpx.get(f"{service.url}/nbx.js", headers={"if-none-match": tag})
        assert (again.status_code, again.content) == (304, b"")
    assert httpx.get(f"{service.url}/nbx.js", headers={"if-none-match": '"x"'}).status_code == 200
    assert got.headers["content-encoding"] == "gzip"
    assert int(got.headers["content-length"]) < 5_120, "what a visitor downloads"
    plain = httpx.get(f"{service.url}/nbx.js", headers={"accept-encoding": "identity"})
    assert plain.content == got.content
    assert "content-encoding" not in plain.headers
    assert plain.headers["etag"] != got.headers["etag"]
    assert plain.headers["vary"] == got.headers["vary"] == "accept-encoding"


def test_the_command_makes_such_a_key(service: Running) -> None:
    def make(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nbx", "keys", "create", "shop", *options],
            env=service.environment,
            cwd=ROOT,
            text=True,
            capture_output=True,
            check=False,
        )

    made = make("--scope", "web", "--origin", "https://a.example", "--origin", "http://localhost:8000/")
    assert made.returncode == 0, made.stderr
    assert "pages of https://a.example, http://localhost:8000" in " ".join(made.stderr.split())
    assert made.stdout.startswith("nbx_")
    for options in (("--scope", "decide", "--origin", SHOP), ("--scope", "web", "--scope", "events")):
        assert make(*options).returncode == 1
