"""What a benchmark tells: tables, curves and bars as data, so that one page can be made of all of them.

A benchmark is a module with `measure(size) -> Result`. What is compared takes turns, round by round (A B A B), and
medians are told; a claim is a `Bar`: what was found, what is asked, and when it is not met, what stands in the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Literal

from msgspec import Struct

Size = Literal["smoke", "full"]
Cell = str | float | int
PYTHON = "python -m benchmarks.run"
DISTURBED = 0.25
"""Cores that others may use while something is measured."""


class Table(Struct, frozen=True):
    """Numbers under headings; the first column says what they are of."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""


class Curve(Struct, frozen=True):
    """One line of a plot."""

    name: str
    points: tuple[tuple[float, float], ...]


class Plot(Struct, frozen=True):
    """Lines over two logarithmic axes."""

    name: str
    """Of its file."""
    title: str
    x: str
    y: str
    curves: tuple[Curve, ...]


class Bar(Struct, frozen=True):
    """What is asked of a number."""

    what: str
    found: float
    asked: float
    at_least: bool
    """Else: at most."""
    unit: str = "×"
    why: str = ""
    """What stands in the way, where it is not met."""

    @property
    def met(self) -> bool:
        """Whether the number is what is asked.

        Examples
        --------
        >>> Bar("events per decision", 1.9, 1.0, at_least=True).met, Bar("p99", 5.0, 4.0, at_least=False).met
        (True, False)
        """
        return self.found >= self.asked if self.at_least else self.found <= self.asked


class Result(Struct, frozen=True, kw_only=True):
    """What a benchmark found."""

    title: str
    what: str
    against: str
    command: str
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    bars: tuple[Bar, ...] = ()
    notes: tuple[str, ...] = ()
    printed: str = ""
    """Text of a benchmark that prints its own table."""
    failed: str = ""
    """Why there is nothing: the last lines of what it said."""
    seconds: float = 0.0
    size: Size = "full"
    load: float = 0.0
    """Processes that wanted a core when it began: the machine's load."""
    others: float = -1.0
    """Cores that others used meanwhile, on average; below 0: nobody looked."""

    @property
    def is_disturbed(self) -> bool:
        """Whether others took so much that rates and tails over sockets say little."""
        return self.others > DISTURBED


def interleaved(
    work: Mapping[str, Callable[[], object]],
    rounds: int,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median over rounds of each function's time in µs; every round runs every function.

    Parameters
    ----------
    work
        Functions by name; each is called once before the first round.
    rounds, repeats
        How often it is each one's turn, and calls per turn.
    clock
        Seconds; `time.process_time` where neighbours disturb.
    """
    for function in work.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, function in work.items():
            start = clock()
            for _ in range(repeats):
                function()
            times[name].append((clock() - start) / repeats * 1e6)
    return {name: median(values) for name, values in times.items()}


def at_share(values: Sequence[float], share: float) -> float:
    """Return a percentile: the value below which `share` of them lie.

    Examples
    --------
    >>> at_share([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def told(result: Result) -> str:
    """Lay a result out for a terminal."""
    lines = [f"{result.title}: {result.what}", f"against {result.against}"]
    if result.failed:
        lines.append(f"FAILED: {result.failed}")
    if result.printed:
        lines.append(result.printed.rstrip())
    for table in result.tables:
        rows = [[shown(cell) for cell in row] for row in (table.columns, *table.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for first, *others in rows:
            cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            lines.append("  ".join([first.ljust(widths[0]), *cells]))
    for plot in result.plots:
        lines += [
            f"  {plot.title}, {curve.name}: " + ", ".join(f"{shown(x)}: {shown(y)}" for x, y in curve.points)
            for curve in plot.curves
        ]
    for bar in result.bars:
        verdict = "met" if bar.met else "NOT MET"
        lines.append(f"  {bar.what}: {shown(bar.found)} {bar.unit}, {of_bar(bar)}{verdict}")
    lines += [f"  {note}" for note in result.notes]
    return "\n".join(lines)


def shown(cell: Cell) -> str:
    """Write a cell: three digits that count.

    Examples
    --------
    >>> shown(12345.6), shown(12.345), shown(0.01234), shown("x")
    ('12,346', '12.3', '0.0123', 'x')
    """
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:.3g}"


def of_bar(bar: Bar) -> str:
    """Return how far a number is from its bar, in words; nothing where the bar is 0.

    Examples
    --------
    >>> of_bar(Bar("rate", 3.0, 2.0, at_least=True)), of_bar(Bar("errors", 0.0, 0.0, at_least=False))
    ('ratio to the bar 1.50 x, ', '')
    """
    return f"ratio to the bar {bar.found / bar.asked:.2f} x, " if bar.asked else ""
