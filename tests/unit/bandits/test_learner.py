"""The learner's fold: deterministic, restartable to the bit, corrected exactly once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from nbx.bandits import exploration, kernels, kernels_fold, pooling
from nbx.bandits.learner import FIRST_POOL, Learner, Observation
from nbx.bandits.posterior import Posterior
from nbx.bandits.snapshot import bind, decode_snapshot, encode
from tests.reference import bandits as reference

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


def learner(**parameters: Any) -> Learner:
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
    learned = learner()
    done = [(o, learned.learn(o, None)) for o in stream(120)]
    for observation, sites in reversed(done):
        learned.unlearn(observation, sites)
    for _, posterior in models(learned):
        posterior.refresh()
        np.testing.assert_allclose(posterior.sites_precision, 0.0, atol=1e-10)
        assert posterior.evidence == pytest.approx(0.0, abs=1e-10)
    np.testing.assert_allclose(learned._x_sum, 0.0, atol=1e-10)
    assert learned._counters[kernels_fold.COUNT] == 0


def test_an_expired_revision_is_learned_as_new() -> None:
    learned = learner()
    late = change(stream(1)[0], response=1, response_weight=1.0, revision=1)
    assert learned.learn(late, None).response is not None
    assert learned.evidence == {late.action: 1.0}


def test_what_teaches_nothing_leaves_no_site() -> None:
    learned = learner()
    sites = learned.learn(change(stream(1)[0], response=None, experience_weight=0.0), None)
    assert (sites.response, sites.experience) == (None, None)
    assert learned.group_evidence == {}
    assert learned.checkpoint() == learner().checkpoint()


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


def test_a_snapshot_copies_what_is_there() -> None:
    learned = learner()
    for observation in stream(200):
        learned.learn(observation, None)
    snapshot = decode_snapshot(encode(learned.snapshot(2, 200)))
    bound = bind(snapshot, COLUMNS, [*snapshot.actions, "never seen"], [*snapshot.groups, "g1"])
    for k, action in enumerate(snapshot.actions):
        pair = learned._models[action]
        np.testing.assert_array_equal(bound.mean[k], pair.response.posterior.mean.astype(np.float32))
        np.testing.assert_array_equal(bound.experience[k], pair.experience.posterior.mean.astype(np.float32))
        packed = pair.response.posterior.cov[np.triu_indices(4)]
        np.testing.assert_array_equal(bound.cov_packed[k], packed.astype(np.float32))
        assert bound.evidence[k] == np.float32(pair.response.posterior.evidence)
    assert bound.evidence[-1] == 0.0
    assert bound.mean[-1].any()
    assert bound.exploration == learned.exploration
    assert (snapshot.half_life, snapshot.changes) == (math.inf, [0] * len(snapshot.actions))
    before = bytes(snapshot.mean)
    learned.learn(stream(1)[0], None)
    assert snapshot.mean == before


def assert_joint(learned: Learner, name: str, *, members: list[str]) -> None:
    """Every posterior of a group, and the new action's, is a marginal of the joint Gaussian of all weights."""
    group = learned._groups[name]
    d = len(learned.columns)
    centre = learned._x_sum / learned._counters[kernels_fold.COUNT]
    back = np.eye(d)
    back[1:, 0] = -centre[1:]
    for kind in ("response", "experience"):
        spread = getattr(group, kind)
        posteriors = [getattr(learned._models[action], kind).posterior for action in members]
        sites = [reference.recentred(p.sites_precision, p.sites_mean, centre) for p in posteriors]
        of = [
            reference.hierarchy_of(sites, k, spread.deviation(d), spread.width(d), own=True) for k in range(len(sites))
        ]
        fresh = reference.hierarchy_of(sites, len(sites), spread.deviation(d), spread.width(d), own=False)
        got = [(p.mean, p.cov) for p in posteriors] + [learned._derived(getattr(group, f"fresh_{kind}"))]
        for (mean, cov), (expected, expected_cov) in zip(got, [*of, fresh], strict=True):
            np.testing.assert_allclose(mean, back.T @ expected, rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(cov, back.T @ expected_cov @ back, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("count", [30, 200])
def test_a_pooled_group_is_the_joint_gaussian_of_all_its_weights(count: int) -> None:
    """Before and after its variances are judged, off centre, with half weights and with columns that came later."""
    learned = learner()
    for observation in stream(count):
        x = np.asarray(observation.x) + np.array([0, 3, -1, 0], np.float32)
        learned.learn(change(observation, x=x), None)
    learned.register_layout(2, [*COLUMNS, "new"])
    for observation in stream(20, seed=9, d=5):
        learned.learn(change(observation, key=f"n{observation.key}", layout=2), None)
    for name, group in learned._groups.items():
        learned._pool(group)
        assert_joint(learned, name, members=group.members)
    assert (learned.spreads["g0"] != pooling.Spread()) == (count == 200)


def test_between_two_poolings_priors_stand_still() -> None:
    learned = learner()
    for observation in stream(100):
        learned.learn(observation, None)
    pooled = {name: group.pool_at for name, group in learned._groups.items()}
    priors = {action: pair.response.posterior.encode().prior for action, pair in learned._models.items()}
    observation = next(o for o in stream(50, seed=3) if o.experience_weight == 1.0)
    learned.learn(change(observation, action="a1", group="g1"), None)
    for action, pair in learned._models.items():
        if learned._groups[pair.group].pool_at == pooled[pair.group]:
            assert pair.response.posterior.encode().prior == priors[action]
    assert all(g.pool_at > g.learned for g in learned._groups.values())


def test_a_group_of_one_and_left_to_itself_are_the_same() -> None:
    pooled, alone = learner(), learner(pooled=False)
    for mixed in stream(60):
        observation = change(mixed, action="a", group="g")
        assert pooled.learn(observation, None) == alone.learn(observation, None)


def test_left_to_itself_an_action_learns_nothing_from_siblings() -> None:
    learned, by_itself, pooled = learner(pooled=False), learner(pooled=False), learner()
    for observation in stream(30):
        mine = change(observation, action="a", group="g", experience_weight=1.0)
        for each in (learned, by_itself, pooled):
            each.learn(mine, None)
            if each is not by_itself:
                each.learn(change(mine, action="b", experience=5.0), None)
    for each in (learned, by_itself, pooled):
        each._pool(each._groups["g"])
    mean = by_itself._models["a"].experience.posterior.mean
    np.testing.assert_allclose(learned._models["a"].experience.posterior.mean, mean, atol=1e-9)
    assert pooled._models["a"].experience.posterior.mean[0] > mean[0] + 0.01


def test_customers_are_in_the_centre_while_their_observation_teaches() -> None:
    """First outcomes that taught nothing, then their corrections, must not leave a group without a centre."""
    learned = learner()
    vectors = []
    for observation in stream(40):
        nothing = learned.learn(change(observation, response=None, experience_weight=0.0), None)
        kept = learned.learn(change(observation, revision=1, response=1, response_weight=1.0), nothing)
        vectors.append(np.asarray(observation.x, np.float64))
        if len(vectors) % 4 == 0:
            taught = change(observation, revision=1, response=1)
            if len(vectors) % 8:
                learned.unlearn(taught, kept)
            else:
                learned.learn(change(taught, revision=2, response=None, experience_weight=0.0), kept)
            vectors.pop()
            vectors.insert(0, np.zeros(4))
    those = [x for x in vectors if x.any()]
    assert learned._counters[kernels_fold.COUNT] == len(those) == 30
    np.testing.assert_allclose(learned._x_sum, np.sum(those, axis=0), atol=1e-12)
    for _, posterior in models(learned):
        assert np.isfinite(posterior.mean).all()


def flip(count: int) -> list[Observation]:
    """One action among two whose answers turn round half-way."""
    rng = np.random.default_rng(6)
    observations = []
    for k in range(count):
        p = 0.1 if (k < count // 2) == (k % 4 != 0) else 0.6
        x = np.r_[1.0, rng.normal(size=3)].astype(np.float32)
        observations.append(
            Observation(
                key=f"{k}/0",
                action=f"a{int(k % 4 == 0)}",
                group="g",
                layout=1,
                x=x,
                response=int(rng.random() < p),
                experience=0.0,
                experience_weight=0.0,
            )
        )
    return observations


@pytest.mark.parametrize("at", [1500, 2900, 3300, 5000])
def test_a_restart_while_the_world_changes_changes_no_bit(at: int) -> None:
    """With a detector about to speak, one that has begun again, and memories cut."""
    observations = flip(6000)
    straight, first = learner(), learner()
    for observation in observations[:at]:
        straight.learn(observation, None)
        first.learn(observation, None)
    second = Learner.restore(first.checkpoint())
    for observation in observations[at:]:
        assert second.learn(observation, None) == straight.learn(observation, None)
    assert second.checkpoint() == straight.checkpoint()
    snapshot = straight.snapshot(1, 1)
    assert min(snapshot.changes) >= 1
    assert straight.evidence["a0"] < 4000


def test_without_drift_handling_nothing_is_forgotten() -> None:
    learned = learner(adaptive=False)
    for observation in flip(2000):
        learned.learn(observation, None)
    assert sum(learned.evidence.values()) == 2000
    assert (learned.half_life, learned.snapshot(1, 1).changes) == (math.inf, [0, 0])


def test_values_are_averaged_over_acceptances_and_corrected() -> None:
    learned = learner()
    first = change(stream(1)[0], response=1, response_weight=1.0, value=10.0)
    kept = learned.learn(first, None)
    learned.learn(change(first, key="2/0", value=20.0), None)
    learned.learn(change(first, key="3/0", value=None), None)
    declined = learned.learn(change(first, key="4/0", value=99.0, response=0), None)
    assert (kept.value, declined.value) == (10.0, None)
    snapshot = learned.snapshot(1, 1)
    assert (snapshot.values, snapshot.value_counts) == ([15.0], [2.0])
    again = learned.learn(change(first, revision=1, value=40.0), kept)
    assert learned.snapshot(1, 1).values == [30.0]
    learned.unlearn(change(first, revision=1), again)
    assert learned.snapshot(1, 1).values == [20.0]


def test_only_those_that_compete_say_how_much_to_explore() -> None:
    judged, idle = learner(), learner()
    for observation in stream(400):
        judged.learn(observation, None)
        idle.learn(change(observation, competes=False), None)
    assert judged.exploration != exploration.START
    assert idle.exploration == exploration.START
    assert math.isnan(idle.metrics().log_loss)


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
        ({"response": -1}, "response"),
        ({"response": math.nan}, "response"),
        ({"response_weight": -1.0}, "response_weight"),
        ({"response_weight": math.nan}, "response_weight"),
        ({"response_weight": 1e300, "response": 1}, "response_weight"),
        ({"experience": math.inf}, "experience"),
        ({"experience": math.nan}, "experience"),
        ({"experience": 1e300}, "experience"),
        ({"experience_weight": -1.0}, "experience_weight"),
        ({"experience_weight": math.inf}, "experience_weight"),
        ({"value": math.nan}, "value"),
        ({"value": -1e300}, "value"),
    ],
)
def test_bad_observations_are_refused_and_nothing_is_learned(fields: dict[str, Any], named: str) -> None:
    learned = learner()
    for observation in stream(10):
        learned.learn(observation, None)
    before = learned.checkpoint()
    with pytest.raises(ValueError, match=named):
        learned.learn(change(stream(1)[0], **{"action": "new", "group": "new", **fields}), None)
    assert learned.checkpoint() == before
    assert np.isfinite(np.frombuffer(learned.snapshot(1, 10).mean, "<f4")).all()


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
    """Without siblings and before the first pooling, the learner is its estimators under N(0, A + D)."""
    learned, alone = learner(), Posterior(4, prior_precision=pooling.RIDGE)
    width = pooling.Spread().deviation(4) + pooling.Spread().width(4)
    alone.swap_prior(np.diag(1.0 / width - pooling.RIDGE), np.zeros(4))
    for mixed in stream(FIRST_POOL - 1):
        observation = change(mixed, action="a", group="g", response=1, response_weight=1.0)
        site = learned.learn(observation, None).response
        expected = alone.learn_logistic(np.asarray(observation.x, np.float64), 1.0)
        assert site is not None
        assert (site.tau, site.nu) == pytest.approx((expected.tau, expected.nu), rel=1e-9)
    assert learned.evidence == {"a": FIRST_POOL - 1}


@pytest.mark.parametrize("points", [-1.0, 0.0, 1.0, 1e12, -1e12])
def test_any_number_of_points_is_learned(points: float) -> None:
    learned = learner()
    for observation in stream(200):
        learned.learn(change(observation, experience=points, experience_weight=1.0, value=points), None)
    bound = bind(learned.snapshot(1, 200), COLUMNS, ["a1"], ["g1"])
    np.testing.assert_allclose(bound.experience[0, 0], points, rtol=0.1)
    assert np.isfinite(bound.cov_packed).all()
    assert bound.value[0] == np.float32(points)


def test_columns_that_say_nothing_or_the_same_are_learned() -> None:
    """A constant column, a column twice, and one that is the sum of two others: predictions stay right."""
    rng = np.random.default_rng(5)
    learned = Learner()
    names = ["one", "always", "a", "again", "b", "sum"]
    learned.register_layout(1, names)
    for k in range(3000):
        a, b = rng.normal(size=2)
        x = np.array([1.0, 7.0, a, a, b, a + b], np.float32)
        y = int(rng.random() < 1 / (1 + math.exp(1.0 - a)))
        learned.learn(
            Observation(key=f"{k}/0", action=f"a{k % 2}", group="g", layout=1, x=x, response=y, experience=2.0 * b),
            None,
        )
    for pair in learned._models.values():
        for posterior in pair.posteriors:
            assert np.linalg.eigvalsh(posterior.cov).min() > 0.0
        assert pair.response.posterior.predict(np.array([1.0, 7, 2, 2, 0, 2]))[0] == pytest.approx(1.0, abs=0.4)
        assert pair.experience.posterior.predict(np.array([1.0, 7, 0, 0, 2, 2]))[0] == pytest.approx(4.0, abs=0.05)


def test_two_hundred_actions_seen_once_share_what_they_know() -> None:
    learned = Learner()
    learned.register_layout(1, ["one"])
    one = np.ones(1, np.float32)
    for k in range(200):
        learned.learn(
            Observation(
                key=f"{k}/0",
                action=f"a{k}",
                group="g",
                layout=1,
                x=one,
                response=int(k % 4 == 0),
                experience=float(k % 2),
            ),
            None,
        )
    learned._pool(learned._groups["g"])
    bound = bind(learned.snapshot(1, 200), ["one"], ["a0", "a1", "new"], ["g"] * 3)
    rates = 1 / (1 + np.exp(-bound.mean[:, 0]))
    assert rates == pytest.approx([0.25] * 3, abs=0.1)
    assert rates[0] > rates[2] > rates[1]
    assert bound.experience[:, 0] == pytest.approx([0.5] * 3, abs=0.2)


def test_one_column_is_enough() -> None:
    learned = Learner()
    learned.register_layout(1, ["one"])
    for observation in stream(300, d=1):
        learned.learn(observation, None)
    assert Learner.restore(learned.checkpoint()).snapshot(1, 1) == learned.snapshot(1, 1)


@pytest.mark.nightly
def test_two_hundred_actions_of_256_columns() -> None:
    """Measured 8 s, nearly all of it pooling: 0.4 s each time for a group of ten."""
    learned = Learner()
    learned.register_layout(1, [f"x{k}" for k in range(256)])
    for k, observation in enumerate(stream(1200, d=256)):
        learned.learn(change(observation, action=f"a{k % 200}", group=f"g{k % 20}"), None)
    snapshot = learned.snapshot(1, 1200)
    for array in (snapshot.mean, snapshot.cov_packed, snapshot.experience, snapshot.group_cov):
        assert np.isfinite(np.frombuffer(array, "<f4")).all()
    for _, posterior in models(learned):
        assert np.linalg.eigvalsh(posterior.cov).min() > 0.0


def checkpoint(**fields: Any) -> bytes:
    learned = learner()
    for observation in stream(20):
        learned.learn(observation, None)
    state = msgspec.msgpack.decode(learned.checkpoint(), strict=False)
    return msgspec.msgpack.encode({**state, **fields})


def test_a_field_more_is_ignored() -> None:
    assert Learner.restore(checkpoint(later=1)).checkpoint() == checkpoint()


@pytest.mark.parametrize("field", ["pooled", "step", "columns", "layouts", "actions", "groups", "half_life", "window"])
def test_a_checkpoint_of_another_shape_is_refused_by_name(field: str) -> None:
    state = msgspec.msgpack.decode(checkpoint())
    del state[field]
    with pytest.raises(ValueError, match=f"checkpoint: not readable.*{field}"):
        Learner.restore(msgspec.msgpack.encode(state))
    with pytest.raises(ValueError, match=r"checkpoint: not readable.*Expected.*" + field):
        Learner.restore(checkpoint(**{field: "x"}))


def test_the_earlier_format_is_named() -> None:
    with pytest.raises(ValueError, match=r"format 'nbx-learner/1', this version reads 'nbx-learner/2'"):
        Learner.restore(msgspec.msgpack.encode({"format": "nbx-learner/1", "kappa": 50.0}))
