"""What every process counts, for Prometheus and the console.

With PROMETHEUS_MULTIPROC_DIR set (as `nbx up` does) the values of all processes on a machine live in files of that
directory and any process can tell the sum; without it each tells its own.
"""

from __future__ import annotations

import os
from functools import lru_cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from nbx.experience.entries import DecisionEntry, Outcome
from nbx.limits import MONEY_PARTS

LATENCY_S = (
    0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.016, 0.025, 0.035, 0.05, 0.075, 0.1, 0.25, 1.0,
)  # fmt: skip
"""Buckets of decide latency, seconds: fine where the deadline is, coarse beyond."""

DECISIONS = Counter("nbx_decisions_total", "Decisions answered, by placement and result", ["placement", "result"])
DECIDE_SECONDS = Histogram("nbx_decide_seconds", "From the request to the commit", buckets=LATENCY_S)
EVENTS = Counter("nbx_events_total", "Events received, by what became of them", ["status"])
SHOWN = Counter("nbx_slots_total", "Slots filled, by action", ["action"])
SPENT = Counter("nbx_budget_spent_total", "Units or money that decisions took from budgets", ["resource"])
OUTCOMES = Counter(
    "nbx_outcomes_total",
    "Terminal outcomes, by action, outcome and cause; corrections move",
    ["action", "outcome", "cause"],
)
CORRECTIONS = Counter("nbx_corrections_total", "Outcomes replaced by a truer one", ["previous", "outcome"])
STRAIN = Histogram("nbx_strain", "Strain of the customers decided for", buckets=tuple(i / 10 for i in range(1, 11)))
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

_decisions = lru_cache(maxsize=4096)(DECISIONS.labels)
_shown = lru_cache(maxsize=4096)(SHOWN.labels)
_spent = lru_cache(maxsize=4096)(SPENT.labels)
_outcomes = lru_cache(maxsize=16_384)(OUTCOMES.labels)


def observe_decision(entry: DecisionEntry, took_s: float) -> None:
    """Count a decision that took so many seconds, its commit included."""
    result = "none"
    for slot in entry.slots:
        if slot.action:
            result = "action"
            _shown(slot.action).inc()
    _decisions(entry.request.placement, "degraded" if entry.degraded else result).inc()
    for each in entry.spent:
        parts = MONEY_PARTS if each.resource.endswith("/money") else 1
        _spent(each.resource).inc(each.amount / parts)
    DECIDE_SECONDS.observe(took_s)
    if entry.relationship:
        STRAIN.observe(entry.relationship["strain"])


def observe_outcome(outcome: Outcome) -> None:
    """Count a terminal outcome or its correction."""
    if outcome.previous is None:
        _outcomes(outcome.action, outcome.outcome, outcome.cause).inc()
    else:
        CORRECTIONS.labels(outcome.previous, outcome.outcome).inc()
        _outcomes(outcome.action, outcome.outcome, outcome.cause).inc()


def registry() -> CollectorRegistry:
    """Return the registry that knows all processes of this machine."""
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
