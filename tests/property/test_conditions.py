"""Generated conditions: what the parser, the type checker and the logic say is compared with `cel` and brute force."""

from __future__ import annotations

import itertools
import operator
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
from nbx.catalog.conditions import build_context, check_condition, compile_condition
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
"""Values that conditions are generated with, one between any two and one beyond: all that can make a difference."""

NUMBER = ("-2", "-1.0", "0", "0.5", "1", "1.0", "2", "2u", "0x1", "1e0", ".5")
TEXT = ("''", "'gold'", '"plus"', "'basic'", "'opened'", "'it\\'s'", "'''it's'''", "r'gold'", "'\\x67old'")
WHOLE = ("1", "-2", "size('é')", "customer.city.size()", "size([1, 2])", "(1 + 2 * 3)", "7 - 2 - 1")
SPACE = ("", "", "", " ", "\n", "\t", " // note\n")
RELATION = ("<", "<=", ">", ">=", "==", "!=")
EQUALITY = ("==", "!=")


class Writer:
    """Writes a well-typed condition; each choice takes a byte, and the first option when there are no more."""

    def __init__(self, choices: bytes, *, facts_only: bool) -> None:
        self._choices = iter(choices)
        self._facts_only = facts_only

    def one(self, options: Sequence[str]) -> str:
        return options[next(self._choices, 0) % len(options)]

    def words(self, *parts: str) -> str:
        return " ".join(self.one(SPACE) + part for part in parts)

    def name(self, paths: Sequence[str]) -> str:
        return self.one([*paths, *(path.replace(".", "['", 1) + "']" for path in paths)])

    def listed(self, options: Sequence[str]) -> str:
        return f"[{', '.join(self.one(options) for _ in range(1 + next(self._choices, 0) % 3))}]"

    def condition(self, depth: int = 3) -> str:
        kind = next(self._choices, 0) % 10 if depth else 0
        if kind < 3:
            return self.fact() if self._facts_only or kind else self.other()
        first, second = self.condition(depth - 1), self.condition(depth - 1)
        match kind:
            case 3 | 4:
                return self.words(f"({first})", "&&", f"({second})", "||", self.condition(depth - 1))
            case 5 | 6:
                return self.words(f"({first})", "&&", f"({second})", "&&", f"({self.condition(depth - 1)})")
            case 7:
                return self.words(f"({first})", "?", f"({second})", ":", self.condition(depth - 1))
            case 8:
                return self.words("!", f"({first})", "||", f"({second})")
        return self.words("!!(", first, ")")

    def fact(self) -> str:
        """Compare a name with fixed values: what logic understands in full."""
        match next(self._choices, 0) % 7:
            case 0:
                return self.name(BOOLEANS)
            case 1:
                return self.words(self.name(NUMBERS), self.one(RELATION), self.one(NUMBER))
            case 2:
                return self.words(self.one(NUMBER), self.one(RELATION), self.name(NUMBERS))
            case 3:
                return self.words(self.name(NUMBERS), "in", self.listed(NUMBER))
            case 4:
                return self.words(self.name(TEXTS), self.one(EQUALITY), self.one(TEXT))
            case 5:
                return self.words(self.name(TEXTS), "in", self.listed(TEXT))
        return self.words(self.name(BOOLEANS), self.one(EQUALITY), self.one(("true", "false")))

    def other(self) -> str:
        loop = self.one(("exists", "all", "exists_one"))
        match next(self._choices, 0) % 9:
            case 0:
                return self.words(self.sum(), self.one(RELATION), self.sum())
            case 1:
                return self.words(self.one(WHOLE), self.one(RELATION), self.name(NUMBERS))
            case 2:
                return self.words(self.name(TEXTS), self.one(RELATION), self.name(TEXTS))
            case 3:
                method = self.one(("startsWith", "endsWith", "contains"))
                return self.words(self.name(TEXTS), ".", method, "(", self.one(TEXT), ")")
            case 4:
                return self.words(self.listed(TEXT), ".", loop, "(x,", self.name(TEXTS), "!=", "x)")
            case 5:
                return self.words(self.listed(NUMBER), ".", loop, "(n,", self.name(NUMBERS), "<", "n)")
            case 6:
                return self.words("string(", self.name(TEXTS), ") ==", self.name(TEXTS))
            case 7:
                return self.words("double(", self.one(WHOLE), ") +", self.sum(), ">", self.one(NUMBER))
        return self.words("(", self.fact(), ")", self.one(EQUALITY), "(", self.fact(), ") ==", self.name(BOOLEANS))

    def sum(self) -> str:
        match next(self._choices, 0) % 3:
            case 0:
                return self.name(NUMBERS)
            case 1:
                return self.words(self.name(NUMBERS), self.one("+-*"), self.one(("1.0", "-0.5", "2.5e0")))
        return self.words("-(", self.name(NUMBERS), self.one("+-"), self.name(NUMBERS), ")", self.one("+-*"), "2.0")


CONDITIONS = st.binary(max_size=60).map(lambda choices: Writer(choices, facts_only=False).condition())
FACTUAL = st.binary(max_size=40).map(lambda choices: Writer(choices, facts_only=True).condition())
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
            tests = {"startsWith": str.startswith, "endsWith": str.endswith, "contains": str.__contains__}
            return tests[node.function](first, *rest)
        case Chain():
            found = evaluate(node.operands[0], values)
            for sign, operand in zip(node.signs, node.operands[1:], strict=True):
                found = operate(sign, found, evaluate(operand, values))
            return found
    raise AssertionError(node)


def operate(sign: str, left: Any, right: Any) -> Any:
    if sign == "in":
        return left in right
    names = {"&&": "and_", "||": "or_", "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
    names |= {"+": "add", "-": "sub", "*": "mul"}
    return getattr(operator, names[sign])(left, right)


@settings(deadline=None, max_examples=150)
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


WORDS_AND_NOISE = (
    *(*NUMBERS, *TEXTS, *BOOLEANS, *NUMBER, *TEXT),
    *("customer.missing", "x", "customer", "relationship['strain']"),
    *("&&", "||", "==", "!=", "<=", ">=", " in ", *"!!()()[],?:.<>+-*/%{}=&;`\\"),
    *("true", "false", "null", "size", "startsWith", "int", "string", "exists(x,", "if", "map", "has"),
    *("'open", "'\\q'", "b'x'", "1.e3", "5.", "1uu", "9223372036854775808", "1e400", "0x", "'''a''''", "é"),
)
SOUPS = st.builds(
    lambda words, between: between.join(words),
    st.lists(st.sampled_from(WORDS_AND_NOISE), max_size=9),
    st.sampled_from((" ", "")),
)
REFUSED = frozenset(
    {"no maps", "no bytes", "no messages", "has no name", "has fields", "begin with a dot", "no bounded cost"}
    | {"a loop is written", "inside another loop", "need brackets between", "beyond 64 bits", "deeper than"}
)
"""Parts of messages about what is CEL and not allowed."""


@settings(deadline=None, max_examples=300)
@given(SOUPS)
def test_the_parser_accepts_what_cel_does_but_for_what_is_not_allowed(source: str) -> None:
    refused = None
    try:
        parse_condition(source)
    except CelSyntaxError as error:
        refused = error
    if refused is None:
        cel.compile(source)
        return
    assert 0 <= refused.offset <= len(source)
    if not any(each in refused.message for each in REFUSED):
        with pytest.raises(ValueError, match="Failed to parse"):
            cel.compile(source)


@settings(deadline=None, max_examples=300)
@given(SOUPS | CONDITIONS, VALUES)
def test_what_passes_the_checker_never_fails_on_values_of_the_declared_types(
    source: str, values: dict[str, Value]
) -> None:
    if check_condition(source, WORDS):
        return
    if any(each in source for each in ("int", "double", "/", "%")):
        return
    assert compile_condition(source).holds(build_context(nested(values))) in (True, False)


@settings(deadline=None, max_examples=150)
@given(st.lists(FACTUAL, min_size=1, max_size=3))
def test_a_contradiction_of_facts_is_told_exactly_where_nothing_can_hold(sources: list[str]) -> None:
    assume(all(len(source) <= 512 for source in sources))
    trees = [parse_condition(source) for source in sources]
    paths = sorted({path for source in sources for path in compile_condition(source).paths})
    assume(len(paths) <= 3)
    grid = [dict(zip(paths, each, strict=True)) for each in itertools.product(*(DOMAINS[path] for path in paths))]
    possible = any(all(evaluate(tree, values) for tree in trees) for values in grid)
    told = Logic(WORDS).contradiction(sources)
    assert (told is None) is possible
    assert told is None or all(told)


@settings(deadline=None, max_examples=150)
@given(st.lists(CONDITIONS, min_size=1, max_size=3), CONDITIONS)
def test_no_conclusion_is_wrong(sources: list[str], conclusion: str) -> None:
    assume(all(len(source) <= 512 for source in (*sources, conclusion)))
    trees, final = [parse_condition(source) for source in sources], parse_condition(conclusion)
    paths = sorted({path for source in (*sources, conclusion) for path in compile_condition(source).paths})
    assume(len(paths) <= 3)
    logic = Logic(WORDS)
    clash, follows = logic.contradiction(sources) is not None, logic.implies(sources, conclusion)
    always = logic.always_true(conclusion)
    for each in itertools.product(*(DOMAINS[path] for path in paths)) if clash or follows or always else ():
        values = dict(zip(paths, each, strict=True))
        held, holds = all(evaluate(tree, values) for tree in trees), evaluate(final, values)
        assert not (clash and held)
        assert not (follows and held and not holds)
        assert not (always and not holds)
