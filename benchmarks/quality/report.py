"""Runs to tables: one per task, one summary, one of costs; as Markdown, on a terminal, and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import msgspec
from rich.table import Table as RichTable

from benchmarks.quality.peers import YARDSTICK
from benchmarks.quality.stats import Mean, over_seeds, paired, ranks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from benchmarks.quality.policy import Setting
    from benchmarks.quality.timing import Cost

BAR = 0.98
"""Share of the best tuned peer's reward that nbx has to reach untuned."""
START, END = "<!-- results -->", "<!-- end of results -->"
"""What is generated in a page stands between these."""


@dataclass(frozen=True)
class Table:
    """Rows of text under a title."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


@dataclass(frozen=True)
class Standing:
    """One policy of one task, at its default or at its best setting."""

    peer: str
    policy: str
    setting: str
    tuned: bool
    reward: Mean
    last_tenth: Mean
    behind_nbx: Mean
    """Paired by seed: the policy's reward less nbx's."""
    seconds_per_10k: float
    seeds: int


def standings(results: dict[Setting, dict[int, Any]]) -> list[Standing]:
    """Order policies by reward: each at its default, and at the best setting that ran on every seed."""
    full: dict[tuple[str, str], int] = {}
    for setting, runs in results.items():
        full[_name(setting)] = max(len(runs), full.get(_name(setting), 0))
    complete = {setting: runs for setting, runs in results.items() if len(runs) == full[_name(setting)]}
    ours = next((_rewards(runs) for setting, runs in complete.items() if _is_nbx(setting)), {})
    found = []
    for peer, policy in dict.fromkeys(map(_name, complete)):
        of = {s: runs for s, runs in complete.items() if _name(s) == (peer, policy)}
        best = max(of, key=lambda s: fmean(_rewards(of[s]).values()))
        untuned = [s for s in of if not s.values or peer == "nbx"]
        for setting, tuned in [(s, False) for s in untuned] + [(best, True)]:
            runs = of[setting]
            found.append(
                Standing(
                    peer=peer,
                    policy=policy,
                    setting=setting.label,
                    tuned=tuned,
                    reward=over_seeds([run.reward for run in runs.values()]),
                    last_tenth=over_seeds([run.last_tenth for run in runs.values()]),
                    behind_nbx=paired(_rewards(runs), ours) if ours else Mean(float("nan"), float("nan")),
                    seconds_per_10k=fmean(run.seconds_per_10k for run in runs.values()),
                    seeds=len(runs),
                )
            )
    return sorted(found, key=lambda s: -s.reward.mean)


def _name(setting: Setting) -> tuple[str, str]:
    """Settings of one policy are points of its grid; nbx has no grid, other values of it stand for themselves."""
    return setting.peer, setting.label if setting.peer == "nbx" else setting.policy


def _rewards(runs: dict[int, Any]) -> dict[int, float]:
    return {seed: run.reward for seed, run in runs.items()}


def _is_nbx(setting: Setting) -> bool:
    return setting.peer == "nbx" and not setting.values


def of_task(name: str, about: str, rows: list[Standing], slow: Sequence[str] = ()) -> Table:
    """One line per policy: untuned, then what its own grid makes of it."""
    tuned = {(s.peer, s.policy): s for s in rows if s.tuned}
    lines = []
    for s in (s for s in rows if not s.tuned):
        best = tuned[s.peer, s.policy]
        lines.append(
            (
                f"{s.peer} {s.policy}" if s.peer != "nbx" else s.policy,
                str(s.reward),
                "" if s.policy == "nbx" else f"{_signed(s.behind_nbx)}",
                f"{s.last_tenth.mean:.4f}",
                "" if best.setting == s.setting else f"{best.reward.mean:.4f}",
                "" if best.setting == s.setting else best.setting.removeprefix(s.policy).strip(),
                f"{s.seconds_per_10k:.2f}",
                str(s.seeds),
            )
        )
    return Table(
        f"{name}: {about}",
        ("policy", "reward, untuned", "less nbx", "last tenth", "tuned", "with", "s / 10,000", "seeds"),
        lines,
        f"Too slow to finish: {', '.join(slow)}." if slow else "",
    )


def _signed(difference: Mean) -> str:
    return f"{difference.mean:+.4f}{'*' if difference.significant else ''}"


def summary(tasks: dict[str, list[Standing]]) -> Table | None:
    """Nbx against the best untuned and the best tuned peer, and its ranks; None when nbx did not run."""
    lines, places, tuned_places = [], [], []
    for name, rows in tasks.items():
        plain = [s for s in rows if not s.tuned and s.policy != YARDSTICK]
        ours = next((s for s in plain if s.policy == "nbx"), None)
        others = [s for s in plain if s.peer not in ("nbx", "plain")]
        tuned = [s for s in rows if s.tuned and s.peer not in ("nbx", "plain")]
        if ours is None or not others:
            continue
        plain = [s for s in plain if s.peer != "nbx" or s is ours]
        place = ranks([s.reward.mean for s in plain])[plain.index(ours)]
        tuned_place = ranks([s.reward.mean for s in [ours, *tuned]])[0]
        places.append(place)
        tuned_places.append(tuned_place)
        best, top = others[0], tuned[0]
        ahead = Mean(-best.behind_nbx.mean, best.behind_nbx.half)
        ratio = ours.reward.mean / top.reward.mean
        lines.append(
            (
                name,
                f"{ours.reward.mean:.4f}",
                f"{place:g} of {len(plain)}",
                f"{best.peer} {best.setting}",
                _signed(ahead),
                f"{tuned_place:g} of {len(tuned) + 1}",
                f"{top.peer} {top.setting}",
                f"{ratio:.3f}{'' if ratio >= BAR else ' <'}",
            )
        )
    if not lines:
        return None
    lines.append(("mean rank", "", f"{fmean(places):.2f}", "", "", f"{fmean(tuned_places):.2f}", "", ""))
    return Table(
        "nbx, one setting, against the best peer of each task",
        ("task", "nbx", "rank", "best untuned peer", "nbx less it", "rank", "best tuned peer", "nbx / it"),
        lines,
        f"\\* the 95 % interval of the paired difference leaves 0 out. < below the bar of {BAR}.",
    )


def of_costs(costs: dict[Setting, Cost]) -> Table:
    """Cost of a decision and a lesson, cheapest first, and as a multiple of nbx's."""
    base = next((c.decide_us + c.learn_us for s, c in costs.items() if _is_nbx(s)), float("nan"))
    ordered = sorted(costs.items(), key=lambda item: item[1].decide_us + item[1].learn_us)
    return Table(
        "50 actions, 32 columns: µs a row",
        ("policy", "decide", "learn", "both", "× nbx"),
        [
            (
                f"{s.peer} {s.policy}" if s.peer != "nbx" else s.policy,
                f"{c.decide_us:.0f}",
                f"{c.learn_us:.0f}",
                f"{c.decide_us + c.learn_us:.0f}",
                f"{(c.decide_us + c.learn_us) / base:.2f}",
            )
            for s, c in ordered
        ],
    )


def markdown(tables: Sequence[Table]) -> str:
    """Render tables one after the other."""
    parts = []
    for table in tables:
        lines = [
            f"### {table.title}",
            "",
            f"| {' | '.join(table.columns)} |",
            f"|{' --- |' * len(table.columns)}",
            *(f"| {' | '.join(row)} |" for row in table.rows),
        ]
        parts.append("\n".join([*lines, "", table.note] if table.note else lines))
    return "\n\n".join(parts) + "\n"


def write(path: Path, text: str) -> None:
    """Write a page, or replace what stands between the markers of one that has them."""
    page = path.read_text() if path.exists() else ""
    if START in page and END in page:
        head, _, rest = page.partition(START)
        text = f"{head}{START}\n\n{text}\n{END}{rest.partition(END)[2]}"
    path.write_text(text)


def show(console: Console, tables: Sequence[Table]) -> None:
    """Print tables on a terminal."""
    for table in tables:
        drawn = RichTable(title=table.title, title_justify="left", caption=table.note.replace("\\", "") or None)
        for number, column in enumerate(table.columns):
            drawn.add_column(column, overflow="fold", justify="left" if number == 0 else "right")
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)


def as_json(tasks: dict[str, list[Standing]], costs: dict[Setting, Cost]) -> bytes:
    """Encode every standing and every cost; single runs are in the cache."""
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "standings": {name: [asdict(s) for s in rows] for name, rows in tasks.items()},
                "costs": [{"peer": s.peer, "policy": s.policy, **asdict(cost)} for s, cost in costs.items()],
            }
        )
    )
