"""A log of decisions and what became of them, written out by hand: no service made it, so its truth is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from nbx.audit.experience_report import ExperienceReport, ExperienceTally
from nbx.audit.experienced import Experienced
from nbx.audit.failures_report import FailurePart, FailuresReport, failures_report
from nbx.audit.reading import Window
from nbx.audit.signals import Signals
from nbx.catalog.model import Catalog
from nbx.experience.entries import (
    DecisionEntry,
    Entry,
    EraseEntry,
    Event,
    EventEntry,
    Outcome,
    PolicyRecord,
    Removed,
    RequestRecord,
    SlotRecord,
    TimerEntry,
)
from tests.unit.audit.worlds import EVER
from tests.worlds import NOW_MS, small_plan

CATALOG: Catalog = replace(small_plan().catalog, segments=("tier", "region"))
"""Exchange 1, loss aversion 2, the default points, two segment features."""
QUIET = Signals(step=0, placements=[])
POINTS = {"accepted": 1.0, "converted": 2.0, "declined": -0.3, "dismissed": -0.5, "ignored": -0.5, "failed": -2.0,
          "complained": -5.0, "not_seen": 0.0, "not_delivered": 0.0}  # fmt: skip
WEIGHTS = {"": 1.0, "assumption": 1.0, "information": 0.0, "execution": 0.0, "timing": 0.5, "unknown": 0.5}


def catalogs(_: int) -> Catalog:
    """Give the only catalog."""
    return CATALOG


def decided(
    decision_id: str,
    customer: str,
    at_ms: int = NOW_MS,
    actions: Sequence[str] = ("gold_card",),
    *,
    placement: str = "hero",
    segments: tuple[str, ...] = ("basic", "north"),
    holdout: str = "",
    balance: float = 0.0,
    removed: Sequence[tuple[str, str]] = (),
    **more: Any,
) -> DecisionEntry:
    """Make a decision that gave out some actions."""
    slot = SlotRecord(
        action="", treatment="t", group="", p_response=0.5, propensity=0.5, none="", implicit=False, delivery_ms=1,
        attention_ms=1, expires_at_ms=0,
    )  # fmt: skip
    groups = {action.name: action.group for action in CATALOG.actions}
    return DecisionEntry(
        customer_id=customer,
        at_ms=at_ms,
        release=1,
        decision_id=decision_id,
        snapshot=1,
        state_version=1,
        request=RequestRecord(placement=placement, slots=len(actions), context={}, exclude=(), request_id=""),
        policy=PolicyRecord(exchange=1.0, strain=0.5, scale=1.0, floor=0.01, salt="s"),
        x=b"",
        relationship={"balance": balance, "strain": 0.5},
        removed=tuple(Removed(action, reason, "") for action, reason in removed),
        actions=tuple(actions),
        treatments=("t",) * len(actions),
        factors=b"",
        none_probability=0.1,
        mandatory=(),
        shared=(),
        slots=tuple(replace(slot, action=name, group=groups[name]) for name in actions),
        holdout=holdout,
        degraded=(),
        took_us=1,
        channel="web" if placement == "hero" else "phone",
        segments=segments,
        **more,
    )


def ended(
    decision: DecisionEntry, outcome: str, cause: str = "", *, slot: int = 0, revision: int = 1, at_ms: int = 0,
    **more: Any,
) -> EventEntry:  # fmt: skip
    """Make the event by which a slot got an outcome."""
    answered = outcome not in ("not_seen", "not_delivered")
    told = Outcome(
        decision_id=decision.decision_id,
        slot=slot,
        revision=revision,
        customer_id=decision.customer_id,
        action=decision.slots[slot].action,
        group=decision.slots[slot].group,
        treatment="t",
        placement=decision.request.placement,
        outcome=outcome,  # type: ignore[arg-type]
        previous=None,
        confidence=1.0,
        cause=cause,
        evidence=more.pop("evidence", ()),
        response=(1 if outcome in ("accepted", "converted") else 0) if answered else None,
        response_weight=WEIGHTS[cause],
        experience=POINTS[outcome],
        experience_weight=1.0,
        release=1,
        at_ms=at_ms or decision.at_ms,
        x=b"",
        **{name: more.pop(name) for name in ("stakes", "learns", "rule") if name in more},
    )
    return said(decision.customer_id, outcome, at_ms or decision.at_ms, decision=decision, outcomes=(told,), **more)


def said(
    customer: str, kind: str, at_ms: int, *, decision: DecisionEntry | None = None,
    outcomes: tuple[Outcome, ...] = (), **more: Any,
) -> EventEntry:  # fmt: skip
    """Make an event."""
    about = decision.decision_id if decision is not None else ""
    event = Event(event_id="e", type=kind, customer_id=customer, decision_id=about, **more)
    return EventEntry(customer_id=customer, at_ms=at_ms, release=1, event=event, received_ms=at_ms, outcomes=outcomes)


def overdue(customer: str, at_ms: int, *what: str) -> TimerEntry:
    """Make the timer that breaks promises."""
    return TimerEntry(customer_id=customer, at_ms=at_ms, release=1, decision_id="", slot=0, kind="promise", broken=what)


def erased(customer: str, at_ms: int = NOW_MS) -> EraseEntry:
    """Make an erasure."""
    return EraseEntry(
        customer_id=customer, at_ms=at_ms, release=1, erasure_id="x", by="t", state_version=1, decisions=0, timers=0,
        replies=0, taught=(),
    )  # fmt: skip


def failures(entries: Sequence[Entry], span: Window = EVER, *, placement: str = "", bound: int = 100_000,
             catalog_of: Callable[[int], Catalog] = catalogs, signals: Signals = QUIET) -> FailuresReport:  # fmt: skip
    """Report on failures; what HTTP would carry is checked on the way."""
    kept = Experienced(span, placement, bound)
    kept.take(entries)
    report = failures_report(kept, catalog_of, signals)
    assert msgspec.json.decode(msgspec.json.encode(report), type=FailuresReport) == report
    return report


def experience(entries: Sequence[Entry], span: Window = EVER, *, placement: str = "", bound: int = 100_000,
               now_ms: int = NOW_MS, catalog: Catalog = CATALOG) -> ExperienceReport:  # fmt: skip
    """Report on experience; what HTTP would carry is checked on the way."""
    tally = ExperienceTally(span, placement, catalog, bound)
    tally.take(list(entries))
    report = tally.report(lambda _: catalog, now_ms)
    assert msgspec.json.decode(msgspec.json.encode(report), type=ExperienceReport) == report
    return report


def part(report: FailuresReport, by: str, value: str = "", of: str = "") -> FailurePart:
    """Find a part."""
    return next(each for each in report.parts if (each.by, each.of, each.value) == (by, of, value))
