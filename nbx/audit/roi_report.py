"""Return on experience: what nbx earned and did to customers, against silence and against chance.

All figures are of customers whose time is over (`nbx.audit.roi_tally`), each with everything it had in it, also where
nothing was shown: arms differ by the hash alone, so a difference is an effect. *Value* is money of acceptances as
reported, or as the release declared that decided. *Experience* is points at the exchange rate, as charged (loss
aversion, stakes). *Total* is their sum, and the one metric of which a verdict is told: the more metrics are looked at,
the more likely is it that one of their sequences errs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from nbx.audit.clustered import F64, Mask
from nbx.audit.roi_tally import ARMS, CAUSES, Counted, ReturnTally
from nbx.audit.sequential import Lift, against_shares, lift
from nbx.catalog.model import Holdout
from nbx.catalog.time_words import duration, moment

DAY_MS = 86_400_000
SKEWED = 1_000.0
"""Evidence against the shares from which on a comparison is called doubtful: a false alarm in 1,000 installations."""
PER = ("customer", "decision")
METRICS = ("total", "value", "experience", "acceptance", "points", "lost", "goals", "visits")
"""Value and experience in money; both apart; acceptances; points; money that negative outcomes cost (less is better);
goals reached, per goal whose outcome is known; decisions."""


class Arm(Struct, frozen=True, kw_only=True):
    """The counted customers of an arm; means are per customer."""

    arm: str
    """`nbx`, `silent` or `random`."""
    share: float
    """0..1, of customers, as declared."""
    customers: int
    decisions: int
    degraded: int
    """Decisions without state or model: they count, as whoever asked got them."""
    otherwise: int
    """Decisions made as of another arm, after a merge or a change of shares: they count in this one."""
    value: float | None
    """None without customers, likewise below."""
    experience: float | None
    lost: dict[str, float]
    """Cause → money that negative outcomes cost."""


class MetricLift(Struct, frozen=True, kw_only=True):
    """Difference between nbx and a holdout in one metric."""

    metric: str
    """One of `METRICS`."""
    per: str
    """`customer` or `decision`; of goals: per goal."""
    told: str
    """`up`, `down`, or `open` while the sequence does not exclude 0."""
    lift: Lift


class Payback(Struct, frozen=True, kw_only=True):
    """What the difference is worth; amounts of money."""

    saved: float
    """Less lost by negative outcomes than under the reference, over nbx's counted customers: −lift × customers."""
    saved_low: float | None
    """Ends of the confidence sequence, likewise below."""
    saved_high: float | None
    value_per_loss: float | None
    """Value that nbx's acceptances brought per money that its negative outcomes cost; None when these cost nothing."""
    reference_value_per_loss: float | None
    extra_value_per_loss: float | None
    """Value gained per money of additional negative experience: lift of value / lift of lost. None while it is not told
    that nbx costs more of it: there is nothing to pay back."""
    holdout_per_day: float | None
    """What holding out costs a day: lift of total × customers of the holdout met per day. Below 0: it earns."""
    holdout_per_day_low: float | None
    holdout_per_day_high: float | None
    paid_back_days: float | None
    """Days of nbx's gain that holding out has cost so far: days × customers of the holdout / of nbx. None while nbx is
    not told to be better."""


class Comparison(Struct, frozen=True, kw_only=True):
    """Nbx against a holdout."""

    against: str
    """`silent` or `random`."""
    verdict: str
    """`better`, `worse` or `open`, of total per customer."""
    words: str
    metrics: tuple[MetricLift, ...]
    """The first is that of the verdict."""
    payback: Payback


class ReturnReport(Struct, frozen=True, kw_only=True):
    """What `nbx report roi` tells."""

    since_ms: int
    until_ms: int
    placement: str
    """Empty: all."""
    shares_since_ms: int
    """When the shares in force came into force."""
    follow_ms: int
    settle_ms: int
    decisions: int
    """Of the window, of everybody."""
    customers: int
    """Counted: their time is over."""
    followed: int
    """Met, their time still runs."""
    next_ms: int
    """When the next of them will be counted; 0: there is none."""
    other_shares: int
    """Customers met while other shares were in force: not counted."""
    erased: int
    """Customers met and erased since: not counted."""
    merged: int
    """Ids met that were merged since: each counts in the arm of its own hash."""
    cut_ms: int
    """From here on nobody new was met: more than a report keeps. 0: all."""
    shares_evidence: float | None
    """Against customers being in arms by the shares, an e-value; None where there is one arm."""
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    findings: tuple[str, ...]


def shares_of(policy: Holdout) -> tuple[float, float, float]:
    """Return the shares of `ARMS`; where holdouts overlap silence wins.

    Examples
    --------
    >>> shares_of(Holdout(silent=0.25, random=0.5)), shares_of(Holdout(silent=0.75, random=0.5))
    ((0.25, 0.25, 0.5), (0.0, 0.75, 0.25))
    """
    silent = policy.silent
    chance = min(policy.random, 1.0 - silent)
    return max(1.0 - silent - chance, 0.0), silent, chance


def return_report(tally: ReturnTally, now_ms: int, shares_since_ms: int, *, moving: bool) -> ReturnReport:
    """Sum up; `moving` says that the window begins at a time told relative to now."""
    terms, told = tally.terms, tally.counted(now_ms)
    followed, next_ms = tally.still_followed(now_ms)
    shares = shares_of(terms.shares)
    arms = tuple(_arm(told, k, share) for k, share in enumerate(shares))
    days = float(told.first_ms[-1] - told.first_ms[0]) / DAY_MS if len(told.first_ms) > 1 else 0.0
    report = ReturnReport(
        since_ms=terms.span.since_ms,
        until_ms=terms.span.until_ms,
        placement=terms.placement,
        shares_since_ms=shares_since_ms,
        follow_ms=terms.follow_ms,
        settle_ms=terms.settle_ms,
        decisions=tally.decisions,
        customers=len(told.arm),
        followed=followed,
        next_ms=next_ms,
        other_shares=tally.passed_over,
        erased=tally.erased,
        merged=tally.merged,
        cut_ms=tally.cut_ms,
        shares_evidence=_evidence(arms),
        arms=arms,
        comparisons=tuple(
            _compare(told, k, arms, days) for k in (1, 2) if arms[0].customers and arms[k].customers and shares[k] > 0.0
        ),
        findings=(),
    )
    return _with_findings(report, moving=moving)


def _arm(told: Counted, number: int, share: float) -> Arm:
    here = told.arm == number
    customers = int(here.sum())

    def total(name: str) -> float:
        return float(told.column(name)[here].sum())

    return Arm(
        arm=ARMS[number],
        share=share,
        customers=customers,
        decisions=round(total("visits")),
        degraded=round(total("degraded")),
        otherwise=round(total("otherwise")),
        value=total("value") / customers if customers else None,
        experience=total("money") / customers if customers else None,
        lost={cause: lost / customers for cause in CAUSES if customers and (lost := total(cause)) > 0.0},
    )


def _evidence(arms: tuple[Arm, ...]) -> float | None:
    there = [arm for arm in arms if arm.share > 0.0]
    if len(there) < 2 or not sum(arm.customers for arm in there):
        return None
    counts = np.array([arm.customers for arm in there], dtype=np.int64)
    return against_shares(counts, np.array([arm.share for arm in there]))


def columns(told: Counted) -> Iterator[tuple[str, str, F64, F64]]:
    """Yield each metric, per what it is told, its values and its denominators, that of the verdict first."""
    visits, one = told.column("visits"), np.ones(len(told.arm))
    lost: F64 = np.sum([told.column(cause) for cause in CAUSES], axis=0)
    of = {
        "total": told.column("value") + told.column("money"),
        "value": told.column("value"),
        "experience": told.column("money"),
        "acceptance": told.column("accepted"),
        "points": told.column("points"),
        "lost": lost,
        "goals": told.column("goals"),
        "visits": visits,
    }
    awaited = told.column("goals_awaited")
    for per, under in zip(PER, (one, visits), strict=True):
        for metric in METRICS:
            if metric == "goals" and not awaited.any():
                continue
            if metric != "visits" or per == "customer":
                yield metric, per, of[metric], awaited if metric == "goals" and per == "decision" else under


def _compare(told: Counted, number: int, arms: tuple[Arm, ...], days: float) -> Comparison:
    first, second = told.arm == 0, told.arm == number
    metrics = tuple(_metric(metric, per, lift(y, d, first, second)) for metric, per, y, d in columns(told))
    found = {(each.metric, each.per): each.lift for each in metrics}
    total = metrics[0]
    verdict = {"up": "better", "down": "worse", "open": "open"}[total.told]
    return Comparison(
        against=ARMS[number],
        verdict=verdict,
        words=_verdict(verdict, ARMS[number], total.lift, _daily(first | second, days)),
        metrics=metrics,
        payback=_payback(found, arms[0], arms[number], days),
    )


def _metric(metric: str, per: str, found: Lift) -> MetricLift:
    return MetricLift(metric=metric, per=per, told=found.told, lift=found)


def _daily(of: Mask, days: float) -> float | None:
    return float(of.sum()) / days if days > 0.0 else None


def _verdict(verdict: str, against: str, total: Lift, daily: float | None) -> str:
    other = {"silent": "silence", "random": "chance"}[against]
    if total.lift is None or total.low is None or total.high is None:
        return f"nbx against {other}: cannot be told yet, too few customers were held out or did anything"
    bounds = f"{total.lift:+,.4g} of money per customer, between {total.low:+,.4g} and {total.high:+,.4g}"
    if verdict != "open":
        return f"nbx is {verdict} than {other}: {bounds} (95 % over all looks)"
    if total.more is None:
        return f"nbx against {other}: cannot be told yet ({bounds}), and a hundred times as many customers would not do"
    when = f", some {total.more / daily:,.0f} days" if daily and total.more > daily else ""
    return f"nbx against {other}: cannot be told yet ({bounds}); it takes about {total.more:,} customers more{when}"


def _payback(found: dict[tuple[str, str], Lift], nbx: Arm, other: Arm, days: float) -> Payback:
    total, value, lost = (found[metric, "customer"] for metric in ("total", "value", "lost"))
    assert total.lift is not None
    assert value.lift is not None
    assert lost.lift is not None
    held = other.customers / days if days > 0.0 else None
    return Payback(
        saved=0.0 - lost.lift * nbx.customers,
        saved_low=None if lost.high is None else 0.0 - lost.high * nbx.customers,
        saved_high=None if lost.low is None else 0.0 - lost.low * nbx.customers,
        value_per_loss=_ratio(value.first, lost.first),
        reference_value_per_loss=_ratio(value.second, lost.second),
        extra_value_per_loss=_ratio(value.lift, lost.lift) if lost.told == "up" else None,
        holdout_per_day=None if held is None else total.lift * held,
        holdout_per_day_low=None if held is None or total.low is None else total.low * held,
        holdout_per_day_high=None if held is None or total.high is None else total.high * held,
        paid_back_days=days * other.customers / nbx.customers if days > 0.0 and total.told == "up" else None,
    )


def _ratio(value: float | None, lost: float | None) -> float | None:
    return None if value is None or lost is None or lost <= 0.0 else value / lost


def _with_findings(report: ReturnReport, *, moving: bool) -> ReturnReport:
    return replace(report, findings=(*_about(report), *_doubts(report, moving=moving)))


def _about(report: ReturnReport) -> Iterable[str]:
    """Say what the answer is, or why there is none."""
    yield from (each.words for each in report.comparisons)
    where = f" on {report.placement}" if report.placement else ""
    shares = {arm.arm: arm.share for arm in report.arms}
    if not shares["silent"] and not shares["random"]:
        yield "nobody is held out: give the catalog `holdout: {silent: 0.02, random: 0.02}` to have a comparison"
    elif not shares["nbx"]:
        yield "everybody is held out: there is nothing of nbx to compare"
    elif not report.decisions:
        yield f"no decision was made{where} in the window: there is nothing to compare"
    elif not report.customers and report.followed:
        yield (
            f"nobody is counted yet: each of {report.followed:,} customers is followed for "
            f"{duration(report.follow_ms)}, the first until {moment(report.next_ms // 1000 * 1000)}; "
            "a shorter `follow` tells earlier"
        )
    elif not report.customers:
        left = f"{report.other_shares:,} customers were met under other shares, {report.erased:,} erased"
        yield f"nobody is counted: {left}"
    else:
        for arm in report.arms:
            if arm.share > 0.0 and not arm.customers:
                expected = arm.share * report.customers
                there = f"of {report.customers:,} one expects {expected:,.1f}"
                yield f"no customer is in arm {arm.arm} (share {arm.share:.2%}): {there}"


def _doubts(report: ReturnReport, *, moving: bool) -> Iterable[str]:
    """Say what the answer rests on that may not hold."""
    if report.shares_evidence is not None and report.shares_evidence > SKEWED:
        counts = ", ".join(f"{arm.customers:,} {arm.arm} for {arm.share:.2%}" for arm in report.arms)
        yield f"do not trust the comparison: customers are not in arms by their shares ({counts}): what chose them?"
    if report.comparisons and moving:
        yield "looking again is safe with a fixed `since`: this one moves with the clock, so each report begins anew"
    if report.comparisons and report.since_ms > report.shares_since_ms + DAY_MS:
        yield (
            "customers were held out before `since`: counted are those who came back, and that may be nbx's doing; "
            "without `since` the window begins with the shares in force"
        )
    if report.cut_ms:
        when = moment(report.cut_ms // 1000 * 1000)
        yield f"more customers than a report keeps: who was first met after {when} is not in it; give a later `since`"
    lost = sum(arm.degraded for arm in report.arms), sum(arm.decisions for arm in report.arms)
    if lost[0]:
        yield f"{lost[0]:,} of {lost[1]:,} decisions were degraded: they count, and pull nbx towards the default"
    otherwise = sum(arm.otherwise for arm in report.arms)
    if otherwise:
        why = "merges, changed shares"
        yield f"{otherwise:,} decisions were made as of another arm than the hash's ({why}): effects are told too small"
