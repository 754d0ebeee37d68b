"""What is declined on one channel through one process does not come back on another channel through another process."""

from __future__ import annotations

import pytest

from benchmarks.bench_continuity import Continuity, measure

PAIRS = 500


def check(found: Continuity, pairs: int) -> None:
    """See that nothing came back, and that pairs were what they are meant to be."""
    print(found.told())  # noqa: T201 - the bound that is proved here
    assert found.repeats == [], found.repeats[:5]
    assert found.unseen == [], "decided on a state from before the event was acknowledged"
    pairs += pairs // 10
    assert sum(map(len, found.visible_ms.values())) == pairs
    assert found.shared > pairs / 5, "hardly any customer was busy with several pairs"
    assert found.removed == pairs - found.degraded, "the declined action is no candidate of the other channel"
    assert found.degraded <= pairs / 100


def test_a_declined_action_and_its_group_do_not_come_back_on_the_other_channel() -> None:
    check(measure(PAIRS), PAIRS)


@pytest.mark.nightly
def test_ten_thousand_pairs_and_no_repeat() -> None:
    check(measure(10_000), 10_000)
