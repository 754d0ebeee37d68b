"""Vowpal Wabbit's `--cb_explore_adf` through its Python workspace.

Rows are rendered to VW's text format and parsed before the clock starts. An example is parsed once: predicted on,
labelled in place, learned from, given back. Features of the row and of the action
are crossed (`-q UA`): without it VW cannot prefer one action for one customer, as its tutorial says.

Grids: the values of the authors' own experiments (Bietti, Agarwal, Langford, "A contextual bandit bake-off", JMLR 2021,
script `run_vw_job.py`), SquareCB's from VW's wiki. The tutorial's cost of a reward r is −r; the bake-off found that its
other encoding, 1 − r, explores more and matters: it is part of the grid.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.quality.installed import version_of
from benchmarks.quality.policy import Peer, Setting

if TYPE_CHECKING:
    from benchmarks.quality.policy import Value
    from benchmarks.quality.task import Stream

KINDS = {
    "squarecb": "--squarecb",
    "regcb": "--regcb",
    "regcbopt": "--regcbopt",
    "cover": "--cover 4",
    "bag": "--bag 4",
    "softmax": "--softmax",
    "epsilon": "",
    "first": "--first 500",
}
"""Flags of each default; where VW wants a number and has no default, the bake-off's middle one."""


GRID: dict[str, tuple[dict[str, Value], ...]] = {
    "squarecb": (
        {"gamma_scale": 100},
        {"gamma_scale": 1000},
        {"gamma_scale": 100, "learning_rate": 0.1},
        {"gamma_scale": 100, "learning_rate": 2},
        {"gamma_scale": 100, "cost": "1-r"},
    ),
    "regcb": (
        {"mellowness": 0.001},
        {"mellowness": 0.001, "learning_rate": 0.1},
        {"mellowness": 0.001, "learning_rate": 2},
    ),
    "regcbopt": (
        {"mellowness": 0.01},
        {"mellowness": 0.001},
        {"mellowness": 0.001, "learning_rate": 0.1},
        {"mellowness": 0.001, "learning_rate": 2},
        {"mellowness": 0.001, "cost": "1-r"},
    ),
    "cover": (
        {"cover": 8, "psi": 0.1, "nounif": True, "cb_type": "dr"},
        {"cover": 8, "psi": 0.01, "nounif": True},
        {"cover": 4, "psi": 0.01, "nounif": True, "learning_rate": 2},
    ),
    "bag": (
        {"bag": 8},
        {"bag": 8, "greedify": True},
        {"bag": 2, "greedify": True},
        {"bag": 4, "greedify": True, "learning_rate": 0.1},
        {"bag": 4, "greedify": True, "learning_rate": 2},
    ),
    "softmax": ({"lambda": 10}, {"lambda": 100}),
    "epsilon": (
        {"epsilon": 0},
        {"epsilon": 0.02},
        {"epsilon": 0.02, "cb_type": "dr"},
        {"epsilon": 0.02, "learning_rate": 0.1},
        {"epsilon": 0.02, "learning_rate": 2},
        {"epsilon": 0.02, "cost": "1-r"},
    ),
}


class VowpalWabbit:
    """One workspace over one stream."""

    def __init__(self, setting: Setting, stream: Stream) -> None:
        values = dict(setting.values)
        self.high = 1.0 if values.pop("cost", "-r") == "1-r" else 0.0
        flags = ["--cb_explore_adf", "-q UA", "--quiet", f"--random_seed {stream.seed + 1}", KINDS[setting.policy]]
        for name in ("cover", "bag"):
            if name in values:
                flags[-1] = f"--{name} {values.pop(name)}"
        if setting.policy in ("regcb", "regcbopt"):
            flags.append(f"--cb_min_cost {self.high - 1.0} --cb_max_cost {self.high}")
        flags += [f"--{name}" if value is True else f"--{name} {value}" for name, value in values.items()]
        module: Any = importlib.import_module("vowpalwabbit")
        self.workspace = module.Workspace(" ".join(flags))
        if "vw" not in stream.forms:
            stream.forms["vw"] = _rendered(stream)
        self.texts: list[str] = stream.forms["vw"]
        self.uniforms = stream.uniforms.tolist()
        self.examples: Any = None

    def prepare(self, row: int) -> None:
        """Parse the row."""
        if self.examples is not None:
            self.workspace.finish_example(self.examples)
        self.examples = self.workspace.parse(self.texts[row])

    def decide(self, row: int) -> tuple[int, float]:
        """Predict, draw from the returned distribution."""
        chances = self.workspace.predict(self.examples)
        reached = np.searchsorted(np.cumsum(chances), self.uniforms[row], "right")
        action = min(int(reached), len(chances) - 1)
        return action, chances[action]

    def learn(self, row: int, action: int, success: float, reward: float, propensity: float) -> None:  # noqa: ARG002
        """Label the chosen action's line of the parsed example and learn it."""
        self.examples[action + 1].set_label_string(f"0:{self.high - reward}:{propensity}")
        self.workspace.learn(self.examples)


def _rendered(stream: Stream) -> list[str]:
    lines = "\n".join(f"|A a{k}" for k in range(len(stream.actions)))
    rows = stream.x[:, 1:].tolist()  # VW adds its own constant
    return [
        "shared |U " + " ".join(f"{k}:{value:.6g}" for k, value in enumerate(row) if value) + "\n" + lines
        for row in rows
    ]


PEER = Peer("vw", version_of("vowpalwabbit", 1), tuple(KINDS), VowpalWabbit, GRID)
