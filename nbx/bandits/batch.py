"""Observations as arrays, as `kernels_fold.fold` takes them: checked all at once, each with the sites that it replaces.

Those that cannot be learned have a fault, those that teach nothing and replace nothing have no action: the kernel
passes over both.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import numpy as np

from nbx import limits
from nbx.bandits.posterior import LARGEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nbx.bandits.kernels import F64
    from nbx.bandits.kernels_fold import I64, Flags
    from nbx.bandits.learner import LearnedSites, Observation
    from nbx.bandits.posterior import Site

_ANSWERS = (None, 0, 1)
_NO_SITE = (math.nan, 0.0, 0.0, 0.0)


class Batch:
    """Some observations, in order.

    Parameters
    ----------
    observations
        As they are.
    known
        (key, revision) → sites that were learned before; those of an earlier observation of the batch come first.
    places
        Release → columns of its x.
    d
        Columns of all releases.
    """

    def __init__(
        self,
        observations: Sequence[Observation],
        known: Mapping[tuple[str, int], LearnedSites],
        places: Mapping[int, I64],
        d: int,
    ) -> None:
        n = len(observations)
        self.faults: dict[int, ValueError] = {}
        """Position → why it cannot be learned."""
        self.x = self._vectors(observations, places, d)
        for i, observation in enumerate(observations):
            fault = _fault(observation)
            if fault is not None:
                self.faults.setdefault(i, fault)
        nan = math.nan
        self.targets = np.array(
            [
                (nan if o.response is None else o.response, o.response_weight, o.experience, o.experience_weight)
                for o in observations
            ],
            np.float64,
        )
        self.action, self.before = numbers = np.empty((2, n), np.int64)
        """Row of the action, to be filled in for those that `teach`; and position of the one that it replaces, −1: that
        one is not of the batch."""
        numbers.fill(-1)
        self.flags = np.array([(not o.revision, o.competes) for o in observations], np.bool_)
        self.old, self.out = sites = np.empty((2, n, 2, 4))
        """Sites that it replaces, by `kernels_fold.TAU` …, and its own, to be written."""
        sites.fill(nan)
        self._values: dict[int, float] = {}
        """Position → money that the sites it replaces added, if they did and are not of the batch."""
        replaces = self._replaces(observations, known)
        self.teaches = [
            i not in self.faults
            and ((o.response is not None and o.response_weight > 0.0) or o.experience_weight > 0.0 or i in replaces)
            for i, o in enumerate(observations)
        ]

    def replaced_value(self, i: int, told: Sequence[LearnedSites | ValueError]) -> float | None:
        """Return the money that the sites it replaces added; `told` are those of the batch so far."""
        if self.before[i] < 0:
            return self._values.get(i)
        replaced = told[self.before[i]]
        return None if isinstance(replaced, ValueError) else replaced.value

    @property
    def arrays(self) -> tuple[I64, F64, F64, Flags, I64, F64, F64]:
        """What `kernels_fold.fold` takes."""
        return self.action, self.x, self.targets, self.flags, self.before, self.old, self.out

    def _vectors(self, observations: Sequence[Observation], places: Mapping[int, I64], d: int) -> F64:
        x = np.zeros((len(observations), d))
        by_layout: dict[int, list[int]] = {}
        for i, observation in enumerate(observations):
            by_layout.setdefault(observation.layout, []).append(i)
        for layout, positions in by_layout.items():
            at = places.get(layout)
            given = [observations[i].x for i in positions]
            if at is not None and all(isinstance(each, bytes) and len(each) == 4 * len(at) for each in given):
                packed = b"".join(cast("list[bytes]", given))
                x[np.array(positions)[:, None], at] = np.frombuffer(packed, "<f4").reshape(len(given), -1)
                continue
            for i in positions:
                try:
                    x[i] = vector_of(observations[i], places, d)
                except ValueError as error:
                    self.faults[i] = error
        if not math.isfinite(np.vdot(x, x)):
            for i in (~np.isfinite((x * x).sum(axis=1))).nonzero()[0].tolist():
                self.faults[i] = ValueError("x: not finite")
        return x

    def _replaces(self, observations: Sequence[Observation], known: Mapping[tuple[str, int], LearnedSites]) -> set[int]:
        """Find the sites that corrections replace; return the positions of those that have some."""
        wanted = {(o.key, o.revision - 1) for o in observations if o.revision}
        if not wanted:
            return set()
        here: dict[tuple[str, int], int] = {}
        found = set()
        for i, observation in enumerate(observations):
            if i in self.faults:
                continue
            if observation.revision:
                replaced = (observation.key, observation.revision - 1)
                if replaced in here:
                    self.before[i] = here[replaced]
                    found.add(i)
                elif (sites := known.get(replaced)) is not None:
                    self.old[i] = numbers_of(sites.response), numbers_of(sites.experience)
                    if sites.value is not None:
                        self._values[i] = sites.value
                    found.add(i)
            place = (observation.key, observation.revision)
            if place in wanted:
                here[place] = i
        return found


def vector_of(observation: Observation, places: Mapping[int, I64], d: int) -> F64:
    """Return x float64[d] over the columns of all releases; `ValueError` when it does not fit its own."""
    at = places.get(observation.layout)
    if at is None:
        raise ValueError(f"layout: release {observation.layout} is not registered")
    x = observation.x
    given = np.frombuffer(x, "<f4" if len(x) % 4 == 0 else "u1") if isinstance(x, bytes) else x
    if given.shape != at.shape:
        raise ValueError(f"x: shape {given.shape} where release {observation.layout} has {at.shape}")
    vector = np.zeros(d)
    vector[at] = given
    return vector


def numbers_of(site: Site | None) -> tuple[float, float, float, float]:
    """Return a site as the kernel takes it."""
    return _NO_SITE if site is None else (site.tau, site.nu, site.weight, site.at)


def _fault(observation: Observation) -> ValueError | None:
    """Tell what is wrong about what was observed; None: nothing."""
    o = observation
    if o.response not in _ANSWERS:
        return ValueError(f"response: {o.response} is not 0, 1 or None")
    if not -limits.MONEY <= o.experience <= limits.MONEY:
        return ValueError(f"experience: {o.experience} is not a number up to {limits.MONEY:g} in size")
    if o.value is not None and not -limits.MONEY <= o.value <= limits.MONEY:
        return ValueError(f"value: {o.value} is not a number up to {limits.MONEY:g} in size")
    for name, weight in (("response", o.response_weight), ("experience", o.experience_weight)):
        if not 0.0 <= weight <= LARGEST:
            return ValueError(f"{name}_weight: {weight} is not in 0..{LARGEST:g}")
    return None
