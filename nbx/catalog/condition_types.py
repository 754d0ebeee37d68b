"""Types of conditions, inferred on the tree: what passes here does not fail at run time for its types.

Every part is looked at, whatever short circuits and arms hide from an evaluation. The rules are those of `cel` 0.10,
which converts nothing: whole numbers and numbers compare with each other but do not add up; `==` between types is
false, not an error. Three things are stricter, each because something else is meant: a list has members of one type,
both arms of `? :` too, and a comparison that is decided before anything is known of the customer is refused. A name's
values are those of its vocabulary: 0 to 1, one of the declared categories, a step of the journey.

What is left to run time is what values alone can break: arithmetic (division, whole numbers that overflow), and int,
uint and double of a text or number that is none. The action is then removed with reason `condition_error`.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from nbx.catalog.cel_syntax import LOOPS, Call, Chain, Conditional, ListOf, Literal, Loop, Name, Node, Unary
from nbx.catalog.condition_logic import domain_of, fact_of
from nbx.catalog.suggestions import did_you_mean
from nbx.catalog.value_sets import meet
from nbx.catalog.vocabulary import ROOTS, Variable

FUNCTIONS: dict[str, tuple[frozenset[str], int, bool, str]] = {
    "size": (frozenset({"text", "list"}), 1, False, "int"),
    "contains": (frozenset({"text"}), 2, True, "boolean"),
    "startsWith": (frozenset({"text"}), 2, True, "boolean"),
    "endsWith": (frozenset({"text"}), 2, True, "boolean"),
    "int": (frozenset({"int", "uint", "double", "number", "text"}), 1, False, "int"),
    "uint": (frozenset({"int", "uint", "double", "number", "text"}), 1, False, "uint"),
    "double": (frozenset({"int", "uint", "double", "number", "text"}), 1, False, "double"),
    "string": (frozenset({"int", "uint", "double", "number", "text"}), 1, False, "text"),
}
"""Name → types it takes, how many arguments (with the receiver), whether it is written `a.f(b)`, type of its result."""

_NUMBERS = frozenset({"int", "uint", "double", "number"})
_OF_FEATURE = {"number": "double", "boolean": "boolean", "category": "text"}
_IN_WORDS = {
    "double": "a number",
    "int": "a whole number",
    "uint": "an unsigned number",
    "number": "a number of mixed kind",
    "boolean": "true or false",
    "text": "a text",
}
_ADDED = frozenset({"int", "uint", "double", "text"})
_NEVER_NULL = "a value is never null: a missing one has its feature's default"


class ConditionFault(Struct, frozen=True, kw_only=True):
    """What is wrong with a condition, found before it is published."""

    offset: int
    """Character of the source, 0-based."""
    code: str
    """`condition_syntax`, `condition_name`, `condition_function`, `condition_type` or `condition_value`."""
    message: str


def type_faults(source: str, tree: Node, words: Mapping[str, Variable]) -> list[ConditionFault]:
    """Return what names, types and values of a condition are wrong, all at once, by offset; O(nodes)."""
    checker = _Checker(source, words)
    checker.demand_boolean(tree)
    return sorted(checker.faults, key=lambda fault: fault.offset)


class _Checker:
    """Infers the type of each node; None where a fault has been reported, so that none follows from it."""

    def __init__(self, source: str, words: Mapping[str, Variable]) -> None:
        self.faults: list[ConditionFault] = []
        self._source = source
        self._words = words
        self._bound: dict[str, str | None] = {}

    def _fault(self, offset: int, code: str, message: str) -> str | None:
        """Report, and return the type of what is wrong: none."""
        self.faults.append(ConditionFault(offset=offset, code=f"condition_{code}", message=message))
        return None

    def _quote(self, node: Node) -> str:
        return f"`{self._source[node.start : node.end]:.120}`"

    def demand_boolean(self, node: Node) -> None:
        kind = self.type_of(node)
        if kind not in (None, "boolean"):
            self._fault(node.start, "type", f"{self._quote(node)} must be true or false, is {_words(kind)}")

    def type_of(self, node: Node) -> str | None:
        match node:
            case Literal(value=None):
                return self._fault(node.start, "value", _NEVER_NULL)
            case Literal():
                return node.type
            case Name():
                return self._type_of_name(node)
            case ListOf():
                return self._type_of_list(node)
            case Unary():
                return self._type_of_unary(node)
            case Chain():
                return self._type_of_chain(node)
            case Conditional():
                self.demand_boolean(node.test)
                yes, no = self.type_of(node.yes), self.type_of(node.no)
                if yes and no and not _joined(yes, no):
                    text = f"{self._quote(node)}: one arm is {_words(yes)}, the other {_words(no)}"
                    return self._fault(node.no.start, "type", text)
                return _joined(yes, no) if yes and no else None
            case Call():
                return self._type_of_call(node)
            case Loop():
                return self._type_of_loop(node)
        raise AssertionError(node)

    def _type_of_name(self, node: Name) -> str | None:
        root, *fields = node.path.split(".")
        if root in self._bound:
            if fields:
                self._fault(node.start, "name", f"`{root}` is a member of a list: it has no `{fields[0]:.80}`")
            return None if fields else self._bound[root]
        if node.path in self._words:
            return _OF_FEATURE[self._words[node.path].type]
        parent = ".".join((root, *fields[:1]))
        if parent in self._words:
            text = f"`{parent}` is a {self._words[parent].type}: it has no `{fields[1]:.80}`"
        elif root in ROOTS and not fields:
            example = next((word for word in self._words if word.startswith(f"{root}.")), f"{root}.name")
            text = f"`{root}` cannot stand alone: name one value, such as `{example}`"
        else:
            text = f"unknown name `{node.path:.80}`.{self._nearest(node.path)}"
        return self._fault(node.start, "name", text)

    def _nearest(self, path: str) -> str:
        last = path.rpartition(".")[2]
        elsewhere = next((f"{root}.{last}" for root in ROOTS if f"{root}.{last}" in self._words), "")
        if elsewhere:
            return f" Did you mean `{elsewhere}`?"
        form = " Names are customer.<feature>, request.<context feature>, relationship.<built-in>, "
        return did_you_mean(path, self._words) or f"{form}journey.<name>, concern.<name>"

    def _type_of_list(self, node: ListOf) -> str | None:
        if not node.items:
            return self._fault(node.start, "value", "the list is empty: nothing is in it")
        kinds = [self.type_of(each) for each in node.items]
        joined = kinds[0]
        for item, kind in zip(node.items[1:], kinds[1:], strict=True):
            if joined is None or kind is None:
                return None
            if (wider := _joined(joined, kind)) is None:
                text = f"{self._quote(item)} is {_words(kind)}, the members before it are not: a list has one type"
                return self._fault(item.start, "type", text)
            joined = wider
        return None if joined is None else f"list of {joined}"

    def _type_of_unary(self, node: Unary) -> str | None:
        if node.sign == "!":
            self.demand_boolean(node.operand)
            return "boolean"
        kind = self.type_of(node.operand)
        if kind not in (None, "int", "double"):
            text = f"{self._quote(node)}: a minus needs a number, not {_words(kind)}"
            return self._fault(node.start, "type", text)
        return kind

    def _type_of_chain(self, node: Chain) -> str | None:
        if node.signs[0] in ("&&", "||"):
            for each in node.operands:
                self.demand_boolean(each)
            return "boolean"
        kind = self.type_of(node.operands[0])
        arithmetic = node.signs[0] in "+-*/%"
        for sign, right in zip(node.signs, node.operands[1:], strict=True):
            other = self.type_of(right)
            if kind is None or other is None:
                kind = None if arithmetic else "boolean"
                continue
            problem = _sum_problem(sign, kind, other) if arithmetic else _relation_problem(sign, kind, other)
            if problem:
                return self._fault(node.start, "type", f"{self._quote(node)}: {problem}{self._declared(node)}")
            if not arithmetic:
                if len(node.signs) == 1:
                    self._check_decided(node)
                kind = "boolean"
        return kind

    def _declared(self, node: Chain) -> str:
        """Say what the names compared or added up are."""
        names = {each.path: each.path for each in node.operands if isinstance(each, Name) and each.path in self._words}
        return "".join(f"; {name} is a {self._words[name].type}" for name in names)

    def _check_decided(self, node: Chain) -> None:
        """Refuse a comparison that always or never holds; its types fit."""
        if all(isinstance(each, Literal) for each in node.operands):
            self._fault(node.start, "value", f"{self._quote(node)} compares fixed values: it decides nothing")
            return
        fact = fact_of(node, self._words)
        if fact is None:
            return
        path, values = fact
        variable, domain = self._words[path], domain_of(self._words[path])
        if variable.known:
            right = node.operands[1] if isinstance(node.operands[0], Name) else node.operands[0]
            for literal in right.items if isinstance(right, ListOf) else (right,):
                assert isinstance(literal, Literal)
                if literal.value not in variable.known:
                    text = f"`{literal.value!s:.80}` is no {variable.known_as}: correct it, or add it there."
                    hint = did_you_mean(str(literal.value), (each for each in variable.known if each))
                    self._fault(literal.start, "value", text + hint)
        elif meet(values, domain).empty:
            self._fault(node.start, "value", f"{self._quote(node)} never holds: {path} is {domain}")
        elif meet(values, domain) == domain:
            self._fault(node.start, "value", f"{self._quote(node)} always holds: {path} is {domain}")

    def _type_of_call(self, node: Call) -> str | None:
        kinds = [self.type_of(each) for each in node.args]
        if node.function not in FUNCTIONS:
            return self._fault(node.at, "function", _unknown_function(node.function))
        takes, count, as_method, result = FUNCTIONS[node.function]
        if len(node.args) != count or (as_method and not node.method):
            form = f"a.{node.function}(b)" if as_method else f"{node.function}(a)"
            return self._fault(node.at, "function", f"`{node.function}` is written `{form}`")
        for arg, kind in zip(node.args, kinds, strict=True):
            if kind is not None and kind.partition(" ")[0] not in takes:
                text = f"{self._quote(node)}: {node.function} does not work on {_words(kind)}"
                return self._fault(arg.start, "type", text)
        return result

    def _type_of_loop(self, node: Loop) -> str | None:
        over = self.type_of(node.over)
        if over is not None and not over.startswith("list of "):
            self._fault(node.over.start, "type", f"{self._quote(node.over)} is {_words(over)}: a loop needs a list")
            over = None
        if node.variable in ROOTS:
            text = f"`{node.variable}` is taken: give the variable of the loop another name"
            return self._fault(node.at, "name", text)
        self._bound[node.variable] = over.removeprefix("list of ") if over else None
        self.demand_boolean(node.body)
        del self._bound[node.variable]
        return "boolean"


def _words(kind: str | None) -> str:
    return "a list" if kind is None or kind.startswith("list of ") else _IN_WORDS[kind]


def _joined(one: str, other: str) -> str | None:
    """Return the type that both types have in common; None when they are never equal."""
    if one == other:
        return one
    if one.startswith("list of ") and other.startswith("list of "):
        inner = _joined(one.removeprefix("list of "), other.removeprefix("list of "))
        return inner and f"list of {inner}"
    return "number" if one in _NUMBERS and other in _NUMBERS else None


def _relation_problem(sign: str, one: str, other: str) -> str:
    if sign == "in":
        if not other.startswith("list of "):
            return f"`in` needs a list on its right, not {_words(other)}"
        other = other.removeprefix("list of ")
    if _joined(one, other) is None:
        told = "is never in a list of" if sign == "in" else "and"
        return f"{_words(one)} {told} {_words(other)}{'' if sign == 'in' else ' are never equal' * (sign in '!==')}"
    if sign not in ("==", "!=", "in") and one.startswith("list of "):
        return "lists have no order"
    return ""


def _sum_problem(sign: str, one: str, other: str) -> str:
    takes = {"+": _ADDED, "%": frozenset({"int", "uint"})}.get(sign, _ADDED - {"text"})
    lists = sign == "+" and one.startswith("list of ")
    if one == other and (one in takes or lists):
        return ""
    if {one, other} == {"double", "int"} and sign != "%":
        return "a number and a whole number do not mix: write whole numbers as 1.0, or use double(...)"
    return f"`{sign}` does not work on {_words(one)} and {_words(other)}"


def _unknown_function(name: str) -> str:
    if name == "has":
        return f"`has` is always true: {_NEVER_NULL}"
    known = FUNCTIONS.keys() | LOOPS
    near = did_you_mean(name, known) or f" There are {', '.join(sorted(known - {'existsOne'}))}"
    return f"unknown function `{name:.80}`.{near}"
