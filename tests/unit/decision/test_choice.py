"""The pure decision equals its slow twin, leaves its inputs alone, and every rule removes what it should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import Plan
from nbx.decision.choice import decide
from nbx.decision.messages import DecideRequest
from nbx.experience.relationship import relationship_features
from nbx.features.state import CustomerState, Pause, ProfileValue, Reservation, encode_state
from tests.reference import bandits as slow
from tests.reference import decide as twin
from tests.worlds import NOW_MS, small_plan

PLAN = small_plan()
D = len(PLAN.layout.columns)
ACTIONS = PLAN.action_names


def learned_model(plan: Plan, seed: int) -> BoundModel:
    """Return a model with arbitrary, proper posteriors."""
    rng = np.random.default_rng(seed)
    count, d = len(plan.action_names), len(plan.layout.columns)
    packed = np.empty((count, d * (d + 1) // 2), dtype=np.float32)
    for row in packed:
        root = rng.normal(size=(d, d)) * 0.3
        row[:] = (root @ root.T + 0.05 * np.eye(d))[np.triu_indices(d)]
    return BoundModel(
        mean=rng.normal(size=(count, d)).astype(np.float32),
        cov_packed=packed,
        experience=(rng.normal(size=(count, d)) * 2).astype(np.float32),
        evidence=np.ones(count, dtype=np.float32),
        value=np.zeros(count, dtype=np.float32),
        value_count=np.zeros(count, dtype=np.float32),
        version=seed,
        step=seed,
    )


def states() -> st.SearchStrategy[CustomerState]:
    """States with every kind of thing that removes an action."""
    action = st.sampled_from(ACTIONS)
    recent_s = st.integers(NOW_MS // 1000 - 9 * 86_400, NOW_MS // 1000)
    return st.builds(
        CustomerState,
        profile=st.fixed_dictionaries(
            {},
            optional={
                "age": st.builds(ProfileValue, st.floats(18, 90), st.integers(NOW_MS - 40 * 86_400_000, NOW_MS)),
                "tier": st.builds(ProfileValue, st.sampled_from(["basic", "gold"]), st.just(NOW_MS)),
            },
        ),
        exposures=st.dictionaries(action, st.lists(recent_s, max_size=3).map(sorted), max_size=3),
        reserved=st.dictionaries(
            st.sampled_from(["x/0", "y/1"]),
            st.builds(Reservation, action, st.integers(NOW_MS - 9, NOW_MS + 9)),
            max_size=2,
        ),
        pauses=st.dictionaries(
            action,
            st.builds(Pause, st.integers(NOW_MS - 9, NOW_MS + 9), st.just("declined"), st.just("z/0")),
            max_size=2,
        ),
        balance=st.floats(-15, 5),
        balance_at_ms=st.just(NOW_MS),
    )


@settings(max_examples=120, deadline=None)
@given(states(), st.sampled_from(["hero", "desk"]), st.lists(st.sampled_from(ACTIONS), max_size=2), st.integers(1, 40))
def test_one_slot_equals_the_slow_twin(state: CustomerState, placement: str, exclude: list[str], seed: int) -> None:
    model = learned_model(PLAN, seed)
    before = encode_state(state)
    request = DecideRequest(customer_id="anna", placement=placement, exclude=tuple(exclude))
    choice = decide(PLAN, model, state, request, f"d{seed}", NOW_MS, salt="s")
    assert encode_state(state) == before, "a decision only reads"

    relation = relationship_features(state, NOW_MS, PLAN.rules.experience)
    customer = PLAN.resolver.resolve(state, {}, NOW_MS)
    spot = PLAN.rules.placements[placement]
    reasons = twin.allowed(PLAN.catalog, spot, state, customer, relation, exclude, NOW_MS)
    names = [choice.placement.names[p] for p in choice.positions]
    assert {r.action: r.reason for r in choice.removed} == {a: r for a, r in reasons.items() if r}
    assert names == [a for a, r in reasons.items() if not r]

    for i, name in enumerate(names):
        row = ACTIONS.index(name)
        expected = twin.priced(
            PLAN.catalog.actions[row],
            choice.x.tolist(),
            model.mean[row].tolist(),
            twin.unpacked(model.cov_packed[row].tolist(), D),
            model.experience[row].tolist(),
            PLAN.rules.experience.exchange,
            relation["strain"],
        )
        got = (choice.factors.mean[i], choice.factors.sd[i], choice.utility.gain[i], choice.utility.shift[i])
        assert got == pytest.approx(expected[1:], rel=1e-4, abs=1e-4), name
    if names and not choice.placement.mandatory[choice.positions].any():
        field = slow.Field(choice.factors.mean, choice.factors.sd, choice.utility.gain, choice.utility.shift)
        floored = 0.99 * slow.selection_dense(field, choice.policy.scale, with_none=True) + 0.01 / (len(names) + 1)
        # of 2,500 such decisions 99 % are within 0.0003, the worst is off by 0.0005
        assert np.abs(choice.slate.probability - floored).sum() / 2 <= 0.003, "total variation"


@settings(max_examples=60, deadline=None)
@given(states(), st.integers(1, 40), st.integers(1, 3))
def test_slates_obey_every_rule(state: CustomerState, seed: int, slots: int) -> None:
    request = DecideRequest(customer_id="anna", placement="hero", slots=slots)
    choice = decide(PLAN, learned_model(PLAN, seed), state, request, f"d{seed}", NOW_MS, salt="s")
    chosen = [i for i in choice.slate.chosen if i >= 0]
    names = [choice.placement.names[choice.positions[i]] for i in chosen]
    assert len(set(names)) == len(names), "an action fills one slot"
    assert all(0 < p <= 1 for p in choice.slate.propensity)
    cards = sum(name in ("gold_card", "travel_card", "pay_card") for name in names)
    since_s = (NOW_MS - 86_400_000) // 1000
    seen = sum(at > since_s for a in ("gold_card", "travel_card", "pay_card") for at in state.exposures.get(a, []))
    held = sum(
        r.until_ms > NOW_MS and r.action in ("gold_card", "travel_card", "pay_card") for r in state.reserved.values()
    )
    assert cards == 0 or seen + held + cards <= 2, "the group's limit holds within the slate"
    silent = choice.slate.chosen.index(-1) if -1 in choice.slate.chosen else slots
    assert choice.slate.chosen[silent:] == [-1] * (slots - silent), "after silence comes silence"


def test_mandatory_comes_first_with_certainty() -> None:
    state = CustomerState(profile={"age": ProfileValue(75.0, NOW_MS)})
    request = DecideRequest(customer_id="anna", placement="hero", slots=2)
    choice = decide(PLAN, learned_model(PLAN, 3), state, request, "d1", NOW_MS, salt="s")
    names = [choice.placement.names[choice.positions[i]] if i >= 0 else "none" for i in choice.slate.chosen]
    assert (names[0], choice.slate.propensity[0]) == ("alert", 1.0)
    at = [choice.placement.names[p] for p in choice.positions].index("alert")
    assert choice.slate.probability[at] == 0.0, "it takes no part in the arbitration"
    assert choice.slate.probability.sum() == pytest.approx(1.0, abs=1e-12)


def test_the_draw_depends_on_the_decision_alone() -> None:
    request = DecideRequest(customer_id="anna", placement="hero")
    model = learned_model(PLAN, 5)
    drawn = [decide(PLAN, model, CustomerState(), request, f"d{i}", NOW_MS, salt="s") for i in range(40)]
    again = [decide(PLAN, model, CustomerState(), request, f"d{i}", NOW_MS, salt="s") for i in range(40)]
    assert [c.slate.chosen for c in drawn] == [c.slate.chosen for c in again]
    assert len({tuple(c.slate.chosen) for c in drawn}) > 1


def test_drawn_frequency_matches_the_logged_propensity() -> None:
    """4,000 draws of one distribution: χ² with k − 1 degrees of freedom stays below its 99.9 % point."""
    request = DecideRequest(customer_id="anna", placement="hero")
    model = learned_model(PLAN, 9)
    choices = [decide(PLAN, model, CustomerState(), request, f"draw{i}", NOW_MS, salt="s") for i in range(4000)]
    expected = choices[0].slate.probability * 4000
    counts = np.zeros(len(expected))
    for choice in choices:
        counts[choice.slate.chosen[0]] += 1
    used = expected > 5
    chi2 = float((((counts - expected) ** 2) / expected)[used].sum())
    assert used.sum() >= 3
    assert chi2 < {2: 13.8, 3: 16.3, 4: 18.5, 5: 20.5}[int(used.sum()) - 1], (counts, expected)
