"""Sets of values that a variable of a condition may have: closed under and, or, not.

Numbers are unions of intervals, kept as ascending cuts: (5, 0) cuts just before 5, (5, 1) just after it, and a set is
[cut, cut), [cut, cut) … So 5 alone is ((5, 0), (5, 1)), and complement, meet and join are a walk over cuts. Texts and
booleans are a finite set or all but a finite set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeAlias

from msgspec import Struct

Cut: TypeAlias = tuple[float, int]
START: Cut = (-math.inf, 0)
END: Cut = (math.inf, 1)
TOLD = 6
"""Members of a set that are written out; more are counted."""


class Spans(Struct, frozen=True):
    """Numbers between cuts.

    Examples
    --------
    >>> adults, old = Spans.where(">=", 18.0), Spans.where(">", 65.0)
    >>> print(adults.meet(old.negated()))
    18 to 65
    """

    cuts: tuple[Cut, ...]
    """An even number, strictly ascending."""

    @classmethod
    def where(cls, sign: str, number: float) -> Spans:
        """Return the numbers that stand in a relation to one, `number` on the right."""
        before, after = (number, 0), (number, 1)
        spans = {"<": (START, before), "<=": (START, after), ">": (after, END), ">=": (before, END)}
        return cls(spans.get(sign, (before, after))) if sign != "!=" else cls((before, after)).negated()

    @classmethod
    def points(cls, numbers: Iterable[float]) -> Spans:
        """Return just these numbers."""
        return cls(tuple(cut for number in sorted(set(numbers)) for cut in ((number, 0), (number, 1))))

    @classmethod
    def between(cls, low: float, high: float) -> Spans:
        """Return the numbers from `low` to `high`, both included."""
        return cls(((low, 0), (high, 1)))

    @property
    def empty(self) -> bool:
        """Whether no number is in it."""
        return not self.cuts

    def negated(self) -> Spans:
        """Return all other numbers."""
        cuts = self.cuts
        cuts = cuts[1:] if cuts[:1] == (START,) else (START, *cuts)
        return Spans(cuts[:-1] if cuts[-1:] == (END,) else (*cuts, END))

    def meet(self, other: Spans) -> Spans:
        """Return the numbers in both."""
        found: list[Cut] = []
        mine, theirs = self.cuts, other.cuts
        i = j = 0
        while i < len(mine) and j < len(theirs):
            low, high = max(mine[i], theirs[j]), min(mine[i + 1], theirs[j + 1])
            if low < high:
                found += (low, high)
            if mine[i + 1] < theirs[j + 1]:
                i += 2
            else:
                j += 2
        return Spans(tuple(found))

    def join(self, other: Spans) -> Spans:
        """Return the numbers in either."""
        return self.negated().meet(other.negated()).negated()

    def __str__(self) -> str:
        pairs = [(self.cuts[i], self.cuts[i + 1]) for i in range(0, len(self.cuts), 2)]
        if len(pairs) > 1 and pairs[0][0] == START and len(self.negated().cuts) == 2 and pairs[-1][1] == END:
            return f"not {self.negated()}"
        return " or ".join(_shortened([_span_in_words(low, high) for low, high in pairs])) or "nothing"


class Choice(Struct, frozen=True):
    """Some texts or booleans, or all but some."""

    values: frozenset[str | bool]
    all_but: bool = False

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        return not self.values and not self.all_but

    def negated(self) -> Choice:
        """Return all other values."""
        return Choice(self.values, not self.all_but)

    def meet(self, other: Choice) -> Choice:
        """Return the values in both."""
        if self.all_but and other.all_but:
            return Choice(self.values | other.values, True)
        if self.all_but or other.all_but:
            some, but = (other, self) if self.all_but else (self, other)
            return Choice(some.values - but.values)
        return Choice(self.values & other.values)

    def join(self, other: Choice) -> Choice:
        """Return the values in either."""
        return self.negated().meet(other.negated()).negated()

    def __str__(self) -> str:
        names = [str(each).lower() if isinstance(each, bool) else f"`{each}`" for each in sorted(self.values, key=str)]
        names = _shortened(names)
        listed = " or ".join((", ".join(names[:-1]), names[-1]) if len(names) > 1 else names)
        return f"not {listed}" if self.all_but else listed or "nothing"


def _shortened(words: list[str]) -> list[str]:
    return words if len(words) <= TOLD else [*words[: TOLD - 1], f"{len(words) - TOLD + 1} more"]


Values: TypeAlias = Spans | Choice
BOTH = Choice(frozenset({True, False}))
ANY_NUMBER = Spans((START, END))
ANY_TEXT = Choice(frozenset(), True)


def meet(one: Values, other: Values) -> Values:
    """Return what is in both sets, of one variable and so of one kind."""
    if isinstance(one, Spans):
        assert isinstance(other, Spans)
        return one.meet(other)
    assert isinstance(other, Choice)
    return one.meet(other)


def join(one: Values, other: Values) -> Values:
    """Return what is in either set, of one variable and so of one kind."""
    return meet(one.negated(), other.negated()).negated()


def _span_in_words(low: Cut, high: Cut) -> str:
    if low == START or high == END:
        if high != END:
            return f"{'at most' if high[1] else 'below'} {high[0]:g}"
        return f"{'above' if low[1] else 'at least'} {low[0]:g}" if low != START else "any number"
    if low[0] == high[0]:
        return f"{low[0]:g}"
    return f"{'above ' * low[1]}{low[0]:g} to {'below ' * (1 - high[1])}{high[0]:g}"
