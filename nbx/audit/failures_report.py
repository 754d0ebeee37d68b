"""The failures report: why customers had negative experiences, where, what these cost, and which decisions are behind.

Shares are of what was shown; what was lost on the way (`nbx.audit.experienced`) is counted beside, by its cause. A
trend compares the two halves of the time that the decisions cover. Figures of one dimension add up to the whole, but
for values that are not told and segments that were not declared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nbx.audit.acceptance import Acceptance, acceptances
from nbx.audit.clustered import I64, Change, Mask, Portion, between, portion
from nbx.audit.experienced import Experienced, Group, Lived, groups, lived
from nbx.audit.signals import Signals
from nbx.catalog.model import Catalog

NEWEST, COSTLIEST = 3, 2
"""Decisions named behind a figure."""
EVIDENCE = 30
"""Kinds of evidence told, the most frequent."""


class Failures(Struct, frozen=True, kw_only=True):
    """Negative outcomes of one cause among some slots."""

    cause: str
    """Empty: all."""
    negative: Portion
    """Of what was shown."""
    lost: int
    """Not seen or not delivered, for this cause."""
    points: float
    """Sum of the customers' points, mostly < 0."""
    money: float
    """What they cost the relationship, > 0, at the exchange rate of the release that decided."""
    trend: Change | None
    """Share of what was shown, first half against second; None when nothing was shown in one of them."""
    series: tuple[int, ...]
    """Negative outcomes per bucket of the report."""
    decisions: tuple[str, ...]
    """Behind it: up to three of the newest, then up to two of the costliest others."""


class FailurePart(Struct, frozen=True, kw_only=True):
    """Failures of one action, placement, channel or segment, or overall."""

    by: str
    """`overall`, `action`, `placement`, `channel` or `segment`."""
    of: str
    """Feature of a segment; empty otherwise."""
    value: str
    shown: int
    series: tuple[int, ...]
    """Shown per bucket."""
    total: Failures
    causes: tuple[Failures, ...]
    """The costliest first."""


class RuleCount(Struct, frozen=True, kw_only=True):
    """How often a rule told the cause."""

    rule: str
    """Empty: told before rules were on record."""
    cause: str
    count: int
    """Negative or lost outcomes."""
    confidence: float
    """Mean, 0..1."""


class EvidenceCount(Struct, frozen=True, kw_only=True):
    """How often a piece of evidence was found with negative or lost outcomes."""

    evidence: str
    cause: str
    """That it stood behind."""
    count: int


class FailuresReport(Struct, frozen=True, kw_only=True):
    """What `nbx report failures` tells."""

    since_ms: int
    until_ms: int
    placement: str
    """Empty: all."""
    decisions: int
    outcomes: int
    """Slots that have one."""
    unfinished: int
    """Slots with an action and without an outcome yet."""
    corrections: int
    """Outcomes replaced by a truer one; each counts once, as it is now."""
    cut: bool
    """More decisions than `limits.REPORT_ROWS`: these are the newest."""
    split_ms: int
    """Where the two halves of trends meet."""
    bucket_ms: int
    """Width of the buckets of series."""
    starts_ms: tuple[int, ...]
    parts: tuple[FailurePart, ...]
    """Overall comes first; then by dimension, the most shown first."""
    left_out: dict[str, int]
    """Dimension, or feature of segments → values shown least, that are not told."""
    rules: tuple[RuleCount, ...]
    evidence: tuple[EvidenceCount, ...]
    acceptance: tuple[Acceptance, ...]
    """Of the actions some of whose failures are not wholly about them."""
    no_consent: int
    """Outcomes that no estimate of acceptance uses: the customer does not agree to learning."""
    signals: Signals
    """Health of what channels report, of how placements execute and of features, and how well rules find causes, as the
    learner last published it."""
    findings: tuple[str, ...]
    """What stands out, in words."""


def failures_report(kept: Experienced, catalog_of: Callable[[int], Catalog], signals: Signals) -> FailuresReport:
    """Sum up; `catalog_of` must know the releases that decided."""
    told = lived(kept, catalog_of)
    split, left_out = groups(told, catalog_of)
    causes = told.causes(np.arange(len(told.ids)))
    parts = tuple(_part(told, causes, group) for group in split)
    negative = [each for each in told.told if each.cause]
    accepted = acceptances(told)
    return FailuresReport(
        since_ms=kept.span.since_ms,
        until_ms=kept.span.until_ms,
        placement=kept.placement,
        decisions=told.decisions,
        outcomes=len(told.ids),
        unfinished=told.unfinished,
        corrections=kept.corrections,
        cut=kept.made.cut,
        split_ms=told.split_ms,
        bucket_ms=told.bucket_ms,
        starts_ms=told.starts_ms,
        parts=parts,
        left_out=left_out,
        rules=_rules((each.rule, each.cause, each.confidence) for each in negative),
        evidence=tuple(
            EvidenceCount(evidence=evidence, cause=cause, count=count)
            for (evidence, cause), count in Counter(
                (evidence, each.cause) for each in negative for evidence in each.evidence
            ).most_common(EVIDENCE)
        ),
        acceptance=accepted,
        no_consent=sum(not each.learns for each in told.told),
        signals=signals,
        findings=tuple(_findings(parts[0], accepted, signals)),
    )


def _part(told: Lived, causes: NDArray[np.str_], group: Group) -> FailurePart:
    rows = group.rows
    of = causes[rows]
    shown = told.shown[rows]
    every = _failures(told, rows, "", of != "")
    each = [_failures(told, rows, str(cause), of == cause) for cause in np.unique(of) if cause]
    return FailurePart(
        by=group.by,
        of=group.of,
        value=group.value,
        shown=int(shown.sum()),
        series=_series(told, rows[shown]),
        total=every,
        causes=tuple(sorted(each, key=lambda failures: (-failures.money, failures.cause))),
    )


def _failures(told: Lived, rows: I64, cause: str, about: Mask) -> Failures:
    """Count what of some slots is about a cause; `about` says which."""
    hit = about & told.negative[rows]
    shown = told.shown[rows]
    late = told.late[rows]
    who = told.who[rows]
    behind = rows[hit]
    early = shown & ~late
    return Failures(
        cause=cause,
        negative=portion(hit[shown], who[shown]),
        lost=int((about & ~shown).sum()),
        points=float(told.points[behind].sum()),
        money=0.0 - float(told.money[behind].sum()),
        trend=between(portion(hit[early], who[early]), portion(hit[shown & late], who[shown & late])),
        series=_series(told, behind),
        decisions=_examples(told, rows[about]) if not len(behind) else _examples(told, behind),
    )


def _series(told: Lived, rows: I64) -> tuple[int, ...]:
    return tuple(np.bincount(told.bucket[rows], minlength=len(told.starts_ms)).tolist())


def _examples(told: Lived, rows: I64) -> tuple[str, ...]:
    """Name the newest decisions, then the costliest of the others."""
    newest = dict.fromkeys(told.ids[i] for i in rows[np.argsort(told.at_ms[rows], kind="stable")[: -NEWEST - 1 : -1]])
    costly = told.costliest(rows)[: NEWEST + COSTLIEST]
    others = [name for name in dict.fromkeys(told.ids[i] for i in costly.tolist()) if name not in newest]
    return (*newest, *others[:COSTLIEST])


def _rules(fired: Iterable[tuple[str, str, float]]) -> tuple[RuleCount, ...]:
    sums: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for rule, cause, confidence in fired:
        sums[rule, cause].append(confidence)
    found = [
        RuleCount(rule=rule, cause=cause, count=len(each), confidence=sum(each) / len(each))
        for (rule, cause), each in sums.items()
    ]
    return tuple(sorted(found, key=lambda each: (-each.count, each.rule, each.cause)))


def _findings(overall: FailurePart, accepted: Iterable[Acceptance], signals: Signals) -> Iterator[str]:
    """Say what stands out; of changes those that are hardly chance."""
    total = overall.total
    if overall.causes and total.money > 0.0:
        top = overall.causes[0]
        yield (
            f"{top.cause} costs the relationship most: {top.money:,.2f} of {total.money:,.2f} "
            f"({top.money / total.money:.0%}), {top.negative.count:,} of {total.negative.count:,} negative outcomes"
        )
    for each in (total, *overall.causes):
        if each.trend is not None and (each.trend.up or each.trend.down):
            name = f"negative outcomes by {each.cause}" if each.cause else "negative outcomes"
            went = "rose" if each.trend.up else "fell"
            yield f"{name} {went} from {each.trend.before:.1%} to {each.trend.after:.1%} of what was shown"
    for one in accepted:
        if one.flagged and one.by_cause is not None:
            yield (
                f"{one.action}: {one.alike:.1%} accept when all failures are taken alike, {one.by_cause:.1%} with "
                f"causes told apart; {one.excused:,} of {one.responses:,} answers are not wholly about the action"
            )
    for health in signals.lost:
        yield f"{health.placement} lost its `seen` events: what is told of it here is no fair sample"
    for unwell in signals.execution:
        if unwell.unwell:
            shares = (
                f"{unwell.recent_ratio:.0%} of the latest prompts failed there, {unwell.usual_ratio:.0%} usually do"
            )
            yield f"{unwell.placement} does not execute well: {shares}"
    for data in signals.features:
        if data.quarantined:
            yield f"{data.feature} is in quarantine, nobody relies on it: {data.wrong:,.0f} outcomes are put down to it"
