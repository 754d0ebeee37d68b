from __future__ import annotations

import time

import pytest

from nbx.catalog.conditions import (
    CONDITION_LENGTH,
    FUNCTIONS,
    ConditionError,
    build_context,
    check_condition,
    comparisons,
    compile_condition,
    did_you_mean,
    vocabulary,
)
from nbx.features.schema import Encoding, Feature, Value

FEATURES = [
    Feature(name="age", type="number", encoding=Encoding(kind="standard"), default=42.0),
    Feature(name="flag", type="boolean", encoding=Encoding(kind="flag"), default=False),
    Feature(
        name="tier",
        type="category",
        encoding=Encoding(kind="onehot", categories=("basic", "gold")),
        default="basic",
    ),
    Feature(name="is_mobile", type="boolean", encoding=Encoding(kind="flag"), default=False, origin="context"),
]
WORDS = vocabulary(FEATURES)
VALUES: dict[str, dict[str, Value]] = {
    "customer": {"age": 30.0, "flag": True, "tier": "gold"},
    "request": {"is_mobile": True, "placement": "hero", "channel": "web"},
    "relationship": {"balance": -1.0, "strain": 0.5, "ignored_30d": 0.0, "minutes_since_prompt": 5.0},
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
    "source",
    ["r'\\' == customer.tier", "'''a'b''' == customer.tier", "'a\\'customer.x' == customer.tier", "b'x' == b'y'"],
)
def test_strings_of_every_form_hide_what_is_in_them(source: str) -> None:
    assert compile_condition(source).paths <= {"customer.tier"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("customer.age / customer.missing > 1.0", "missing"),
        ("int(customer.tier) > 1", "invalid digit"),
        ("customer.age", "must be true or false, is 30.0"),
        ("customer.age + 1 > 3", "float \\+ int"),
        ("nothing.here", "Undefined"),
    ],
)
def test_what_fails_at_run_time_is_reported_and_never_holds(source: str, message: str) -> None:
    with pytest.raises(ConditionError, match=message):
        compile_condition(source).holds(build_context(VALUES))


@pytest.mark.parametrize(
    ("source", "offset", "code", "message"),
    [
        ("customer.age >", 14, "condition_syntax", "missing at the end"),
        ("customer.flag &&\n customer.tier == = 'a'", 35, "condition_syntax", "cannot read '= '"),
        ("", 0, "condition_syntax", "missing at the end"),
        ("customer.flag && customer.agee > 1", 17, "condition_name", "Did you mean `customer.age`"),
        ("tier == 'gold'", 0, "condition_name", "Did you mean `customer.tier`"),
        ("customer.is_mobile", 0, "condition_name", "Did you mean `request.is_mobile`"),
        ("size(customer) > 1", 5, "condition_name", "cannot stand alone"),
        ("customer.age.years > 1", 0, "condition_name", "has no `years`"),
        ("['a'].exists(customer, true)", 13, "condition_name", "is taken"),
        ("lower(customer.tier) == 'a'", 0, "condition_function", "unknown function `lower`"),
        ("customer.tier.startWith('g')", 14, "condition_function", "Did you mean `startsWith`"),
        ("customer.age", 0, "condition_type", "must be true or false"),
        ("false && customer.age + 1 > 3.0", 9, "condition_type", "float + int"),
        ("customer.flag || !(false && customer.tier)", 28, "condition_type", "must be true or false"),
        ("customer.flag ? true : customer.tier > 1", 23, "condition_type", "types do not fit"),
        ("customer.age.startsWith('a')", 0, "condition_type", "does not work on values of these types"),
        ("customer.tier == 5", 0, "condition_type", "never equal to 5.0"),
        ("1.0 == customer.flag", 0, "condition_type", "customer.flag is a boolean"),
        ("customer.tier in ['gold', 2]", 0, "condition_type", "never equal to 2.0"),
        ("customer.age != null", 0, "condition_type", "never null"),
        ("['a'].map(x, x) != []", 6, "condition_syntax", "no bounded cost"),
        ("customer.tier.matches('^g')", 14, "condition_syntax", "no bounded cost"),
        ("[1].exists(x, [2].all(y, x == y))", 18, "condition_syntax", "inside another loop"),
    ],
)
def test_a_fault_is_found_before_publishing_and_located(source: str, offset: int, code: str, message: str) -> None:
    [fault] = check_condition(source, WORDS)
    assert (fault.offset, fault.code) == (offset, code)
    assert message in fault.message


def test_two_loops_side_by_side_are_allowed() -> None:
    assert check_condition("[1].exists(x, x > 0) && ['a'].all(y, y != customer.tier)", WORDS) == ()


def test_all_names_of_a_condition_are_checked_at_once() -> None:
    assert [fault.offset for fault in check_condition("customer.a > 1 && customer.b > 2", WORDS)] == [0, 18]


def test_a_value_error_of_a_sample_is_not_held_against_the_condition() -> None:
    assert check_condition("int(customer.tier) > 1", WORDS) == ()


def test_length_is_bounded_before_compiling() -> None:
    [fault] = check_condition("true" + " && true" * CONDITION_LENGTH, WORDS)
    assert "at most 2048 characters" in fault.message
    [fault] = check_condition("[1].all(x, true)" + " && true" * 100, WORDS)
    assert "at most 512 characters" in fault.message


def test_the_worst_known_condition_that_is_allowed_stays_bounded() -> None:
    source = "[" + ",".join("1" * 110) + "].all(x, (" + "+".join(["[x]"] * 65) + ") != [])"
    program = compile_condition(source)
    start = time.process_time()
    assert program.holds(build_context({}))
    assert time.process_time() - start < 0.5  # measured: 0.01


def test_every_allowed_function_exists_in_the_evaluator() -> None:
    calls = {"has": "has({'a': 1}.a)", "startsWith": "'a'.startsWith('a')", "endsWith": "'a'.endsWith('a')"}
    calls |= {"contains": "'a'.contains('a')", "size": "size('a') == 1", "string": "string(1) == '1'"}
    calls |= {"int": "int('1') == 1", "uint": "uint(1) == 1u", "double": "double(1) == 1.0", "dyn": "dyn(1) == 1"}
    assert calls.keys() == FUNCTIONS
    assert all(compile_condition(source).holds(build_context({})) for source in calls.values())


def test_a_suggestion_is_the_nearest_of_many_and_cheap() -> None:
    known = {f"group{i}" for i in range(500)}
    start = time.process_time()
    assert did_you_mean("group_0", known) == " Did you mean `group0`?"
    assert did_you_mean("x" * 10_000, known) == did_you_mean("zzz", known) == ""
    assert time.process_time() - start < 0.1  # measured: 0.003


def test_comparisons_keep_sign_and_side() -> None:
    found = comparisons("customer.age == -1.5 || 'a' != customer.tier || customer.age in [2, -3]")
    assert [(each.path, each.literal) for each in found] == [
        ("customer.age", -1.5),
        ("customer.tier", "a"),
        ("customer.age", 2.0),
        ("customer.age", -3.0),
    ]
