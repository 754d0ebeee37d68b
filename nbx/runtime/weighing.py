"""Between the log's outcomes and the learner: the weights each teaches with, and the alarm when a signal is lost.

What was weighed is told apart from the weighing, after the step is journalled: a step done again after a kill weighs
the same and must not count or warn twice.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from nbx.audit.metrics import (
    EXECUTION_RATIO,
    FEATURE_QUARANTINED,
    NOT_TAUGHT,
    PLACEMENT_UNWELL,
    SIGNAL_LOST,
    SIGNAL_SEEN_RATIO,
)
from nbx.audit.signals import Signals
from nbx.bandits.health import Execution, PlacementHealth
from nbx.bandits.learner import LearnedSites, Observation
from nbx.bandits.quarantine import FeatureHealth
from nbx.bandits.teaching import Teaching
from nbx.catalog.plan import goal_model
from nbx.experience.entries import GoalOutcome, Outcome
from nbx.runtime.process import log
from nbx.runtime.weighing_batch import HELD, lesson_of, weigh_all

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from nbx.bandits.signals import SignalHealth
    from nbx.experience.entries import AnyOutcome

FEW = 16
"""Outcomes that are weighed one by one: laying out arrays takes as long."""
_WELL = Execution()


class Weighing:
    """Turns outcomes into observations, in log order.

    Those without consent are not among them: nothing that is kept here may depend on them.

    Parameters
    ----------
    teaching
        What a checkpoint held; None: from the beginning.
    """

    def __init__(self, teaching: Teaching | None = None) -> None:
        self.teaching = teaching or Teaching()
        self._held: Counter[tuple[str, str]] = Counter()
        self._changed: list[SignalHealth | PlacementHealth | FeatureHealth] = []
        self._uses: dict[int, Mapping[str, frozenset[str]]] = {}
        self._heard: set[str] = set(self.teaching.signals)

    def know(self, release: int, uses: Mapping[str, frozenset[str]]) -> None:
        """Note which profile features each placement of a release uses, before its first outcome."""
        self._uses[release] = uses

    def observations(
        self,
        outcomes: Sequence[AnyOutcome],
        known: Mapping[tuple[str, int], LearnedSites],
        unfit: Callable[[Sequence[Observation]], Container[int]],
    ) -> list[Observation]:
        """Take in outcomes that may teach, in order.

        Parameters
        ----------
        outcomes
            Of each as `observation` says.
        known
            Sites of those that they replace, as far as these are not among them.
        unfit
            Tells the positions of observations that the learner will not take.
        """
        slots = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
        before = _before(slots, unfit)
        if len(slots) < FEW and max(before, default=-1) < 0:
            return [self.observation(each, _replaced(each, known)) for each in outcomes]
        replaced = [_replaced(each, known) if each.revision else None for each in slots]
        taught = [
            (False, False) if each is None else (each.response is not None, each.experience is not None)
            for each in replaced
        ]
        nothing = frozenset[str]()
        uses = [self._uses.get(each.release, {}).get(each.placement, nothing) if each.x else nothing for each in slots]
        weighed = weigh_all(self.teaching, slots, uses, taught, before)
        self._heard.update(each.placement for each in slots)
        for outcome, held in zip(slots, weighed.held, strict=True):
            if held:
                self._held[outcome.placement, HELD[held]] += 1
        self._changed += weighed.changed
        weights = iter(weighed.weights)
        return [observation_of(each, next(weights) if isinstance(each, Outcome) else None) for each in outcomes]

    def observation(self, outcome: AnyOutcome, previous: LearnedSites | None) -> Observation:
        """Take in an outcome that may teach, each once; `previous` are the sites of the revision that it replaces."""
        if isinstance(outcome, GoalOutcome):  # it depends on no signal of the channel, and has no cause
            return observation_of(outcome)
        signal, well = self.teaching.signals.get(outcome.placement), self.teaching.execution.get(outcome.placement)
        was_lost, was_unwell = signal is not None and signal.lost, well is not None and well.unwell
        was_quarantined = self.teaching.quarantined()
        uses = self._uses.get(outcome.release, {}).get(outcome.placement) if outcome.x else None
        weights = self.teaching.weigh(
            lesson_of(outcome, uses or frozenset()),
            taught_response=previous is not None and previous.response is not None,
            taught_experience=previous is not None and previous.experience is not None,
        )
        self._heard.add(outcome.placement)
        if weights.held:
            self._held[outcome.placement, weights.held] += 1
        signal = self.teaching.signals[outcome.placement]
        if signal.lost != was_lost:
            self._changed.append(signal.health(outcome.placement))
        well = self.teaching.execution[outcome.placement]
        if well.unwell != was_unwell:
            self._changed.append(well.health(outcome.placement))
        for name in sorted({*was_quarantined} ^ {*self.teaching.quarantined()}):
            self._changed.append(self.teaching.features[name].health(name))
        return observation_of(outcome, weights[:2])

    def pass_over(self, outcome: AnyOutcome) -> None:
        """Count an outcome that teaches nothing for want of the customer's consent."""
        self._held[outcome.placement, "no_consent"] += 1

    def told(self, step: int) -> Signals:
        """Return what is published beside the snapshot of a step."""
        teaching = self.teaching
        return Signals(
            step=step,
            placements=teaching.health(),
            execution=[teaching.execution[name].health(name) for name in sorted(teaching.execution)],
            features=[teaching.features[name].health(name) for name in sorted(teaching.features)],
            causes=teaching.calibration.table(),
        )

    def tell(self, *, again: bool = False) -> None:
        """Tell metrics and log what was weighed since the last call; `again`: it had been told before a kill."""
        for placement in self._heard:
            signal = self.teaching.signals[placement]
            SIGNAL_LOST.labels(placement).set(signal.lost)
            SIGNAL_SEEN_RATIO.labels(placement).set(signal.answers.recent)
            well = self.teaching.execution.get(placement, _WELL)
            PLACEMENT_UNWELL.labels(placement).set(well.unwell)
            EXECUTION_RATIO.labels(placement).set(well.recent)
        for name, trust in self.teaching.features.items():
            FEATURE_QUARANTINED.labels(name).set(trust.quarantined)
        if not again:
            for (placement, reason), count in self._held.items():
                NOT_TAUGHT.labels(placement, reason).inc(count)
            for health in self._changed:
                _warn(health)
        self._heard.clear()
        self._held.clear()
        self._changed.clear()


def observation_of(outcome: AnyOutcome, weights: tuple[float, float] | None = None) -> Observation:
    """Return what the learner learns from, with weights of response and experience; None: those of the log."""
    if isinstance(outcome, GoalOutcome):
        action, group = goal_model(outcome.placement, outcome.action)
        return Observation(
            key=f"{outcome.decision_id}/{outcome.slot}",
            revision=outcome.revision,
            action=action,
            group=group,
            layout=outcome.release,
            x=outcome.x,
            response=outcome.response,
            experience=0.0,
            experience_weight=0.0,
            competes=False,
        )
    return Observation(
        key=f"{outcome.decision_id}/{outcome.slot}",
        revision=outcome.revision,
        action=outcome.action,
        group=outcome.group,
        layout=outcome.release,
        x=outcome.x,
        response=outcome.response,
        response_weight=outcome.response_weight if weights is None else weights[0],
        experience=outcome.experience,
        experience_weight=outcome.experience_weight if weights is None else weights[1],
        value=outcome.value,
    )


def _before(slots: Sequence[Outcome], unfit: Callable[[Sequence[Observation]], Container[int]]) -> list[int]:
    """Return of each slot's outcome the position of the one that it replaces; −1: none of these that can be learned."""
    before = [-1] * len(slots)
    if not any(each.revision for each in slots):
        return before
    places: dict[tuple[str, int, int], int] = {}
    for i, each in enumerate(slots):
        if each.revision:
            before[i] = places.get((each.decision_id, each.slot, each.revision - 1), -1)
        places[each.decision_id, each.slot, each.revision] = i
    asked = sorted({place for place in before if place >= 0 and slots[place].x})
    refused = unfit([observation_of(slots[place]) for place in asked])
    fit = {place for k, place in enumerate(asked) if k not in refused}
    return [place if place in fit else -1 for place in before]


def _replaced(outcome: AnyOutcome, known: Mapping[tuple[str, int], LearnedSites]) -> LearnedSites | None:
    return known.get((f"{outcome.decision_id}/{outcome.slot}", outcome.revision - 1))


def _warn(health: SignalHealth | PlacementHealth | FeatureHealth) -> None:
    if isinstance(health, PlacementHealth):
        words = "fails far more often than usual; see to its channel" if health.unwell else "executes as usual again"
        shares = (health.recent_ratio, health.usual_ratio)
        log.warning("placement %s %s (%.2f of recent prompts failed, %.2f as a rule)", health.placement, words, *shares)
        return
    if isinstance(health, FeatureHealth):
        words = "is quarantined: too often stale or wrong, nobody relies on it"
        words = words if health.quarantined else "is relied on again"
        log.warning("feature %s %s (%.2f of recent prompts)", health.feature, words, health.recent_ratio)
        return
    if health.lost:
        words = "lost its `seen` events: its outcomes teach nothing until they are back; see to its channel"
    else:
        words = "reports `seen` again: its outcomes teach again"
    log.warning(
        "placement %s %s (%.2f of recent answers came with one, %.2f as a rule; of unanswered slots %.2f, %.2f)",
        health.placement,
        words,
        health.answers_recent_ratio,
        health.answers_usual_ratio,
        health.timeouts_recent_ratio,
        health.timeouts_usual_ratio,
    )
