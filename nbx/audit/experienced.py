"""What customers experienced: the log's decisions with the last word on each slot, as the two reports read it.

A slot counts as *shown* once it has an outcome other than `not_seen` and `not_delivered`, which are *lost*: nobody had
an experience of them. *Negative* is what was shown and has a cause. Everything counts at the time of its decision.

Money is what the balance was charged, times the exchange rate: points, negative ones times `loss_aversion`, all of them
times 1 + stakes of the journey step, at the prices of the release that decided.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nbx.audit.clustered import F64, I64, Mask
from nbx.audit.newest import Newest
from nbx.audit.reading import Window, erased_by, outcomes_of
from nbx.catalog.model import Catalog
from nbx.experience.causes import POSITIVE
from nbx.experience.entries import DecisionEntry, Entry, Outcome
from nbx.experience.relationship import weighed
from nbx.limits import REPORT_ROWS

LOST = frozenset({"not_seen", "not_delivered"})
GUARDS = ("experience_floor", "obligation_open", "asks_too_much", "paused")
"""Reasons for which actions are removed to spare the customer."""
DIMENSIONS = ("overall", "action", "placement", "channel", "segment")
VALUES = {"action": 200, "placement": 100, "channel": 20, "segment": 24}
"""Values told per dimension and per segment feature, those shown most: more is no table that anybody reads."""
BUCKETS = 100
"""Most points of a series."""
_HOUR_MS, _DAY_MS, _WEEK_MS = 3_600_000, 86_400_000, 604_800_000


class Told(NamedTuple):
    """What is kept of an outcome."""

    revision: int
    outcome: str
    cause: str
    rule: str
    evidence: tuple[str, ...]
    confidence: float
    points: float
    stakes: float
    response: int | None
    weight: float
    learns: bool
    at_ms: int
    """When it became this outcome; what only tells another cause does not change it."""


class Slot(Struct):
    """A slot with an action."""

    action: str
    group: str
    told: Told | None = None


class Made(Struct, frozen=True):
    """What is kept of a decision."""

    customer_id: str
    at_ms: int
    placement: str
    channel: str
    release: int
    segments: tuple[str, ...]
    holdout: str
    relationship: tuple[float, float] | None
    """Balance and strain; None where they were not looked at."""
    guarded: dict[str, int]
    """Reason of `GUARDS` → actions it removed."""
    continues: tuple[str, ...]
    """Kinds of the open threads that its reply told of."""
    slots: dict[int, Slot]


class Experienced:
    """Takes in the log in its order and keeps what the reports need of the newest decisions.

    Parameters
    ----------
    span
        Decisions of this window count, with everything that became of them since.
    placement
        Only decisions of this one; empty: of all.
    bound
        Most decisions kept.
    """

    def __init__(self, span: Window, placement: str = "", bound: int = REPORT_ROWS) -> None:
        self.span = span
        self.placement = placement
        self.made: Newest[str, Made] = Newest(bound)
        self._segments: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._corrections: Newest[tuple[str, int, int], None] = Newest(bound)

    @property
    def corrections(self) -> int:
        """Outcomes of the decisions kept that were replaced by a truer one."""
        return sum(self.made.get(decision_id) is not None for (decision_id, _, _), _ in self._corrections)

    def take(self, entries: Iterable[Entry]) -> None:
        """Take in log entries."""
        for entry in entries:
            if isinstance(entry, DecisionEntry):
                inside = self.span.since_ms <= entry.at_ms < self.span.until_ms
                if inside and self.placement in ("", entry.request.placement):
                    self.made.put(entry.decision_id, entry.customer_id, self._kept(entry))
            elif customer := erased_by(entry):
                self.made.forget(customer)
                self._corrections.forget(customer)
            else:
                for outcome in outcomes_of(entry):
                    self._tell(outcome)

    def _kept(self, entry: DecisionEntry) -> Made:
        known = entry.personalised and "balance" in entry.relationship
        guarded = Counter(removed.reason for removed in entry.removed if removed.reason in GUARDS)
        return Made(
            customer_id=entry.customer_id,
            at_ms=entry.at_ms,
            placement=sys.intern(entry.request.placement),
            channel=sys.intern(entry.channel),
            release=entry.release,
            segments=self._segments.setdefault(entry.segments, entry.segments),
            holdout=sys.intern(entry.holdout),
            relationship=(entry.relationship["balance"], entry.relationship["strain"]) if known else None,
            guarded={sys.intern(reason): count for reason, count in guarded.items()},
            continues=tuple(sys.intern(each.kind) for each in entry.continues),
            slots={
                number: Slot(sys.intern(slot.action), sys.intern(slot.group))
                for number, slot in enumerate(entry.slots)
                if slot.action
            },
        )

    def _tell(self, outcome: Outcome) -> None:
        made = self.made.get(outcome.decision_id)
        slot = None if made is None else made.slots.get(outcome.slot)
        if made is None or slot is None or (slot.told is not None and outcome.revision <= slot.told.revision):
            return
        at_ms = outcome.at_ms
        if slot.told is not None:
            at_ms = slot.told.at_ms if slot.told.outcome == outcome.outcome else at_ms
            self._corrections.put((outcome.decision_id, outcome.slot, outcome.revision), made.customer_id, None)
        slot.told = Told(
            revision=outcome.revision,
            outcome=sys.intern(outcome.outcome),
            cause=sys.intern(outcome.cause),
            rule=sys.intern(outcome.rule),
            evidence=tuple(sys.intern(each) for each in outcome.evidence),
            confidence=outcome.confidence,
            points=outcome.experience,
            stakes=outcome.stakes,
            response=outcome.response,
            weight=outcome.response_weight,
            learns=outcome.learns,
            at_ms=at_ms,
        )


class Group(NamedTuple):
    """The slots of one value of a dimension."""

    by: str
    """One of `DIMENSIONS`."""
    of: str
    """Feature of a segment; empty otherwise."""
    value: str
    rows: I64
    """Positions of its slots that have an outcome."""


@dataclass(frozen=True, slots=True)
class Lived:
    """The slots with an outcome as columns of the same length, in the order of their decisions."""

    ids: list[str]
    """Decision of each."""
    made: list[Made]
    """That decision."""
    slots: list[Slot]
    told: list[Told]
    who: I64
    """Number of the customer."""
    at_ms: I64
    points: F64
    money: F64
    shown: Mask
    negative: Mask
    late: Mask
    """Decided in the second half of the time covered."""
    split_ms: int
    """When the second half begins: midway between the first and the last decision; 0 without decisions."""
    bucket: I64
    """Position in the series."""
    bucket_ms: int
    """Width of a bucket."""
    starts_ms: tuple[int, ...]
    """When each bucket begins, at midnight or the full hour UTC."""
    decisions: int
    unfinished: int
    """Slots without an outcome yet."""

    def costliest(self, rows: I64) -> I64:
        """Return some slots in the order of what they cost, the newest first among equals."""
        return rows[np.lexsort((-rows, -self.at_ms[rows], self.money[rows]))]

    def causes(self, rows: I64) -> NDArray[np.str_]:
        """Return the causes of some slots."""
        return np.array([self.told[i].cause for i in rows.tolist()], dtype=np.str_)


def lived(kept: Experienced, catalog_of: Callable[[int], Catalog]) -> Lived:
    """Lay out as columns what a tally kept; `catalog_of` must know the releases that decided."""
    rows = [
        (decision_id, made, slot, slot.told)
        for decision_id, made in kept.made
        for slot in made.slots.values()
        if slot.told is not None
    ]
    numbers: dict[str, int] = {}
    who = [numbers.setdefault(made.customer_id, len(numbers)) for _, made, _, _ in rows]
    priced = [_money(told, catalog_of(made.release)) for _, made, _, told in rows]
    times = [made.at_ms for _, made in kept.made]
    first, last = (min(times), max(times)) if times else (0, 0)
    split = (first + last + 1) // 2
    at = np.array([made.at_ms for _, made, _, _ in rows], dtype=np.int64)
    begin, width, count = _series(first, last) if times else (0, _DAY_MS, 0)
    outcomes = [told.outcome for _, _, _, told in rows]
    shown = np.array([each not in LOST for each in outcomes], dtype=np.bool_)
    return Lived(
        ids=[decision_id for decision_id, _, _, _ in rows],
        made=[made for _, made, _, _ in rows],
        slots=[slot for _, _, slot, _ in rows],
        told=[told for _, _, _, told in rows],
        who=np.array(who, dtype=np.int64),
        at_ms=at,
        points=np.array([told.points for _, _, _, told in rows], dtype=np.float64),
        money=np.array(priced, dtype=np.float64),
        shown=shown,
        negative=shown & np.array([each not in POSITIVE for each in outcomes], dtype=np.bool_),
        late=at >= split,
        split_ms=split,
        bucket=(at - begin) // width,
        bucket_ms=width,
        starts_ms=tuple(begin + k * width for k in range(count)),
        decisions=len(kept.made),
        unfinished=sum(slot.told is None for _, made in kept.made for slot in made.slots.values()),
    )


def _money(told: Told, catalog: Catalog) -> float:
    policy = catalog.experience
    return weighed(told.points, policy) * (1.0 + told.stakes) * policy.exchange


def _series(first: int, last: int) -> tuple[int, int, int]:
    """Return begin, width and count of the buckets between two times: hours, days, or as many weeks as it takes."""
    span = last - first
    width = next((each for each in (_HOUR_MS, _DAY_MS) if span < (BUCKETS - 1) * each), 0)
    width = width or _WEEK_MS * (span // (_WEEK_MS * (BUCKETS - 1)) + 1)
    begin = first // width * width
    return begin, width, (last - begin) // width + 1


def groups(told: Lived, catalog_of: Callable[[int], Catalog]) -> tuple[list[Group], dict[str, int]]:
    """Split slots by each dimension; also how many values are not told, by dimension or feature."""
    everything = np.arange(len(told.ids), dtype=np.int64)
    found = [Group("overall", "", "", everything)]
    left_out: dict[str, int] = {}
    columns: list[tuple[str, str, Sequence[str | None]]] = [
        ("action", "", [slot.action for slot in told.slots]),
        ("placement", "", [made.placement for made in told.made]),
        ("channel", "", [made.channel for made in told.made]),
        *(("segment", feature, values) for feature, values in _segments(told, catalog_of).items()),
    ]
    for by, of, values in columns:
        each = list(_split(by, of, values, told.shown))
        if len(each) > VALUES[by]:
            left_out[of or by] = len(each) - VALUES[by]
        found += each[: VALUES[by]]
    return found, left_out


def _segments(told: Lived, catalog_of: Callable[[int], Catalog]) -> dict[str, list[str | None]]:
    """Feature → its value for each slot; None where the release did not declare it, or nothing personal was used."""
    declared = {release: catalog_of(release).segments for release in {made.release for made in told.made}}
    found: dict[str, list[str | None]] = {
        feature: [None] * len(told.made) for features in declared.values() for feature in features
    }
    for i, made in enumerate(told.made):
        for feature, value in zip(declared[made.release], made.segments, strict=False):
            found[feature][i] = value
    return dict(sorted(found.items()))


def _split(by: str, of: str, values: Sequence[str | None], shown: Mask) -> Iterator[Group]:
    """Yield the groups of a column, those shown most first."""
    rows: dict[str, list[int]] = {}
    for i, value in enumerate(values):
        if value is not None:
            rows.setdefault(value, []).append(i)
    positions = {value: np.array(of_one, dtype=np.int64) for value, of_one in rows.items()}
    for value in sorted(positions, key=lambda name: (-int(shown[positions[name]].sum()), name)):
        yield Group(by, of, value, positions[value])
