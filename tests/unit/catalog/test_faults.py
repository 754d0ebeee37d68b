from __future__ import annotations

import pytest
from msgspec.structs import replace

from nbx import limits
from nbx.catalog.faults import BUILT_IN_WIDTH, SLOT_EVENTS, catalog_faults, feature_width
from nbx.catalog.findings import Finding
from nbx.catalog.model import Action, Catalog, DefaultChoice, Goal, Group, Limit, Placement, Treatment
from nbx.experience import lifecycle
from nbx.features.schema import Encoding, Feature

HERO = Treatment(name="hero", placements=("web",))
GOOD = Catalog(
    name="good",
    placements=(Placement(name="web", channel="web", impressions="reported"),),
    groups=(Group(name="cards", limits=(Limit(max=1, per_ms=1000),)),),
    actions=(Action(name="upgrade", group="cards", owner="team", treatments=(HERO,)),),
)
ACTION = GOOD.actions[0]
PLACEMENT = GOOD.placements[0]


def with_action(action: Action) -> Catalog:
    return replace(GOOD, actions=(action,))


def onehot(name: str, count: int) -> Feature:
    categories = tuple(f"c{i}" for i in range(count))
    return Feature(name=name, type="category", encoding=Encoding(kind="onehot", categories=categories), default="")


def test_a_good_catalog_has_no_faults() -> None:
    assert catalog_faults(GOOD) == []


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
    assert [(each.path, each.code) for each in catalog_faults(catalog)] == [(path, code)]


def test_no_goal_is_an_event_of_a_slot() -> None:
    """The list is kept in the catalog, which knows nothing of the life of slots."""
    assert SLOT_EVENTS >= lifecycle.SLOT_EVENTS
    for event, codes in (("came_back", []), ("seen", ["goal_event"]), ("no_time", ["goal_event"])):
        goal = Goal(event=event, within_ms=1000, value=1.0)
        found = catalog_faults(replace(GOOD, placements=(replace(PLACEMENT, goal=goal),)))
        assert [each.code for each in found] == codes


def test_width_fits_to_the_last_column() -> None:
    room = limits.FEATURE_WIDTH - BUILT_IN_WIDTH
    assert catalog_faults(replace(GOOD, features=(onehot("a", room),))) == []
    assert [each.code for each in catalog_faults(replace(GOOD, features=(onehot("a", room + 1),)))] == ["too_wide"]


def test_candidates_are_bounded_per_placement() -> None:
    actions = tuple(replace(ACTION, name=f"a{i}") for i in range(limits.CANDIDATES + 1))
    assert [each.code for each in catalog_faults(replace(GOOD, actions=actions))] == ["too_many_candidates"]
    assert catalog_faults(replace(GOOD, actions=actions[1:])) == []


def test_a_recovery_action_may_ask_without_giving() -> None:
    assert catalog_faults(with_action(replace(ACTION, asks=("time",), action_class="recovery"))) == []


def test_width_of_every_encoding() -> None:
    kinds = {"standard": 1, "log": 1, "flag": 1, "none": 0, "onehot": 2, "hash": 8}
    for kind, width in kinds.items():
        encoding = replace(Encoding(kind="none", categories=("a", "b"), buckets=8), kind=kind)
        assert feature_width(Feature(name="f", type="number", encoding=encoding, default=0.0)) == width


def test_a_finding_without_place_prints_path_and_message() -> None:
    assert str(Finding(path="actions.a", code="x", message="wrong")) == "actions.a: wrong"
    assert str(Finding(source="c.yaml", path="", code="x", message="wrong")) == "c.yaml: wrong"
