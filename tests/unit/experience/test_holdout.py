"""Who is held out: the shares come true, a share that moves moves nobody of the other, and no draw depends on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbx.catalog.model import Holdout
from nbx.experience.holdout import assignment
from nbx.features.state import CustomerState
from nbx.hashing import uniform

IDS = [f"customer-{n}" for n in range(20_000)]
NOBODY = CustomerState()


def held(policy: Holdout, kind: str, salt: str = "nbx", ids: list[str] = IDS) -> set[str]:
    return {each for each in ids if assignment(each, NOBODY, policy, salt) == kind}


@pytest.mark.parametrize("salt", ["nbx", "x", ""])
@pytest.mark.parametrize(("silent", "random"), [(0.05, 0.02), (0.5, 0.3), (0.0, 0.1), (0.1, 0.0), (0.4, 0.6)])
def test_the_shares_come_true(silent: float, random: float, salt: str) -> None:
    """Within 4.5 standard deviations of the binomial: of all cases here one in 5,000 runs would fail by chance."""
    policy = Holdout(silent=silent, random=random)
    for kind, share in (("silent", silent), ("random", random)):
        spread = math.sqrt(len(IDS) * share * (1 - share))
        assert abs(len(held(policy, kind, salt)) - len(IDS) * share) <= 4.5 * spread, kind


def test_nobody_and_everybody() -> None:
    assert held(Holdout(), "") == set(IDS)
    assert held(Holdout(silent=1.0), "silent") == set(IDS)
    assert held(Holdout(random=1.0), "random") == set(IDS)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_share_that_grows_keeps_its_customers_and_moves_none_of_the_other(
    silent: float, grown: float, random: float, other: float
) -> None:
    ids = IDS[:200]
    silent, grown = sorted((silent, grown))
    random, other = random * (1 - grown), other * (1 - grown)
    before, after = Holdout(silent=silent, random=random), Holdout(silent=grown, random=random)
    assert held(before, "silent", ids=ids) <= held(after, "silent", ids=ids)
    assert held(before, "random", ids=ids) == held(after, "random", ids=ids)
    moved = Holdout(silent=silent, random=other)
    assert held(moved, "silent", ids=ids) == held(before, "silent", ids=ids)
    less, more = sorted((before, moved), key=lambda policy: policy.random)
    assert held(less, "random", ids=ids) <= held(more, "random", ids=ids)


def test_another_salt_holds_out_others_and_no_draw_follows() -> None:
    policy = Holdout(silent=0.5)
    chosen, other = held(policy, "silent"), held(policy, "silent", "other")
    spread = math.sqrt(len(IDS) * 0.25)
    assert abs(len(chosen & other) - len(IDS) / 4) < 4.5 * spread, "independent of each other"
    drawn = np.array([uniform(f"{each}/0", "nbx") for each in IDS])
    inside = np.array([each in chosen for each in IDS])
    assert abs(drawn[inside].mean() - drawn[~inside].mean()) < 4.5 * math.sqrt(1 / 12) * 2 / math.sqrt(len(IDS))


def test_what_a_merge_fixed_holds_while_its_kind_has_a_share() -> None:
    silent, by_chance = CustomerState(holdout="silent"), CustomerState(holdout="random")
    both = Holdout(silent=0.001, random=0.001)
    assert {assignment(each, silent, both, "nbx") for each in IDS[:200]} == {"silent"}
    assert {assignment(each, by_chance, both, "nbx") for each in IDS[:200]} == {"random"}
    assert {assignment(each, silent, Holdout(), "nbx") for each in IDS[:200]} == {""}
    only = Holdout(random=0.5)
    assert {e for e in IDS[:200] if assignment(e, silent, only, "nbx")} == held(only, "random", ids=IDS[:200])
