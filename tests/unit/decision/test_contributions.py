"""Contributions add up to what was logged, and factors in money to the utility that was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbx.bandits import kernels
from nbx.decision.contributions import AS_DECIDED, columns_by_feature, contributions
from nbx.decision.record import unpack_factors
from nbx.decision.seen import seen_again, seen_in_record
from nbx.decision.worth import slot_views, worths
from nbx.experience.entries import FACTORS
from nbx.features.state import Consent, CustomerState, ProfileValue
from tests.unit.decision.asking import asked, learned_model, recorded
from tests.worlds import CATALOG, NOW_MS, small_plan

RICH = CATALOG.replace(
    "  visits:",
    "  city: {type: category, encode: {hash: 8}}\n  member: {type: boolean}\n"
    "  spent: {type: number, encode: {log: 50}}\n  visits:",
)
PLAN = small_plan(RICH)
states = st.builds(
    lambda age, tier, city, member, spent, visits, balance: CustomerState(
        profile={
            "age": ProfileValue(age, NOW_MS),
            "tier": ProfileValue(tier, NOW_MS),
            "city": ProfileValue(city, NOW_MS),
            "member": ProfileValue(member, NOW_MS),
            "spent": ProfileValue(spent, NOW_MS),
        },
        aggregates={"visits": [NOW_MS * 24 // 86_400_000, visits]},
        balance=balance,
        balance_at_ms=NOW_MS,
    ),
    st.floats(-50, 150),
    st.sampled_from(["basic", "gold", "platinum", ""]),
    st.sampled_from(["Rome", "Oslo", ""]),
    st.booleans(),
    st.floats(0, 1e4),
    st.floats(0, 50),
    st.floats(-9, 9),
)


@settings(max_examples=40, deadline=None)
@given(states, st.integers(0, 1000), st.booleans())
def test_contributions_add_up_to_the_logged_mean(state: CustomerState, seed: int, mobile: bool) -> None:
    model = learned_model(PLAN, seed)
    entry = recorded(PLAN, model, state, "hero", slots=3, context={"is_mobile": mobile})
    factors, _ = unpack_factors(entry)
    for i, action in enumerate(entry.actions):
        found = contributions(entry, PLAN, model, action, {})
        assert found is not None
        assert found.weights == AS_DECIDED
        total = found.base + sum(part.log_odds for part in found.parts)
        assert total == pytest.approx(found.total, abs=1e-9)
        assert total == pytest.approx(float(factors.mean[i]), abs=2e-5 * (1 + abs(total)))
        strengths = [abs(part.log_odds) for part in found.parts]
        assert strengths == sorted(strengths, reverse=True)


def test_each_column_is_one_features() -> None:
    found = [column for columns in columns_by_feature(PLAN).values() for column in columns]
    assert sorted(found) == list(range(1, len(PLAN.layout.columns)))


def test_a_contribution_is_what_leaving_the_feature_out_changes() -> None:
    model = learned_model(PLAN, 3)
    gold = CustomerState(profile={"tier": ProfileValue("gold", NOW_MS), "age": ProfileValue(55.0, NOW_MS)})
    entry = recorded(PLAN, model, gold, "hero")
    found = contributions(entry, PLAN, model, "tips", seen_in_record(entry, PLAN).values)
    assert found is not None
    by_name = {part.feature: part for part in found.parts}
    assert by_name["customer.age"].value == 55.0
    assert by_name["customer.tier"].value == "gold"
    without = recorded(PLAN, model, CustomerState(profile={"age": gold.profile["age"]}), "hero")
    at, other = entry.actions.index("tips"), without.actions.index("tips")
    mean, moved = float(unpack_factors(entry)[0].mean[at]), float(unpack_factors(without)[0].mean[other])
    assert by_name["customer.tier"].log_odds == pytest.approx(mean - moved, abs=1e-5)
    sd = np.full(2, unpack_factors(entry)[0].sd[at], np.float32)
    with_, less = kernels.response_probability(np.array([mean, moved], np.float32), sd).tolist()
    assert by_name["customer.tier"].chance == pytest.approx(with_ - less, abs=1e-5)
    assert by_name["customer.tier"].money == pytest.approx((with_ - less) * 1.0, abs=1e-5)
    assert any(words.startswith("tier gold ") for words in found.words)


def test_weights_of_another_snapshot_are_called_so() -> None:
    decided, served = learned_model(PLAN, 1, version=7), learned_model(PLAN, 2, version=9)
    entry = recorded(PLAN, decided, CustomerState(), "hero", context={"is_mobile": True})
    found = contributions(entry, PLAN, served, entry.actions[0], {})
    assert found is not None
    assert found.weights == "of_snapshot_9"
    lying = contributions(entry, PLAN, replace(served, version=7), entry.actions[0], {})
    assert lying is not None
    assert lying.weights != AS_DECIDED, "the version alone is not believed: the sum has to be what was logged"
    assert contributions(entry, PLAN, served, "nothing", {}) is None
    unmoved = contributions(entry, PLAN, replace(decided, version=8), entry.actions[0], {})
    assert unmoved is not None
    assert unmoved.weights == AS_DECIDED, "a later snapshot that has not learned of it is as good"
    surer = replace(decided, cov_packed=decided.cov_packed * np.float32(0.9))
    shrunk = contributions(entry, PLAN, surer, entry.actions[0], {})
    assert shrunk is not None
    assert shrunk.weights != AS_DECIDED


def test_a_record_of_other_columns_has_no_contributions() -> None:
    entry = recorded(PLAN, learned_model(PLAN, 1), CustomerState(), "hero")
    assert contributions(entry, small_plan(), learned_model(small_plan(), 1), entry.actions[0], {}) is None


@settings(max_examples=40, deadline=None)
@given(states, st.integers(0, 1000))
def test_factors_in_money_add_up_to_the_utility(state: CustomerState, seed: int) -> None:
    entry = recorded(PLAN, learned_model(PLAN, seed), state, "hero", slots=3)
    _, table = unpack_factors(entry)
    found = worths(entry)
    for i, worth in enumerate(found):
        assert worth.acceptance + worth.experience + worth.goal == pytest.approx(worth.utility, abs=1e-9)
        assert worth.utility == pytest.approx(float(table[i, FACTORS.index("utility")]), rel=1e-5, abs=1e-5)
    by_action = {worth.action: worth.utility for worth in found} | {"": 0.0}
    for view, slot in zip(slot_views(entry), entry.slots, strict=True):
        assert (view.action, view.chance) == (slot.action, slot.propensity)
        if view.how in ("best", "explored"):
            assert view.best_chance + view.explored_chance == pytest.approx(1.0)
            assert view.chance >= view.least_chance - 1e-12
            assert view.short_of_best == pytest.approx(by_action[view.best] - by_action[view.action], abs=1e-6)
            assert (view.how == "best") == (view.best == view.action)
            if view.how == "best":
                assert view.best_chance == pytest.approx(view.chance, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(states, st.booleans(), st.booleans())
def test_what_the_record_tells_is_what_was_seen(state: CustomerState, mobile: bool, personal: bool) -> None:
    state.consent = {"personalise": Consent(personal, NOW_MS)}
    again = asked(PLAN, learned_model(PLAN, 1), state, "hero", context={"is_mobile": mobile})
    seen, told = seen_again(again).values, seen_in_record(again.entry, PLAN).values
    assert told["request.is_mobile"] is mobile
    assert {"relationship.balance", "request.placement", "request.channel"} <= told.keys()
    for path, value in told.items():
        if isinstance(value, float) and not isinstance(value, bool):
            assert value == pytest.approx(seen[path], rel=1e-4, abs=1e-3), path
        else:
            assert value == seen[path], path
