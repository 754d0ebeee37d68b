"""Causes: explicit before reasons before the life cycle before `unknown`; the routing is the table of the design."""

from __future__ import annotations

import pytest

from nbx.catalog.model import OutcomeName
from nbx.experience.causes import CAUSES, REASONS, ROUTES, diagnose, response_of


@pytest.mark.parametrize(
    ("outcome", "cause", "reason", "seen", "expected"),
    [
        ("accepted", "execution", "page_error", True, ""),
        ("failed", "information", "page_error", True, "information"),
        ("failed", "", "page_error", True, "execution"),
        ("failed", "", "no idea", True, "unknown"),
        ("declined", "", "", True, "assumption"),
        ("declined", "", "", False, "unknown"),
        ("ignored", "", "", True, "assumption"),
        ("not_delivered", "", "", False, "unknown"),
        ("declined", "", "busy", True, "timing"),
    ],
)
def test_precedence(outcome: OutcomeName, cause: str, reason: str, seen: bool, expected: str) -> None:
    diagnosis = diagnose(outcome, cause=cause, reason=reason, seen=seen)
    assert diagnosis.cause == expected
    assert bool(diagnosis.evidence) == (expected not in ("", "unknown"))


def test_every_cause_has_a_route_and_every_reason_a_cause() -> None:
    assert set(ROUTES) == {"", *CAUSES}
    assert set(REASONS.values()) <= set(CAUSES)


def test_what_may_lower_an_action() -> None:
    assert ROUTES["execution"] == (0.0, 0.0)
    assert ROUTES["information"] == (0.0, 1.0)
    assert ROUTES["assumption"] == (1.0, 1.0)
    assert ROUTES["timing"].response == 0.5


def test_a_failure_after_yes_stays_a_yes() -> None:
    assert response_of("failed", accepted=True) == 1
    assert response_of("failed", accepted=False) == 0
    assert response_of("not_seen", accepted=False) is None
