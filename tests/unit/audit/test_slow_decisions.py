"""Slow decisions are told of, once a second, with their stage and without the customer."""

from __future__ import annotations

import logging

import pytest

from nbx.audit.slow_decisions import EVERY_MS, SlowDecisions
from nbx.clock import ManualClock
from nbx.decision.messages import DecideRequest
from nbx.decision.stages import Stages
from nbx.experience.entries import DecisionEntry
from tests.worlds import NOW_MS, Desk, run


def decided() -> DecisionEntry:
    """Return the record of a decision."""
    desk = Desk()
    run(desk.decisions.decide(DecideRequest(customer_id="anna-7", placement="hero")))
    (entry,) = [entry for entry in desk.log() if isinstance(entry, DecisionEntry)]
    return entry


def took(load_ms: float) -> Stages:
    """Return a watch that waited for the store."""
    stages = Stages()
    stages.attempts = 1
    stages.entered, stages.at_ns = ["load"], [0, int(load_ms * 1e6)]
    return stages


def test_a_slow_decision_is_told_with_its_stage(caplog: pytest.LogCaptureFixture) -> None:
    entry, clock = decided(), ManualClock(NOW_MS)
    slow = SlowDecisions(25, clock)
    with caplog.at_level(logging.WARNING, "nbx.slow"):
        slow.observe(entry, took(24.0))
        assert not caplog.records
        for _ in range(5):
            slow.observe(entry, took(60.0))
        assert len(caplog.records) == 1
        clock.advance(EVERY_MS)
        slow.observe(entry, took(61.0))
    first, second = (record.getMessage() for record in caplog.records)
    assert f"slow decision {entry.decision_id}: 60" in first
    assert "most of it in load" in first
    assert "4 more" in second
    assert "anna-7" not in first + second


def test_nothing_is_told_when_it_is_off(caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowDecisions(0, ManualClock(NOW_MS))
    with caplog.at_level(logging.WARNING, "nbx.slow"):
        slow.observe(decided(), took(1e4))
    assert not caplog.records
