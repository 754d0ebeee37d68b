"""What a policy is to the benchmark, and how its settings are named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.quality.task import Stream

Value = str | int | float | bool


class Policy(Protocol):
    """One policy in one run over one stream; rows come in the order of the stream."""

    def prepare(self, row: int) -> None:
        """Put the row in the policy's own input format; not timed."""

    def decide(self, row: int) -> tuple[int, float]:
        """Choose an action for a row; the chance of the choice, NaN where the policy does not tell."""

    def learn(self, row: int, action: int, success: float, reward: float, propensity: float) -> None:
        """Learn what an action brought on the row decided last.

        `reward` is gain·success + shift over the largest gain; `propensity` is the chance that the row's action was
        chosen: the policy's own, or the log's when the log chose.
        """


@dataclass(frozen=True)
class Setting:
    """One way to run a policy."""

    peer: str
    """The package it comes from, as `--peers` names it."""
    policy: str
    values: tuple[tuple[str, Value], ...] = ()
    """Empty: untuned."""

    @property
    def label(self) -> str:
        """The policy, with what was set.

        Examples
        --------
        >>> Setting("vw", "squarecb", (("gamma_scale", 10),)).label
        'squarecb gamma_scale=10'
        """
        return " ".join([self.policy, *(f"{name}={value}" for name, value in self.values)])


@dataclass(frozen=True)
class Peer:
    """A package and the policies that are taken from it."""

    name: str
    version: str | None
    """Of its code: the package's and the adapter's; None when it is not installed."""
    policies: tuple[str, ...]
    make: Callable[[Setting, Stream], Policy]
    grid: Mapping[str, tuple[Mapping[str, Value], ...]] = field(default_factory=dict)
    """Settings besides the default to try, by policy."""
    binary: tuple[str, ...] = ()
    """Policies that learn from 0 and 1 only."""
    seeds: Mapping[str, int] = field(default_factory=dict)
    """Most seeds to run a slow policy on."""

    def settings(self) -> list[Setting]:
        """Each policy at its default, then at every point of its grid."""
        return [
            Setting(self.name, policy, tuple(values.items()))
            for policy in self.policies
            for values in ({}, *self.grid.get(policy, ()))
        ]
