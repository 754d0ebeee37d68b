"""What a back-test found, as data and as a table."""

from __future__ import annotations

import math
from pathlib import Path

from msgspec import Struct
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from nbx.backtest.estimate import Estimate, ReplayTally, difference
from nbx.backtest.spec import Spec


class Compared(Struct, frozen=True, kw_only=True):
    """A policy to compare with."""

    policy: str
    reward: Estimate
    nbx_minus: Estimate
    """Reward of nbx minus this one."""
    chosen: int | None = None
    """How often nbx chose this action, over all rows; None for uniform."""


class BacktestResult(Struct, frozen=True, kw_only=True):
    """What a back-test found. Rewards are per decision: the share of rows with the wanted outcome."""

    data: str
    outcome: str
    rows: int
    accepted: int
    nbx: Estimate
    first_half: Estimate
    """Of the accepted events."""
    second_half: Estimate
    compared: tuple[Compared, ...]
    """Uniform, then each single action."""
    seconds: float
    """From the first decision to the last event learned."""
    silent: int
    """Decisions for none."""
    degraded: int
    """Decisions that were answered in an emergency; they never count."""
    held_out: int
    notes: tuple[str, ...]

    def table(self) -> Table:
        """Lay the result out for people."""
        title = escape(f"{self.data}: {self.outcome}")
        # no padding: it has to fit 80 columns with action names of a dozen characters
        table = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE, padding=0)
        table.add_column("policy", overflow="fold", min_width=12)
        for name in ("reward per decision", "rows", "nbx minus this", "nbx chose"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_row("[bold]nbx[/]", *_cells(self.nbx), "", "")
        table.add_row(" first half", *_cells(self.first_half), "", "")
        table.add_row(" second half", *_cells(self.second_half), "", "", end_section=True)
        for each in self.compared:
            chosen = "" if each.chosen is None else f"{each.chosen / self.rows:.3f}"
            table.add_row(escape(each.policy), *_cells(each.reward), _apart(each.nbx_minus), chosen)
        apart = f"{self.silent:,} silent, {self.degraded:,} degraded, {self.held_out:,} held out"
        lines = [
            f"{self.accepted:,} of {self.rows:,} rows accepted: nbx chose what the log shows; {apart}",
            "[…] and ±: 95 % intervals; halves are of the accepted events",
            f"{self.seconds:.1f} s, {self.rows / max(self.seconds, 1e-9):,.0f} rows per second",
            *(f"note: {note}" for note in self.notes),
        ]
        table.caption = escape("\n".join(lines))
        return table


def report(
    data: Path,
    spec: Spec,
    tally: ReplayTally,
    *,
    seconds: float,
    silent: int,
    degraded: int,
    held_out: int,
    notes: tuple[str, ...],
) -> BacktestResult:
    """Sum a tally up."""
    nbx, (first, second), chosen = tally.policy(), tally.halves(), tally.chosen()
    uniform = tally.uniform()
    compared = [Compared(policy="uniform", reward=uniform, nbx_minus=difference(nbx, uniform))]
    for action, reward in tally.arms().items():
        minus = difference(nbx, reward)
        compared.append(Compared(policy=f"always {action}", reward=reward, nbx_minus=minus, chosen=chosen[action]))
    return BacktestResult(
        data=data.name,
        outcome=f"{spec.reward_column} = {' or '.join(sorted(spec.positive))}",
        rows=tally.rows,
        accepted=tally.accepted,
        nbx=nbx,
        first_half=first,
        second_half=second,
        compared=tuple(compared),
        seconds=seconds,
        silent=silent,
        degraded=degraded,
        held_out=held_out,
        notes=notes,
    )


def _cells(estimate: Estimate) -> tuple[str, str]:
    mean = "–" if math.isnan(estimate.mean) else f"{estimate.mean:.4f}"
    return f"{mean} \\[{estimate.low:.4f}, {estimate.high:.4f}]", f"{estimate.count:,}"


def _apart(estimate: Estimate) -> str:
    if math.isnan(estimate.mean):
        return "–"
    return f"{estimate.mean:+.4f} ±{max(estimate.high - estimate.mean, estimate.mean - estimate.low):.4f}"
