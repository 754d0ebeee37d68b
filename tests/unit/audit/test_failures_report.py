"""The failures report against counting by hand."""

from __future__ import annotations

from io import StringIO

import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console

from nbx.audit.experienced import Experienced
from nbx.audit.failures_report import FailuresReport, RuleCount, failures_report
from nbx.audit.intervals import wilson
from nbx.audit.reading import Window
from nbx.audit.signals import Signals
from nbx.audit.tables_experience import show_failures
from nbx.bandits.evidence import CauseTable
from nbx.bandits.health import PlacementHealth
from nbx.bandits.quarantine import FeatureHealth
from nbx.bandits.signals import SignalHealth
from nbx.catalog.model import ExperiencePolicy
from nbx.experience.entries import Entry, ProfileEntry
from tests.unit.audit.lives import CATALOG, POINTS, QUIET, decided, ended, erased, failures, part
from tests.unit.audit.worlds import EVER, busy_desk, fold
from tests.worlds import NOW_MS

HOUR_MS = 3_600_000
CAUSES = ("assumption", "information", "execution", "timing", "unknown")


def busy(count: int = 600, seed: int = 3) -> tuple[list[Entry], list[tuple[str, ...]]]:
    """Return a log, and what happened in it: customer, action, placement, tier, outcome, cause."""
    rng = np.random.default_rng(seed)
    entries: list[Entry] = []
    happened: list[tuple[str, ...]] = []
    for number in range(count):
        action = ("gold_card", "travel_card", "tips")[rng.integers(3)]
        placement, tier = ("hero", "desk")[rng.integers(2)], ("basic", "gold")[rng.integers(2)]
        outcome = str(rng.choice(list(POINTS)))
        cause = "" if outcome in ("accepted", "converted") else CAUSES[rng.integers(5)]
        customer = f"c{rng.integers(count // 3)}"
        at_ms = NOW_MS + number * HOUR_MS // 10
        decision = decided(f"d{number:05}", customer, at_ms, [action], placement=placement, segments=(tier, "north"))
        entries += [decision, ended(decision, outcome, cause, rule="inferred", evidence=("seen",))]
        happened.append((customer, action, placement, tier, outcome, cause, decision.decision_id))
    return entries, happened


LOG, HAPPENED = busy()


def test_every_figure_is_that_of_counting() -> None:
    report = failures(LOG)
    assert (report.decisions, report.outcomes, report.unfinished) == (len(HAPPENED), len(HAPPENED), 0)
    cells: list[tuple[str, str, str, int, str]] = [("overall", "", "", 0, "c")]
    cells += [("action", "", name, 1, name) for name in ("gold_card", "travel_card", "tips")]
    cells += [("placement", "", name, 2, name) for name in ("hero", "desk")]
    cells += [("channel", "", channel, 2, name) for channel, name in (("web", "hero"), ("phone", "desk"))]
    cells += [("segment", "tier", name, 3, name) for name in ("basic", "gold")]
    for by, of, value, position, wanted in cells:
        inside = [row for row in HAPPENED if row[position].startswith(wanted)]
        found = part(report, by, value, of)
        shown = [row for row in inside if row[4] not in ("not_seen", "not_delivered")]
        assert found.shown == len(shown) == sum(found.series)
        for each in (found.total, *found.causes):
            mine = [row for row in inside if row[5] and each.cause in ("", row[5])]
            bad = [row for row in mine if row in shown]
            assert each.negative.count == len(bad) == sum(each.series)
            assert each.lost == len(mine) - len(bad)
            assert each.negative.share == pytest.approx(len(bad) / len(shown))
            assert each.points == pytest.approx(sum(POINTS[row[4]] for row in bad))
            assert each.money == pytest.approx(-2.0 * each.points), "loss aversion 2, exchange 1"
            assert 0 < len(set(each.decisions)) == len(each.decisions) <= 5
            assert set(each.decisions) <= {row[6] for row in mine}
            newest = [row[6] for row in bad][-3:]
            assert set(newest) <= set(each.decisions)
            costliest = max((-POINTS[row[4]] for row in bad), default=0.0)
            named = [row for row in bad if row[6] in each.decisions]
            assert max(-POINTS[row[4]] for row in named) == costliest


def test_a_customers_outcomes_are_no_crowd() -> None:
    alone = [entry for n in range(40) for entry in _life(f"d{n}", f"c{n}", "declined" if n % 4 == 0 else "accepted")]
    share = part(failures(alone), "overall").total.negative
    assert (share.low, share.high) == pytest.approx(wilson(0.25, 40)), "one outcome each: independent"
    alike = [
        entry for n in range(40) for entry in _life(f"d{n}", f"c{n % 4}", "declined" if n % 4 == 0 else "accepted")
    ]
    together = part(failures(alike), "overall").total.negative
    assert together.share == 0.25
    assert together.effective < 6.0, "four customers who always answer alike"
    assert together.low is not None
    assert share.low is not None
    assert together.low < share.low


def _life(decision_id: str, customer: str, outcome: str, at_ms: int = NOW_MS, cause: str = "") -> list[Entry]:
    decision = decided(decision_id, customer, at_ms)
    return [decision, ended(decision, outcome, "" if outcome == "accepted" else cause or "assumption")]


def test_a_trend_is_second_half_less_first() -> None:
    entries: list[Entry] = []
    for n in range(200):
        bad = n % 10 == 0 if n < 100 else n % 2 == 0
        entries += _life(f"d{n:03}", f"c{n}", "failed" if bad else "accepted", NOW_MS + n * HOUR_MS, "execution")
    report = failures(entries)
    execution = part(report, "overall").causes[0]
    assert execution.trend is not None
    assert (execution.trend.before, execution.trend.after) == pytest.approx((0.1, 0.5))
    assert execution.trend.low is not None
    assert 0.2 < execution.trend.low < 0.4 < (execution.trend.high or 0.0) < 0.6
    assert any("by execution rose from 10.0% to 50.0%" in words for words in report.findings)
    assert report.bucket_ms == 24 * HOUR_MS
    assert len(report.starts_ms) == len(execution.series)
    assert report.starts_ms[0] % (24 * HOUR_MS) == 0
    assert part(failures(entries[:100]), "overall").total.negative.count == 5


def test_money_is_what_the_balance_was_charged() -> None:
    policy = ExperiencePolicy(loss_aversion=3.0, exchange=4.0)
    decision = decided("d", "anna")
    report = failures(
        [decision, ended(decision, "failed", "execution", stakes=0.5)],
        catalog_of=lambda _: replace(CATALOG, experience=policy),
    )
    assert part(report, "overall").total.money == pytest.approx(2.0 * 3.0 * 1.5 * 4.0)
    assert part(report, "overall").total.points == -2.0


def test_a_late_truth_moves_exactly_one_count() -> None:
    decision = decided("late", "late")
    before = [*LOG, decision, ended(decision, "ignored", "assumption")]
    after = [*before, ended(decision, "failed", "execution", revision=2), ended(decision, "ignored", "assumption")]
    one, two = part(failures(before), "overall"), part(failures(after), "overall")
    assert failures(after).corrections == 1
    moved = {b.cause: a.negative.count - b.negative.count for a in two.causes for b in one.causes if a.cause == b.cause}
    assert {cause: by for cause, by in moved.items() if by} == {"assumption": -1, "execution": 1}
    assert two.total.negative == one.total.negative
    healed = [*before, ended(decision, "accepted", revision=2)]
    assert part(failures(healed), "overall").total.negative.count == one.total.negative.count - 1


def test_a_corrected_value_that_tells_an_outcome_anew_counts() -> None:
    decision = decided("d", "anna")
    told = ended(decision, "declined", "information", revision=2).outcomes
    corrected = ProfileEntry(customer_id="anna", at_ms=NOW_MS + 1, release=1, changes={"age": 50.0}, outcomes=told)
    report = failures([decision, ended(decision, "declined", "assumption"), corrected])
    assert [each.cause for each in part(report, "overall").causes] == ["information"]


def test_erased_customers_are_left_out_and_a_new_life_counts() -> None:
    report = failures([*LOG, erased("c7")])
    rest = [row for row in HAPPENED if row[0] != "c7"]
    assert report.decisions == len(rest) < len(HAPPENED)
    assert part(report, "overall").total.negative.count == sum(
        bool(row[5]) and row[4] not in ("not_seen", "not_delivered") for row in rest
    )
    gone = {row[6] for row in HAPPENED if row[0] == "c7"}
    assert not gone & {name for each in report.parts for cause in each.causes for name in cause.decisions}
    again = failures([*LOG, erased("c7"), *_life("new", "c7", "declined")])
    assert again.decisions == len(rest) + 1


def test_windows_placements_and_bounds() -> None:
    middle = NOW_MS + 300 * HOUR_MS // 10
    assert failures(LOG, Window(middle, 4_000_000_000_000)).decisions == 300
    hero = failures(LOG, placement="hero")
    assert hero.decisions == sum(row[2] == "hero" for row in HAPPENED)
    assert {each.value for each in hero.parts if each.by == "placement"} == {"hero"}
    cut = failures(LOG, bound=300)
    assert (cut.decisions, cut.cut) == (300, True)
    assert cut.parts == failures(LOG, Window(middle, 4_000_000_000_000)).parts


def test_acceptance_by_cause_is_the_weighted_mean() -> None:
    entries: list[Entry] = []
    for n in range(100):
        outcome, cause = ("accepted", "") if n < 20 else ("failed", "execution") if n < 60 else ("ignored", "timing")
        entries += _life(f"d{n}", f"c{n}", outcome, cause=cause)
    report = failures(entries)
    (told,) = report.acceptance
    assert (told.responses, told.excused, told.weight) == (100, 80, 40.0)
    assert told.alike == pytest.approx(0.2)
    assert told.by_cause == pytest.approx(20 / 40)
    assert told.difference == pytest.approx(0.3)
    assert told.flagged
    assert (told.alike_low, told.alike_high) == pytest.approx(wilson(0.2, 100))
    assert (told.by_cause_low, told.by_cause_high) == pytest.approx(wilson(0.5, 40.0**2 / 30.0))
    assert told.difference_low is not None
    assert 0.15 < told.difference_low < 0.3 < (told.difference_high or 0.0) < 0.45
    assert any("20.0% accept when all failures are taken alike, 50.0% with causes told apart" in words
               for words in report.findings)  # fmt: skip
    without = decided("n", "quiet")
    more = failures([*entries, without, ended(without, "accepted", learns=False)])
    assert (more.acceptance[0].responses, more.no_consent) == (100, 1)


def test_rules_and_evidence_are_counted() -> None:
    report = failures(LOG)
    by_cause = {cause: sum(row[5] == cause for row in HAPPENED) for cause in CAUSES}
    assert {each.cause: each.count for each in report.evidence} == by_cause
    most = max(by_cause, key=lambda cause: by_cause[cause])
    assert report.rules[0] == RuleCount(rule="inferred", cause=most, count=by_cause[most], confidence=1.0)
    assert sum(each.count for each in report.rules) == sum(bool(row[5]) for row in HAPPENED)


def test_signal_loss_is_told() -> None:
    lost = SignalHealth(placement="hero", lost=True, since_ms=1, reports=True, answers=9, answers_usual_ratio=0.9,
                        answers_recent_ratio=0.0, timeouts=3, timeouts_usual_ratio=0.5,
                        timeouts_recent_ratio=0.0)  # fmt: skip
    unwell = PlacementHealth(placement="desk", unwell=True, since_ms=1, prompts=90, failed=30, usual_ratio=0.02,
                             recent_ratio=0.6, experience=-2.0)  # fmt: skip
    feature = FeatureHealth(feature="tier", quarantined=True, since_ms=1, used=50.0, wrong=9.0, recent_ratio=0.5)
    causes = CauseTable(confusion={"execution": {"unknown": 3, "execution": 9}}, right_ratio=0.75)
    told = Signals(step=7, placements=[lost], execution=[unwell], features=[feature], causes=causes)
    report = failures(LOG, signals=told)
    text = shown(report)
    for words in ("UNWELL", "QUARANTINED", "75% agree"):
        assert words in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    assert any(words.startswith("desk does not execute well: 60%") for words in report.findings)
    assert any(words.startswith("tier is in quarantine") for words in report.findings)
    assert any(words.startswith("hero lost its `seen` events") for words in report.findings)
    assert "LOST" in text


def test_what_a_service_logged_reads_the_same() -> None:
    desk = busy_desk(150, slots=2)
    kept = Experienced(EVER)
    fold(desk, kept.take)
    report = failures_report(kept, lambda _: desk.plan.catalog, QUIET)
    last = {(told.decision_id, told.slot): told for told in desk.observed}
    bad = [told for told in last.values() if told.outcome in ("declined", "ignored")]
    total = part(report, "overall").total
    assert (report.outcomes, total.negative.count, report.unfinished) == (len(last), len(bad), 0)
    charged = sum(-told.experience * 2.0 * (1.0 + told.stakes) for told in bad)
    assert total.money == pytest.approx(charged)
    assert {each.cause for each in part(report, "overall").causes} == {told.cause for told in bad}


def test_an_empty_log_is_a_report_too() -> None:
    report = failures([])
    (overall,) = report.parts
    assert (report.decisions, overall.shown, overall.total.negative.share, overall.causes) == (0, 0, None, ())
    assert (report.findings, report.starts_ms) == ((), ())
    assert "0 decisions" in shown(report)


def shown(report: FailuresReport) -> str:
    text = StringIO()
    Console(width=100, file=text, soft_wrap=True).print(show_failures(report))
    return text.getvalue()


def test_the_table_fits_a_hundred_columns() -> None:
    text = shown(failures(LOG))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    for words in ("negative outcomes by cause", "by placement", "tier = gold", "acceptance with causes told apart"):
        assert words in text
    assert "…" not in text
