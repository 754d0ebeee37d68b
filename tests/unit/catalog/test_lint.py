from __future__ import annotations

import time

import pytest
from msgspec.structs import replace

from benchmarks.catalogs import guarded
from nbx.catalog.lint import lint_catalog
from nbx.catalog.model import (
    Action,
    Catalog,
    Concern,
    ContactPolicy,
    ContactRule,
    ContextWeight,
    DefaultChoice,
    Group,
    Journey,
    JourneyStep,
    Limit,
    Pause,
    Placement,
    Treatment,
)
from nbx.features.schema import Aggregate, Encoding, Feature

DAY_MS = 86_400_000
WEEKLY = Limit(max=3, per_ms=7 * DAY_MS)
HERO = Treatment(name="hero", placements=("web",))
ACTION = Action(name="upgrade", group="cards", owner="team", treatments=(HERO,))
PLACEMENT = Placement(name="web", channel="web", impressions="reported")
GOOD = Catalog(name="good", placements=(PLACEMENT,), groups=(Group(name="cards", limits=(WEEKLY,)),), actions=(ACTION,))
RULE = ContactRule(limits=(WEEKLY,))
OVERALL = ContactPolicy(overall=RULE)
FLAG = Feature(name="flag", type="boolean", encoding=Encoding(kind="none"), default=False)
LEAN = replace(GOOD, groups=(Group(name="cards"),))
"""A group without limits, and a contact policy that has one."""


def with_contact(contact: ContactPolicy, *limits: Limit, action_class: str = "promotional") -> Catalog:
    action = replace(ACTION, action_class=action_class, limits=limits)
    return replace(LEAN, contact=contact, actions=(action,))


def limited(*limits: Limit) -> Catalog:
    return replace(GOOD, actions=(replace(ACTION, limits=limits),))


def with_steps(*steps: JourneyStep) -> Catalog:
    action = replace(ACTION, eligible="journey.start == ''")
    return replace(GOOD, journeys=(Journey(name="start", steps=steps),), actions=(action,))


def with_default(action: Action, **of_group: object) -> Catalog:
    spot = replace(PLACEMENT, default=DefaultChoice(action="upgrade", treatment="hero"))
    group = replace(GOOD.groups[0], **of_group)
    return replace(GOOD, features=(FLAG,), placements=(spot,), groups=(group,), actions=(action,))


def told(catalog: Catalog) -> list[tuple[str, str]]:
    return [(each.path, each.code) for each in lint_catalog(catalog)]


def test_a_good_catalog_has_no_warnings() -> None:
    assert told(GOOD) == []


def feature(**changes: object) -> Catalog:
    return replace(GOOD, features=(replace(FLAG, **changes),))


@pytest.mark.parametrize(
    ("catalog", "path", "code"),
    [
        (replace(GOOD, placements=(PLACEMENT, replace(PLACEMENT, name="app"))), "placements.app", "unused"),
        (replace(GOOD, groups=(*GOOD.groups, Group(name="idle"))), "groups.idle", "unused"),
        (feature(), "features.flag", "unused"),
        (replace(GOOD, concerns=(Concern(name="payment", opens=("x",)),)), "concerns.payment", "unused"),
        (
            replace(GOOD, journeys=(Journey(name="start", steps=(JourneyStep(name="a", event="a"),)),)),
            "journeys.start",
            "unused",
        ),
        (replace(GOOD, actions=(replace(ACTION, owner=""),)), "actions.upgrade.owner", "no_owner"),
        (LEAN, "actions.upgrade.limits", "no_limit"),
        (with_contact(replace(OVERALL, exempt=("promotional",))), "actions.upgrade.limits", "no_limit"),
        (
            replace(GOOD, actions=(replace(ACTION, action_class="service", asks=("time",)),)),
            "actions.upgrade.asks",
            "asks_without_gives",
        ),
        (
            feature(type="category", default="a", encoding=Encoding(kind="onehot", categories=("a",))),
            "features.flag.encode",
            "constant_feature",
        ),
        (
            feature(
                type="number",
                default=0.0,
                encoding=Encoding(kind="log"),
                origin=Aggregate(event="visit", kind="time_since"),
            ),
            "features.flag.default",
            "never_is_recent",
        ),
        (
            with_steps(
                JourneyStep(name="a", event="a"),
                JourneyStep(name="b", event="b", after=("c", "d")),
                JourneyStep(name="c", event="c", after=("a",)),
                JourneyStep(name="e", event="e", after=("f",)),
                JourneyStep(name="d", event="d", after=("b",)),
                JourneyStep(name="f", event="f", after=("f",)),
            ),
            "journeys.start.steps.e journeys.start.steps.f",
            "unreachable_step",
        ),
        (
            replace(GOOD, actions=(replace(ACTION, pause=Pause(ignored_ms=1_799_999)),)),
            "actions.upgrade.pause.ignored",
            "attention_longer_than_pause",
        ),
        (
            replace(GOOD, groups=(replace(GOOD.groups[0], pause=Pause(ignored_ms=60_000)),)),
            "actions.upgrade.pause.ignored",
            "attention_longer_than_pause",
        ),
        (
            replace(GOOD, actions=(replace(ACTION, pause=Pause(ignored_ms=DAY_MS), attention_ms=2 * DAY_MS),)),
            "actions.upgrade.pause.ignored",
            "attention_longer_than_pause",
        ),
        (with_default(replace(ACTION, suitable="customer.flag")), "placements.web.default", "default_held_back"),
        (with_default(replace(ACTION, ends_ms=5)), "placements.web.default", "default_held_back"),
        (
            with_default(replace(ACTION, limits=(Limit(max=1, per_ms=1),))),
            "placements.web.default",
            "default_held_back",
        ),
        (with_default(ACTION, eligible="customer.flag"), "placements.web.default", "default_held_back"),
        (
            with_default(replace(ACTION, treatments=(replace(HERO, applicable="customer.flag"),))),
            "placements.web.default",
            "default_held_back",
        ),
    ],
)
def test_each_rule_warns_alone(catalog: Catalog, path: str, code: str) -> None:
    found = [each for each in told(catalog) if each != ("features.flag", "unused") or code == "unused"]
    assert found == [(each, code) for each in path.split()]


@pytest.mark.parametrize(
    "catalog",
    [
        with_contact(OVERALL),
        with_contact(ContactPolicy(classes={"promotional": RULE})),
        replace(GOOD, actions=(replace(ACTION, pause=Pause(ignored_ms=1_800_000)),)),
        replace(GOOD, actions=(replace(ACTION, pause=Pause(declined_ms=1)),)),
        with_steps(JourneyStep(name="a", event="a"), JourneyStep(name="b", event="b", after=("a", "b"))),
        replace(
            feature(), actions=(replace(ACTION, context_weights=(ContextWeight(when="customer.flag", weight=2.0),)),)
        ),
        replace(feature(), groups=(replace(GOOD.groups[0], applicable="customer.flag"),)),
        replace(feature(), actions=(replace(ACTION, treatments=(replace(HERO, suitable="customer.flag"), HERO)),)),
        replace(feature(type="category", default=""), time_zone_feature="flag"),
        replace(feature(origin="context"), actions=(replace(ACTION, eligible="request.flag"),)),
        feature(encoding=Encoding(kind="flag")),
        replace(with_default(replace(ACTION, name="other")), features=()),
        replace(GOOD, actions=(replace(ACTION, action_class="service", asks=("time",), gives=("help",)),)),
    ],
)
def test_what_is_meant_is_not_warned_of(catalog: Catalog) -> None:
    assert told(catalog) == []


@pytest.mark.parametrize(
    ("catalog", "path", "reason"),
    [
        # of one owner
        (limited(Limit(max=2, per_ms=DAY_MS), Limit(max=2, per_ms=9)), "actions.upgrade.limits[1]", "2 per 1 day is"),
        (limited(Limit(max=1, per_ms=9), Limit(max=1, per_ms=9)), "actions.upgrade.limits[1]", "is stricter"),
        # of what stands around it
        (limited(WEEKLY), "actions.upgrade.limits[0]", "3 per 7 days of groups.cards"),
        (with_contact(OVERALL, Limit(max=4, per_ms=DAY_MS)), "actions.upgrade.limits[0]", "of contact is"),
        (
            with_contact(ContactPolicy(classes={"service": RULE}), WEEKLY, action_class="service"),
            "actions.upgrade.limits[0]",
            "of contact.classes.service",
        ),
        (replace(GOOD, contact=OVERALL), "groups.cards.limits[0]", "of contact is"),
        (
            replace(GOOD, contact=ContactPolicy(classes={"promotional": RULE})),
            "groups.cards.limits[0]",
            "of contact.classes.promotional",
        ),
        (
            with_contact(replace(OVERALL, classes={"service": RULE})),
            "contact.classes.service.limits[0]",
            "of contact is",
        ),
        (with_contact(replace(OVERALL, channels={"web": RULE})), "contact.channels.web.limits[0]", "of contact is"),
        # gaps
        (
            with_contact(ContactPolicy(overall=replace(RULE, gap_ms=7 * DAY_MS))),
            "contact.limits[0]",
            "the gap of 7 days of contact is as long",
        ),
        (
            with_contact(ContactPolicy(overall=ContactRule(gap_ms=DAY_MS)), Limit(max=1, per_ms=DAY_MS)),
            "actions.upgrade.limits[0]",
            "the gap of 1 day",
        ),
        # a class that nothing holds back
        (
            replace(GOOD, contact=ContactPolicy(classes={"mandatory": RULE})),
            "contact.classes.mandatory",
            "the class is exempt",
        ),
    ],
)
def test_a_limit_without_effect_is_told_with_what_makes_it_void(catalog: Catalog, path: str, reason: str) -> None:
    [finding] = [each for each in lint_catalog(catalog) if each.code != "no_limit"]
    assert (finding.path, finding.code) == (path, "limit_without_effect")
    assert reason in finding.message


@pytest.mark.parametrize(
    "catalog",
    [
        replace(
            GOOD, actions=(replace(ACTION, limits=(Limit(max=1, per_ms=DAY_MS), Limit(max=2, per_ms=7 * DAY_MS))),)
        ),
        with_contact(OVERALL, WEEKLY, action_class="mandatory"),
        with_contact(ContactPolicy(classes={"service": RULE}), WEEKLY),
        with_contact(ContactPolicy(overall=replace(RULE, gap_ms=7 * DAY_MS - 1))),
        replace(
            GOOD,
            contact=OVERALL,
            actions=(ACTION, replace(ACTION, name="must", action_class="mandatory")),
        ),
        replace(
            GOOD,
            contact=ContactPolicy(classes={"promotional": RULE}),
            actions=(ACTION, replace(ACTION, name="help", action_class="service")),
        ),
    ],
)
def test_a_limit_that_bounds_something_is_not_accused(catalog: Catalog) -> None:
    assert told(catalog) == []


def test_500_actions_with_every_guardrail_are_quick() -> None:
    catalog = guarded(500, 40, 500)
    start = time.process_time()
    lint_catalog(catalog)
    assert time.process_time() - start < 0.8  # measured: 0.1
