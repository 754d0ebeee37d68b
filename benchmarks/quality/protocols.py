"""Three ways to play a policy over a stream, and what comes out.

`full`: every answer is known; the policy meets the answer to its own choice. `replay`: a row of a uniformly randomised
log counts, and is learned from, only when the policy chooses what the log shows (Li et al. 2011). `off_policy`: the
policy learns from every row of the log with the log's propensity; before that, its own choice for the row is scored by
the doubly robust estimate q(x, a) + 1[a = logged]/p·(r − q(x, a)), unbiased because p is known; q is a cross-fitted
ridge regression per action, the same for every policy.

Only `decide` and `learn` are timed, in CPU seconds; a policy may put a row in its own input format before (`prepare`).
"""

from __future__ import annotations

from dataclasses import dataclass
from time import process_time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from benchmarks.quality.policy import Policy
    from benchmarks.quality.task import F64, I64, Stream

VERSION = 1
"""Of what a result means."""
LIMIT_S = 120.0
"""CPU seconds of its own work after which a run is given up and reported as such."""


class _TooSlowError(Exception):
    """The policy used up its time."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run."""

    reward: float
    """Mean over the run, in units of the task."""
    last_tenth: float
    """Mean over its last tenth."""
    count: int
    """Rows that counted."""
    seconds_per_10k: float
    """CPU seconds of the policy for 10,000 decisions and 10,000 lessons."""
    ips: float | None = None
    """Inverse propensity estimate, for a log."""
    snips: float | None = None
    """The same over its own weights."""


def play(stream: Stream, policy: Policy) -> Result | None:
    """Run a policy over a stream; None when it would need more than `LIMIT_S` seconds."""
    protocol = {"full": _full, "replay": _replay, "off_policy": _off_policy}
    try:
        return protocol[stream.protocol](stream, policy)
    except _TooSlowError:
        return None


def _full(stream: Stream, policy: Policy) -> Result:
    unit = stream.gain.max()
    scores = np.empty(len(stream))
    spent = 0.0
    for row in range(len(stream)):
        policy.prepare(row)
        start = process_time()
        action, propensity = policy.decide(row)
        spent += process_time() - start
        success = float(stream.success[row, action])
        gain, shift = stream.gain[action], stream.shift[action]
        scores[row] = gain * stream.expected[row, action] + shift
        reward = float((gain * success + shift) / unit)
        start = process_time()
        policy.learn(row, action, success, reward, propensity)
        spent += process_time() - start
        _check(spent)
    return Result(float(scores.mean()), _last(scores), len(scores), 1e4 * spent / len(scores))


def _replay(stream: Stream, policy: Policy) -> Result:
    assert stream.logged is not None
    rewards = stream.gain[stream.logged] * stream.success + stream.shift[stream.logged]
    logged, unit = stream.logged.tolist(), stream.gain.max()
    scores: list[float] = []
    deciding, learning = 0.0, 0.0
    for row in range(len(stream)):
        policy.prepare(row)
        start = process_time()
        action, propensity = policy.decide(row)
        deciding += process_time() - start
        if action != logged[row]:
            continue
        _check(deciding + learning)
        reward, success = float(rewards[row]), float(stream.success[row])
        scores.append(reward)
        start = process_time()
        policy.learn(row, action, success, reward / unit, propensity)
        learning += process_time() - start
    values = np.array(scores)
    seconds = 1e4 * (deciding / len(stream) + learning / len(values))
    return Result(float(values.mean()), _last(values), len(values), seconds)


def _off_policy(stream: Stream, policy: Policy) -> Result:
    assert stream.logged is not None
    logged, unit, count = stream.logged, stream.gain.max(), len(stream.actions)
    rewards = stream.gain[logged] * stream.success + stream.shift[logged]
    chosen = np.empty(len(stream), np.int64)
    spent = 0.0
    for row in range(len(stream)):
        action, success, reward = int(logged[row]), float(stream.success[row]), float(rewards[row] / unit)
        policy.prepare(row)
        start = process_time()
        chosen[row], _ = policy.decide(row)
        policy.learn(row, action, success, reward, 1.0 / count)
        spent += process_time() - start
        _check(spent)
    q = stream.forms.get("q")
    if q is None:
        q = stream.forms["q"] = predicted(stream.x, logged, rewards, count)
    weight = np.where(chosen == logged, float(count), 0.0)
    at = np.arange(len(stream))
    scores = q[at, chosen] + weight * (rewards - q[at, chosen])
    return Result(
        float(scores.mean()),
        _last(scores),
        len(scores),
        1e4 * spent / len(scores),
        ips=float((weight * rewards).mean()),
        snips=float(weight @ rewards / weight.sum()),
    )


def _check(spent: float) -> None:
    if spent > LIMIT_S:
        raise _TooSlowError


def _last(scores: F64) -> float:
    return float(scores[-max(len(scores) // 10, 1) :].mean())


def predicted(x: np.ndarray, logged: I64, rewards: F64, count: int) -> F64:
    """Ridge regression of the reward per action, each row predicted from the other half: float64[n, K]."""
    wide = x.astype(np.float64)
    half = np.arange(len(x)) % 2
    out = np.empty((len(x), count))
    for fold in (0, 1):
        for action in range(count):
            at = (half != fold) & (logged == action)
            gram = wide[at].T @ wide[at] + 10.0 * np.eye(x.shape[1])
            out[half == fold, action] = wide[half == fold] @ np.linalg.solve(gram, wide[at].T @ rewards[at])
    return out
