"""Every rule that removes an action, against a twin that asks them one by one; and nothing personal without consent."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nbx.catalog.plan import Plan
from nbx.decision.choice import allowed, decide
from nbx.decision.facts import gather
from nbx.decision.messages import DecideRequest
from nbx.features.state import Consent, CustomerState, Pause, ProfileValue, Reservation, encode_state
from tests.reference.rules import Known, Rulebook
from tests.worlds import prior_model, small_plan

DAY_MS = 86_400_000
NOW_MS = int(datetime(2026, 3, 28, 20, 30, tzinfo=UTC).timestamp() * 1000)

CATALOG = """
catalog: guarded
time_zone: {feature: zone, otherwise: Europe/Berlin}
features:
  age: {type: number, encode: {standard: {mean: 40, sd: 10}}, default: 40}
  tier: {type: category, encode: {onehot: [basic, gold]}, default: basic}
  zone: {type: category, encode: none, personal: false}
  is_mobile: {type: boolean, from: context}
  visits: {type: number, from: {event: page_view, count: 1d}, encode: {log: 20}}
contact:
  limits: [{max: 4, per: 7d}]
  gap: 2h
  channels: {phone: {limits: [{max: 2, per: 7d}], gap: 4h}}
  classes: {promotional: {limits: [{max: 3, per: 7d}], gap: 3h}}
  quiet_hours: [{from: "22:00", to: "08:00", channels: [phone]}, {from: "12:00", to: "13:00", days: [sat]}]
  exclusive: [[gold_card, plain_loan]]
consent: {contact: opt_out, channels: {phone: opt_in}, exempt: [mandatory, service]}
budgets:
  gifts: {actions: [gold_card], groups: [loans], units: 10, money: 100, per: 1d}
holdout: {silent: 0.1, random: 0.1}
journeys: {onboarding: {steps: {opened: {event: opened}, funded: {event: funded, after: [opened]}}}}
concerns: {payment: {opens: [failed_payment], resolves: [paid], timeout: 10d}}
placements:
  hero: {channel: web, impressions: reported, slots: 4}
  desk: {channel: phone, impressions: reported, slots: 4}
groups:
  cards:
    limits: [{max: 3, per: 3d}]
    pause_group: {declined: 1d}
    per_slate: 1
    eligible: customer.age >= 18.0
    context_weights: [{when: "customer.tier == 'gold'", weight: 1.5}]
    lever: 2
  loans: {starts: 2026-01-01, suitable: "relationship.strain < 0.9"}
  help: {}
actions:
  gold_card:
    group: cards
    value: 60
    gives: [x]
    cost: 25
    applicable: "customer.tier != 'gold'"
    suitable: "!concern.payment"
    limits: [{max: 1, per: 1d}]
    not_with: [plain_loan]
    treatments:
      mobile: {placements: [hero], applicable: request.is_mobile}
      wide: {placements: [hero, desk]}
  plain_card:
    group: cards
    value: 40
    gives: [x]
    applicable: "journey.onboarding != 'opened'"
    context_weights: [{when: "customer.visits > 2", weight: 3}, {when: request.is_mobile, weight: 0.5}]
    treatments: {t: {placements: [hero, desk]}}
  plain_loan:
    group: loans
    value: 90
    gives: [x]
    cost: 1.5
    eligible: "customer.age + 1.0 > 21.0"
    ends: 2026-03-29T03:30
    treatments: {t: {placements: [hero, desk], eligible: "customer.age < 80.0"}}
  other_loan:
    group: loans
    value: 70
    gives: [x]
    cost: 2
    starts: 2026-04-01
    treatments: {t: {placements: [hero]}}
  tips: {group: help, class: service, value: 2, treatments: {t: {placements: [hero, desk]}}}
  sorry:
    group: help
    class: recovery
    value: 2
    applicable: "relationship.balance < 0.0"
    treatments: {t: {placements: [hero, desk]}}
  notice:
    group: help
    class: mandatory
    eligible: "request.channel == 'web'"
    treatments: {t: {placements: [hero, desk]}}
experience: {half_life: 10d, floor: -10}
"""
PLAN = small_plan(CATALOG)
ACTIONS = [action.name for action in PLAN.catalog.actions]
SCOPES = [*ACTIONS, "group:cards", "channel:phone", "class:promotional", "overall", "group:gone"]


def states() -> st.SearchStrategy[CustomerState]:
    """Customers of whom anything may be known."""
    recent_s = st.integers(NOW_MS // 1000 - 8 * 86_400, NOW_MS // 1000)
    times = st.lists(recent_s, max_size=4).map(sorted)
    consent = st.builds(Consent, st.booleans(), st.integers(1, 2))
    aged_ms = st.integers(NOW_MS - 12 * DAY_MS, NOW_MS)
    return st.builds(
        CustomerState,
        profile=st.fixed_dictionaries(
            {},
            optional={
                "age": st.builds(ProfileValue, st.floats(15, 90), st.just(NOW_MS)),
                "tier": st.builds(ProfileValue, st.sampled_from(["basic", "gold"]), st.just(NOW_MS)),
                "zone": st.builds(
                    ProfileValue, st.sampled_from(["Asia/Tokyo", "America/New_York", "Atlantis"]), st.just(NOW_MS)
                ),
            },
        ),
        aggregates=st.fixed_dictionaries({}, optional={"visits": st.just([NOW_MS * 24 // DAY_MS, 5.0])}),
        exposures=st.dictionaries(st.sampled_from([*ACTIONS, "gone"]), times, max_size=3),
        touches=st.dictionaries(st.sampled_from(["web", "phone"]), times, max_size=2),
        reserved=st.dictionaries(
            st.sampled_from(["x/0", "y/1"]),
            st.builds(
                Reservation,
                st.sampled_from(ACTIONS),
                st.integers(NOW_MS - 2, NOW_MS + 2),
                st.sampled_from(["web", "phone"]),
            ),
            max_size=2,
        ),
        pauses=st.dictionaries(
            st.sampled_from(SCOPES),
            st.builds(Pause, st.integers(NOW_MS - 2, NOW_MS + 2), st.just("declined"), st.just("z/0")),
            max_size=2,
        ),
        balance=st.floats(-15, 5),
        balance_at_ms=st.just(NOW_MS),
        consent=st.dictionaries(st.sampled_from(["contact", "contact:phone", "personalise"]), consent, max_size=2),
        journeys=st.dictionaries(st.just("onboarding"), st.dictionaries(st.just("opened"), aged_ms), max_size=1),
        concerns=st.dictionaries(st.just("payment"), st.tuples(aged_ms, aged_ms).map(list), max_size=1),
        holdout=st.sampled_from(["", "", "", "silent", "random"]),
    )


PURSES = st.dictionaries(st.sampled_from(["gifts/units", "gifts/money"]), st.sampled_from([0, 1, 15_000, 10**6]))
MOMENTS = st.integers(-36, 36).map(lambda hours: NOW_MS + hours * 3_600_000)
REQUESTS = st.builds(
    DecideRequest,
    customer_id=st.sampled_from(["anna", "bert", "carl", "dora", "emil", "fritz"]),
    placement=st.sampled_from(["hero", "desk"]),
    slots=st.integers(1, 4),
    context=st.fixed_dictionaries({}, optional={"is_mobile": st.booleans()}),
    exclude=st.lists(st.sampled_from(ACTIONS), max_size=1).map(tuple),
)


def known_to(plan: Plan, state: CustomerState, request: DecideRequest, purse: dict[str, int], now_ms: int) -> Known:
    facts = gather(plan, plan.placements[request.placement], state, request, now_ms, "s")
    return Known(
        facts.values,
        facts.relationship,
        {k: str(v) for k, v in facts.journey.items()},
        {k: bool(v) for k, v in facts.concern.items()},
        facts.balance,
        facts.holdout,
        facts.zone,
        purse,
        now_ms,
    )


@settings(max_examples=150, deadline=None)
@given(states(), REQUESTS, PURSES, MOMENTS)
def test_the_rules_equal_the_twin(
    state: CustomerState, request: DecideRequest, purse: dict[str, int], now_ms: int
) -> None:
    before = encode_state(state)
    facts, found, _ = allowed(PLAN, state, request, now_ms, salt="s", purse=purse)
    assert encode_state(state) == before, "rules only read"
    placement = PLAN.placements[request.placement]
    twin = Rulebook(PLAN.catalog, placement.placement, state, known_to(PLAN, state, request, purse, now_ms))
    expected = twin.verdicts(request.exclude)
    assert {r.action: r.reason for r in found.removed} == {a: v.reason for a, v in expected.items() if v.reason}
    for position in found.positions.tolist():
        name = placement.names[position]
        chosen = found.treatments.get(position) or placement.options[position][0]
        assert (chosen.name, found.context_weight[position]) == (expected[name].treatment, expected[name].weight), name
    assert facts.now_ms == now_ms


@settings(max_examples=80, deadline=None)
@given(states(), REQUESTS, PURSES)
def test_a_slate_keeps_every_bound(state: CustomerState, request: DecideRequest, purse: dict[str, int]) -> None:
    model = prior_model(PLAN)
    choice = decide(PLAN, model, state, request, "d1", NOW_MS, salt="s", purse=purse)
    names = [choice.placement.names[choice.positions[i]] for i in choice.slate.chosen if i >= 0]
    twin = Rulebook(PLAN.catalog, choice.placement.placement, state, known_to(PLAN, state, request, purse, NOW_MS))
    actions = {action.name: action for action in PLAN.catalog.actions}
    assert not {"gold_card", "plain_loan"} <= set(names), "not with"
    assert sum(actions[name].group == "cards" for name in names) <= 1, "per slate"
    for scope, limit, members in (
        ("group:cards", 3, [n for n in names if actions[n].group == "cards"]),
        ("class:promotional", 3, [n for n in names if actions[n].action_class == "promotional"]),
        ("overall", 4, names),
        ("channel:phone", 2, names if request.placement == "desk" else []),
    ):
        per_ms = 3 * DAY_MS if scope == "group:cards" else 7 * DAY_MS
        held = [n for n in members if actions[n].action_class != "mandatory"]
        assert not held or twin._used(scope, per_ms) + len(members) <= limit, (scope, names)
    units = sum(n == "gold_card" or actions[n].group == "loans" for n in names)
    money = sum(round(actions[n].cost * 10_000) for n in names if n == "gold_card" or actions[n].group == "loans")
    assert units <= purse.get("gifts/units", units)
    assert money <= purse.get("gifts/money", money)
    if choice.holdout == "silent":
        assert all(actions[name].action_class == "mandatory" for name in names)
    if choice.holdout == "random" and choice.slate.arbitrated >= 0:
        chances = choice.slate.probability[:-1]
        assert len(set(chances[chances > 0].tolist())) <= 1, "every candidate has the same chance"
        assert np.isclose(choice.slate.probability.sum(), 1.0)
