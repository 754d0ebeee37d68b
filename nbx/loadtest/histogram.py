"""Latencies in a histogram of high dynamic range: every bucket is at most a thousandth as wide as its values.

Design. The layout is that of Gil Tene's HdrHistogram with three significant digits: values are whole microseconds;
below 2048 each has a bucket of its own, then every doubling has 1024. An index is two shifts, so many values go in at
once as arrays. Encoded it is the V2 format of that project (big-endian header, counts as zigzag LEB128 with runs of
zeros folded, deflated, base64), so its plotters and log readers take what a report holds. Its Python port was not
taken: it needs setuptools and pbr at run time, and takes one value at a time.

Always holds: a quantile is never below the exact one, and less than 0.1 % (or a microsecond) above it; adding
histograms loses nothing.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nbx.errors import Invalid

SUB_BITS = 11
"""2048 buckets of a microsecond: three significant digits."""
HALF = 1 << (SUB_BITS - 1)
HIGHEST_US = 3_600_000_000
"""An hour: higher values are counted as this one."""
DIGITS = 3
_COOKIE = 0x1C849303 | 0x10
_DEFLATED = 0x1C849304 | 0x10
_HEADER = struct.Struct(">iiiiqqd")
_SIZE = (int(HIGHEST_US).bit_length() - SUB_BITS + 2) * HALF

Integers = NDArray[np.int64]


class Histogram:
    """Counts of values in microseconds.

    Examples
    --------
    >>> histogram = Histogram.of([1_000, 2_000, 3_000, 40_000])
    >>> histogram.quantile_us(0.5), histogram.quantile_us(1.0), histogram.count
    (2000, 40031, 4)
    >>> Histogram.decode(histogram.encode()) == histogram
    True
    """

    def __init__(self, counts: Integers | None = None) -> None:
        self._counts = np.zeros(_SIZE, np.int64) if counts is None else counts

    @classmethod
    def of(cls, values_us: Any) -> Self:
        """Return a histogram of an array of values, microseconds; negative ones count as 0."""
        values = np.clip(np.asarray(values_us, np.int64), 0, HIGHEST_US)
        return cls(np.bincount(_index(values), minlength=_SIZE).astype(np.int64))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and bool(np.array_equal(self._counts, other._counts))

    __hash__ = None  # type: ignore[assignment] # it can be added to

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self._counts + other._counts)

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self._counts.sum())

    @property
    def mean_us(self) -> float:
        """Mean, by the middles of the buckets; 0 for none."""
        (filled,) = self._counts.nonzero()
        middles = (_lowest(filled) + _highest(filled)) / 2
        return float(middles @ self._counts[filled] / max(self.count, 1))

    def quantile_us(self, q: float) -> int:
        """Smallest value that a share q of all values does not exceed, as the highest of its bucket; 0 for none."""
        return int(self.quantiles_us([q])[0])

    def quantiles_us(self, q: Any) -> Integers:
        """Quantiles, shares in 0..1, as int64."""
        total = self.count
        if not total:
            return np.zeros(len(q), np.int64)
        ranks = np.clip(np.ceil(np.asarray(q, float) * total - 1e-9), 1, total)
        return _highest(np.searchsorted(self._counts.cumsum(), ranks))

    def share_above(self, value_us: int) -> float:
        """Share of values in buckets above that of `value_us`."""
        above = int(self._counts[int(_index(np.array([value_us]))[0]) + 1 :].sum())
        return above / max(self.count, 1)

    def encode(self) -> str:
        """Write as HdrHistogram's V2 compressed base64."""
        filled = self._counts.nonzero()[0]
        packed = _packed(self._counts[: filled[-1] + 1].tolist() if len(filled) else [])
        body = _HEADER.pack(_COOKIE, len(packed), 0, DIGITS, 1, HIGHEST_US, 1.0) + packed
        deflated = zlib.compress(body)
        return base64.b64encode(struct.pack(">ii", _DEFLATED, len(deflated)) + deflated).decode()

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read what `encode` wrote, or another tool with the same precision.

        Raises
        ------
        Invalid
            It is no such histogram.
        """
        try:
            raw = base64.b64decode(text, validate=True)
            cookie, length = struct.unpack_from(">ii", raw)
            body = zlib.decompress(raw[8 : 8 + length])
            inner, size, offset, digits, lowest, _, _ = _HEADER.unpack_from(body)
            counts = _unpacked(body[_HEADER.size : _HEADER.size + size])
        except (struct.error, zlib.error, binascii.Error, ValueError, IndexError) as error:
            raise Invalid(f"this is no histogram of HdrHistogram V2 with three digits: {error}") from error
        if (cookie, inner, offset, digits, lowest) != (_DEFLATED, _COOKIE, 0, DIGITS, 1):
            raise Invalid("this histogram has another version or precision than HdrHistogram V2 with three digits")
        return cls(counts)


def _index(values: Integers) -> Integers:
    """Bucket of each value, all of them >= 0."""
    bits = np.frexp((values | (2 * HALF - 1)).astype(float))[1] - SUB_BITS  # exact: values are below 2**53
    return np.asarray(((bits + 1) << (SUB_BITS - 1)) + (values >> bits) - HALF)


def _lowest(index: Any) -> Integers:
    """Lowest value of each bucket."""
    at = np.asarray(index, np.int64)
    bits = np.maximum((at >> (SUB_BITS - 1)) - 1, 0)
    return np.where(at < 2 * HALF, at, ((at & (HALF - 1)) + HALF) << bits)


def _highest(index: Any) -> Integers:
    """Highest value of each bucket."""
    at = np.asarray(index, np.int64)
    return np.asarray(_lowest(at) + (1 << np.maximum((at >> (SUB_BITS - 1)) - 1, 0)) - 1)


def _packed(counts: list[int]) -> bytes:
    out = bytearray()
    zeros = 0
    for count in counts:
        if count == 0:
            zeros += 1
            continue
        if zeros:
            _put(out, -zeros)
            zeros = 0
        _put(out, count)
    return bytes(out)


def _put(out: bytearray, value: int) -> None:
    rest = value << 1 if value >= 0 else (-value << 1) - 1
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)


def _unpacked(packed: bytes) -> Integers:
    counts = np.zeros(_SIZE, np.int64)
    at = place = 0
    while place < len(packed):
        shift = value = 0
        while True:
            byte = packed[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        number = (value >> 1) ^ -(value & 1)
        if number < 0:
            at -= number
        else:
            counts[at] = number
            at += 1
    return counts
