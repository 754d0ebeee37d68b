"""Quarantine of features: its limit, its least evidence, its end, and what corrections move."""

from __future__ import annotations

import numpy as np

from nbx.bandits.quarantine import ERRORS, LIMIT, RECENT, REST_MS, Trust


def lived(trust: Trust, share: float, prompts: int, seed: int = 1, *, used: bool = True) -> list[int]:
    """Take prompts in, a share of them with a stale value; returns after how many something changed."""
    rng, changes = np.random.default_rng(seed), []
    for n in range(prompts):
        before, stale = trust.quarantined, bool(rng.random() < share)
        trust.take(used=used, wrong=stale and used, doubtful=stale, at_ms=n)
        changes += [n] if trust.quarantined != before else []
    return changes


def test_past_the_limit_and_not_below_it() -> None:
    assert lived(Trust(), 0.2, 5_000) == [], "below the limit"
    trust = Trust()
    lived(trust, 0.02, 2_000)
    (at,) = lived(trust, 0.6, 600)
    assert trust.quarantined
    assert at > ERRORS / 0.6 - 1
    few = Trust()
    assert lived(few, 1.0, int(ERRORS) - 1) == []


def test_it_ends_by_itself_when_values_are_good_again_and_not_before() -> None:
    trust = Trust()
    assert len(lived(trust, 0.6, 200)) == 1
    assert lived(trust, 0.6, 2_000, used=False) == [], "as stale as before, though nobody relies on it"
    assert lived(trust, LIMIT * 0.8, 500, used=False) == [], "below the limit is not below half of it"
    (at,) = lived(trust, 0.0, 500, used=False)
    assert at < 2 * RECENT
    assert trust.wrong == 0.0, "a new start"
    assert lived(trust, 0.1, 500) == []


def test_what_nobody_hears_of_is_tried_again() -> None:
    trust = Trust()
    lived(trust, 1.0, 100)
    heard = trust.heard_ms
    trust.rest(heard + REST_MS)
    assert trust.quarantined
    trust.rest(heard + REST_MS + 1)
    assert not trust.quarantined


def test_a_late_truth_moves_what_was_counted() -> None:
    trust = Trust()
    for n in range(50):
        trust.take(used=True, wrong=False, doubtful=False, at_ms=n)
    for n in range(40):
        trust.correct(wrong=1, doubtful=1, at_ms=100 + n)
    assert trust.quarantined
    other = Trust()
    other.take(used=True, wrong=True, doubtful=True, at_ms=1)
    other.correct(wrong=-1, doubtful=-1, at_ms=2)
    assert (other.wrong, other.recent) == (0.0, 0.0)
