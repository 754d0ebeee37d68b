"""Compiling every kernel before the first request: a process is not ready before."""

from __future__ import annotations

import nbx.bandits.kernels
import nbx.features.kernels


def warm_up() -> None:
    """Compile or load all kernels for the types served: seconds when new, a fraction of one from the cache."""
    nbx.bandits.kernels.warm_up()
    nbx.features.kernels.warm_up()
