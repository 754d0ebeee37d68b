"""Words of CEL: a source split into tokens, and what numbers and texts stand for."""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple, TypeAlias

NumberType: TypeAlias = Literal["int", "uint", "double"]


class Token(NamedTuple):
    """A word of a condition."""

    kind: str
    text: str
    start: int
    end: int


_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n\f]+|//[^\n]*)
    |(?P<string>[bB]?[rR](?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n\r]*"|'[^'\n\r]*')
      |[bB]?(?:\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n\r])*"|'(?:\\.|[^'\\\n\r])*'))
    |(?P<number>0x[0-9a-fA-F]+[uU]?|(?:\d+\.\d+|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\d+[uU]?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>&&|\|\||[=!<>]=|.)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_ESCAPE = re.compile(
    r"""\\(?:(?P<plain>[abfnrtv\\?"'`])|(?P<octal>[0-3][0-7]{2})
    |[xX](?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})|(?P<bad>.?))""",
    re.VERBOSE | re.DOTALL,
)
_PLAIN = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_LARGEST: dict[NumberType, int] = {"int": 2**63 - 1, "uint": 2**64 - 1}


def tokenize(source: str) -> list[Token]:
    """Split a source into tokens, without space and comments, and one of kind `end` behind them; linear.

    A character that begins nothing is a token of kind `sign`: whoever reads it will not expect it.

    Examples
    --------
    >>> [token.text for token in tokenize("a<=.5 // note")]
    ['a', '<=', '.5', '']
    """
    tokens = [
        Token(match.lastgroup or "", match[0], *match.span())
        for match in _TOKEN.finditer(source)
        if match.lastgroup != "space"
    ]
    tokens.append(Token("end", "", len(source), len(source)))
    return tokens


def number_value(text: str) -> tuple[float, NumberType]:
    """Return value and type of a number without sign.

    Raises
    ------
    ValueError
        It is out of range.

    Examples
    --------
    >>> number_value("0x10u"), number_value("1e3")
    ((16, 'uint'), (1000.0, 'double'))
    """
    digits = text.rstrip("uU")
    if digits.startswith("0x") or digits.isdigit():
        kind: NumberType = "int" if digits == text else "uint"
        # the length bounds the work of int()
        value = int(digits, 16 if digits.startswith("0x") else 10) if len(digits) < 100 else math.inf
        if value > _LARGEST[kind]:
            raise ValueError("a whole number beyond 64 bits: write it with a decimal point")
        return value, kind
    size = float(digits)
    if math.isinf(size):
        raise ValueError("a number beyond what a double can hold")
    return size, "double"


def text_value(text: str) -> str:
    """Return what a quoted text stands for.

    Raises
    ------
    ValueError
        An escape has no meaning, or these are bytes.

    Examples
    --------
    >>> text_value(r"'it\\'s'"), text_value("r'C:\\\\'")
    ("it's", 'C:\\\\')
    """
    raw = False
    while text[0] not in "'\"":
        if text[0] in "bB":
            raise ValueError("a condition has no bytes: leave out the b")
        text, raw = text[1:], True
    width = 3 if len(text) >= 6 and text[:3] in ("'''", '"""') else 1
    text = text[width:-width]
    return text if raw or "\\" not in text else _ESCAPE.sub(_unescaped, text)


def _unescaped(match: re.Match[str]) -> str:
    plain, octal, *codes, bad = match.groups()
    if plain is not None:
        return _PLAIN.get(plain, plain)
    code = int(octal, 8) if octal else int(next((each for each in codes if each), "d800"), 16)
    if bad is not None or 0xD800 <= code <= 0xDFFF or code > 0x10FFFF:
        raise ValueError(f"`{match.group()}` has no meaning in a text: write \\\\ for one \\")
    return chr(code)
