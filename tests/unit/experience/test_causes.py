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


@pytest.mark.parametrize(
    ("outcome", "evidence", "expected"),
    [
        ("declined", ("page_errors",), ("execution", "page_errors")),
        ("ignored", ("not_viewable",), ("execution", "not_viewable")),
        ("failed", ("stale:tier",), ("information", "stale")),
        ("declined", ("concern_open",), ("timing", "concern_open")),
        ("declined", ("corrected:age", "page_errors"), ("unknown", "")),
        ("declined", ("after_expiry", "slow_render", "stale:tier"), ("execution", "after_expiry")),
        ("declined", ("aside:age",), ("assumption", "seen")),
        ("not_seen", ("stale:tier",), ("unknown", "")),
        ("not_seen", ("late_delivery", "stale:tier"), ("execution", "late_delivery")),
    ],
)
def test_evidence_speaks_where_nobody_did(
    outcome: OutcomeName, evidence: tuple[str, ...], expected: tuple[str, str]
) -> None:
    found = diagnose(outcome, cause="", reason="", seen=True, evidence=evidence)
    assert (found.cause, found.rule) == expected
    assert (found.confidence >= 0.5) == (found.cause != "unknown")
    told = diagnose(outcome, cause="", reason="busy", seen=True, evidence=evidence)
    assert (told.cause, told.rule, told.evidence[0]) == ("timing", "reason_code", "reason=busy"), "but said is said"
    assert diagnose(outcome, cause="assumption", reason="busy", seen=True, evidence=evidence).rule == "explicit_cause"


@pytest.mark.parametrize(
    "evidence", [("page_errors",), ("stale:tier",), ("concern_open",), ("corrected:a", "degraded")]
)
def test_evidence_that_does_not_depend_on_the_answer_weighs_a_yes_like_a_no(evidence: tuple[str, ...]) -> None:
    yes = diagnose("accepted", cause="", reason="", seen=True, evidence=evidence)
    no = diagnose("declined", cause="", reason="", seen=True, evidence=evidence)
    assert yes.evidence == evidence
    assert yes.admission == no.response_weight < 1.0
    said = diagnose("declined", cause="assumption", reason="", seen=True, evidence=evidence)
    assert said.response_weight == yes.admission, "whoever told a cause"
    assert diagnose("accepted", cause="", reason="", seen=True, evidence=("named:tier",)).evidence == ()
