from __future__ import annotations

import pytest
from msgspec.structs import replace

from nbx.catalog.lint import lint_catalog
from nbx.catalog.model import Action, Catalog, ContextWeight, Group, Limit, Placement, Treatment
from nbx.features.schema import Encoding, Feature

NUMBER = Encoding(kind="standard")
AGE = Feature(name="age", type="number", encoding=NUMBER, default=0.0)
HOUR = Feature(name="hour", type="number", encoding=NUMBER, default=0.0, origin="context")
HERO = Treatment(name="hero", placements=("web",))
ACTION = Action(name="upgrade", group="cards", owner="team", treatments=(HERO,))
GROUP = Group(name="cards", limits=(Limit(max=3, per_ms=1000),))
GOOD = Catalog(
    name="good",
    features=(AGE, HOUR),
    placements=(
        Placement(name="web", channel="browser", impressions="reported"),
        Placement(name="app", channel="phone", impressions="reported"),
    ),
    groups=(GROUP,),
    actions=(ACTION, replace(ACTION, name="tip", treatments=(Treatment(name="t", placements=("web", "app")),))),
)
IMPOSSIBLE = "relationship.strain > 0.5 && relationship.strain < 0.2"
OLD, YOUNG = "customer.age > 65", "customer.age < 18"


def case(group: Group = GROUP, **of_action: object) -> Catalog:
    return replace(GOOD, groups=(group,), actions=(replace(ACTION, **of_action), GOOD.actions[1]))


def treated(*treatments: Treatment, **of_action: object) -> Catalog:
    return case(GROUP, treatments=treatments, **of_action)


def told(catalog: Catalog) -> list[tuple[str, str]]:
    return [(each.path, each.code) for each in lint_catalog(catalog)]


def test_a_good_catalog_has_no_warnings() -> None:
    assert told(GOOD) == []


@pytest.mark.parametrize(
    ("catalog", "path", "code"),
    [
        (case(eligible=IMPOSSIBLE), "actions.upgrade.eligible", "never_eligible"),
        (case(suitable="false"), "actions.upgrade.suitable", "never_eligible"),
        (treated(replace(HERO, applicable=IMPOSSIBLE)), "actions.upgrade.treatments.hero.applicable", "never_eligible"),
        (case(replace(GROUP, ends_ms=5), starts_ms=5), "actions.upgrade", "never_eligible"),
        (case(replace(GROUP, starts_ms=9), ends_ms=5), "actions.upgrade", "never_eligible"),
        (treated(replace(HERO, ends_ms=5), starts_ms=7), "actions.upgrade.treatments.hero", "never_eligible"),
        (case(eligible=OLD, suitable=YOUNG), "actions.upgrade", "contradictory_layers"),
        (case(replace(GROUP, eligible=OLD), eligible=YOUNG), "actions.upgrade", "contradictory_layers"),
        (
            treated(replace(HERO, suitable=YOUNG), eligible=OLD),
            "actions.upgrade.treatments.hero",
            "contradictory_layers",
        ),
        (
            treated(Treatment(name="hero", placements=("web", "app"), eligible="request.placement != 'app'")),
            "actions.upgrade.treatments.hero.placements[1]",
            "contradictory_layers",
        ),
        (
            treated(HERO, replace(HERO, name="other"), replace(HERO, name="last", placements=("app",))),
            "actions.upgrade.treatments.other.placements[0]",
            "unreachable_treatment",
        ),
        (
            treated(replace(HERO, eligible=OLD), replace(HERO, name="other", eligible="customer.age > 70"), HERO),
            "actions.upgrade.treatments.other.placements[0]",
            "unreachable_treatment",
        ),
        (
            treated(replace(HERO, eligible="request.hour > 3"), replace(HERO, name="b"), eligible="request.hour > 4"),
            "actions.upgrade.treatments.b.placements[0]",
            "unreachable_treatment",
        ),
        (
            treated(replace(HERO, ends_ms=9), replace(HERO, name="other", starts_ms=2, ends_ms=9), HERO),
            "actions.upgrade.treatments.other.placements[0]",
            "unreachable_treatment",
        ),
        (
            case(context_weights=(ContextWeight(when=OLD, weight=2.0),), eligible=YOUNG),
            "actions.upgrade.context_weights[0]",
            "weight_never_applies",
        ),
        (
            case(replace(GROUP, context_weights=(ContextWeight(when=IMPOSSIBLE, weight=2.0),))),
            "groups.cards.context_weights[0]",
            "weight_never_applies",
        ),
        (
            case(context_weights=(ContextWeight(when=OLD, weight=1.0),)),
            "actions.upgrade.context_weights[0]",
            "weight_never_applies",
        ),
    ],
)
def test_each_rule_warns_alone(catalog: Catalog, path: str, code: str) -> None:
    assert told(catalog) == [(path, code)]


@pytest.mark.parametrize(
    "catalog",
    [
        case(replace(GROUP, starts_ms=5), ends_ms=6),
        case(starts_ms=7, ends_ms=5),  # a fault of its own
        treated(replace(HERO, eligible="request.placement == 'web' && request.channel == 'browser'")),
        treated(replace(HERO, eligible=OLD), replace(HERO, name="other", eligible="customer.age > 60"), HERO),
        treated(replace(HERO, ends_ms=9), replace(HERO, name="other")),
        treated(replace(HERO, starts_ms=3), replace(HERO, name="other")),
        treated(replace(HERO, ends_ms=9), replace(HERO, name="other", ends_ms=10)),
        # true of all ages, but not of a customer who does not let them be used
        treated(replace(HERO, eligible="customer.age > 3 || customer.age <= 3"), replace(HERO, name="other")),
        case(context_weights=(ContextWeight(when=OLD, weight=2.0),), eligible="customer.age > 3"),
        case(eligible="not a condition", suitable=OLD),
    ],
)
def test_what_may_happen_is_not_warned_of(catalog: Catalog) -> None:
    assert told(catalog) == []


def test_what_can_never_hold_is_told_where_it_stands_and_not_again() -> None:
    weights = (ContextWeight(when=OLD, weight=2.0),)
    catalog = case(replace(GROUP, eligible=IMPOSSIBLE), eligible=OLD, suitable=YOUNG, context_weights=weights)
    clashing = case(GROUP, eligible=OLD, suitable=YOUNG, context_weights=weights)
    assert told(clashing) == [("actions.upgrade", "contradictory_layers")]
    two = (replace(HERO, eligible=OLD), replace(HERO, name="other"))
    assert told(case(GROUP, treatments=two, eligible=IMPOSSIBLE)) == [("actions.upgrade.eligible", "never_eligible")]
    assert told(catalog) == [
        ("groups.cards.eligible", "never_eligible"),
        ("placements.web", "no_treatment_for_placement"),
        ("placements.app", "no_treatment_for_placement"),
    ]


def test_a_placement_of_which_every_action_is_out_is_told() -> None:
    catalog = replace(GOOD, actions=(replace(GOOD.actions[1], eligible="request.channel == 'browser'"),))
    assert told(catalog) == [
        ("actions.tip.treatments.t.placements[1]", "contradictory_layers"),
        ("placements.app", "no_treatment_for_placement"),
    ]


def test_the_clash_is_told_in_words() -> None:
    [finding] = lint_catalog(case(replace(GROUP, eligible=OLD), suitable=YOUNG))
    assert "customer.age is above 65 and customer.age is below 18" in finding.message
