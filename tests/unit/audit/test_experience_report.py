"""The experience report against counting by hand."""

from __future__ import annotations

import math
from io import StringIO

import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console

from nbx.audit.experience_report import ExperiencePart, ExperienceReport
from nbx.audit.heard import Concerns, Obligations, Promises
from nbx.audit.reading import Window
from nbx.audit.tables_experience import show_experience
from nbx.catalog.model import Concern
from nbx.experience.entries import Continued, DecisionEntry, Entry
from tests.unit.audit.lives import CATALOG, POINTS, decided, ended, erased, experience, overdue, said
from tests.unit.audit.test_failures_report import HAPPENED, LOG
from tests.worlds import DAY_MS, NOW_MS

STUDENT_3 = 3.182446305284263
"""97.5 % quantile of Student's distribution with 3 degrees of freedom, from a table."""


def part(report: ExperienceReport, by: str, value: str = "", of: str = "") -> ExperiencePart:
    return next(each for each in report.parts if (each.by, each.of, each.value) == (by, of, value))


def lives(*outcomes: tuple[str, str], action: str = "gold_card", stem: str = "d", step_ms: int = 0) -> list[Entry]:
    """Let customers have outcomes, one after the other."""
    entries: list[Entry] = []
    for number, (customer, outcome) in enumerate(outcomes):
        decision = decided(f"{stem}{number:04}", customer, NOW_MS + number * step_ms, [action])
        cause = "" if outcome in ("accepted", "converted") else "assumption"
        entries += [decision, ended(decision, outcome, cause)]
    return entries


def test_sums_are_those_of_counting() -> None:
    report = experience(LOG)
    shown = [row for row in HAPPENED if row[4] not in ("not_seen", "not_delivered")]
    for by, of, value, inside in (
        ("overall", "", "", shown),
        ("class", "", "service", [row for row in shown if row[1] == "tips"]),
        ("class", "", "promotional", [row for row in shown if row[1] != "tips"]),
        ("placement", "", "desk", [row for row in shown if row[2] == "desk"]),
        ("segment", "tier", "gold", [row for row in shown if row[3] == "gold"]),
    ):
        told = part(report, by, value, of)
        points = [POINTS[row[4]] for row in inside]
        assert told.shown == len(inside) == told.points.count
        assert told.gained == pytest.approx(sum(each for each in points if each > 0))
        assert told.lost == pytest.approx(sum(each for each in points if each < 0))
        assert told.money == pytest.approx(told.gained + 2.0 * told.lost)
        assert told.points.mean == pytest.approx(sum(points) / len(points))
        assert told.negative.count == sum(bool(row[5]) for row in inside)
        worst = [row[6] for row in inside if row[4] == "complained"]
        assert set(told.decisions) <= set(worst)
        assert len(told.decisions) == 5
    assert {each.outcome: each.count for each in report.sums} == {
        outcome: sum(row[4] == outcome for row in HAPPENED) for outcome in POINTS
    }
    assert report.customers == len({row[0] for row in HAPPENED})


def test_the_interval_of_a_mean_takes_customers_as_the_unit() -> None:
    report = experience(
        lives(("a", "accepted"), ("a", "accepted"), ("b", "failed"), ("c", "accepted"), ("d", "failed"))
    )
    told = part(report, "overall").points
    centre = (1 + 1 - 2 + 1 - 2) / 5
    per_customer = [2 * (1 - centre), -2 - centre, 1 - centre, -2 - centre]
    error = math.sqrt(4 / 3 * sum(each**2 for each in per_customer)) / 5
    assert told.mean == pytest.approx(centre)
    assert (told.low, told.high) == pytest.approx((centre - STUDENT_3 * error, centre + STUDENT_3 * error))
    alone = part(experience(lives(("a", "accepted"), ("a", "failed"))), "overall").points
    assert (alone.mean, alone.low) == (-0.5, None), "of one customer nothing is known about others"


def test_the_relationship_and_what_was_kept_from_customers() -> None:
    removed = [("gold_card", "paused"), ("travel_card", "experience_floor"), ("pay_card", "experience_floor")]
    entries: list[Entry] = [
        decided("a", "a", balance=-15.0, removed=removed),
        decided("b", "b", balance=2.0, removed=[("gold_card", "not_eligible")]),
        decided("c", "c", balance=1.0, removed=[("gold_card", "obligation_open")]),
        decided("d", "d", balance=-99.0, personalised=False),
    ]
    told = experience(entries).relationship
    assert told.balance.mean == pytest.approx(-4.0)
    assert told.balance.quantiles[2] == 1.0
    assert (told.below_floor.count, told.below_floor.of, told.not_looked_at) == (1, 3, 1), "the floor is at -10"
    assert {each.reason: (each.decisions.count, each.decisions.of, each.actions) for each in told.guarded} == {
        "experience_floor": (1, 4, 2),
        "obligation_open": (1, 4, 1),
        "paused": (1, 4, 1),
    }
    assert told.guarded[0].examples == ("a",)


def test_promises_obligations_and_concerns() -> None:
    day = DAY_MS
    catalog = replace(
        CATALOG,
        concerns=(Concern(name="fees", opens=("fee_charged",), resolves=("fee_explained",)),),
        actions=tuple(replace(a, resolves=("cards",)) if a.name == "tips" else a for a in CATALOG.actions),
    )
    failed = [decided(f"d{n}", f"c{n}", NOW_MS + n) for n in range(5)]
    apology = decided("sorry", "c1", NOW_MS + day, ["tips"])
    entries: list[Entry] = [
        *(each for decision in failed for each in (decision, ended(decision, "complained", "execution"))),
        said("c0", "resolved", NOW_MS + day, properties={"topic": "cards"}),
        said("c3", "resolved", NOW_MS + day, properties={"topic": "loans"}),
        apology,
        ended(apology, "accepted", at_ms=NOW_MS + day),
        decided("again", "c2", NOW_MS + 2 * day),
        said("c4", "promise_kept", NOW_MS + 1, properties={"what": "call back"}),
        overdue("c3", NOW_MS + 2, "call back", "refund"),
        overdue("c4", NOW_MS + 2, "refund"),
        said("c0", "fee_charged", NOW_MS + 3),
        said("c0", "fee_charged", NOW_MS + 4),
        said("c0", "fee_explained", NOW_MS + 5),
    ]
    report = experience(entries, catalog=catalog, now_ms=NOW_MS + 3 * day)
    assert report.obligations == (
        Obligations(topic="cards", opened=5, resolved=2, timed_out=0, open=3, decisions=("d4", "d3", "d2")),
    )
    late = experience(entries, catalog=catalog, now_ms=NOW_MS + 40 * day)
    assert (late.obligations[0].timed_out, late.obligations[0].open) == (3, 0)
    assert report.promises == (
        Promises(what="call back", kept=1, broken=1, customers_broken=1),
        Promises(what="refund", kept=0, broken=2, customers_broken=2),
    )
    assert report.concerns == (Concerns(name="fees", opened=2, resolved=1, customers=1),)
    assert "3 promises were broken" in report.findings
    assert experience([*entries, erased("c3")], catalog=catalog).promises[0].broken == 0
    text = shown(report)
    assert "5 opened, 3 still open" in text


def test_an_obligation_opened_anew_is_one_and_a_corrected_failure_none() -> None:
    first, second = decided("one", "a"), decided("two", "a", NOW_MS + 1)
    entries: list[Entry] = [first, ended(first, "failed", "execution"), second, ended(second, "complained", "unknown")]
    (told,) = experience(entries).obligations
    assert (told.opened, told.open, told.decisions) == (1, 1, ("two",))
    mended = [*entries[:2], ended(first, "complained", "unknown", revision=2), decided("x", "b")]
    assert experience(mended).obligations[0].opened == 1


def test_when_an_obligation_is_closed_does_not_depend_on_what_is_learned_of_its_cause() -> None:
    decision = decided("d", "a")
    told = ended(decision, "failed", "unknown", at_ms=NOW_MS + 5)
    anew = ended(decision, "failed", "information", revision=2, at_ms=NOW_MS + 50)
    (closed,) = experience([decision, told, said("a", "resolved", NOW_MS + 9), anew]).obligations
    assert (closed.opened, closed.resolved, closed.open) == (1, 1, 0)
    (tie,) = experience([decision, said("a", "resolved", NOW_MS + 5), told]).obligations
    assert tie.open == 0, "in the same moment it is made good"


def test_moods_and_comments() -> None:
    decision = decided("d", "anna")
    entries: list[Entry] = [
        decision,
        ended(decision, "complained", "unknown", sentiment=-0.8, text="third call about this", at_ms=NOW_MS + 5),
        said("bert", "survey", NOW_MS + 6, sentiment=0.4, effort=2.0, text="fine, thanks"),
        said("carl", "survey", NOW_MS + 7, effort=6.0, text="[took] for ever"),
        said("dora", "survey", NOW_MS - 40 * DAY_MS, sentiment=-1.0, text="before the window"),
    ]
    report = experience(entries, Window(NOW_MS - DAY_MS, NOW_MS + DAY_MS))
    assert report.mood.sentiment.mean == pytest.approx(-0.2)
    assert (report.mood.effort.mean, report.mood.effort.count) == (4.0, 2)
    assert [(each.text, each.decision_id, each.action) for each in report.comments] == [
        ("[took] for ever", "", ""),
        ("third call about this", "d", "gold_card"),
    ]
    assert "[took] for ever" in shown(report)
    hero = experience(entries, placement="hero")
    assert [each.decision_id for each in hero.comments] == ["d"], "what is about no decision is about no placement"
    assert next(each.text for each in experience([*entries, erased("carl")]).comments) == "third call about this"


def test_lift_up_and_experience_down_over_time() -> None:
    early = [(f"c{n}", "accepted" if n < 20 else "declined") for n in range(100)]
    late = [(f"c{n + 100}", "accepted" if n < 50 else "complained") for n in range(100)]
    report = experience(lives(*early, *late, step_ms=1000))
    told = next(each for each in report.tensions if each.seen == "over_time")
    assert (told.acceptance.before, told.acceptance.after) == pytest.approx((0.2, 0.5))
    assert told.experience_change is not None
    assert told.experience_change.before == pytest.approx((20 * 1 - 80 * 0.3) / 100)
    assert told.experience_change.after == pytest.approx((50 * 1 - 50 * 5) / 100)
    assert told.clear
    assert told.words in report.findings
    assert "acceptance rose from 20.0% to 50.0% while experience fell from -0.04 to -2.00" in told.words
    assert {name[0] for name in told.decisions} == {"d"}
    assert "lift up, experience down" in shown(report)
    assert not experience(lives(*late, *early, step_ms=1000)).tensions, "the other way round it is none"


def test_lift_against_chance_or_else_the_groups_other_actions() -> None:
    pushy = lives(*((f"p{n}", "accepted" if n < 60 else "complained") for n in range(100)), stem="p")
    modest = lives(*((f"m{n}", "accepted" if n < 30 else "ignored") for n in range(100)), action="pay_card", stem="m")
    (told,) = experience([*pushy, *modest]).tensions
    assert (told.action, told.reference, told.clear) == ("gold_card", "group", True)
    assert (told.acceptance.before, told.acceptance.after) == pytest.approx((0.3, 0.6))
    assert told.experience.mean == pytest.approx(0.6 - 0.4 * 5)
    chance: list[Entry] = []
    for n in range(40):
        decision = decided(f"h{n}", f"h{n}", holdout="random")
        chance += [decision, ended(decision, "accepted" if n < 30 else "ignored", "" if n < 30 else "assumption")]
    assert not experience([*pushy, *modest, *chance]).tensions, "chance has it accepted more often still"
    few = [entry for entry in chance if not isinstance(entry, DecisionEntry) or entry.decision_id < "h2"]
    assert experience([*pushy, *modest, *few]).tensions[0].reference == "group"


def test_parity_between_declared_groups() -> None:
    rng = np.random.default_rng(1)
    entries: list[Entry] = []
    for n in range(2_000):
        tier, region = ("basic", "gold")[n % 2], ("north", "south", "east")[n % 3]
        bad = rng.random() < (0.15 if tier == "gold" else 0.3)
        decision = decided(f"d{n}", f"c{n}", NOW_MS + n, segments=(tier, region))
        entries += [decision, ended(decision, "declined" if bad else "accepted", "assumption" if bad else "")]
    report = experience(entries)
    tier_told = next(each for each in report.parity if each.feature == "tier")
    assert tier_told.best_off == "gold"
    basic = next(each for each in tier_told.values if each.value == "basic")
    assert basic.disparate
    assert basic.ratio == pytest.approx(2.0, rel=0.25)
    assert "customers with tier = basic have negative experiences in" in report.findings[0]
    other = next(each for each in report.parity if each.feature == "region")
    assert other.words == ("region: no disparity beyond chance is seen",)
    assert all(not each.disparate for each in other.values)
    assert "DISPARATE" in shown(report)


def test_parity_of_too_few_is_not_judged() -> None:
    report = experience(lives(("a", "accepted"), ("b", "failed")))
    assert [(each.best_off, each.values[0].p_value) for each in report.parity] == [(None, None), (None, None)]
    assert "fewer than two values have enough outcomes" in report.parity[0].words[0]


def test_threads_that_went_on_are_counted() -> None:
    thread = Continued(kind="concern", name="fees", channel="web", opened_at=1, last_at=2, last="fee_charged")
    report = experience([decided("a", "a", continues=(thread, thread)), decided("b", "b")])
    assert report.continued == {"concern": 1}


def test_an_empty_log_is_a_report_too() -> None:
    report = experience([])
    (overall,) = report.parts
    assert (report.decisions, overall.shown, overall.points.mean, report.findings) == (0, 0, None, ())
    assert "0 decisions" in shown(report)


def shown(report: ExperienceReport) -> str:
    text = StringIO()
    Console(width=100, file=text, soft_wrap=True).print(show_experience(report))
    return text.getvalue()


def test_the_table_fits_a_hundred_columns() -> None:
    text = shown(experience(LOG))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    for words in ("by class", "tier = gold", "negative experience by tier", "the relationship when it was decided"):
        assert words in text
    assert "…" not in text
