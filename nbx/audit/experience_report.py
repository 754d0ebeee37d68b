"""The experience report: what nbx's choices did to customers, in points and money, and to whom.

Points are the customers' own (the catalog's `experience.points`); money is what they are worth to the relationship, see
`nbx.audit.experienced`. Means are per showing, with intervals that take a customer's outcomes together. Nothing here is
adjusted for who was shown what: a difference between two groups of customers says that it is there, not why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from msgspec import Struct

from nbx.audit.clustered import Change, Mean, Portion, change_of_means, mean, portion
from nbx.audit.experienced import GUARDS, Experienced, Group, Lived, groups, lived
from nbx.audit.heard import Comment, Concerns, Heard, Mood, Obligations, Promises
from nbx.audit.parity import Parity, parity
from nbx.audit.reading import Window
from nbx.audit.tensions import Tension, tensions
from nbx.catalog.model import Catalog
from nbx.experience.entries import Entry
from nbx.limits import REPORT_ROWS

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
EXAMPLES = 5
"""Decisions named behind a figure."""


class ExperiencePart(Struct, frozen=True, kw_only=True):
    """What the outcomes of one action, class, placement, channel or segment did, or all of them."""

    by: str
    """`overall`, `class`, `action`, `placement`, `channel` or `segment`."""
    of: str
    """Feature of a segment; empty otherwise."""
    value: str
    shown: int
    gained: float
    """Sum of positive points."""
    lost: float
    """Sum of negative points, ≤ 0."""
    money: float
    """All of them, negative ones weighed, at the exchange rate."""
    points: Mean
    """Per showing."""
    negative: Portion
    trend: Change | None
    """Points per showing, first half against second."""
    decisions: tuple[str, ...]
    """Of the outcomes that cost most, the newest first among equals."""


class OutcomeSum(Struct, frozen=True, kw_only=True):
    """One kind of outcome."""

    outcome: str
    count: int
    points: float
    money: float
    decisions: tuple[str, ...]
    """The newest."""


class Spread(Struct, frozen=True, kw_only=True):
    """How something was distributed over decisions."""

    count: int
    mean: float | None
    quantiles: tuple[float, ...]
    """At `QUANTILES`: 5, 25, 50, 75 and 95 %; empty without decisions."""


class Guarded(Struct, frozen=True, kw_only=True):
    """Decisions in which something was kept from the customer to spare them."""

    reason: str
    decisions: Portion
    actions: int
    """Removed for it, over all decisions."""
    examples: tuple[str, ...]
    """The newest."""


class Relationship(Struct, frozen=True, kw_only=True):
    """How customers were when it was decided for them."""

    balance: Spread
    strain: Spread
    """0..1"""
    below_floor: Portion
    """Decisions whose customer's balance was below the catalog's floor."""
    not_looked_at: int
    """Decisions without consent to personalise, or degraded: they count in none of the three."""
    guarded: tuple[Guarded, ...]


class ExperienceReport(Struct, frozen=True, kw_only=True):
    """What `nbx report experience` tells."""

    since_ms: int
    until_ms: int
    placement: str
    """Empty: all."""
    decisions: int
    customers: int
    outcomes: int
    """Slots that have one."""
    unfinished: int
    corrections: int
    cut: bool
    """More decisions or events than `limits.REPORT_ROWS`: these are the newest."""
    split_ms: int
    """Where the two halves of trends meet."""
    parts: tuple[ExperiencePart, ...]
    """Overall comes first."""
    left_out: dict[str, int]
    """Dimension, or feature of segments → values shown least, that are not told."""
    sums: tuple[OutcomeSum, ...]
    relationship: Relationship
    promises: tuple[Promises, ...]
    obligations: tuple[Obligations, ...]
    concerns: tuple[Concerns, ...]
    continued: dict[str, int]
    """Kind of open thread → decisions whose reply told of one last touched on another channel."""
    mood: Mood
    comments: tuple[Comment, ...]
    """The newest negative ones."""
    tensions: tuple[Tension, ...]
    """Actions whose lift is up while experience is down."""
    parity: tuple[Parity, ...]
    findings: tuple[str, ...]
    """What stands out, in words."""


class ExperienceTally:
    """Takes in the log in its order and keeps what the report needs.

    Parameters
    ----------
    span
        Decisions and events of this window count.
    placement
        Only this one; empty: all.
    in_force
        Catalog whose concerns are told.
    """

    def __init__(self, span: Window, placement: str, in_force: Catalog, bound: int = REPORT_ROWS) -> None:
        self.kept = Experienced(span, placement, bound)
        self.heard = Heard(self.kept, in_force.concerns, bound)

    def take(self, entries: list[Entry]) -> None:
        """Take in log entries."""
        for entry in entries:  # what is said may be about the decision just before it
            self.kept.take((entry,))
            self.heard.take((entry,))

    def report(self, catalog_of: Callable[[int], Catalog], now_ms: int) -> ExperienceReport:
        """Sum up; `catalog_of` must know the releases that decided."""
        kept, heard = self.kept, self.heard
        told = lived(kept, catalog_of)
        split, left_out = groups(told, catalog_of)
        parts = [_part(told, group) for group in (split[0], *_classes(told, catalog_of), *split[1:])]
        obligations = heard.obligations(catalog_of, now_ms)
        promises = heard.promises()
        found, fair = tensions(told), parity(told, split)
        relationship = _relationship(kept, catalog_of)
        return ExperienceReport(
            since_ms=kept.span.since_ms,
            until_ms=kept.span.until_ms,
            placement=kept.placement,
            decisions=told.decisions,
            customers=len({made.customer_id for _, made in kept.made}),
            outcomes=len(told.ids),
            unfinished=told.unfinished,
            corrections=kept.corrections,
            cut=kept.made.cut or heard.cut,
            split_ms=told.split_ms,
            parts=tuple(parts),
            left_out=left_out,
            sums=_sums(told),
            relationship=relationship,
            promises=promises,
            obligations=obligations,
            concerns=heard.concerns(),
            continued=dict(sorted(Counter(kind for _, made in kept.made for kind in set(made.continues)).items())),
            mood=heard.mood(),
            comments=heard.comments(),
            tensions=found,
            parity=fair,
            findings=tuple(_findings(parts[0], promises, obligations, found, fair)),
        )


def _classes(told: Lived, catalog_of: Callable[[int], Catalog]) -> Iterator[Group]:
    known: dict[int, dict[str, str]] = {}
    rows: dict[str, list[int]] = {}
    for i, (made, slot) in enumerate(zip(told.made, told.slots, strict=True)):
        if made.release not in known:
            known[made.release] = {each.name: each.action_class for each in catalog_of(made.release).actions}
        rows.setdefault(known[made.release].get(slot.action, ""), []).append(i)
    for name, positions in sorted(rows.items()):
        yield Group("class", "", name, np.array(positions, dtype=np.int64))


def _part(told: Lived, group: Group) -> ExperiencePart:
    rows = group.rows[told.shown[group.rows]]
    points, who = told.points[rows], told.who[rows]
    costly = told.costliest(rows[told.negative[rows]])[: 2 * EXAMPLES].tolist()
    return ExperiencePart(
        by=group.by,
        of=group.of,
        value=group.value,
        shown=len(rows),
        gained=float(points[points > 0.0].sum()),
        lost=float(points[points < 0.0].sum()),
        money=float(told.money[rows].sum()),
        points=mean(points, who),
        negative=portion(told.negative[rows], who),
        trend=change_of_means(points, told.late[rows], who),
        decisions=tuple(dict.fromkeys(told.ids[i] for i in costly))[:EXAMPLES],
    )


def _sums(told: Lived) -> tuple[OutcomeSum, ...]:
    rows: dict[str, list[int]] = {}
    for i, outcome in enumerate(told.told):
        rows.setdefault(outcome.outcome, []).append(i)
    return tuple(
        OutcomeSum(
            outcome=outcome,
            count=len(each),
            points=float(told.points[each].sum()),
            money=float(told.money[each].sum()),
            decisions=tuple(dict.fromkeys(told.ids[i] for i in reversed(each[-EXAMPLES:]))),
        )
        for outcome, each in sorted(rows.items(), key=lambda item: (-len(item[1]), item[0]))
    )


def _relationship(kept: Experienced, catalog_of: Callable[[int], Catalog]) -> Relationship:
    every = [made for _, made in kept.made]
    numbers: dict[str, int] = {}
    who = np.array([numbers.setdefault(made.customer_id, len(numbers)) for made in every], dtype=np.int64)
    looked = np.array([made.relationship is not None for made in every], dtype=np.bool_)
    seen = [(made.relationship, catalog_of(made.release).experience.floor) for made in every if made.relationship]
    below = np.array([relationship[0] < floor for relationship, floor in seen], dtype=np.bool_)
    guarded = []
    for reason in GUARDS:
        hit = np.array([reason in made.guarded for made in every], dtype=np.bool_)
        if hit.any():
            examples = [decision_id for decision_id, made in kept.made if reason in made.guarded][-EXAMPLES:]
            removed = sum(made.guarded.get(reason, 0) for made in every)
            guarded.append(
                Guarded(reason=reason, decisions=portion(hit, who), actions=removed, examples=tuple(reversed(examples)))
            )
    return Relationship(
        balance=_spread([relationship[0] for relationship, _ in seen]),
        strain=_spread([relationship[1] for relationship, _ in seen]),
        below_floor=portion(below, who[looked]),
        not_looked_at=len(every) - len(seen),
        guarded=tuple(guarded),
    )


def _spread(values: list[float]) -> Spread:
    if not values:
        return Spread(count=0, mean=None, quantiles=())
    return Spread(
        count=len(values), mean=float(np.mean(values)), quantiles=tuple(np.quantile(values, QUANTILES).tolist())
    )


def _findings(
    overall: ExperiencePart,
    promises: Iterable[Promises],
    obligations: Iterable[Obligations],
    found: Iterable[Tension],
    fair: Iterable[Parity],
) -> Iterator[str]:
    """Say what stands out; of changes and differences those that are hardly chance."""
    if overall.trend is not None and (overall.trend.up or overall.trend.down):
        went = "rose" if overall.trend.up else "fell"
        yield f"experience {went} from {overall.trend.before:+.2f} to {overall.trend.after:+.2f} points per showing"
    if overall.points.high is not None and overall.points.high < 0.0:
        yield f"a showing leaves customers {overall.points.mean:+.2f} points on average: silence would leave them 0"
    yield from (each.words for each in found if each.clear)
    for each in fair:
        if any(value.disparate for value in each.values):
            yield from each.words
    broken = sum(each.broken for each in promises)
    if broken:
        yield f"{broken:,} promises were broken"
    still = sum(each.open for each in obligations)
    if still:
        yield f"{still:,} customers still wait for something to be made good, counted per topic"
