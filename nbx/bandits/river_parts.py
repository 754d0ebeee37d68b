"""The parts of River that nbx uses: all that imports River does so from here.

River imports SciPy for single functions of estimators that nbx does not have, and the data sets of its documentation
with their readers: nine tenths of the time that importing it takes, and 65 MB.
"""

from nbx.imports import deferred, hollow

with hollow("river.drift.datasets"), deferred("scipy.integrate", "scipy.sparse", "scipy.special", "scipy.stats"):
    from river import base, cluster, drift, metrics, naive_bayes, proba, stats

__all__ = ["base", "cluster", "drift", "metrics", "naive_bayes", "proba", "stats"]
