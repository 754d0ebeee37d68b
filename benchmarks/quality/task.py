"""A task is a table of rows; a stream is what one seed makes of it: which rows, in which order, with which luck.

Every policy meets the same streams, so that policies differ by their choices and not by their rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]

Protocol = Literal["full", "replay", "off_policy"]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a data set, encoded the same for every policy."""

    columns: tuple[str, ...]
    x: F32
    """float32[n, d]; column 0 is the constant 1."""
    actions: tuple[str, ...]
    success: F64
    """float64[n, K] in 0..1 when the answer to every action is known, [n] to the logged action otherwise."""
    logged: I64 | None = None
    """int64[n], the action the log shows, chosen uniformly; None when every answer is known."""
    gain: tuple[float, ...] = ()
    """Reward = gain·success + shift, per action; empty: 1 and 0."""
    shift: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """What is played, and how it is scored."""

    name: str
    protocol: Protocol
    rows: int
    """Rows of one run unless told otherwise."""
    about: str
    load: Callable[[int], Table]
    """By seed: only synthetic worlds depend on it."""
    files: tuple[str, ...] = ()
    """Below the data folder."""
    money: bool = False
    """Whether a reward is more than 0 or 1."""


@dataclass(slots=True, eq=False)
class Stream:
    """One seed's rows of a task, in the order of play."""

    task: str
    protocol: Protocol
    seed: int
    columns: tuple[str, ...]
    actions: tuple[str, ...]
    x: F32
    success: F64
    """Drawn answers, 0 or 1: float64[n, K] or [n]."""
    expected: F64
    """Chance of each answer where it is known (a synthetic world), else the answers themselves."""
    logged: I64 | None
    gain: F64
    shift: F64
    uniforms: F64
    """float64[n], the luck of the policies' own draws."""
    forms: dict[str, Any] = field(default_factory=dict)
    """Rows in the input format of a peer, made once per stream and outside its time."""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any number in the stream."""
        parts = [self.x, self.success, self.expected, self.gain, self.shift, self.uniforms]
        if self.logged is not None:
            parts.append(self.logged)
        digest = blake2b(f"{self.protocol} {self.columns} {self.actions}".encode(), digest_size=8)
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def stream(task: Task, table: Table, seed: int, rows: int) -> Stream:
    """Draw one seed's rows without replacement, their order, and every answer that is a matter of chance."""
    rng = np.random.default_rng([seed, 20])
    count, actions = len(table.x), len(table.actions)
    at = rng.permutation(count)[:rows]
    expected = table.success[at]
    return Stream(
        task=task.name,
        protocol=task.protocol,
        seed=seed,
        columns=table.columns,
        actions=table.actions,
        x=table.x[at],
        success=(rng.random(len(at))[(...,) + (None,) * (expected.ndim - 1)] < expected).astype(np.float64),
        expected=expected,
        logged=None if table.logged is None else table.logged[at],
        gain=np.array(table.gain or (1.0,) * actions),
        shift=np.array(table.shift or (0.0,) * actions),
        uniforms=rng.random(len(at)),
    )
