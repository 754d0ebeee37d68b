"""The export in Open Bandit Pipeline's columns: whole files, rows that are right, and the same estimates from it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbx.audit.export import checked_target
from nbx.audit.judging import Maturity, Question
from nbx.audit.policy_report import PolicyTally
from nbx.errors import Invalid
from nbx.experience.entries import DecisionEntry, EraseEntry
from tests.unit.audit.test_policy_report import release
from tests.unit.audit.worlds import EVER, busy_desk, export, fold, learning, policy
from tests.worlds import Desk


def load(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return {name: array.item() if array.ndim == 0 else array for name, array in arrays.items()}


def test_the_arrays_are_the_log(tmp_path: Path) -> None:
    desk = busy_desk(150)
    with export(desk, None, tmp_path) as spooled:
        done = spooled.write(tmp_path / "log.npz")
    found = load(tmp_path / "log.npz")
    n, k = found["n_rounds"], found["n_actions"]
    assert (n, k, done.rows, done.left_out) == (150, 5, 150, {})
    assert found["action_name"].tolist() == list(done.actions)
    assert done.actions[0] == "none"
    shapes = {name: array.shape for name, array in found.items() if isinstance(array, np.ndarray)}
    assert shapes["pi_b"] == shapes["action_dist"] == shapes["estimated_rewards"] == (n, k, 1)
    assert shapes["context"] == (n, len(desk.plan.layout.columns))
    assert shapes["action_context"] == (k, k)
    last = {o.decision_id: o for o in desk.observed}
    by_time = {e.at_ms: e for e in desk.log() if isinstance(e, DecisionEntry)}
    for row in range(n):
        entry = by_time[int(found["timestamp"][row])]
        slot = entry.slots[0]
        assert done.actions[found["action"][row]] == (slot.action or "none")
        assert found["pscore"][row] == slot.propensity == found["pi_b"][row, found["action"][row], 0]
        told = last.get(entry.decision_id)
        assert found["reward"][row] == float(told is not None and told.response == 1)
        assert found["context"][row].tobytes() == entry.x
    np.testing.assert_allclose(found["pi_b"].sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(found["action_dist"], found["pi_b"], atol=1e-6)
    assert not found["position"].any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.npz"], "nothing else is left"


def test_estimates_from_the_file_are_those_of_the_report(tmp_path: Path) -> None:
    desk = busy_desk(150)
    with export(desk, release(), tmp_path, "utility") as spooled:
        spooled.write(tmp_path / "log.npz")
    found = load(tmp_path / "log.npz")
    rows = np.arange(found["n_rounds"])
    weight = found["action_dist"][rows, found["action"], 0] / found["pscore"]
    model = found["estimated_rewards"][..., 0]
    residual = weight * (found["reward"] - model[rows, found["action"]])
    direct = (found["action_dist"][..., 0] * model).sum(axis=1)
    by_hand = {
        "ips": (weight * found["reward"]).mean(),
        "snips": (weight * found["reward"]).sum() / weight.sum(),
        "dr": (direct + residual).mean(),
        "sndr": direct.mean() + residual.sum() / weight.sum(),
    }
    told = {each.estimator: each.value for each in policy(desk, release()).rewards[3].estimates}
    assert told == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("reward", ["acceptance", "value", "experience", "utility"])
def test_open_bandit_pipeline_says_the_same(tmp_path: Path, reward: str) -> None:
    obp = pytest.importorskip("obp.ope")
    desk = busy_desk(150)
    with export(desk, release(), tmp_path, reward) as spooled:
        spooled.write(tmp_path / "log.npz")
    found = load(tmp_path / "log.npz")
    estimators = [
        obp.InverseProbabilityWeighting(estimator_name="ips"),
        obp.SelfNormalizedInverseProbabilityWeighting(estimator_name="snips"),
        obp.DoublyRobust(estimator_name="dr"),
        obp.SelfNormalizedDoublyRobust(estimator_name="sndr"),
    ]
    theirs = obp.OffPolicyEvaluation(bandit_feedback=found, ope_estimators=estimators).estimate_policy_values(
        action_dist=found["action_dist"], estimated_rewards_by_reg_model=found["estimated_rewards"]
    )
    (ours,) = [each for each in policy(desk, release()).rewards if each.reward == reward]
    for each in ours.estimates:
        assert each.value == pytest.approx(theirs[each.estimator], abs=1e-9)


def test_the_csv_is_that_of_the_open_bandit_dataset(tmp_path: Path) -> None:
    desk = busy_desk(150)
    with export(desk, None, tmp_path) as spooled:
        done = spooled.write(tmp_path / "all.csv")
    assert done.files == (str(tmp_path / "all.csv"), str(tmp_path / "item_context.csv"))
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [f"user_feature_{i}" for i in range(len(desk.plan.layout.columns))]
    assert list(rows[0]) == ["", "timestamp", "item_id", "position", "click", "propensity_score", *columns]
    assert rows[0]["timestamp"] == "2027-01-15 08:00:00.000+00:00"
    with (tmp_path / "item_context.csv").open(newline="") as file:
        items = {row["item_id"]: row["item_feature_1"] for row in csv.DictReader(file)}
    entries = sorted((e for e in desk.log() if isinstance(e, DecisionEntry)), key=lambda entry: entry.at_ms)
    last = {o.decision_id: o for o in desk.observed}
    for row, entry in zip(rows, entries, strict=True):
        assert items[row["item_id"]] == (entry.slots[0].action or "none")
        assert float(row["propensity_score"]) == entry.slots[0].propensity
        told = last.get(entry.decision_id)
        assert row["click"] == ("1" if told is not None and told.response == 1 else "0")
        assert row["position"] == "1"
        x = np.array([row[name] for name in columns], dtype="<f4")
        assert x.tobytes() == entry.x


def test_an_erased_customer_is_in_no_report(tmp_path: Path) -> None:
    desk = busy_desk(30)
    decided = [entry for entry in desk.log() if isinstance(entry, DecisionEntry)]
    first = next(entry for entry in decided if entry.slots[0].action)
    gone = first.customer_id
    kept = sum(entry.customer_id != gone for entry in decided)
    erasure = EraseEntry(
        customer_id=gone, at_ms=desk.clock.now_ms(), release=1, erasure_id="e", by="t", state_version=1, decisions=0,
        timers=0, replies=0, taught=(),
    )  # fmt: skip
    with export(desk, None, tmp_path) as spooled:
        spooled.take([erasure])
        spooled.take([first])  # a new life
        assert spooled.write(tmp_path / "log.npz").left_out == {"erased": 30 - kept, "unfinished": 1}
    tally = learning(desk)
    tally.take([erasure])
    assert tally.report().decisions == kept
    plans = {1: desk.plan}
    asked = PolicyTally(Question(EVER, desk.plan), Maturity(desk.clock.now_ms(), young=False), plans.__getitem__)
    fold(desk, asked.take)
    asked.take([erasure])
    assert asked.report(1, None).decisions == kept


def test_nothing_is_left_of_what_could_not_be_written(tmp_path: Path) -> None:
    before = tmp_path / "log.npz"
    before.write_bytes(b"an earlier export")
    with export(Desk(), None, tmp_path) as spooled, pytest.raises(Invalid, match="no decision counts"):
        spooled.write(before)
    with pytest.raises(KeyError), export(busy_desk(30), None, tmp_path) as spooled:
        raise KeyError
    assert before.read_bytes() == b"an earlier export"
    assert list(tmp_path.iterdir()) == [before]


def test_a_wrong_target_or_reward_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"log\.parquet must end with \.npz or \.csv"):
        checked_target(tmp_path / "log.parquet")
    with pytest.raises(Invalid, match="is no directory"):
        checked_target(tmp_path / "none" / "log.npz")
    with pytest.raises(Invalid, match="reward must be one of"):
        export(Desk(), None, tmp_path, "clicks")
    assert list(tmp_path.iterdir()) == []
