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

from nbx.bandits import drift, exploration, kernels_fold, kernels_learning, kernels_teaching, pooling
from nbx.bandits.batch import Batch, vector_of
from nbx.bandits.posterior import Posterior, PosteriorState, Site, pack_upper, unpack_upper
from nbx.bandits.progress import Progress, ProgressiveMetrics
from nbx.bandits.shelf import Models, Shelf
from nbx.bandits.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


class Observation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


class LearnedSites(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
        self.columns: list[str] = []
        self.layouts: dict[int, tuple[str, ...]] = {}
        self._at: dict[int, NDArray[np.int64]] = {}
        self._models: dict[str, Models] = {}
        self._groups: dict[str, _Group] = {}
        self._half_life = drift.HalfLife()
        self._judge_at = SETTLED
        self._contexts = np.zeros((exploration.CONTEXTS, 0), np.float32)
        self._x_sum = np.zeros(0)
        self._counters = np.zeros(2, np.int64)
        self._progress = Progress()
        self._shelf = Shelf(0, [])

    @property
    def step(self) -> int:
        """Observations learned and unlearned."""
        return int(self._counters[kernels_fold.STEP])

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
            self._shelf = Shelf(d, self._models.values())

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
        known = {}
        if previous is not None:
            known[previous.key, previous.revision] = previous
            if (observation.key, observation.revision - 1) not in known:
                raise ValueError(
                    f"previous: revision {previous.revision} of {previous.key!r} cannot precede revision "
                    f"{observation.revision} of {observation.key!r}"
                )
        (learned,) = self.learn_all([observation], known)
        if isinstance(learned, ValueError):
            raise learned
        return learned

    def learn_all(
        self, observations: Sequence[Observation], known: Mapping[tuple[str, int], LearnedSites]
    ) -> list[LearnedSites | ValueError]:
        """Learn observations as `learn` would one by one, to the bit, in about half the time.

        Parameters
        ----------
        observations
            What happened, in order.
        known
            (key, revision) → sites that one of them may replace, as far as they are not of these observations.

        Returns
        -------
        list
            Of each observation the sites, or why it teaches nothing.
        """
        batch = Batch(observations, known, self._at, len(self.columns))
        at = 0
        for i, observation in enumerate(observations):
            if batch.teaches[i]:
                models = self._models.get(observation.action)
                if models is None or models.group != observation.group:
                    self._run(observations, batch, at, i)
                    at = i
                    models = self._join(observation.action, observation.group, observation.competes)
                batch.action[i] = models.row
        self._run(observations, batch, at, len(observations))
        self._shelf.feed_all()
        return self._told(observations, batch)

    def unlearn(self, observation: Observation, sites: LearnedSites) -> None:
        """Subtract an observation's sites for good: erasure."""
        models = self._models.get(observation.action)
        if models is None:
            return
        x = vector_of(observation, self._at, len(self.columns))
        for posterior, site in zip(models.posteriors, (sites.response, sites.experience), strict=True):
            if site is not None:
                posterior.unlearn(x, site)
        models.add_value(None, sites.value)
        change = -int(bool(sites.response or sites.experience))
        self._x_sum += change * x
        self._counters += 1, change

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
        self._counters += other._counters
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
                x_count=int(self._counters[kernels_fold.COUNT]),
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
        learner.exploration, learner._judge_at = state.exploration, state.judge_at
        learner._counters[:] = state.step, state.x_count
        learner.columns = list(state.columns)
        d = len(learner.columns)
        learner._contexts = np.frombuffer(state.contexts, np.float32).reshape(exploration.CONTEXTS, d).copy()
        learner._x_sum = np.frombuffer(state.x_sum).copy()
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
            models = Models(kept.group, state.forgetting, state.noise_precision, kept.competes)
            models.response.posterior = Posterior.decode(kept.response)
            models.experience.posterior = Posterior.decode(kept.experience)
            models.value_sum, models.value_count = kept.value_sum, kept.value_count
            models.detector, models.changes = drift.ChangeDetector(kept.residuals), kept.changes
            models.offsets = np.frombuffer(kept.offsets).reshape(3, -1).copy()
            learner._models[kept.action] = models
        learner._shelf = Shelf(d, learner._models.values())
        learner._half_life = drift.HalfLife(state.half_life)
        learner._progress = Progress.decode(state.window)
        return learner

    def _join(self, action: str, name: str, competes: bool) -> Models:
        """Return an action's models, made when it is new, moved when its group changed."""
        models = self._models.get(action)
        if models is not None and models.group == name:
            return models
        d = len(self.columns)
        group = self._groups.setdefault(name, _Group(d))
        group.members.append(action)
        if models is None:
            forgetting = min(self.forgetting, self._half_life.forgetting)
            models = Models(name, forgetting, self.noise_precision, competes)
            for posterior in models.posteriors:
                posterior.grow(d)
            self._models[action] = models
            self._shelf.add(models)
        else:
            self._groups[models.group].members.remove(action)
            models.group = name
        for posterior, prior in zip(models.posteriors, (group.fresh_response, group.fresh_experience), strict=True):
            posterior.swap_prior(prior.precision, prior.eta)
        return models

    def unfit(self, observations: Sequence[Observation]) -> set[int]:
        """Return the positions of those that cannot be learned, whatever was learned before."""
        return set(Batch(observations, {}, self._at, len(self.columns)).faults)

    def _run(self, observations: Sequence[Observation], batch: Batch, at: int, end: int) -> None:
        """Learn at ≤ i < end, whose actions are known."""
        while at < end:
            until = self._next_look(observations, batch, at, end)
            reached, phase = at, kernels_fold.BEGIN
            while True:
                reached, why = kernels_fold.fold(
                    reached,
                    until,
                    phase,
                    self.noise_precision,
                    batch.arrays,
                    self._shelf.models,
                    self._shelf.watched if self.adaptive else self._shelf.unwatched,
                    (self._half_life.counters, self._half_life.scores, drift.KEEP, drift.PATIENT, drift.RULES),
                    (self._progress.window, self._contexts, self._x_sum, self._counters),
                )
                if why == kernels_fold.DONE:
                    break
                phase = kernels_fold.LEARN
                if why == kernels_fold.MOVED:
                    self._begin_anew()
                elif self._cut(self._shelf[batch.action[reached]]):
                    until = reached + 1
                else:
                    phase = kernels_fold.WATCH
            for i in range(at, until):
                if batch.action[i] >= 0:
                    self._groups[observations[i].group].learned += 1
            if batch.action[until - 1] >= 0:
                self._look(self._groups[observations[until - 1].group])
            at = until

    def _next_look(self, observations: Sequence[Observation], batch: Batch, at: int, end: int) -> int:
        """Return the first position, at most `end`, before which priors or exploration are due."""
        to_judge = max(self._judge_at - self.step, 1)
        to_pool: dict[str, int] = {}
        for i in range(at, end):
            if batch.teaches[i]:
                name = observations[i].group
                left = to_pool.get(name)
                if left is None:
                    group = self._groups[name]
                    left = max(group.pool_at - group.learned, 1)
                to_pool[name] = left - 1
                to_judge -= 1
                if left == 1 or not to_judge:
                    return i + 1
        return end

    def _look(self, group: _Group) -> None:
        """Compute a group's priors and judge exploration, if they are due."""
        if group.learned >= group.pool_at:
            self._pool(group)
        if self.step >= self._judge_at:
            self._judge_exploration()

    def _told(self, observations: Sequence[Observation], batch: Batch) -> list[LearnedSites | ValueError]:
        """Return what was learned, and take in what acceptances were worth."""
        told: list[LearnedSites | ValueError] = []
        for i, (observation, (response, experience), row) in enumerate(
            zip(observations, batch.out.tolist(), batch.action.tolist(), strict=True)
        ):
            fault = batch.faults.get(i)
            if fault is None and row < 0 and batch.teaches[i]:
                fault = ValueError("x: not finite, or too large to square")
            if fault is not None:
                told.append(fault)
                continue
            taught = _site(response)
            value = observation.value if observation.response == 1 and taught is not None else None
            replaced = batch.replaced_value(i, told) if observation.revision else None
            if value is not None or replaced is not None:
                self._shelf[row].add_value(value, replaced)
            told.append(
                LearnedSites(
                    key=observation.key,
                    revision=observation.revision,
                    response=taught,
                    experience=_site(experience),
                    value=value,
                )
            )
        return told

    def _cut(self, models: Models) -> bool:
        """Ask an action's detector; forget what no longer holds and tell whether that was anything."""
        evidence = models.response.posterior.evidence
        holds = self._shelf.feed(models.row)
        keep = drift.share_to_keep(holds, evidence) if holds else 1.0
        if keep == 1.0:
            return False
        for posterior in models.posteriors:
            posterior.forget(keep)
        self._half_life.drop(models.offsets)
        models.changes += 1
        self._groups[models.group].pool_at = 0
        return True

    def _begin_anew(self) -> None:
        """Let all models forget at another rate from now on."""
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
        centre = self._x_sum / max(int(self._counters[kernels_fold.COUNT]), 1)
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


def warm_up() -> None:
    """Compile (or load from the cache) every kernel of learning."""
    kernels_learning.warm_up()
    kernels_teaching.warm_up()
    learner = Learner()
    learner.register_layout(1, ["one"])
    x = np.ones(1, np.float32)
    learner.learn(Observation(key="", action="", group="", layout=1, x=x, response=1, experience=1.0), None)


def _until_next(learned: int, members: int, d: int) -> int:
    """Observations until a group is pooled again; the more, the more work a pool is, counted as members · d³."""
    cost_us = 0.005 * members * d**3
    return int(max(FIRST_POOL, cost_us / 1000.0, min((GROWTH - 1.0) * learned, max(OFTEN, cost_us))))


def _site(numbers: list[float]) -> Site | None:
    tau, nu, weight, at = numbers
    return None if math.isnan(tau) else Site(tau=tau, nu=nu, weight=weight, at=at)


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
