"""The simulated bank: same seed, same people; tiredness and faults have the effects they claim."""

from __future__ import annotations

import numpy as np
import pytest

from nbx.demo.world import AGENT_SKIPS, CALLS, PAGE_ERRORS, Mind, Response, Visit, World

DAY_MS = 1_000


def _world(seed: int = 3) -> World:
    return World(seed, customers=80, visits=2_000, length_ms=20_000, day_ms=DAY_MS)


def _web(world: World) -> list[Visit]:
    return [visit for visit in world.visits if not visit.is_call]


def _lived(world: World, visits: list[Visit], action: str, *, implicit: bool) -> list[Response]:
    return [world.respond(visit, action, Mind(), visit.at_ms, implicit=implicit) for visit in visits]


def test_one_seed_makes_one_world() -> None:
    first, second, other = _world(), _world(), _world(seed=4)
    assert first.visits == second.visits
    assert first.customers == second.customers
    assert first.visits != other.visits


def test_visits_come_in_order_and_are_numbered_per_customer() -> None:
    world = _world()
    times = [visit.at_ms for visit in world.visits]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < 20_000
    for customer in range(5):
        numbers = [visit.number for visit in world.visits if visit.customer == customer]
        assert numbers == list(range(len(numbers)))


def test_shares_are_those_declared() -> None:
    world = _world()
    calls = sum(visit.is_call for visit in world.visits) / len(world.visits)
    assert calls == pytest.approx(CALLS, abs=0.03)
    web = _web(world)
    failed = sum(r.steps[0].type == "failed" for r in _lived(world, web, "security_checkup", implicit=False))
    assert failed / len(web) == pytest.approx(PAGE_ERRORS, abs=0.025)
    on_calls = [visit for visit in world.visits if visit.is_call]
    skipped = [
        r for r in _lived(world, on_calls, "savings_start", implicit=True) if r.steps[:1] and r.outcome == "not_seen"
    ]
    assert len(skipped) / len(on_calls) == pytest.approx(AGENT_SKIPS, abs=0.06)
    assert all(r.steps[0].by == "agent" for r in skipped)


def test_policies_meet_the_same_luck() -> None:
    world = _world()
    visit = _web(world)[10]
    assert world.respond(visit, "travel_card", Mind(), 0, implicit=False) == world.respond(
        visit, "travel_card", Mind(), 0, implicit=False
    )


def test_fatigue_costs_acceptance_and_fades() -> None:
    world = _world()
    visit = _web(world)[0]
    fresh, tired = world.chance(visit, "savings_start", Mind()), world.chance(visit, "savings_start", Mind(fatigue=2.0))
    assert tired < fresh
    mind = Mind(fatigue=2.0)
    world.respond(visit, "savings_start", mind, 30 * DAY_MS, implicit=False)
    assert mind.fatigue < 2.0


def test_what_is_best_differs_between_customers() -> None:
    world = _world()
    actions = ("card_upgrade", "savings_start", "pension_review", "travel_card", "app_setup_help")
    best = {max(actions, key=lambda a: world.chance(visit, a, Mind())) for visit in _web(world)[:200]}
    assert len(best) >= 4


def test_steps_are_in_order_and_end_in_the_outcome() -> None:
    world = _world()
    outcomes = set()
    for response in _lived(world, _web(world), "virtual_card", implicit=False):
        delays = [step.delay_ms for step in response.steps]
        assert delays == sorted(delays)
        last = response.steps[-1].type
        assert response.outcome == ("ignored" if last == "seen" else last)
        assert response.seen == any(step.type == "seen" for step in response.steps)
        outcomes.add(response.outcome)
    assert {"accepted", "declined", "dismissed", "ignored", "failed"} <= outcomes


def test_complaints_grow_with_what_went_wrong() -> None:
    world = _world()
    web = _web(world)

    def complaints(mind: Mind) -> int:
        responses = (
            world.respond(v, "home_energy_loan", Mind(mind.fatigue, mind.goodwill, v.at_ms), v.at_ms, implicit=False)
            for v in web
        )
        return sum(response.outcome == "complained" for response in responses)

    assert complaints(Mind(fatigue=4.0, goodwill=-3.0)) > complaints(Mind())


def test_an_unknown_action_is_taken_coolly() -> None:
    world = _world()
    chances = [world.chance(visit, "something_new", Mind()) for visit in world.visits[:50]]
    assert 0.02 < float(np.mean(chances)) < 0.2
