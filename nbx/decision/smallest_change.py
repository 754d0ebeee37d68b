"""The smallest change that would have shown an action: as few things made otherwise as possible, each proved.

Changes are tried by their number of things, so what is found first is smallest: everything smaller was tried and
failed. An action that its rules removed is asked for by its own conditions first (`cel`, some microseconds a try), and
what meets them is proved by deciding again, on a copy of the customer, with the same luck. A candidate that was not
drawn is decided again at every try. So nothing is told that `nbx.decision.choice.decide` does not confirm; tries are
bounded, and what is told says how many there were. The search is a generator that yields every few tries, so that who
runs it may rest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import combinations, product
from typing import Literal, NamedTuple, TypeVar

from msgspec import Struct, structs

from nbx.catalog.conditions import ConditionError, build_context
from nbx.catalog.model import REASONS
from nbx.catalog.value_sets import Spans
from nbx.decision.again import Again
from nbx.decision.choice import Choice
from nbx.decision.contributions import feature_words, value_words
from nbx.decision.held import Held, held_again
from nbx.decision.messages import DecideRequest
from nbx.decision.seen import facts_of, seen_again
from nbx.decision.what_if import (
    CONSENT,
    EXCLUDE,
    Span,
    Step,
    Steps,
    Variable,
    Whose,
    applied,
    changed_values,
    consents,
    exclusion,
    variables,
)
from nbx.features.schema import Value
from nbx.features.state import CustomerState

T = TypeVar("T")
TRIES = 4096
"""Changes whose conditions are asked: 60 ms."""
DECIDED = 256
"""Changes that are decided anew: with 200 actions 0.5 ms each."""
THINGS = 4
"""Most things of one change: a person has to read it."""
TOLD = 3
"""Changes told, of the smallest number of things."""
_PACE = 8
"""Tries of conditions alone between two rests: 0.3 ms. Deciding takes as long, so after each there is one."""
_FIXED = frozenset({"holdout", "not_started", "ended", "quarantined"})
"""What no change of customer or request can alter."""
_LATER = frozenset(REASONS[REASONS.index("condition_error") + 1 :])
"""Asked after all conditions: who is removed for one of these meets them."""


class Thing(Struct, frozen=True, kw_only=True):
    """Something made otherwise."""

    what: str
    """As conditions write it; `consent.<purpose>`, `exclude.<action>`."""
    whose: Whose
    was: Value
    would_be: Value
    """Of a span of numbers, one of them."""
    words: str


class Change(Struct, frozen=True, kw_only=True):
    """What would have led to the action, as confirmed by deciding again."""

    things: tuple[Thing, ...]
    outcome: Literal["shown", "candidate", "held"]
    """With the same luck it is shown; it could be; its rules are met, and something else holds it back."""
    chance: float
    """In the first slot that is drawn; 1 for a mandatory one."""
    most_likely: bool
    held: Held | None = None
    words: str


class SmallestChange(Struct, frozen=True, kw_only=True):
    """What was found; no change that leaves one of its things out works."""

    changes: tuple[Change, ...]
    tries: int
    cut: bool
    """There was more to try."""
    words: str


class _Found(NamedTuple):
    steps: list[Steps]
    tries: int
    cut: bool


_PURPOSES = {"personalise": "personalisation"}
_WHOSE = {"customer": " (the customer's own choice)", "request": " (of the request)"}
Search = Generator[None, None, _Found]


def smallest_change(asked: Again, action: str) -> Generator[None, None, SmallestChange]:
    """Find the smallest changes for an action of the placement; `finished` gives the answer at once.

    Parameters
    ----------
    asked
        The decision with its rebuilt customer; nothing of it is changed.
    action
        That was removed, or was not drawn.
    """
    entry = asked.entry
    reason = next((each.reason for each in entry.removed if each.action == action), "")
    if reason in _FIXED:
        return SmallestChange(
            changes=(), tries=0, cut=False, words="nothing about the customer would have changed that"
        )
    if reason in _LATER:
        return SmallestChange(changes=(), tries=0, cut=False, words="its rules are met: only time changes that")
    ask = _Asked(asked, action)
    yield
    if reason:
        options, works, bound, pace = ask.removed_variables(), ask.would_be_allowed, TRIES, _PACE
    else:
        options, works, bound, pace = ask.drawn_variables(), ask.would_be_likeliest, DECIDED, 1
        if entry.holdout:
            options = []
    found = yield from search(options, works, bound, pace)
    own = [each for each in options if each.whose in ("customer", "consent", "caller")]
    if 0 < len(own) < len(options) and not any(_is_own(steps) for steps in found.steps):
        more = yield from search(own, works, bound, pace)
        found = _Found(found.steps[: TOLD - 1] + more.steps[:1], found.tries + more.tries, found.cut or more.cut)
    changes = []
    for steps in found.steps[:TOLD]:
        changes.append((yield from ask.told(steps)))  # noqa: PERF401 - a comprehension cannot yield
    return SmallestChange(
        changes=tuple(changes), tries=found.tries, cut=found.cut, words=_words(action, changes, options, found)
    )


def search(options: Sequence[Variable], works: Callable[[Steps], bool], bound: int, pace: int = _PACE) -> Search:
    """Find the smallest changes that work: those of one thing first, then of two, and so on.

    Parameters
    ----------
    options
        What may be made otherwise.
    works
        Whether a change does.
    bound
        Most changes tried.
    pace
        Tries between two rests.

    Returns
    -------
    _Found
        Of the least number of things that works one change for each choice of things, the nearest values first.
    """
    tries = 0
    for size in range(1, min(THINGS, len(options)) + 1):
        found: list[Steps] = []
        for chosen in combinations(options, size):
            for spans in product(*(each.spans for each in chosen)):
                if tries == bound:
                    return _Found(found, tries, cut=True)
                tries += 1
                steps = tuple(Step(*pair) for pair in zip(chosen, spans, strict=True))
                if works(steps):
                    found.append(steps)
                    break
                if tries % pace == 0:
                    yield
        if found:
            return _Found(found, tries, cut=False)
    return _Found([], tries, cut=len(options) > THINGS)


def finished(work: Generator[None, None, T]) -> T:
    """Run a generator to its end without resting, and return what it found."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: T = end.value
            return found


def _is_own(steps: Steps) -> bool:
    return all(step.variable.whose in ("customer", "consent", "caller") for step in steps)


class _Asked:
    """Asks about one action."""

    def __init__(self, asked: Again, action: str) -> None:
        self._asked, self._action = asked, action
        self._placement = asked.plan.placements[asked.request.placement]
        self._position = self._placement.position[action]
        self._needed = [check.number for check in self._placement.checks if self._position in check.positions]
        self._options = [[number for _, number in option.checks] for option in self._placement.options[self._position]]
        seen = seen_again(asked)
        self._values = {False: seen.values, True: seen.values}
        """Path → value, without and with consent to personalise."""
        if not asked.entry.personalised:
            state, request = applied(asked, _consented(asked))
            self._values[True] = seen_again(_with(asked, state, request)).values
        self._distrusted = {f"customer.{name}" for name in asked.entry.quarantined}
        self._numbers = {*self._needed, *(number for each in self._options for number in each)}
        paths = {path for number in self._numbers for path in asked.plan.conditions[number].paths}
        self._read = {
            consented: {path: values[path] for path in paths if path in values}
            for consented, values in self._values.items()
        }
        """The same, of what the action's conditions read."""

    def removed_variables(self) -> list[Variable]:
        """Return what its conditions read, and what had to be asked before them."""
        asked, numbers = self._asked, self._numbers
        conditions = [asked.plan.conditions[number] for number in sorted(numbers)]
        personal = not asked.entry.personalised and not numbers.isdisjoint(asked.plan.personal)
        contact = self._position in self._placement.consenting and not facts_of(asked).may_contact
        found = consents(asked, personal=personal, contact=contact)
        if self._action in asked.request.exclude:
            found.append(exclusion(self._action))
        paths = {path for each in conditions for path in each.paths} - self._distrusted
        sources = [each.source for each in conditions]
        return found + variables(asked.plan, paths, sources, self._values[True])

    def drawn_variables(self) -> list[Variable]:
        """Return the customer's own choices, and what its context weights read."""
        asked = self._asked
        weights = [weight for weight in self._placement.weights if self._position in weight.positions]
        conditions = [asked.plan.conditions[weight.number] for weight in weights]
        own = [f"customer.{name}" for name, feature in asked.plan.profile_features.items() if feature.controllable]
        if not asked.entry.personalised:
            own = []
        paths = {*own, *(path for each in conditions for path in each.paths)} - self._distrusted
        return variables(asked.plan, paths, [each.source for each in conditions], self._values[False])

    def would_be_allowed(self, steps: Steps) -> bool:
        """Tell whether a change meets the conditions; proved by deciding again."""
        return self._meets(steps) and self._reason(self._choice(steps)) in ("", *_LATER)

    def would_be_likeliest(self, steps: Steps) -> bool:
        """Tell whether a change makes it the most likely of all, silence included."""
        return self._is_likeliest(self._choice(steps))

    def told(self, steps: Steps) -> Generator[None, None, Change]:
        """Put a change that works in words."""
        works = self.would_be_allowed if self._action not in self._asked.entry.actions else self.would_be_likeliest
        choice = self._choice(steps)
        yield
        things = []
        for number, step in enumerate(steps):
            things.append(_thing(step, (yield from _widened(steps, number, works))))
        removed = next((each for each in choice.removed if each.action == self._action), None)
        shown = any(index >= 0 and self._name(choice, index) == self._action for index in choice.slate.chosen)
        held = None
        if removed is not None:
            state, request = applied(self._asked, steps)
            held = held_again(_with(self._asked, state, request), removed)
        chance = self._chance(choice)
        return Change(
            things=tuple(things),
            outcome="held" if removed is not None else "shown" if shown else "candidate",
            chance=chance,
            most_likely=self._is_likeliest(choice),
            held=held,
            words=_change_words(self._action, things, held, chance, shown=shown),
        )

    def _meets(self, steps: Steps) -> bool:
        plan = self._asked.plan
        consented = self._asked.entry.personalised or any(
            step.variable.path == f"{CONSENT}.personalise" for step in steps
        )
        context = build_context(_by_root(changed_values(self._read[consented], steps)))

        def holds(number: int) -> bool:
            condition = plan.conditions[number]
            if (number in plan.personal and not consented) or not self._distrusted.isdisjoint(condition.paths):
                return False
            try:
                return condition.holds(context)
            except ConditionError:
                return False

        return all(map(holds, self._needed)) and any(all(map(holds, each)) for each in self._options)

    def _choice(self, steps: Steps) -> Choice:
        state, request = applied(self._asked, steps)
        return self._asked.choice(state=state, request=request)

    def _reason(self, choice: Choice) -> str:
        return next((each.reason for each in choice.removed if each.action == self._action), "")

    def _name(self, choice: Choice, index: int) -> str:
        return choice.placement.names[int(choice.positions[index])]

    def _chance(self, choice: Choice) -> float:
        if self._position not in choice.positions:
            return 0.0
        index = choice.positions.tolist().index(self._position)
        return 1.0 if self._placement.mandatory[self._position] else float(choice.slate.probability[index])

    def _is_likeliest(self, choice: Choice) -> bool:
        chance = self._chance(choice)
        return chance > 0.0 and chance >= float(choice.slate.probability.max())


def _consented(asked: Again) -> Steps:
    (consent,) = consents(asked, personal=True, contact=False)
    return (Step(consent, consent.spans[0]),)


def _with(asked: Again, state: CustomerState, request: DecideRequest) -> Again:
    return structs.replace(asked, state=state, request=request)


def _by_root(values: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    found: dict[str, dict[str, Value]] = {}
    for path, value in values.items():
        root, _, name = path.partition(".")
        found.setdefault(root, {})[name] = value
    return found


def _widened(steps: Steps, number: int, works: Callable[[Steps], bool]) -> Generator[None, None, Spans | None]:
    """Return all numbers around a step's that work as well; None: it is no number."""
    step = steps[number]
    if isinstance(step.span.value, bool | str):
        return None
    cells = sorted(step.variable.spans, key=lambda each: (each.low, each.high))
    at = cells.index(step.span)

    def also(cell: Span) -> bool:
        return works((*steps[:number], Step(step.variable, cell), *steps[number + 1 :]))

    low = high = at
    while low > 0 and cells[low - 1].high == cells[low].low and also(cells[low - 1]):
        low -= 1
        yield
    while high + 1 < len(cells) and cells[high].high == cells[high + 1].low and also(cells[high + 1]):
        high += 1
        yield
    first, last = cells[low], cells[high]
    from_, to = (first.low, 1 if first.low != first.high else 0), (last.high, 0 if last.low != last.high else 1)
    infinity = float("inf")
    return Spans(
        (
            (-infinity, 0) if first.low == -infinity else from_,
            (infinity, 1) if last.high == infinity else to,
        )
    )


def _thing(step: Step, span: Spans | None) -> Thing:
    variable, value = step.variable, step.span.value
    root, _, name = variable.path.partition(".")
    if root == CONSENT:
        words = f"the customer's agreement to {_PURPOSES.get(name, name.replace(':', ' on '))}"
    elif root == EXCLUDE:
        words = f"no wish of the caller to leave {name} out"
    else:
        would_be = value_words(value) if span is None else str(span)
        words = f"{feature_words(variable.path, None)} {would_be} instead of {value_words(variable.now)}"
        words += _WHOSE.get(variable.whose, "")
    return Thing(what=variable.path, whose=variable.whose, was=variable.now, would_be=value, words=words)


def _change_words(action: str, things: Sequence[Thing], held: Held | None, chance: float, *, shown: bool) -> str:
    when = " and ".join(thing.words for thing in things)
    if held is not None:
        return f"with {when}, {action} meets its rules, but {held.words}"
    return f"with {when}, {action} is {'shown' if shown else 'allowed'} (chance {chance:.1%})"


def _words(action: str, changes: Sequence[Change], options: Sequence[Variable], found: _Found) -> str:
    if changes:
        return "; or ".join(change.words for change in changes)
    if not options:
        return f"nothing that could be set otherwise would have shown {action}"
    names = ", ".join(feature_words(each.path, None) for each in options)
    more = " There was more to try." if found.cut else ""
    return f"nothing found within {found.tries} tries of {names}.{more}"
