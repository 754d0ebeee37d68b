"""What an outcome may teach, and how much: the step between the fold's outcome and the learner's observation.

The log keeps what the fold said. Some things only the learner knows, as they are learned from all outcomes in log
order: whether a placement's exposures are still reported (`nbx.bandits.signals`), what evidence is worth
(`nbx.bandits.calibration`), and how much of an `unknown` cause without any evidence is really about the action. Beside
them it keeps how well placements execute (`nbx.bandits.health`) and which features can be trusted
(`nbx.bandits.quarantine`).

A prompt with evidence that does not depend on the answer weighs the same whatever was answered, and whoever told a
cause: else its refusals alone were left out, and every estimate would rise.

Without any evidence the outcome's own response weight is the prior, and the weight used is the share of
`assumption` among outcomes of the same kind on the same placement whose cause is known and that show no sign of it
either: a page that failed visibly says nothing about those where nothing is to be seen. Of the same kind, because every
`ignored` is an assumption and says nothing about what stands behind a bare `failed`. Counts
decay by the time of the decision, which all revisions of a slot share: a cause that arrives late moves exactly what was
counted before, from one cause to the other.

A slot that taught a model is always corrected there, even while its placement is paused; only what has taught nothing
yet is held back. Otherwise a loss would take back old truths and put nothing in their place.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from msgspec import Struct, field

from nbx.bandits.calibration import EXPLICIT, HALF_LIFE_MS, PRIOR_COUNT, Calibration, Told
from nbx.bandits.evidence import bare, features_in, independent
from nbx.bandits.health import Execution
from nbx.bandits.quarantine import Trust
from nbx.bandits.signals import Signal, SignalHealth

ANSWERED = frozenset({"accepted", "declined", "dismissed", "converted"})
"""Outcomes that prove exposure by themselves."""
UNSEEN = frozenset({"not_seen", "not_delivered"})

Held = Literal["", "unseen", "paused"]


class Lesson(Struct, frozen=True, kw_only=True):
    """An outcome as far as it decides about teaching."""

    placement: str
    outcome: str
    cause: str
    """Empty: not negative."""
    seen_reported: bool
    """The channel reported the exposure, or it is implicit."""
    response: int | None
    response_weight: float
    """By cause; for `unknown` the prior."""
    experience_weight: float
    decided_ms: int
    at_ms: int
    previous: str | None = None
    """Outcome of the revision that this one replaces."""
    previous_cause: str = ""
    previous_seen_reported: bool = True
    evidence: tuple[str, ...] = ()
    rule: str = ""
    previous_evidence: tuple[str, ...] = ()
    previous_rule: str = ""
    points: float = 0.0
    """What it was for the customer."""
    uses: frozenset[str] = frozenset()
    """Profile features that its placement uses."""
    stale: tuple[str, ...] = ()
    """Of them, those that were too old at the decision."""
    quarantined: tuple[str, ...] = ()
    """Of them, those that the decision did not rely on."""

    @property
    def now(self) -> Told:
        """What it says about causes."""
        return Told(
            placement=self.placement, outcome=self.outcome, cause=self.cause, evidence=self.evidence, rule=self.rule
        )

    @property
    def before(self) -> Told | None:
        """The same of the revision that this one replaces."""
        if self.previous is None:
            return None
        return Told(
            placement=self.placement,
            outcome=self.previous,
            cause=self.previous_cause,
            evidence=self.previous_evidence,
            rule=self.previous_rule,
        )


class Weights(NamedTuple):
    """What an outcome teaches with."""

    response: float
    experience: float
    held: Held
    """Why it teaches less than its cause allows: its exposure was not reported, or its placement is paused."""


class KnownCauses(Struct):
    """Decayed counts as of `at_ms`."""

    count: float = 0.0
    assumption: float = 0.0
    at_ms: int = 0

    def add(self, sign: float, cause: str, at_ms: int) -> None:
        """Count a cause (sign 1), or take one back that was counted (−1)."""
        if at_ms > self.at_ms:
            keep = math.exp2((self.at_ms - at_ms) / HALF_LIFE_MS)
            self.count, self.assumption, self.at_ms = self.count * keep, self.assumption * keep, at_ms
        weight = sign * math.exp2((at_ms - self.at_ms) / HALF_LIFE_MS)
        self.count = max(self.count + weight, 0.0)
        if cause == "assumption":
            self.assumption = min(max(self.assumption + weight, 0.0), self.count)

    def share(self, prior: float, at_ms: int) -> float:
        """Share of assumption at a time, 0..1; `prior` is that of nothing known."""
        keep = math.exp2(min(self.at_ms - at_ms, 0) / HALF_LIFE_MS)
        return (self.assumption * keep + PRIOR_COUNT * prior) / (self.count * keep + PRIOR_COUNT)


class Teaching(Struct):
    """The state of it: a fold of outcomes in log order, itself what a checkpoint holds.

    Examples
    --------
    >>> teaching = Teaching()
    >>> def failed(cause, weight):
    ...     return Lesson(
    ...         placement="hero", outcome="failed", cause=cause, seen_reported=True, response=0, decided_ms=0, at_ms=0,
    ...         response_weight=weight, experience_weight=1.0,
    ...     )
    >>> teaching.weigh(failed("unknown", 0.5)).response
    0.5
    >>> for _ in range(30):
    ...     _ = teaching.weigh(failed("execution", 0.0))
    >>> teaching.weigh(failed("unknown", 0.5)).response
    0.125
    """

    signals: dict[str, Signal] = field(default_factory=dict)
    """By placement."""
    causes: dict[str, dict[str, KnownCauses]] = field(default_factory=dict)
    """By placement and outcome."""
    calibration: Calibration = field(default_factory=Calibration)
    features: dict[str, Trust] = field(default_factory=dict)
    execution: dict[str, Execution] = field(default_factory=dict)
    """By placement."""

    def weigh(self, lesson: Lesson, *, taught_response: bool = False, taught_experience: bool = False) -> Weights:
        """Take an outcome in, and return the weights with which it teaches.

        Parameters
        ----------
        lesson
            The outcome; every one in log order, also those that teach nothing.
        taught_response, taught_experience
            Whether the revision that it replaces taught that model.
        """
        signal = self.signals.setdefault(lesson.placement, Signal())
        was_lost = signal.lost
        _listen(signal, lesson)
        if signal.lost != was_lost:
            signal.since_ms = lesson.at_ms
        self._count(lesson)
        self.calibration.take(lesson.now, lesson.before, lesson.decided_ms)
        self._trust(lesson)
        response, experience = self._response_weight(lesson), lesson.experience_weight
        held: Held = ""
        if signal.lost:
            held = "paused"
        elif signal.reports and not lesson.seen_reported and lesson.response is not None:
            held = "unseen"
        if held and not taught_response:
            response = 0.0
        # a failure is an experience whether or not it was seen
        if held and not taught_experience and (held == "paused" or lesson.outcome in ANSWERED):
            experience = 0.0
        return Weights(response, experience, held)

    def health(self) -> list[SignalHealth]:
        """Return how the signals of all placements are, by name."""
        return [self.signals[name].health(name) for name in sorted(self.signals)]

    def quarantined(self) -> list[str]:
        """Return the features that nobody may rely on, sorted."""
        return sorted(name for name, trust in self.features.items() if trust.quarantined)

    def weight_by_evidence(self, lesson: Lesson) -> float | None:
        """Return the weight in the response model; None: it depends on what is known of causes without any evidence."""
        if lesson.response is None:
            return lesson.response_weight
        codes = bare(lesson.evidence)
        if independent(codes):
            admission = self.calibration.admission(codes, lesson.placement)
            return min(admission, lesson.response_weight) if lesson.rule in EXPLICIT else admission
        if lesson.response == 1 or lesson.rule in EXPLICIT:
            return lesson.response_weight
        if codes:
            return self.calibration.weight(lesson.now, lesson.response_weight)
        return lesson.response_weight if lesson.cause != "unknown" else None

    def _response_weight(self, lesson: Lesson) -> float:
        weight = self.weight_by_evidence(lesson)
        if weight is not None:
            return weight
        known = self.causes.get(lesson.placement, {}).get(lesson.outcome)
        return lesson.response_weight if known is None else known.share(lesson.response_weight, lesson.decided_ms)

    def _trust(self, lesson: Lesson) -> None:
        """Take in what an outcome says about its placement's execution and about the features it used."""
        now, before = _failed(lesson.outcome, lesson.cause), _failed(lesson.previous, lesson.previous_cause)
        execution = self.execution.setdefault(lesson.placement, Execution())
        execution.take(now=now, before=before, points=lesson.points, at_ms=lesson.at_ms)
        for trust in self.features.values():
            trust.rest(lesson.at_ms)
        if lesson.outcome in UNSEEN:
            return
        first = lesson.previous is None or lesson.previous in UNSEEN
        blamed, blamed_before = blamed_by(lesson.cause, lesson.evidence), frozenset[str]()
        doubtful, doubtful_before = doubtful_by(lesson.evidence, lesson.stale), frozenset[str]()
        if not first:
            blamed_before = blamed_by(lesson.previous_cause, lesson.previous_evidence)
            doubtful_before = doubtful_by(lesson.previous_evidence, lesson.stale)
        for name in sorted(lesson.uses if first else (blamed ^ blamed_before | doubtful ^ doubtful_before)):
            trust = self.features.setdefault(name, Trust())
            if first:
                used, wrong = name not in lesson.quarantined, name in blamed
                trust.take(used=used, wrong=wrong, doubtful=name in doubtful, at_ms=lesson.at_ms)
            else:
                wrong_more = (name in blamed) - (name in blamed_before)
                doubtful_more = (name in doubtful) - (name in doubtful_before)
                trust.correct(wrong=wrong_more, doubtful=doubtful_more, at_ms=lesson.at_ms)

    def _count(self, lesson: Lesson) -> None:
        """Count a known cause in place of the one that was known before."""
        before = (lesson.previous, lesson.previous_cause, independent(bare(lesson.previous_evidence)))
        now = (lesson.outcome, lesson.cause, independent(bare(lesson.evidence)))
        if before == now:
            return
        for sign, outcome, cause, signs in ((-1.0, *before), (1.0, *now)):
            if outcome is not None and cause not in ("", "unknown") and not signs:
                known = self.causes.setdefault(lesson.placement, {}).setdefault(outcome, KnownCauses())
                known.add(sign, cause, lesson.decided_ms)


def _failed(outcome: str | None, cause: str) -> bool | None:
    """Tell whether an outcome is one of execution; None: without a `seen` nobody can tell."""
    if cause == "execution":
        return True
    return None if outcome is None or outcome in UNSEEN else False


def blamed_by(cause: str, evidence: tuple[str, ...]) -> frozenset[str]:
    """Return the features to which an outcome is put down."""
    return features_in(evidence) if cause == "information" else frozenset()


def doubtful_by(evidence: tuple[str, ...], stale: tuple[str, ...]) -> frozenset[str]:
    """Return the features whose value was stale or corrected, relied on or not."""
    aside = (each.removeprefix("aside:") for each in evidence if each.startswith("aside:"))
    return frozenset((*stale, *features_in(evidence), *aside))


def _listen(signal: Signal, lesson: Lesson) -> None:
    """Take in what an outcome says about the signal, if it is news."""
    seen, decided_ms = lesson.seen_reported, lesson.decided_ms
    if lesson.outcome in ANSWERED:
        again = lesson.previous in ANSWERED
        if not again or seen > lesson.previous_seen_reported:
            signal.answer(seen=seen, late=again, decided_ms=decided_ms)
    elif lesson.outcome == "ignored":
        signal.timeout(seen=True, late=lesson.previous in UNSEEN, decided_ms=decided_ms)
    elif lesson.outcome in UNSEEN and lesson.cause == "unknown" and lesson.previous is None:
        signal.timeout(seen=False, late=False, decided_ms=decided_ms)
