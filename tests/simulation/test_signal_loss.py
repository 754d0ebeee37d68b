"""A world whose acceptance is known, and channels that lose their `seen` events: estimates, alarm and recovery.

The life cycle, the fold, the weighing and the learner are the real ones, on one event queue; no store. Estimates are
acceptance per action given exposure, from a learner with one column. A second learner hears the same outcomes with the
weights of the log, unprotected: it shows that the losses can do harm.
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Literal

import numpy as np
import pytest
from msgspec import msgpack

from nbx.bandits.learner import LearnedSites, Learner
from nbx.bandits.signals import Signal
from nbx.bandits.teaching import Teaching
from nbx.experience import lifecycle
from nbx.experience.entries import Event, EventEntry, Outcome, TimerEntry
from nbx.experience.fold import fold
from nbx.experience.lifecycle import OpenDecision, OpenSlot
from nbx.features.state import CustomerState
from nbx.features.store import Timer
from nbx.runtime.weighing import Weighing, observation_of
from tests.worlds import small_plan

BEGIN_MS = 1_800_000_000_000
EVERY_MS = 1_000
VIEWABLE = 0.7
DECLINES = 0.1
ACCEPTS = {"web": {"web_low": 0.25, "web_high": 0.4}, "app": {"app_low": 0.25, "app_high": 0.4}}
ACTIONS = "".join(
    f"\n  {action}: {{group: all, value: 1, gives: [x], treatments: {{t: {{placements: [{placement}]}}}}}}"
    for placement, actions in ACCEPTS.items()
    for action in actions
)
CATALOG = f"""
catalog: signals
features:
  one: {{type: number, default: 1, encode: {{standard: {{mean: 0, sd: 1}}}}}}
placements:
  web: {{channel: web, impressions: reported, delivery: 60s, attention: 5m, default: {{action: web_low, treatment: t}}}}
  app: {{channel: app, impressions: reported, delivery: 60s, attention: 5m, default: {{action: app_low, treatment: t}}}}
groups:
  all: {{topic: all}}
actions:{ACTIONS}
"""
RULES = small_plan(CATALOG).rules

Loss = Literal["none", "all", "partial", "answered", "never"]


class World:
    """Impressions of two placements, and learners that hear of them."""

    def __init__(self, seed: int, *, learns: bool = True) -> None:
        self.rng = np.random.default_rng(seed)
        self.learns = learns
        self.now_ms = BEGIN_MS
        self.loss: dict[str, Loss] = {"web": "none", "app": "none"}
        self.learner, self.unprotected = Learner(), Learner()
        self.learner.register_layout(1, ["one"])
        self.unprotected.register_layout(1, ["one"])
        self.weighing = Weighing()
        self.decisions: dict[str, tuple[CustomerState, OpenDecision]] = {}
        self.outcomes: list[Outcome] = []
        self._sites: dict[str, LearnedSites] = {}
        self._unprotected_sites: dict[str, LearnedSites] = {}
        self._queue: list[tuple[int, int, str, str]] = []
        """(time, order, decision, event type or timer member)"""
        self._timers: dict[str, int] = {}
        self._count = 0

    def live(self, impressions: int) -> None:
        """Show something on each placement in turn, and let what is due happen."""
        for n in range(impressions):
            self._show(("web", "app")[n % 2])
            self.now_ms += EVERY_MS
            self._run(self.now_ms)

    def settle(self) -> None:
        """Let all timers run out."""
        self._run(self.now_ms + 86_400_000)

    def error(self, placement: str) -> float:
        """Return the relative error of the estimates, mean over the placement's actions."""
        return error(self.learner, ACCEPTS[placement])

    def harm(self, placement: str) -> float:
        """Return the same without the protection."""
        return error(self.unprotected, ACCEPTS[placement])

    def signal(self, placement: str) -> Signal:
        return self.weighing.teaching.signals[placement]

    def evidence(self, placement: str) -> float:
        return sum(self.learner.evidence[action] for action in ACCEPTS[placement])

    def _show(self, placement: str) -> None:
        self._count += 1
        decision_id = f"000{self.now_ms:011x}{self._count:012x}"
        action = list(ACCEPTS[placement])[int(self.rng.integers(2))]
        slot = OpenSlot(action, "t", action, 60_000, 300_000)  # a group of its own: nothing is pooled
        decision = OpenDecision(f"c{self._count}", self.now_ms, placement, 1, np.ones(1, "<f4").tobytes(), [slot])
        self.decisions[decision_id] = CustomerState(), decision
        self._arm(lifecycle.timers(decision_id, 0, slot, self.now_ms)[0])
        self._later(decision_id, "delivered", 100)
        if self.rng.random() < VIEWABLE:
            draw, accepts = self.rng.random(), ACCEPTS[placement][action]
            answer = "accepted" if draw < accepts else "declined" if draw < accepts + DECLINES else ""
            if answer:
                self._later(decision_id, answer, 3_000)
            if self._reports(placement, answer):
                self._later(decision_id, "seen", 6_000 if self.rng.random() < 0.1 else 600)

    def _reports(self, placement: str, answer: str) -> bool:
        share = {"none": 0.95, "all": 0.0, "never": 0.0, "partial": 0.7 * 0.95, "answered": 0.0 if answer else 0.95}
        return self.rng.random() < share[self.loss[placement]]

    def _later(self, decision_id: str, what: str, in_ms: int) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now_ms + in_ms, self._count, decision_id, what))

    def _arm(self, timers: list[Timer] | tuple[Timer, ...]) -> None:
        for timer in timers:
            self._timers[timer.member] = timer.due_ms
            self._count += 1
            heapq.heappush(self._queue, (timer.due_ms, self._count, timer.member.split(":")[1], timer.member))

    def _run(self, until_ms: int) -> None:
        while self._queue and self._queue[0][0] <= until_ms:
            at_ms, _, decision_id, what = heapq.heappop(self._queue)
            state, decision = self.decisions[decision_id]
            entry: EventEntry | TimerEntry
            if ":" in what:
                if self._timers.get(what) != at_ms:
                    continue
                entry = TimerEntry(
                    customer_id="", at_ms=at_ms, release=1, decision_id=decision_id, slot=0, kind=what.split(":")[0]
                )
            else:
                event = Event(event_id="", type=what, decision_id=decision_id)
                entry = EventEntry(customer_id="", at_ms=at_ms, release=1, event=event, received_ms=at_ms)
            folded = fold(state, decision, entry, RULES)
            for member in folded.cancel:
                self._timers.pop(member, None)
            self._arm(folded.arm)
            for outcome in folded.outcomes:
                self._learn(outcome)

    def _learn(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        before = self._sites.get(outcome.decision_id)
        observation = self.weighing.observation(outcome, before)
        if not self.learns:
            return
        self._sites[outcome.decision_id] = self.learner.learn(observation, before)
        self._unprotected_sites[outcome.decision_id] = self.unprotected.learn(
            observation_of(outcome), self._unprotected_sites.get(outcome.decision_id)
        )


def estimate(learner: Learner, action: str) -> float:
    snapshot = learner.snapshot(1, 1)
    mean = np.frombuffer(snapshot.mean, "<f4")[snapshot.actions.index(action)]
    return float(1 / (1 + np.exp(-mean)))


def error(learner: Learner, truths: dict[str, float]) -> float:
    return float(np.mean([estimate(learner, action) / truth - 1 for action, truth in truths.items()]))


def lived(seed: int, loss: Loss, lossy: int) -> tuple[World, int]:
    """Live 4,000 impressions as usual and some with a loss on the web; returns the answers until the alarm, or −1."""
    world = World(seed)
    world.live(4_000)
    assert not world.signal("web").lost
    world.loss["web"] = loss
    before = world.signal("web").answers.taken
    alarm = -1
    for _ in range(lossy // 10):
        world.live(10)
        if world.signal("web").lost and alarm < 0:
            alarm = world.signal("web").answers.taken - before
    assert not world.signal("app").lost
    return world, alarm


BOUND = 0.1
"""Of the relative error: twice its standard error after 4,000 impressions (0.04), and 0.02 for the learner."""


@pytest.mark.parametrize("loss", ["all", "answered"])
def test_a_lost_signal_pauses_its_placement_and_harms_no_estimate(loss: Loss) -> None:
    world, alarm = lived(4, loss, 1_500)
    assert 0 < alarm <= 40, "answers until the alarm"
    assert abs(world.error("web")) < BOUND
    assert loss == "answered" or world.harm("web") > 0.2, "without the protection"
    assert abs(world.harm("app")) < BOUND
    paused, others = world.evidence("web"), world.evidence("app")
    world.live(200)
    assert world.evidence("web") == paused, "what is paused teaches nothing"
    assert world.evidence("app") > others
    world.loss["web"] = "none"
    before = world.signal("web").answers.taken
    world.live(1_000)
    world.settle()
    assert not world.signal("web").lost, "released by itself"
    assert world.signal("web").answers.taken > before + 30
    assert world.evidence("web") > paused + 100
    assert abs(world.error("web")) < BOUND
    assert abs(world.error("app")) < BOUND


def test_a_partial_loss_costs_evidence_and_not_the_truth() -> None:
    world, alarm = lived(4, "partial", 3_000)
    assert alarm < 0, "0.7 of the usual share: it goes on learning from what is reported"
    assert abs(world.error("web")) < BOUND
    assert world.signal("web").answers.recent < 0.85, "and the metric shows it"
    assert world.harm("web") > 0.1, "without the protection"


def test_a_channel_that_never_reports_teaches_by_its_answers() -> None:
    world = World(9)
    world.loss["web"] = "never"
    world.live(2_000)
    world.settle()
    signal = world.signal("web")
    assert (signal.reports, signal.lost) == (False, False)
    answered = sum(o.placement == "web" and o.response is not None for o in world.outcomes)
    assert world.evidence("web") == pytest.approx(answered)
    expected = ACCEPTS["web"]["web_high"] / (ACCEPTS["web"]["web_high"] + DECLINES)
    assert estimate(world.learner, "web_high") == pytest.approx(expected, abs=0.06), "among those who answer"


def test_a_seen_after_its_answer_is_not_lost() -> None:
    world = World(11)
    world.live(1_000)
    world.settle()
    late = [o for o in world.outcomes if o.revision > 0 and o.previous == o.outcome]
    assert len(late) > 5
    assert all(o.seen_reported and not o.previous_seen_reported for o in late)
    final = {o.decision_id: o for o in world.outcomes if o.response is not None}
    reported = Counter(o.placement for o in final.values() if o.seen_reported)
    # a placement takes its first answers as they come, until one was reported
    assert world.evidence("web") == pytest.approx(reported["web"], abs=2)
    assert world.evidence("app") == pytest.approx(reported["app"], abs=2)


def test_corrections_tell_what_they_replace() -> None:
    rng = np.random.default_rng(1)
    kinds = ["delivered", "seen", "accepted", "declined", "dismissed", "converted", "failed", "complained"]
    corrected = 0
    for _ in range(300):
        slot = OpenSlot("web_low", "t", "all", 60_000, 300_000)
        decision = OpenDecision("c", BEGIN_MS, "web", 1, np.ones(1, "<f4").tobytes(), [slot])
        state, told = CustomerState(), list[Outcome]()
        heard: set[str] = set()
        for at_ms in range(BEGIN_MS, BEGIN_MS + 5):
            kind = str(rng.choice(kinds))
            cause = str(rng.choice(["", "timing", "execution"]))
            event = Event(event_id="", type=kind, decision_id=f"000{BEGIN_MS:011x}{1:012x}", cause=cause)
            entry = EventEntry(customer_id="c", at_ms=at_ms, release=1, event=event, received_ms=at_ms)
            outcomes = fold(state, decision, entry, RULES).outcomes
            assert kind != "seen" or kind not in heard or not outcomes, "the second says nothing new"
            heard.add(kind)
            told += outcomes
        assert [o.previous_cause for o in told] == ["", *(o.cause for o in told[:-1])][: len(told)]
        assert [o.previous_seen_reported for o in told] == [False, *(o.seen_reported for o in told[:-1])][: len(told)]
        if told and told[-1].outcome in ("accepted", "declined", "dismissed", "converted"):
            assert told[-1].seen_reported == ("seen" in heard), "as if the `seen` had come first"
        corrected += len(told) > 1
    assert corrected > 100


def test_the_state_goes_on_from_a_checkpoint_to_the_bit() -> None:
    whole = World(4, learns=False)
    whole.live(2_000)
    whole.loss["web"] = "all"
    whole.live(1_000)
    assert whole.signal("web").lost
    whole.loss["web"] = "none"
    whole.live(1_000)
    assert not whole.signal("web").lost
    for at in (0, 700, 1_900, 2_600, len(whole.outcomes)):
        first = Weighing()
        for outcome in whole.outcomes[:at]:
            first.observation(outcome, None)
        packed = msgpack.encode(first.teaching)
        second = Weighing(msgpack.decode(packed, type=Teaching))
        assert msgpack.encode(second.teaching) == packed
        for outcome in whole.outcomes[at : at + 500]:
            assert first.observation(outcome, None) == second.observation(outcome, None)
        assert msgpack.encode(first.teaching) == msgpack.encode(second.teaching)
