"""The learner as a pure fold: observations in, sites out. No store, no clock, no process.

Every action has two River estimators, one for the response and one for experience points, with priors from its group
(`pooling`), a watch for change (`drift`) and a mean value. The state after n observations depends on these observations
and their order alone: priors are computed anew, variances and exploration judged, at counts of observations, never when
a snapshot happens to be made. A snapshot copies what is there, so it may be taken at any time.

A checkpoint holds sums, derived mean and covariance, priors and counters, to the bit: a learner restored from it
continues as if it had never stopped. Columns are the union over all releases' layouts; what a release lacks is 0.
Column 0 is the constant.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import msgspec
import numpy as np

from nbx import limits
from nbx.bandits import drift, exploration, kernels_learning, pooling
from nbx.bandits.estimators import BayesianLinearRegression, BayesianLogisticRegression, sigmoid
from nbx.bandits.posterior import LARGEST, Posterior, PosteriorState, Site, pack_upper, unpack_upper
from nbx.bandits.progress import Progress, ProgressiveMetrics
from nbx.bandits.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nbx.bandits.kernels import F32, F64

FORMAT = "nbx-learner/2"
FIRST_POOL = 8
"""Observations of a group before its priors are computed, and at least between two times."""
GROWTH = 1.25
"""Priors are computed anew when a group's observations have grown by a quarter, variances when by half…"""
OFTEN = 1024
"""…or by so many, whichever comes first: what changed since matters less and less, but never nothing."""
SETTLED = 64
"""Observations of a group before its variances are judged, and of all before exploration is."""
TRACKED = 100.0
"""Evidence of an action before its predictions may say that the world drifts: before, they drift by learning."""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What one slot taught, after its cause was diagnosed."""

    key: str
    """`<decision_id>/<slot>`"""
    revision: int = 0
    """0: first terminal outcome; r > 0 replaces revision r − 1 of the same key."""
    action: str
    group: str
    layout: int
    """Release whose columns x has."""
    x: bytes | NDArray[np.float32]
    """float32[d] as it was decided on."""
    response: int | None
    """1 accepted, 0 negative, None: teaches the response model nothing."""
    response_weight: float = 1.0
    experience: float
    """Points."""
    experience_weight: float = 1.0
    value: float | None = None
    """Money the acceptance was worth, as reported; None when nobody said."""
    competes: bool = True
    """Whether actions of this group are chosen among; others do not say how much to explore."""


class LearnedSites(msgspec.Struct, frozen=True, kw_only=True):
    """What an observation added; stored by the caller for as long as it may be corrected or erased."""

    key: str
    revision: int
    response: Site | None
    experience: Site | None
    value: float | None = None
    """Money that was added to the action's mean value."""


class _ActionState(msgspec.Struct, frozen=True, kw_only=True):
    action: str
    group: str
    competes: bool
    response: PosteriorState
    experience: PosteriorState
    value_sum: float
    value_count: int
    residuals: bytes
    changes: int
    offsets: bytes


class _GroupState(msgspec.Struct, frozen=True, kw_only=True):
    members: list[str]
    """In the order in which their evidence is added up: another order would round differently."""
    response: pooling.Spread
    experience: pooling.Spread
    learned: int
    pool_at: int
    judge_at: int
    fresh_response: tuple[bytes, bytes]
    fresh_experience: tuple[bytes, bytes]


class _LearnerState(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    pooled: bool
    adaptive: bool
    forgetting: float
    noise_precision: float
    step: int
    columns: list[str]
    layouts: dict[int, tuple[str, ...]]
    actions: list[_ActionState]
    groups: dict[str, _GroupState]
    half_life: drift.HalfLifeState
    exploration: float
    judge_at: int
    contexts: bytes
    x_sum: bytes
    x_count: int
    window: bytes


class _Models:
    """What is known of one action."""

    def __init__(self, group: str, forgetting: float, noise_precision: float, competes: bool) -> None:
        prior = {"prior_precision": pooling.RIDGE, "forgetting": forgetting}
        self.group = group
        self.competes = competes
        self.response = BayesianLogisticRegression(**prior)
        self.experience = BayesianLinearRegression(**prior, noise_precision=noise_precision)
        self.value_sum = 0.0
        self.value_count = 0
        self.detector = drift.ChangeDetector()
        self.changes = 0
        self.offsets = drift.offsets()

    @property
    def posteriors(self) -> tuple[Posterior, Posterior]:
        return self.response.posterior, self.experience.posterior

    @property
    def mean_value(self) -> float:
        """Mean money per acceptance; 0 without."""
        return self.value_sum / self.value_count if self.value_count else 0.0

    def add_value(self, value: float | None, replaces: float | None) -> None:
        """Take a value into the mean, in place of an earlier one."""
        for number, sign in ((replaces, -1), (value, 1)):
            if number is not None:
                self.value_sum += sign * number
                self.value_count += sign


class _Group:
    """Actions that learn from each other."""

    def __init__(self, d: int) -> None:
        self.members: list[str] = []
        self.response = self.experience = pooling.Spread()
        self.learned = 0
        self.pool_at = FIRST_POOL
        self.judge_at = SETTLED
        self.fresh_response = self.fresh_experience = pooling.priors([], pooling.Spread(), d)[0]

    def grow(self, d: int) -> None:
        self.fresh_response = _grown(self.fresh_response, d, _alone(self.response))
        self.fresh_experience = _grown(self.fresh_experience, d, _alone(self.experience))


class Learner:
    """Fold observations into the models of all actions.

    Parameters
    ----------
    pooled
        Whether actions start from their siblings; False leaves every action to itself.
    adaptive
        Whether models forget when the world changes: detectors and half-lives of `drift`.
    forgetting
        γ in (0, 1], per observation of an action, as long as nothing else was calibrated.
    noise_precision
        1/variance of experience points, > 0.

    Examples
    --------
    >>> learner = Learner()
    >>> learner.register_layout(1, ["one"])
    >>> seen = Observation(
    ...     key="d1/0", action="offer", group="offers", layout=1, x=np.ones(1, np.float32), response=1, experience=1.0
    ... )
    >>> sites = learner.learn(seen, None)
    >>> learner.evidence
    {'offer': 1.0}
    >>> learner.unlearn(seen, sites)
    >>> learner.evidence
    {'offer': 0.0}
    """

    def __init__(
        self,
        *,
        pooled: bool = True,
        adaptive: bool = True,
        forgetting: float = 1.0,
        noise_precision: float = 1.0,
    ) -> None:
        self.pooled = pooled
        self.adaptive = adaptive
        self.forgetting = forgetting
        self.noise_precision = noise_precision
        self.exploration = exploration.START
        """Calibrated scale of exploration."""
        self.step = 0
        self.columns: list[str] = []
        self.layouts: dict[int, tuple[str, ...]] = {}
        self._at: dict[int, NDArray[np.int64]] = {}
        self._models: dict[str, _Models] = {}
        self._groups: dict[str, _Group] = {}
        self._half_life = drift.HalfLife()
        self._judge_at = SETTLED
        self._contexts = np.zeros((exploration.CONTEXTS, 0), np.float32)
        self._x_sum = np.zeros(0)
        self._x_count = 0
        self._progress = Progress()

    def register_layout(self, release: int, columns: Sequence[str]) -> None:
        """Say which columns a release's x has; new ones are added to every model at their prior.

        Raises
        ------
        ValueError
            When a column repeats or the release was registered with other columns.
        """
        layout = tuple(columns)
        if self.layouts.get(release, layout) != layout:
            raise ValueError(f"release {release}: registered before with other columns")
        if len(set(layout)) != len(layout):
            raise ValueError(f"release {release}: a column repeats")
        known = {name: k for k, name in enumerate(self.columns)}
        for name in layout:
            if name not in known:
                known[name] = len(self.columns)
                self.columns.append(name)
        self.layouts[release] = layout
        self._at[release] = np.array([known[name] for name in layout], np.int64)
        d = len(self.columns)
        more = d - self._contexts.shape[1]
        if more:
            self._contexts = np.pad(self._contexts, ((0, 0), (0, more)))
            self._x_sum = np.pad(self._x_sum, (0, more))
            for group in self._groups.values():
                group.grow(d)
            for models in self._models.values():
                group = self._groups[models.group]
                models.response.posterior.grow(d, _alone(group.response))
                models.experience.posterior.grow(d, _alone(group.experience))

    def learn(self, observation: Observation, previous: LearnedSites | None) -> LearnedSites:
        """Learn one observation; correct the previous revision of the same key first.

        Parameters
        ----------
        observation
            What happened.
        previous
            The sites of revision − 1; None for revision 0, or when they expired (then nothing is taken back).

        Returns
        -------
        LearnedSites
            To be stored with the observation's x.

        Raises
        ------
        ValueError
            When the layout is unknown, x does not fit it or is not finite, a target is out of range, or `previous` is
            not revision − 1 of the same key; nothing was learned then.
        """
        if previous is not None and (previous.key, previous.revision) != (observation.key, observation.revision - 1):
            raise ValueError(
                f"previous: revision {previous.revision} of {previous.key!r} cannot precede revision "
                f"{observation.revision} of {observation.key!r}"
            )
        x = self._vector(observation)
        _check_targets(observation)
        if previous is None and not _teaches(observation):
            return LearnedSites(key=observation.key, revision=observation.revision, response=None, experience=None)
        models = self._join(observation.action, observation.group, observation.competes)
        old = previous or LearnedSites(key="", revision=-1, response=None, experience=None)
        response = self._learn_response(models, x, observation, old.response)
        experience = self._learn_experience(models, x, observation, old.experience)
        value = observation.value if observation.response == 1 and response is not None else None
        models.add_value(value, old.value)
        self.step += 1
        self._count(x, int(bool(response or experience)) - int(bool(old.response or old.experience)))
        group = self._groups[models.group]
        group.learned += 1
        if group.learned >= group.pool_at:
            self._pool(group)
        if self.step >= self._judge_at:
            self._judge_exploration()
        return LearnedSites(
            key=observation.key, revision=observation.revision, response=response, experience=experience, value=value
        )

    def unlearn(self, observation: Observation, sites: LearnedSites) -> None:
        """Subtract an observation's sites for good: erasure."""
        models = self._models.get(observation.action)
        if models is None:
            return
        x = self._vector(observation)
        for posterior, site in zip(models.posteriors, (sites.response, sites.experience), strict=True):
            if site is not None:
                posterior.unlearn(x, site)
        models.add_value(None, sites.value)
        self._count(x, -int(bool(sites.response or sites.experience)))
        self.step += 1

    def merge(self, other: Self) -> None:
        """Add what another learner learned from other observations: sites add, priors follow from the sums.

        Raises
        ------
        ValueError
            When either has forgotten something (sums of different ages do not add) or a release has other columns.
        """
        for action, models in (*self._models.items(), *other._models.items()):
            if any(posterior.log_kept < 0.0 for posterior in models.posteriors):
                raise ValueError(f"action {action}: has forgotten something; only whole memories can be merged")
        for release, columns in other.layouts.items():
            self.register_layout(release, columns)
        at = np.array([self.columns.index(name) for name in other.columns], np.int64)
        for action, theirs in other._models.items():
            models = self._join(action, theirs.group, theirs.competes)
            for mine, added in zip(models.posteriors, theirs.posteriors, strict=True):
                mine.sites_precision[np.ix_(at, at)] += added.sites_precision
                mine.sites_mean[at] += added.sites_mean
                mine.evidence += added.evidence
                mine.observations += added.observations
            models.value_sum += theirs.value_sum
            models.value_count += theirs.value_count
        self._x_sum[at] += other._x_sum
        self._x_count += other._x_count
        self.step += other.step
        for name, group in self._groups.items():
            group.learned += other._groups[name].learned if name in other._groups else 0
            self._pool(group)

    @property
    def evidence(self) -> dict[str, float]:
        """Responses behind each action, weighted and after forgetting."""
        return {action: models.response.posterior.evidence for action, models in self._models.items()}

    @property
    def group_evidence(self) -> dict[str, float]:
        """The same for each group."""
        evidence = self.evidence
        return {name: sum(evidence[action] for action in group.members) for name, group in self._groups.items()}

    @property
    def spreads(self) -> dict[str, pooling.Spread]:
        """How far the responses of each group's actions differ."""
        return {name: group.response for name, group in self._groups.items()}

    @property
    def half_life(self) -> float:
        """Calibrated half-life of evidence in observations of an action; infinite while the world stands still."""
        gamma = self._half_life.forgetting
        return math.inf if gamma == 1.0 else math.log(0.5) / math.log(gamma)

    def metrics(self) -> ProgressiveMetrics:
        """Compute River's metrics over the latest predictions; 10 ms, so not for every observation."""
        return self._progress.metrics(self.step)

    def snapshot(self, version: int, step: int) -> Snapshot:
        """Copy every model; learning is not affected.

        Returns
        -------
        Snapshot
            Actions by group in order of first appearance.
        """
        actions = [action for group in self._groups.values() for action in group.members]
        models = [self._models[action] for action in actions]
        fresh = [self._derived(group.fresh_response) for group in self._groups.values()]
        points = [self._derived(group.fresh_experience)[0] for group in self._groups.values()]
        return Snapshot(
            version=version,
            step=step,
            columns=list(self.columns),
            actions=actions,
            groups=[each.group for each in models],
            mean=b"".join(_packed(each.response.posterior.mean) for each in models),
            cov_packed=b"".join(_packed(pack_upper(each.response.posterior.cov)) for each in models),
            experience=b"".join(_packed(each.experience.posterior.mean) for each in models),
            evidence=[each.response.posterior.evidence for each in models],
            group_names=list(self._groups),
            group_mean=b"".join(_packed(mean) for mean, _ in fresh),
            group_cov=b"".join(_packed(pack_upper(cov)) for _, cov in fresh),
            group_experience=b"".join(_packed(mean) for mean in points),
            prior_precision=1.0,
            values=[each.mean_value for each in models],
            value_counts=[float(each.value_count) for each in models],
            exploration=self.exploration,
            half_life=self.half_life,
            changes=[each.changes for each in models],
        )

    def checkpoint(self) -> bytes:
        """Encode the whole state as MessagePack."""
        return msgspec.msgpack.encode(
            _LearnerState(
                format=FORMAT,
                pooled=self.pooled,
                adaptive=self.adaptive,
                forgetting=self.forgetting,
                noise_precision=self.noise_precision,
                step=self.step,
                columns=self.columns,
                layouts=self.layouts,
                actions=[
                    _ActionState(
                        action=action,
                        group=models.group,
                        competes=models.competes,
                        response=models.response.posterior.encode(),
                        experience=models.experience.posterior.encode(),
                        value_sum=models.value_sum,
                        value_count=models.value_count,
                        residuals=models.detector.encode(),
                        changes=models.changes,
                        offsets=models.offsets.tobytes(),
                    )
                    for action, models in self._models.items()
                ],
                groups={
                    name: _GroupState(
                        members=group.members,
                        response=group.response,
                        experience=group.experience,
                        learned=group.learned,
                        pool_at=group.pool_at,
                        judge_at=group.judge_at,
                        fresh_response=_encoded(group.fresh_response),
                        fresh_experience=_encoded(group.fresh_experience),
                    )
                    for name, group in self._groups.items()
                },
                half_life=self._half_life.encode(),
                exploration=self.exploration,
                judge_at=self._judge_at,
                contexts=self._contexts.tobytes(),
                x_sum=self._x_sum.tobytes(),
                x_count=self._x_count,
                window=self._progress.encode(),
            )
        )

    @classmethod
    def restore(cls, data: bytes) -> Self:
        """Rebuild a learner from a checkpoint, to the bit.

        Raises
        ------
        ValueError
            When the bytes are not a checkpoint or of another format.
        """
        try:
            named = msgspec.msgpack.decode(data, type=dict[str, msgspec.Raw])
            found = msgspec.msgpack.decode(named.get("format", msgspec.Raw(b"\xc0")))
            if found != FORMAT:
                raise ValueError(f"checkpoint: format {found!r}, this version reads {FORMAT!r}")
            state = msgspec.msgpack.decode(data, type=_LearnerState)
        except msgspec.DecodeError as error:
            raise ValueError(f"checkpoint: not readable: {error}") from error
        learner = cls(
            pooled=state.pooled,
            adaptive=state.adaptive,
            forgetting=state.forgetting,
            noise_precision=state.noise_precision,
        )
        learner.step, learner.exploration, learner._judge_at = state.step, state.exploration, state.judge_at
        learner.columns = list(state.columns)
        d = len(learner.columns)
        learner._contexts = np.frombuffer(state.contexts, np.float32).reshape(exploration.CONTEXTS, d).copy()
        learner._x_sum, learner._x_count = np.frombuffer(state.x_sum).copy(), state.x_count
        for release, columns in state.layouts.items():
            learner.register_layout(release, columns)
        for name, saved in state.groups.items():
            group = learner._groups[name] = _Group(d)
            group.members = list(saved.members)
            group.response, group.experience = saved.response, saved.experience
            group.learned, group.pool_at, group.judge_at = saved.learned, saved.pool_at, saved.judge_at
            group.fresh_response = _decoded(saved.fresh_response, d)
            group.fresh_experience = _decoded(saved.fresh_experience, d)
        for kept in state.actions:
            models = _Models(kept.group, state.forgetting, state.noise_precision, kept.competes)
            models.response.posterior = Posterior.decode(kept.response)
            models.experience.posterior = Posterior.decode(kept.experience)
            models.value_sum, models.value_count = kept.value_sum, kept.value_count
            models.detector, models.changes = drift.ChangeDetector(kept.residuals), kept.changes
            models.offsets = np.frombuffer(kept.offsets).reshape(3, -1).copy()
            learner._models[kept.action] = models
        learner._half_life = drift.HalfLife(state.half_life)
        learner._progress = Progress.decode(state.window)
        return learner

    def _vector(self, observation: Observation) -> F64:
        at = self._at.get(observation.layout)
        if at is None:
            raise ValueError(f"layout: release {observation.layout} is not registered")
        x = observation.x
        given = np.frombuffer(x, "<f4" if len(x) % 4 == 0 else "u1") if isinstance(x, bytes) else x
        if given.shape != at.shape:
            raise ValueError(f"x: shape {given.shape} where release {observation.layout} has {at.shape}")
        vector = np.zeros(len(self.columns))
        vector[at] = given
        if not math.isfinite(float(vector @ vector)):
            raise ValueError("x: not finite")
        return vector

    def _join(self, action: str, name: str, competes: bool) -> _Models:
        """Return an action's models, made when it is new, moved when its group changed."""
        models = self._models.get(action)
        if models is not None and models.group == name:
            return models
        d = len(self.columns)
        group = self._groups.setdefault(name, _Group(d))
        group.members.append(action)
        if models is None:
            forgetting = min(self.forgetting, self._half_life.forgetting)
            models = _Models(name, forgetting, self.noise_precision, competes)
            for posterior in models.posteriors:
                posterior.grow(d)
            self._models[action] = models
        else:
            self._groups[models.group].members.remove(action)
            models.group = name
        for posterior, prior in zip(models.posteriors, (group.fresh_response, group.fresh_experience), strict=True):
            posterior.swap_prior(prior.precision, prior.eta)
        return models

    def _count(self, x: F64, change: int) -> None:
        """Take a customer into the centre when an observation begins to teach (1), out when it stops (−1)."""
        self._x_sum += change * x
        self._x_count += change

    def _learn_response(self, models: _Models, x: F64, observation: Observation, old: Site | None) -> Site | None:
        posterior = models.response.posterior
        if observation.response is None or observation.response_weight == 0.0:
            if old is not None:
                posterior.unlearn(x, old)
            return None
        if observation.revision == 0:
            mean, variance = posterior.predict(x)
            logit = mean / math.sqrt(1.0 + math.pi * variance / 8.0)
            p = sigmoid(logit)
            if observation.competes:
                self._progress.response(self.step, p, observation.response)
                self._contexts[self.step % exploration.CONTEXTS] = x
            if self.adaptive:
                self._watch(models, logit, observation.response - p, observation.response)
        return models.response.learn_vector(x, observation.response, observation.response_weight, replaces=old)

    def _learn_experience(self, models: _Models, x: F64, observation: Observation, old: Site | None) -> Site | None:
        posterior = models.experience.posterior
        if observation.experience_weight == 0.0:
            if old is not None:
                posterior.unlearn(x, old)
            return None
        if observation.revision == 0:
            self._progress.experience(self.step, posterior.predict(x)[0], observation.experience)
        return models.experience.learn_vector(x, observation.experience, observation.experience_weight, replaces=old)

    def _watch(self, models: _Models, logit: float, residual: float, y: int) -> None:
        """Look for change in what an action's model got wrong, and forget what no longer holds."""
        evidence = models.response.posterior.evidence
        holds = models.detector.update(residual)
        keep = drift.share_to_keep(holds, evidence) if holds else 1.0
        if keep < 1.0:
            for posterior in models.posteriors:
                posterior.forget(keep)
            self._half_life.drop(models.offsets)
            models.changes += 1
            self._groups[models.group].pool_at = 0
        elif evidence >= TRACKED and self._half_life.update(models.offsets, logit, y):
            for each in self._models.values():
                each.offsets[:] = 0.0
                for posterior in each.posteriors:
                    posterior.forgetting = min(self.forgetting, self._half_life.forgetting)

    def _pool(self, group: _Group) -> None:
        """Judge how far the group's actions differ, and give each the prior that follows from the others."""
        d = len(self.columns)
        group.pool_at = group.learned + _until_next(group.learned, len(group.members), d)
        members = [self._models[action] for action in group.members]
        judge = group.learned >= group.judge_at
        if judge:
            group.judge_at = group.learned + min(group.learned // 2, 8 * OFTEN)
        responses = [models.response.posterior for models in members]
        group.response, group.fresh_response = self._pooled(responses, group.response, judge)
        experiences = [models.experience.posterior for models in members]
        if any(posterior.observations for posterior in experiences):
            group.experience, group.fresh_experience = self._pooled(experiences, group.experience, judge)

    def _pooled(
        self, posteriors: list[Posterior], spread: pooling.Spread, judge: bool
    ) -> tuple[pooling.Spread, pooling.Prior]:
        """Swap the priors of one kind of model; return its spread, judged anew or not, and a new action's prior."""
        d = len(self.columns)
        centre = self._x_sum / max(self._x_count, 1)
        sums = [_sums(posterior, centre) for posterior in posteriors]
        if judge:
            spread = pooling.calibrated(sums, spread, d)
        *own, fresh = pooling.priors(sums, spread, d, alone=not self.pooled, centre=centre)
        for posterior, prior in zip(posteriors, own, strict=True):
            posterior.swap_prior(prior.precision, prior.eta)
        return spread, fresh

    def _judge_exploration(self) -> None:
        self._judge_at = self.step + max(SETTLED, min(self.step, 8 * OFTEN))
        competing = [
            m.response.posterior for m in self._models.values() if m.competes and m.response.posterior.evidence
        ]
        if len(competing) < 2:
            return
        x = self._contexts.astype(np.float64)
        x = x[x.any(axis=1)]
        means = np.stack([x @ posterior.mean for posterior in competing], axis=1)
        variances = np.stack([((x @ posterior.cov) * x).sum(axis=1) for posterior in competing], axis=1)
        sds: F32 = np.sqrt(np.maximum(variances, 0.0)).astype(np.float32)
        self.exploration = exploration.calibrated(self.exploration, means.astype(np.float32), sds)

    def _derived(self, prior: pooling.Prior) -> tuple[F64, F64]:
        """Mean and covariance of a prior."""
        d = len(self.columns)
        mean, cov = np.empty(d), np.empty((d, d))
        kernels_learning.refresh(pooling.RIDGE, prior.precision, prior.eta, np.zeros((d, d)), np.zeros(d), mean, cov)
        return mean, cov


def _until_next(learned: int, members: int, d: int) -> int:
    """Observations until a group is pooled again; the more, the more work a pool is, counted as members · d³."""
    cost_us = 0.005 * members * d**3
    return int(max(FIRST_POOL, cost_us / 1000.0, min((GROWTH - 1.0) * learned, max(OFTEN, cost_us))))


def _check_targets(observation: Observation) -> None:
    if observation.response not in (None, 0, 1):
        raise ValueError(f"response: {observation.response} is not 0, 1 or None")
    for name in ("experience", "value"):
        if not abs(getattr(observation, name) or 0.0) <= limits.MONEY:
            raise ValueError(f"{name}: {getattr(observation, name)} is not a number up to {limits.MONEY:g} in size")
    for name in ("response_weight", "experience_weight"):
        weight = getattr(observation, name)
        if not 0.0 <= weight <= LARGEST:
            raise ValueError(f"{name}: {weight} is not in 0..{LARGEST:g}")


def _teaches(observation: Observation) -> bool:
    response = observation.response is not None and observation.response_weight > 0.0
    return response or observation.experience_weight > 0.0


def _sums(posterior: Posterior, centre: F64) -> pooling.Sums:
    return *pooling.recentred(posterior.sites_precision, posterior.sites_mean, centre), posterior.evidence


def _alone(spread: pooling.Spread) -> float:
    """Prior precision of a column that nobody has seen yet."""
    return float(pooling.priors([], spread, 2)[0].precision[1, 1]) + pooling.RIDGE


def _grown(prior: pooling.Prior, d: int, precision: float) -> pooling.Prior:
    before = len(prior.eta)
    wide = np.pad(prior.precision, (0, d - before))
    np.fill_diagonal(wide[before:, before:], precision - pooling.RIDGE)
    return pooling.Prior(wide, np.pad(prior.eta, (0, d - before)))


def _encoded(prior: pooling.Prior) -> tuple[bytes, bytes]:
    return pack_upper(prior.precision).tobytes(), prior.eta.tobytes()


def _decoded(packed: tuple[bytes, bytes], d: int) -> pooling.Prior:
    return pooling.Prior(unpack_upper(packed[0], d), np.frombuffer(packed[1]).copy())


def _packed(array: F64) -> bytes:
    return array.astype("<f4").tobytes()
