"""Reading the log in pages: complete, in order; the window; the first drawn slot."""

from __future__ import annotations

import pytest
from msgspec import structs

from nbx.audit import reading
from nbx.audit.reading import Arbitrated, arbitrated, read_log, window
from nbx.errors import Invalid
from nbx.experience.entries import DecisionEntry, Entry, SharedLimit
from tests.unit.audit.worlds import busy_desk
from tests.worlds import NOW_MS, PARTITIONS, Desk, run


def test_all_of_the_log_in_order_whatever_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = busy_desk(60)
    whole = desk.log()
    for page in (PARTITIONS, 7 * PARTITIONS, 4096):
        monkeypatch.setattr(reading, "PAGE", page)
        monkeypatch.setattr(reading, "LEAST_PAGE", 1)

        async def read() -> list[Entry]:
            return [e async for page in read_log(desk.store, PARTITIONS, 0, desk.clock.now_ms()) for e in page]

        found = run(read())
        assert len(found) == len(whole)
        assert sorted(map(repr, found)) == sorted(map(repr, whole))
        decided = [entry.at_ms for entry in found if isinstance(entry, DecisionEntry)]
        assert decided == sorted(decided), "a minute apart, so the order of the log is that of time"


def test_nothing_before_the_window_is_read() -> None:
    desk = busy_desk(40)
    since_ms = NOW_MS + 20 * 60_000

    async def read() -> list[Entry]:
        return [e async for page in read_log(desk.store, PARTITIONS, since_ms, desk.clock.now_ms()) for e in page]

    decided = [entry.at_ms for entry in run(read()) if isinstance(entry, DecisionEntry)]
    assert min(decided) == since_ms - 60_000, "clocks may differ by so much"
    assert len(decided) == 21


@pytest.mark.parametrize(
    ("since", "until", "field"),
    [
        ("yesterday", "", "since"),
        ("2026-01-31T12:00:00", "", "since"),
        ("7x", "", "since"),
        ("", "-1", "until"),
        ("1h", "2h", "since"),
        ("99999999999999999", "", "since"),
    ],
)
def test_a_window_that_is_none_is_refused_with_its_field(since: str, until: str, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        window(since, until, NOW_MS)
    assert refused.value.field == field


def test_the_window_is_a_month_unless_said() -> None:
    assert window("", "", NOW_MS) == (NOW_MS - 30 * 86_400_000, NOW_MS + 1)
    assert window("90m", "30m", NOW_MS) == (NOW_MS - 90 * 60_000, NOW_MS - 30 * 60_000)


def entry_of(desk: Desk) -> DecisionEntry:
    (entry,) = [entry for entry in desk.log() if isinstance(entry, DecisionEntry)]
    return entry


def test_the_first_drawn_slot_comes_after_the_mandatory() -> None:
    desk = Desk()
    desk.clock.advance(1)
    run(desk.events.change_profile("anna", {"age": 80.0}))
    desk.decide("anna", slots=2)
    entry = entry_of(desk)
    assert entry.mandatory == ("alert",)
    found = arbitrated(entry)
    assert isinstance(found, Arbitrated)
    assert found.slot == 1
    assert [entry.actions[i] for i in found.free] == [a for a in entry.actions if a != "alert"]
    assert found.propensity == entry.slots[1].propensity
    assert found.probability[found.chosen] == pytest.approx(found.propensity, abs=1e-6)
    assert found.probability.sum() == pytest.approx(1.0, abs=1e-5)
    other = next(i for i, name in enumerate(entry.actions) if name not in ("alert", entry.slots[1].action))
    for allowance in (1, 2):
        shared = SharedLimit((other, entry.actions.index("alert")), allowance)
        left = arbitrated(structs.replace(entry, shared=(shared,)))
        assert isinstance(left, Arbitrated)
        assert (other in left.free) == (allowance == 2), "the mandatory action uses up one of what the two share"
    one_slot = structs.replace(entry, slots=entry.slots[:1])
    assert arbitrated(one_slot) == "mandatory"
    assert arbitrated(structs.replace(entry, holdout="global")) == "holdout"


def test_a_degraded_decision_was_not_drawn() -> None:
    desk = Desk()
    desk.store.failing_reads = 1
    desk.decide("anna")
    assert arbitrated(desk.decisions.degraded[0]) == "degraded"
