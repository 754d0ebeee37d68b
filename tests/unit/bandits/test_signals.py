"""Signal loss: when a placement is paused and released, and what must not pause it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack

from nbx.bandits.signals import ALARM, FEW, MEMORY, Signal, Stream


def used(answers: float = 0.95, count: int = 500, timeouts: float = 0.6) -> Signal:
    """A placement with these usual shares."""
    return Signal(
        answers=Stream(taken=count, count=float(count), seen=answers * count, recent=answers),
        timeouts=Stream(taken=count, count=float(count), seen=timeouts * count, recent=timeouts),
        seen_ms=0,
    )


def answers_until(signal: Signal, lost: bool, *, seen: bool) -> int:
    for n in range(1, 500):
        signal.answer(seen=seen, late=False, decided_ms=n)
        if signal.lost == lost:
            return n
    return -1


@pytest.mark.parametrize("seed", range(20))
def test_usual_traffic_raises_no_alarm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    signal = Signal()
    at_ms = 0
    while at_ms < 20_000:
        at_ms += 1
        if rng.random() < 0.1:
            # one customer in twenty sends no `seen` at all and answers up to six times in a row
            seen = rng.random() >= 0.05
            for _ in range(int(rng.integers(1, 7))):
                late = bool(seen and rng.random() < 0.2)
                signal.answer(seen=seen and not late, late=False, decided_ms=at_ms)
                if late:
                    signal.answer(seen=True, late=True, decided_ms=at_ms)
        else:
            signal.timeout(seen=rng.random() < 0.6, late=False, decided_ms=at_ms - 600)
        assert not signal.lost
    assert signal.answers.share == pytest.approx(0.95, abs=0.05)
    assert signal.timeouts.share == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize(("usual", "answers"), [(0.98, 25), (0.95, 27), (0.8, 37), (0.6, 58)])
def test_a_full_loss_is_found_and_released_after_so_many_answers(usual: float, answers: int) -> None:
    signal = used(usual)
    ratio = math.log((1 - 0.3 * min(usual, 0.98)) / (1 - 0.7 * min(usual, 0.98)))
    assert math.ceil(20 / ratio) == pytest.approx(answers, abs=1), "Wald's test, by hand"
    assert answers_until(signal, True, seen=False) == pytest.approx(answers, abs=1)
    assert answers_until(signal, False, seen=True) == math.ceil(20 / math.log(7 / 3))


def test_a_loss_is_not_what_is_usual_and_a_passing_doubt_is() -> None:
    signal = used()
    before = signal.answers.share
    answers_until(signal, True, seen=False)
    for _ in range(5_000):
        signal.answer(seen=False, late=False, decided_ms=1)
        signal.timeout(seen=False, late=False, decided_ms=1)
    assert signal.lost
    assert signal.answers.share == before
    for _ in range(2):
        assert answers_until(signal, False, seen=True) > 0
        assert signal.answers.share == pytest.approx(before, abs=0.001), "nor is what came meanwhile"
        answers_until(signal, True, seen=False)
    doubted = used()
    for seen in [False] * 10 + [True] * 10:
        doubted.answer(seen=seen, late=False, decided_ms=1)
    assert doubted.answers.doubt == 0.0
    assert doubted.answers.count == pytest.approx(500 * (1 - 1 / MEMORY) ** 20 + 20, rel=0.01)
    assert doubted.answers.share < before


def test_where_nobody_answers_timeouts_raise_the_alarm_and_end_it() -> None:
    signal = used(timeouts=0.6)
    for n in range(1, 100):
        signal.timeout(seen=False, late=False, decided_ms=n)
    assert signal.timeouts.lost
    for n in range(100, 124):
        signal.timeout(seen=True, late=False, decided_ms=n)
    assert not signal.lost


def test_what_is_not_seen_is_the_page_while_answers_come_with_their_seen() -> None:
    signal = used(timeouts=0.6)
    for n in range(2_000):
        signal.timeout(seen=False, late=False, decided_ms=n)
        if n % 25 == 0:
            signal.answer(seen=True, late=False, decided_ms=n)
        assert not signal.lost
    late = used(timeouts=0.6)
    late.answer(seen=True, late=False, decided_ms=1_000)
    for n in range(1_000):
        late.timeout(seen=False, late=False, decided_ms=n)
    assert not late.lost, "they are from before the answer"


def test_an_answer_with_its_seen_ends_what_timeouts_raised() -> None:
    signal = used()
    for n in range(1, 100):
        signal.timeout(seen=False, late=False, decided_ms=n)
    assert signal.lost
    signal.answer(seen=True, late=False, decided_ms=50)
    assert signal.timeouts.doubt == 0.0
    assert not signal.lost


def test_a_few_testers_do_not_make_a_signal() -> None:
    signal = Signal()
    for n in range(5):
        signal.answer(seen=True, late=False, decided_ms=n)
    assert signal.reports
    for n in range(500):
        signal.answer(seen=False, late=False, decided_ms=n)
        signal.timeout(seen=False, late=False, decided_ms=n)
        assert not signal.lost
    assert not signal.reports, "it never reported: answers teach without"


def test_a_late_seen_moves_what_was_counted() -> None:
    late, prompt = Signal(), Signal()
    for n in range(300):
        late.answer(seen=False, late=False, decided_ms=n)
        late.answer(seen=True, late=True, decided_ms=n)
        prompt.answer(seen=True, late=False, decided_ms=n)
        assert not late.lost
    assert late.answers.taken == prompt.answers.taken
    assert late.answers.share == pytest.approx(prompt.answers.share, abs=0.01)
    assert late.answers.recent == pytest.approx(1.0, abs=0.02)
    for n in range(20):
        late.answer(seen=False, late=False, decided_ms=n)
    assert late.answers.doubt > 15.0
    for n in range(10):
        late.answer(seen=True, late=True, decided_ms=n)
    assert late.answers.doubt == 0.0, "each takes back what it had raised"


EVENTS = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 5)), max_size=300)


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.floats(0, 1))
def test_bounds_hold_and_every_state_survives_a_checkpoint(
    events: list[tuple[bool, bool, bool, int]], b: float
) -> None:
    signal = used(b, FEW)
    for is_answer, seen, late, at_ms in events:
        was_lost = signal.answers.lost
        take = signal.answer if is_answer else signal.timeout
        take(seen=seen or late, late=late, decided_ms=at_ms)
        for stream in (signal.answers, signal.timeouts):
            assert 0.0 <= stream.share <= 1.0
            assert 0.0 <= stream.recent <= 1.0
            assert 0.0 <= stream.doubt <= ALARM
            assert stream.seen <= stream.count
        if signal.answers.lost != was_lost:
            assert signal.answers.doubt in (0.0, ALARM), "hysteresis"
    packed = msgpack.encode(signal)
    assert msgpack.encode(msgpack.decode(packed, type=Signal)) == packed
