"""Return on experience over logs written out by hand: who counts, in which arm, with what, and what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from io import StringIO
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from nbx.api.roi_routes import settle_ms, shares_since
from nbx.audit.reading import Window
from nbx.audit.roi_report import ReturnReport, return_report
from nbx.audit.roi_tally import ARMS, COLUMNS, ReturnTally, Terms
from nbx.audit.tables_roi import show_roi
from nbx.catalog.model import Catalog, Holdout
from nbx.catalog.releases import Release
from nbx.clock import ManualClock
from nbx.experience.entries import DecisionEntry, Entry, GoalOutcome, MovedEntry
from nbx.experience.holdout import assignment
from nbx.features.keys import release_key
from nbx.features.state import CustomerState
from nbx.features.store import Commit, Put
from tests.simulation.store_fake import FakeStore
from tests.unit.audit.lives import CATALOG, decided, ended, erased
from tests.worlds import DAY_MS, NOW_MS

SHARES = Holdout(silent=0.2, random=0.3)
HELD: Catalog = replace(CATALOG, holdout=SHARES)
SALT, WEEK_MS, HOUR_MS = "roi", 7 * DAY_MS, 3_600_000
LATER = NOW_MS + 30 * DAY_MS
EVER = Window(0, LATER)


def people(arm: str, count: int = 1, stem: str = "c") -> list[str]:
    """Return customers whom the hash puts in an arm."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        name = f"{stem}{number}"
        if (assignment(name, CustomerState(), SHARES, SALT) or "nbx") == arm:
            found.append(name)
        number += 1
    return found


NBX, SILENT, RANDOM = (people(arm)[0] for arm in ARMS)


def tally_of(
    entries: Sequence[Entry], *, span: Window = EVER, placement: str = "", shares: Holdout = SHARES, **more: Any
) -> ReturnTally:
    terms = Terms(span, placement, shares, WEEK_MS, HOUR_MS)
    tally = ReturnTally(terms, lambda number: HELD if number == 1 else CATALOG, SALT, **more)
    for entry in entries:
        tally.take([entry])
    return tally


def summed(entries: Sequence[Entry], now_ms: int = LATER, **more: Any) -> dict[str, dict[str, float]]:
    """Return what is not 0 of each arm's sums."""
    told = tally_of(entries, **more).counted(now_ms)
    return {
        arm: {
            name: value
            for name, value in zip(COLUMNS, told.sums[told.arm == k].sum(axis=0).tolist(), strict=True)
            if value
        }
        for k, arm in enumerate(ARMS)
        if (told.arm == k).any()
    }


def reported(entries: Sequence[Entry], now_ms: int = LATER, *, moving: bool = False, **more: Any) -> ReturnReport:
    """Report; what HTTP would carry is checked on the way."""
    report = return_report(tally_of(entries, **more), now_ms, 0, moving=moving)
    assert msgspec.json.decode(msgspec.json.encode(report), type=ReturnReport) == report
    return report


def words(report: ReturnReport) -> str:
    """Return the report as the command line prints it."""
    page = StringIO()
    Console(file=page, width=100, highlight=False).print(show_roi(report))
    assert max(map(len, page.getvalue().splitlines())) <= 100
    return page.getvalue()


def test_sums_are_those_of_counting() -> None:
    bought = decided("a", NBX, NOW_MS, ["gold_card", "tips"])
    failed = decided("b", NBX, NOW_MS + DAY_MS)
    lost = decided("c", NBX, NOW_MS + DAY_MS)
    drawn = decided("d", RANDOM, NOW_MS, ["travel_card"], holdout="random")
    still = decided("e", SILENT, NOW_MS, [], holdout="silent")
    entries: list[Entry] = [
        bought,
        drawn,
        still,
        ended(bought, "accepted", slot=0, at_ms=NOW_MS + 1),
        ended(bought, "ignored", "assumption", slot=1, at_ms=NOW_MS + 1),
        failed,
        lost,
        ended(failed, "failed", "execution", stakes=0.5, at_ms=NOW_MS + DAY_MS),
        ended(lost, "not_seen", "execution", at_ms=NOW_MS + DAY_MS),
        valued(ended(drawn, "converted", at_ms=NOW_MS + 1), 99.0),
    ]
    assert summed(entries) == {
        "nbx": {
            "visits": 3.0,
            "accepted": 1.0,
            "value": 60.0,
            "points": 1.0 - 0.5 - 2.0,
            "money": 1.0 - 2.0 * 0.5 - 1.5 * 2.0 * 2.0,
            "assumption": 1.0,
            "execution": 6.0,
        },
        "silent": {"visits": 1.0},
        "random": {"visits": 1.0, "accepted": 1.0, "value": 99.0, "points": 2.0, "money": 2.0},
    }


def valued(entry: Any, value: float) -> Any:
    """Let an acceptance report its value."""
    return replace(entry, outcomes=(replace(entry.outcomes[0], value=value),))


def test_a_truer_outcome_replaces_the_one_before_also_when_it_comes_out_of_order() -> None:
    first = decided("a", NBX)
    early, late = ended(first, "ignored", "assumption", revision=1), ended(first, "accepted", revision=2)
    for order in ([early, late], [late, early]):
        told = summed([first, *order])["nbx"]
        assert told == {"visits": 1.0, "accepted": 1.0, "value": 60.0, "points": 1.0, "money": 1.0}


def test_everybody_is_followed_equally_long_and_what_is_told_later_does_not_count() -> None:
    in_time, too_late = NOW_MS + WEEK_MS - 1, NOW_MS + WEEK_MS
    first, last, after = decided("a", NBX), decided("b", NBX, in_time), decided("c", NBX, too_late)
    entries: list[Entry] = [first, last, after, ended(after, "accepted", at_ms=too_late)]
    known = ended(last, "accepted", at_ms=too_late + HOUR_MS)
    unknown = ended(first, "accepted", at_ms=too_late + HOUR_MS + 1)
    assert summed([*entries, known, unknown])["nbx"]["accepted"] == 1.0
    assert summed([*entries, known, unknown])["nbx"]["visits"] == 2.0
    assert summed([*entries, known], now_ms=too_late + HOUR_MS - 1) == {}, "its time is not over"
    assert summed([*entries, known], now_ms=too_late + HOUR_MS)["nbx"]["accepted"] == 1.0
    assert tally_of(entries).still_followed(too_late) == (1, too_late + HOUR_MS)


def test_the_window_is_about_when_customers_are_met() -> None:
    entries = [decided("a", NBX, NOW_MS), decided("b", NBX, NOW_MS + 10), decided("c", RANDOM, NOW_MS + 10)]
    assert summed(entries, span=Window(NOW_MS, NOW_MS + 10)) == {"nbx": {"visits": 2.0}}, (
        "met before its end, followed on"
    )
    met_later = summed(entries, span=Window(NOW_MS + 5, LATER))
    assert {arm: told["visits"] for arm, told in met_later.items()} == {"nbx": 1.0, "random": 1.0}
    assert summed([decided("a", NBX, placement="desk"), decided("b", NBX)], placement="desk")["nbx"]["visits"] == 1.0


def test_the_arm_is_that_of_the_hash_whatever_befalls_the_customer_later() -> None:
    merged = MovedEntry(customer_id=RANDOM, at_ms=NOW_MS, release=1, into=NBX)
    entries: list[Entry] = [
        decided("a", RANDOM, holdout="random"),
        decided("b", NBX),
        merged,
        replace(decided("c", NBX, holdout="random"), degraded=("state_unavailable",)),
    ]
    report = reported(entries)
    nbx, _, chance = report.arms
    assert (nbx.decisions, nbx.otherwise, nbx.degraded, chance.decisions, chance.otherwise) == (2, 1, 1, 1, 0)
    assert report.merged == 2
    assert "1 of 3 decisions were degraded" in words(report)
    assert "1 decisions were made as of another arm" in words(report)


def test_who_was_met_under_other_shares_is_passed_over() -> None:
    old = replace(decided("a", NBX), release=2)
    entries: list[Entry] = [old, decided("b", NBX, NOW_MS + 1), decided("c", RANDOM, NOW_MS + 1, holdout="random")]
    assert set(summed(entries)) == {"random"}, "to take it in later would be to choose who comes back"
    assert reported(entries).other_shares == 1
    assert reported([old]).findings == ("nobody is counted: 1 customers were met under other shares, 0 erased",)


def test_erased_customers_are_in_no_sum() -> None:
    first, drawn = decided("a", NBX), decided("b", RANDOM, holdout="random")
    entries: list[Entry] = [
        first,
        drawn,
        ended(first, "accepted"),
        erased(NBX),
        ended(first, "failed", "unknown", revision=9),
    ]
    assert set(summed(entries)) == {"random"}
    assert reported(entries).erased == 1
    anew = [*entries, decided("z", NBX, NOW_MS + 5)]
    assert summed(anew)["nbx"] == {"visits": 1.0}, "a life of its own"


def test_goals_count_also_for_silence_and_their_late_truth_replaces() -> None:
    still = decided("a", SILENT, NOW_MS, [], holdout="silent")
    end = ended(decided("x", SILENT), "accepted", at_ms=NOW_MS + 5)
    missed, reached, gone = (
        replace(end, outcomes=(), goals=(goal(still, response, revision),))
        for revision, response in enumerate((0, 1, None))
    )
    assert summed([still, missed])["silent"] == {"visits": 1.0, "goals_awaited": 1.0}
    assert summed([still, missed, reached])["silent"] == {"visits": 1.0, "goals": 1.0, "goals_awaited": 1.0}
    assert summed([still, missed, reached, gone])["silent"] == {"visits": 1.0}


def goal(decision: DecisionEntry, response: int | None, revision: int) -> GoalOutcome:
    """Make what became of a goal."""
    return GoalOutcome(
        decision_id=decision.decision_id, revision=revision, customer_id=decision.customer_id, placement="hero",
        action="", response=response, release=1, at_ms=NOW_MS, x=b"",
    )  # fmt: skip


def test_memory_is_bounded_by_meeting_nobody_new() -> None:
    each = [decided(f"d{k}", name, NOW_MS + k) for k, name in enumerate(people("nbx", 5))]
    again = decided("again", each[0].customer_id, NOW_MS + 50)
    tally = tally_of([*each, again], customers=3)
    assert (len(tally.counted(LATER).arm), tally.cut_ms) == (3, NOW_MS + 3)
    assert tally.counted(LATER).sums[:, 0].tolist() == [2.0, 1.0, 1.0], "who was met first is followed to the end"
    assert "more customers than a report keeps" in words(reported([*each, again], customers=3))
    assert len(tally_of([*each, again], decisions=2).counted(LATER).arm) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12), st.sampled_from(["decide", "accepted", "failed"])),
                max_size=60), st.integers(0, 20))  # fmt: skip
def test_what_is_counted_once_never_changes(steps: list[tuple[int, int, str]], looked: int) -> None:
    """A report later on has what one before had, and more customers after those: only then is looking safe."""
    entries: list[Entry] = []
    by_customer: dict[int, list[DecisionEntry]] = {}
    at_ms, look_ms, before = NOW_MS, NOW_MS + looked * DAY_MS, 0
    revision = 0
    for who, days, what in steps:
        at_ms += days * DAY_MS // 4
        if what == "decide" or who not in by_customer:
            made = decided(f"d{len(entries)}", f"c{who}", at_ms)
            by_customer.setdefault(who, []).append(made)
            entries.append(made)
        else:
            revision += 1
            cause = "unknown" if what == "failed" else ""
            entries.append(
                ended(by_customer[who][revision % len(by_customer[who])], what, cause, revision=revision, at_ms=at_ms)
            )
        before += at_ms <= look_ms
    span = Window(0, NOW_MS + 1_000 * DAY_MS)
    then = tally_of(entries[:before], span=span).counted(look_ms)
    now = tally_of(entries, span=span).counted(NOW_MS + 1_000 * DAY_MS)
    count = len(then.arm)
    assert then.arm.tolist() == now.arm[:count].tolist()
    assert then.first_ms.tolist() == now.first_ms[:count].tolist()
    np.testing.assert_array_equal(then.sums, now.sums[:count])


def planted(nbx: float, chance: float, count: int = 3_000, *, fails: float = 0.0) -> list[Entry]:
    """Let customers accept at rates of their arm, some of nbx's fail; spread over 30 days."""
    rng = np.random.default_rng(9)
    rates = {"nbx": nbx, "random": chance}
    entries: list[Entry] = []
    for number in range(count):
        name = f"p{number}"
        arm = assignment(name, CustomerState(), SHARES, SALT) or "nbx"
        at_ms = NOW_MS + number * 30 * DAY_MS // count
        shown = [] if arm == "silent" else ["gold_card"]
        made = decided(f"d{number}", name, at_ms, shown, holdout="" if arm == "nbx" else arm)
        entries.append(made)
        if shown:
            draw = rng.random()
            failing = arm == "nbx" and draw > 1.0 - fails
            outcome = "failed" if failing else "accepted" if draw < rates[arm] else "ignored"
            entries.append(
                ended(made, outcome, "execution" if failing else "" if outcome == "accepted" else "assumption")
            )
    return entries


def test_what_was_planted_is_told_with_its_price() -> None:
    report = reported(planted(0.3, 0.2, fails=0.02), NOW_MS + 60 * DAY_MS)
    chance = next(each for each in report.comparisons if each.against == "random")
    metrics = {(each.metric, each.per): each for each in chance.metrics}
    acceptance = metrics["acceptance", "decision"]
    assert acceptance.told == "up"
    assert acceptance.lift.lift == pytest.approx(0.1, abs=0.05)
    assert acceptance.lift.low is not None
    assert acceptance.lift.once_low is not None
    assert acceptance.lift.lift is not None
    assert acceptance.lift.low < acceptance.lift.once_low < acceptance.lift.lift
    total, value, money = (metrics[name, "customer"].lift.lift for name in ("total", "value", "experience"))
    assert total == pytest.approx((value or 0.0) + (money or 0.0))
    assert chance.verdict == "better"
    assert "nbx is better than chance" in chance.words
    nbx, silent, drawn = report.arms
    assert nbx.lost["execution"] == pytest.approx(4.0 * 0.02, abs=0.04)
    assert silent.value == 0.0
    found, days = chance.payback, 30.0 * (report.customers - 1) / report.customers
    lost = metrics["lost", "customer"].lift
    assert lost.lift is not None
    assert found.saved == pytest.approx(-lost.lift * nbx.customers)
    assert found.value_per_loss == pytest.approx((nbx.value or 0.0) / sum(nbx.lost.values()))
    assert found.holdout_per_day == pytest.approx((total or 0.0) * drawn.customers / days, rel=1e-2)
    assert found.paid_back_days == pytest.approx(days * drawn.customers / nbx.customers, rel=1e-2)
    page = words(report)
    assert "nbx against random, per customer" in page
    assert "only valid when looked at once" in page
    assert "holdout costs per day" in page


def test_without_an_effect_nothing_is_claimed_and_how_long_it_takes_is_said() -> None:
    report = reported(planted(0.2, 0.2), NOW_MS + 60 * DAY_MS, moving=True)
    chance = next(each for each in report.comparisons if each.against == "random")
    assert chance.verdict == "open"
    assert "cannot be told yet" in chance.words
    assert any("moves with the clock" in each for each in report.findings)
    worse = reported(planted(0.2, 0.4), NOW_MS + 60 * DAY_MS)
    assert "nbx is worse than chance" in words(worse)


def test_customers_that_are_not_in_arms_by_their_shares_make_the_comparison_doubtful() -> None:
    entries = [entry for entry in planted(0.2, 0.2) if not (entry.customer_id.endswith(("1", "3", "7"))
               and assignment(entry.customer_id, CustomerState(), SHARES, SALT) == "random")]  # fmt: skip
    assert "do not trust the comparison" in words(reported(entries, NOW_MS + 60 * DAY_MS)).replace("\n  ", " ")
    assert "do not trust" not in words(reported(planted(0.2, 0.2), NOW_MS + 60 * DAY_MS))


@pytest.mark.parametrize(
    ("entries", "shares", "said"),
    [
        ([], SHARES, "no decision was made in the window"),
        ([decided("a", NBX)], SHARES, "no customer is in arm random (share 30.00%): of 1 one expects 0.3"),
        ([decided("a", NBX, LATER - 1)], SHARES, "nobody is counted yet: each of 1 customers is followed for 7 days"),
        ([decided("a", NBX)], Holdout(), "nobody is held out: give the catalog"),
        ([], Holdout(silent=1.0), "everybody is held out"),
    ],
)
def test_where_there_is_no_answer_it_is_said_why(entries: list[Entry], shares: Holdout, said: str) -> None:
    report = reported(entries, shares=shares)
    assert report.comparisons == ()
    assert any(said in each for each in report.findings), report.findings
    assert said.split(":", maxsplit=1)[0] in words(report)


def test_a_window_after_the_holdout_began_is_warned_of() -> None:
    report = return_report(
        tally_of(planted(0.2, 0.2), span=Window(NOW_MS, LATER)), NOW_MS + 60 * DAY_MS, NOW_MS - 9 * DAY_MS, moving=False
    )
    assert any("held out before `since`" in each for each in report.findings)


def test_the_shares_in_force_began_with_the_first_of_a_row_of_releases() -> None:
    store = FakeStore(ManualClock(NOW_MS))
    rows = [Holdout(), SHARES, Holdout(silent=0.2), SHARES, SHARES]
    for number, shares in enumerate(rows, start=1):
        release = Release(
            number=number, catalog=replace(HELD, holdout=shares), author="t", note="", at_ms=NOW_MS + number, base=0
        )
        put = Put(release_key(number), msgspec.json.encode(release), DAY_MS)
        asyncio.run(
            store.commit(
                Commit(partition=0, customer_key=f"k{number}", expected_version=0, state=b"s", puts=(put,)), 1.0
            )
        )
    assert asyncio.run(shares_since(store, 5, SHARES)) == NOW_MS + 4
    assert asyncio.run(shares_since(store, 3, rows[2])) == NOW_MS + 3
    assert asyncio.run(shares_since(store, 1, Holdout())) == NOW_MS + 1


def test_outcomes_are_known_after_the_longest_wait_of_the_catalog() -> None:
    assert settle_ms(CATALOG) == 660_000, "a minute of delivery and ten of attention"
