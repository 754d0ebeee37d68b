"""What many outcomes may teach: `Teaching.weigh` for a run of them, to the bit, through `kernels_teaching`.

Most outcomes carry no evidence: for those a few numbers each are all that is looked at. What evidence is worth
(`nbx.bandits.calibration`) is asked here, outcome by outcome, for those that have some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from msgspec import Struct
from msgspec.structs import astuple, fields

from nbx.bandits import health, kernels_teaching, quarantine, signals
from nbx.bandits.calibration import EXPLICIT, HALF_LIFE_MS, PRIOR_COUNT
from nbx.bandits.evidence import bare, independent
from nbx.bandits.health import Execution
from nbx.bandits.quarantine import Trust
from nbx.bandits.signals import Signal, Stream
from nbx.bandits.teaching import UNSEEN, KnownCauses, Lesson, Teaching, blamed_by, doubtful_by
from nbx.ids import decision_ref

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nbx.bandits.health import PlacementHealth
    from nbx.bandits.kernels import F64
    from nbx.bandits.quarantine import FeatureHealth
    from nbx.bandits.signals import SignalHealth
    from nbx.bandits.teaching import Held
    from nbx.experience.entries import Outcome

    Health = SignalHealth | PlacementHealth | FeatureHealth

HELD: tuple[Held, ...] = ("", "unseen", "paused")
_OUTCOME = {name: k for k, name in enumerate(kernels_teaching.OUTCOMES)} | {None: -1}
_CAUSE = {name: k for k, name in enumerate(kernels_teaching.CAUSES)}
_RULES = (
    tuple(map(float, (
        signals.REPORTS, signals.SOME_SEEN, signals.USUAL, signals.GONE, signals.ALARM, signals.SUREST, signals.FEW,
        signals.MEMORY, signals.RECENT,
    ))),
    tuple(map(float, (
        health.LEAST, health.MOST, health.TIMES, health.MORE, health.ALARM, health.MEMORY, health.RECENT,
    ))),
    tuple(map(float, (
        quarantine.LIMIT, quarantine.ERRORS, quarantine.MEMORY, quarantine.RECENT, quarantine.REST_MS,
    ))),
    (float(HALF_LIFE_MS), PRIOR_COUNT),
)  # fmt: skip
"""As `kernels_teaching.weigh` takes them."""


class Weighed(NamedTuple):
    """What was found of each of some outcomes."""

    weights: list[tuple[float, float]]
    """Of response and experience."""
    held: list[int]
    """Position in `HELD`."""
    changed: list[Health]
    """What turned, in order."""


def weigh_all(
    teaching: Teaching,
    outcomes: Sequence[Outcome],
    uses: Sequence[frozenset[str]],
    taught: Sequence[tuple[bool, bool]],
    before: Sequence[int],
) -> Weighed:
    """Take outcomes in, in order, each as `Teaching.weigh`.

    Parameters
    ----------
    teaching
        Updated in place.
    outcomes
        As the log has them.
    uses
        Of each the profile features that its placement uses.
    taught
        Of each whether the revision that it replaces taught the two models.
    before
        Of each the position of the one that it replaces, which decides that instead; −1: none of these.
    """
    laid_out = _LaidOut(teaching, outcomes, uses, taught, before)
    changed: list[Health] = []
    at = 0
    while at < len(outcomes):
        at = kernels_teaching.weigh(at, laid_out.outcomes, laid_out.state, laid_out.turned, _RULES, laid_out.held)
        changed += laid_out.changes(at - 1)
    laid_out.store()
    return Weighed(list(map(tuple, laid_out.numbers[:, :2].tolist())), laid_out.held.tolist(), changed)


def lesson_of(outcome: Outcome, uses: frozenset[str] = frozenset()) -> Lesson:
    """Return what of an outcome decides about teaching; `uses` are the profile features that its placement uses."""
    return Lesson(
        placement=outcome.placement,
        outcome=outcome.outcome,
        cause=outcome.cause,
        seen_reported=outcome.seen_reported,
        response=outcome.response,
        response_weight=outcome.response_weight,
        experience_weight=outcome.experience_weight,
        decided_ms=decision_ref(outcome.decision_id).at_ms,
        at_ms=outcome.at_ms,
        previous=outcome.previous,
        previous_cause=outcome.previous_cause,
        previous_seen_reported=outcome.previous_seen_reported,
        evidence=outcome.evidence,
        rule=outcome.rule,
        previous_evidence=outcome.previous_evidence,
        previous_rule=outcome.previous_rule,
        points=outcome.experience,
        uses=uses,
        stale=outcome.stale,
        quarantined=outcome.quarantined,
    )


class _LaidOut:
    """Outcomes and state as arrays."""

    def __init__(
        self,
        teaching: Teaching,
        outcomes: Sequence[Outcome],
        uses: Sequence[frozenset[str]],
        taught: Sequence[tuple[bool, bool]],
        before: Sequence[int],
    ) -> None:
        self._teaching = teaching
        self._names = list(dict.fromkeys([o.placement for o in outcomes]))
        places = {name: k for k, name in enumerate(self._names)}
        self.numbers = np.array([(o.response_weight, o.experience_weight, o.experience) for o in outcomes], np.float64)
        self.held = np.zeros(len(outcomes), np.int64)
        signs, asks = self._evidence(outcomes)
        uses_of = {each: k for k, each in enumerate(dict.fromkeys(uses))}
        odd = self._features(outcomes, uses)
        features = {name: k for k, name in enumerate(teaching.features)}
        whole = np.array(
            [
                (
                    places[o.placement],
                    _OUTCOME[o.outcome],
                    _CAUSE[o.cause],
                    o.seen_reported,
                    now,
                    int(o.decision_id[3:14], 16),
                    o.at_ms,
                    _OUTCOME[o.previous],
                    _CAUSE[o.previous_cause],
                    o.previous_seen_reported,
                    earlier,
                    o.response is not None,
                    ask,
                    response,
                    experience,
                    uses_of[used],
                    place,
                )
                for o, used, (response, experience), place, (now, earlier), ask in zip(
                    outcomes, uses, taught, before, signs, asks, strict=True
                )
            ],
            np.int64,
        )
        lists = [[features[name] for name in sorted(each) if name in features] for each in uses_of]
        rows = [(i, features[name], *more) for i, name, *more in odd]
        self.outcomes = (
            whole,
            self.numbers,
            np.array([k for each in lists for k in each], np.int64),
            np.cumsum([0, *map(len, lists)]),
            np.array([row[1:] for row in rows], np.int64).reshape(-1, 4),
            np.searchsorted([row[0] for row in rows], np.arange(len(outcomes) + 1)),
        )
        self._signals = [teaching.signals.setdefault(name, Signal()) for name in self._names]
        self._executions = [teaching.execution.setdefault(name, Execution()) for name in self._names]
        self._trusts = list(teaching.features.values())
        self.state = (
            np.array([_numbers_of(each) for each in self._signals], np.float64),
            np.array([astuple(each) for each in self._executions], np.float64),
            np.array([self._causes(name) for name in self._names], np.float64),
            np.array([astuple(each) for each in self._trusts], np.float64).reshape(-1, 7),
        )
        room = len(self._trusts)
        self.turned = (np.zeros(2, np.bool_), np.zeros(room, np.bool_), np.zeros(room, np.bool_))

    def changes(self, i: int) -> list[Health]:
        """Return what an outcome that was just taken in turned."""
        found: list[Health] = []
        place = self.outcomes[0][i, kernels_teaching.PLACE]
        (lost, unwell), features, _ = self.turned
        if lost:
            found.append(_signal(self.state[0][place]).health(self._names[place]))
        if unwell:
            found.append(_made(Execution, self.state[1][place]).health(self._names[place]))
        turned = {name: k for k, name in enumerate(self._teaching.features) if features[k]}
        found += [_made(Trust, self.state[3][turned[name]]).health(name) for name in sorted(turned)]
        return found

    def store(self) -> None:
        """Write the state back."""
        teaching = self._teaching
        for name, signal, execution in zip(self._names, self.state[0], self.state[1], strict=True):
            teaching.signals[name] = _signal(signal)
            teaching.execution[name] = _made(Execution, execution)
        for name, trust in zip(teaching.features, self.state[3], strict=True):
            teaching.features[name] = _made(Trust, trust)
        *_, stamp = range(4)
        known = self.state[2]
        order = np.argsort(known[:, :, stamp], axis=None, kind="stable")
        for place, kind in zip(*np.unravel_index(order, known.shape[:2]), strict=True):
            if known[place, kind, stamp] >= 0.0:
                causes = teaching.causes.setdefault(self._names[place], {})
                causes[kernels_teaching.OUTCOMES[kind]] = _made(KnownCauses, known[place, kind, :stamp])

    def _causes(self, placement: str) -> list[tuple[float, ...]]:
        known = self._teaching.causes.get(placement, {})
        return [
            (*astuple(known[name]), 0.0) if name in known else (0.0, 0.0, 0.0, -1.0)
            for name in kernels_teaching.OUTCOMES
        ]

    def _evidence(self, outcomes: Sequence[Outcome]) -> tuple[list[tuple[bool, bool]], list[bool]]:
        """Let told causes calibrate; return what has signs and what asks, and fill in the weights that are known."""
        calibration = self._teaching.calibration
        signs, asks = [], []
        for i, o in enumerate(outcomes):
            explicit = o.rule in EXPLICIT
            if explicit or o.previous_rule in EXPLICIT:
                lesson = lesson_of(o)
                calibration.take(lesson.now, lesson.before, lesson.decided_ms)
            if not o.evidence and not o.previous_evidence:
                signs.append((False, False))
                asks.append(o.response == 0 and not explicit and o.cause == "unknown")
                continue
            signs.append((bool(independent(bare(o.evidence))), bool(independent(bare(o.previous_evidence)))))
            weight = self._teaching.weight_by_evidence(lesson_of(o))
            asks.append(weight is None)
            if weight is not None:
                self.numbers[i, kernels_teaching.RESPONSE_WEIGHT] = weight
        return signs, asks

    def _features(
        self, outcomes: Sequence[Outcome], uses: Sequence[frozenset[str]]
    ) -> list[tuple[int, str, int, int, int]]:
        """Return what is odd: position, feature, whether it was used, wrong, doubtful; make trusts that are new."""
        trusts = self._teaching.features
        odd: list[tuple[int, str, int, int, int]] = []
        seen: set[frozenset[str]] = set()
        for i, (o, used) in enumerate(zip(outcomes, uses, strict=True)):
            first = o.previous is None or o.previous in UNSEEN
            if o.outcome in UNSEEN:
                continue
            if first and used not in seen:
                seen.add(used)
                for name in sorted(used):
                    trusts.setdefault(name, Trust())
            if not (o.evidence or o.previous_evidence or o.stale or o.quarantined):
                continue
            blamed, doubtful = blamed_by(o.cause, o.evidence), doubtful_by(o.evidence, o.stale)
            if first:
                named = used & (blamed | doubtful | {*o.quarantined})
                odd += [(i, name, name not in o.quarantined, name in blamed, name in doubtful) for name in named]
                continue
            blamed_before = blamed_by(o.previous_cause, o.previous_evidence)
            doubtful_before = doubtful_by(o.previous_evidence, o.stale)
            for name in sorted(blamed ^ blamed_before | doubtful ^ doubtful_before):
                trusts.setdefault(name, Trust())
                more_wrong = (name in blamed) - (name in blamed_before)
                odd.append((i, name, True, more_wrong, (name in doubtful) - (name in doubtful_before)))
        return odd


_State = TypeVar("_State", bound=Struct)
_TYPES: dict[type[Struct], tuple[Callable[[float], float], ...]] = {
    kind: tuple(each.type for each in fields(kind)) for kind in (Stream, Execution, Trust, KnownCauses)
}


def _made(kind: type[_State], numbers: F64) -> _State:
    return kind(*[convert(number) for convert, number in zip(_TYPES[kind], numbers.tolist(), strict=True)])


def _numbers_of(signal: Signal) -> tuple[float, ...]:
    return (*astuple(signal.answers), *astuple(signal.timeouts), signal.seen_ms, signal.since_ms)


def _signal(numbers: F64) -> Signal:
    size = kernels_teaching.STREAM
    answers, timeouts = _made(Stream, numbers[:size]), _made(Stream, numbers[size : 2 * size])
    seen_ms, since_ms = numbers[2 * size :].tolist()
    return Signal(answers=answers, timeouts=timeouts, seen_ms=int(seen_ms), since_ms=int(since_ms))
