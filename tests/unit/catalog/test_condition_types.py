from __future__ import annotations

import pytest

from nbx.catalog.conditions import check_condition
from nbx.catalog.model import Journey, JourneyStep, Placement
from nbx.catalog.vocabulary import is_personal_path, vocabulary
from nbx.features.schema import Aggregate, Encoding, Feature

NONE = Encoding(kind="none")
FEATURES = [
    Feature(name="age", type="number", encoding=NONE, default=42.0),
    Feature(name="flag", type="boolean", encoding=NONE, default=False),
    Feature(
        name="tier", type="category", encoding=Encoding(kind="onehot", categories=("plus", "gold")), default="basic"
    ),
    Feature(name="city", type="category", encoding=NONE, default=""),
    Feature(name="is_mobile", type="boolean", encoding=NONE, default=False, origin="context"),
    Feature(
        name="visits", type="number", encoding=NONE, default=0.0, origin=Aggregate(event="v", kind="count", window_ms=9)
    ),
    Feature(name="since", type="number", encoding=NONE, default=-1.0, origin=Aggregate(event="v", kind="time_since")),
    Feature(
        name="spent", type="number", encoding=NONE, default=0.0, origin=Aggregate(event="v", kind="sum", window_ms=9)
    ),
]
WORDS = vocabulary(
    FEATURES,
    [Journey(name="onboarding", steps=(JourneyStep(name="opened", event="o"), JourneyStep(name="funded", event="f")))],
    placements=[Placement(name="hero", channel="web", impressions="reported")],
)


@pytest.mark.parametrize(
    ("source", "offset", "code", "message"),
    [
        ("customer.flag && customer.agee > 1", 17, "name", "Did you mean `customer.age`"),
        ("tier == 'gold'", 0, "name", "Did you mean `customer.tier`"),
        ("customer.is_mobile", 0, "name", "Did you mean `request.is_mobile`"),
        ("customer.onboarding == 'opened'", 0, "name", "Did you mean `journey.onboarding`"),
        ("zzz > 1", 0, "name", "Names are customer.<feature>"),
        ("size(customer) > 1", 5, "name", "cannot stand alone: name one value, such as `customer.age`"),
        ("customer.age.years > 1", 0, "name", "`customer.age` is a number: it has no `years`"),
        ("['a'].exists(x, x.y == 'a')", 16, "name", "it has no `y`"),
        ("['a'].exists(customer, true)", 13, "name", "is taken"),
        ("['a'].exists(x, true) && x == 'a'", 25, "name", "unknown name `x`"),
        ("lower(customer.tier) == 'gold'", 0, "function", "unknown function `lower`"),
        ("customer.tier.startWith('g')", 14, "function", "Did you mean `startsWith`"),
        ("startsWith(customer.tier, 'g')", 0, "function", "is written `a.startsWith(b)`"),
        ("customer.city.contains('a', 'b')", 14, "function", "is written `a.contains(b)`"),
        ("size() == 1", 0, "function", "is written `size(a)`"),
        ("has(customer.age)", 0, "function", "always true"),
        ("customer.age", 0, "type", "must be true or false, is a number"),
        ("customer.flag || !(false && customer.tier)", 28, "type", "must be true or false, is a text"),
        ("customer.flag ? true : customer.tier > 1", 23, "type", "a text and a whole number"),
        ("customer.age ? true : false", 0, "type", "must be true or false"),
        ("customer.flag ? (customer.flag ? 1 : 'a') == 1 : true", 37, "type", "one arm is a whole number, the other"),
        ("false && customer.age + 1 > 3.0", 9, "type", "write whole numbers as 1.0"),
        ("size(customer.city) * 2.0 > 3", 0, "type", "do not mix"),
        ("customer.age % 2.0 == 0", 0, "type", "`%` does not work on a number"),
        ("1u - 1 > 0", 0, "type", "`-` does not work on an unsigned number and a whole number"),
        ("customer.tier - 'a' == ''", 0, "type", "`-` does not work on a text and a text"),
        ("customer.flag + customer.flag", 0, "type", "`+` does not work on true or false"),
        ("(customer.flag ? 1 : 2.0) + 1.0 > 0", 0, "type", "a number of mixed kind"),
        ("-customer.flag", 0, "type", "a minus needs a number"),
        ("-size(customer.city) - -1u > 0", 23, "type", "a minus needs a number"),
        ("customer.age.startsWith('a')", 0, "type", "does not work on a number"),
        ("customer.tier.startsWith(1)", 25, "type", "does not work on a whole number"),
        ("size(customer.age) > 1", 5, "type", "does not work on a number"),
        ("string(customer.flag) == ''", 7, "type", "does not work on true or false"),
        ("customer.tier == 5", 0, "type", "never equal; customer.tier is a category"),
        ("1.0 == customer.flag", 0, "type", "customer.flag is a boolean"),
        ("customer.age < customer.city", 0, "type", "customer.age is a number; customer.city is a category"),
        ("[customer.age] == ['a']", 0, "type", "never equal"),
        ("[1] < [2]", 0, "type", "lists have no order"),
        ("customer.tier in 'gold'", 0, "type", "needs a list on its right"),
        ("customer.tier in [1, 2]", 0, "type", "a text is never in a list of a whole number"),
        ("customer.tier in ['gold', 2]", 26, "type", "`2` is a whole number, the members before it are not"),
        ("customer.city.exists(x, true)", 0, "type", "a loop needs a list"),
        ("[1, 2].all(x, x.startsWith('a'))", 14, "type", "does not work on a whole number"),
        ("[1].all(x, x)", 11, "type", "must be true or false"),
        ("customer.age != null", 16, "value", "never null"),
        ("customer.tier in []", 17, "value", "the list is empty"),
        ("1 < 2 || customer.flag", 0, "value", "compares fixed values"),
        (
            "customer.tier == 'glod'",
            17,
            "value",
            "`glod` is no category of customer.tier: correct it, or add it there.",
        ),
        ("'glod' != customer.tier", 0, "value", "Did you mean `gold`"),
        ("customer.tier in ['gold', 'silver']", 26, "value", "`silver` is no category of customer.tier"),
        ("journey.onboarding == 'fundet'", 22, "value", "`fundet` is no step of journey `onboarding`"),
        (
            "request.placement == 'herro'",
            21,
            "value",
            "`herro` is no placement: correct it, or add it there. Did you mean `hero`",
        ),
        ("request.channel in ['web', 'app']", 27, "value", "`app` is no channel: correct"),
        ("relationship.strain > 1", 0, "value", "never holds: relationship.strain is 0 to 1"),
        ("relationship.strain <= 1.0", 0, "value", "always holds"),
        ("0 > relationship.ignored_30d", 0, "value", "never holds: relationship.ignored_30d is at least 0"),
        ("relationship.minutes_since_prompt > 20000", 0, "value", "never holds"),
        ("customer.visits >= 0", 0, "value", "always holds: customer.visits is at least 0"),
        ("customer.visits in [-1, -2]", 0, "value", "never holds"),
        ("customer.since < -1", 0, "value", "never holds: customer.since is at least -1"),
        ("customer.flag in [true, false]", 0, "value", "always holds"),
    ],
)
def test_a_fault_is_found_before_publishing_and_located(source: str, offset: int, code: str, message: str) -> None:
    [fault] = check_condition(source, WORDS)
    assert (fault.offset, fault.code) == (offset, f"condition_{code}")
    assert message in fault.message


@pytest.mark.parametrize(
    "source",
    [
        "customer.tier == '' || customer.tier == 'basic'",  # not known, and the default
        "customer.city == 'anywhere'",
        "journey.onboarding == '' && request.placement == 'hero'",
        "customer.since < 0 && customer.spent < 0 && relationship.balance < -1000",
        "customer.visits > 0 && relationship.minutes_since_prompt == 10080",
        "[1, 2.5, 3u].exists(x, customer.age > x)",
        "(customer.flag ? 1 : 2.5) < customer.age",
        "[[1], [2, 3]].exists(x, customer.age in x) && [1] != [2, 3]",
        "[1].exists(x, x > 0) && ['a'].all(x, x != customer.city)",
        "customer.city < 'm' && customer.city + 'x' != 'ax' && 'a' in [customer.city, customer.tier]",
        "int(customer.age) % 2 == 0 && double(customer.city.size()) > customer.age",
        "customer.flag == (customer.age > 3) && !(customer.flag != request.is_mobile)",
        "string(customer.age) == '30' && uint(customer.city) > 1u",
    ],
)
def test_what_is_well_typed_and_decides_something_is_good(source: str) -> None:
    assert check_condition(source, WORDS) == ()


def test_one_mistake_is_told_once() -> None:
    assert len(check_condition("(customer.aeg + 1.0) * 2.0 > 3 && !(customer.flag == null)", WORDS)) == 2


def test_without_placements_any_may_be_named() -> None:
    assert check_condition("request.placement == 'anywhere'", vocabulary(FEATURES)) == ()


def test_what_is_personal() -> None:
    features = [
        Feature(name="age", type="number", encoding=NONE, default=0.0),
        Feature(name="open", type="number", encoding=NONE, default=0.0, personal=False),
        Feature(name="hour", type="number", encoding=NONE, default=0.0, origin="context"),
        Feature(name="page", type="number", encoding=NONE, default=0.0, origin="context", personal=True),
    ]
    paths = ["customer.age", "request.page", "relationship.strain", "journey.x", "concern.y"]
    assert all(is_personal_path(path, features) for path in paths)
    paths = ["customer.open", "request.hour", "request.placement", "request.channel", "request.age"]
    assert not any(is_personal_path(path, features) for path in paths)
