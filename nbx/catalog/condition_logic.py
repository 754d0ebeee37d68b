"""What conditions say together: can all of them hold, does one follow from others.

A condition becomes alternatives (disjunctive normal form), each a set of values per variable. A comparison of a name
with fixed values, and a boolean name, are facts; anything else (a function, a loop, two names compared) is a fact about
itself: it holds or does not, like a boolean variable called by its text. Values range over what the vocabulary says; a
category may always have a value nobody declared.

Claims are only ever "this cannot be", and sound: what is not understood counts as possible, and beyond `ALTERNATIVES`
a condition says nothing. What may fail for some values (arithmetic, int, uint, double) may neither hold nor not, so
that nothing follows from one of them being out. To `cel` a failure is less than true and more than false, in `&&`, `||`
and `? :` alike, so a condition that cannot be true without failures cannot be true with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import TypeAlias

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
    names_in,
    parse_condition,
    parts_of,
)
from nbx.catalog.value_sets import ANY_TEXT, BOTH, Choice, Spans, Values, join, meet
from nbx.catalog.vocabulary import Variable
from nbx.features.schema import FeatureType

ALTERNATIVES = 64
"""Alternatives of a condition, or of several together, that are looked at: the work grows with their product."""

PATIENCE = 1_000_000
"""Characters of some 10,000 conditions as people write them, or of 500 of the longest: seconds at worst."""

Facts: TypeAlias = dict[str, Values]
"""Variable → values it may have; one not in it may have any."""

_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_RELATIONS = frozenset({"==", "!=", "<", "<=", ">", ">="})
_ARITHMETIC = frozenset("+-*/%")
_FALLIBLE = frozenset({"int", "uint", "double"})


class Logic:
    """Conclusions from conditions over a vocabulary; what a condition says is worked out once.

    Parameters
    ----------
    words
        What names stand for.
    patience
        Characters of distinct conditions that are looked at; the others say nothing.

    Examples
    --------
    >>> from nbx.catalog.vocabulary import vocabulary
    >>> logic = Logic(vocabulary(()))
    >>> logic.contradiction(["relationship.balance > 0", "relationship.balance < -5 || relationship.strain > 2"])
    ('relationship.balance is above 0', 'relationship.balance is below -5')
    >>> logic.implies(["relationship.balance > 0"], "relationship.balance > -1")
    True
    """

    def __init__(self, words: Mapping[str, Variable], *, patience: int = PATIENCE) -> None:
        self._words = words
        self._trees: dict[str, Node | None] = {}
        self._said: dict[str, list[_Said]] = {}
        self._patience = patience

    def names(self, source: str) -> frozenset[str]:
        """Return the names a condition reads; none when it does not parse."""
        tree = self._tree(source)
        return frozenset() if tree is None else names_in(tree)

    def contradiction(self, sources: Sequence[str]) -> tuple[str, ...] | None:
        """Return what clashes, in words, when conditions can never hold together; None where they may.

        Parameters
        ----------
        sources
            One or more; empty ones hold always.
        """
        said = [each for source in sources if source for each in self._parts(source)]
        if _together(said) != []:
            return None
        for path in sorted({path for each in said for facts in each.alternatives for path in facts}):
            clash = [(each, values) for each in said if (values := _projected(each, path)) is not None]
            if clash and reduce(meet, (values for _, values in clash)).empty:
                return tuple(dict.fromkeys(_in_words(path, values) for _, values in clash))
        needed = list(said)
        for each in said:  # leave out what is not needed for the clash
            fewer = [other for other in needed if other is not each]
            if _together(fewer) == []:
                needed = fewer
        return tuple(dict.fromkeys(f"`{each.source}`" for each in needed))

    def implies(self, premises: Sequence[str], conclusion: str) -> bool:
        """Tell whether a condition holds wherever all of the premises do; False where that is not known."""
        if not conclusion or conclusion in premises:
            return True
        said = [each for source in premises if source for each in self._parts(source)]
        tree = self._tree(conclusion)
        return tree is not None and _together([*said, self._say(conclusion, tree, holds=False)]) == []

    def always_true(self, source: str) -> bool:
        """Tell whether a condition holds whatever the values; False where that is not known."""
        return self.implies((), source)

    def _parts(self, source: str) -> list[_Said]:
        """Return what the operands of the outermost `&&` say, each on its own."""
        if source not in self._said:
            tree = self._tree(source)
            self._patience -= len(source)
            if tree is None or self._patience < 0:
                self._said[source] = []
            else:
                self._said[source] = [self._say(source, each) for each in _conjuncts(tree)]
        return self._said[source]

    def _tree(self, source: str) -> Node | None:
        if source not in self._trees:
            try:
                self._trees[source] = parse_condition(source)
            except CelSyntaxError:
                self._trees[source] = None
        return self._trees[source]

    def _say(self, source: str, tree: Node, *, holds: bool = True) -> _Said:
        text = source[tree.start : tree.end]
        try:
            return _Said(text, _Reader(self._words, source, negating=not holds).alternatives(tree, holds=holds))
        except _TooManyError:
            return _Said(text, [{}])


class _Said:
    """What one condition says: it holds where one of its alternatives does."""

    def __init__(self, source: str, alternatives: list[Facts]) -> None:
        self.source = source
        self.alternatives = alternatives
        self.paths = frozenset().union(*alternatives)


class _TooManyError(Exception):
    """More alternatives than are looked at."""


class _Reader:
    """Reads alternatives off the tree of one condition.

    Parameters
    ----------
    negating
        Whether a failure must not be told from the condition not holding: nothing is then said of what may fail.
    """

    def __init__(self, words: Mapping[str, Variable], source: str, *, negating: bool) -> None:
        self._words = words
        self._source = source
        self._negating = negating

    def alternatives(self, node: Node, *, holds: bool) -> list[Facts]:
        """Return where a node holds, or where it does not."""
        if isinstance(node, Literal) and isinstance(node.value, bool):
            return [{}] if node.value is holds else []
        if isinstance(node, Unary) and node.sign == "!":
            return self.alternatives(node.operand, holds=not holds)
        if isinstance(node, Chain) and node.signs[0] in ("&&", "||"):
            parts = (self.alternatives(each, holds=holds) for each in node.operands)
            return _all_of(parts) if (node.signs[0] == "&&") is holds else _any_of(parts)
        if isinstance(node, Conditional):
            yes = _all_of([self.alternatives(node.test, holds=True), self.alternatives(node.yes, holds=holds)])
            no = _all_of([self.alternatives(node.test, holds=False), self.alternatives(node.no, holds=holds)])
            return _any_of([yes, no])
        path, values, domain = self._fact(node)
        if not path:
            return [{}]
        values = meet(values if holds else values.negated(), domain)
        if values.empty:
            return []
        return [{}] if values == domain else [{path: values}]

    def _fact(self, node: Node) -> tuple[str, Values, Values]:
        """Return variable, values for which the node holds, and all values it may have; no variable: not known."""
        fact = fact_of(node, self._words)
        if fact is not None:
            return fact[0], fact[1], domain_of(self._words[fact[0]])
        if self._negating and _may_fail(node):
            return "", BOTH, BOTH
        return f"`{self._source[node.start : node.end]}`", Choice(frozenset({True})), BOTH


def fact_of(node: Node, words: Mapping[str, Variable]) -> tuple[str, Values] | None:
    """Return the variable a node is about and the values for which it holds; None for any other node.

    Examples
    --------
    >>> from nbx.catalog.vocabulary import vocabulary
    >>> print(*fact_of(parse_condition("0.5 > relationship.strain"), vocabulary(())))
    relationship.strain below 0.5
    """
    if isinstance(node, Name):
        return (node.path, _is(True)) if _type(node, words) == "boolean" else None
    if not isinstance(node, Chain) or len(node.signs) != 1:
        return None
    sign, (left, right) = node.signs[0], node.operands
    if isinstance(left, Literal):
        left, right, sign = right, left, _MIRRORED.get(sign, sign)
    if not isinstance(left, Name) or left.path not in words:
        return None
    if sign == "in":
        among = _among(right, words[left.path].type)
        return None if among is None else (left.path, among)
    values = _values(sign, right, words[left.path]) if sign in _RELATIONS else None
    return None if values is None else (left.path, values)


def domain_of(variable: Variable) -> Values:
    """Return every value a variable may have."""
    if variable.type == "number":
        return Spans.between(variable.low, variable.high)
    return BOTH if variable.type == "boolean" else ANY_TEXT


def _type(node: Name, words: Mapping[str, Variable]) -> str:
    return words[node.path].type if node.path in words else ""


def _is(value: str | bool) -> Choice:
    return Choice(frozenset({value}))


def _values(sign: str, node: Node, variable: Variable) -> Values | None:
    """Return the values of a variable that stand in a relation to a literal of its type."""
    value = node.value if isinstance(node, Literal) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Spans.where(sign, float(value)) if variable.type == "number" else None
    types = {"boolean": bool, "category": str}
    if variable.type == "number" or not isinstance(value, types[variable.type]) or sign not in ("==", "!="):
        return None
    assert isinstance(value, str | bool)
    return _is(value) if sign == "==" else _is(value).negated()


def _among(node: Node, kind: FeatureType) -> Values | None:
    """Return the members of a list of literals of one type."""
    items = node.items if isinstance(node, ListOf) else ()
    members = [each.value for each in items if isinstance(each, Literal)]
    if kind == "number":
        numbers = [float(each) for each in members if isinstance(each, int | float) and not isinstance(each, bool)]
        return Spans.points(numbers) if numbers and len(numbers) == len(items) else None
    type_ = bool if kind == "boolean" else str
    others: list[str | bool] = [each for each in members if isinstance(each, str | bool) and isinstance(each, type_)]
    return Choice(frozenset(others)) if others and len(others) == len(items) else None


def _may_fail(node: Node) -> bool:
    """Tell whether a node, or a part of it, may fail for some values."""
    fallible = (
        (isinstance(node, Call) and node.function in _FALLIBLE)
        or (isinstance(node, Chain) and node.signs[0] in _ARITHMETIC)
        or (isinstance(node, Unary) and node.sign == "-")
    )
    return fallible or any(map(_may_fail, parts_of(node)))


def _conjuncts(node: Node) -> Iterator[Node]:
    if isinstance(node, Chain) and node.signs[0] == "&&":
        for each in node.operands:
            yield from _conjuncts(each)
    else:
        yield node


def _all_of(parts: Iterable[list[Facts]]) -> list[Facts]:
    return reduce(_both, parts)


def _both(one: list[Facts], other: list[Facts]) -> list[Facts]:
    found = []
    for left in one:
        for right in other:
            facts = left | right
            for path in left.keys() & right.keys():
                facts[path] = meet(left[path], right[path])
            if not any(facts[path].empty for path in left.keys() & right.keys()):
                found.append(facts)
        if len(found) > ALTERNATIVES:
            raise _TooManyError
    return found


def _any_of(parts: Iterable[list[Facts]]) -> list[Facts]:
    """Join alternatives; those about the same single variable become one."""
    found: list[Facts] = []
    single: dict[str, Values] = {}
    for facts in (each for part in parts for each in part):
        if not facts:
            return [{}]
        if len(facts) == 1:
            [(path, values)] = facts.items()
            single[path] = join(single[path], values) if path in single else values
        else:
            found.append(facts)
    found += [{path: values} for path, values in single.items()]
    if len(found) > ALTERNATIVES:
        raise _TooManyError
    return found


def _together(said: Sequence[_Said]) -> list[Facts]:
    """Return where everything said holds, of what shares a variable; [{}] when there is too much to look at."""
    shared = Counter(path for each in said for path in each.paths)
    clashing = [
        each.alternatives for each in said if not each.alternatives or any(shared[path] > 1 for path in each.paths)
    ]
    try:
        return _all_of([[{}], *sorted(clashing, key=len)])
    except _TooManyError:
        return [{}]


def _projected(said: _Said, path: str) -> Values | None:
    """Return the values of a variable that something said leaves; None when it leaves all."""
    found = [facts.get(path) for facts in said.alternatives]
    values = [each for each in found if each is not None]
    return reduce(join, values) if values and len(values) == len(found) else None


def _in_words(path: str, values: Values) -> str:
    return f"{path} {'holds' if values == _is(True) else 'does not hold'}" if path[0] == "`" else f"{path} is {values}"
