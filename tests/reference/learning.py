"""The learner by definition: one observation after the other, each through `Posterior` and River's detector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nbx.bandits import drift, exploration, kernels_fold, kernels_learning
from nbx.bandits.batch import Batch, vector_of
from nbx.bandits.learner import LearnedSites, Learner, Observation
from nbx.bandits.posterior import Site

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nbx.bandits.kernels import F64
    from nbx.bandits.shelf import Models


class OneByOne(Learner):
    """Folds as `Learner` does, without a kernel that knows more than one posterior."""

    def learn_all(
        self, observations: Sequence[Observation], known: Mapping[tuple[str, int], LearnedSites]
    ) -> list[LearnedSites | ValueError]:
        so_far = dict(known)
        told: list[LearnedSites | ValueError] = []
        for each in observations:
            faults = Batch([each], {}, self._at, len(self.columns)).faults
            if faults:
                told.append(faults[0])
                continue
            sites = self._one(each, so_far.get((each.key, each.revision - 1)))
            so_far[each.key, each.revision] = sites
            told.append(sites)
        return told

    def _one(self, o: Observation, previous: LearnedSites | None) -> LearnedSites:
        teaches = (o.response is not None and o.response_weight > 0.0) or o.experience_weight > 0.0
        if previous is None and not teaches:
            return LearnedSites(key=o.key, revision=o.revision, response=None, experience=None)
        x = vector_of(o, self._at, len(self.columns))
        models = self._join(o.action, o.group, o.competes)
        old = previous or LearnedSites(key="", revision=-1, response=None, experience=None)
        response = self._answer(models, x, o, old.response)
        experience = self._points(models, x, o, old.experience)
        value = o.value if o.response == 1 and response is not None else None
        models.add_value(value, old.value)
        change = int(bool(response or experience)) - int(bool(old.response or old.experience))
        self._x_sum += change * x
        self._counters += 1, change
        group = self._groups[models.group]
        group.learned += 1
        self._look(group)
        return LearnedSites(key=o.key, revision=o.revision, response=response, experience=experience, value=value)

    def _answer(self, models: Models, x: F64, o: Observation, old: Site | None) -> Site | None:
        posterior = models.response.posterior
        if o.response is None or o.response_weight == 0.0:
            if old is not None:
                posterior.unlearn(x, old)
            return None
        if o.revision == 0:
            mean, variance = posterior.predict(x)
            logit = mean / math.sqrt(1.0 + math.pi * variance / 8.0)
            p = 1.0 / (1.0 + math.exp(-max(logit, -700.0)))
            if o.competes:
                self._progress.response(self.step, p, o.response)
                self._contexts[self.step % exploration.CONTEXTS] = x
            if self.adaptive:
                self._watch(models, logit, o.response - p, o.response)
        return models.response.learn_vector(x, o.response, o.response_weight, replaces=old)

    def _points(self, models: Models, x: F64, o: Observation, old: Site | None) -> Site | None:
        posterior = models.experience.posterior
        if o.experience_weight == 0.0:
            if old is not None:
                posterior.unlearn(x, old)
            return None
        if o.revision == 0:
            self._progress.experience(self.step, posterior.predict(x)[0], o.experience)
        return models.experience.learn_vector(x, o.experience, o.experience_weight, replaces=old)

    def _watch(self, models: Models, logit: float, residual: float, y: int) -> None:
        evidence = models.response.posterior.evidence
        holds = models.detector.update(residual)
        keep = drift.share_to_keep(holds, evidence) if holds else 1.0
        if keep < 1.0:
            for posterior in models.posteriors:
                posterior.forget(keep)
            self._half_life.drop(models.offsets)
            models.changes += 1
            self._groups[models.group].pool_at = 0
        elif evidence >= drift.RULES[kernels_fold.NEEDED] and turned(self._half_life, models.offsets, logit, y):
            for each in self._models.values():
                each.offsets[:] = 0.0
                for posterior in each.posteriors:
                    posterior.forgetting = min(self.forgetting, self._half_life.forgetting)


def turned(half_life: drift.HalfLife, offsets: F64, logit: float, y: float) -> bool:
    """Choose among half-lives as `kernels_fold.turned` does."""
    prior, memory, convinced, _ = drift.RULES.tolist()
    current, since, tracked = half_life.counters.tolist()
    tracked += offsets[1, 0] == 0.0
    before = offsets[2].copy()
    kernels_learning.track(offsets, drift.KEEP, prior, logit, y, memory)
    half_life.scores += offsets[2] - before
    since += 1
    longest = len(drift.HALF_LIVES) - 1
    shorter = half_life.scores[:current]
    best = int(shorter.argmax()) if current else 0
    to = current
    if current and shorter[best] > convinced:
        to = best
    elif current < longest and since > drift.PATIENT[current] * max(tracked, 1):
        to = current + 1
    if to != current:
        half_life.scores[:] = 0.0
        since = tracked = 0
    half_life.counters[:] = to, since, tracked
    return bool(to != current)
