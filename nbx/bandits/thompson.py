"""Exact Thompson sampling over slots: who is drawn, and with which probability.

Slot 0 draws from the distribution of `kernels.selection`, mixed with a uniform floor. Slots 1 … repeat it without the
candidates already placed, so each logged propensity is conditional on the slots before it. Once none is drawn the rest
is none with propensity 1: silence is not followed by talk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from nbx.bandits import kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nbx.bandits.kernels import F32, F64


class Slate(Struct, frozen=True, gc=False):
    """What was drawn for each slot."""

    chosen: NDArray[np.int32]
    """int32[slots], row of the candidate; −1 is none."""
    propensity: F64
    """float64[slots], probability of that choice given the slots before it."""
    probabilities: F64
    """float64[n + 1], the distribution slot 0 was drawn from; the last entry is none."""


def choose_slate(
    mean: F32,
    sd: F32,
    gain: F64,
    shift: F64,
    *,
    scale: float,
    floor: float,
    slots: int,
    uniforms: Sequence[float] | F64,
    with_none: bool = True,
) -> Slate:
    """Draw candidates for slots, without replacement.

    Parameters
    ----------
    mean, sd
        float32[n], logit of the response.
    gain, shift
        float64[n], utility = gain·σ(z) + shift.
    scale
        ≥ 0, exploration scale.
    floor
        0..1, share chosen uniformly over the candidates and none.
    slots
        ≥ 1.
    uniforms
        One number in 0..1 for each slot.
    with_none
        Whether none competes.

    Raises
    ------
    ValueError
        When the uniforms do not match the slots or a number is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> sure = np.array([3.0, -3.0], np.float32), np.full(2, 0.1, np.float32), np.ones(2), np.full(2, -0.2)
    >>> slate = choose_slate(*sure, scale=1.0, floor=0.0, slots=3, uniforms=[0.5, 0.5, 0.5])
    >>> slate.chosen.tolist(), slate.propensity.round(6).tolist()
    ([0, -1, -1], [1.0, 1.0, 1.0])
    """
    if slots < 1 or len(uniforms) != slots:
        raise ValueError(f"uniforms: {len(uniforms)} given for {slots} slots; one each, at least one slot")
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"floor: {floor} is not in 0..1")
    if not scale >= 0.0:
        raise ValueError(f"scale: {scale} is negative or not a number")
    chosen = np.empty(slots, np.int32)
    propensity = np.empty(slots)
    probabilities = kernels.choose(
        mean, sd, gain, shift, scale, floor, with_none, np.asarray(uniforms, np.float64), chosen, propensity
    )
    return Slate(chosen=chosen, propensity=propensity, probabilities=probabilities)
