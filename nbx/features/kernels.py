"""Compiled loops over feature values. Functions over arrays: they know nothing of features."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

CLIP = 5.0
"""Largest magnitude a scaled value may have: one outlier must not outweigh everything learned."""


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba ships no types
def scale_values(
    raw: NDArray[np.float64],
    is_log: NDArray[np.bool_],
    shift: NDArray[np.float64],
    scale: NDArray[np.float64],
    offset: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    """Write scaled values to their columns.

    Parameters
    ----------
    raw
        float64[m].
    is_log
        bool[m]: `log1p(max(raw, 0)) * scale`, else `(raw - shift) * scale`; both clipped to ±`CLIP`.
    shift, scale
        float64[m].
    offset
        int64[m], column of each value.
    out
        float32[d], changed in place.
    """
    for i in range(len(raw)):
        value = math.log1p(max(raw[i], 0.0)) if is_log[i] else raw[i] - shift[i]
        out[offset[i]] = min(max(value * scale[i], -CLIP), CLIP)


def warm_up() -> None:
    """Compile for the served types."""
    one = np.ones(1)
    raw = np.frombuffer(one.tobytes())  # read only, as `VectorLayout.encode` has it: a type of its own to Numba
    scale_values(raw, one > 0, one, one, np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.float32))
