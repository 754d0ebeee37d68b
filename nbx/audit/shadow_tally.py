"""Summing up a shadow run: from decisions made twice to `nbx.audit.shadow_report.ShadowReport`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from nbx.audit.judging import REWARDS, Maturity
from nbx.audit.shadow_pricing import Priced, Weighed
from nbx.audit.shadow_report import PART_ROWS, Earned, LeftOut, Part, ReasonShift, ShadowReport, Shift
from nbx.bandits import ope
from nbx.catalog.plan import Plan
from nbx.decision.choice import Choice
from nbx.decision.record import treatment_of
from nbx.experience.entries import DecisionEntry, Outcome
from nbx.features.schema import Value

F64 = NDArray[np.float64]
MOVED = 1e-9
"""Smallest change of an expected share that is told."""
VALUES = 20
"""Segments per feature, the largest; the others are one."""
NAMED = 5
"""Decisions named of those left out for one reason."""
NOT_OFFERED = "not_offered"
"""Reason of an action that a release does not have on the placement."""


class _Side(Struct, frozen=True, gc=False):
    """What one release does with a decision; numbers of actions are the tally's."""

    actions: NDArray[np.int64]
    """(m,) shown for certain or by chance, none among them."""
    shown: F64
    """(m,) expected."""
    drawn: tuple[int, ...]
    """Per slot."""
    nothing: bool


class _Row(Struct, frozen=True, gc=False):
    """A decision. Tens of thousands are kept beside live traffic: none of what they hold is the garbage collector's."""

    at_ms: int
    customer: str
    placement: str
    segments: tuple[Value, ...]
    before: _Side
    after: _Side
    changed: bool
    priced: Priced


class _Judged(NamedTuple):
    """A decision whose logged choice counts."""

    priced: Priced
    weighed: Weighed


class Tally:
    """Keeps what the report needs of each decision.

    Parameters
    ----------
    draft, base
        The releases.
    by
        Features whose values are segments; empty: the draft's one-hot profile features.
    """

    def __init__(self, draft: Plan, base: Plan, by: tuple[str, ...] = ()) -> None:
        self._by = by or tuple(
            f.name for f in draft.catalog.features if f.origin == "profile" and f.encoding.kind == "onehot"
        )
        plans = (base, draft)
        names = dict.fromkeys(action.name for plan in plans for action in plan.catalog.actions)
        self._names = (*names, "")
        self._number = {name: number for number, name in enumerate(self._names)}
        self._groups = [{a.name: a.group for a in plan.catalog.actions} for plan in plans]
        self._rows: dict[str, _Row] = {}
        self._removed: tuple[Counter[tuple[str, str]], ...] = (Counter(), Counter())
        self._left_out: dict[str, list[str]] = defaultdict(list)

    def leave_out(self, why: str, decision_id: str) -> None:
        """Count a decision that is not replayed."""
        self._left_out[why].append(decision_id)

    def add(
        self, entry: DecisionEntry, before: Choice, after: Choice, values: Mapping[str, Value], priced: Priced
    ) -> None:
        """Take in a decision that both releases have made anew; `values` are of the draft's features."""
        first = [_first(choice) for choice in (before, after)]
        for choice, other, removed in zip((before, after), (after, before), self._removed, strict=True):
            removed.update((each.action, each.reason) for each in choice.removed)
            here = choice.placement.position
            removed.update((name, NOT_OFFERED) for name in other.placement.names if name not in here)
        self._rows[entry.decision_id] = _Row(
            entry.at_ms,
            entry.customer_id,
            entry.request.placement,
            tuple(values[name] for name in self._by),
            self._side(before),
            self._side(after),
            first[0] != first[1],
            priced,
        )

    def tell(self, outcome: Outcome) -> None:
        """Take in what became of a slot."""
        row = self._rows.get(outcome.decision_id)
        if row is not None and isinstance(row.priced.weighed, Weighed):
            row.priced.weighed.awaited.tell(outcome)

    def report(self, maturity: Maturity) -> ShadowReport:
        """Sum up."""
        rows = list(self._rows.values())
        times = [row.at_ms for row in rows]
        judged: dict[str, _Judged] = {}
        not_judged: Counter[str] = Counter()
        for decision_id, row in self._rows.items():
            weighed = row.priced.weighed
            why = weighed if isinstance(weighed, str) else maturity.why_not(weighed.awaited)
            if why is not None:
                not_judged[why] += 1
            elif not isinstance(weighed, str):
                judged[decision_id] = _Judged(row.priced, weighed)
        unsupported = float(np.mean([each.weighed.missed for each in judged.values()])) if judged else 0.0
        rewards = tuple(_earned(rows, judged, unsupported)) if judged else ()
        return ShadowReport(
            since_ms=min(times, default=0),
            until_ms=max(times, default=0),
            left_out=tuple(
                LeftOut(why=why, decisions=len(ids), examples=tuple(ids[:NAMED]))
                for why, ids in sorted(self._left_out.items())
            ),
            whole=self._part("", "", rows, len(self._names)),
            groups=self._group_shifts(rows),
            placements=tuple(self._placements(rows)),
            segments=tuple(self._segments(rows)),
            reasons=tuple(self._reasons()),
            judged=len(judged),
            not_judged=dict(sorted(not_judged.items())),
            unsupported=unsupported,
            reliable=bool(rewards) and all(each.support.reliable for each in rewards),
            rewards=rewards,
        )

    def _side(self, choice: Choice) -> _Side:
        slate, names = choice.slate, choice.placement.names
        numbers = np.array([self._number[names[position]] for position in choice.positions.tolist()] + [-1])
        shown = slate.probability.copy()
        first = slate.arbitrated if slate.arbitrated >= 0 else len(slate.chosen)
        shown[slate.chosen[:first]] = 1.0
        drawn = tuple(int(numbers[index]) for index in slate.chosen)
        return _Side(numbers, shown, drawn, not len(choice.positions))

    def _sums(self, rows: Iterable[_Row]) -> tuple[F64, NDArray[np.int64]]:
        """Return what is shown, expected and drawn, before and after: [2, actions + 1] each, summed over rows."""
        shown = np.zeros((2, len(self._names)))
        drawn = np.zeros((2, len(self._names)), dtype=np.int64)
        for row in rows:
            for k, side in enumerate((row.before, row.after)):
                shown[k, side.actions] += side.shown
                for number in side.drawn:
                    drawn[k, number] += 1
        return shown, drawn

    def _part(self, by: str, value: str, rows: list[_Row], most: int = PART_ROWS) -> Part:
        shown, drawn = self._sums(rows)
        customers = {row.customer for row in rows}
        served_before = {row.customer for row in rows if not row.before.nothing}
        served_after = {row.customer for row in rows if not row.after.nothing}
        return Part(
            by=by,
            value=value,
            decisions=len(rows),
            changed=sum(row.changed for row in rows),
            nothing_before=sum(row.before.nothing for row in rows),
            nothing_after=sum(row.after.nothing for row in rows),
            customers=len(customers),
            customers_nothing_before=len(customers - served_before),
            customers_nothing_after=len(customers - served_after),
            actions=_shifts(self._names, shown / max(len(rows), 1), drawn, most),
        )

    def _group_shifts(self, rows: list[_Row]) -> tuple[Shift, ...]:
        shown, drawn = self._sums(rows)
        names = list(dict.fromkeys(group for groups in self._groups for group in groups.values()))
        sums, draws = np.zeros((2, len(names))), np.zeros((2, len(names)), dtype=np.int64)
        for k, groups in enumerate(self._groups):
            for action, group in groups.items():
                sums[k, names.index(group)] += shown[k, self._number[action]]
                draws[k, names.index(group)] += drawn[k, self._number[action]]
        return _shifts(names, sums / max(len(rows), 1), draws, len(names))

    def _placements(self, rows: list[_Row]) -> Iterator[Part]:
        for name in dict.fromkeys(row.placement for row in rows):
            yield from _changing(self._part("placement", name, [row for row in rows if row.placement == name]))

    def _segments(self, rows: list[_Row]) -> Iterator[Part]:
        for k, feature in enumerate(self._by):
            parts: dict[str, list[_Row]] = defaultdict(list)
            for row, name in zip(rows, _named([row.segments[k] for row in rows]), strict=True):
                parts[name].append(row)
            for name, part in parts.items():
                yield from _changing(self._part(feature, name, part))

    def _reasons(self) -> Iterator[ReasonShift]:
        before, after = self._removed
        for action, reason in sorted(before.keys() | after.keys()):
            if before[action, reason] != after[action, reason]:
                yield ReasonShift(
                    action=action, reason=reason, before=before[action, reason], after=after[action, reason]
                )


def _first(choice: Choice) -> tuple[str, str]:
    """Return action and treatment of the first slot."""
    index = choice.slate.chosen[0]
    if index < 0:
        return "", ""
    position = int(choice.positions[index])
    return choice.placement.names[position], treatment_of(choice, position).name


def _shifts(names: Iterable[str], shown: F64, drawn: NDArray[np.int64], most: int) -> tuple[Shift, ...]:
    """Return what changes, the largest change first."""
    found = [
        Shift(name=name, before=before, after=after, drawn_before=drawn_before, drawn_after=drawn_after)
        for name, before, after, drawn_before, drawn_after in zip(names, *shown.tolist(), *drawn.tolist(), strict=True)
        if abs(after - before) > MOVED or drawn_before != drawn_after
    ]
    return tuple(sorted(found, key=lambda each: (-abs(each.after - each.before), each.name))[:most])


def _changing(part: Part) -> Iterator[Part]:
    nothing = (part.nothing_before, part.customers_nothing_before)
    if part.changed or part.actions or nothing != (part.nothing_after, part.customers_nothing_after):
        yield part


def _named(values: list[Value]) -> list[str]:
    """Name the segment of each value: itself, its quartile when it is a number, or `others`.

    Examples
    --------
    >>> _named([1.0, 2.0, 3.0, 4.0]), _named([True, False])
    (['<= 1.75', '1.75 to 2.5', '2.5 to 3.25', '> 3.25'], ['true', 'false'])
    """
    if values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = np.array(values, dtype=np.float64)
        edges = np.unique(np.quantile(numbers, [0.25, 0.5, 0.75]))
        told = [f"{edge:.4g}" for edge in edges.tolist()]
        names = [f"<= {told[0]}", *(f"{a} to {b}" for a, b in pairwise(told)), f"> {told[-1]}"]
        return [names[i] for i in np.searchsorted(edges, numbers).tolist()]
    texts = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    kept = {name for name, _ in Counter(texts).most_common(VALUES)}
    return [text if text in kept else "others" for text in texts]


def _earned(rows: list[_Row], judged: Mapping[str, _Judged], unsupported: float) -> Iterator[Earned]:
    weighed = [each.weighed for each in judged.values()]
    propensity = np.array([each.propensity for each in weighed])
    before, after = (
        ope.importance_weights(propensity, np.clip(chances, 0.0, 1.0), tuple(f"decision {each}" for each in judged))
        for chances in (np.array([each.before for each in weighed]), np.array([each.after for each in weighed]))
    )
    rewards = np.array([each.terms.rewards(each.awaited.told) for each in weighed])
    predicted = np.array([each.predicted for each in weighed])
    expected = np.array([(each.priced.before, each.priced.after) for each in judged.values()])
    model = np.mean([(row.priced.before, row.priced.after) for row in rows], axis=0).tolist()
    for k, name in enumerate(REWARDS):
        reward, q, q_before, q_after = rewards[:, k], predicted[:, k], expected[:, 0, k], expected[:, 1, k]
        yield Earned(
            reward=name,
            model_before=model[0][k],
            model_after=model[1][k],
            logged=ope.logged_value(reward),
            before=ope.all_estimates(reward, before, q, q_before),
            after=ope.all_estimates(reward, after, q, q_after),
            # both estimators are linear in weight and model, so the difference is one estimate, paired row by row
            difference=tuple(
                structs.replace(each, difference=None, difference_low=None, difference_high=None)
                for each in (ope.ips(reward, after - before), ope.dr(reward, after - before, q, q_after - q_before))
            ),
            support=_support(after, reward, unsupported),
        )


def _support(weight: F64, reward: F64, unsupported: float) -> ope.Support:
    told = ope.support(weight, reward)
    if unsupported <= ope.RESOLUTION:
        return told
    why = f"the log could not draw {unsupported:.1%} of the draft's choices: for these only the model speaks"
    return structs.replace(told, reliable=False, reasons=(*told.reasons, why))
