"""The customer's own view on a running service: what it shows, that controls hold at once, and who may not see it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from nbx.limits import STOPPED_MS
from tests.browser import BROWSER, Tab, browser
from tests.edge.test_cli import nbx
from tests.service import Running, eventually, running

HOSTILE = "<img src=x onerror=document.title='owned'>"
CATALOG = f"""
catalog: own
features:
  app_user: {{type: boolean, controllable: true, description: "you bank with the app"}}
  research: {{type: boolean, encode: none, controllable: true}}
  tier: {{type: category, default: basic, encode: {{onehot: [basic, plus, gold]}}}}
  town: {{type: category, encode: none}}
  visits: {{type: number, from: {{event: page_view, count: 7d}}, encode: {{log: 20}}}}
placements:
  web: {{channel: web, impressions: reported, slots: 3, delivery: 2h, attention: 2h}}
  desk: {{channel: phone, impressions: implicit, slots: 3, attention: 2h}}
groups: {{cards: {{topic: cards}}, help: {{}}}}
actions:
  gold_card:
    {{group: cards, value: 60, gives: [cashback], asks: [time], eligible: "customer.tier != 'gold'", treatments: {{t:
    {{placements: [web, desk], content: {{headline: "A card one step up"}}}}}}}}
  odd_card:
    {{group: cards, value: 60, gives: [x], treatments: {{t:
    {{placements: [web], content: {{headline: "{HOSTILE}"}}}}}}}}
  app_card:
    {{group: cards, value: 9, gives: [safer_payments], asks: [time], eligible: customer.app_user, treatments: {{t:
    {{placements: [web, desk], content: {{headline: "A card for one purchase"}}}}}}}}
  question:
    {{group: help, value: 2, gives: [donation], asks: [opinion], eligible: customer.research, applicable:
    customer.app_user, treatments: {{t: {{placements: [web], content: {{headline: "One question"}}}}}}}}
exploration: {{floor: 1, scale: 1}}
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("own"), CATALOG, workers=2) as service:
        yield service


def meet(service: Running, customer: str, **profile: Any) -> None:
    answer = service.http.patch(f"/v1/customers/{customer}", json={"profile": {"town": "Graz", **profile}})
    assert answer.status_code == 204, answer.text


def view(service: Running, customer: str) -> Any:
    answer = service.http.get(f"/v1/customers/{customer}/experience")
    assert answer.status_code == 200, answer.text
    return answer.json()


def say(service: Running, customer: str, client: httpx.Client | None = None, **said: Any) -> httpx.Response:
    return (client or service.http).post(f"/v1/customers/{customer}/experience/controls", json=said)


def link(service: Running, customer: str, lifetime: str = "1h") -> str:
    path: str = service.post(f"/v1/customers/{customer}/experience/link", {"lifetime": lifetime})["path"]
    return path


def removed(service: Running, customer: str, placement: str, client: httpx.Client | None = None) -> dict[str, str]:
    reply = service.decide(customer, placement, client, slots=3, explain="reasons", mode="preview")
    return {action: f"{reason}: {detail}" for action, reason, detail, *_ in _rows(reply["explanation"]["removed"])}


def _rows(found: list[Any]) -> list[tuple[str, ...]]:
    return [tuple(each.values()) if isinstance(each, dict) else tuple(each) for each in found]


def test_it_says_what_was_shown_and_why_and_what_is_remembered(own: Running) -> None:
    meet(own, "ada", tier="plus")
    own.record({"event_id": "ada-1", "type": "page_view", "customer_id": "ada"})
    for _ in range(40):
        reply = own.decide("ada", "desk", exclude=["odd_card"])
        if reply["slots"][0].get("action") == "gold_card":
            break
    own.record({"event_id": "ada-2", "type": "declined", "decision_id": reply["decision_id"]})
    found = view(own, "ada")
    shown = next(each for each in found["shown"] if each["decision_id"] == reply["decision_id"])
    assert (shown["headline"], shown["channel"], shown["gives"]) == ("A card one step up", "phone", ["cashback"])
    assert shown["became"] == "you said no"
    assert "Tier is not gold." in shown["why"]
    known = {each["feature"]: each["value"] for each in found["remembered"]["profile"]}
    assert known == {"town": "Graz", "tier": "plus"}
    assert [(each["label"], each["value"]) for each in found["remembered"]["counted"]] == [("visits", 1.0)]
    assert {each["scope"] for each in found["controls"]["scopes"]} >= {
        "overall",
        "channel:web",
        "group:cards",
        "odd_card",
    }


def test_what_a_choice_unlocks_is_there_once_it_is_made(own: Running) -> None:
    meet(own, "bea")
    opens = {
        tuple(choice["feature"] for choice in each["choices"]): {opened["action"] for opened in each["opens"]}
        for each in view(own, "bea")["unlocks"]
    }
    assert opens == {("app_user",): {"app_card"}, ("app_user", "research"): {"question"}}
    assert removed(own, "bea", "desk") == {"app_card": "not_eligible: customer.app_user"}
    assert say(own, "bea", action="correct", feature="app_user", value=True).status_code == 204
    assert removed(own, "bea", "desk") == {}
    assert [entry.by for entry in own.entries_of("bea")[-1:]] == ["agent"]  # type: ignore[union-attr]
    (left,) = view(own, "bea")["unlocks"]
    assert [choice["feature"] for choice in left["choices"]] == ["research"]


def test_a_stop_holds_on_the_very_next_decision_of_every_worker_and_channel(own: Running) -> None:
    meet(own, "cleo", app_user=True)
    with own.workers() as clients:
        assert len(clients) == 2
        first, second = clients.values()
        for said_to, asked in ((first, second), (second, first)):
            assert removed(own, "cleo", "desk", asked) == {}
            assert say(own, "cleo", said_to, action="stop", scope="group:cards").status_code == 204
            reasons = removed(own, "cleo", "desk", asked)
            assert set(reasons.values()) == {"paused: group:cards: the customer asked"}
            assert set(reasons) == {"gold_card", "app_card"}
            assert own.decide("cleo", "desk", asked)["slots"][0]["none"] == "no_candidate"
            assert say(own, "cleo", said_to, action="resume", scope="group:cards").status_code == 204
            assert removed(own, "cleo", "desk", asked) == {}
    paused = own.http.get("/v1/customers/cleo?events=0").json()["paused"]
    assert paused == {}
    say(own, "cleo", action="stop", scope="overall")
    assert own.http.get("/v1/customers/cleo?events=0").json()["paused"] == {"overall": f"customer until {STOPPED_MS}"}


def test_a_pause_ends_by_the_clock(own: Running) -> None:
    meet(own, "dora")
    assert say(own, "dora", action="pause", scope="channel:phone", pause="1500ms").status_code == 204
    assert "gold_card" in removed(own, "dora", "desk")
    assert "gold_card" not in removed(own, "dora", "web"), "another channel goes on"
    eventually(lambda: "gold_card" not in removed(own, "dora", "desk"), 10, "the pause is over")


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"action": "stop", "scope": "group:none"}, "scope"),
        ({"action": "pause", "scope": "overall", "pause": "never"}, "pause"),
        ({"action": "correct", "feature": "salary", "value": 1}, "profile.salary"),
        ({"action": "correct", "feature": "tier", "value": True}, "profile.tier"),
        ({"action": "consent", "purpose": "marketing", "granted": True}, "purpose"),
        ({"action": "consent", "purpose": "learn"}, "granted"),
        ({"action": "burn"}, "action"),
    ],
)
def test_a_control_that_is_wrong_names_its_field(own: Running, said: dict[str, Any], field: str) -> None:
    answer = say(own, "eve", **said)
    assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text
    assert own.entries_of("eve") == []


def test_a_link_opens_one_customers_view_and_nothing_else(own: Running) -> None:
    meet(own, "fay")
    token = link(own, "fay").removeprefix("/me/")
    payload, _, mac = token.partition(".")
    other = link(own, "fay", "2h").removeprefix("/me/")
    with httpx.Client(base_url=own.url) as anyone:
        assert anyone.get(f"/me/{token}/experience").json()["customer_id"] == "fay"
        forged = [
            f"{payload}.{mac[:-2]}AA",
            f"{other.partition('.')[0]}.{mac}",
            f"{payload}.",
            payload,
            ".x",
            "é.x",
            f"{token}=",
            f"{token}.{mac}",
        ]
        for each in forged:
            for answer in (
                anyone.get(f"/me/{each}"),
                anyone.get(f"/me/{each}/experience"),
                anyone.post(f"/me/{each}/controls", json={"action": "stop", "scope": "overall"}),
            ):
                assert (answer.status_code, answer.json()["code"]) == (403, "link_invalid"), each
        short = link(own, "fay", "1ms")
        eventually(lambda: anyone.get(short).status_code == 403, 5, "it has ended")
        assert anyone.get(short).json()["code"] == "link_expired"
        page = anyone.get(short, headers={"accept": "text/html"})
        assert (page.status_code, "This link has expired" in page.text) == (403, True)
        opened = anyone.get(f"/me/{token}", headers={"accept": "text/html"})
        assert opened.headers["cache-control"] == "no-store"
        assert opened.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in opened.headers["content-security-policy"]
        assert "unsafe-inline" not in opened.headers["content-security-policy"]
        stopped = anyone.post(f"/me/{token}/controls", json={"action": "stop", "scope": "overall"})
        assert stopped.json()["controls"]["scopes"][0]["held_until_ms"] == STOPPED_MS
        assert anyone.get("/v1/customers/fay/experience").status_code in (200, 401), "a key, or the machine itself"
        assert anyone.post("/v1/customers/fay/experience/link", json={}).status_code == 401
    assert own.entries_of("fay")[-1].event.by == "customer"  # type: ignore[union-attr]


def test_scopes_of_keys_are_kept(own: Running) -> None:
    meet(own, "gus")
    reader, _ = own.new_key("audit")
    writer, _ = own.new_key("events")
    with own.client(reader) as client:
        assert client.get("/v1/customers/gus/experience").status_code == 200
        assert client.post("/v1/customers/gus/experience/link", json={}).status_code == 403
        assert say(own, "gus", client, action="stop", scope="overall").status_code == 403
    with own.client(writer) as client:
        assert client.post("/v1/customers/gus/experience/link", json={}).status_code == 200
        assert say(own, "gus", client, action="stop", scope="overall").status_code == 204
    assert own.http.get("/v1/customers/nobody/experience").status_code == 404
    assert own.http.post("/v1/customers/gus/experience/link", json={"lifetime": "31d"}).json()["field"] == "lifetime"


def test_an_alias_shows_its_customer_and_both_lives(own: Running) -> None:
    meet(own, "hana", app_user=True)
    meet(own, "hana-cookie")
    ids = set()
    for customer in ("hana", "hana-cookie"):
        for _ in range(20):
            reply = own.decide(customer, "desk")
            if reply["slots"][0].get("action"):
                ids.add(reply["decision_id"])
                break
    token = link(own, "hana-cookie")
    own.post("/v1/customers/hana/aliases", {"alias": "hana-cookie"})
    for customer in ("hana", "hana-cookie"):
        found = view(own, customer)
        assert found["customer_id"] == "hana"
        assert {each["decision_id"] for each in found["shown"]} == ids
    assert own.http.get(f"{token}/experience").json()["customer_id"] == "hana"
    say(own, "hana-cookie", action="stop", scope="overall")
    assert removed(own, "hana", "desk")["gold_card"] == "paused: overall: the customer asked"


def test_the_command_line_shows_it_and_makes_a_link(own: Running) -> None:
    meet(own, "ida")
    assert nbx(own, "customer", "experience", "ida").json()["customer_id"] == "ida"
    made = nbx(own, "customer", "experience", "ida", "--link").out.strip()
    assert httpx.get(f"{made}/experience").json()["customer_id"] == "ida"


def test_the_view_is_quick(own: Running, capsys: pytest.CaptureFixture[str]) -> None:
    meet(own, "jo", tier="plus")
    for _ in range(40):
        own.decide("jo", "desk", slots=2)
    took_ms = []
    for _ in range(200):
        began = time.perf_counter()
        assert len(view(own, "jo")["shown"]) >= 10
        took_ms.append((time.perf_counter() - began) * 1000)
    with capsys.disabled():
        p99 = statistics.quantiles(took_ms, n=100)[98]
        sys.stdout.write(f"\nown view over HTTP: p50 {statistics.median(took_ms):.1f} ms, p99 {p99:.1f} ms\n")
    assert statistics.median(took_ms) < 150, "50 ms on an idle machine"


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    if BROWSER is None:
        pytest.skip("no chromium on PATH")
    with browser() as opened:
        yield opened


def press(tab: Tab, label: str) -> None:
    tab.press(f"[...document.querySelectorAll('button')].find(b => b.textContent === {label!r})")


def test_the_page_works_in_a_browser(own: Running, tab: Tab, tmp_path_factory: pytest.TempPathFactory) -> None:
    meet(own, "kim", tier="plus", town=HOSTILE)
    for _ in range(60):
        reply = own.decide("kim", "web")
        if reply["slots"][0].get("action") == "odd_card":
            break
    own.record({"event_id": "kim-1", "type": "seen", "decision_id": reply["decision_id"]})
    own.record({"event_id": "kim-2", "type": "page_view", "customer_id": "kim"})
    tab.open(own.url + link(own, "kim"))
    text = tab.text()
    assert text.count(HOSTILE) >= 2, "what customers and catalogs say stays text"
    assert tab.evaluate("document.images.length") == 0
    assert "app user: yes" in text
    assert "A card for one purchase" in text
    for name, size in (("desktop", (1200, 900)), ("phone", (360, 740)), ("dark", (900, 900))):
        tab.resize(*size, dark=name == "dark", phone=name == "phone")
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name}: nothing is cut off"
        tab.picture(tmp_path_factory.getbasetemp() / f"own-{name}.png")
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.resize(1200, 900)
    assert dark != tab.evaluate("getComputedStyle(document.body).backgroundColor")
    press(tab, "Stop everything")
    assert "Done. It holds from now on." in tab.text()
    assert "until you say otherwise" in tab.text()
    assert removed(own, "kim", "desk")["gold_card"] == "paused: overall: the customer asked"
    press(tab, "Show me things again")
    press(tab, "Make it so: app user: yes")
    assert "app_card" not in removed(own, "kim", "desk")
    assert "app user: yes" in tab.text(), "what is remembered says so"
    tab.evaluate("document.querySelector('#fix-tier').value = 'gold'")
    tab.press("document.querySelector('#fix-tier').form.querySelector('button')")
    assert removed(own, "kim", "desk")["gold_card"].startswith("not_eligible")
    press(tab, "Change to no")
    assert "no_consent" in removed(own, "kim", "desk")["app_card"]
    fields = "[...document.querySelectorAll('main input:not([type=hidden]), main select')]"
    assert tab.evaluate(f"{fields}.filter(i => !i.labels.length).length") == 0, "every field has a label"
    assert tab.evaluate("document.documentElement.lang") == "en"
    assert [each for each in tab.console if "favicon" not in each] == []
