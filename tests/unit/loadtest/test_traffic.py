"""What is sent: drawn ahead, the same for the same seed, and of the shares that were declared."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nbx.loadtest.arrivals import schedule
from nbx.loadtest.draws import Customers, Delay, Draw, Hot, draw_customers, draw_delays_s, draw_values
from nbx.loadtest.durations import Seconds
from nbx.loadtest.scenario import parse_scenario
from nbx.loadtest.traffic import Traffic

SCENARIO = """
scenario: x
arrivals: [{shape: constant, rate: 1000, for: 10s}]
mix:
  - {call: decide, weight: 6, placement: web, slots: 2, context: {hour: {whole: [1, 9]}, kind: {choice: [a, b]}},
     feedback: f}
  - {call: batch, weight: 1, placement: web, size: 5}
  - {call: events, weight: 2, events: [{type: page_view, properties: {section: x}}, {type: call, by: agent}]}
  - {call: interaction, weight: 1, placement: web, events: [{type: page_view}]}
customers: {count: 100, profile: {age: {whole: [20, 30]}}}
feedback:
  f:
    delivered: {chance: 0.9, after: {fixed: 100ms}}
    seen: {chance: 0.5, after: {exponential: 1s}}
    answers: {accepted: 0.2, declined: 0.1, dismissed: 0.3, after: {fixed: 2s}}
"""
RNG = np.random.default_rng(1)


def traffic(run: str = "r") -> Traffic:
    scenario = parse_scenario(SCENARIO, "x.yaml")
    return Traffic(scenario, schedule(scenario.arrivals, 1), run)


def test_the_same_seed_is_the_same_traffic_and_the_mix_is_as_declared() -> None:
    one, other = traffic(), traffic()
    assert [one.request(n) for n in range(500)] == [other.request(n) for n in range(500)]
    kinds = Counter(one.request(n).kind for n in range(10_000))
    assert {kind: round(count / 1000) for kind, count in kinds.items()} == {
        "decide": 6,
        "batch": 1,
        "events": 2,
        "interaction": 1,
    }


def test_ids_are_new_in_each_run_and_in_each_request() -> None:
    one, other = traffic("a"), traffic("b")
    ids = [ask.request_id for n in range(1000) for ask in one.request(n).asks]
    ids += [tell.event_id for n in range(1000) for tell in one.request(n).tells]
    assert len(set(ids)) == len(ids)
    assert {ask.customer_id for n in range(99) for ask in one.request(n).asks}.isdisjoint(
        ask.customer_id for n in range(99) for ask in other.request(n).asks
    )


def test_a_batch_is_of_different_customers_and_profiles_are_of_those_who_come() -> None:
    sent = traffic()
    batches = [r for r in map(sent.request, range(10_000)) if r.kind == "batch"]
    assert all(len({ask.customer_id for ask in batch.asks}) == 5 for batch in batches)
    assert len(sent.profiles) == 100
    assert all(20 <= float(profile["age"]) <= 30 for profile in sent.profiles.values())


def test_feedback_comes_in_order_and_as_often_as_declared() -> None:
    sent = traffic()
    decisions = [n for n in range(10_000) if sent.request(n).kind == "decide"]
    later = [sent.later(n) for n in decisions]
    seen: Counter[str] = Counter(each.type for several in later for each in several)
    shares = {kind: count / len(decisions) for kind, count in seen.items()}
    expected = {"delivered": 0.9, "seen": 0.45, "accepted": 0.09, "declined": 0.045, "dismissed": 0.135}
    assert shares == pytest.approx(expected, abs=0.02)
    for several in later:
        times = [each.after_s for each in several]
        assert times == sorted(times)
        assert [each.type for each in several][:2] in ([], ["delivered"], ["delivered", "seen"])
    assert all(not sent.later(n) for n in range(1000) if sent.request(n).kind in ("batch", "events"))
    (told,) = sent.feedback(7, "seen", "d1", 1).tells
    assert (told.decision_id, told.slot, told.type, told.customer_id) == ("d1", 1, "seen", "")


def test_hot_customers_have_their_share_and_zipf_falls_off() -> None:
    hot = draw_customers(Customers(count=1000, hot=Hot(customers=2, share=0.4)), RNG, 50_000)
    assert np.isin(hot, (0, 1)).mean() == pytest.approx(0.4, abs=0.01)
    assert (hot.min(), hot.max()) == (0, 999)
    zipf = np.bincount(draw_customers(Customers(count=100, spread="zipf"), RNG, 100_000), minlength=100)
    assert zipf[0] / zipf[9] == pytest.approx(10, rel=0.15)
    assert zipf[1] / zipf[3] == pytest.approx(2, rel=0.1)
    even = np.bincount(draw_customers(Customers(count=100), RNG, 100_000), minlength=100)
    assert even.min() > 850
    assert even.max() < 1150


@pytest.mark.parametrize(
    ("delay", "median"),
    [
        (Delay(fixed=Seconds(2)), 2.0),
        (Delay(exponential=Seconds(2)), 2 * np.log(2)),
        (Delay(uniform=(Seconds(1), Seconds(3))), 2.0),
        (Delay(lognormal=(Seconds(2), 0.7)), 2.0),
    ],
)
def test_delays_have_their_median_and_their_bound(delay: Delay, median: float) -> None:
    assert np.median(draw_delays_s(delay, RNG, 20_000)) == pytest.approx(median, rel=0.05)


def test_delays_are_cut_where_they_have_to_be() -> None:
    assert draw_delays_s(Delay(exponential=Seconds(10), most=Seconds(3)), RNG, 1000).max() == 3


def test_values_are_drawn_as_declared() -> None:
    weighted = Counter(draw_values(Draw(choice={"a": 3, "b": 1}), RNG, 10_000))
    assert weighted["a"] / 10_000 == pytest.approx(0.75, abs=0.02)
    assert set(draw_values(Draw(choice=[2, True, "x"]), RNG, 100)) == {2, True, "x"}
    assert np.mean(draw_values(Draw(chance=0.3), RNG, 10_000)) == pytest.approx(0.3, abs=0.02)  # type: ignore[arg-type]
    assert np.std(draw_values(Draw(normal=(5, 2)), RNG, 10_000)) == pytest.approx(2, rel=0.05)  # type: ignore[arg-type]
    drawn = draw_values(Draw(uniform=(2, 3)), RNG, 1000)
    assert all(isinstance(value, float) and 2 <= value < 3 for value in drawn)
