"""The learning report: do the chances that were served come true, how much is explored, what taught and what did not.

Everything is read from the log: the p_response as served against the last word on each slot's outcome. Observations
count with the weight that the fold gave them, so an execution error tells nothing here either.

Bins hold equally many predictions (Nguyen and O'Connor, "Posterior calibration and exploratory analysis for natural
language processing models", 2015): chances of acceptance crowd near zero, where bins of equal width would be one.
Log loss is River's, in the order in which outcomes came in, against the running rate of acceptance known by then. AUC
is exact: River's has thresholds, ten of them 0.04 off on such chances, two hundred right but 75 µs for each prediction.

Decisions whose slots are still open are not in the calibration. Answers come before silences: while many are open,
observed rates of the latest decisions lie too high. `open_slots` tells how many.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nbx.audit.intervals import wilson
from nbx.audit.reading import Arbitrated, Window, arbitrated, erased_by, outcomes_of, table_of
from nbx.experience.entries import DecisionEntry, Entry, Outcome
from nbx.limits import REPORT_ROWS

F64 = NDArray[np.float64]

BINS = 10


class Bin(Struct, frozen=True, kw_only=True):
    """Predictions between two chances, and how often the customer accepted."""

    low: float
    high: float
    count: int
    predicted: float
    """Mean."""
    observed: float
    observed_low: float
    """95 % Wilson interval, on the effective number of observations."""
    observed_high: float


class Calibration(Struct, frozen=True, kw_only=True):
    """Predicted against observed acceptance."""

    action: str
    """Empty: all actions."""
    group: str
    count: int
    """Responses."""
    predicted: float
    observed: float
    observed_low: float
    observed_high: float
    error: float
    """Expected calibration error: mean distance of predicted and observed over the bins, by their size."""
    bins: tuple[Bin, ...]


class Exploration(Struct, frozen=True, kw_only=True):
    """How often something else than the best known was tried; first arbitrated slot of each decision."""

    decisions: int
    explored_share: float
    """Share whose choice had not the highest expected utility (none is worth 0)."""
    greedy_probability: float
    """Mean chance of the choice with the highest expected utility."""
    floor_share: float
    """Share of choices that the exploration floor takes from the best: the rest of exploring is Thompson's."""
    silent_share: float
    """Share for none."""


class Use(Struct, frozen=True, kw_only=True):
    """What became of outcomes in the response model."""

    outcome: str
    cause: str
    use: str
    """`learned`; `half_learned` (with part of the weight); `other_cause` (weight 0: not about the action); `not_shown`;
    `no_features` (a degraded decision); `no_consent` (the customer did not agree to learning)."""
    count: int


class Evidence(Struct, frozen=True, kw_only=True):
    """Observations behind a model, after forgetting."""

    name: str
    observations: float
    changes: int = 0
    """How often the memory was cut because answers changed."""


class LearningReport(Struct, frozen=True, kw_only=True):
    """What `nbx report learning` tells."""

    since_ms: int
    until_ms: int
    decisions: int
    slots: int
    """Slots with an action."""
    cut: bool
    """More decisions than `limits.REPORT_ROWS`: these are the newest."""
    open_slots: int
    """Without an outcome yet."""
    corrections: int
    """Outcomes replaced by a truer one."""
    calibration: Calibration | None
    """None without responses."""
    auc: float | None
    """None unless there were both answers."""
    log_loss: float | None
    """Mean, in nats."""
    base_log_loss: float | None
    """Of the rate of acceptance known so far instead of the model; smaller than `log_loss`: the model does harm."""
    actions: tuple[Calibration, ...]
    exploration: Exploration | None
    left_out: dict[str, int]
    """Decisions that tell nothing about exploration, by why: degraded, holdout, mandatory."""
    uses: tuple[Use, ...]
    release: int = 0
    snapshot: int = 0
    step: int = 0
    """Of the learner, at the snapshot."""
    learner_lag_s: float | None = None
    """Age of the last outcome learned, when it was learned; None: this machine has no learner."""
    evidence: tuple[Evidence, ...] = ()
    """Of each action of the release in force."""
    group_evidence: tuple[Evidence, ...] = ()
    exploration_scale: float | None = None
    """Calibrated, in posterior standard deviations; the catalog's scale multiplies it."""
    half_life: float | None = None
    """Calibrated, of evidence, in observations of an action; None: nothing is forgotten."""


class _Told(NamedTuple):
    """What is kept of an outcome."""

    revision: int
    outcome: str
    cause: str
    use: str
    response: int | None
    weight: float


class _Slot(Struct):
    p_response: float
    action: str
    group: str
    told: _Told | None = None
    order: int = 0
    """When its first outcome came in."""


class _Decision(Struct):
    customer_id: str
    slots: dict[int, _Slot]
    explored: tuple[bool, float, float, bool] | str
    """Explored, chance of the greedy choice, share of the floor, silent; or why it tells nothing."""


class LearningTally:
    """Takes in the log in its order and keeps what the report needs of the newest decisions.

    Parameters
    ----------
    span
        Decisions of this window count, with everything that became of them since.
    bound
        Most decisions kept.
    """

    def __init__(self, span: Window, bound: int = REPORT_ROWS) -> None:
        self._span = span
        self._bound = bound
        self._decisions: OrderedDict[str, _Decision] = OrderedDict()
        self._cut = False
        self._corrections: Counter[str] = Counter()
        self._told = 0

    def take(self, entries: Iterable[Entry]) -> None:
        """Take in log entries."""
        for entry in entries:
            if isinstance(entry, DecisionEntry):
                if self._span.since_ms <= entry.at_ms < self._span.until_ms:
                    self._decisions[entry.decision_id] = _kept(entry)
                    if len(self._decisions) > self._bound:
                        gone, _ = self._decisions.popitem(last=False)
                        self._corrections.pop(gone, None)
                        self._cut = True
            elif customer := erased_by(entry):
                for gone in [key for key, each in self._decisions.items() if each.customer_id == customer]:
                    del self._decisions[gone]
                    self._corrections.pop(gone, None)
            else:
                for outcome in outcomes_of(entry):
                    self._take_outcome(outcome)

    def _take_outcome(self, outcome: Outcome) -> None:
        decision = self._decisions.get(outcome.decision_id)
        slot = decision.slots.get(outcome.slot) if decision is not None else None
        if slot is None or (slot.told is not None and outcome.revision <= slot.told.revision):
            return
        if slot.told is None:
            self._told += 1
            slot.order = self._told
        else:
            self._corrections[outcome.decision_id] += 1
        slot.told = _Told(
            outcome.revision,
            outcome.outcome,
            outcome.cause,
            _use(outcome),
            outcome.response,
            outcome.response_weight,
        )

    def report(self) -> LearningReport:
        """Sum up."""
        slots = [slot for decision in self._decisions.values() for slot in decision.slots.values()]
        told = sorted((slot for slot in slots if slot.told is not None), key=lambda slot: slot.order)
        answered = [(s, s.told) for s in told if s.told and s.told.response is not None and s.told.weight > 0.0]
        p = np.array([slot.p_response for slot, _ in answered])
        y = np.array([float(outcome.response or 0) for _, outcome in answered])
        w = np.array([outcome.weight for _, outcome in answered])
        names = np.array([slot.action for slot, _ in answered])
        group_of = {slot.action: slot.group for slot in slots}
        loss, base = _log_losses(p, y, w)
        return LearningReport(
            since_ms=self._span.since_ms,
            until_ms=self._span.until_ms,
            decisions=len(self._decisions),
            slots=len(slots),
            cut=self._cut,
            open_slots=len(slots) - len(told),
            corrections=self._corrections.total(),
            calibration=calibration("", "", p, y, w) if answered else None,
            auc=auc(p, y, w),
            log_loss=loss,
            base_log_loss=base,
            actions=tuple(
                calibration(name, group_of[name], p[names == name], y[names == name], w[names == name])
                for name in sorted({slot.action for slot, _ in answered})
            ),
            exploration=_exploration([d.explored for d in self._decisions.values() if not isinstance(d.explored, str)]),
            left_out=dict(Counter(d.explored for d in self._decisions.values() if isinstance(d.explored, str))),
            uses=_uses(slot.told for slot in told if slot.told is not None),
        )


def calibration(action: str, group: str, p: F64, y: F64, w: F64) -> Calibration:
    """Compare predicted with observed acceptance.

    Parameters
    ----------
    action, group
        Whose; empty for all.
    p, y, w
        float64[n], n ≥ 1: prediction, answer (0 or 1) and weight (> 0). Their order does not matter.

    Examples
    --------
    >>> told = calibration("", "", np.array([0.2, 0.4]), np.array([0.0, 1.0]), np.ones(2))
    >>> round(told.predicted, 3), told.observed, round(told.error, 3), len(told.bins)
    (0.3, 0.5, 0.4, 2)
    """
    edges = np.unique(np.quantile(p, np.arange(1, BINS + 1) / BINS, method="inverted_cdf"))
    bin_of = np.searchsorted(edges, p, side="left")  # equal predictions stay together
    bins = []
    for b in np.unique(bin_of):
        inside = bin_of == b
        predicted, observed, low, high = _rates(p[inside], y[inside], w[inside])
        bins.append(
            Bin(
                low=float(p[inside].min()),
                high=float(p[inside].max()),
                count=int(inside.sum()),
                predicted=predicted,
                observed=observed,
                observed_low=low,
                observed_high=high,
            )
        )
    shares = np.bincount(bin_of, weights=w)
    shares = shares[shares > 0.0] / w.sum()
    predicted, observed, low, high = _rates(p, y, w)
    return Calibration(
        action=action,
        group=group,
        count=len(p),
        predicted=predicted,
        observed=observed,
        observed_low=low,
        observed_high=high,
        error=float(sum(s * abs(b.predicted - b.observed) for s, b in zip(shares, bins, strict=True))),
        bins=tuple(bins),
    )


def _rates(p: F64, y: F64, w: F64) -> tuple[float, float, float, float]:
    """Mean prediction, observed rate, and its Wilson interval on the effective number of observations."""
    total = float(w.sum())
    rate = min(float(w @ y) / total, 1.0)
    return float(w @ p) / total, rate, *wilson(rate, total * total / float(w @ w))


def auc(p: F64, y: F64, w: F64) -> float | None:
    """Chance that an accepted one had a higher prediction than one that was not; ties count half. None: not both.

    Examples
    --------
    >>> auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0.0, 0.0, 1.0, 1.0]), np.ones(4))
    0.875
    """
    values, at = np.unique(p, return_inverse=True)
    yes = np.bincount(at, weights=w * y, minlength=len(values))
    no = np.bincount(at, weights=w * (1.0 - y), minlength=len(values))
    pairs = float(yes.sum() * no.sum())
    return float(yes @ (np.cumsum(no) - no / 2)) / pairs if pairs > 0.0 else None


def _log_losses(p: F64, y: F64, w: F64) -> tuple[float | None, float | None]:
    """Log loss of the predictions, and of the rate known before each, (yes + 1) / (all + 2)."""
    from nbx.bandits.river_parts import metrics  # heavy: not where decisions are served, until somebody asks

    if not len(p):
        return None, None
    model, base, yes, rows = metrics.LogLoss(), metrics.LogLoss(), 1.0, 2.0
    for each, answer, weight in zip(p.tolist(), y.tolist(), w.tolist(), strict=True):
        model.update(answer == 1.0, each, weight)
        base.update(answer == 1.0, yes / rows, weight)
        yes, rows = yes + weight * answer, rows + weight
    return float(model.get()), float(base.get())


def _kept(entry: DecisionEntry) -> _Decision:
    drawn = arbitrated(entry)
    return _Decision(
        customer_id=entry.customer_id,
        slots={
            number: _Slot(slot.p_response, slot.action, slot.group)
            for number, slot in enumerate(entry.slots)
            if slot.action
        },
        explored=drawn if isinstance(drawn, str) else _explored(drawn, table_of(entry), entry.policy.floor),
    )


def _explored(drawn: Arbitrated, table: NDArray[np.float32], floor: float) -> tuple[bool, float, float, bool]:
    n = len(drawn.free)
    worth = np.append(table[drawn.free, -1], np.float32(0.0))
    best = worth == worth.max()  # equally good ones are not exploring
    greedy = float(drawn.probability[best].sum())
    spread = floor * (1.0 - float(best.sum()) / (n + 1))
    return not bool(best[drawn.chosen]), greedy, spread, drawn.chosen == n


def _exploration(rows: Sequence[tuple[bool, float, float, bool]]) -> Exploration | None:
    if not rows:
        return None
    explored, greedy, floor, silent = np.array(rows, dtype=np.float64).mean(axis=0).tolist()
    return Exploration(
        decisions=len(rows),
        explored_share=explored,
        greedy_probability=greedy,
        floor_share=floor,
        silent_share=silent,
    )


def _uses(told: Iterable[_Told]) -> tuple[Use, ...]:
    counts = Counter((each.outcome, each.cause, each.use) for each in told)
    return tuple(Use(outcome=o, cause=c, use=u, count=n) for (o, c, u), n in sorted(counts.items()))


def _use(outcome: Outcome) -> str:
    if not outcome.learns:
        return "no_consent"
    if not outcome.x:
        return "no_features"
    if outcome.response is None:
        return "not_shown"
    if outcome.response_weight <= 0.0:
        return "other_cause"
    return "learned" if outcome.response_weight >= 1.0 else "half_learned"
