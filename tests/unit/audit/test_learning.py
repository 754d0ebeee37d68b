"""The learning report against counting by hand."""

from __future__ import annotations

import math
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from nbx.audit.learning import LearningReport, Use, auc, calibration
from nbx.audit.reading import Window
from nbx.audit.tables import show_learning
from nbx.experience.entries import DecisionEntry
from tests.unit.audit.worlds import busy_desk, decide_shown, learning
from tests.worlds import DAY_MS, Desk, run


def test_calibration_is_that_of_counting_and_does_not_mind_the_order() -> None:
    rng = np.random.default_rng(5)
    p = rng.beta(1, 6, 4_000).round(3)
    y = (rng.random(4_000) < np.minimum(1.5 * p, 1.0)).astype(np.float64)
    told = calibration("a", "g", p, y, np.ones(4_000))
    assert sum(each.count for each in told.bins) == told.count == 4_000
    assert all(300 < each.count < 500 for each in told.bins), "equally many in each"
    error = 0.0
    for each in told.bins:
        inside = (p >= each.low) & (p <= each.high)
        assert int(inside.sum()) == each.count, "equal predictions lie in one bin"
        assert each.predicted == pytest.approx(p[inside].mean())
        assert each.observed == pytest.approx(y[inside].mean())
        error += each.count / 4_000 * abs(p[inside].mean() - y[inside].mean())
    assert told.error == pytest.approx(error)
    assert told.observed_low < told.observed < told.observed_high
    half = 1.96 * math.sqrt(told.observed * (1 - told.observed) / 4_000)
    assert told.observed_high - told.observed == pytest.approx(half, rel=0.05)
    order = rng.permutation(4_000)
    again = calibration("a", "g", p[order], y[order], np.ones(4_000))
    assert again.error == pytest.approx(told.error)


def test_weights_count_as_so_much_of_an_observation() -> None:
    p, y = np.array([0.2, 0.2, 0.2]), np.array([1.0, 0.0, 0.0])
    told = calibration("", "", p, y, np.array([1.0, 0.5, 0.5]))
    assert told.observed == pytest.approx(0.5)
    assert told.count == 3


def test_auc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(2)
    p = rng.random(60).round(1)
    y, w = (rng.random(60) < p).astype(np.float64), rng.random(60)
    pairs = [(i, j) for i in range(60) for j in range(60) if y[i] == 1 and y[j] == 0]
    right = sum(w[i] * w[j] * ((p[i] > p[j]) + 0.5 * (p[i] == p[j])) for i, j in pairs)
    assert auc(p, y, w) == pytest.approx(right / sum(w[i] * w[j] for i, j in pairs))
    assert auc(p, np.ones(60), w) is None


def test_the_report_counts_what_happened() -> None:
    desk = busy_desk(150, slots=2)
    report = learning(desk).report()
    entries = [entry for entry in desk.log() if isinstance(entry, DecisionEntry)]
    shown = [slot for entry in entries for slot in entry.slots if slot.action]
    assert (report.decisions, report.slots, report.open_slots, report.cut) == (150, len(shown), 0, False)
    last = {(o.decision_id, o.slot): o for o in desk.observed}
    assert sum(use.count for use in report.uses) == len(last) == len(shown)
    accepted = sum(o.outcome == "accepted" for o in last.values())
    assert Use(outcome="accepted", cause="", use="learned", count=accepted) in report.uses
    assert report.calibration is not None
    assert report.calibration.count == len(shown)
    assert report.calibration.observed == pytest.approx(accepted / len(shown))
    assert report.calibration.predicted == pytest.approx(0.5), "nothing was learned: the prior"
    assert report.log_loss == pytest.approx(math.log(2))
    assert report.base_log_loss is not None
    assert report.base_log_loss < math.log(2)
    by_action = {each.action: each for each in report.actions}
    for name, each in by_action.items():
        of = [o for o in last.values() if o.action == name]
        assert (each.count, each.group) == (len(of), of[0].group)
        assert each.observed == pytest.approx(sum(o.outcome == "accepted" for o in of) / len(of))


def test_exploration_is_what_was_not_the_best() -> None:
    desk = busy_desk(200)
    report = learning(desk).report()
    assert report.exploration is not None
    entries = [entry for entry in desk.log() if isinstance(entry, DecisionEntry)]
    explored = chance = 0.0
    for entry in entries:
        table = np.frombuffer(entry.factors, "<f4").reshape(len(entry.actions), -1)
        worth = dict(zip((*entry.actions, ""), [*table[:, -1].tolist(), 0.0], strict=True))
        chances = dict(zip((*entry.actions, ""), [*table[:, -2].tolist(), entry.none_probability], strict=True))
        best = max(worth, key=lambda name: worth[name])
        explored += entry.slots[0].action != best
        chance += chances[best]
    assert report.exploration.decisions == 200
    assert report.exploration.explored_share == pytest.approx(explored / 200)
    assert report.exploration.greedy_probability == pytest.approx(chance / 200, abs=1e-6)
    assert 0.0 < explored / 200 < 1.0
    candidates = np.mean([0.01 * len(e.actions) / (len(e.actions) + 1) for e in entries])
    assert report.exploration.floor_share == pytest.approx(float(candidates))


def test_the_last_revision_counts_once() -> None:
    desk = Desk()
    decision_id = decide_shown(desk, "anna")
    desk.record("seen", decision_id=decision_id)
    desk.pass_time(DAY_MS // 24)
    assert learning(desk).report().uses[0].outcome == "ignored"
    desk.record("accepted", decision_id=decision_id)
    report = learning(desk).report()
    assert report.corrections == 1
    assert report.uses == (Use(outcome="accepted", cause="", use="learned", count=1),)
    assert report.calibration is not None
    assert (report.calibration.count, report.calibration.observed) == (1, 1.0)


def test_what_teaches_nothing_is_told_by_why() -> None:
    desk = Desk()
    told = {"page": {"reason": "page_error"}, "moment": {"cause": "timing"}, "bare": {}}
    for customer, more in told.items():
        decision_id = decide_shown(desk, customer)
        desk.record("seen", decision_id=decision_id)
        desk.record("failed", decision_id=decision_id, **more)
    decide_shown(desk, "nobody")
    desk.store.failing_reads = 1
    desk.decide("away")
    run(desk.decisions.log_degraded(desk.decisions.degraded.popleft()))
    desk.pass_time(DAY_MS // 24)
    report = learning(desk).report()
    assert {(use.outcome, use.cause, use.use) for use in report.uses} == {
        ("failed", "execution", "other_cause"),
        ("failed", "timing", "half_learned"),
        ("failed", "unknown", "half_learned"),
        ("not_delivered", "unknown", "not_shown"),
        ("not_delivered", "unknown", "no_features"),
    }
    assert report.left_out == {"degraded": 1}
    assert report.calibration is not None
    assert report.calibration.count == 2


def test_a_long_log_is_cut_to_the_newest_and_says_so() -> None:
    desk = busy_desk(60)
    report = learning(desk, bound=25).report()
    entries = sorted(e.at_ms for e in desk.log() if isinstance(e, DecisionEntry))
    assert (report.decisions, report.cut) == (25, True)
    newest = learning(desk, Window(entries[-25], 4_000_000_000_000)).report()
    assert report.uses == newest.uses
    assert report.exploration == newest.exploration


def test_an_empty_log_is_a_report_too() -> None:
    report = learning(Desk()).report()
    assert (report.decisions, report.calibration, report.exploration, report.auc) == (0, None, None, None)
    assert "0 decisions" in shown(report)


def shown(report: LearningReport) -> str:
    text = StringIO()
    Console(width=100, file=text).print(show_learning(report))
    return text.getvalue()


def test_the_table_fits_a_hundred_columns() -> None:
    text = shown(learning(busy_desk(150)).report())
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    for words in ("150 decisions", "explored", "gold_card", "reliability", "what the response model took"):
        assert words in text
    assert "…" not in text
