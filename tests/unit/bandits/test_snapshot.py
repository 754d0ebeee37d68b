"""Snapshots: round trip, refusals, alignment to a plan."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from nbx.bandits.learner import Learner
from nbx.bandits.snapshot import Snapshot, bind, decode_snapshot, encode

COLUMNS = ["one", "age", "rain"]
MEAN = np.arange(6, dtype="<f4").reshape(2, 3)
COV = np.array([[10, 1, 2, 20, 3, 30], [11, 4, 5, 21, 6, 31]], "<f4")


def snapshot(**change: Any) -> Snapshot:
    fields: dict[str, Any] = {
        "version": 7,
        "step": 99,
        "columns": COLUMNS,
        "actions": ["a", "b"],
        "groups": ["g", "g"],
        "mean": MEAN.tobytes(),
        "cov_packed": COV.tobytes(),
        "experience": (-MEAN).tobytes(),
        "evidence": [3.0, 4.0],
        "group_names": ["g"],
        "group_mean": np.full(3, 9, "<f4").tobytes(),
        "group_cov": np.full(6, 0.5, "<f4").tobytes(),
        "group_experience": np.full(3, 8, "<f4").tobytes(),
        "prior_precision": 4.0,
        "values": [1.5, 0.0],
        "value_counts": [2.0, 0.0],
        "exploration": 0.4,
        "half_life": 1e3,
        "changes": [0, 1],
    }
    return Snapshot(**{**fields, **change})


def test_encoding_round_trips() -> None:
    assert decode_snapshot(encode(snapshot())) == snapshot()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "not readable"),
        (b"\x01", "not readable"),
        (msgspec.msgpack.encode({"format": "nbx-snapshot/1"}), "not readable"),
        (encode(snapshot(format="nbx-snapshot/9")), "nbx-snapshot/9"),
        (encode(snapshot(mean=MEAN.tobytes()[:-1])), "mean has 23 bytes where 24"),
        (encode(snapshot(group_cov=b"")), "group_cov"),
        (encode(snapshot(columns=["one"])), "mean"),
        (encode(snapshot(evidence=[1.0])), "evidence"),
    ],
)
def test_what_is_not_a_snapshot_is_refused(data: bytes, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        decode_snapshot(data)


def test_the_same_plan_binds_to_the_same_arrays() -> None:
    model = bind(snapshot(), COLUMNS, ["a", "b"], ["g", "g"])
    np.testing.assert_array_equal(model.mean, MEAN)
    np.testing.assert_array_equal(model.cov_packed, COV)
    np.testing.assert_array_equal(model.experience, -MEAN)
    assert (model.evidence.tolist(), model.version, model.step) == ([3.0, 4.0], 7, 99)


def test_columns_are_aligned_by_name() -> None:
    """`rain` moved first, `age` was dropped (marginalised), `new` is at its prior."""
    model = bind(snapshot(), ["rain", "new", "one"], ["b"], ["g"])
    assert model.mean.tolist() == [[5.0, 0.0, 3.0]]
    assert model.experience.tolist() == [[-5.0, 0.0, -3.0]]
    assert model.cov_packed.tolist() == [[31.0, 0.0, 5.0, 0.25, 0.0, 11.0]]


def test_an_unseen_action_takes_its_group_and_an_unseen_group_the_prior() -> None:
    model = bind(snapshot(), ["one", "age"], ["c", "d", "a"], ["g", "h", "h"])
    assert model.mean.tolist() == [[9.0, 9.0], [0.0, 0.0], [0.0, 1.0]]
    assert model.experience.tolist() == [[8.0, 8.0], [0.0, 0.0], [0.0, -1.0]]
    assert model.cov_packed.tolist() == [[0.5, 0.5, 0.5], [0.25, 0.0, 0.25], [10.0, 1.0, 20.0]]
    assert model.evidence.tolist() == [0.0, 0.0, 3.0]


@pytest.mark.parametrize("ridge", [0.5, 1.0, 16.0])
def test_without_a_snapshot_everything_is_at_the_prior(ridge: float) -> None:
    model = bind(None, COLUMNS, ["a"], ["g"], prior_precision=ridge)
    assert model.cov_packed.tolist() == [[1 / ridge, 0.0, 0.0, 1 / ridge, 0.0, 1 / ridge]]
    assert not model.mean.any()
    assert (model.version, model.step) == (0, 0)


def test_a_plan_without_actions_binds() -> None:
    assert bind(snapshot(), COLUMNS, [], []).mean.shape == (0, 3)


def test_a_learner_that_saw_nothing_binds_to_the_prior() -> None:
    model = bind(Learner().snapshot(3, 0), COLUMNS, ["a"], ["g"])
    assert model.cov_packed.tolist() == [[1.0, 0.0, 0.0, 1.0, 0.0, 1.0]]
    assert (model.version, model.step) == (3, 0)


def test_arrays_are_contiguous_float32() -> None:
    model = bind(snapshot(), ["rain", "new", "one"], ["b", "x"], ["g", "g"])
    for array in (model.mean, model.cov_packed, model.experience, model.evidence):
        assert array.dtype == np.float32
        assert array.flags.c_contiguous


def test_groups_must_match_actions() -> None:
    with pytest.raises(ValueError, match="groups"):
        bind(None, COLUMNS, ["a"], [])
