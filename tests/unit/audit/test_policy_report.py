"""What another release would have done: against deciding with it, and against counting by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from msgspec import structs
from rich.console import Console

from nbx.audit.judging import Judged, Maturity, Question, asked_plan, consider, judge
from nbx.audit.policy_report import PolicyReport, PolicyTally
from nbx.audit.reading import Arbitrated, Window, arbitrated
from nbx.audit.tables import show_policy
from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import Plan
from nbx.decision.choice import Choice, decide
from nbx.decision.messages import DecideRequest
from nbx.decision.record import decision_entry, unpack_factors
from nbx.errors import Invalid, Unknown
from nbx.experience.entries import DecisionEntry, Entry
from nbx.features.state import CustomerState
from tests.unit.audit.worlds import EVER, busy_desk, decide_shown, fold, policy
from tests.worlds import CATALOG, NOW_MS, Desk, prior_model, run, small_plan

CHANGED = (
    CATALOG.replace("value: 60", "value: 5")
    .replace("value: 40", "value: 90")
    .replace("floor: -10}", "floor: -10, exchange: 3.0}")
    + "exploration: {floor: 0.1, scale: 0.5}\n"
)
PAY_CARD = CATALOG[CATALOG.index("  pay_card:") : CATALOG.index("  tips:\n")]


def release(text: str = CHANGED, number: int = 2) -> Plan:
    return small_plan(text, number)


def decided(plan: Plan, number: int, slots: int = 1, model: BoundModel | None = None) -> tuple[DecisionEntry, Choice]:
    request = DecideRequest(customer_id=f"c{number}", placement="hero", slots=slots, context={"is_mobile": True})
    decision_id = f"000{NOW_MS:011x}{number:012x}"
    choice = decide(plan, model or prior_model(plan), CustomerState(), request, decision_id, NOW_MS, salt="s")
    entry = decision_entry(
        choice, request, decision_id, NOW_MS, release=plan.release, snapshot=0, state_version=0, took_us=1
    )
    return entry, choice


def judged(entry: DecisionEntry, plan: Plan, own: Plan) -> Judged:
    drawn = arbitrated(entry)
    assert isinstance(drawn, Arbitrated)
    found = judge(entry, drawn, plan, own)
    assert isinstance(found, Judged)
    return found


@pytest.mark.parametrize("text", [CATALOG, CHANGED, CHANGED.replace(PAY_CARD, "")])
def test_the_target_is_what_deciding_with_the_release_gives(text: str) -> None:
    own, other = small_plan(), release(text)
    entry, _ = decided(own, 1)
    found = judged(entry, other, own)
    again, choice = decided(other, 1)
    assert found.names == again.actions
    np.testing.assert_allclose(found.target, choice.slate.probability, atol=1e-9)
    np.testing.assert_allclose(found.model[:-1, 3], choice.utility.expected(), rtol=1e-6)
    np.testing.assert_allclose(found.model[:-1, 0], choice.utility.p_response)
    assert not found.model[-1].any(), "none earns nothing"
    assert found.expected == pytest.approx(found.target @ found.model)
    assert found.missed == 0.0


def with_goal(goal: float, stakes: float, gold: str, text: str = CATALOG) -> str:
    """Return a catalog whose hero has a goal (0: none) and stakes, and what a gold card is worth."""
    extra = f"stakes: {stakes}, " + (f"goal: {{event: came_back, within: 30m, value: {goal}}}, " if goal else "")
    return text.replace("{channel: web, impr", f"{{channel: web, {extra}impr").replace("value: 60", f"value: {gold}")


LEARNED = "{prior: 60, strength: 4}"
OWN = with_goal(30, 0.25, LEARNED)


def experienced(plan: Plan) -> BoundModel:
    """Return a model that has learned values, goals and how much to explore, whatever the release."""
    model, names = prior_model(plan), plan.action_names
    mean, value, count = model.mean.copy(), model.value.copy(), model.value_count.copy()
    for row, name in enumerate(names):
        mean[row] += np.random.default_rng(list(name.encode())).normal(0, 0.3, mean.shape[1])
    value[names.index("gold_card")], count[names.index("gold_card")] = 45.0, 12.0
    return replace(model, mean=mean, value=value, value_count=count, exploration=0.6)


@pytest.mark.parametrize(
    "text",
    [
        OWN,
        with_goal(90, 0.25, LEARNED),
        with_goal(0, 0.25, LEARNED),
        with_goal(30, 0.7, LEARNED, CHANGED.replace("value: 5", "value: 60")),
        with_goal(90, 0.0, "55"),
        with_goal(30, 1.0, LEARNED),
    ],
    ids=[
        "the same",
        "another goal value",
        "no goal",
        "stakes, exploration, exchange",
        "a declared worth",
        "sure",
    ],
)
def test_goal_stakes_learned_worth_and_exploration_are_what_deciding_gives(text: str) -> None:
    own, other = small_plan(OWN), release(text)
    for number in range(3):
        entry, _ = decided(own, number, model=experienced(own))
        _, choice = decided(other, number, model=experienced(other))
        assert entry.goal is not None
        found = judged(entry, other, own)
        np.testing.assert_allclose(found.target, choice.slate.probability, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.model[:-1, 1], choice.utility.p_response * choice.factors.value, rtol=1e-6)


def test_a_new_goal_moves_nothing_and_certainty_tells_no_calibration() -> None:
    own = small_plan(with_goal(0, 1.0, "60"))
    entry, _ = decided(own, 1, model=experienced(own))
    assert (entry.policy.scale, entry.policy.floor, entry.goal) == (0.0, 0.0, None)
    plain, goal = (judged(entry, release(with_goal(value, 0.5, "60")), own) for value in (0, 30))
    assert goal.target.tolist() == plain.target.tolist()
    assert 0.0 < plain.target.min() < plain.target.max() < 1.0, "stakes of 0.5 leave half of what is declared"


def test_the_release_that_decided_does_what_was_logged() -> None:
    own = small_plan()
    for number in range(5):
        entry, _ = decided(own, number, slots=3)
        found = judged(entry, own, own)
        assert found.chance == pytest.approx(entry.slots[0].propensity, abs=1e-9)


def test_what_the_moment_put_on_top_is_put_on_top_of_the_release() -> None:
    own = small_plan()
    entry, _ = decided(own, 1)
    _, table = unpack_factors(entry)
    boosted = table.copy()
    boosted[0, 4] = 3.0  # lever
    boosted[3, -1] += 500.0  # what else moved the utility of the last
    moved = structs.replace(entry, factors=boosted.tobytes(), policy=structs.replace(entry.policy, scale=0.5))
    before, after = judged(entry, release(), own), judged(moved, release(), own)
    assert after.model[0, 3] - before.model[0, 3] == pytest.approx(2 * 0.5 * 5.0, rel=0.01), (
        "three times the value of 5"
    )
    assert before.target[3] < 0.1
    assert after.target[3] > 0.9, "what else moved it stays"
    narrow = judged(structs.replace(entry, policy=structs.replace(entry.policy, scale=0.0)), release(), own)
    assert narrow.target.max() > 0.9, "no exploration but the floor then"


def test_a_dropped_action_is_never_chosen_and_keeps_its_worth() -> None:
    own = small_plan()
    entry, _ = decided(own, 1)
    chosen = entry.slots[0].action
    left = tuple(action for action in own.catalog.actions if action.name != chosen)
    found = judged(entry, Plan(structs.replace(own.catalog, actions=left), 2), own)
    assert (found.chance, found.terms.worth) == (0.0, own.catalog.actions[entry.actions.index(chosen)].value)
    assert chosen not in found.names
    assert found.target.sum() == pytest.approx(1.0)


def test_what_cannot_be_judged_says_why() -> None:
    own = small_plan()
    entry, _ = decided(own, 1)
    nowhere = release(CATALOG.replace("hero", "elsewhere"))
    mandatory = release(CATALOG.replace("class: service", "class: mandatory"))
    plans = {1: own}
    for plan, why in ((nowhere, "placement"), (mandatory, "mandatory")):
        assert consider(entry, Question(EVER, plan), plans.__getitem__) == why
    assert consider(entry, Question(EVER, own, "desk"), plans.__getitem__) == "other_placement"
    assert consider(entry, Question(Window(0, NOW_MS), own), plans.__getitem__) is None
    assert consider(structs.replace(entry, degraded=("x",)), Question(EVER, own), plans.__getitem__) == "degraded"


def test_who_does_not_want_to_be_learned_from_is_left_out() -> None:
    desk = busy_desk(20)
    desk.record("consent", customer_id="c3", properties={"learn": False})
    desk.clock.advance(60_000)
    desk.decide("c3")
    report = policy(desk, release())
    assert report.left_out["no_consent"] == 1


def test_estimates_are_those_of_counting() -> None:
    desk = busy_desk(150, slots=2)
    other = release()
    report = policy(desk, other)
    last = {(o.decision_id, o.slot): o for o in desk.observed}
    entries = [entry for entry in desk.log() if isinstance(entry, DecisionEntry)]
    worth = {"gold_card": 5.0, "travel_card": 90.0, "pay_card": 20.0, "tips": 1.0}
    weights, rewards = [], []
    for entry in entries:
        slot = entry.slots[0]
        weights.append(judged(entry, other, desk.plan).chance / slot.propensity)
        told = last.get((entry.decision_id, 0))
        accepted = float(told is not None and told.response == 1)
        points = told.experience if told is not None else 0.0
        value = accepted * worth.get(slot.action, 0.0)
        rewards.append((accepted, value, points, value + 3.0 * (1.0 + entry.policy.strain) * points))
    assert report.decisions == 150
    assert [each.reward for each in report.rewards] == ["acceptance", "value", "experience", "utility"]
    for k, each in enumerate(report.rewards):
        earned = np.array([row[k] for row in rewards])
        ips, snips = each.estimates[0], each.estimates[1]
        assert each.logged.value == pytest.approx(earned.mean())
        assert ips.value == pytest.approx(float((earned * weights).mean()))
        assert snips.value == pytest.approx(float((earned * weights).sum() / sum(weights)))
    assert report.releases == {1: 150}
    shares = {each.action: each.logged for each in report.actions}
    assert shares["gold_card"] == sum(e.slots[0].action == "gold_card" for e in entries) / 150
    assert sum(each.target for each in report.actions) == pytest.approx(1.0)


def test_the_logging_release_is_estimated_as_logged() -> None:
    desk = busy_desk(150)
    report = policy(desk, desk.plan)
    for each in report.rewards:
        assert each.estimates[0].difference == pytest.approx(0.0, abs=1e-6)
        assert each.estimates[1].difference == pytest.approx(0.0, abs=1e-6)
    assert report.reliable
    assert report.rewards[0].support.effective_rows == pytest.approx(150)


def test_young_and_unfinished_decisions_are_left_out() -> None:
    desk = busy_desk(120, seed=2)  # its own: it goes on
    decide_shown(desk, "late")
    desk.pass_time(60_000)
    still = decide_shown(desk, "later")
    desk.record("seen", decision_id=still)
    desk.record("accepted", decision_id=still)
    decisions = sum(isinstance(entry, DecisionEntry) for entry in desk.log())
    report = policy(desk, desk.plan)
    assert (report.decisions, report.left_out) == (120, {"young": decisions - 120})
    report = policy(desk, desk.plan, young=True)
    assert (report.decisions, report.left_out) == (decisions, {}), "one was not delivered, the other accepted"
    decide_shown(desk, "latest")
    assert policy(desk, desk.plan, young=True).left_out == {"unfinished": 1}


def test_a_log_without_propensities_or_overlap_is_refused() -> None:
    desk = busy_desk(30)
    plans = {1: desk.plan}

    def tally(change: Callable[[DecisionEntry], DecisionEntry]) -> PolicyTally:
        found = PolicyTally(Question(EVER, release()), Maturity(desk.clock.now_ms(), young=False), plans.__getitem__)

        def changed(entries: list[Entry]) -> None:
            found.take(change(entry) if isinstance(entry, DecisionEntry) else entry for entry in entries)

        fold(desk, changed)
        return found

    def unknown(entry: DecisionEntry) -> DecisionEntry:
        slots = tuple(structs.replace(slot, propensity=math.nan) for slot in entry.slots)
        return structs.replace(entry, slots=slots)

    def certain(entry: DecisionEntry) -> DecisionEntry:
        _, table = unpack_factors(entry)
        one = table.copy()
        one[:, -2] = [name == entry.slots[0].action for name in entry.actions]
        slots = tuple(structs.replace(slot, propensity=1.0) for slot in entry.slots)
        none = float(not entry.slots[0].action)
        return structs.replace(entry, factors=one.tobytes(), none_probability=none, slots=slots)

    with pytest.raises(Invalid, match=r"30 of 30 rows \(decision 0.* and 25 more\) have no propensity") as refused:
        tally(unknown).report(2, None)
    assert refused.value.code == "propensity_unknown"
    with pytest.raises(Invalid) as refused:
        tally(certain).report(2, None)
    assert refused.value.code == "no_overlap"
    with pytest.raises(Invalid, match="clip"):
        policy(desk, desk.plan, clip=-1.0)


def test_too_little_is_said_to_be_too_little() -> None:
    report = policy(busy_desk(30), release())
    assert not report.reliable
    assert "effective rows, 100 are needed" in report.rewards[0].support.reasons[0]
    nothing = policy(Desk(), release())
    assert (nothing.reliable, nothing.rewards, nothing.decisions) == (False, (), 0)
    assert "NOT RELIABLE: no decision counts" in shown(nothing)


def test_clipping_is_told() -> None:
    desk = busy_desk(150)
    plain, clipped = policy(desk, release()), policy(desk, release(), clip=1.0)
    assert plain.rewards[0].support.clipped_share == 0.0
    assert clipped.rewards[0].support.clipped_share > 0.05
    assert clipped.rewards[0].estimates[0].value != plain.rewards[0].estimates[0].value


def test_a_long_log_is_cut_to_the_newest() -> None:
    report = policy(busy_desk(60), release(), bound=20)
    assert (report.decisions, report.cut) == (20, True)


def test_a_release_that_is_not_there_is_unknown() -> None:
    with pytest.raises(Unknown, match="release 9 does not exist"):
        run(asked_plan(Desk().store, 9))


def shown(report: PolicyReport) -> str:
    text = StringIO()
    Console(width=100, file=text).print(show_policy(report))
    return text.getvalue()


def test_the_table_fits_a_hundred_columns() -> None:
    text = shown(policy(busy_desk(150), release()))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    for words in ("release 2 over 150", "snips", "sndr", "minus logged", "gold_card", "limit: ", "effective decisions"):
        assert words in text
    assert "…" not in text
