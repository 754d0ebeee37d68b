"""What every process counts, for Prometheus and the console.

With PROMETHEUS_MULTIPROC_DIR set (as `nbx up` does) the values of all processes on a machine live in files of that
directory and any process can tell the sum; without it each tells its own.

What is counted per decision is only noted, and counted by `flush` for many at once (5 µs instead of 11): before anybody
in this process looks, and some times a second for the others.
"""

from __future__ import annotations

import os
from collections import Counter as Tally
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from nbx.decision.stages import STAGES, Stages
from nbx.experience.entries import DecisionEntry, Outcome
from nbx.limits import MONEY_PARTS

LATENCY_S = (
    0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.016, 0.025, 0.035, 0.05, 0.075, 0.1, 0.25, 1.0,
)  # fmt: skip
"""Buckets of decide latency, seconds: fine where the deadline is, coarse beyond."""

STAGE_S = (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Buckets of the time in one stage, seconds: half decades from what building a record takes."""

STRAINS = tuple(i / 10 for i in range(1, 11))

TOGETHER = 256
"""Decisions that are counted together."""
_STRAIGHT = list(STAGES)
"""What a decision without a conflict passes through."""

DECISIONS = Counter("nbx_decisions_total", "Decisions answered, by placement and result", ["placement", "result"])
DECIDE_SECONDS = Histogram("nbx_decide_seconds", "From the request to the commit", buckets=LATENCY_S)
STAGE_SECONDS = Histogram(
    "nbx_decide_stage_seconds", "Parts of nbx_decide_seconds: check, load, choose, record, commit", ["stage"],
    buckets=STAGE_S,
)  # fmt: skip
SLOW = Counter(
    "nbx_slow_decisions_total", "Decisions that took slow_ms and longer, by the stage that took most", ["stage"]
)
EVENTS = Counter("nbx_events_total", "Events received, by what became of them", ["status"])
SHOWN = Counter("nbx_slots_total", "Slots filled, by action", ["action"])
SPENT = Counter("nbx_budget_spent_total", "Units or money that decisions took from budgets", ["resource"])
OUTCOMES = Counter(
    "nbx_outcomes_total",
    "Terminal outcomes, by action, outcome and cause; corrections move",
    ["action", "outcome", "cause"],
)
CORRECTIONS = Counter("nbx_corrections_total", "Outcomes replaced by a truer one", ["previous", "outcome"])
STRAIN = Histogram("nbx_strain", "Strain of the customers decided for", buckets=STRAINS)
ERRORS = Counter("nbx_errors_total", "Calls answered with an error, by code", ["code"])
LEARNED = Counter("nbx_learned_total", "Outcomes learned from")
SNAPSHOT = Gauge("nbx_snapshot_version", "Version of the model snapshot last published", multiprocess_mode="max")
EXPLORATION = Gauge(
    "nbx_exploration_scale", "Calibrated scale of exploration, posterior standard deviations",
    multiprocess_mode="mostrecent",
)  # fmt: skip
HALF_LIFE = Gauge(
    "nbx_half_life", "Calibrated half-life of evidence, observations of an action; +Inf: nothing is forgotten",
    multiprocess_mode="mostrecent",
)  # fmt: skip
CHANGES = Gauge(
    "nbx_changes", "How often the memory of an action was cut because its answers changed", ["action"],
    multiprocess_mode="mostrecent",
)  # fmt: skip
LEARNER_LAG_S = Gauge(
    "nbx_learner_lag_seconds", "Age of the last outcome learned, when it was learned", multiprocess_mode="max"
)
SIGNAL_LOST = Gauge(
    "nbx_signal_lost", "1 while a placement lost its `seen` events and teaches nothing", ["placement"],
    multiprocess_mode="mostrecent",
)  # fmt: skip
SIGNAL_SEEN_RATIO = Gauge(
    "nbx_signal_seen_ratio", "Share of some 20 latest answers with a reported `seen`", ["placement"],
    multiprocess_mode="mostrecent",
)  # fmt: skip
PLACEMENT_UNWELL = Gauge(
    "nbx_placement_unwell", "1 while far more prompts of a placement fail in execution than usual", ["placement"],
    multiprocess_mode="mostrecent",
)  # fmt: skip
EXECUTION_RATIO = Gauge(
    "nbx_execution_failed_ratio", "Share of some 50 latest prompts that failed in execution", ["placement"],
    multiprocess_mode="mostrecent",
)  # fmt: skip
FEATURE_QUARANTINED = Gauge(
    "nbx_feature_quarantined", "1 while nobody relies on a feature that was too often stale or wrong", ["feature"],
    multiprocess_mode="mostrecent",
)  # fmt: skip
NOT_TAUGHT = Counter(
    "nbx_not_taught_total",
    "Outcomes that taught less than their cause allows: exposure not reported (unseen), paused, no_consent",
    ["placement", "reason"],
)
TIMERS = Counter("nbx_timers_total", "Timers run")
ARCHIVED = Counter("nbx_archived_rows_total", "Rows written to the archive")
TRIMMED = Counter("nbx_trimmed_entries_total", "Entries trimmed from the streams once they were archived")
ARCHIVE_BEHIND_S = Gauge(
    "nbx_archive_behind_seconds", "Age of the oldest entry that is not archived", multiprocess_mode="mostrecent"
)
ARCHIVE_BEHIND_ROWS = Gauge("nbx_archive_behind_rows", "Entries that are not archived", multiprocess_mode="mostrecent")
ARCHIVE_FAILING = Gauge("nbx_archive_failing", "1 while the archive cannot be written", multiprocess_mode="mostrecent")
REDIS_FULL_RATIO = Gauge(
    "nbx_redis_full_ratio", "Share of its maxmemory that Redis uses; 0 without a limit", multiprocess_mode="mostrecent"
)


_spent = lru_cache(maxsize=4096)(SPENT.labels)
_outcomes = lru_cache(maxsize=16_384)(OUTCOMES.labels)
_untold: list[tuple[DecisionEntry, Stages]] = []


def observe_decision(entry: DecisionEntry, stages: Stages) -> int:
    """Note a decision, and where its time went, for `flush` to count; returns the nanoseconds it took."""
    took_ns = stages.stop()
    _untold.append((entry, stages))
    if len(_untold) >= TOGETHER:
        flush()
    return took_ns


def flush() -> None:
    """Count what `observe_decision` noted; to be called from the thread that decides."""
    if not _untold:
        return
    untold = _untold.copy()
    _untold.clear()
    for action, count in Tally(slot.action for entry, _ in untold for slot in entry.slots if slot.action).items():
        SHOWN.labels(action).inc(count)
    for labels, count in Tally((entry.request.placement, _result(entry)) for entry, _ in untold).items():
        DECISIONS.labels(*labels).inc(count)
    for each in [each for entry, _ in untold for each in entry.spent]:
        parts = MONEY_PARTS if each.resource.endswith("/money") else 1
        _spent(each.resource).inc(each.amount / parts)
    straight = [stages.at_ns for _, stages in untold if stages.entered == _STRAIGHT]
    spent = np.diff(np.array(straight, dtype=np.int64).reshape(-1, len(STAGES) + 1))
    others = [list(stages.ns.values()) for _, stages in untold if stages.entered != _STRAIGHT]
    spent = np.concatenate([spent, np.array(others, dtype=np.int64).reshape(-1, len(STAGES))])
    for stage, ns in zip(STAGES, spent.T, strict=True):
        _observe_all(STAGE_SECONDS.labels(stage), STAGE_S, ns / 1e9)
    _observe_all(DECIDE_SECONDS, LATENCY_S, spent.sum(axis=1) / 1e9)
    strains = [entry.relationship["strain"] for entry, _ in untold if entry.relationship]
    _observe_all(STRAIN, STRAINS, np.array(strains, dtype=np.float64))


def _result(entry: DecisionEntry) -> str:
    if entry.degraded:
        return "degraded"
    return "action" if any(slot.action for slot in entry.slots) else "none"


def _observe_all(histogram: Histogram, bounds: tuple[float, ...], values: NDArray[np.float64]) -> None:
    """Tell a histogram values; its own `observe` takes one at a time."""
    counts = np.bincount(np.searchsorted(bounds, values), minlength=len(bounds) + 1)
    for bucket, count in zip(histogram._buckets, counts.tolist(), strict=True):  # noqa: SLF001
        if count:
            bucket.inc(count)
    histogram._sum.inc(float(values.sum()))  # noqa: SLF001


def observe_outcome(outcome: Outcome) -> None:
    """Count a terminal outcome or its correction."""
    if outcome.previous is None:
        _outcomes(outcome.action, outcome.outcome, outcome.cause).inc()
    else:
        CORRECTIONS.labels(outcome.previous, outcome.outcome).inc()
        _outcomes(outcome.action, outcome.outcome, outcome.cause).inc()


def registry() -> CollectorRegistry:
    """Return the registry that knows all processes of this machine, this one up to now."""
    flush()
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    summed = CollectorRegistry()
    MultiProcessCollector(summed)  # type: ignore[no-untyped-call]
    return summed


def exposition() -> bytes:
    """Return the text Prometheus scrapes."""
    return generate_latest(registry())


def totals() -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return every sample by its name: (labels, value) pairs."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in registry().collect():
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), float(sample.value)))
    return found
