"""What own choices unlock: nothing is promised that the rules do not confirm, and nothing within reach is missed."""

from __future__ import annotations

import dataclasses
import sys
import time
from itertools import combinations, product
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nbx.catalog.nodes import Sink, Tree
from nbx.catalog.parse import _catalog
from nbx.catalog.plan import Plan
from nbx.catalog.readers import Reader
from nbx.decision.choice import allowed
from nbx.decision.messages import DecideRequest
from nbx.decision.own_view import own_view
from nbx.decision.unlocking import TRIES, Unlocks, find_unlocks
from nbx.features.schema import Value
from nbx.features.state import Consent, Control, CustomerState, ProfileValue
from nbx.limits import STOPPED_MS
from tests.worlds import NOW_MS, prior_model, small_plan

CATALOG = """
catalog: choices
features:
  app: {type: boolean, controllable: true}
  research: {type: boolean, controllable: true, encode: none}
  plan: {type: category, controllable: true, default: basic, encode: {onehot: [basic, plus, gold]}}
  saved: {type: number, controllable: true}
  age: {type: number, default: 30}
  mobile: {type: boolean, from: context}
placements:
  web: {channel: web, impressions: reported, slots: 3}
  phone: {channel: phone, impressions: implicit}
groups: {all: {}, vip: {eligible: customer.age >= 18.0 && customer.plan != 'basic'}}
actions:
"""
ACTION = """  a{n}:
    group: {group}
    value: 1
    gives: [g{n}]
    eligible: "{eligible}"
    applicable: "{applicable}"
    treatments: {{t: {{placements: [{placements}], suitable: "{suitable}", content: {{headline: H{n}}}}}}}
"""
ATOMS = (
    "customer.app",
    "!customer.app",
    "customer.research",
    "customer.plan == 'gold'",
    "customer.plan in ['plus', 'gold']",
    "customer.saved > 100.0",
    "customer.saved >= 100.0",
    "customer.saved < -5.0 || customer.saved == 7.0",
    "customer.age > 60.0",
    "request.mobile",
    "customer.app == customer.research",
    "customer.saved != 0.0",
    "",
)
DOMAIN: MappingProxyType[str, tuple[Value, ...]] = MappingProxyType(
    {
        "app": (True, False),
        "research": (True, False),
        "plan": ("basic", "plus", "gold"),
        "saved": (-100.0, -6.0, -5.0, 0.0, 3.0, 7.0, 8.0, 100.0, 101.0, 5000.0),
    }
)
conditions = st.one_of(
    st.sampled_from(ATOMS),
    st.builds("{} && {}".format, st.sampled_from(ATOMS[:-1]), st.sampled_from(ATOMS[:-1])),
)
actions = st.fixed_dictionaries(
    {
        "group": st.sampled_from(["all", "vip"]),
        "eligible": conditions,
        "applicable": st.sampled_from(ATOMS),
        "suitable": st.sampled_from(ATOMS),
        "placements": st.sampled_from(["web", "phone", "web, phone"]),
    }
)
profiles = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in DOMAIN.items()})


def catalog_of(written: list[dict[str, str]]) -> str:
    text = CATALOG + "".join(ACTION.format(n=n, **each) for n, each in enumerate(written))
    return "\n".join(line for line in text.split("\n") if not line.endswith(': ""')).replace('suitable: "", ', "")


def of(profile: dict[str, Value]) -> CustomerState:
    return CustomerState(profile={name: ProfileValue(value, NOW_MS - 1) for name, value in profile.items()})


def open_at(plan: Plan, state: CustomerState, placement: str) -> set[str]:
    request = DecideRequest(customer_id="anna", placement=placement)
    found = allowed(plan, state, request, NOW_MS, salt="test").candidates
    return {plan.placements[placement].names[position] for position in found.positions.tolist()}


def changed(state: CustomerState, to: dict[str, Value]) -> CustomerState:
    return replace(state, profile=state.profile | {name: ProfileValue(value, NOW_MS) for name, value in to.items()})


def unlocks(plan: Plan, state: CustomerState) -> Unlocks:
    return find_unlocks(plan, state, "anna", NOW_MS, salt="test")


@settings(max_examples=150, deadline=None)
@given(st.lists(actions, min_size=1, max_size=4), profiles)
def test_what_is_promised_is_allowed_and_what_is_within_reach_is_found(
    written: list[dict[str, str]], profile: dict[str, Value]
) -> None:
    plan, state = unchecked_plan(catalog_of(written)), of(profile)
    found = unlocks(plan, state)
    told = set()
    for unlock in found.unlocks:
        to = {choice.feature: choice.to for choice in unlock.choices}
        for opened in unlock.opens:
            for placement, reason in opened.placements.items():
                assert not reason, "nothing here holds back what its conditions allow"
                assert opened.action not in open_at(plan, state, placement)
                assert opened.action in open_at(plan, changed(state, to), placement)
                told.add((opened.action, placement))
    reached = set()
    for names in (*combinations(DOMAIN, 1), *combinations(DOMAIN, 2)):
        for values in product(*(DOMAIN[name] for name in names)):
            for placement in plan.placements:
                after = open_at(plan, changed(state, dict(zip(names, values, strict=True))), placement)
                reached |= {(action, placement) for action in after - open_at(plan, state, placement)}
    assert told <= reached if found.cut else told == reached


def unchecked_plan(text: str) -> Plan:
    """Compile a catalog whose conditions may contradict each other, which no author would get past the check."""
    sink = Sink("test")
    root = Tree(text, sink).read()
    assert root is not None
    catalog = _catalog(Reader(sink), root)
    assert not sink.sorted(), sink.sorted()
    return Plan(catalog, 1)


ONE = [
    {
        "group": "all",
        "eligible": "customer.app",
        "applicable": "customer.saved > 100.0",
        "suitable": "",
        "placements": "web, phone",
    }
]


def test_two_together_are_told_with_what_they_give_and_close() -> None:
    closing = {"group": "all", "eligible": "!customer.app", "applicable": "", "suitable": "", "placements": "web"}
    plan = small_plan(catalog_of([*ONE, closing]))
    (unlock,) = unlocks(plan, CustomerState()).unlocks
    assert [choice.words for choice in unlock.choices] == ["app: yes", "saved: above 100"]
    (opened,) = unlock.opens
    assert (opened.headline, opened.gives, opened.channels, opened.not_now) == ("H0", ("g0",), ("web", "phone"), "")
    assert unlock.closes == ("a1",)


def test_only_what_is_nearest_of_a_number_is_told() -> None:
    plan = small_plan(catalog_of([ONE[0] | {"eligible": "", "applicable": "customer.saved >= 100.0"}]))
    (unlock,) = unlocks(plan, CustomerState()).unlocks
    assert [choice.words for choice in unlock.choices] == ["saved: 100"]
    (unlock,) = unlocks(small_plan(catalog_of([ONE[0] | {"eligible": ""}])), of({"saved": 100.0})).unlocks
    assert [choice.words for choice in unlock.choices] == ["saved: above 100"], "from the threshold itself"


def test_what_is_stopped_or_refused_is_not_promised() -> None:
    plan = small_plan(catalog_of([ONE[0] | {"applicable": ""}]))
    stopped = CustomerState(controls={"a0": Control(STOPPED_MS, 1)})
    (unlock,) = unlocks(plan, stopped).unlocks
    assert unlock.opens[0].not_now == "not now: it is paused"
    assert unlock.opens[0].placements == {"web": "paused", "phone": "paused"}
    for purpose in ("contact", "personalise"):
        assert unlocks(plan, CustomerState(consent={purpose: Consent(False, 1)})) == Unlocks((), cut=False)
    one_channel = CustomerState(controls={"channel:web": Control(STOPPED_MS, 1)})
    assert unlocks(plan, one_channel).unlocks[0].opens[0].not_now == "", "on the phone it could be shown"


def test_nothing_is_promised_on_a_value_that_is_not_to_be_trusted() -> None:
    plan = small_plan(catalog_of([ONE[0] | {"applicable": ""}]))
    assert unlocks(plan, CustomerState()).unlocks
    distrusting = dataclasses.replace(prior_model(plan), quarantined=frozenset({"app"}))
    assert find_unlocks(plan, CustomerState(), "anna", NOW_MS, salt="test", model=distrusting) == Unlocks((), cut=False)


def test_what_is_not_the_customers_to_choose_is_no_choice() -> None:
    plan = small_plan(catalog_of([ONE[0] | {"eligible": "customer.age > 60.0", "applicable": "request.mobile"}]))
    assert unlocks(plan, CustomerState()) == Unlocks((), cut=False)


def crowded() -> Plan:
    """200 actions on four placements, everyone blocked by two of eight own choices."""
    features = "".join(f"  c{i}: {{type: boolean, controllable: true}}\n" for i in range(8))
    spots = "".join(f"  p{i}: {{channel: ch{i}, impressions: reported}}\n" for i in range(4))
    written = "".join(
        f"  a{n}:\n    {{group: all, value: 1, gives: [g], limits: [{{max: 2, per: 7d}}], "
        f"eligible: customer.c{n % 8}, applicable: customer.c{(n * 3 + n // 8) % 8}, "
        f"treatments: {{t: {{placements: [p0, p1, p2, p3], content: {{headline: H}}}}}}}}\n"
        for n in range(200)
    )
    return small_plan(
        f"catalog: crowded\nfeatures:\n{features}placements:\n{spots}groups: {{all: {{}}}}\nactions:\n{written}"
    )


def test_the_view_of_200_actions_is_quick_and_says_where_it_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    plan, took_ms = crowded(), []
    assert unlocks(plan, CustomerState()).cut
    for _ in range(100):
        began = time.thread_time()
        view = own_view(plan, CustomerState(), "anna", (), NOW_MS, salt="test")
        took_ms.append((time.thread_time() - began) * 1000)
    assert view.unlocks_cut
    p50, p99 = sorted(took_ms)[50], sorted(took_ms)[98]
    with capsys.disabled():
        sys.stdout.write(
            f"\nown view, 200 actions on 4 placements, {TRIES} tries: p50 {p50:.1f} ms, p99 {p99:.1f} ms\n"
        )
    assert p50 < 150, "50 ms on an idle machine"
