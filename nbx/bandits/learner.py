"""The learner as a pure fold: observations in, sites out. No store, no clock, no process.

Every action has two River estimators, one for the response and one for experience points. The state after n
observations depends on these observations and their order alone: an action's response model takes up its siblings'
evidence as prior on its own 1st, 65th, 129th … observation, never when a snapshot happens to be made. A snapshot pools
anew on the side and leaves the learner untouched, so it may be taken at any time without changing what is learned next.

A checkpoint holds sums, derived mean and covariance and counters, to the bit: a learner restored from it continues as
if it had never stopped. Columns are the union over all releases' layouts; what a release lacks is 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import msgspec
import numpy as np
from river import metrics, stats

from nbx.bandits import kernels_learning, pooling
from nbx.bandits.estimators import BayesianLinearRegression, BayesianLogisticRegression, moderated
from nbx.bandits.posterior import Posterior, PosteriorState, Site, pack_upper
from nbx.bandits.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nbx.bandits.kernels import F64

FORMAT = "nbx-learner/1"
REPOOL_EVERY = 64
"""Observations of an action between two looks at its siblings: they matter most while it has few of its own."""
WINDOW = 2048
"""Latest predictions kept for progressive metrics: a standard error of 0.01 on an acceptance rate."""


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


class LearnedSites(msgspec.Struct, frozen=True, kw_only=True):
    """What an observation added; stored by the caller for as long as it may be corrected or erased."""

    key: str
    revision: int
    response: Site | None
    experience: Site | None
    value: float | None = None
    """Money that was added to the action's mean value."""


class ProgressiveMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """How the latest predictions did, each made before its outcome was learned; NaN when there were none."""

    count: int
    """Responses in the window."""
    log_loss: float
    roc_auc: float
    accuracy: float
    response_rate: float
    predicted_rate: float
    experience_mae: float
    """Points."""


class _ActionState(msgspec.Struct, frozen=True, kw_only=True):
    action: str
    group: str
    response: PosteriorState
    experience: PosteriorState
    value_sum: float
    value_count: int


class _LearnerState(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    prior_precision: float
    forgetting: float
    noise_precision: float
    kappa: float
    step: int
    columns: list[str]
    layouts: dict[int, tuple[str, ...]]
    actions: list[_ActionState]
    groups: dict[str, list[str]]
    """Members in the order in which their evidence is added up: another order would round differently."""
    window: bytes


class _Models:
    """The two models of one action."""

    def __init__(self, group: str, response: BayesianLogisticRegression, experience: BayesianLinearRegression) -> None:
        self.group = group
        self.response = response
        self.experience = experience
        self.value_sum = 0.0
        self.value_count = 0

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


class _GroupRows:
    """A group's rows of a snapshot: one for each action, the last for an action never seen."""

    def __init__(self, mean: F64, cov: F64, experience: F64) -> None:
        self.mean = mean.astype("<f4")
        self.cov = cov.astype("<f4")
        self.experience = experience.astype("<f4")


class Learner:
    """Fold observations into the models of all actions.

    Parameters
    ----------
    prior_precision
        λ of every model's prior, > 0.
    forgetting
        γ in (0, 1], per observation of an action.
    noise_precision
        1/variance of experience points, > 0.
    kappa
        Observations an action's siblings count for at most, > 0.

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
        prior_precision: float = 1.0,
        forgetting: float = 1.0,
        noise_precision: float = 1.0,
        kappa: float = pooling.KAPPA,
    ) -> None:
        if not kappa > 0.0:
            raise ValueError(f"kappa: {kappa} is not positive")
        self.prior_precision = prior_precision
        self.forgetting = forgetting
        self.noise_precision = noise_precision
        self.kappa = kappa
        self.step = 0
        self.columns: list[str] = []
        self.layouts: dict[int, tuple[str, ...]] = {}
        self._at: dict[int, NDArray[np.int64]] = {}
        self._models: dict[str, _Models] = {}
        self._groups: dict[str, list[str]] = {}
        self._rows: dict[str, _GroupRows] = {}
        self._window = np.full((WINDOW, 4), np.nan)

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
        if any(models.response.posterior.d != len(self.columns) for models in self._models.values()):
            for models in self._models.values():
                models.response.posterior.grow(len(self.columns))
                models.experience.posterior.grow(len(self.columns))
            self._rows.clear()

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
            When the layout is unknown, x does not fit it or is not finite, or `previous` is not revision − 1 of the
            same key; nothing was learned then.
        """
        if previous is not None and (previous.key, previous.revision) != (observation.key, observation.revision - 1):
            raise ValueError(
                f"previous: revision {previous.revision} of {previous.key!r} cannot precede revision "
                f"{observation.revision} of {observation.key!r}"
            )
        x = self._vector(observation)
        self._check_targets(observation)
        models = self._models_of(observation)
        old = previous or LearnedSites(key="", revision=-1, response=None, experience=None)
        response = self._learn_response(models, x, observation, old.response)
        experience = self._learn_experience(models, x, observation, old.experience)
        value = observation.value if observation.response == 1 else None
        models.add_value(value, old.value)
        self.step += 1
        self._rows.pop(models.group, None)
        return LearnedSites(
            key=observation.key, revision=observation.revision, response=response, experience=experience, value=value
        )

    def unlearn(self, observation: Observation, sites: LearnedSites) -> None:
        """Subtract an observation's sites for good: erasure."""
        models = self._models.get(observation.action)
        if models is None:
            return
        x = self._vector(observation)
        for model, site in ((models.response, sites.response), (models.experience, sites.experience)):
            if site is not None:
                model.posterior.unlearn(x, site)
        models.add_value(None, sites.value)
        self.step += 1
        self._rows.pop(models.group, None)

    @property
    def evidence(self) -> dict[str, float]:
        """Responses behind each action, weighted and after forgetting."""
        return {action: models.response.posterior.evidence for action, models in self._models.items()}

    @property
    def group_evidence(self) -> dict[str, float]:
        """The same for each group."""
        evidence = self.evidence
        return {group: sum(evidence[action] for action in members) for group, members in self._groups.items()}

    def metrics(self) -> ProgressiveMetrics:
        """Compute River's metrics over the latest `WINDOW` predictions; 10 ms, so not for every observation."""
        log_loss, roc_auc, accuracy, mae = metrics.LogLoss(), metrics.ROCAUC(), metrics.Accuracy(), metrics.MAE()
        rate, predicted = stats.Mean(), stats.Mean()
        start = self.step % WINDOW
        for p, y, points_predicted, points in np.roll(self._window, -start, axis=0).tolist():
            if not math.isnan(y):
                answer = y > 0.5
                log_loss.update(answer, p)
                roc_auc.update(answer, p)
                accuracy.update(answer, p > 0.5)
                rate.update(y)
                predicted.update(p)
            if not math.isnan(points):
                mae.update(points, points_predicted)
        seen = int(rate.n)
        has_points = bool(np.isfinite(self._window[:, 3]).any())
        return ProgressiveMetrics(
            count=seen,
            log_loss=float(log_loss.get()) if seen else math.nan,
            roc_auc=float(roc_auc.get()) if seen else math.nan,
            accuracy=float(accuracy.get()) if seen else math.nan,
            response_rate=float(rate.get()) if seen else math.nan,
            predicted_rate=float(predicted.get()) if seen else math.nan,
            experience_mae=float(mae.get()) if has_points else math.nan,
        )

    def snapshot(self, version: int, step: int) -> Snapshot:
        """Pool and refresh what changed since the last snapshot; learning is not affected.

        Returns
        -------
        Snapshot
            Actions by group in order of first appearance.
        """
        for group in self._groups:
            if group not in self._rows:
                self._rows[group] = self._group_rows(group)
        rows = [self._rows[group] for group in self._groups]
        actions = [action for members in self._groups.values() for action in members]
        evidence = self.evidence
        return Snapshot(
            version=version,
            step=step,
            columns=list(self.columns),
            actions=actions,
            groups=[self._models[action].group for action in actions],
            mean=b"".join(row.mean[:-1].tobytes() for row in rows),
            cov_packed=b"".join(row.cov[:-1].tobytes() for row in rows),
            experience=b"".join(row.experience[:-1].tobytes() for row in rows),
            evidence=[evidence[action] for action in actions],
            group_names=list(self._groups),
            group_mean=b"".join(row.mean[-1].tobytes() for row in rows),
            group_cov=b"".join(row.cov[-1].tobytes() for row in rows),
            group_experience=b"".join(row.experience[-1].tobytes() for row in rows),
            prior_precision=self.prior_precision,
            values=[self._models[action].mean_value for action in actions],
            value_counts=[float(self._models[action].value_count) for action in actions],
        )

    def checkpoint(self) -> bytes:
        """Encode the whole state as MessagePack."""
        return msgspec.msgpack.encode(
            _LearnerState(
                format=FORMAT,
                prior_precision=self.prior_precision,
                forgetting=self.forgetting,
                noise_precision=self.noise_precision,
                kappa=self.kappa,
                step=self.step,
                columns=self.columns,
                layouts=self.layouts,
                actions=[
                    _ActionState(
                        action=action,
                        group=models.group,
                        response=models.response.posterior.encode(),
                        experience=models.experience.posterior.encode(),
                        value_sum=models.value_sum,
                        value_count=models.value_count,
                    )
                    for action, models in self._models.items()
                ],
                groups=self._groups,
                window=self._window.tobytes(),
            )
        )

    @classmethod
    def restore(cls, data: bytes) -> Self:
        """Rebuild a learner that continues bit for bit.

        Raises
        ------
        ValueError
            When the bytes are not a checkpoint or of another format.
        """
        try:
            state = msgspec.msgpack.decode(data, type=_LearnerState)
        except msgspec.DecodeError as error:
            raise ValueError(f"checkpoint: not readable: {error}") from error
        if state.format != FORMAT:
            raise ValueError(f"checkpoint: format {state.format!r}, this version reads {FORMAT!r}")
        learner = cls(
            prior_precision=state.prior_precision,
            forgetting=state.forgetting,
            noise_precision=state.noise_precision,
            kappa=state.kappa,
        )
        learner.step = state.step
        learner.columns = list(state.columns)
        for release, columns in state.layouts.items():
            learner.register_layout(release, columns)
        for saved in state.actions:
            models = learner._join(saved.action, saved.group)
            models.response.posterior = Posterior.decode(saved.response)
            models.experience.posterior = Posterior.decode(saved.experience)
            models.value_sum, models.value_count = saved.value_sum, saved.value_count
        learner._groups = {group: list(members) for group, members in state.groups.items()}
        learner._window = np.frombuffer(state.window).reshape(WINDOW, 4).copy()
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

    @staticmethod
    def _check_targets(observation: Observation) -> None:
        if observation.response not in (None, 0, 1):
            raise ValueError(f"response: {observation.response} is not 0, 1 or None")
        if not math.isfinite(observation.value or 0.0):
            raise ValueError(f"value: {observation.value} is not a finite number")
        if not math.isfinite(observation.experience):
            raise ValueError(f"experience: {observation.experience} is not a finite number")
        for name in ("response_weight", "experience_weight"):
            weight = getattr(observation, name)
            if not (weight >= 0.0 and math.isfinite(weight)):
                raise ValueError(f"{name}: {weight} is not a finite number ≥ 0")

    def _join(self, action: str, group: str) -> _Models:
        """Return an action's models, made when it is new, moved when its group changed."""
        models = self._models.get(action)
        if models is None:
            prior = {"prior_precision": self.prior_precision, "forgetting": self.forgetting}
            models = _Models(
                group,
                BayesianLogisticRegression(**prior),
                BayesianLinearRegression(**prior, noise_precision=self.noise_precision),
            )
            models.response.posterior.grow(len(self.columns))
            models.experience.posterior.grow(len(self.columns))
            self._models[action] = models
            self._groups.setdefault(group, []).append(action)
        elif models.group != group:
            self._groups[models.group].remove(action)
            self._rows.pop(models.group, None)
            self._groups.setdefault(group, []).append(action)
            models.group = group
        return models

    def _models_of(self, observation: Observation) -> _Models:
        return self._join(observation.action, observation.group)

    def _learn_response(self, models: _Models, x: F64, observation: Observation, old: Site | None) -> Site | None:
        posterior = models.response.posterior
        if observation.response is None or observation.response_weight == 0.0:
            if old is not None:
                posterior.unlearn(x, old)
            return None
        if old is None and posterior.observations % REPOOL_EVERY == 0:
            self._repool(models)
        if observation.revision == 0:
            self._window[self.step % WINDOW, :2] = moderated(*posterior.predict(x)), observation.response
        return models.response.learn_vector(x, observation.response, observation.response_weight, replaces=old)

    def _learn_experience(self, models: _Models, x: F64, observation: Observation, old: Site | None) -> Site | None:
        posterior = models.experience.posterior
        if observation.experience_weight == 0.0:
            if old is not None:
                posterior.unlearn(x, old)
            return None
        if observation.revision == 0:
            self._window[self.step % WINDOW, 2:] = posterior.predict(x)[0], observation.experience
        return models.experience.learn_vector(x, observation.experience, observation.experience_weight, replaces=old)

    def _repool(self, models: _Models) -> None:
        members = self._groups[models.group]
        if len(members) > 1:
            group = pooling.total((_sums(self._models[name].response.posterior) for name in members), len(self.columns))
            own = _sums(models.response.posterior)
            models.response.posterior.swap_prior(*pooling.leave_one_out(group, own, self.kappa))

    def _group_rows(self, group: str) -> _GroupRows:
        members = [self._models[action] for action in self._groups[group]]
        response = [models.response.posterior for models in members]
        experience = [models.experience.posterior for models in members]
        mean, cov = self._pooled(response)
        points, _ = self._pooled(experience)
        return _GroupRows(mean, cov, points)

    def _pooled(self, posteriors: list[Posterior]) -> tuple[F64, F64]:
        """Mean and packed covariance of each posterior under its siblings' prior, then of one never seen."""
        d = len(self.columns)
        own = [_sums(posterior) for posterior in posteriors]
        group = pooling.total(own, d)
        own.append(pooling.total([], d))
        means = np.empty((len(own), d))
        covs = np.empty((len(own), d * (d + 1) // 2))
        cov = np.empty((d, d))
        for k, part in enumerate(own):
            prior = pooling.leave_one_out(group, part, self.kappa)
            kernels_learning.refresh(self.prior_precision, *prior, part[0], part[1], means[k], cov)
            covs[k] = pack_upper(cov)
        return means, covs


def _sums(posterior: Posterior) -> pooling.Sums:
    return posterior.sites_precision, posterior.sites_mean, posterior.evidence
