"""Conditions as trees: a parser for the part of CEL that nbx allows.

`cel` compiles a condition but tells neither the names in it nor where they stand, and it recurses: 1,000 brackets end
the process of a thread with 512 kB of stack. So every condition is parsed here first, in one pass over at most
`CONDITION_LENGTH` characters and `DEPTH` levels; the tree is what names, types and logic are read from.

Allowed are texts, numbers, true, false, null, dotted names (`customer['tier']` too), lists, calls, the operators of CEL
and the loops exists, all and exists_one. Not allowed, as no condition needs them: maps, bytes, messages, places in a
list, names made up at run time. `map` and `filter` copy the list at every step: 0.6 s for one condition of 1,041
characters. `matches` compiles its pattern at every evaluation: 62 µs for a short one, no useful bound for a long one.
Loops inside each other multiply; one alone takes 10 ms at worst in `LOOP_LENGTH` characters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal as OneOf
from typing import NoReturn, TypeAlias

from msgspec import Struct

from nbx.catalog.cel_tokens import NumberType, Token, number_value, text_value, tokenize

CONDITION_LENGTH = 2048
"""Characters in a condition: 7 ms for the worst one found, and a person has to read it."""
LOOP_LENGTH = 512
"""Characters in a condition with a loop: cost grows with the cube of its length; 10 ms for the worst."""
REMEMBERED = 4096
"""Trees kept: checking, lint, tests and compiling read the same conditions one after the other."""
DEPTH = 32
"""Brackets, calls, signs and arms inside each other: what a person still reads, and the stack of any thread bears."""

KEYWORDS = frozenset({"true", "false", "null", "in"})
"""Words of CEL that can be neither a name nor the name of a field."""
RESERVED = frozenset({"as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop"})
RESERVED |= {"namespace", "package", "return", "var", "void", "while"}
"""Words of CEL that cannot begin a name."""
LOOPS = frozenset({"exists", "all", "exists_one", "existsOne"})
UNBOUNDED = frozenset({"map", "filter", "matches"})

LiteralType: TypeAlias = NumberType | OneOf["text", "boolean", "null"]


class CelSyntaxError(Exception):
    """A source is no condition.

    Parameters
    ----------
    message
        What was wrong and what to do.
    offset
        Character of the source, 0-based.
    """

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


class Node(Struct, frozen=True):
    """Part of a condition: characters `start` to `end` (exclusive) of the source, which read alone mean the same."""

    start: int
    end: int


class Literal(Node, frozen=True):
    """A fixed value; a minus before a number belongs to it."""

    value: bool | float | str | None
    type: LiteralType


class Name(Node, frozen=True):
    """A variable with its fields: `customer.tier`, or a loop's variable."""

    path: str


class ListOf(Node, frozen=True):
    """`[a, b]`."""

    items: tuple[Node, ...]


class Unary(Node, frozen=True):
    """`!a` or `-a`."""

    sign: str
    operand: Node


class Chain(Node, frozen=True):
    """Operands joined from left to right by signs of one precedence: `a && b && c`, `a - b + c`, `a == b`."""

    operands: tuple[Node, ...]
    signs: tuple[str, ...]
    """One fewer than operands."""


class Conditional(Node, frozen=True):
    """`test ? yes : no`."""

    test: Node
    yes: Node
    no: Node


class Call(Node, frozen=True):
    """`f(a, b)`, or `a.f(b)` with `a` as its first argument."""

    function: str
    at: int
    """Where the function's name stands."""
    method: bool
    args: tuple[Node, ...]


class Loop(Node, frozen=True):
    """`over.exists(variable, body)`."""

    kind: str
    """`exists`, `all`, `exists_one` or `existsOne`."""
    over: Node
    variable: str
    at: int
    """Where the variable is introduced."""
    body: Node


_POWER = {"||": 1, "&&": 2, "+": 4, "-": 4, "*": 5, "/": 5, "%": 5}
_POWER |= dict.fromkeys(("<", "<=", ">", ">=", "==", "!=", "in"), 3)
_INSTEAD = {"and": "&&", "&": "&&", "or": "||", "|": "||", "not": "!", "=": "==", "is": "==", "<>": "!="}
"""What people write who do not write CEL."""


@lru_cache(maxsize=REMEMBERED)
def parse_condition(source: str) -> Node:
    """Return the tree of a condition: some 10 µs per operator.

    Whatever is returned `cel` compiles too.

    Raises
    ------
    CelSyntaxError
        It is no CEL, or uses what is not allowed.

    Examples
    --------
    >>> tree = parse_condition("customer.tier == 'gold' && !request.is_mobile")
    >>> [type(node).__name__ for node in tree.operands], tree.signs
    (['Chain', 'Unary'], ('&&',))
    >>> tree.operands[0].operands
    (Name(start=0, end=13, path='customer.tier'), Literal(start=17, end=23, value='gold', type='text'))
    """
    if len(source) > CONDITION_LENGTH:
        text = f"must have at most {CONDITION_LENGTH} characters, has {len(source)}"
        raise CelSyntaxError(text, 0)
    return _Parser(source).condition()


def names_in(tree: Node) -> frozenset[str]:
    """Return the names a condition reads, without the variables of its loops.

    Examples
    --------
    >>> sorted(names_in(parse_condition("['go'].exists(x, customer.tier.startsWith(x)) || request.is_mobile")))
    ['customer.tier', 'request.is_mobile']
    """
    found, waiting = set(), [(tree, "")]
    while waiting:
        node, bound = waiting.pop()
        if isinstance(node, Name):
            if node.path.partition(".")[0] != bound:
                found.add(node.path)
        elif isinstance(node, Loop):
            waiting += ((node.over, bound), (node.body, node.variable))
        else:
            waiting += ((each, bound) for each in parts_of(node))
    return frozenset(found)


def parts_of(node: Node) -> tuple[Node, ...]:
    """Return what a node is made of, in the order of the source."""
    match node:
        case Chain(operands=parts) | ListOf(items=parts) | Call(args=parts):
            return parts
        case Unary():
            return (node.operand,)
        case Conditional():
            return node.test, node.yes, node.no
        case Loop():
            return node.over, node.body
    return ()


class _Parser:
    """Recursive descent by precedence: one token ahead, but for telling a call from a name."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = tokenize(source)
        self._next = 0
        self._ahead = self._tokens[0]
        self._depth = 0
        self._in_loop = False

    def condition(self) -> Node:
        found = self._expression()
        if self._ahead.kind != "end":
            self._fail_unexpected(self._ahead)
        return found

    def _sees(self, text: str) -> bool:
        return self._ahead.text == text

    def _take(self) -> Token:
        token = self._ahead
        if token.kind != "end":
            self._next += 1
            self._ahead = self._tokens[self._next]
        return token

    def _expect(self, text: str) -> None:
        if not self._sees(text):
            self._fail_unexpected(self._ahead, f": `{text}` is missing")
        self._take()

    def _end(self) -> int:
        return self._tokens[self._next - 1].end

    def _deeper(self, parse: Callable[[], Node]) -> Node:
        self._depth += 1
        if self._depth > DEPTH:
            raise CelSyntaxError(f"is nested deeper than {DEPTH} levels: split it into layers", self._ahead.start)
        found = parse()
        self._depth -= 1
        return found

    def _expression(self) -> Node:
        return self._deeper(self._conditional)

    def _conditional(self) -> Node:
        start = self._ahead.start
        test = self._chain(1)
        if not self._sees("?"):
            return test
        self._take()
        yes = self._chain(1)
        if self._sees("?"):
            raise CelSyntaxError("put the `? :` between `?` and `:` in brackets", self._ahead.start)
        self._expect(":")
        no = self._expression()
        return Conditional(start, self._end(), test, yes, no)

    def _chain(self, weakest: int) -> Node:
        start = self._ahead.start
        left = self._unary()
        while (power := _POWER.get(self._ahead.text, 0)) >= weakest:
            operands, signs = [left], []
            while _POWER.get(self._ahead.text) == power:
                signs.append(self._take().text)
                operands.append(self._chain(power + 1))
            left = Chain(start, self._end(), tuple(operands), tuple(signs))
        return left

    def _unary(self) -> Node:
        token = self._ahead
        if token.text not in ("!", "-"):
            return self._member()
        self._take()
        if token.text == "-" and self._ahead.kind == "number" and self._ahead.text[-1] not in "uU":
            return self._with_fields(_number(self._take(), token), token.start)
        if self._ahead.text in ("!", "-") and self._ahead.text != token.text:
            raise CelSyntaxError("`!` and `-` need brackets between them", self._ahead.start)
        operand = self._deeper(self._unary)
        return Unary(token.start, self._end(), token.text, operand)

    def _member(self) -> Node:
        token = self._take()
        return self._with_fields(self._primary(token), token.start)

    def _primary(self, token: Token) -> Node:
        if token.kind == "string":
            return _text(token)
        if token.kind == "number":
            return _number(token)
        if token.text in ("true", "false"):
            return Literal(token.start, token.end, token.text == "true", "boolean")
        if token.text == "null":
            return Literal(token.start, token.end, None, "null")
        if token.kind == "name" and token.text not in KEYWORDS:
            return self._name(token)
        if token.text == "(":
            inner = self._expression()
            self._expect(")")
            return inner
        if token.text == "[":
            items = self._items("]")
            return ListOf(token.start, self._end(), items)
        if token.text == "{":
            raise CelSyntaxError("a condition has no maps: compare with a list, `name in [...]`", token.start)
        if token.text == ".":
            raise CelSyntaxError("a name must not begin with a dot", token.start)
        return self._fail_unexpected(token)

    def _name(self, token: Token) -> Node:
        if token.text in RESERVED:
            raise CelSyntaxError(f"`{token.text}` is a reserved word of CEL and cannot be a name", token.start)
        if self._sees("("):
            return self._call(token, token.start, None)
        if self._sees("{"):
            raise CelSyntaxError("a condition has no messages", self._ahead.start)
        return Name(token.start, token.end, token.text)

    def _with_fields(self, node: Node, start: int) -> Node:
        while True:
            if self._sees("."):
                self._take()
                field = self._take()
                if field.kind != "name" or field.text in KEYWORDS:
                    self._fail_unexpected(field, ": the name of a field or function is missing")
                if self._sees("("):
                    node = self._call(field, start, node)
                    continue
                name, at = field.text, field.start
            elif self._sees("["):
                at = self._take().start
                key = self._take()
                if key.kind != "string" or not self._sees("]"):
                    raise CelSyntaxError("a place in a list has no name: use `in`, exists or all", at)
                name = str(_text(key).value)
                self._take()
            else:
                return node
            if not isinstance(node, Name):
                raise CelSyntaxError(f"only a name has fields, this has no `{name:.80}`", at)
            node = Name(start, self._end(), f"{node.path}.{name}")

    def _call(self, function: Token, start: int, receiver: Node | None) -> Node:
        if function.text in UNBOUNDED:
            hint = "use startsWith, endsWith, contains, exists, all or `in [...]`"
            raise CelSyntaxError(f"`{function.text}` has no bounded cost: {hint}", function.start)
        self._take()
        if function.text in LOOPS and receiver is not None:
            return self._loop(function, start, receiver)
        args = self._items(")")
        if receiver is not None:
            args = (receiver, *args)
        return Call(start, self._end(), function.text, function.start, receiver is not None, args)

    def _loop(self, function: Token, start: int, over: Node) -> Node:
        if self._in_loop:
            raise CelSyntaxError(f"`{function.text}` must not stand inside another loop", function.start)
        if len(self._source) > LOOP_LENGTH:
            text = f"with `{function.text}` a condition must have at most {LOOP_LENGTH} characters, has "
            raise CelSyntaxError(f"{text}{len(self._source)}", function.start)
        variable = self._take()
        if variable.kind != "name" or variable.text in KEYWORDS | RESERVED or not self._sees(","):
            text = f"a loop is written `list.{function.text}(x, what must hold of x)`"
            raise CelSyntaxError(text, variable.start)
        self._take()
        self._in_loop = True
        body = self._expression()
        self._in_loop = False
        self._expect(")")
        return Loop(start, self._end(), function.text, over, variable.text, variable.start, body)

    def _items(self, closing: str) -> tuple[Node, ...]:
        """Read expressions separated by commas, and the closing bracket; a list may end with a comma."""
        items: list[Node] = []
        while not self._sees(closing):
            items.append(self._expression())
            if self._sees(closing):
                break
            self._expect(",")
            if closing == ")" and self._sees(closing):
                self._fail_unexpected(self._ahead)
        self._take()
        return tuple(items)

    def _fail_unexpected(self, token: Token, hint: str = "") -> NoReturn:
        place = self._tokens.index(token)
        before = self._tokens[place - 1].text.lower() if place else ""
        if instead := _INSTEAD.get(token.text.lower()) or _INSTEAD.get(before):
            hint = f": write `{instead}`"
        if token.kind == "end":
            text = "something is missing at the end" + hint
        elif token.text in "'\"":
            text = "a text without its closing quote"
        else:
            text = f"unexpected `{token.text:.40}`{hint}"
        raise CelSyntaxError(f"not a condition in CEL: {text}", token.start)


def _number(token: Token, minus: Token | None = None) -> Literal:
    start = (minus or token).start
    try:
        value, kind = number_value(token.text)
    except ValueError as error:
        raise CelSyntaxError(str(error), start) from None
    return Literal(start, token.end, -value if minus else value, kind)


def _text(token: Token) -> Literal:
    try:
        return Literal(token.start, token.end, text_value(token.text), "text")
    except ValueError as error:
        raise CelSyntaxError(str(error), token.start) from None
