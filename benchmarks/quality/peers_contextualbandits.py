"""contextualbandits' online policies, streaming: `partial_fit` and scikit-learn's SGDClassifier, as in its notebook.

It says of itself that rewards are 0 or 1, so it takes no part where they are money. Its documentation advises against
its own defaults of LinUCB (they match the literature): a smaller α, a larger λ, `beta_prior` instead of
`ucb_from_empty`; and to tune AdaptiveGreedy's threshold and decay. That is the grid. LinTS of
version 0.3.30 draws coefficients far too wide, the wider the more it has learned: untuned it stays uniform. Its grid
samples from the interval instead.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from benchmarks.quality.batches import Batched
from benchmarks.quality.installed import version_of
from benchmarks.quality.policy import Peer, Setting

if TYPE_CHECKING:
    from benchmarks.quality.policy import Value
    from benchmarks.quality.task import Stream

NOTEBOOK = 50
"""Rows of a batch in its notebook."""
LINEAR = ("LinUCB", "LinTS")
_ADVISED: dict[str, Value] = {"ucb_from_empty": False, "beta_prior": "auto"}


def _make(setting: Setting, stream: Stream) -> Batched:
    online: Any = importlib.import_module("contextualbandits.online")
    values: dict[str, Any] = {**dict(setting.values), "random_state": stream.seed + 1}
    kind = getattr(online, setting.policy)
    if setting.policy in LINEAR:
        return Batched(kind(len(stream.actions), **values), stream, constant=False)
    base = importlib.import_module("sklearn.linear_model").SGDClassifier(loss="log_loss", random_state=stream.seed)
    jobs = "njobs_arms" if setting.policy.startswith("Bootstrapped") else "njobs"
    model = kind(base, len(stream.actions), batch_train=True, **{jobs: 1}, **values)
    return Batched(model, stream, constant=False, batch=NOTEBOOK)


POLICIES = (*LINEAR, "AdaptiveGreedy", "SoftmaxExplorer", "BootstrappedTS", "BootstrappedUCB")
PEER = Peer(
    "contextualbandits",
    version_of("contextualbandits", 1),
    POLICIES,
    _make,
    {
        "LinUCB": (
            {"alpha": 0.1},
            {"alpha": 0.1, **_ADVISED},
            {"alpha": 0.3, "lambda_": 10.0, **_ADVISED},
            {"alpha": 0.1, "lambda_": 10.0, **_ADVISED},
        ),
        "LinTS": (
            {"sample_from": "ci"},
            {"sample_from": "ci", "v_sq": 0.1},
            {"sample_from": "ci", "v_sq": 0.1, "lambda_": 10.0},
        ),
        "AdaptiveGreedy": (
            {"decay_type": "threshold"},
            {"decay": 0.9997},
            {"decay": 0.9997, "active_choice": "weighted"},
        ),
        "SoftmaxExplorer": ({"multiplier": 3.0}, {"inflation_rate": 1.001}),
    },
    binary=POLICIES,
    seeds={"BootstrappedTS": 2, "BootstrappedUCB": 2},
)
