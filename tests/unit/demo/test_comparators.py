"""Other policies live by serving's rules: limits, pauses, fold and timers are the service's own code."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from nbx.catalog.parse import parse_catalog
from nbx.catalog.plan import Plan
from nbx.demo.comparators import Play, Ranking, by_value, random, single
from nbx.demo.run import DAY_MS, FACTOR, demo_catalog
from nbx.demo.tally import Tally
from nbx.demo.world import World

SAMPLE = Path(__file__).parents[3] / "examples" / "retail_bank.yaml"
START_MS = 1_790_000_000_000


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(demo_catalog(parse_catalog(SAMPLE.read_text())), 1)


@pytest.fixture(scope="module")
def world() -> World:
    return World(5, customers=60, visits=900, length_ms=60_000, day_ms=DAY_MS / FACTOR)


def _played(world: World, plan: Plan, policy: Ranking) -> tuple[Play, Tally]:
    play = Play(world, plan, policy, START_MS)
    return play, play.run(world.visits)


def test_the_fold_books_what_customers_lived_through(world: World, plan: Plan) -> None:
    play, tally = _played(world, plan, random(5))
    lived = Counter(outcome for visit in tally.visits for outcome in visit.outcomes)
    booked = Counter(play.outcomes())
    mandatory = booked - lived
    assert not lived - booked
    assert set(mandatory) <= {"accepted", "declined", "ignored", "not_seen", "complained"}
    assert booked["ignored"] > 0, "attention timers spoke"


def test_a_single_action_keeps_its_limit_and_its_pause(world: World, plan: Plan) -> None:
    _, tally = _played(world, plan, single("mortgage_rate_check"))
    summary = tally.summary()
    assert 0 < summary.prompts < summary.visits / 5
    assert summary.silent > 0.8


def test_random_shows_many_actions_and_is_silent_when_nothing_is_allowed(world: World, plan: Plan) -> None:
    _, tally = _played(world, plan, random(5))
    summary = tally.summary()
    assert 0 < summary.silent < 0.6
    assert summary.balance < 0


def test_a_value_ranking_earns_more_than_chance(world: World, plan: Plan) -> None:
    _, by_chance = _played(world, plan, random(5))
    _, ranked = _played(world, plan, by_value(plan.catalog))
    assert ranked.summary().value_per_visit > by_chance.summary().value_per_visit


def test_the_same_world_plays_out_the_same(world: World, plan: Plan) -> None:
    assert _played(world, plan, random(5))[1].summary() == _played(world, plan, random(5))[1].summary()


def test_mandatory_notices_are_shown_and_not_counted(world: World, plan: Plan) -> None:
    play, tally = _played(world, plan, Ranking(lambda _, __: None))
    assert sum(play.outcomes().values()) > 0
    assert tally.summary().prompts == 0
    assert tally.summary().silent == 1.0
