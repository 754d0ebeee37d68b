"""Clusters recover planted groups and touch tracks, begin anew when told, and continue from a checkpoint to the bit."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from river.metrics import AdjustedRand

from nbx.bandits import snapshot as snapshots
from nbx.bandits.clusters import RATE, WARM_UP, Answer, Clustering, ClusteringState, seeded
from nbx.bandits.learner import Learner
from nbx.bandits.snapshot import CLUSTER_COLUMN, BoundModel, Snapshot, Step, bind, decode_snapshot
from nbx.bandits.tracks import HALF_LIFE_MS, KEPT, Decayed, Track
from nbx.features import vector

F64 = NDArray[np.float64]
FEATURES = ("spend", "visits")
LAYOUT = ("bias", "spend", "visits", "other", *(f"{CLUSTER_COLUMN}{k}" for k in range(4)))
GROUPS = np.array([[-1.5, -1.0], [1.5, -1.0], [-1.0, 1.5], [1.5, 1.5]])


def answer(row: F64, number: int, **more: object) -> Answer:
    told = {"balance": 0.0, "at_ms": number * 1000, "after": "", "action": "a", "first": True, "accepted": False}
    return Answer(**{"vector": row.astype("<f4").tobytes(), **told, **more})  # type: ignore[arg-type]


def learning(count: int = 4, release: int = 1) -> Clustering:
    clustering = Clustering()
    clustering.register(release, FEATURES, count, LAYOUT, FEATURES)
    return clustering


def served(clustering: Clustering, columns: tuple[str, ...] = LAYOUT) -> BoundModel:
    """What a worker has, after a way through the bytes of a snapshot."""
    learner = Learner()
    learner.register_layout(1, columns)
    snapshot = msgspec.structs.replace(learner.snapshot(1, 1), **clustering.told())
    return bind(decode_snapshot(snapshots.encode(snapshot)), columns, ["a"], ["g"])


def of(model: BoundModel, row: F64) -> int:
    x = np.zeros(len(LAYOUT), np.float32)
    x[1:3] = row
    return model.cluster_of(x)


@pytest.mark.parametrize("seed", range(8))
def test_planted_groups_are_recovered_whatever_comes_first(seed: int) -> None:
    """Groups of unequal size, two and a half to three standard deviations apart: index ≥ 0.95, 0.97 at the median."""
    rng = np.random.default_rng(seed)
    group = rng.choice(4, size=1_500, p=[0.4, 0.3, 0.2, 0.1])
    rows = GROUPS[group] + rng.normal(scale=0.4, size=(1_500, 2))
    clustering = learning()
    for number, row in enumerate(rows):
        clustering.learn(answer(row, number))
    model, index = served(clustering), AdjustedRand()
    for truth, row in zip(group.tolist(), rows, strict=True):
        index.update(truth, of(model, row))
    assert index.get() >= 0.95
    assert sum(clustering.told()["cluster_sizes"]) == pytest.approx(1_500, rel=0.01)


def test_centres_follow_a_group_that_changes() -> None:
    rng = np.random.default_rng(3)
    clustering = learning(count=2)
    for number in range(1_500):
        drift = 1.0 if number >= 500 else 0.0
        centre = np.array([3.0 + drift, 0.0]) if number % 2 else np.array([-3.0, 0.0])
        clustering.learn(answer(centre + rng.normal(scale=0.2, size=2), number))
    assert served(clustering).centres[:, 0].tolist() == pytest.approx([-3.0, 4.0], abs=0.15)


def test_nobody_has_a_cluster_before_there_are_enough_answers() -> None:
    clustering = learning()
    rng = np.random.default_rng(1)
    for number in range(WARM_UP):
        assert of(served(clustering), np.zeros(2)) == -1
        clustering.learn(answer(rng.normal(size=2), number))
    assert of(served(clustering), np.zeros(2)) >= 0


def test_fewer_kinds_of_customers_give_fewer_clusters_until_another_comes() -> None:
    clustering = learning(count=3)
    for number in range(WARM_UP):
        clustering.learn(answer(np.array([float(number % 2), 0.0]), number))
    assert served(clustering).centres.tolist() == [[0.0, 0.0], [1.0, 0.0]]
    clustering.learn(answer(np.array([0.0, 5.0]), WARM_UP))
    clustering.learn(answer(np.array([0.0, 9.0]), WARM_UP + 1))
    last = np.float32(5.0 + RATE * 4.0)
    assert served(clustering).centres.tolist() == [[0.0, 0.0], [1.0, 0.0], [0.0, last]], "and no more than declared"


def test_a_checkpoint_continues_to_the_bit_also_while_answers_wait() -> None:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(400, 2))
    for cut in (50, WARM_UP, 300):
        whole, first = learning(), learning()
        for number, row in enumerate(rows):
            more = {"accepted": number % 3 == 0, "balance": float(row[0]), "action": f"a{number % 5}"}
            whole.learn(answer(row, number, **more))
            if number == cut:
                packed = msgspec.msgpack.encode(first.encode())
                first = Clustering(msgspec.msgpack.decode(packed, type=ClusteringState))
            first.learn(answer(row, number, **more))
        assert msgspec.msgpack.encode(first.encode()) == msgspec.msgpack.encode(whole.encode())
        assert first.told() == whole.told()


def test_a_planted_touch_track_is_found() -> None:
    """In the first group those who are well served go card → savings, the others card → loan, more often."""
    rng = np.random.default_rng(7)
    clustering = learning(count=2)
    for number in range(600):
        second = bool(number % 2)
        row = np.array([3.0 if second else -3.0, 0.0]) + rng.normal(scale=0.2, size=2)
        well = rng.random() < 0.4
        then = "pension" if second else ("savings" if well else "loan")
        clustering.learn(answer(row, number, balance=2.0 if well else -4.0, after="card", action=then, accepted=True))
    model = served(clustering)
    poor, rich = of(model, np.array([-3.0, 0.0])), of(model, np.array([3.0, 0.0]))
    assert (model.track[poor, "card"], model.track[rich, "card"]) == ("savings", "pension")
    loans = sum(step.count for step in clustering.told()["track"] if step.next == "loan")
    assert loans < 10, "only while the mean was not known"


def test_a_later_outcome_of_a_slot_is_no_new_answer_but_may_be_an_acceptance() -> None:
    clustering = learning(count=2)
    for number in range(WARM_UP):
        clustering.learn(answer(np.array([float(number % 2), 0.0]), number))
    before = clustering.told()
    clustering.learn(answer(np.array([0.9, 0.0]), WARM_UP, first=False, accepted=True, after="card", action="loan"))
    after = clustering.told()
    assert (after["centres"], after["cluster_sizes"]) == (before["centres"], before["cluster_sizes"])
    assert [(step.cluster, step.after, step.next) for step in after["track"]] == [(1, "card", "loan")]


def test_other_features_begin_anew_and_other_columns_do_not() -> None:
    clustering = learning(count=2)
    for number in range(WARM_UP):
        clustering.learn(answer(np.array([float(number % 2), 0.0]), number))
    clustering.register(2, FEATURES, 2, ("bias", "new", "visits", "spend"), ("new", "spend", "visits"))
    assert clustering.told()["cluster_columns"] == ["spend", "visits", "new"]
    assert np.frombuffer(clustering.told()["centres"], "<f4").tolist() == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    x = np.array([1.0, 7.0, 5.0, 3.0], np.float32)
    assert np.frombuffer(clustering.vector(2, x.tobytes()) or b"", "<f4").tolist() == [3.0, 5.0, 7.0]
    assert np.frombuffer(clustering.vector(1, x.tobytes()) or b"", "<f4").tolist() == [7.0, 5.0, 0.0], "it lacks one"
    clustering.register(3, ("spend",), 2, LAYOUT, ("spend",))
    assert clustering.told()["cluster_sizes"] == []
    assert clustering.vector(2, x.tobytes()) is None, "an older release tells customers apart otherwise"
    clustering.register(2, FEATURES, 2, LAYOUT, FEATURES)
    assert clustering.encode().features == ("spend",), "the latest release has the say"


def test_binding_aligns_centres_by_the_names_of_columns() -> None:
    clustering = learning(count=2)
    for number in range(WARM_UP):
        clustering.learn(answer(np.array([float(number % 2), 0.0]), number))
    turned = ("bias", "visits", "spend", f"{CLUSTER_COLUMN}0", f"{CLUSTER_COLUMN}1")
    model = served(clustering, turned)
    assert model.cluster_of(np.array([1.0, 0.0, 0.9, 0.0, 0.0], np.float32)) == 1
    without_visits = tuple(name for name in turned if name != "visits")
    assert served(clustering, without_visits).cluster_of(np.array([1.0, 0.9, 0.0, 0.0], np.float32)) == 1
    for columns in (("bias", "spend", "visits"), ("bias", f"{CLUSTER_COLUMN}0"), turned[:-1]):
        assert served(clustering, columns).cluster_of(np.zeros(5, np.float32)) == -1, "not declared, no room"
    assert vector.CLUSTER_COLUMN == CLUSTER_COLUMN


def test_a_snapshot_with_centres_of_another_shape_is_refused() -> None:
    good: Snapshot = Learner().snapshot(1, 0)
    bad = msgspec.structs.replace(good, cluster_columns=["spend"], cluster_sizes=[1.0], centres=b"1234" * 2)
    with pytest.raises(ValueError, match="centres has 8 bytes where 4 are expected"):
        decode_snapshot(snapshots.encode(bad))


def test_rare_transitions_are_no_track() -> None:
    steps = [Step(0, "card", "loan", 4.9), Step(0, "", "card", 5.0), Step(0, "", "loan", 5.0)]
    told = {"cluster_columns": ["spend"], "cluster_sizes": [9.0], "centres": b"\0" * 4, "track": steps}
    model = bind(msgspec.structs.replace(Learner().snapshot(1, 0), columns=["bias"], **told), LAYOUT, ["a"], ["g"])
    assert model.track == {(0, ""): "card"}


def test_transitions_fade_and_the_rarest_makes_room() -> None:
    track = Track()
    track.answered(0.0, 0)
    for number in range(KEPT + 1):
        track.accepted(0.0, "x", f"a{number}", at_ms=number)
        track.accepted(0.0, "x", "a0", at_ms=number)
    steps = track.steps(0, KEPT)
    assert len(steps) == KEPT
    assert steps[0].next == "a0"
    assert "a1" not in {step.next for step in steps}
    assert track.steps(0, KEPT + HALF_LIFE_MS)[0].count == pytest.approx(steps[0].count / 2, rel=1e-6)


def test_sums_that_fade_do_not_mind_the_order() -> None:
    early, late = Decayed(), Decayed()
    for total, times in ((early, (0, HALF_LIFE_MS)), (late, (HALF_LIFE_MS, 0))):
        for at_ms in times:
            total.add(1.0, at_ms)
    assert early.at(HALF_LIFE_MS) == late.at(HALF_LIFE_MS) == 1.5


def test_seeds_are_the_same_for_the_same_vectors() -> None:
    rows = np.random.default_rng(2).normal(size=(WARM_UP, 3))
    assert seeded(rows, 5).tobytes() == seeded(rows, 5).tobytes()
    assert seeded(rows, 5).shape == (5, 3)
