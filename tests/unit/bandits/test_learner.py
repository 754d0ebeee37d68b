"""The learner's fold: deterministic, restartable to the bit, corrected exactly once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from nbx.bandits import kernels
from nbx.bandits.learner import Learner, Observation
from nbx.bandits.posterior import Posterior
from nbx.bandits.snapshot import bind, decode_snapshot, encode

COLUMNS = ["one", "age", "rain", "late"]


def stream(count: int, seed: int = 1, d: int = 4) -> list[Observation]:
    rng = np.random.default_rng(seed)
    return [
        Observation(
            key=f"d{k}/0",
            action=f"a{rng.integers(5)}",
            group=f"g{k % 2}",
            layout=1,
            x=np.r_[1.0, rng.normal(size=d - 1)].astype(np.float32),
            response=[None, 0, 0, 1][rng.integers(4)],
            response_weight=float(rng.choice([0.5, 1.0])),
            experience=float(rng.normal()),
            experience_weight=float(rng.choice([0.0, 1.0])),
        )
        for k in range(count)
    ]


def learner(**parameters: float) -> Learner:
    made = Learner(**parameters)
    made.register_layout(1, COLUMNS)
    return made


def change(observation: Observation, **fields: Any) -> Observation:
    return msgspec.structs.replace(observation, **fields)


def models(learned: Learner) -> Iterator[tuple[str, Posterior]]:
    for action, pair in learned._models.items():
        yield action, pair.response.posterior
        yield f"{action} experience", pair.experience.posterior


@pytest.mark.parametrize("forgetting", [1.0, 0.97])
def test_the_same_observations_give_the_same_bytes(forgetting: float) -> None:
    a, b = learner(forgetting=forgetting), learner(forgetting=forgetting)
    for observation in stream(300):
        assert a.learn(observation, None) == b.learn(observation, None)
    assert a.checkpoint() == b.checkpoint()
    assert encode(a.snapshot(1, 300)) == encode(b.snapshot(1, 300))


@pytest.mark.parametrize("at", [0, 1, 77, 256, 400])
@pytest.mark.parametrize("forgetting", [1.0, 0.97])
def test_a_restart_anywhere_changes_no_bit(at: int, forgetting: float) -> None:
    observations = stream(500)
    straight, first = learner(forgetting=forgetting), learner(forgetting=forgetting)
    for observation in observations[:at]:
        straight.learn(observation, None)
        first.learn(observation, None)
    second = Learner.restore(first.checkpoint())
    for observation in observations[at:]:
        assert second.learn(observation, None) == straight.learn(observation, None)
    assert second.checkpoint() == straight.checkpoint()
    assert encode(second.snapshot(3, 500)) == encode(straight.snapshot(3, 500))
    assert second.metrics() == straight.metrics()


def test_snapshots_do_not_touch_learning() -> None:
    with_snapshots, without = learner(), learner()
    for k, observation in enumerate(stream(200)):
        with_snapshots.learn(observation, None)
        without.learn(observation, None)
        if k % 7 == 0:
            with_snapshots.snapshot(k + 1, k)
    assert with_snapshots.checkpoint() == without.checkpoint()
    assert encode(with_snapshots.snapshot(9, 200)) == encode(without.snapshot(9, 200))


@pytest.mark.parametrize("forgetting", [1.0, 0.97])
def test_a_revision_replaces_the_one_before_exactly_once(forgetting: float) -> None:
    observations = stream(60)
    at = next(k for k, o in enumerate(observations) if o.response == 0 and o.experience_weight == 1.0)
    late, prompt = learner(forgetting=forgetting), learner(forgetting=forgetting)
    truth = change(observations[at], experience=3.0)
    for k, observation in enumerate(observations):
        sites = late.learn(observation, None)
        kept = prompt.learn(truth if k == at else observation, None)
        if k == at:
            first, expected = sites, kept
    replaced = late.learn(change(truth, revision=1), first)
    assert replaced.experience == expected.experience
    for (name, a), (_, b) in zip(models(late), models(prompt), strict=True):
        a.refresh()
        b.refresh()
        if name == f"{truth.action} experience":
            np.testing.assert_allclose(a.mean, b.mean, atol=1e-10)
            np.testing.assert_allclose(a.cov, b.cov, atol=1e-10)
        assert a.observations == b.observations
    again = late.learn(change(truth, revision=2, response=None, experience_weight=0.0), replaced)
    assert (again.response, again.experience) == (None, None)
    for (_, a), total in zip(models(late), late.evidence.values(), strict=False):
        assert a.evidence >= 0.0
        assert total >= 0.0


def test_erasing_every_observation_leaves_the_prior() -> None:
    learned = learner(prior_precision=2.0)
    done = [(o, learned.learn(o, None)) for o in stream(120)]
    for observation, sites in reversed(done):
        learned.unlearn(observation, sites)
    for _, posterior in models(learned):
        posterior.refresh()
        np.testing.assert_allclose(posterior.sites_precision, 0.0, atol=1e-10)
        assert posterior.evidence == pytest.approx(0.0, abs=1e-10)


def test_an_expired_revision_is_learned_as_new() -> None:
    learned = learner()
    late = change(stream(1)[0], response=1, response_weight=1.0, revision=1)
    assert learned.learn(late, None).response is not None
    assert learned.evidence == {late.action: 1.0}


def test_what_teaches_nothing_leaves_no_site() -> None:
    learned = learner()
    sites = learned.learn(change(stream(1)[0], response=None, experience_weight=0.0), None)
    assert (sites.response, sites.experience) == (None, None)
    assert learned.group_evidence == {"g0": 0.0}


def test_new_columns_join_at_the_prior_and_old_layouts_still_learn() -> None:
    grown, wide = learner(), Learner()
    wide.register_layout(1, COLUMNS)
    wide.register_layout(2, ["rain", "new", "one"])
    observations = stream(40)
    for observation in observations[:20]:
        grown.learn(observation, None)
        wide.learn(observation, None)
    grown.register_layout(2, ["rain", "new", "one"])
    narrow = [change(o, layout=2, x=np.asarray(o.x)[:3].copy()) for o in observations[20:]]
    for observation in [*narrow, *stream(10, seed=2)]:
        assert grown.learn(observation, None) == wide.learn(observation, None)
    assert grown.columns == [*COLUMNS, "new"]
    assert grown.checkpoint() == wide.checkpoint()


def test_bytes_and_arrays_are_the_same_x() -> None:
    a, b = learner(), learner()
    for observation in stream(20):
        a.learn(observation, None)
        b.learn(change(observation, x=np.asarray(observation.x).tobytes()), None)
    assert a.checkpoint() == b.checkpoint()


def test_a_snapshot_is_the_pooled_posterior() -> None:
    learned = learner(prior_precision=3.0, kappa=10.0)
    for observation in stream(200):
        learned.learn(observation, None)
    snapshot = decode_snapshot(encode(learned.snapshot(2, 200)))
    bound = bind(snapshot, COLUMNS, [*snapshot.actions, "never seen"], [*snapshot.groups, "g1"])
    for k, (action, group) in enumerate(zip(snapshot.actions, snapshot.groups, strict=True)):
        pair = learned._models[action]
        for posterior, siblings, mean in [
            (pair.response.posterior, "response", bound.mean[k]),
            (pair.experience.posterior, "experience", bound.experience[k]),
        ]:
            others = [
                getattr(learned._models[b], siblings).posterior
                for b, g in zip(snapshot.actions, snapshot.groups, strict=True)
                if g == group and b != action
            ]
            shrinkage = 10.0 / (10.0 + sum(other.evidence for other in others))
            precision = 3.0 * np.eye(4) + posterior.sites_precision
            precision = precision + shrinkage * sum((o.sites_precision for o in others), np.zeros((4, 4)))
            eta = posterior.sites_mean + shrinkage * sum((o.sites_mean for o in others), np.zeros(4))
            np.testing.assert_allclose(mean, np.linalg.solve(precision, eta), atol=1e-5)
        assert bound.evidence[k] == np.float32(pair.response.posterior.evidence)
    assert bound.evidence[-1] == 0.0
    assert bound.mean[-1].any()


def test_an_unchanged_group_is_not_computed_again() -> None:
    learned = learner()
    for observation in stream(50):
        learned.learn(observation, None)
    learned.snapshot(1, 50)
    kept = dict(learned._rows)
    learned.learn(change(stream(1)[0], action="new", group="g1"), None)
    learned.snapshot(2, 51)
    assert learned._rows["g0"] is kept["g0"]
    assert learned._rows["g1"] is not kept["g1"]


def test_an_action_that_moves_takes_its_evidence_along() -> None:
    learned = learner()
    first = change(stream(1)[0], action="a", group="old", response=1, response_weight=1.0)
    learned.learn(first, None)
    learned.learn(change(first, key="d2/0", group="new"), None)
    assert learned.group_evidence == {"old": 0.0, "new": 2.0}
    snapshot = learned.snapshot(1, 2)
    assert (snapshot.actions, snapshot.groups) == (["a"], ["new"])
    assert Learner.restore(learned.checkpoint()).snapshot(1, 2).groups == ["new"]


def test_a_new_action_starts_from_its_siblings() -> None:
    rng = np.random.default_rng(4)
    learned = learner()
    for k in range(600):
        x = np.r_[1.0, rng.normal(size=3)].astype(np.float32)
        learned.learn(
            Observation(key=f"{k}/0", action=f"a{k % 3}", group="g", layout=1, x=x, response=1, experience=0.0), None
        )
    bound = bind(learned.snapshot(1, 600), COLUMNS, ["new"], ["g"])
    one = np.array([1, 0, 0, 0], np.float32)
    rows, out = np.zeros(1, np.int32), [np.empty(1, np.float32) for _ in range(3)]
    kernels.score(one, bound.mean, bound.cov_packed, bound.experience, rows, *out)
    assert out[0][0] > 1.0
    assert out[1][0] < 1.0


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"layout": 2}, "layout"),
        ({"x": np.ones(3, np.float32)}, "x"),
        ({"x": b"abc"}, "x"),
        ({"x": np.array([1, math.nan, 0, 0], np.float32)}, "x"),
        ({"x": np.array([1, math.inf, 0, 0], np.float32)}, "x"),
        ({"response": 2}, "response"),
        ({"response_weight": -1.0}, "response_weight"),
        ({"response_weight": math.nan}, "response_weight"),
        ({"experience": math.inf}, "experience"),
        ({"experience_weight": -1.0}, "experience_weight"),
    ],
)
def test_bad_observations_are_refused_and_nothing_is_learned(fields: dict[str, Any], named: str) -> None:
    learned = learner()
    for observation in stream(10):
        learned.learn(observation, None)
    before = learned.checkpoint()
    with pytest.raises(ValueError, match=named):
        learned.learn(change(stream(1)[0], **fields), None)
    assert learned.checkpoint() == before


@pytest.mark.parametrize(("revision", "key"), [(0, "d0/0"), (2, "d0/0"), (1, "other/0")])
def test_the_wrong_previous_sites_are_refused(revision: int, key: str) -> None:
    learned = learner()
    first = stream(1)[0]
    sites = learned.learn(first, None)
    with pytest.raises(ValueError, match="previous"):
        learned.learn(change(first, revision=revision, key=key), sites)


def test_layouts_cannot_change() -> None:
    learned = learner()
    learned.register_layout(1, COLUMNS)
    with pytest.raises(ValueError, match="registered before"):
        learned.register_layout(1, ["one"])
    with pytest.raises(ValueError, match="repeats"):
        learned.register_layout(2, ["one", "one"])


@pytest.mark.parametrize("data", [b"", b"\xc0", msgspec.msgpack.encode({"format": "x"})])
def test_what_is_not_a_checkpoint_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="checkpoint"):
        Learner.restore(data)


def test_another_checkpoint_format_is_refused() -> None:
    state = msgspec.msgpack.decode(learner().checkpoint())
    with pytest.raises(ValueError, match="nbx-learner/9"):
        Learner.restore(msgspec.msgpack.encode({**state, "format": "nbx-learner/9"}))


def test_metrics_are_rivers_over_progressive_predictions() -> None:
    rng = np.random.default_rng(8)
    learned = learner()
    assert math.isnan(learned.metrics().log_loss)
    for k in range(3000):
        x = np.r_[1.0, rng.normal(size=3)].astype(np.float32)
        p = 1 / (1 + math.exp(-2.0 * x[1]))
        learned.learn(
            Observation(
                key=f"{k}/0",
                action="a",
                group="g",
                layout=1,
                x=x,
                response=int(rng.random() < p),
                experience=float(x[2]),
            ),
            None,
        )
    metrics = learned.metrics()
    assert metrics.count == 2048
    assert 0.8 < metrics.roc_auc < 0.9
    assert metrics.log_loss < 0.5
    assert metrics.accuracy > 0.7
    assert metrics.predicted_rate == pytest.approx(metrics.response_rate, abs=0.03)
    assert metrics.experience_mae < 0.01


def test_one_action_is_one_posterior() -> None:
    """Without siblings the learner is its estimators."""
    learned, alone = learner(), Posterior(4)
    for mixed in stream(100):
        observation = change(mixed, action="a", group="g", response=1, response_weight=1.0)
        sites = learned.learn(observation, None)
        assert sites.response == alone.learn_logistic(np.asarray(observation.x, np.float64), 1.0)
