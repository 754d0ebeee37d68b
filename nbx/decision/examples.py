"""Examples of a catalog as tests: a customer and a request as told, and what must come out.

An example is decided as a request is, by `nbx.decision.choice.decide`, with a model that has learned nothing. The
customer is built from what is told: values of aggregates become the cells that give them, a step of a journey the
times of the shortest way to it. What is not told is as of a customer never met, outside every holdout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
from msgspec import Struct

from nbx.bandits.snapshot import BoundModel, bind
from nbx.catalog.model import Example, Given, Journey
from nbx.catalog.plan import Plan
from nbx.catalog.vocabulary import CLUSTER
from nbx.decision.choice import Choice, decide
from nbx.decision.messages import DecideRequest
from nbx.experience.holdout import assignment
from nbx.features.aggregates import HOUR_MS
from nbx.features.schema import Aggregate, Value
from nbx.features.state import Consent, CustomerState, Pause, ProfileValue, Tally
from nbx.limits import BUCKETS

SALT = "example"
_TRIES = 1000
"""Ids tried to find one that no holdout takes: with shares of 99 % one in a hundred is left."""
_STEP_MS = 1000
"""Between two steps of a journey."""
_DECISION_ID = "0" * 26


class ExampleResult(Struct, frozen=True):
    """How one example came out."""

    name: str
    passed: bool
    words: tuple[str, ...]
    """What was expected and what came, one sentence for each demand that was not met; empty when it passed."""


def run_examples(plan: Plan) -> tuple[ExampleResult, ...]:
    """Run every example of a catalog; in their order, and nothing is raised by one that fails.

    Examples
    --------
    >>> from nbx.catalog.model import Catalog, Example, Expect, Given, Placement
    >>> hero = Placement(name="hero", channel="web", impressions="reported")
    >>> quiet = Example(name="nothing to say", given=Given(placement="hero"), expect=Expect(silent=True))
    >>> run_examples(Plan(Catalog(name="bank", placements=(hero,), examples=(quiet,)), 1))
    (ExampleResult(name='nothing to say', passed=True, words=()),)
    """
    if not plan.catalog.examples:
        return ()
    model = bind(None, plan.layout.columns, plan.action_names, plan.action_groups)
    results = []
    for example in plan.catalog.examples:
        words = tuple(_contradictions(plan, example.given)) or tuple(_unmet(plan, model, example))
        results.append(ExampleResult(example.name, not words, words))
    return tuple(results)


def given_state(plan: Plan, given: Given) -> CustomerState:
    """Build the state of a customer as an example tells it.

    Examples
    --------
    >>> from nbx.catalog.model import Catalog
    >>> given_state(Plan(Catalog(name="bank"), 1), Given(placement="hero", relationship={"balance": -3.0})).balance
    -3.0
    """
    now_ms = given.at_ms
    origins = {feature.name: feature.origin for feature in plan.catalog.features}
    state = CustomerState(balance_at_ms=now_ms, holdout=given.holdout)
    for name, value in given.customer.items():
        origin = origins.get(name)
        if isinstance(origin, Aggregate):
            state.aggregates[name] = cells_of(origin, _kept(value), now_ms)
        else:
            state.profile[name] = ProfileValue(_kept(value), now_ms)
    for journey in plan.catalog.journeys:
        way = way_to(journey, given.journey.get(journey.name, "")) or ()
        times = {step: now_ms - _STEP_MS * back for back, step in enumerate(reversed(way))}
        state.journeys[journey.name] = times
    state.concerns = {name: [now_ms, 0] for name, is_open in given.concern.items() if is_open}
    for action, ago in given.seen.items():
        state.exposures[action] = sorted((now_ms - each) // 1000 for each in ago)
    seen_s = sorted(at_s for times in state.exposures.values() for at_s in times)
    if seen_s and given.placement in plan.placements:
        state.touches[plan.placements[given.placement].placement.channel] = seen_s
        state.last_prompt_ms = seen_s[-1] * 1000
    state.pauses = {action: Pause(now_ms + 86_400_000, "declined", "example/0") for action in given.paused}
    state.consent = {purpose: Consent(granted, now_ms) for purpose, granted in given.consent.items()}
    state.obligations = {topic: [now_ms, 0] for topic in given.obligations}
    told = given.relationship
    state.asked, state.given = (Tally(told.get(name, 0.0), now_ms) for name in ("asked", "given"))
    if "strain" in told:
        state.balance = _balance_at(told["strain"])
    state.balance = told.get("balance", state.balance)
    state.ignored_s = [now_ms // 1000] * int(told.get("ignored_30d", 0))
    if "minutes_since_prompt" in told:
        state.last_prompt_ms = now_ms - round(told["minutes_since_prompt"] * 60_000)
    return state


def _contradictions(plan: Plan, given: Given) -> Iterator[str]:
    """Say what of a customer cannot be."""
    if given.placement not in plan.placements:
        yield f"given: there is no placement {given.placement}; it has {', '.join(plan.placements) or 'none'}"
    if {"balance", "strain"} <= given.relationship.keys():
        yield "given: strain follows from balance: tell one of them"
    for journey in plan.catalog.journeys:
        step = given.journey.get(journey.name, "")
        if step and way_to(journey, step) is None:
            yield f"given: nobody comes to step {step} of journey {journey.name}: no way leads there"
    shares = {"silent": plan.catalog.holdout.silent, "random": plan.catalog.holdout.random}
    if given.holdout and not shares[given.holdout]:
        yield f"given: nobody is in holdout {given.holdout}: its share is 0"
    elif not given.holdout and _customer_id(plan) is None:
        yield "given: every customer is in a holdout: say in which one this is"


def _unmet(plan: Plan, model: BoundModel, example: Example) -> Iterator[str]:
    """Decide, and say what was expected and did not come."""
    given, expect = example.given, example.expect
    request = DecideRequest(
        customer_id=_customer_id(plan) or SALT,
        placement=given.placement,
        slots=given.slots,
        context={name: _kept(value) for name, value in given.request.items()},
    )
    purse = {f"{budget}/{kind}": 0 for budget in given.spent for kind in ("units", "money")}
    state = given_state(plan, given)
    if (cluster := int(given.relationship.get(CLUSTER, -1))) >= 0:
        model = of_cluster(model, cluster)
    choice = decide(plan, model, state, request, _DECISION_ID, given.at_ms, salt=SALT, purse=purse)
    placement = choice.placement
    came = dict.fromkeys(placement.names[position] for position in choice.positions.tolist())
    removed = {each.action: (each.reason, each.detail) for each in choice.removed}

    def told(action: str) -> str:
        if action not in placement.position:
            return f"it has no treatment for {given.placement}"
        if action in came:
            return "it is allowed"
        reason, detail = removed[action]
        return f"it is blocked by {reason}" + (f": {detail}" if detail else "")

    for action in expect.allowed:
        if action not in came:
            yield f"{action}: expected to be allowed; {told(action)}"
    for action, reason in expect.blocked.items():
        if action not in removed or reason not in ("", removed[action][0]):
            yield f"{action}: expected to be blocked{f' by {reason}' if reason else ''}; {told(action)}"
    for ranking in expect.ranked:
        yield from (f"{action}: expected to be ranked; {told(action)}" for action in ranking if action not in came)
        yield from _misranked([action for action in ranking if action in came], _worth(choice, came))
    if expect.silent and came:
        yield f"expected silence; allowed: {', '.join(came)}"


def of_cluster(model: BoundModel, cluster: int) -> BoundModel:
    """Return a model by which everybody is of a cluster: of all centres its own alone has the constant's 1."""
    centres = np.zeros((cluster + 1, 1), np.float32)
    centres[cluster] = 1.0
    return replace(model, cluster_at=np.zeros(1, np.int64), centres=centres)


def _worth(choice: Choice, came: Mapping[str, None]) -> dict[str, float]:
    """Return the expected utility of each candidate, in money."""
    return dict(zip(came, choice.utility.expected().tolist(), strict=True))


def _misranked(ranking: list[str], worth: Mapping[str, float]) -> Iterator[str]:
    for first, second in pairwise(ranking):
        if not worth[first] > worth[second]:
            yield (
                f"{first}: expected to be worth more than {second}; "
                f"it is worth {worth[first]:.4g}, {second} {worth[second]:.4g}"
            )


def _customer_id(plan: Plan) -> str | None:
    """Return an id that no holdout takes by its hash; None when there is hardly any."""
    nobody, policy = CustomerState(), plan.catalog.holdout
    ids = (f"{SALT}-{number}" for number in range(_TRIES))
    return next((each for each in ids if not assignment(each, nobody, policy, SALT)), None)


def cells_of(aggregate: Aggregate, value: Value, now_ms: int) -> list[Value]:
    """Return cells of an aggregate that give a value now; see `nbx.features.aggregates`."""
    if aggregate.kind == "last":
        return [value, now_ms]
    if aggregate.kind == "decayed_mean":
        return [value, 1.0, now_ms]
    if aggregate.kind == "time_since":
        return [now_ms - round(float(value) * HOUR_MS)]
    return [now_ms * BUCKETS // aggregate.window_ms, value]


def way_to(journey: Journey, step: str) -> tuple[str, ...] | None:
    """Return the shortest way to a step of a journey, first step first; None when there is none."""
    ways: dict[str, tuple[str, ...]] = {each.name: (each.name,) for each in journey.steps if not each.after}
    while step not in ways:
        further = {
            each.name: (*ways[before], each.name)
            for each in journey.steps
            for before in each.after
            if before in ways and each.name not in ways
        }
        if not further:
            return None
        ways |= further
    return ways[step]


def _balance_at(strain: float) -> float:
    """Return the balance that a strain follows from."""
    return 500.0 * (1 if strain <= 0.0 else -1) if not 0.0 < strain < 1.0 else math.log(1.0 / strain - 1.0)


def _kept(value: Value) -> Value:
    """Return a value as it is kept: whole numbers are numbers."""
    return value if isinstance(value, bool | str) else float(value)
