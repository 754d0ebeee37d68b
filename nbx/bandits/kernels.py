# ruff: noqa: PLR0917 - kernels are functions over arrays
"""Numba kernels of serving: functions over arrays, nothing else.

Scoring. The quadratic form x'Σx is a dot product of two packed upper triangles: Σ as stored, x xᵀ with its
off-diagonals doubled. Sums run over sixteen fixed lanes, so they are vectorised without `fastmath` and give the same
bits on every machine (a replay on another CPU must reproduce a propensity).

Selection. U_i = gain_i·σ(z_i) + shift_i is a monotone function of one Gaussian, so its distribution function F_i is
closed form, and with H = ∏ F_j

    P(i is best) = ∫ ∏_{j≠i} F_j dF_i = ∫ H d(ln F_i).

In each cell of the grid H is taken log-linear: P_i += logmean(H_g, H_{g+1})·Δ ln F_i. The contributions of a cell add
up to H_{g+1} − H_g, so no mass is lost, and one column of ln F serves all candidates. Cells are halved while halving
moves more than `TOLERANCE` of probability. What moved is an estimate: where the candidates' distribution functions
cross their common trend at the midpoint, a wrong cell does not move at all (this cost up to 0.014). So a cell must also
be narrow enough that the bound on its error, by H at its ends alone, is below `HIDDEN`; what hides is steep, so only
candidates that move by more than `STEEP` within half a cell count (without that, twice as many points for fifty
candidates of a like width). Every contender that survives pruning has its lower quantile at or below the start of the
grid, so halving finds a narrow candidate beside wide ones, which a fixed grid steps over.

The grid variable is the logit t of the candidate with the highest ceiling, and distances to its floor and ceiling are
kept apart (`low`, `high`): 1 − σ(z) stays exact where σ(z) rounds to 1. What always holds: the result sums to one,
candidates below the best point mass get 0, equal point masses share equally.

One file, because Numba's cache notices a change in a kernel's own file only, not in files it calls. Not here: checking
of inputs (`thompson.py`), learning (`kernels_learning.py`).
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
U64 = NDArray[np.uint64]

TOLERANCE = 1.3e-4
"""Probability that halving a cell may move before its halves are halved too."""
HIDDEN = 5e-3
"""Bound on what a cell may hide from that. Of 94,000 nasty configurations 99 % are within 0.0003 of total variation and
the worst is at 0.0014."""
STEEP = 0.7
"""Standard deviations by which a candidate has to move within half a cell to hide anything from its midpoint. With 1.0
the worst of the same configurations is at 0.0021; without it it is at 0.0014 too."""
QUANTILE = 5.0
"""Standard deviations beyond which a candidate's mass (2.9e-7) is left out."""
COLUMNS = 384
"""Most grid points of one integral: 20 to 60 are used, the rest is for nasty configurations."""
POINT_SD = 1e-9
"""Standard deviation at or below which a candidate is a point mass: float32 means cannot resolve it."""
GRID = COLUMNS + 16
"""Room for the points of one grid."""

_CELLS = 8
_DEPTH = 28
_TINY = 1e-280
_LOGIT_LIMIT = 600.0
_STEPS = 16
_RANGE = 8
_LOPSIDED = 0.85
_LANES = 16


def _ln_phi_table() -> F64:
    """Cubic Hermite pieces of ln Φ on [−8, 8] with sixteen pieces per unit: error below 3e-8."""
    edges = np.arange(-_RANGE * _STEPS, _RANGE * _STEPS + 1) / _STEPS
    value = np.array(
        [
            math.log(0.5 * math.erfc(-w / math.sqrt(2))) if w < 0 else math.log1p(-0.5 * math.erfc(w / math.sqrt(2)))
            for w in edges
        ]
    )
    slope = np.exp(-0.5 * edges**2 - value) / math.sqrt(2 * math.pi) / _STEPS
    rise = np.diff(value)
    return np.column_stack(
        [value[:-1], slope[:-1], 3 * rise - 2 * slope[:-1] - slope[1:], slope[:-1] + slope[1:] - 2 * rise]
    )


_LN_PHI = _ln_phi_table()

_compile = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compile
def _dot(a: F32, b: F32, lanes: F32) -> np.float32:
    """Sum a·b in `_LANES` lanes, then the lanes, then the rest: an order no compiler or CPU changes."""
    n = len(a)
    lanes[:] = np.float32(0.0)
    block = n - n % (4 * _LANES)
    for k in range(0, block, 4 * _LANES):
        for i in range(_LANES):
            lanes[i] += (a[k + i] * b[k + i] + a[k + i + _LANES] * b[k + i + _LANES]) + (
                a[k + i + 2 * _LANES] * b[k + i + 2 * _LANES] + a[k + i + 3 * _LANES] * b[k + i + 3 * _LANES]
            )
    whole = n - n % _LANES
    for k in range(block, whole, _LANES):
        for i in range(_LANES):
            lanes[i] += a[k + i] * b[k + i]
    total = np.float32(0.0)
    for i in range(_LANES):
        total += lanes[i]
    for k in range(whole, n):
        total += a[k] * b[k]
    return total


@_compile
def score(
    x: F32,
    mean: F32,
    cov_packed: F32,
    experience: F32,
    rows: I32,
    out_mean: F32,
    out_sd: F32,
    out_experience: F32,
) -> None:
    """Score candidate rows: mean·x, √(x'Σx) and experience·x.

    Parameters
    ----------
    x
        float32[d], the encoded customer.
    mean, experience
        float32[K, d], one row per action.
    cov_packed
        float32[K, d(d+1)/2], upper triangles by rows (`numpy.triu_indices` order).
    rows
        int32[n], rows of the candidates; a row may repeat.
    out_mean, out_sd, out_experience
        float32[n], overwritten.

    Notes
    -----
    Cost: n·d(d+1)/2 multiply-adds, 9 µs for n = 50, d = 32.
    """
    d = len(x)
    outer = np.empty(d * (d + 1) // 2, np.float32)
    lanes = np.empty(_LANES, np.float32)
    k = 0
    for i in range(d):
        outer[k] = x[i] * x[i]
        twice = np.float32(2.0) * x[i]
        for j in range(i + 1, d):
            outer[k + j - i] = twice * x[j]
        k += d - i
    for c in range(len(rows)):
        row = rows[c]
        out_mean[c] = _dot(mean[row], x, lanes)
        out_sd[c] = np.float32(math.sqrt(max(_dot(cov_packed[row], outer, lanes), np.float32(0.0))))
        out_experience[c] = _dot(experience[row], x, lanes)


@_compile
def utility_factors(
    value: F32, context_weight: F32, lever: F32, experience: F32, exchange: float, strain: float
) -> tuple[F64, F64]:
    """Split utility into what multiplies the response and what does not.

    Parameters
    ----------
    value, context_weight, lever
        float32[n], all ≥ 0; their product is the gain.
    experience
        float32[n], expected points for the customer.
    exchange
        Money per point of experience, ≥ 0.
    strain
        0..1, the customer's strain.

    Returns
    -------
    gain, shift
        float64[n] each: utility = gain·p_response + shift.
    """
    n = len(value)
    gain = np.empty(n)
    shift = np.empty(n)
    price = exchange * (1.0 + strain)
    for i in range(n):
        gain[i] = np.float64(value[i]) * np.float64(context_weight[i]) * np.float64(lever[i])
        shift[i] = price * np.float64(experience[i])
    return gain, shift


@_compile
def response_probability(mean: F32, sd: F32) -> F64:
    """Approximate E[σ(z)] for z ~ N(mean, sd²).

    Parameters
    ----------
    mean, sd
        float32[n].

    Returns
    -------
    float64[n] in 0..1, within 0.02 of the integral.

    References
    ----------
    MacKay, The evidence framework applied to classification networks (1992), equation 13.
    """
    n = len(mean)
    out = np.empty(n)
    for i in range(n):
        s = np.float64(sd[i])
        out[i] = 1.0 / (1.0 + math.exp(-max(np.float64(mean[i]) / math.sqrt(1.0 + math.pi * s * s / 8.0), -700.0)))
    return out


@_compile
def _utility(z: float, gain: float, shift: float) -> float:
    return shift + gain / (1.0 + math.exp(min(-z, 700.0)))


@_compile
def _shares(z: float) -> tuple[float, float]:
    """σ(z) and 1 − σ(z), neither of them by subtraction."""
    e = math.exp(-min(abs(z), _LOGIT_LIMIT))
    small, large = e / (1.0 + e), 1.0 / (1.0 + e)
    return (large, small) if z > 0.0 else (small, large)


@_compile
def _contenders(
    mean: F32, sd: F32, gain: F64, shift: F64, scale: float, floor: float, quantile: F64
) -> tuple[I32, float, float]:
    """Rows that can win; the best point mass (or `floor`); where the integral starts.

    `quantile` float64[n, 4] gets the shares of its gain that lie below and above a row's lower quantile, and the upper.
    """
    n = len(mean)
    upper = np.empty(n)
    point = floor
    start = -np.inf
    for i in range(n):
        s = np.float64(sd[i]) * scale
        if gain[i] > 0.0 and s > POINT_SD:
            m = np.float64(mean[i])
            quantile[i, 0], quantile[i, 1] = _shares(m - QUANTILE * s)
            quantile[i, 2], quantile[i, 3] = _shares(m + QUANTILE * s)
            start = max(start, shift[i] + gain[i] * quantile[i, 0])
            upper[i] = shift[i] + gain[i] * quantile[i, 2]
        else:
            upper[i] = -np.inf
            point = max(point, _utility(np.float64(mean[i]), gain[i], shift[i]))
    start = max(start, point)
    live = np.empty(n, np.int32)
    count = 0
    for i in range(n):
        if upper[i] > start or (upper[i] > -np.inf and shift[i] + gain[i] * quantile[i, 0] >= start):
            live[count] = i
            count += 1
    return live[:count], point, start


@_compile
def _ends(live: I32, quantile: F64, gain: F64, shift: F64, point: float, ref: int) -> tuple[float, float]:
    """First and last grid point, as logits of the reference candidate: past all lower quantiles, at the last upper."""
    top = shift[ref] + gain[ref]
    low = _TINY
    high = gain[ref]
    last_low = _TINY
    last_high = gain[ref]
    if point > -np.inf:
        low = max(low, point - shift[ref])
        high = min(high, top - point)
    for i in live:
        drop = top - (shift[i] + gain[i])
        rise = shift[i] - shift[ref]
        low = max(low, rise + gain[i] * quantile[i, 0])
        high = min(high, drop + gain[i] * quantile[i, 1])
        last_low = max(last_low, rise + gain[i] * quantile[i, 2])
        last_high = min(last_high, drop + gain[i] * quantile[i, 3])
    first = math.log(max(low, _TINY)) - math.log(max(high, _TINY))
    last = math.log(max(last_low, _TINY)) - math.log(max(last_high, _TINY))
    first = min(max(first, -_LOGIT_LIMIT), _LOGIT_LIMIT)
    return first, min(max(last, first), _LOGIT_LIMIT)


@_compile
def _sum(rows: F64, row: int) -> float:
    """Sum rows[row] in four lanes: one chain of additions would take longer than what is added."""
    n = rows.shape[1]
    whole = n - n % 4
    a = b = c = d = 0.0
    for i in range(0, whole, 4):
        a += rows[row, i]
        b += rows[row, i + 1]
        c += rows[row, i + 2]
        d += rows[row, i + 3]
    total = (a + b) + (c + d)
    for i in range(whole, n):
        total += rows[row, i]
    return total


@_compile
def _column(t: float, reach: float, field: F64, work: F64, bits: U64, column: F64, place: F64, at: int) -> float:
    """Fill column[at, i] = ln F_i at grid point t, place[at, i] = where it is in the table; return the sum of ln F.

    `field` has the rows rise, drop, centre, slope; `work` is scratch of two rows, and `bits` the same memory.
    """
    n = column.shape[1]
    e = math.exp(-abs(t))
    small = reach * e / (1.0 + e)
    large = reach / (1.0 + e)
    low = large if t > 0.0 else small
    high = small if t > 0.0 else large
    for i in range(n):
        work[0, i] = max(low - field[0, i], _TINY) / max(high - field[1, i], _TINY)
    for i in range(n):
        bits[1, i] = (bits[0, i] >> np.uint64(52)) | np.uint64(0x4330000000000000)
        bits[0, i] = (bits[0, i] & np.uint64(0x000FFFFFFFFFFFFF)) | np.uint64(0x3FF0000000000000)
    for i in range(n):
        half = work[0, i] > 1.4142135623730951
        f = (0.5 * work[0, i] if half else work[0, i]) - 1.0
        power = work[1, i] - (4503599627370496.0 + 1022.0 if half else 4503599627370496.0 + 1023.0)
        s = f / (2.0 + f)
        z = s * s
        r = z * (0.1531383769920937332 + z * 0.1479819860511658591)
        r = z * (0.2222219843214978396 + z * (0.1818357216161805012 + r))
        r = z * (0.6666666666666735130 + z * (0.3999999999940941908 + z * (0.2857142874366239149 + r)))
        w = ((s * (2.0 + r) + power * 0.6931471805599453) - field[2, i]) * field[3, i]
        place[at, i] = (min(max(w, -7.9999999), 7.9999999) + _RANGE) * _STEPS
    for i in range(n):
        piece = np.uint64(place[at, i])
        u = place[at, i] - np.float64(np.int64(piece))
        column[at, i] = _LN_PHI[piece, 0] + u * (_LN_PHI[piece, 1] + u * (_LN_PHI[piece, 2] + u * _LN_PHI[piece, 3]))
    total: float = _sum(column, at)
    return total


@_compile
def _log_mean(log_a: float, log_b: float, a: float, b: float) -> float:
    """Logarithmic mean of a ≤ b."""
    rise = log_b - log_a
    return (b - a) / rise if rise > 1e-5 else 0.5 * (a + b)


@_compile
def _moved(left: float, right: float, column: F64, mid: int, end: int, work: F64) -> float:
    """Total variation between a cell's shares and the sum of its halves'; the cell begins at column 0."""
    for i in range(column.shape[1]):
        work[0, i] = abs(left * (column[mid, i] - column[0, i]) + right * (column[end, i] - column[mid, i]))
    total: float = _sum(work, 0)
    return 0.5 * total


@_compile
def _bound(mass: float, rise: float, column: F64, place: F64, start: int, end: int, work: F64) -> float:
    """Bound the error of the shares of a half that holds `mass`, from its ends; `rise` is Δ ln H.

    H varies by the mass: a share is off by at most mass·Δ ln F_i, and all but the largest sum to that of the largest.
    What moves by less than `STEEP` is smooth: halving sees what it does.
    """
    n = column.shape[1]
    for i in range(n):
        steep = place[end, i] - place[start, i] > STEEP * _STEPS
        work[0, i] = column[end, i] - column[start, i] if steep else 0.0
    among: float = _sum(work, 0)
    if mass * among < 0.1 * TOLERANCE:
        return mass * among
    largest = 0.0
    for i in range(n):
        largest = max(largest, column[end, i] - column[start, i])
    return mass * min(rise - largest, among, 1.0)


@_compile
def _hides(depth: int, mid: int, log_h: F64, h: F64, column: F64, place: F64, work: F64) -> bool:
    """Whether a cell that halving did not move may be wrong all the same.

    The bar is `TOLERANCE` where one half holds nearly all of the cell: then halving moves nothing whatever is inside.
    """
    mass_left = h[mid] - h[0]
    mass_right = h[depth] - h[mid]
    rise_left = log_h[mid] - log_h[0]
    rise_right = log_h[depth] - log_h[mid]
    bar = TOLERANCE if max(mass_left, mass_right) > _LOPSIDED * (mass_left + mass_right) else HIDDEN
    left = mass_left * min(rise_left, 1.0)
    right = mass_right * min(rise_right, 1.0)
    if left + right > bar:  # too coarse a bound: look at each candidate, where that can matter
        if left > 0.1 * bar:
            left = _bound(mass_left, rise_left, column, place, 0, mid, work)
        if right > 0.1 * bar:
            right = _bound(mass_right, rise_right, column, place, mid, depth, work)
    hides: bool = left + right > bar
    return hides


@_compile
def _integrate(
    first: float,
    last: float,
    reach: float,
    field: F64,
    share: F64,
    grid: F64,
) -> tuple[float, int]:
    """Add ∫ H d(ln F_i) to share[i]; record the grid; return H at its first point and the number of points.

    Depth first, left to right: column 0 is the left edge, columns 1 … depth the right edges still to be reached.
    """
    count = len(share)
    column = np.empty((_DEPTH + 2, count))
    log_h = np.empty(_DEPTH + 2)
    h = np.empty(_DEPTH + 2)
    t = np.empty(_DEPTH + 2)
    place = np.empty((_DEPTH + 2, count))
    work = np.empty((2, count))
    bits = work.view(np.uint64)
    t[0] = first
    log_h[0] = _column(first, reach, field, work, bits, column, place, 0)
    h[0] = math.exp(log_h[0])
    grid[0] = first
    below = h[0]
    points = 1
    for cell in range(_CELLS):
        depth = 1
        t[1] = first + (last - first) * (cell + 1) / _CELLS
        if cell == _CELLS - 1:
            column[1, :] = 0.0  # past every upper quantile: rounding at a ceiling must not leave mass behind
            place[1, :] = 2.0 * _RANGE * _STEPS
            log_h[1] = 0.0
        else:
            log_h[1] = _column(t[1], reach, field, work, bits, column, place, 1)
        h[1] = math.exp(log_h[1])
        grid[points] = t[1]
        points += 1
        while depth > 0:
            weight = _log_mean(log_h[0], log_h[depth], h[0], h[depth])
            left = right = weight
            mid = depth
            if h[depth] - h[0] > TOLERANCE and depth < _DEPTH and points < COLUMNS and count > 1:
                mid = depth + 1
                t[mid] = 0.5 * (t[0] + t[depth])
                log_h[mid] = _column(t[mid], reach, field, work, bits, column, place, mid)
                h[mid] = math.exp(log_h[mid])
                grid[points] = t[mid]
                points += 1
                left = _log_mean(log_h[0], log_h[mid], h[0], h[mid])
                right = _log_mean(log_h[mid], log_h[depth], h[mid], h[depth])
                moved = _moved(left - weight, right - weight, column, mid, depth, work)
                if moved > TOLERANCE or _hides(depth, mid, log_h, h, column, place, work):
                    depth = mid
                    continue
            for i in range(count):
                share[i] += left * (column[mid, i] - column[0, i]) + right * (column[depth, i] - column[mid, i])
                column[0, i] = column[depth, i]
                place[0, i] = place[depth, i]
            t[0] = t[depth]
            log_h[0] = log_h[depth]
            h[0] = h[depth]
            depth -= 1
    return below, points


@_compile
def _share_point(
    prob: F64, mean: F32, sd: F32, gain: F64, shift: F64, scale: float, point: float, with_none: bool, mass: float
) -> None:
    """Split the mass of the best point among the candidates (and none) that sit on it."""
    n = len(mean)
    tied = np.zeros(n + 1, np.bool_)
    count = 0
    for i in range(n):
        narrow = not (gain[i] > 0.0 and np.float64(sd[i]) * scale > POINT_SD)
        if narrow and _utility(np.float64(mean[i]), gain[i], shift[i]) == point:
            tied[i] = True
            count += 1
    if with_none and point == 0.0:
        tied[n] = True
        count += 1
    for i in range(n + 1):
        if tied[i]:
            prob[i] = mass / count


@_compile
def _share_start(prob: F64, live: I32, quantile: F64, gain: F64, shift: F64, start: float, mass: float) -> None:
    """Give what lies below the first grid point to those whose lower quantile is there.

    It is next to nothing, unless a candidate sits so close to its ceiling that in doubles all of it is one point.
    """
    count = 0
    for i in live:
        count += shift[i] + gain[i] * quantile[i, 0] == start
    for i in live:
        if shift[i] + gain[i] * quantile[i, 0] == start:
            prob[i] += mass / count


@_compile
def selection_on_grid(
    mean: F32, sd: F32, gain: F64, shift: F64, scale: float, with_none: bool, grid: F64
) -> tuple[F64, int]:
    """Compute `selection`; record the utilities of its grid points, unsorted, in grid float64[GRID]; return how many.

    Kept apart for the reference twin, which integrates on the same points.
    """
    n = len(mean)
    prob = np.zeros(n + 1)
    quantile = np.empty((n, 4))
    live, point, start = _contenders(mean, sd, gain, shift, scale, 0.0 if with_none else -np.inf, quantile)
    count = len(live)
    below = 1.0
    points = 0
    if count > 0:
        ref = live[0]
        for i in live:
            higher = shift[i] + gain[i] - (shift[ref] + gain[ref])
            if higher > 0.0 or (higher == 0.0 and gain[i] > gain[ref]):
                ref = i
        field = np.empty((4, count))
        for k in range(count):
            i = live[k]
            field[0, k] = shift[i] - shift[ref]
            field[1, k] = (shift[ref] + gain[ref]) - (shift[i] + gain[i])
            field[2, k] = mean[i]
            field[3, k] = 1.0 / (np.float64(sd[i]) * scale)
        first, last = _ends(live, quantile, gain, shift, point, ref)
        share = np.zeros(count)
        below, points = _integrate(first, last, gain[ref], field, share, grid)
        for k in range(count):
            prob[live[k]] = max(share[k], 0.0)
        for g in range(points):
            grid[g] = _utility(grid[g], gain[ref], shift[ref])
    if start == point and point > -np.inf:
        _share_point(prob, mean, sd, gain, shift, scale, point, with_none, below)
    else:
        _share_start(prob, live, quantile, gain, shift, start, below)
    total = prob.sum()
    if total > 0.0:
        prob /= total
    else:
        for i in live:
            prob[i] = 1.0 / count
    return prob, points


@_compile
def selection(mean: F32, sd: F32, gain: F64, shift: F64, scale: float, with_none: bool) -> F64:
    """Compute the probability that each candidate's sampled utility is the largest: exact Thompson sampling.

    Parameters
    ----------
    mean, sd
        float32[n], logit of the response: z_i ~ N(mean_i, (scale·sd_i)²).
    gain, shift
        float64[n], utility = gain·σ(z) + shift; gain ≥ 0.
    scale
        ≥ 0, multiplies sd: 1 is Thompson sampling, 0 chooses the best mean.
    with_none
        Whether none competes, a point mass at utility 0.

    Returns
    -------
    float64[n + 1], index n is none; sums to 1 (to 0 when there is nothing to choose). Candidates without spread
    (gain 0, sd 0) are point masses; equal best point masses share equally.

    Notes
    -----
    Total variation to the exact distribution stays below 0.003; 10 to 25 µs for n = 50, by how many can win. Utilities
    that doubles cannot tell apart (two ceilings that agree below a third, and logits beyond 30) count as ties and share
    in any proportion.

    Examples
    --------
    >>> import numpy as np
    >>> two = np.zeros(2, np.float32), np.ones(2, np.float32), np.ones(2), np.zeros(2)
    >>> selection(*two, 1.0, False).round(3).tolist()
    [0.5, 0.5, 0.0]
    """
    prob: F64 = selection_on_grid(mean, sd, gain, shift, scale, with_none, np.empty(GRID))[0]
    return prob


@_compile
def with_floor(prob: F64, floor: float, with_none: bool) -> F64:
    """Mix a distribution with the uniform one: (1 − floor)·prob + floor/count over what may be chosen.

    Parameters
    ----------
    prob
        float64[n + 1], from `selection`.
    floor
        0..1, the share chosen uniformly.
    with_none
        Whether none may be chosen; then it gets its share too.

    Returns
    -------
    float64[n + 1]
    """
    n = len(prob) - 1
    count = n + 1 if with_none else n
    out = np.zeros(n + 1)
    for i in range(count):
        out[i] = (1.0 - floor) * prob[i] + floor / count
    return out


@_compile
def draw(prob: F64, u: float) -> int:
    """Draw an index by the inverse distribution function.

    Parameters
    ----------
    prob
        float64[n], sums to 1 up to rounding.
    u
        0..1, the uniform; both ends are safe.

    Returns
    -------
    int, always an index of positive probability; −1 when there is none.
    """
    chosen = -1
    total = 0.0
    for i in range(len(prob)):
        if prob[i] > 0.0:
            chosen = i
            total += prob[i]
            if u < total:
                break
    return chosen


@_compile
def choose(
    mean: F32,
    sd: F32,
    gain: F64,
    shift: F64,
    scale: float,
    floor: float,
    with_none: bool,
    uniforms: F64,
    chosen: I32,
    propensity: F64,
) -> F64:
    """Fill slots one after another without replacement; return the distribution of slot 0.

    Parameters
    ----------
    mean, sd, gain, shift, scale, with_none
        As in `selection`.
    floor
        As in `with_floor`.
    uniforms
        float64[slots].
    chosen
        int32[slots], overwritten: row of the candidate, −1 for none.
    propensity
        float64[slots], overwritten: probability of the choice given the slots before it.

    Returns
    -------
    float64[n + 1], the distribution slot 0 was drawn from.
    """
    n = len(mean)
    chosen[:] = -1
    propensity[:] = 1.0
    first: F64 = with_floor(selection(mean, sd, gain, shift, scale, with_none), floor, with_none)
    prob = first
    left = np.arange(n)
    for slot in range(len(uniforms)):
        if slot > 0:
            if len(left) == 0:
                break
            prob = with_floor(
                selection(mean[left], sd[left], gain[left], shift[left], scale, with_none), floor, with_none
            )
        at = draw(prob, uniforms[slot])
        if at < 0:
            break
        propensity[slot] = prob[at]
        if at == len(left):
            break
        chosen[slot] = left[at]
        left = np.delete(left, at)
    return first


@_compile
def score_and_choose(
    x: F32,
    mean: F32,
    cov_packed: F32,
    experience: F32,
    rows: I32,
    priced: F32,
    exchange: float,
    strain: float,
    scale: float,
    floor: float,
    uniform: float,
    table: F32,
    worth: F64,
) -> tuple[F64, int, float]:
    """Score, price and draw one slot at once: `score`, `utility_factors`, `response_probability` and `choose`.

    Parameters
    ----------
    x, mean, cov_packed, experience, rows
        As in `score`.
    priced
        float32[3, n]: value, context weight and lever of the candidates.
    exchange, strain
        As in `utility_factors`.
    scale, floor, uniform
        As in `choose`, none competing.
    table
        float32[8, n], overwritten: mean, sd, value, context weight, lever, experience, probability, expected utility.
    worth
        float64[3, n], overwritten: gain, shift, response probability.

    Returns
    -------
    float64[n + 1], int, float
        The distribution drawn from, the candidate (-1: none), and its probability.
    """
    score(x, mean, cov_packed, experience, rows, table[0], table[1], table[5])
    table[2:5] = priced
    gain, shift = utility_factors(table[2], table[3], table[4], table[5], exchange, strain)
    response = response_probability(table[0], table[1])
    prob: F64 = with_floor(selection(table[0], table[1], gain, shift, scale, True), floor, True)
    n = len(rows)
    for i in range(n):
        worth[0, i] = gain[i]
        worth[1, i] = shift[i]
        worth[2, i] = response[i]
        table[6, i] = prob[i]
        table[7, i] = gain[i] * response[i] + shift[i]
    at = draw(prob, uniform)
    return prob, (-1 if at == n else at), (prob[at] if at >= 0 else 1.0)


def warm_up() -> None:
    """Compile (or load from the cache) every kernel with the types that are served; a process is not ready before."""
    x = np.ones(2, np.float32)
    rows = np.zeros(2, np.int32)
    wide = np.zeros((1, 2), np.float32)
    mean, sd, points = (np.zeros(2, np.float32) for _ in range(3))
    score(x, wide, np.ones((1, 3), np.float32), wide, rows, mean, sd, points)
    gain, shift = utility_factors(sd, sd, sd, points, 1.0, 0.0)
    response_probability(mean, sd)
    with_floor(selection(mean, sd, gain, shift, 1.0, True), 0.0, True)
    draw(np.ones(1), 0.5)
    choose(mean, sd, gain, shift, 1.0, 0.0, True, np.zeros(2), np.zeros(2, np.int32), np.zeros(2))
    score_and_choose(
        x, wide, np.ones((1, 3), np.float32), wide, rows, np.zeros((3, 2), np.float32), 1.0, 0.0, 1.0, 0.0, 0.5,
        np.zeros((8, 2), np.float32), np.zeros((3, 2)),
    )  # fmt: skip
