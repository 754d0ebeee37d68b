"""Compiling every kernel before the first request: a process is not ready before."""

from __future__ import annotations

import fcntl
from pathlib import Path

import nbx.bandits.kernels
import nbx.features.kernels
from nbx.imports import absent


def warm_up() -> None:
    """Compile or load all kernels for the types served: half a minute when new, a fraction of a second from the cache.

    Of processes that start together one compiles; the others wait for it and load what it put into the cache.
    """
    cache = Path(nbx.bandits.kernels.score.stats.cache_path)
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "warm_up.lock").open("w") as lock:  # held until it is closed, however the process ends
        fcntl.flock(lock, fcntl.LOCK_EX)
        with absent("scipy.linalg", "cffi"):  # Numba would load both: for matrices, and for calls of C
            nbx.bandits.kernels.warm_up()
            nbx.features.kernels.warm_up()
