from __future__ import annotations

import threading
import time
from contextlib import suppress

import pytest

from nbx.catalog.cel_syntax import (
    CONDITION_LENGTH,
    DEPTH,
    LOOP_LENGTH,
    CelSyntaxError,
    Chain,
    Conditional,
    Literal,
    Loop,
    Name,
    Node,
    Unary,
    names_in,
    parse_condition,
    parts_of,
)


def outline(node: Node) -> str:
    """Write a tree with all its brackets."""
    match node:
        case Name():
            return node.path
        case Literal():
            return repr(node.value)
        case Unary():
            return f"({node.sign}{outline(node.operand)})"
        case Conditional():
            return f"({outline(node.test)} ? {outline(node.yes)} : {outline(node.no)})"
        case Chain():
            signs = (*(f" {sign} " for sign in node.signs), "")
            return f"({''.join(outline(each) + sign for each, sign in zip(node.operands, signs, strict=True))})"
    return type(node).__name__


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a || b && c || d", "(a || (b && c) || d)"),
        ("a == b && c < d + e * -f", "((a == b) && (c < (d + (e * (-f)))))"),
        ("a - b - c * d / e", "(a - b - (c * d / e))"),
        ("a == b == c", "(a == b == c)"),
        ("!a == b", "((!a) == b)"),
        ("a ? b : c ? d : e", "(a ? b : (c ? d : e))"),
        ("(a ? b : c) || d", "((a ? b : c) || d)"),
        ("a - -1 == -1.5", "((a - -1) == -1.5)"),
        ("a\n- // minus\n(b - c)", "(a - (b - c))"),
        ("customer . tier in['a',]", "(customer.tier in ListOf)"),
        ('customer [ "tier" ] == (customer).tier', "(customer.tier == customer.tier)"),
    ],
)
def test_precedence_and_brackets(source: str, expected: str) -> None:
    assert outline(parse_condition(source)) == expected


@pytest.mark.parametrize(
    ("source", "value", "kind"),
    [
        ("0x1F", 31, "int"),
        ("-7", -7, "int"),
        ("9223372036854775807", 2**63 - 1, "int"),
        ("18446744073709551615u", 2**64 - 1, "uint"),
        ("- .5e1", -5.0, "double"),
        ("1e3", 1000.0, "double"),
        ("true", True, "boolean"),
        ("null", None, "null"),
        ("''", "", "text"),
        ('"a\'b"', "a'b", "text"),
        ("'''a'b\n'''", "a'b\n", "text"),
        (r"r'\d'", r"\d", "text"),
        (r"'\x41\101\u00e9\U0001F600\n\\\''", "AAé😀\n\\'", "text"),
    ],
)
def test_literals(source: str, value: object, kind: str) -> None:
    assert parse_condition(source) == Literal(0, len(source), value, kind)  # type: ignore[arg-type]


def test_a_loop_binds_its_variable_in_its_body_only() -> None:
    tree = parse_condition("customer.x.exists(x, x > request.y) || x.z")
    assert names_in(tree) == {"customer.x", "request.y", "x.z"}
    loop = parts_of(tree)[0]
    assert isinstance(loop, Loop)
    assert (loop.kind, loop.variable, loop.at) == ("exists", "x", 18)


def test_a_part_read_alone_means_the_same() -> None:
    source = "(a.startsWith('x')) == !(b) && ((c + 1.0) * 2.0 > -d ? ['x'].exists(y, (y) == e) : (f)['g'].h in [1])"
    waiting = [parse_condition(source)]
    while waiting:
        node = waiting.pop()
        assert outline(parse_condition(source[node.start : node.end])) == outline(node)
        if not isinstance(node, Loop):
            waiting += parts_of(node)


@pytest.mark.parametrize(
    ("source", "offset", "message"),
    [
        ("", 0, "something is missing at the end"),
        ("customer.age >", 14, "something is missing at the end"),
        ("customer.flag and customer.tier == 'a'", 14, "write `&&`"),
        ("not customer.flag", 4, "write `!`"),
        ("customer.tier = 'a'", 14, "write `==`"),
        ("customer.flag &&\n customer.tier == = 'a'", 35, "unexpected `=`"),
        ("customer.tier == 'a", 17, "closing quote"),
        ("(true", 5, "`)` is missing"),
        ("f(1,)", 4, "unexpected `)`"),
        ("customer.", 9, "name of a field"),
        ("customer.in", 9, "name of a field"),
        ("a ? b ? c : d : e", 6, "in brackets"),
        ("!-a", 1, "need brackets"),
        ("if == 1", 0, "reserved word"),
        ("{'a': 1}.a", 0, "no maps"),
        ("x == b'x'", 5, "no bytes"),
        ("Message{}", 7, "no messages"),
        ("[1][0]", 3, "no name"),
        ("[1].x", 4, "only a name has fields"),
        (".a", 0, "begin with a dot"),
        ("'a'.matches('^g')", 4, "no bounded cost"),
        ("['a'].map(x, x) != []", 6, "no bounded cost"),
        ("[1].exists(x, [2].all(y, x == y))", 18, "inside another loop"),
        ("[1].exists(x.y, true)", 11, "a loop is written"),
        ("[1].exists(1, true)", 11, "a loop is written"),
        ("a == 9223372036854775808", 5, "beyond 64 bits"),
        ("a == " + "9" * 1000, 5, "beyond 64 bits"),
        ("a == 1e400", 5, "beyond what a double"),
        (r"a == '\q'", 5, "has no meaning in a text"),
        (r"a == '\ud800'", 5, "has no meaning in a text"),
    ],
)
def test_what_is_no_condition_is_told_and_located(source: str, offset: int, message: str) -> None:
    with pytest.raises(CelSyntaxError) as raised:
        parse_condition(source)
    assert message in raised.value.message
    assert raised.value.offset == offset


NESTED = ["({})", "[{}]", "!{}", "-{}", "f({})", "a.f({})", "true ? true : {}", "(true && {})", "[1].all(x, {})"]


@pytest.mark.parametrize("form", NESTED)
def test_nesting_has_a_bound_and_no_thread_runs_out_of_stack(form: str) -> None:
    """1,000 brackets end a process whose thread has 256 kB of stack, when `cel` sees them."""
    told: list[str] = []

    def read() -> None:
        for levels in (DEPTH, min(1000, CONDITION_LENGTH // (len(form) - 2) - 2)):
            source = "true"
            for _ in range(levels):
                source = form.format(source)
            with pytest.raises(CelSyntaxError, match=r"deeper than|inside another loop|at most 512"):
                parse_condition(source)
            told.append(source)

    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert len(told) == 2


def test_nesting_up_to_the_bound_is_fine() -> None:
    assert outline(parse_condition("(" * (DEPTH - 1) + "a" + ")" * (DEPTH - 1))) == "a"


def test_length_is_bounded() -> None:
    with pytest.raises(CelSyntaxError, match=f"at most {CONDITION_LENGTH} characters"):
        parse_condition("a" * (CONDITION_LENGTH + 1))
    with pytest.raises(CelSyntaxError, match=f"at most {LOOP_LENGTH} characters"):
        parse_condition("[1].all(x, true)" + " && true" * 100)


@pytest.mark.parametrize(
    "source", ["true&&" * 341 + "a", "1+" * 1023 + "1", "'" * 2047, "'''" * 682, "a." * 1023 + "a", "[" + "1," * 1022]
)
def test_long_conditions_take_milliseconds(source: str) -> None:
    start = time.process_time()
    with suppress(CelSyntaxError):
        parse_condition(source)
    assert time.process_time() - start < 0.2  # measured: 0.01 at most
