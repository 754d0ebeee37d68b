"""The website client in a real browser: a shop on another origin, under a strict policy, with a publishable key."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from nbx.experience.entries import EventEntry
from tests.edge.browser import CHROMIUM, DRIVER, Browser, Shop, browser, shop
from tests.service import Running, decisions_in, eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nbx.experience.entries import Event

pytestmark = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="no chromium and chromedriver on PATH")

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
CATALOG = f"""
catalog: shop
placements:
  hero: {{channel: web, impressions: reported, delivery: 2h, attention: 2h}}
  picture: {{channel: web, impressions: reported, delivery: 2h, attention: 2h}}
  hostile: {{channel: web, impressions: reported, delivery: 2h, attention: 2h}}
  silent: {{channel: web, impressions: reported}}
groups:
  notices: {{topic: notices}}
actions:
  notice:
    group: notices
    class: mandatory
    treatments:
      card:
        placements: [hero]
        content: {{headline: One card step up, body: 1% back on everything., cta: See it, url: /thanks, close: Not now}}
      picture:
        placements: [picture]
        content: {{headline: Look, image: /nowhere.png}}
      hostile:
        placements: [hostile]
        content:
          headline: {json.dumps(HOSTILE)}
          cta: Go
          url: "javascript:document.title='owned'"
"""
SEEN_MS = 1_000
LONGER_S = 1.6
"""Longer than `seen` takes."""


@pytest.fixture(scope="module")
def nbx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("nbx"), CATALOG) as started:
        yield started


@pytest.fixture(scope="module")
def pages(nbx: Running) -> Iterator[Shop]:
    with shop() as served:
        key, _ = nbx.new_key("web", origins=[served.origin])
        script = f'<script src="{nbx.url}/nbx.js" data-key="{key}" async></script>'
        head = f"<!doctype html><html lang=en><title>shop</title>{script}"
        served.policy = (
            f"default-src 'none'; script-src {nbx.url}; connect-src {nbx.url}; img-src 'self'; "
            "require-trusted-types-for 'script'; trusted-types 'none'"
        )
        tall = "<p>x</p>" * 100
        place = '<div id=place data-nbx-placement="{}" data-nbx-customer="{}"></div>'
        served.pages = {
            "/bare": f"{head}<div id=place></div>",
            "/anonymous": f"{head}<div id=place data-nbx-placement=hero></div>",
            "/thanks": f"{head}thanks",
        }
        for customer in ("top", "click", "dismiss", "escape", "offline", "blocked", "null-origin"):
            served.pages[f"/{customer}"] = head + place.format("hero", customer)
        served.pages["/below"] = head + tall + place.format("hero", "below") + tall
        served.pages["/picture"] = head + place.format("picture", "picture")
        served.pages["/hostile"] = head + place.format("hostile", "hostile")
        yield served


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "profile") as opened:
        yield opened


def events(nbx: Running, customer: str) -> list[Event]:
    return [entry.event for entry in nbx.entries_of(customer) if isinstance(entry, EventEntry)]


def types(nbx: Running, customer: str) -> list[str]:
    return [event.type for event in events(nbx, customer)]


def wait_for(nbx: Running, customer: str, *wanted: str) -> list[Event]:
    eventually(lambda: set(wanted) <= set(types(nbx, customer)), 15, f"{wanted} of {customer}")
    return events(nbx, customer)


def shown(page: Browser) -> bool:
    return bool(page.run("return !!document.querySelector('#place .nbx-slot')"))


def open_shown(page: Browser, pages: Shop, path: str) -> None:
    page.open(pages.origin + path)
    eventually(lambda: shown(page), 15, "the prompt is there")


def all_confirmed(page: Browser) -> bool:
    return bool(page.run("return sessionStorage.getItem('nbx:events') === '[]'"))


def undisturbed(page: Browser) -> None:
    """No violation of the policy, and a silent console."""
    assert page.run("return window.violations") == []
    assert [line for line in page.said() if "favicon" not in line] == []


def test_delivered_then_seen_and_a_reload_counts_nothing_twice(nbx: Running, pages: Shop, page: Browser) -> None:
    open_shown(page, pages, "/top")
    delivered, seen = wait_for(nbx, "top", "delivered", "seen")
    (decision,) = decisions_in(nbx.entries_of("top"))
    assert [e.event_id for e in (delivered, seen)] == [
        f"web:{decision.decision_id}/0/{what}" for what in ("delivered", "seen")
    ]
    assert isinstance(delivered.at, int)
    assert isinstance(seen.at, int)
    assert seen.at - delivered.at >= SEEN_MS - 20
    assert delivered.properties["errors"] == 0
    assert 0 <= float(delivered.properties["render_ms"]) < 5_000
    assert delivered.properties["in_view"] == 1
    held = page.run("return sessionStorage.getItem('nbx:decisions')")
    assert "propensity" not in held
    for _ in range(3):
        page.reload()
        eventually(lambda: shown(page), 15, "the prompt is there again")
        time.sleep(LONGER_S)
    eventually(lambda: all_confirmed(page), 15, "the service has confirmed everything")
    assert types(nbx, "top") == ["delivered", "seen"]
    assert len(decisions_in(nbx.entries_of("top"))) == 1
    undisturbed(page)


def test_seen_is_half_of_it_for_a_second_without_a_break(nbx: Running, pages: Shop, page: Browser) -> None:
    open_shown(page, pages, "/below")
    (delivered,) = wait_for(nbx, "below", "delivered")
    assert delivered.properties["in_view"] == 0
    assert "viewable" not in delivered.properties, "below the fold is no fault"
    look = "document.querySelector('.nbx-slot').scrollIntoView({block: 'center'})"
    for _ in range(3):  # three looks of half a second are none
        page.run(look)
        time.sleep(0.5)
        page.run("scrollTo(0, 0)")
        time.sleep(0.2)
    box = "const b = document.querySelector('.nbx-slot').getBoundingClientRect();"
    page.run(f"{box} scrollBy(0, b.top + b.height * 0.7)")  # three tenths of it show
    time.sleep(LONGER_S)
    assert types(nbx, "below") == ["delivered"]
    page.run(f"{box} scrollBy(0, b.top + b.height * 0.3)")  # seven tenths do
    assert len(wait_for(nbx, "below", "seen")) == 2
    undisturbed(page)


def test_a_click_is_told_before_the_page_is_left(nbx: Running, pages: Shop, page: Browser) -> None:
    open_shown(page, pages, "/click")
    page.press(".nbx-cta")
    eventually(lambda: page.run("return location.pathname") == "/thanks", 15, "the link was followed")
    wait_for(nbx, "click", "accepted")
    eventually(lambda: all_confirmed(page), 15, "confirmed from the next page")
    assert sorted(set(types(nbx, "click")) - {"seen"}) == ["accepted", "delivered"]
    assert len(types(nbx, "click")) == len(set(types(nbx, "click")))
    undisturbed(page)


def test_what_was_dismissed_stays_away(nbx: Running, pages: Shop, page: Browser) -> None:
    open_shown(page, pages, "/dismiss")
    assert page.run(
        "const b = document.querySelector('.nbx-close'); return [b.tagName, b.type, b.getAttribute('aria-label')]"
    ) == ["BUTTON", "button", "Not now"]
    box = "const s = document.querySelector('.nbx-slot'); return [s.tagName, s.getAttribute('aria-label')]"
    assert page.run(box) == ["SECTION", "One card step up"]
    assert page.run("return document.querySelectorAll('[style]').length") == 0
    page.press(".nbx-close")
    assert not shown(page)
    wait_for(nbx, "dismiss", "dismissed")
    page.reload()
    time.sleep(0.5)
    assert not shown(page)
    assert len(decisions_in(nbx.entries_of("dismiss"))) == 1
    undisturbed(page)


def test_the_keyboard_is_enough(nbx: Running, pages: Shop, page: Browser) -> None:
    open_shown(page, pages, "/escape")
    page.type("\ue004")  # Tab
    assert page.run("return document.activeElement.className") == "nbx-cta"
    page.type("\ue004")
    assert page.run("return document.activeElement.className") == "nbx-close"
    page.type("\ue00c")  # Escape
    wait_for(nbx, "escape", "dismissed")
    assert not shown(page)


def test_what_happens_offline_is_told_later(nbx: Running, pages: Shop, page: Browser) -> None:
    open_shown(page, pages, "/offline")
    wait_for(nbx, "offline", "seen")
    page.offline(off=True)
    page.press(".nbx-close")
    time.sleep(1)
    assert "dismissed" not in types(nbx, "offline")
    page.offline(off=False)
    wait_for(nbx, "offline", "dismissed")


def test_beacons_that_never_arrive_are_told_on_the_next_page(nbx: Running, pages: Shop, page: Browser) -> None:
    page.protocol("Network.enable")
    page.protocol("Network.setBlockedURLs", urls=["*/v1/events*"])
    open_shown(page, pages, "/blocked")
    time.sleep(LONGER_S)
    page.press(".nbx-close")
    time.sleep(0.5)
    assert types(nbx, "blocked") == []
    page.protocol("Network.setBlockedURLs", urls=[])
    page.open(f"{pages.origin}/thanks")
    told = wait_for(nbx, "blocked", "delivered", "seen", "dismissed")
    assert [event.type for event in told] == ["delivered", "seen", "dismissed"]
    assert all(isinstance(event.at, int) for event in told)
    eventually(lambda: all_confirmed(page), 15, "the service has confirmed everything")


def test_a_page_that_hides_where_it_is_is_confirmed(nbx: Running, pages: Shop, page: Browser) -> None:
    pages.referrer = "no-referrer"  # beacons may then say `origin: null`
    try:
        open_shown(page, pages, "/null-origin")
        assert wait_for(nbx, "null-origin", "delivered", "seen")
    finally:
        pages.referrer = "strict-origin-when-cross-origin"


def run_decide(page: Browser, customer: str, more: str = "") -> Any:
    return page.run(
        "const into = document.querySelector('#place');"
        f"return nbx.decide({{customer: '{customer}', placement: 'hero', into, {more}}})"
    )


def reasons(nbx: Running, customer: str) -> list[tuple[str, str]]:
    return [(event.type, event.reason) for event in events(nbx, customer)]


def test_what_breaks_is_told_with_its_reason(nbx: Running, pages: Shop, page: Browser) -> None:
    page.open(f"{pages.origin}/bare")
    eventually(lambda: page.run("return !!(window.nbx && nbx.decide)"), 15, "the script is there")
    run_decide(page, "throws", "render: () => { throw Error('no') }")
    wait_for(nbx, "throws", "failed")
    assert reasons(nbx, "throws") == [("failed", "render_error")]
    run_decide(page, "rejects", "render: async () => { throw Error('no') }")
    wait_for(nbx, "rejects", "failed")
    assert ("failed", "render_error") in reasons(nbx, "rejects")
    run_decide(page, "clicked")
    page.run("document.querySelector('.nbx-cta').onclick = (e) => { e.preventDefault(); throw Error('no'); }")
    page.press(".nbx-cta")
    wait_for(nbx, "clicked", "accepted", "failed")
    assert ("failed", "page_error") in reasons(nbx, "clicked")
    page.run("setTimeout(() => { throw Error('of somebody else') })")
    run_decide(page, "bystander", "exclude: []")
    wait_for(nbx, "bystander", "delivered")
    assert "failed" not in types(nbx, "bystander"), "an error elsewhere is not the prompt's"
    page.open(f"{pages.origin}/picture")
    wait_for(nbx, "picture", "failed")
    assert ("failed", "render_error") in reasons(nbx, "picture")


def test_content_is_text_and_links_are_checked(nbx: Running, pages: Shop, page: Browser) -> None:
    open_shown(page, pages, "/hostile")
    assert page.run("return document.querySelector('.nbx-headline').textContent") == HOSTILE
    assert page.run("return [document.querySelectorAll('img').length, document.querySelector('.nbx-cta').tagName]") == [
        0,
        "BUTTON",
    ]
    page.press(".nbx-cta")
    wait_for(nbx, "hostile", "accepted")
    assert page.run("return document.title") == "shop"
    undisturbed(page)


def test_own_rendering_own_outcomes_and_behaviour(nbx: Running, pages: Shop, page: Browser) -> None:
    page.open(f"{pages.origin}/bare")
    eventually(lambda: page.run("return !!(window.nbx && nbx.decide)"), 15, "the script is there")
    (slot,) = run_decide(
        page,
        "own",
        """render: (slot, into) => {
            window.slot = slot;
            const no = document.createElement('button');
            no.textContent = slot.content.headline;
            no.dataset.nbxEvent = 'declined';
            into.append(no);
        }""",
    )
    assert slot["action"] == "notice"
    page.press("#place button")
    page.run("nbx.report(slot, 'converted', {value: 12.5, sentiment: 0.5, text: 'good'})")
    page.run("nbx.identify('own'); nbx.track('page_view', {section: 'cards'}); nbx.consent({learn: false})")
    told = {event.type: event for event in wait_for(nbx, "own", "declined", "converted", "page_view", "consent")}
    assert (told["converted"].value, told["converted"].sentiment, told["converted"].text) == (12.5, 0.5, "good")
    assert told["page_view"].properties == {"section": "cards"}
    assert told["consent"].properties == {"learn": False}


def test_no_answer_means_the_callers_own(nbx: Running, pages: Shop, page: Browser) -> None:
    page.open(f"{pages.origin}/bare")
    eventually(lambda: page.run("return !!(window.nbx && nbx.decide)"), 15, "the script is there")
    fallback = "fallback: [{content: {headline: 'hello'}}]"
    (slot,) = run_decide(page, "nowhere", f"placement: 'nowhere', {fallback}")
    assert slot["content"] == {"headline": "hello"}
    assert page.run("return document.querySelector('.nbx-headline').textContent") == "hello"
    page.offline(off=True)
    assert len(run_decide(page, "away", fallback)) == 1
    assert run_decide(page, "away") == []
    page.offline(off=False)
    (gone,) = page.run(
        "const into = document.createElement('div'); document.body.append(into);"
        "const answer = nbx.decide({customer: 'late', placement: 'hero', into}); into.remove(); return answer"
    )
    assert gone["action"] == "notice"
    time.sleep(LONGER_S)
    assert types(nbx, "late") == []
    assert nbx.entries_of("nowhere") == []
    twice = "const ask = () => nbx.decide({customer: 'twice', placement: 'silent'}); return Promise.all([ask(), ask()])"
    assert [slots[0]["none"] for slots in page.run(twice)] == ["no_candidate"] * 2
    assert len(decisions_in(nbx.entries_of("twice"))) == 1, "asked once"


def test_who_is_not_known_is_known_again(nbx: Running, pages: Shop, page: Browser) -> None:
    open_shown(page, pages, "/anonymous")
    customer = page.run("return nbx.customer")
    assert customer.startswith("anon-")
    wait_for(nbx, customer, "delivered")
    page.run("sessionStorage.clear()")
    page.reload()
    eventually(lambda: shown(page), 15, "the prompt is there again")
    assert page.run("return nbx.customer") == customer
    eventually(lambda: len(decisions_in(nbx.entries_of(customer))) == 2, 15, "the same customer")
