from __future__ import annotations

from msgspec.structs import replace

from nbx.catalog.lint import lint_catalog
from nbx.catalog.model import Action, Catalog, Group, Limit, Placement, Treatment
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


def onehot(name: str, count: int) -> Feature:
    categories = tuple(f"c{i}" for i in range(count))
    return Feature(name=name, type="category", encoding=Encoding(kind="onehot", categories=categories), default="")


def test_a_good_catalog_has_no_warnings() -> None:
    assert lint_catalog(GOOD) == []


def test_warnings_name_what_is_probably_not_meant() -> None:
    recent = Feature(
        name="hours",
        type="number",
        encoding=Encoding(kind="log"),
        default=0.0,
        origin=Aggregate(event="visit", kind="time_since"),
    )
    catalog = replace(
        GOOD,
        features=(onehot("tier", 3), recent),
        placements=(PLACEMENT, replace(PLACEMENT, name="app")),
        groups=(Group(name="cards"), Group(name="idle")),
        actions=(replace(ACTION, owner="", eligible="customer.tier == 'c9' || customer.tier != ''"),),
    )
    assert [(each.path, each.code) for each in lint_catalog(catalog)] == [
        ("placements.app", "unused"),
        ("groups.idle", "unused"),
        ("actions.upgrade.owner", "no_owner"),
        ("actions.upgrade.limits", "no_limit"),
        ("actions.upgrade.eligible", "unknown_category"),
        ("features.hours.default", "never_is_recent"),
    ]
