from __future__ import annotations

import time

import pytest

from nbx.catalog.condition_types import FUNCTIONS
from nbx.catalog.conditions import (
    CONDITION_LENGTH,
    ConditionError,
    build_context,
    check_condition,
    compile_condition,
    vocabulary,
)
from nbx.catalog.model import Concern, Journey, JourneyStep
from nbx.features.schema import Encoding, Feature, Value

FEATURES = [
    Feature(name="age", type="number", encoding=Encoding(kind="standard"), default=42.0),
    Feature(name="flag", type="boolean", encoding=Encoding(kind="flag"), default=False),
    Feature(
        name="tier",
        type="category",
        encoding=Encoding(kind="onehot", categories=("plus", "gold")),
        default="basic",
    ),
    Feature(name="is_mobile", type="boolean", encoding=Encoding(kind="flag"), default=False, origin="context"),
]
JOURNEYS = [Journey(name="onboarding", steps=(JourneyStep(name="opened", event="account_opened"),))]
WORDS = vocabulary(FEATURES, JOURNEYS, [Concern(name="payment", opens=("payment_failed",))])
VALUES: dict[str, dict[str, Value]] = {
    "customer": {"age": 30.0, "flag": True, "tier": "gold"},
    "request": {"is_mobile": True, "placement": "hero", "channel": "web"},
    "relationship": {"balance": -1.0, "strain": 0.5, "ignored_30d": 0.0, "minutes_since_prompt": 5.0},
    "journey": {"onboarding": "opened"},
    "concern": {"payment": True},
}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("true", True),
        ("customer.age >= 30", True),
        ("customer.age == 30 && customer.tier == 'gold'", True),
        ("!customer.flag || request.channel == 'app'", False),
        ("customer.tier in ['basic', 'plus']", False),
        ("customer['tier'] == 'gold'", True),
        ("relationship.balance < 0.0 ? request.is_mobile : false", True),
        ("['go', 'si'].exists(p, customer.tier.startsWith(p))", True),
        ("customer.age * 2.0 + 1.0 > 60.5", True),
        ("journey.onboarding == 'opened' && concern.payment", True),
        ("journey.onboarding == ''", False),
        ("int(customer.tier) > 1 || customer.age == 30.0", True),
    ],
)
def test_a_condition_that_passes_the_check_holds_as_written(source: str, expected: bool) -> None:
    assert check_condition(source, WORDS) == ()
    assert compile_condition(source).holds(build_context(VALUES)) is expected


def test_paths_are_what_the_source_refers_to_and_nothing_else() -> None:
    condition = compile_condition(
        "customer.tier == 'customer.flag' && customer [ \"age\" ] > 1.0 // request.channel\n"
        "&& ['a'].exists(x, x == request.placement) && has(customer.flag) && customer.tier.size() > 0"
    )
    assert condition.paths == {"customer.tier", "customer.age", "request.placement", "customer.flag"}


@pytest.mark.parametrize(
    "source", ["r'\\' == customer.tier", "'''a'b''' == customer.tier", "'a\\'customer.x' == customer.tier"]
)
def test_strings_of_every_form_hide_what_is_in_them(source: str) -> None:
    assert compile_condition(source).paths == {"customer.tier"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("customer.age / customer.missing > 1.0", "missing"),
        ("int(customer.tier) > 1", "invalid digit"),
        ("customer.age", "must be true or false, is 30.0"),
        ("customer.age + 1 > 3", "float \\+ int"),
        ("customer.tier > 1", "types do not fit"),
        ("nothing.here", "Undefined"),
    ],
)
def test_what_fails_at_run_time_is_reported_and_never_holds(source: str, message: str) -> None:
    with pytest.raises(ConditionError, match=message):
        compile_condition(source).holds(build_context(VALUES))


def test_a_syntax_error_is_the_only_fault() -> None:
    [fault] = check_condition("customer.agee >", WORDS)
    assert (fault.offset, fault.code) == (15, "condition_syntax")
    with pytest.raises(ConditionError) as raised:
        compile_condition("customer.agee >")
    assert (raised.value.offset, raised.value.message) == (fault.offset, fault.message)
    [fault] = check_condition("has(1)", WORDS)  # only cel knows that has() takes a field
    assert "not a condition in CEL" in fault.message


def test_all_faults_of_a_condition_are_told_at_once() -> None:
    source = "customer.a > 1 && customer.b > 2 && customer.tier > 1"
    assert [fault.offset for fault in check_condition(source, WORDS)] == [0, 18, 36]


def test_length_is_bounded_before_compiling() -> None:
    [fault] = check_condition("true" + " && true" * CONDITION_LENGTH, WORDS)
    assert "at most 2048 characters" in fault.message


def test_the_worst_known_condition_that_is_allowed_stays_bounded() -> None:
    source = "[" + ",".join("1" * 110) + "].all(x, (" + "+".join(["[x]"] * 65) + ") != [])"
    program = compile_condition(source)
    start = time.process_time()
    assert program.holds(build_context({}))
    assert time.process_time() - start < 0.5  # measured: 0.01


def test_every_allowed_function_exists_in_the_evaluator() -> None:
    calls = {"startsWith": "'a'.startsWith('a')", "endsWith": "'a'.endsWith('a')", "contains": "'a'.contains('a')"}
    calls |= {"size": "size('a') == 1 && [1].size() == 1", "string": "string(1.5) == '1.5'", "int": "int('1') == 1"}
    calls |= {"uint": "uint(1.0) == 1u", "double": "double(1u) == 1.0"}
    assert calls.keys() == FUNCTIONS.keys()
    assert all(compile_condition(source).holds(build_context({})) for source in calls.values())
