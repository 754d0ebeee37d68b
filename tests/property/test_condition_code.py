"""Conditions as Python answer what `cel` answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbx.catalog.condition_code import compile_all, python_of
from nbx.catalog.conditions import build_context, check_condition, compile_condition
from tests.property.test_conditions import CONDITIONS, FACTUAL, VALUES, WORDS, nested

TYPES = {path: word.type for path, word in WORDS.items()}


@settings(max_examples=80, deadline=None)
@given(st.lists(CONDITIONS | FACTUAL, min_size=1, max_size=3), VALUES)
def test_python_answers_as_cel_does(sources: list[str], values: dict[str, Any]) -> None:
    sources = [source for source in sources if not check_condition(source, WORDS)]
    compiled, evaluate = compile_all(sources, TYPES, {"request.channel": values["request.channel"]})
    roots = nested(values)
    known = roots["customer"] | roots["request"]
    answers = iter(evaluate(known, roots["relationship"], roots["journey"], roots["concern"]))
    context = build_context(roots)
    for source, is_compiled in zip(sources, compiled, strict=True):
        if is_compiled:
            assert next(answers) is compile_condition(source).holds(context), source


@settings(max_examples=40, deadline=None)
@given(FACTUAL)
def test_comparisons_and_logic_are_never_left_to_cel(source: str) -> None:
    if not check_condition(source, WORDS):
        assert python_of(source, TYPES, {}) is not None


@pytest.mark.parametrize(
    "source",
    [
        "customer.age + 1.0 > 2.0",  # Python raises where CEL has infinities
        "[1, 2].exists(n, customer.age == n)",
        "size(customer.city) > 2",
        "customer.age == 9007199254740993",
        "customer.flag",
        "customer.nobody == 'x'",
        "customer.age == 'x'",
        "customer.flag < true",
        "not a condition",
        "customer.age in []",
    ],
)
def test_what_may_mean_something_else_is_left_to_cel(source: str) -> None:
    expected = source == "customer.flag"
    assert (python_of(source, TYPES, {}) is not None) is expected


def test_names_and_texts_cannot_break_out() -> None:
    nasty = "x'] or print(1) or values['"
    compiled, evaluate = compile_all(
        [f'customer.city == "{nasty}"', "request.channel == 'a'"], TYPES, {"request.channel": "\\' + str(1) + \\'"}
    )
    assert compiled == (True, True)
    assert evaluate({"city": nasty}, {}, {}, {}) == (True, False)
