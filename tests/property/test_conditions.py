"""Generated conditions: what the parser, the type checker and the logic say is compared with `cel` and brute force."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import cel
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nbx.catalog.cel_syntax import (
    Call,
    CelSyntaxError,
    Chain,
    Conditional,
    ListOf,
    Literal,
    Loop,
    Name,
    Node,
    Unary,
    parse_condition,
)
from nbx.catalog.condition_logic import Logic
from nbx.catalog.conditions import ConditionError, build_context, check_condition, compile_condition
from nbx.catalog.model import Concern, Journey, JourneyStep
from nbx.catalog.vocabulary import vocabulary
from nbx.features.schema import Aggregate, Encoding, Feature, Value

FEATURES = (
    Feature(name="age", type="number", encoding=Encoding(kind="standard"), default=42.0),
    Feature(
        name="visits",
        type="number",
        encoding=Encoding(kind="log"),
        default=0.0,
        origin=Aggregate(event="visit", kind="count", window_ms=1000),
    ),
    Feature(name="flag", type="boolean", encoding=Encoding(kind="flag"), default=False),
    Feature(name="city", type="category", encoding=Encoding(kind="hash", buckets=4), default=""),
    Feature(
        name="tier", type="category", encoding=Encoding(kind="onehot", categories=("gold", "plus")), default="basic"
    ),
    Feature(name="mobile", type="boolean", encoding=Encoding(kind="flag"), default=False, origin="context"),
)
WORDS = vocabulary(
    FEATURES,
    (Journey(name="start", steps=(JourneyStep(name="opened", event="e"), JourneyStep(name="funded", event="f"))),),
    (Concern(name="payment", opens=("o",)),),
)
NUMBERS = ("customer.age", "customer.visits", "relationship.balance", "relationship.strain")
TEXTS = ("customer.city", "customer.tier", "journey.start", "request.channel")
BOOLEANS = ("customer.flag", "request.mobile", "concern.payment")
DOMAINS: dict[str, Sequence[Value]] = {
    **dict.fromkeys(
        ("customer.age", "relationship.balance"), (-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
    ),
    "customer.visits": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0),
    "relationship.strain": (0.0, 0.25, 0.5, 0.75, 1.0),
    **dict.fromkeys(TEXTS, ("", "gold", "plus", "basic", "opened", "it's", "elsewhere")),
    **dict.fromkeys(BOOLEANS, (False, True)),
}
"""Every value that conditions are generated with, one between any two and one beyond: all that can make a difference."""

SPACE = st.sampled_from(["", " ", "\n", "\t", " // note\n"])
NUMBER = st.sampled_from(["-2", "-1.0", "0", "0.5", "1", "1.0", "2", "2u", "0x1", "1e0", ".5"])
TEXT = st.sampled_from(
    ["''", "'gold'", '"plus"', "'basic'", "'opened'", "'it\\'s'", "'''it's'''", "r'gold'", "'\\x67old'"]
)
WHOLE = st.sampled_from(["1", "-2", "size('é')", "customer.city.size()", "size([1, 2])", "(1 + 2 * 3)", "7 - 2 - 1"])


@st.composite
def joined(draw: st.DrawFn, *parts: str | st.SearchStrategy[str]) -> str:
    """Draw the parts, with space between them that means nothing."""
    return " ".join(draw(SPACE) + (part if isinstance(part, str) else draw(part)) + draw(SPACE) for part in parts)


def names(paths: Sequence[str]) -> st.SearchStrategy[str]:
    return st.sampled_from([*paths, *(path.replace(".", "['", 1) + "']" for path in paths)])


def listed(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(items, min_size=1, max_size=4).map(lambda each: f"[{', '.join(each)}]")


RELATION = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
EQUALITY = st.sampled_from(["==", "!="])
FACTS = st.one_of(
    names(BOOLEANS),
    joined(names(NUMBERS), RELATION, NUMBER),
    joined(NUMBER, RELATION, names(NUMBERS)),
    joined(names(NUMBERS), "in", listed(NUMBER)),
    joined(names(TEXTS), EQUALITY, TEXT),
    joined(TEXT, EQUALITY, names(TEXTS)),
    joined(names(TEXTS), "in", listed(TEXT)),
    joined(names(BOOLEANS), EQUALITY, st.sampled_from(["true", "false"])),
)
"""Comparisons of names with fixed values: what logic understands in full."""
SUM = st.one_of(
    names(NUMBERS),
    joined(names(NUMBERS), st.sampled_from("+-*"), st.sampled_from(["1.0", "-0.5", "2.5e0"])),
    joined("-", "(", names(NUMBERS), st.sampled_from("+-"), names(NUMBERS), ")", st.sampled_from("+-*"), "2.0"),
)
OTHERS = st.one_of(
    joined(SUM, RELATION, SUM),
    joined(WHOLE, RELATION, names(NUMBERS)),
    joined(names(TEXTS), RELATION, names(TEXTS)),
    joined(names(TEXTS), ".", st.sampled_from(["startsWith", "endsWith", "contains"]), "(", TEXT, ")"),
    joined(listed(TEXT), ".", st.sampled_from(["exists", "all", "exists_one"]), "(x,", names(TEXTS), "!=", "x)"),
    joined(listed(NUMBER), ".", st.sampled_from(["exists", "all", "exists_one"]), "(n,", names(NUMBERS), "<", "n)"),
    joined("string(", names(TEXTS), ") ==", names(TEXTS)),
    joined("double(", WHOLE, ") +", SUM, ">", NUMBER),
    joined(names(NUMBERS), "in", listed(names(NUMBERS))),
)


def compound(atoms: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.recursive(
        atoms,
        lambda inner: st.one_of(
            joined("(", inner, ")"),
            joined("!", "(", inner, ")"),
            joined("(", inner, ")", st.sampled_from(["==", "!="]), "(", inner, ")"),
            joined("(", inner, ")", "?", "(", inner, ")", ":", inner),
            joined("(", inner, ")", "&&", "(", inner, ")", "||", "(", inner, ")"),
            st.lists(inner, min_size=2, max_size=4).map(lambda each: " && ".join(f"({part})" for part in each)),
            st.lists(inner, min_size=2, max_size=4).map(" || ".join),
        ),
        max_leaves=6,
    )


CONDITIONS = compound(FACTS | OTHERS)
FACTUAL = compound(FACTS)
VALUES = st.fixed_dictionaries({path: st.sampled_from(list(values)) for path, values in DOMAINS.items()})


def nested(values: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    found: dict[str, dict[str, Value]] = {}
    for path, value in values.items():
        root, _, name = path.partition(".")
        found.setdefault(root, {})[name] = value
    return found


def evaluate(node: Node, values: Mapping[str, Any]) -> Any:
    """Evaluate a tree as plainly as possible."""
    match node:
        case Literal():
            return node.value
        case Name():
            return values[node.path]
        case ListOf():
            return [evaluate(each, values) for each in node.items]
        case Unary():
            operand = evaluate(node.operand, values)
            return not operand if node.sign == "!" else -operand
        case Conditional():
            return evaluate(node.yes if evaluate(node.test, values) else node.no, values)
        case Loop():
            held = sum(evaluate(node.body, {**values, node.variable: each}) for each in evaluate(node.over, values))
            return {"exists": held > 0, "all": held == len(evaluate(node.over, values))}.get(node.kind, held == 1)
        case Call():
            first, *rest = [evaluate(each, values) for each in node.args]
            if node.function == "size":
                return len(first.encode() if isinstance(first, str) else first)
            if node.function in ("double", "string"):
                return float(first) if node.function == "double" else str(first)
            return {"startsWith": str.startswith, "endsWith": str.endswith, "contains": str.__contains__}[
                node.function
            ](first, *rest)
        case Chain():
            found = evaluate(node.operands[0], values)
            for sign, operand in zip(node.signs, node.operands[1:], strict=True):
                found = operate(sign, found, evaluate(operand, values))
            return found
    raise AssertionError(node)


def operate(sign: str, left: Any, right: Any) -> Any:
    return {
        "&&": lambda: left and right,
        "||": lambda: left or right,
        "==": lambda: left == right,
        "!=": lambda: left != right,
        "<": lambda: left < right,
        "<=": lambda: left <= right,
        ">": lambda: left > right,
        ">=": lambda: left >= right,
        "in": lambda: left in right,
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
    }[sign]()


@settings(deadline=None, max_examples=300)
@given(CONDITIONS, VALUES)
def test_the_tree_means_what_cel_computes(source: str, values: dict[str, Value]) -> None:
    assume(len(source) <= 512)
    tree = parse_condition(source)
    condition = compile_condition(source)
    assert condition.paths <= WORDS.keys()
    assert condition.holds(build_context(nested(values))) is evaluate(tree, values)


@settings(deadline=None, max_examples=200)
@given(CONDITIONS)
def test_what_is_well_typed_has_no_other_fault_than_deciding_nothing(source: str) -> None:
    assume(len(source) <= 512)
    assert {fault.code for fault in check_condition(source, WORDS)} <= {"condition_value"}


WORD = st.one_of(
    st.sampled_from([*NUMBERS, *TEXTS, *BOOLEANS, "customer.missing", "x", "customer", "relationship['strain']"]),
    st.sampled_from("&& || ! ! ( ) ( ) [ ] , ? : . == != < <= > >= in + - * / % { } = & ; ` \\".split(" ")),
    st.sampled_from(["true", "false", "null", "size", "startsWith", "int", "string", "exists(x,", "if", "map", "has"]),
    NUMBER,
    TEXT,
    st.sampled_from(
        ["'open", "'\\q'", "b'x'", "1.e3", "5.", "1uu", "9223372036854775808", "1e400", "0x", "'''a''''", "é"]
    ),
)
SOUPS = st.lists(WORD, max_size=9).map(" ".join) | st.lists(WORD, max_size=7).map("".join)
REFUSED = ("no maps", "no bytes", "no messages", "has no name", "has fields", "begin with a dot", "no bounded cost")
REFUSED += ("a loop is written", "inside another loop", "need brackets between", "beyond 64 bits", "deeper than")
"""Parts of messages about what is CEL and not allowed."""


@settings(deadline=None, max_examples=500)
@given(SOUPS)
def test_the_parser_accepts_what_cel_does_but_for_what_is_not_allowed(source: str) -> None:
    try:
        parse_condition(source)
    except CelSyntaxError as error:
        assert 0 <= error.offset <= len(source)
        if not any(each in error.message for each in REFUSED):
            with pytest.raises(ValueError, match="Failed to parse"):
                cel.compile(source)
    else:
        cel.compile(source)


@settings(deadline=None, max_examples=500)
@given(SOUPS | CONDITIONS, VALUES)
def test_what_passes_the_checker_never_fails_on_values_of_the_declared_types(
    source: str, values: dict[str, Value]
) -> None:
    if check_condition(source, WORDS):
        return
    try:
        compile_condition(source).holds(build_context(nested(values)))
    except ConditionError as error:
        assert any(each in source for each in ("int", "double", "/", "%")), error.message


@settings(deadline=None, max_examples=300)
@given(st.lists(FACTUAL, min_size=1, max_size=3))
def test_a_contradiction_of_facts_is_told_exactly_where_nothing_can_hold(sources: list[str]) -> None:
    assume(all(len(source) <= 512 for source in sources))
    trees = [parse_condition(source) for source in sources]
    paths = sorted({path for source in sources for path in compile_condition(source).paths})
    assume(len(paths) <= 4)
    grid = [dict(zip(paths, each, strict=True)) for each in itertools.product(*(DOMAINS[path] for path in paths))]
    possible = any(all(evaluate(tree, values) for tree in trees) for values in grid)
    told = Logic(WORDS).contradiction(sources)
    assert (told is None) is possible
    assert told is None or all(told)


@settings(deadline=None, max_examples=300)
@given(st.lists(CONDITIONS, min_size=1, max_size=3), CONDITIONS)
def test_no_conclusion_is_wrong(sources: list[str], conclusion: str) -> None:
    assume(all(len(source) <= 512 for source in (*sources, conclusion)))
    trees, final = [parse_condition(source) for source in sources], parse_condition(conclusion)
    paths = sorted({path for source in (*sources, conclusion) for path in compile_condition(source).paths})
    assume(len(paths) <= 4)
    logic = Logic(WORDS)
    clash, follows = logic.contradiction(sources) is not None, logic.implies(sources, conclusion)
    always = logic.always_true(conclusion)
    for each in itertools.product(*(DOMAINS[path] for path in paths)):
        values = dict(zip(paths, each, strict=True))
        held = all(evaluate(tree, values) for tree in trees)
        holds = evaluate(final, values)
        assert not (clash and held)
        assert not (follows and held and not holds)
        assert not (always and not holds)
