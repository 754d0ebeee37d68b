"""Stakes, clusters, touch tracks and segments: what they change in a decision, and what its record says of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from nbx.audit.judging import judge
from nbx.audit.reading import arbitrated
from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import Plan
from nbx.decision.choice import Choice, decide
from nbx.decision.examples import run_examples
from nbx.decision.messages import DecideRequest
from nbx.decision.record import decision_entry
from nbx.decision.replay import replay
from nbx.experience.entries import DecisionEntry
from nbx.features.state import Consent, CustomerState, ProfileValue, encode_state
from tests.unit.decision.test_choice import learned_model
from tests.worlds import CATALOG, NOW_MS, Desk, small_plan

CLAIM = "journeys: {claim: {steps: {filed: {event: claim_filed, stakes: %s}, paid: {event: paid, after: [filed]}}}}\n"
CLUSTERED = "clusters: {features: [age, tier], count: 3, track_weight: 4}\nsegments: [tier, likes]\n"
FILED = {"claim": {"filed": NOW_MS - 1000}}


def clustered_plan(text: str = CATALOG + CLUSTERED) -> Plan:
    return small_plan(text.replace("features:\n", "features:\n  likes: {type: boolean, encode: none}\n", 1))


def with_clusters(plan: Plan) -> BoundModel:
    """Three centres by age alone: 20, 40 and 60; after gold_card the second one's next touch is pay_card."""
    at = np.array([plan.layout.columns.index("age")])
    centres = np.array([[-2.0], [0.0], [2.0]], np.float32)
    return replace(learned_model(plan, 4), cluster_at=at, centres=centres, track={(1, "gold_card"): "pay_card"})


def chosen(plan: Plan, state: CustomerState, model: BoundModel | None = None, placement: str = "hero") -> Choice:
    request = DecideRequest(customer_id="anna", placement=placement)
    return decide(plan, model or learned_model(plan, 4), state, request, "d1", NOW_MS, salt="s")


def recorded(plan: Plan, choice: Choice, placement: str = "hero") -> DecisionEntry:
    request = DecideRequest(customer_id="anna", placement=placement)
    return decision_entry(choice, request, "d1", NOW_MS, release=1, snapshot=1, state_version=0, took_us=1)


def aged(age: float, **more: object) -> CustomerState:
    return CustomerState(profile={"age": ProfileValue(age, NOW_MS)}, **more)  # type: ignore[arg-type]


def test_stakes_of_a_step_are_exploration_shrunk_and_experience_weighed() -> None:
    staked = small_plan(CATALOG + CLAIM % 0.25)
    plain = CATALOG.replace("floor: -10}", "floor: -10, exchange: 1.25}")
    declared = small_plan(plain + "exploration: {floor: 0.0075, scale: 0.75}\n")
    state = CustomerState(journeys=FILED)
    choice, twin = chosen(staked, state), chosen(declared, state)
    assert choice.policy == twin.policy
    assert choice.slate.probability.tobytes() == twin.slate.probability.tobytes()
    assert choice.slate.propensity == twin.slate.propensity
    assert choice.slate.probability.tobytes() != chosen(small_plan(), state).slate.probability.tobytes()
    entry = recorded(staked, choice)
    assert entry.stakes == 0.25
    assert replay(entry).same


def test_with_everything_at_stake_nothing_is_tried_out() -> None:
    choice = chosen(small_plan(CATALOG + CLAIM % 1.0), CustomerState(journeys=FILED))
    assert sorted(choice.slate.probability.tolist())[-2:] == [0.0, 1.0]
    half = small_plan((CATALOG + CLAIM % 0.5).replace("slots: 3,", "slots: 3, stakes: 0.5,"))
    policy = chosen(half, CustomerState(journeys=FILED)).policy
    assert (policy.floor, policy.exchange) == (0.01 * 0.25, 1.5), "both shrink, the placement's weighs nothing"


@pytest.mark.parametrize("state", [
    CustomerState(),
    CustomerState(journeys={"claim": {"filed": NOW_MS - 9, "paid": NOW_MS - 5}}),
    CustomerState(journeys=FILED, consent={"personalise": Consent(granted=False, at_ms=1)}),
])  # fmt: skip
def test_elsewhere_and_without_consent_nothing_is_at_stake(state: CustomerState) -> None:
    choice = chosen(small_plan(CATALOG + CLAIM % 1.0), state)
    assert (choice.stakes, choice.policy.exchange, choice.policy.floor) == (0.0, 1.0, 0.01)


def test_an_outcome_is_charged_by_what_was_at_stake_when_it_was_decided() -> None:
    balances = []
    for stakes in ("0", "0.5"):
        desk = Desk(small_plan(CATALOG + CLAIM % stakes))
        desk.record("claim_filed", customer_id="anna")
        reply = next(r for r in (desk.decide() for _ in range(99)) if r.slots[0].action)
        desk.record("paid", customer_id="anna")
        desk.record("declined", decision_id=reply.decision_id)
        balances.append(desk.state().balance)
        assert desk.observed[0].stakes == float(stakes)
    assert balances == [-0.6, pytest.approx(-0.9)]


def test_the_release_that_decided_comes_out_as_it_was_logged() -> None:
    plan = clustered_plan(CATALOG + CLUSTERED + CLAIM % 0.25)
    state = aged(41.0, journeys=FILED, last_touch="gold_card")
    entry = recorded(plan, chosen(plan, state, with_clusters(plan)))
    drawn = arbitrated(entry)
    assert not isinstance(drawn, str)
    own = judge(entry, drawn, plan, plan)
    assert not isinstance(own, str)
    assert own.target == pytest.approx(drawn.probability, abs=1e-6)
    assert own.terms.price == entry.policy.exchange * (1.0 + entry.policy.strain) == 1.25 * (1.0 + entry.policy.strain)
    dear = Plan(structs.replace(plan.catalog, experience=structs.replace(plan.catalog.experience, exchange=3.0)), 2)
    other = judge(entry, drawn, dear, plan)
    assert not isinstance(other, str)
    assert other.terms.price == 3.0 * 1.25 * (1.0 + entry.policy.strain)


def test_the_nearest_centre_is_the_cluster_in_record_vector_and_conditions() -> None:
    text = (CATALOG + CLUSTERED).replace('eligible: "customer.age > 70.0"', "eligible: relationship.cluster == 2")
    plan = clustered_plan(text)
    for age, cluster in ((21.0, 0), (49.0, 1), (51.0, 2), (95.0, 2)):
        choice = chosen(plan, aged(age), with_clusters(plan))
        entry = recorded(plan, choice)
        columns = dict(zip(plan.layout.columns, choice.x.tolist(), strict=True))
        assert (entry.cluster, entry.relationship["cluster"]) == (cluster, cluster)
        assert [columns[f"cluster={k}"] for k in range(3)] == [float(k == cluster) for k in range(3)]
        assert entry.mandatory == (("alert",) if cluster == 2 else ()), "a condition reads it"
        assert replay(entry).same


def test_who_is_of_no_cluster() -> None:
    plan = clustered_plan()
    unknown = chosen(plan, aged(21.0))
    no = aged(21.0, consent={"personalise": Consent(granted=False, at_ms=1)}, last_touch="gold_card")
    unwilling = chosen(plan, no, with_clusters(plan))
    for choice in (unknown, unwilling):
        assert recorded(plan, choice).cluster == choice.relationship["cluster"] == -1
        assert not choice.x[-3:].any()
    assert recorded(plan, unwilling).after == ""
    plain = chosen(small_plan(), aged(21.0), with_clusters(small_plan()))
    assert "cluster" not in plain.relationship
    assert len(plain.x) + 3 == len(unknown.x), "not declared: no column"


def test_the_next_touch_on_the_track_is_weighed() -> None:
    plan = clustered_plan()
    model = with_clusters(plan)

    def weights(age: float, touched: str, track_weight: str = "4") -> set[float]:
        weighed = clustered_plan(CATALOG + CLUSTERED.replace("track_weight: 4", f"track_weight: {track_weight}"))
        return set(chosen(weighed, aged(age, last_touch=touched), model).factors.context_weight.tolist())

    state = aged(41.0, last_touch="gold_card")
    before = encode_state(state)
    choice = chosen(plan, state, model)
    by_action = dict(zip(recorded(plan, choice).actions, choice.factors.context_weight.tolist(), strict=True))
    assert by_action == {"gold_card": 1.0, "travel_card": 1.0, "pay_card": 4.0, "tips": 1.0}
    assert recorded(plan, choice).after == "gold_card"
    assert encode_state(state) == before
    assert set(plan.placements["hero"].context_weight.tolist()) == {1.0}, "the plan's own are not touched"
    for age, touched, weight in ((21.0, "gold_card", "4"), (41.0, "tips", "4"), (41.0, "gold_card", "1")):
        assert weights(age, touched, weight) == {1.0}
    assert set(chosen(plan, state, model, "desk").factors.context_weight.tolist()) == {1.0}, "it is not shown there"


def test_segments_are_on_record_as_text_and_at_their_defaults_without_consent() -> None:
    plan = clustered_plan()
    profile = {"tier": ProfileValue("gold", NOW_MS), "likes": ProfileValue(True, NOW_MS)}
    assert recorded(plan, chosen(plan, CustomerState(profile=profile))).segments == ("gold", "True")
    no = CustomerState(profile=profile, consent={"personalise": Consent(granted=False, at_ms=1)})
    assert recorded(plan, chosen(plan, no)).segments == ("basic", "False")
    assert recorded(small_plan(), chosen(small_plan(), no)).segments == ()


def test_an_example_may_tell_the_cluster() -> None:
    example = """
examples:
  the third hears of it: {given: {placement: hero, relationship: {cluster: 2}}, expect: {allowed: [alert]}}
  the second does not: {given: {placement: hero, relationship: {cluster: 1}}, expect: {blocked: {alert: not_eligible}}}
  nor does who has none: {given: {placement: hero}, expect: {blocked: {alert: not_eligible}}}
"""
    text = (CATALOG + CLUSTERED).replace('eligible: "customer.age > 70.0"', "eligible: relationship.cluster == 2")
    results = run_examples(clustered_plan(text + example))
    assert [(each.passed, each.words) for each in results] == [(True, ())] * 3
