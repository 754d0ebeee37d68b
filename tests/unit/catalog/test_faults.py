from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from nbx import limits
from nbx.catalog.faults import BUILT_IN_WIDTH, SLOT_EVENTS, catalog_faults, feature_width
from nbx.catalog.findings import Finding
from nbx.catalog.model import (
    Action,
    Budget,
    Catalog,
    Concern,
    ConsentPolicy,
    ContactPolicy,
    ContactRule,
    DefaultChoice,
    Example,
    Expect,
    Given,
    Goal,
    Group,
    Journey,
    JourneyStep,
    Limit,
    Placement,
    QuietHours,
    Treatment,
)
from nbx.experience import lifecycle
from nbx.features.schema import Aggregate, Encoding, Feature

HERO = Treatment(name="hero", placements=("web",))
GOOD = Catalog(
    name="good",
    placements=(Placement(name="web", channel="web", impressions="reported"),),
    groups=(Group(name="cards", limits=(Limit(max=1, per_ms=1000),)),),
    actions=(Action(name="upgrade", group="cards", owner="team", treatments=(HERO,)),),
)
ACTION = GOOD.actions[0]
PLACEMENT = GOOD.placements[0]
GROUP = GOOD.groups[0]


def faults(catalog: Catalog) -> list[str]:
    return [f"{each.path} {each.code}" for each in catalog_faults(catalog)]


def with_action(action: Action) -> Catalog:
    return replace(GOOD, actions=(action,))


def onehot(name: str, count: int) -> Feature:
    categories = tuple(f"c{i}" for i in range(count))
    return Feature(name=name, type="category", encoding=Encoding(kind="onehot", categories=categories), default="")


def test_a_good_catalog_has_no_faults() -> None:
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    ("catalog", "path", "code"),
    [
        (with_action(replace(ACTION, group="card")), "actions.upgrade.group", "unknown_group"),
        (with_action(replace(ACTION, name="none")), "actions.none", "reserved"),
        (with_action(replace(ACTION, asks=("time",))), "actions.upgrade.asks", "asks_without_giving"),
        (with_action(replace(ACTION, treatments=())), "actions.upgrade.treatments", "no_treatment"),
        (
            with_action(replace(ACTION, treatments=(replace(HERO, placements=()),))),
            "actions.upgrade.treatments.hero.placements",
            "no_placement",
        ),
        (
            with_action(replace(ACTION, treatments=(replace(HERO, placements=("web", "wed")),))),
            "actions.upgrade.treatments.hero.placements[1]",
            "unknown_placement",
        ),
        (
            with_action(replace(ACTION, treatments=(HERO, replace(HERO, name="other")))),
            "actions.upgrade.treatments.other.placements[0]",
            "second_treatment",
        ),
        (
            replace(GOOD, placements=(replace(PLACEMENT, default=DefaultChoice(action="x", treatment="hero")),)),
            "placements.web.default.action",
            "unknown_action",
        ),
        (
            replace(GOOD, placements=(replace(PLACEMENT, default=DefaultChoice(action="upgrade", treatment="x")),)),
            "placements.web.default.treatment",
            "unknown_treatment",
        ),
        (
            replace(
                GOOD,
                placements=(
                    PLACEMENT,
                    replace(PLACEMENT, name="app", default=DefaultChoice(action="upgrade", treatment="hero")),
                ),
            ),
            "placements.app.default.treatment",
            "default_elsewhere",
        ),
        (replace(GOOD, features=(onehot("balance", 1),)), "features.balance", "reserved"),
        (replace(GOOD, features=(onehot("null", 1),)), "features.null", "reserved"),
        (replace(GOOD, features=(replace(onehot("channel", 1), origin="context"),)), "features.channel", "reserved"),
        (replace(GOOD, features=(onehot("a", 200), onehot("b", 60))), "features.b.encode", "too_wide"),
    ],
)
def test_each_rule_refuses_alone(catalog: Catalog, path: str, code: str) -> None:
    assert faults(catalog) == [f"{path} {code}"]


def test_no_goal_is_an_event_of_a_slot() -> None:
    """The list is kept in the catalog, which knows nothing of the life of slots."""
    assert SLOT_EVENTS >= lifecycle.SLOT_EVENTS
    for event, codes in (("came_back", []), ("seen", ["goal_event"]), ("control", ["reserved_event"])):
        goal = Goal(event=event, within_ms=1000, value=1.0)
        found = faults(replace(GOOD, placements=(replace(PLACEMENT, goal=goal),)))
        assert found == [f"placements.web.goal.event {code}" for code in codes]


def test_width_fits_to_the_last_column() -> None:
    room = limits.FEATURE_WIDTH - BUILT_IN_WIDTH
    assert faults(replace(GOOD, features=(onehot("a", room),))) == []
    assert faults(replace(GOOD, features=(onehot("a", room + 1),))) == ["features.a.encode too_wide"]


def test_candidates_are_bounded_per_placement() -> None:
    actions = tuple(replace(ACTION, name=f"a{i}") for i in range(limits.CANDIDATES + 1))
    assert faults(replace(GOOD, actions=actions)) == ["placements.web too_many_candidates"]
    assert faults(replace(GOOD, actions=actions[1:])) == []


def test_a_recovery_action_may_ask_without_giving() -> None:
    assert faults(with_action(replace(ACTION, asks=("time",), action_class="recovery"))) == []


def test_width_of_every_encoding() -> None:
    kinds = {"standard": 1, "log": 1, "flag": 1, "none": 0, "onehot": 2, "hash": 8}
    for kind, width in kinds.items():
        encoding = replace(Encoding(kind="none", categories=("a", "b"), buckets=8), kind=kind)
        assert feature_width(Feature(name="f", type="number", encoding=encoding, default=0.0)) == width


def test_a_finding_without_place_prints_path_and_message() -> None:
    assert str(Finding(path="actions.a", code="x", message="wrong")) == "actions.a: wrong"
    assert str(Finding(source="c.yaml", path="", code="x", message="wrong")) == "c.yaml: wrong"


def treatments(*made: Treatment) -> Catalog:
    return with_action(replace(ACTION, treatments=made))


@pytest.mark.parametrize(
    "policy", [{"eligible": "true"}, {"applicable": "true"}, {"suitable": "true"}, {"starts_ms": 1}, {"ends_ms": 1}]
)
def test_a_second_treatment_needs_a_first_that_may_be_held_back(policy: dict[str, Any]) -> None:
    other, last = replace(HERO, name="other"), replace(HERO, name="last")
    assert faults(treatments(replace(HERO, **policy), other)) == []
    assert faults(treatments(replace(HERO, **policy), replace(other, **policy), last)) == []
    path = "actions.upgrade.treatments.last.placements[0]"
    assert faults(treatments(replace(HERO, **policy), other, last)) == [f"{path} second_treatment"]


DAY = replace(GOOD.actions[0], name="day", cost=2.0)
BUDGET = Budget(name="gifts", actions=("day",), money=10.0, per_ms=1000)
STEP = JourneyStep(name="opened", event="account_opened")
TIER = Feature(name="tier", type="category", encoding=Encoding(kind="onehot", categories=("a", "b")), default="c")
MOBILE = Feature(name="mobile", type="boolean", encoding=Encoding(kind="flag"), default=False, origin="context")
SHOWS_DAY = replace(PLACEMENT, default=DefaultChoice(action="day", treatment="hero"))
RICH = replace(
    GOOD,
    features=(TIER, MOBILE),
    actions=(ACTION, DAY),
    budgets=(BUDGET,),
    journeys=(Journey(name="onboarding", steps=(STEP,)),),
    concerns=(Concern(name="trouble", opens=("failed_payment",)),),
)


def contact(**parts: Any) -> Catalog:
    return replace(RICH, contact=ContactPolicy(**parts))


def budget(**parts: Any) -> Catalog:
    return replace(RICH, budgets=(replace(BUDGET, **parts),))


def steps(*made: JourneyStep) -> Catalog:
    return replace(RICH, journeys=(Journey(name="onboarding", steps=made),))


def concern(**parts: Any) -> Catalog:
    return replace(RICH, concerns=(Concern(**({"name": "trouble", "opens": ("failed_payment",)} | parts)),))


def visits(event: str) -> Feature:
    origin = Aggregate(event=event, kind="count", window_ms=1000)
    return Feature(name="visits", type="number", encoding=Encoding(kind="none"), default=0.0, origin=origin)


@pytest.mark.parametrize(
    ("catalog", "found"),
    [
        (RICH, []),
        (contact(channels={"web": ContactRule(), "wed": ContactRule()}), ["contact.channels.wed unknown_channel"]),
        (
            contact(quiet_hours=(QuietHours(from_minute=0, to_minute=1, channels=("web", "tv")),)),
            ["contact.quiet_hours[0].channels[1] unknown_channel"],
        ),
        (contact(exclusive=(("upgrade", "day"),)), []),
        (contact(exclusive=(("upgrade", "dya"),)), ["contact.exclusive[0][1] unknown_action"]),
        (contact(exclusive=(("upgrade",),)), ["contact.exclusive[0] too_few"]),
        (replace(RICH, consent=ConsentPolicy(channels={"tv": "opt_in"})), ["consent.channels.tv unknown_channel"]),
        (replace(RICH, time_zone_feature="tier"), []),
        (replace(RICH, time_zone_feature="zone"), ["time_zone.feature unknown_feature"]),
        (replace(RICH, time_zone_feature="mobile"), ["time_zone.feature time_zone_feature"]),
        (
            replace(RICH, features=(replace(TIER, origin="context"),), time_zone_feature="tier"),
            ["time_zone.feature time_zone_feature"],
        ),
        (
            replace(RICH, features=(replace(TIER, type="number"),), time_zone_feature="tier"),
            ["time_zone.feature time_zone_feature"],
        ),
        (budget(actions=("dya",)), ["budgets.gifts.actions[0] unknown_action"]),
        (budget(groups=("card",)), ["budgets.gifts.groups[0] unknown_group"]),
        (budget(actions=(), groups=("cards",), money=0.0, units=1), []),
        (budget(actions=(), groups=("cards",)), ["actions.upgrade.cost no_cost"]),
        (budget(actions=(), units=1), ["budgets.gifts no_action"]),
        (budget(money=0.0), ["budgets.gifts no_bound"]),
        (budget(money=1.99), ["actions.day.cost cost_above_budget"]),
        (budget(money=2.0), []),
        (replace(RICH, placements=(SHOWS_DAY,)), ["placements.web.default.action default_with_budget"]),
        (
            replace(budget(actions=(), groups=("cards",), money=0.0, units=1), placements=(SHOWS_DAY,)),
            ["placements.web.default.action default_with_budget"],
        ),
        (replace(RICH, actions=(ACTION, replace(DAY, not_with=("upgrade",)))), []),
        (replace(RICH, actions=(ACTION, replace(DAY, not_with=("up",)))), ["actions.day.not_with[0] unknown_action"]),
        (replace(RICH, actions=(ACTION, replace(DAY, not_with=("day",)))), ["actions.day.not_with with_itself"]),
        (replace(RICH, groups=(replace(GROUP, starts_ms=2, ends_ms=3),)), []),
        (replace(RICH, groups=(replace(GROUP, starts_ms=2, ends_ms=2),)), ["groups.cards.ends ends_before_starts"]),
        (
            replace(RICH, actions=(ACTION, replace(DAY, starts_ms=3, ends_ms=2))),
            ["actions.day.ends ends_before_starts"],
        ),
        (
            treatments(replace(HERO, starts_ms=3, ends_ms=2)),
            ["actions.upgrade.treatments.hero.ends ends_before_starts"],
        ),
        (
            treatments(replace(HERO, placements=("web", "web"))),
            ["actions.upgrade.treatments.hero.placements[1] duplicate"],
        ),
        (replace(RICH, features=(TIER, MOBILE, visits("page_view"))), []),
        (replace(RICH, features=(TIER, MOBILE, visits("consent"))), ["features.visits.from.event reserved_event"]),
        (steps(replace(STEP, event="consent")), ["journeys.onboarding.steps.opened.event reserved_event"]),
        (steps(STEP, JourneyStep(name="funded", event="e", after=("opened",))), []),
        (
            steps(STEP, JourneyStep(name="funded", event="e", after=("openned",))),
            ["journeys.onboarding.steps.funded.after[0] unknown_step"],
        ),
        (steps(replace(STEP, after=("opened",))), ["journeys.onboarding.steps.opened.after after_itself"]),
        (concern(opens=("a", "consent")), ["concerns.trouble.opens[1] reserved_event"]),
        (concern(resolves=("consent",)), ["concerns.trouble.resolves[0] reserved_event"]),
        (concern(resolves=("failed_payment",)), ["concerns.trouble.resolves opens_and_resolves"]),
        (concern(name="onboarding"), ["concerns.onboarding name_clash"]),
        (concern(name="tier"), ["concerns.tier name_clash"]),
        (concern(name="in"), ["concerns.in reserved"]),
        (replace(RICH, journeys=(Journey(name="tier", steps=(STEP,)),)), ["journeys.tier name_clash"]),
    ],
)
def test_guardrails_are_held_to_what_there_is(catalog: Catalog, found: list[str]) -> None:
    assert faults(catalog) == found


def example(expect: Expect | None = None, **given: Any) -> Catalog:
    told = Given(**({"placement": "web"} | given))
    return replace(RICH, examples=(Example(name="one", given=told, expect=expect or Expect(silent=True)),))


@pytest.mark.parametrize(
    ("catalog", "found"),
    [
        (example(), []),
        (example(placement="wed"), ["given.placement unknown_placement"]),
        (example(slots=1), []),
        (example(slots=2), ["given.slots range"]),
        (example(customer={"tier": "b"}, request={"mobile": True}), []),
        (example(customer={"tier": "c"}), []),
        (example(customer={"tier": ""}), []),
        (example(customer={"tier": "d"}), ["given.customer.tier unknown_category"]),
        (example(customer={"tier": 1.0}), ["given.customer.tier type"]),
        (example(customer={"tiger": "a"}), ["given.customer.tiger unknown_feature"]),
        (example(customer={"mobile": True}), ["given.customer.mobile elsewhere"]),
        (example(request={"tier": "a"}), ["given.request.tier elsewhere"]),
        (example(request={"mobile": 1.0}), ["given.request.mobile type"]),
        (example(request={"channel": "web"}), ["given.request.channel follows"]),
        (example(relationship={"balance": -3.0, "ignored_30d": 2.0}), []),
        (example(relationship={"balanc": -3.0}), ["given.relationship.balanc unknown_relationship"]),
        (example(relationship={"strain": 1.0}), ["given.relationship.strain range"]),
        (example(relationship={"ignored_30d": 1e12}), ["given.relationship.ignored_30d range"]),
        (example(relationship={"minutes_since_prompt": -1.0}), ["given.relationship.minutes_since_prompt range"]),
        (example(journey={"onboarding": "opened"}), []),
        (example(journey={"onboarding": ""}), []),
        (example(journey={"onboarding": "open"}), ["given.journey.onboarding unknown_step"]),
        (example(journey={"boarding": ""}), ["given.journey.boarding unknown_journey"]),
        (example(concern={"trouble": True}), []),
        (example(concern={"troubles": True}), ["given.concern.troubles unknown_concern"]),
        (example(seen={"day": (1,)}, paused=("day",), spent=("gifts",)), []),
        (example(seen={"dya": (1,)}), ["given.seen.dya unknown_action"]),
        (example(paused=("dya",)), ["given.paused[0] unknown_action"]),
        (example(spent=("gift",)), ["given.spent[0] unknown_budget"]),
        (example(consent={"contact": True, "contact:web": False, "personalise": True, "learn": False}), []),
        (example(consent={"contact:tv": True}), ["given.consent.'contact:tv' unknown_channel"]),
        (example(consent={"contact:": True}), ["given.consent.'contact:' unknown_channel"]),
        (example(consent={"sell": True}), ["given.consent.sell unknown_purpose"]),
        (example(Expect()), ["expect expects_nothing"]),
        (example(Expect(allowed=("day",), blocked={"upgrade": ""})), []),
        (example(Expect(allowed=("dya",))), ["expect.allowed[0] unknown_action"]),
        (example(Expect(blocked={"dya": ""})), ["expect.blocked.dya unknown_action"]),
        (example(Expect(blocked={"day": "paused"})), []),
        (example(Expect(blocked={"day": "pause"})), ["expect.blocked.day unknown_reason"]),
        (example(Expect(ranked=(("day", "upgrade"),))), []),
        (example(Expect(ranked=(("day",),))), ["expect.ranked[0] too_few"]),
        (example(Expect(ranked=(("day", "dya"),))), ["expect.ranked[0][1] unknown_action"]),
        (example(Expect(allowed=("day",), blocked={"day": ""})), ["expect.blocked.day contradiction"]),
        (example(Expect(allowed=("day",), silent=True)), ["expect.silent contradiction"]),
    ],
)
def test_examples_speak_of_what_there_is(catalog: Catalog, found: list[str]) -> None:
    assert [each.removeprefix("examples.one.") for each in faults(catalog)] == found


def test_suggestions_stop_before_they_take_seconds() -> None:
    groups = tuple(Group(name=f"group_{i}") for i in range(5000))
    actions = tuple(replace(ACTION, name=f"a{i}", group=f"qroup_{i}") for i in range(1000))
    found = list(catalog_faults(replace(GOOD, groups=groups, actions=actions)))
    hinted = [each for each in found if "Did you mean" in each.message]
    assert len(found) == 1000
    assert 5 < len(hinted) < 50
