"""Conditions as Python: the same answers as `cel`, fifty times sooner.

`cel` takes 2 µs per value to make a context and 0.5 µs per condition: for 24 values and 40 conditions that is as long
as all the rest of filtering. What conditions are mostly made of (comparisons, `in`, `&&`, `||`, `!`, `? :`, startsWith
and the like, over names whose types are declared) means the same in Python, and all conditions of a placement become
one function. Whatever else there is, arithmetic, loops, conversions, is left to `cel`; and so is everything when a
value is not of its declared type. `cel` is the reference that the property test compares with.

The text that is compiled is made here, of names that are keys of `types` and of literals, both written by `repr`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from nbx.catalog.cel_syntax import (
    Call,
    CelSyntaxError,
    Chain,
    Conditional,
    ListOf,
    Literal,
    Name,
    Node,
    Unary,
    parse_condition,
)
from nbx.features.schema import FeatureType

EXACT = 2**53
"""Whole numbers up to this are the same as whole numbers and as floats."""
_METHODS = {"startsWith": "{0}.startswith({1})", "endsWith": "{0}.endswith({1})", "contains": "({1} in {0})"}
_ROOTS = {"customer": "values", "request": "values", "relationship": "relationship", "journey": "journey"}
_ROOTS |= {"concern": "concern"}
_COMPARISONS = frozenset(("==", "!=", "<", "<=", ">", ">="))

Evaluate = Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]], tuple[bool, ...]]
"""(values, relationship, journey, concern) → one answer per condition."""


class Code(NamedTuple):
    """An expression of Python and what it gives."""

    text: str
    type: FeatureType


def compile_all(
    sources: Iterable[str], types: Mapping[str, FeatureType], fixed: Mapping[str, str]
) -> tuple[tuple[bool, ...], Evaluate]:
    """Compile conditions into one function.

    Parameters
    ----------
    sources
        Conditions that `cel` compiles.
    types
        Path → type, of every name a condition may use.
    fixed
        Paths whose value is known already: `request.placement` and `request.channel`.

    Returns
    -------
    compiled : tuple of bool
        Per source, whether the function answers it; the others are left to `cel`.
    evaluate
        Answers the compiled ones, in their order. It may raise anything where a value is not of its declared type.

    Examples
    --------
    >>> compiled, evaluate = compile_all(
    ...     ["customer.age > 30 && request.channel == 'web'", "customer.age + 1.0 > 30"],
    ...     {"customer.age": "number", "request.channel": "category"}, {"request.channel": "web"})
    >>> compiled, evaluate({"age": 31.0}, {}, {}, {})
    ((True, False), (True,))
    """
    codes = [python_of(source, types, fixed) for source in sources]
    texts = "".join(f"{code.text}, " for code in codes if code is not None)
    # only names from `types` and literals are in it, see above
    evaluate: Evaluate = eval(f"lambda values, relationship, journey, concern: ({texts})", {"__builtins__": {}})  # noqa: S307
    return tuple(code is not None for code in codes), evaluate


def python_of(source: str, types: Mapping[str, FeatureType], fixed: Mapping[str, str]) -> Code | None:
    """Return a condition as Python; None when something in it is left to `cel`."""
    try:
        code = _code(parse_condition(source), types, fixed)
    except CelSyntaxError:
        return None
    return code if code is not None and code.type == "boolean" else None


def _code(node: Node, types: Mapping[str, FeatureType], fixed: Mapping[str, str]) -> Code | None:
    match node:
        case Literal():
            return _literal(node)
        case Name():
            return _name(node.path, types, fixed)
        case Unary(sign="!"):
            operand = _code(node.operand, types, fixed)
            return None if operand is None or operand.type != "boolean" else Code(f"(not {operand.text})", "boolean")
        case Chain():
            return _chain(node, types, fixed)
        case Conditional():
            parts = [_code(part, types, fixed) for part in (node.test, node.yes, node.no)]
            test, yes, no = parts
            if test is None or yes is None or no is None or test.type != "boolean" or yes.type != no.type:
                return None
            return Code(f"({yes.text} if {test.text} else {no.text})", yes.type)
        case Call(method=True, args=(over, part)) if node.function in _METHODS:
            text, other = _code(over, types, fixed), _code(part, types, fixed)
            if text is None or other is None or {text.type, other.type} != {"category"}:
                return None
            return Code(_METHODS[node.function].format(text.text, other.text), "boolean")
    return None


def _literal(node: Literal) -> Code | None:
    match node.type:
        case "boolean":
            return Code(repr(node.value), "boolean")
        case "text":
            return Code(repr(node.value), "category")
        case "int" | "uint" | "double" if isinstance(node.value, int | float) and abs(node.value) <= EXACT:
            return Code(f"({node.value!r})", "number")
    return None


def _name(path: str, types: Mapping[str, FeatureType], fixed: Mapping[str, str]) -> Code | None:
    if path in fixed:
        return Code(repr(fixed[path]), "category")
    root, _, name = path.partition(".")
    return Code(f"{_ROOTS[root]}[{name!r}]", types[path]) if path in types else None


def _chain(node: Chain, types: Mapping[str, FeatureType], fixed: Mapping[str, str]) -> Code | None:
    if node.signs == ("in",):
        return _among(node.operands[0], node.operands[1], types, fixed)
    operands = [_code(operand, types, fixed) for operand in node.operands]
    known = [operand for operand in operands if operand is not None]
    kinds = {operand.type for operand in known}
    if len(known) < len(operands) or len(kinds) > 1:
        return None
    texts = [operand.text for operand in known]
    sign = node.signs[0]
    if sign in ("&&", "||") and kinds == {"boolean"}:
        return Code(f"({(' and ' if sign == '&&' else ' or ').join(texts)})", "boolean")
    if len(texts) == 2 and sign in _COMPARISONS and (sign in ("==", "!=") or "boolean" not in kinds):
        return Code(f"({texts[0]} {sign} {texts[1]})", "boolean")
    return None


def _among(what: Node, among: Node, types: Mapping[str, FeatureType], fixed: Mapping[str, str]) -> Code | None:
    if not isinstance(among, ListOf) or not among.items:
        return None
    codes = [_code(part, types, fixed) for part in (what, *among.items)]
    known = [code for code in codes if code is not None]
    if len(known) < len(codes) or len({code.type for code in known}) > 1:
        return None
    return Code(f"({known[0].text} in ({''.join(f'{code.text}, ' for code in known[1:])}))", "boolean")
