"""What many outcomes may teach, in one call: `nbx.bandits.teaching` over arrays.

What each number means, and why, is said where it is kept: `signals` (`Stream`, `Signal`), `health` (`Execution`),
`quarantine` (`Trust`) and `teaching` (`KnownCauses`), whose methods take outcomes in one by one. Here the same is done
for a run of them, with the same operations in the same order: the bits are the same.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

from nbx.bandits.kernels import F64

I64 = NDArray[np.int64]
Flags = NDArray[np.bool_]
Numbers = tuple[float, ...]

OUTCOMES = (
    "accepted", "declined", "dismissed", "converted", "ignored", "not_seen", "not_delivered", "failed", "complained",
)  # fmt: skip
ANSWERED, IGNORED, UNSEEN = 4, 4, (5, 6)
"""The first four prove exposure by themselves; one is a silence; two were not seen."""
CAUSES = ("", "unknown", "assumption", "information", "execution", "timing")
TOLD, ASSUMPTION, EXECUTION = 2, 2, 4
"""From the first one on causes are known; two of them."""

TAKEN, COUNT, SEEN, RECENT, DOUBT, WAITING, WAITING_SEEN, LOST = range(8)
"""Columns of a stream."""
STREAM, SEEN_MS, SINCE_MS = 8, 16, 17
"""Columns of a signal: answers, timeouts, two times."""
E_TAKEN, E_FAILED, E_COUNT, E_BAD, E_RECENT, E_DOUBT, E_WAITING, E_WAITING_BAD, E_UNWELL, E_SINCE_MS, E_POINTS = range(
    11
)
"""Columns of an execution."""
T_TAKEN, T_USED, T_WRONG, T_RECENT, T_QUARANTINED, T_SINCE_MS, T_HEARD_MS = range(7)
"""Columns of a trust."""
C_COUNT, C_ASSUMPTION, C_AT_MS, C_STAMP = range(4)
"""Columns of known causes; stamp: −1: there are none, 0: there were, else when they began."""
(
    PLACE, OUTCOME, CAUSE, REPORTED, SIGNS, DECIDED_MS, AT_MS, PREVIOUS, PREVIOUS_CAUSE, PREVIOUS_REPORTED,
    PREVIOUS_SIGNS, ANSWERS, ASKS, TAUGHT_RESPONSE, TAUGHT_EXPERIENCE, USES, BEFORE,
) = range(17)  # fmt: skip
"""Columns of an outcome's whole numbers; signs: evidence that does not depend on the answer; answers: it tells of the
response; asks: its weight is what is known of causes; before: position of the outcome that it replaces, which teaches
what it has a weight for (−1: that is not of the batch or cannot be learned, and taught says what it did)."""
RESPONSE_WEIGHT, EXPERIENCE_WEIGHT, POINTS = range(3)
"""Columns of its numbers."""
FEATURE, USED, WRONG, DOUBTFUL = range(4)
"""Columns of what is odd about a feature of an outcome; of a correction how much more is wrong or doubtful."""

_compile = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compile
def _share(stream: F64) -> float:
    share: float = stream[SEEN] / (stream[COUNT] + 1.0)
    return share


@_compile
def _ratio(stream: F64, seen: bool, rules: Numbers) -> float:
    _, _, usual, gone, _, surest, _, _, _ = rules
    if seen:
        return math.log(gone / usual)
    share = min(_share(stream), surest)
    return math.log((1.0 - gone * share) / (1.0 - usual * share))


@_compile
def _calm(stream: F64, rules: Numbers) -> None:
    keep = (1.0 - 1.0 / rules[7]) ** stream[WAITING]
    stream[COUNT] = stream[COUNT] * keep + stream[WAITING]
    stream[SEEN] = min(stream[SEEN] * keep + stream[WAITING_SEEN], stream[COUNT])
    stream[DOUBT] = stream[WAITING] = stream[WAITING_SEEN] = stream[LOST] = 0.0


@_compile
def _take(stream: F64, seen: bool, late: bool, counts: bool, frozen: bool, bar: float, rules: Numbers) -> None:
    _, _, _, _, alarm, _, few, _, recent = rules
    stream[TAKEN] += int(not late)
    latest = min(max(stream[TAKEN], 1.0), recent)
    stream[RECENT] = min(stream[RECENT] + (1.0 if late else int(seen) - stream[RECENT]) / latest, 1.0)
    if not frozen:
        stream[WAITING] += int(not late)
        stream[WAITING_SEEN] += int(seen)
    if stream[LOST] != 0.0 or (stream[COUNT] >= few and _share(stream) >= bar):
        by = _ratio(stream, seen, rules) - (_ratio(stream, False, rules) if late else 0.0)
        if counts:
            stream[DOUBT] = min(max(stream[DOUBT] + by, 0.0), alarm)
        if stream[DOUBT] == alarm:
            stream[LOST], stream[WAITING], stream[WAITING_SEEN] = 1.0, 0.0, 0.0
    else:
        stream[DOUBT] = 0.0
    if stream[DOUBT] == 0.0:
        _calm(stream, rules)


@_compile
def _lost(signal: F64) -> bool:
    return bool(signal[LOST] != 0.0 or signal[STREAM + LOST] != 0.0)


@_compile
def _listen(signal: F64, outcome: I64, rules: Numbers) -> bool:
    """Take in what an outcome says about its placement's signal; True when that is lost or found by it."""
    reports, some_seen, _, _, _, _, _, _, _ = rules
    was_lost = _lost(signal)
    answers, timeouts = signal[:STREAM], signal[STREAM : 2 * STREAM]
    kind, previous, seen, decided_ms = outcome[OUTCOME], outcome[PREVIOUS], outcome[REPORTED] != 0, outcome[DECIDED_MS]
    if kind < ANSWERED:
        again = 0 <= previous < ANSWERED
        if not again or outcome[REPORTED] > outcome[PREVIOUS_REPORTED]:
            _take(answers, seen, again, True, was_lost, reports, rules)
            if seen and decided_ms > signal[SEEN_MS]:
                signal[SEEN_MS] = decided_ms
                _calm(timeouts, rules)
    elif kind == IGNORED:
        _take(timeouts, True, previous in UNSEEN, True, was_lost, some_seen, rules)
    elif kind in UNSEEN and outcome[CAUSE] == 1 and previous < 0:
        _take(timeouts, False, False, decided_ms > signal[SEEN_MS], was_lost, some_seen, rules)
    if _lost(signal) == was_lost:
        return False
    signal[SINCE_MS] = outcome[AT_MS]
    return True


@_compile
def _count(causes: F64, outcome: I64, stamp: int, half_life_ms: float) -> None:
    """Count a known cause in place of the one that was known before."""
    same = outcome[PREVIOUS] == outcome[OUTCOME] and outcome[PREVIOUS_CAUSE] == outcome[CAUSE]
    if same and outcome[PREVIOUS_SIGNS] == outcome[SIGNS]:
        return
    at_ms = float(outcome[DECIDED_MS])
    for now in range(2):
        kind = outcome[OUTCOME] if now else outcome[PREVIOUS]
        cause = outcome[CAUSE] if now else outcome[PREVIOUS_CAUSE]
        if kind < 0 or cause < TOLD or (outcome[SIGNS] if now else outcome[PREVIOUS_SIGNS]) != 0:
            continue
        known = causes[kind]
        if known[C_STAMP] < 0.0:
            known[C_STAMP] = 2 * stamp + now + 1
        if at_ms > known[C_AT_MS]:
            keep = math.exp2((known[C_AT_MS] - at_ms) / half_life_ms)
            known[C_COUNT] *= keep
            known[C_ASSUMPTION] *= keep
            known[C_AT_MS] = at_ms
        weight = math.exp2((at_ms - known[C_AT_MS]) / half_life_ms)
        if not now:
            weight = -weight
        known[C_COUNT] = max(known[C_COUNT] + weight, 0.0)
        if cause == ASSUMPTION:
            known[C_ASSUMPTION] = min(max(known[C_ASSUMPTION] + weight, 0.0), known[C_COUNT])


@_compile
def _failed(outcome: int, cause: int) -> int:
    """1: it is a failure of execution, 0: it is none, −1: nobody can tell."""
    if cause == EXECUTION:
        return 1
    return -1 if outcome < 0 or outcome in UNSEEN else 0


@_compile
def _usual(execution: F64, rules: Numbers) -> float:
    usual: float = min(max((execution[E_BAD] + 0.5) / (execution[E_COUNT] + 10.0), rules[0]), rules[1])
    return usual


@_compile
def _doubt(execution: F64, bad: int, rules: Numbers) -> float:
    if bad < 0:
        return 0.0
    usual = _usual(execution, rules)
    above = max(rules[2] * usual, usual + rules[3])
    return math.log(above / usual) if bad else math.log((1.0 - above) / (1.0 - usual))


@_compile
def _execute(execution: F64, outcome: I64, points: float, rules: Numbers) -> bool:
    """Take in what an outcome says about its placement's execution; True when that is unwell or well by it."""
    _, _, _, _, alarm, memory, recent = rules
    now, before = _failed(outcome[OUTCOME], outcome[CAUSE]), _failed(outcome[PREVIOUS], outcome[PREVIOUS_CAUSE])
    if now == before:
        return False
    was_unwell = execution[E_UNWELL]
    new, bad = float(int(now >= 0) - int(before >= 0)), float(int(now == 1) - int(before == 1))
    execution[E_TAKEN] += new
    execution[E_FAILED] += bad
    latest = min(max(execution[E_TAKEN], 1.0), recent)
    step = bad / latest if new == 0.0 else (bad - execution[E_RECENT]) / latest
    execution[E_RECENT] = min(max(execution[E_RECENT] + step, 0.0), 1.0)
    if now == 1:
        execution[E_POINTS] += (points - execution[E_POINTS]) / min(max(execution[E_FAILED], 1.0), memory)
    doubt = execution[E_DOUBT] + _doubt(execution, now, rules) - _doubt(execution, before, rules)
    execution[E_DOUBT] = min(max(doubt, 0.0), alarm)
    if was_unwell == 0.0:
        execution[E_WAITING] += new
        execution[E_WAITING_BAD] += bad
    if execution[E_DOUBT] == 0.0:
        keep = (1.0 - 1.0 / memory) ** max(execution[E_WAITING], 0.0)
        execution[E_COUNT] = max(execution[E_COUNT] * keep + execution[E_WAITING], 0.0)
        sum_bad = max(execution[E_BAD] * keep + execution[E_WAITING_BAD], 0.0)
        execution[E_BAD] = min(sum_bad, execution[E_COUNT])
        execution[E_WAITING] = execution[E_WAITING_BAD] = 0.0
        if was_unwell != 0.0:
            execution[E_UNWELL], execution[E_SINCE_MS] = 0.0, outcome[AT_MS]
    elif execution[E_DOUBT] == alarm and was_unwell == 0.0:
        execution[E_UNWELL], execution[E_SINCE_MS] = 1.0, outcome[AT_MS]
        execution[E_WAITING] = execution[E_WAITING_BAD] = 0.0
    return bool(execution[E_UNWELL] != was_unwell)


@_compile
def _turn(trust: F64, at_ms: float) -> None:
    trust[T_QUARANTINED] = 1.0 - trust[T_QUARANTINED]
    trust[T_TAKEN], trust[T_USED], trust[T_WRONG], trust[T_SINCE_MS] = 0.0, 0.0, 0.0, at_ms


@_compile
def _judge(trust: F64, at_ms: float, rules: Numbers) -> None:
    limit, errors, _, recent, _ = rules
    if trust[T_QUARANTINED] != 0.0:
        change = trust[T_TAKEN] >= recent and trust[T_RECENT] < limit / 2.0
    else:
        share = trust[T_WRONG] / trust[T_USED] if trust[T_USED] != 0.0 else 0.0
        change = trust[T_WRONG] >= errors and share > limit
    if change:
        _turn(trust, at_ms)


@_compile
def _prompted(trust: F64, used: bool, wrong: float, doubtful: float, at_ms: float, rules: Numbers) -> None:
    """Take in the first outcome of a prompt: its placement uses the feature."""
    _, _, memory, recent, _ = rules
    trust[T_TAKEN] += 1.0
    trust[T_HEARD_MS] = max(trust[T_HEARD_MS], at_ms)
    trust[T_RECENT] += (doubtful - trust[T_RECENT]) / min(trust[T_TAKEN], recent)
    if used:
        keep = 1.0 - 1.0 / memory
        trust[T_USED] = trust[T_USED] * keep + 1.0
        trust[T_WRONG] = trust[T_WRONG] * keep + wrong
    _judge(trust, at_ms, rules)


@_compile
def _corrected(trust: F64, wrong: float, doubtful: float, at_ms: float, rules: Numbers) -> None:
    trust[T_WRONG] = min(max(trust[T_WRONG] + wrong, 0.0), trust[T_USED])
    latest = min(max(trust[T_TAKEN], 1.0), rules[3])
    trust[T_RECENT] = min(max(trust[T_RECENT] + doubtful / latest, 0.0), 1.0)
    _judge(trust, at_ms, rules)


@_compile
def _believe(trusts: F64, outcome: I64, uses: I64, odd: I64, was: Flags, turned: Flags, rules: Numbers) -> bool:
    """Take in what an outcome says about features; True when one is quarantined or released by it."""
    at_ms = float(outcome[AT_MS])
    for k in range(len(trusts)):
        was[k] = trusts[k, T_QUARANTINED] != 0.0
        if was[k] and at_ms - trusts[k, T_HEARD_MS] > rules[4]:
            _turn(trusts[k], at_ms)
    if outcome[OUTCOME] not in UNSEEN:
        if outcome[PREVIOUS] < 0 or outcome[PREVIOUS] in UNSEEN:
            for k in uses:
                used, wrong, doubtful = True, 0.0, 0.0
                for row in range(len(odd)):
                    if odd[row, FEATURE] == k:
                        used, wrong, doubtful = odd[row, USED] != 0, float(odd[row, WRONG]), float(odd[row, DOUBTFUL])
                _prompted(trusts[k], used, wrong, doubtful, at_ms, rules)
        else:
            for row in range(len(odd)):
                trust = trusts[odd[row, FEATURE]]
                _corrected(trust, float(odd[row, WRONG]), float(odd[row, DOUBTFUL]), at_ms, rules)
    changed = False
    for k in range(len(trusts)):
        turned[k] = (trusts[k, T_QUARANTINED] != 0.0) != was[k]
        changed |= turned[k]
    return changed


@_compile
def weigh(
    at: int,
    outcomes: tuple[I64, F64, I64, I64, I64, I64],
    state: tuple[F64, F64, F64, F64],
    turned: tuple[Flags, Flags, Flags],
    rules: tuple[Numbers, Numbers, Numbers, Numbers],
    held: I64,
) -> int:
    """Take outcomes in, from position `at` on, and find the weights with which they teach.

    Parameters
    ----------
    at
        Where to begin.
    outcomes
        Whole numbers int64[n, 17] by `PLACE` …; numbers float64[n, 3] by `RESPONSE_WEIGHT` …, whose weights are
        overwritten; features that are used int64[u], and where each of the lists of these begins int64[l + 1]; what is
        odd about features int64[m, 4] by `FEATURE` …, and where that of each outcome begins int64[n + 1].
    state
        Signals float64[P, 18] and executions float64[P, 11] of placements, known causes float64[P, 9, 4] by outcome,
        trusts float64[F, 7] of features; updated in place.
    turned
        What the last outcome changed: whether the signal is lost and whether the placement is unwell bool[2], which
        features are quarantined bool[F], and room for as many.
    rules
        Of signals, execution, trust, and known causes.
    held
        int64[n], overwritten: 0, 1 (exposure not reported) or 2 (paused).

    Returns
    -------
    int
        The position after the first outcome that changed something, or n.
    """
    whole, numbers, uses, uses_at, odd, odd_at = outcomes
    signals, executions, causes, trusts = state
    placement, features, was = turned
    of_signals, of_execution, of_trust, of_causes = rules
    half_life_ms, prior_count = of_causes
    for i in range(at, len(whole)):
        outcome = whole[i]
        place = outcome[PLACE]
        signal = signals[place]
        placement[0] = _listen(signal, outcome, of_signals)
        _count(causes[place], outcome, i, half_life_ms)
        placement[1] = _execute(executions[place], outcome, numbers[i, POINTS], of_execution)
        begin, end = 0, 0
        if outcome[USES] >= 0:
            begin, end = uses_at[outcome[USES]], uses_at[outcome[USES] + 1]
        rows = odd[odd_at[i] : odd_at[i + 1]]
        changed = _believe(trusts, outcome, uses[begin:end], rows, was, features, of_trust)
        if outcome[ASKS]:
            known = causes[place, outcome[OUTCOME]]
            if known[C_STAMP] >= 0.0:
                keep = math.exp2(min(known[C_AT_MS] - float(outcome[DECIDED_MS]), 0.0) / half_life_ms)
                prior = prior_count * numbers[i, RESPONSE_WEIGHT]
                numbers[i, RESPONSE_WEIGHT] = (known[C_ASSUMPTION] * keep + prior) / (
                    known[C_COUNT] * keep + prior_count
                )
        if _lost(signal):
            held[i] = 2
        elif _share(signal[:STREAM]) >= of_signals[0] and not outcome[REPORTED] and outcome[ANSWERS]:
            held[i] = 1
        taught_response, taught_experience = outcome[TAUGHT_RESPONSE] != 0, outcome[TAUGHT_EXPERIENCE] != 0
        if outcome[BEFORE] >= 0:
            before = outcome[BEFORE]
            taught_response = whole[before, ANSWERS] != 0 and numbers[before, RESPONSE_WEIGHT] != 0.0
            taught_experience = numbers[before, EXPERIENCE_WEIGHT] != 0.0
        if held[i] and not taught_response:
            numbers[i, RESPONSE_WEIGHT] = 0.0
        if held[i] and not taught_experience and (held[i] == 2 or outcome[OUTCOME] < ANSWERED):
            numbers[i, EXPERIENCE_WEIGHT] = 0.0
        if placement[0] or placement[1] or changed:
            return i + 1
    return len(whole)


def warm_up() -> None:
    """Compile (or load from the cache) the kernel with the types that `nbx.runtime.weighing_batch` uses."""
    none, flags, zeros = np.zeros(0, np.int64), np.zeros(2, np.bool_), np.zeros(1, np.int64)
    outcomes = (np.zeros((0, 17), np.int64), np.zeros((0, 3)), none, zeros, np.zeros((0, 4), np.int64), zeros)
    state = (np.zeros((1, 18)), np.zeros((1, 11)), np.zeros((1, len(OUTCOMES), 4)), np.zeros((0, 7)))
    rules = tuple((1.0,) * size for size in (9, 7, 5, 2))
    weigh(0, outcomes, state, (flags, flags[:0], flags[:0]), rules, none)
