"""What would release N have done? Off-policy estimates over logged decisions, and how far they can be trusted."""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nbx.audit.judging import REWARDS, Awaited, Judged, Maturity, Question, consider
from nbx.audit.reading import erased_by, outcomes_of
from nbx.bandits import ope
from nbx.catalog.plan import Plan
from nbx.errors import Invalid
from nbx.experience.entries import DecisionEntry, Entry
from nbx.limits import REPORT_ROWS

F64 = NDArray[np.float64]
_NOT_KEPT = np.zeros((0, 0))

LIMITS = (
    "candidates are those on record: actions that the release adds or newly allows are not seen",
    "its conditions, limits, pauses, stakes, goals, and another treatment of an action are not seen either",
    "the model is the one of the time: what it would have learned under the release is not seen",
    "outcomes are those known now: a late acceptance may still come",
    "only the first drawn slot of a decision is judged, by what is known of that slot",
)


class ActionShare(Struct, frozen=True, kw_only=True):
    """How often two policies take an action; empty: none."""

    action: str
    logged: float
    target: float
    """Expected, under the release."""


class RewardReport(Struct, frozen=True, kw_only=True):
    """One reward, per decision."""

    reward: str
    """`acceptance`, `value`, `experience` or `utility`: see `nbx.audit.judging.REWARDS`."""
    logged: ope.Estimate
    estimates: tuple[ope.Estimate, ...]
    """`ips`, `snips`, `dr`, `sndr`; differences are to the logging policy."""
    support: ope.Support


class PolicyReport(Struct, frozen=True, kw_only=True):
    """What `nbx report policy` tells."""

    release: int
    since_ms: int
    until_ms: int
    placement: str
    """Empty: all."""
    decisions: int
    """That count."""
    releases: dict[int, int]
    """Release that decided → decisions."""
    left_out: dict[str, int]
    """Decisions that do not count, by why: see `nbx.audit.judging.Why`."""
    cut: bool
    """More decisions than `limits.REPORT_ROWS`: these are the newest."""
    clip: float | None
    reliable: bool
    """For every reward."""
    rewards: tuple[RewardReport, ...]
    """Empty without decisions."""
    actions: tuple[ActionShare, ...]
    limits: tuple[str, ...] = LIMITS


class _Row(Struct):
    awaited: Awaited
    release: int
    propensity: float
    chosen: str
    judged: Judged


class PolicyTally:
    """Takes in the log in its order and keeps what the estimates need of the newest decisions.

    Parameters
    ----------
    question
        Window, release and placement.
    maturity
        Which decisions are too young.
    plan_of
        Gives the plans of the releases that decided.
    bound
        Most decisions kept.
    """

    def __init__(
        self, question: Question, maturity: Maturity, plan_of: Callable[[int], Plan], bound: int = REPORT_ROWS
    ) -> None:
        self._question = question
        self._maturity = maturity
        self._plan_of = plan_of
        self._bound = bound
        self._rows: OrderedDict[str, _Row] = OrderedDict()
        self._left_out: Counter[str] = Counter()
        self._cut = False

    def take(self, entries: Iterable[Entry]) -> None:
        """Take in log entries; `plan_of` must know the releases that decided them."""
        for entry in entries:
            if isinstance(entry, DecisionEntry):
                self._take_decision(entry)
            if customer := erased_by(entry):
                for row in self._rows.values():
                    row.awaited.erased |= row.awaited.customer_id == customer
            for outcome in outcomes_of(entry):
                told = self._rows.get(outcome.decision_id)
                if told is not None:
                    told.awaited.tell(outcome)

    def _take_decision(self, entry: DecisionEntry) -> None:
        self._maturity.note(entry)
        found = consider(entry, self._question, self._plan_of)
        if isinstance(found, str):
            self._left_out[found] += 1
        elif found is not None:
            awaited, drawn, judged = found
            chosen = sys.intern(entry.slots[drawn.slot].action)
            judged = judged._replace(model=_NOT_KEPT)
            self._rows[entry.decision_id] = _Row(awaited, entry.release, drawn.propensity, chosen, judged)
            if len(self._rows) > self._bound:
                self._rows.popitem(last=False)
                self._cut = True

    def report(self, release: int, clip: float | None) -> PolicyReport:
        """Estimate.

        Raises
        ------
        Invalid
            A decision has no propensity, the release would do what the log could not (no overlap), or a bad clip.
        """
        left_out, kept = Counter(self._left_out), {}
        for decision_id, row in self._rows.items():
            why = self._maturity.why_not(row.awaited)
            if why is None:
                kept[decision_id] = row
            else:
                left_out[why] += 1
        rows = list(kept.values())
        names = [f"decision {decision_id}" for decision_id in kept]
        weight = ope.importance_weights(
            np.array([row.propensity for row in rows]), np.array([row.judged.chance for row in rows]), names
        )
        ope.check_overlap(np.array([row.judged.missed for row in rows]), names)
        if clip is not None and not clip > 0.0:
            raise Invalid(f"clip must be above 0, found {clip:g}", field="clip", code="clip_invalid")
        rewards = _rewards(rows, weight, clip) if rows else ()
        return PolicyReport(
            release=release,
            since_ms=self._question.span.since_ms,
            until_ms=self._question.span.until_ms,
            placement=self._question.placement,
            decisions=len(rows),
            releases=dict(sorted(Counter(row.release for row in rows).items())),
            left_out=dict(sorted(left_out.items())),
            cut=self._cut,
            clip=clip,
            reliable=bool(rewards) and all(each.support.reliable for each in rewards),
            rewards=rewards,
            actions=_shares(rows),
        )


def _rewards(rows: list[_Row], weight: F64, clip: float | None) -> tuple[RewardReport, ...]:
    earned = np.array([row.judged.terms.rewards(row.awaited.told) for row in rows])
    predicted = np.array([row.judged.predicted for row in rows])
    expected = np.array([row.judged.expected for row in rows])
    return tuple(
        RewardReport(
            reward=name,
            logged=ope.logged_value(earned[:, k]),
            estimates=ope.all_estimates(earned[:, k], ope.clipped(weight, clip), predicted[:, k], expected[:, k]),
            support=ope.support(weight, earned[:, k], clip),
        )
        for k, name in enumerate(REWARDS)
    )


def _shares(rows: list[_Row]) -> tuple[ActionShare, ...]:
    logged = Counter(row.chosen for row in rows)
    target: Counter[str] = Counter()
    for row in rows:
        for name, chance in zip((*row.judged.names, ""), row.judged.target.tolist(), strict=True):
            target[name] += chance
    return tuple(
        ActionShare(action=name, logged=logged[name] / len(rows), target=target[name] / len(rows))
        for name in sorted(logged.keys() | target.keys(), key=lambda name: (not name, name))
    )
