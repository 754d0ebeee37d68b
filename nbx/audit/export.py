"""Logged decisions in the columns that Open Bandit Pipeline reads.

`.npz`: what its estimators take, one array a key. `n_rounds`, `n_actions`, `action`, `position` (all 0: the first drawn
slot), `reward`, `pscore`, `context` (x by the columns of the release asked about), `action_context` (one-hot), and of
shape (n_rounds, n_actions, 1) `pi_b`, `action_dist` (of the release asked about) and `estimated_rewards` (the model's).
`expected_reward` is not there: only a synthetic log knows it. `.csv`: the file of the Open Bandit Dataset, with its
`item_context.csv` beside it.

Action 0 is none, the others are numbered as they appear; actions that could not be drawn have probability 0. Rows go to
disk as they are read; in memory is, for each decision, what its outcome is waited for with. Files appear whole or not
at all.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nbx.audit.judging import REWARDS, Awaited, Judged, Maturity, Question, Terms, consider
from nbx.audit.reading import Arbitrated, erased_by, outcomes_of
from nbx.bandits import ope
from nbx.catalog.plan import Plan
from nbx.errors import Invalid
from nbx.experience.entries import DecisionEntry, Entry

SUFFIXES = (".npz", ".csv")
_LENGTH = 4
_F64 = np.dtype("<f8")


class Exported(Struct, frozen=True, kw_only=True):
    """What was written."""

    rows: int
    actions: tuple[str, ...]
    """Name of each action; 0 is `none`."""
    left_out: dict[str, int]
    """Decisions not written, by why: see `nbx.audit.judging.Why`."""
    files: tuple[str, ...]


class _Spooled(Struct, array_like=True):
    """A row on disk."""

    chosen: int
    propensity: float
    x: bytes
    actions: list[int]
    """Of the distributions, without none."""
    logged: bytes
    target: bytes
    """float64, none last."""
    model: bytes
    terms: Terms


def checked_target(out: Path) -> Path:
    """Return the file to write; `Invalid` when its ending or place is wrong."""
    if out.suffix not in SUFFIXES:
        raise Invalid(f"{out.name} must end with .npz or .csv", field="out", code="format_unknown")
    if not out.parent.is_dir():
        raise Invalid(f"{out.parent} is no directory", field="out", code="directory_missing")
    return out


class ObpExport:
    """Takes in the log in its order, then writes a file. A context manager: what is spooled goes with it.

    Parameters
    ----------
    question
        Window, release asked about (None: each decision's own) and placement.
    maturity
        Which decisions are too young.
    plan_of
        Gives the plans of the releases that decided.
    columns
        Names of the context's columns; a column that a decision's x lacks is 0.
    reward
        One of `REWARDS`.
    folder
        Where to spool: on the disk that the file is for.
    """

    def __init__(
        self,
        question: Question,
        maturity: Maturity,
        plan_of: Callable[[int], Plan],
        columns: tuple[str, ...],
        reward: str,
        folder: Path,
    ) -> None:
        if reward not in REWARDS:
            raise Invalid(f"reward must be one of {', '.join(REWARDS)}, found {reward!r}", field="reward")
        self._question = question
        self._maturity = maturity
        self._plan_of = plan_of
        self._columns = columns
        self._reward = reward
        self._aligned: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._number: dict[str, int] = {"": 0}
        self._rows: list[Awaited] = []
        self._row_of: dict[str, Awaited] = {}
        self._left_out: Counter[str] = Counter()
        self._folder = tempfile.TemporaryDirectory(dir=folder, prefix=".nbx-export-")
        self._spool: IO[bytes] = (Path(self._folder.name) / "rows").open("w+b")

    def __enter__(self) -> ObpExport:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was spooled."""
        self._spool.close()
        self._folder.cleanup()

    def take(self, entries: Iterable[Entry]) -> None:
        """Take in log entries; `plan_of` must know the releases that decided them."""
        for entry in entries:
            if isinstance(entry, DecisionEntry):
                self._take_decision(entry)
            if customer := erased_by(entry):
                for row in self._rows:
                    row.erased |= row.customer_id == customer
            for outcome in outcomes_of(entry):
                told = self._row_of.get(outcome.decision_id)
                if told is not None:
                    told.tell(outcome)

    def _take_decision(self, entry: DecisionEntry) -> None:
        self._maturity.note(entry)
        found = consider(entry, self._question, self._plan_of)
        if isinstance(found, str):
            self._left_out[found] += 1
        elif found is not None:
            awaited, drawn, judged = found
            ope.importance_weights(
                np.array([drawn.propensity]), np.array([judged.chance]), [f"decision {entry.decision_id}"]
            )
            self._rows.append(awaited)
            self._row_of[entry.decision_id] = awaited
            packed = msgspec.msgpack.encode(self._spooled(entry, drawn, judged))
            self._spool.write(len(packed).to_bytes(_LENGTH, "little") + packed)

    def _spooled(self, entry: DecisionEntry, drawn: Arbitrated, judged: Judged) -> _Spooled:
        candidates = [entry.actions[i] for i in drawn.free.tolist()]
        numbers = [self._number.setdefault(name, len(self._number)) for name in candidates]
        logged = drawn.probability.copy()
        logged[drawn.chosen] = drawn.propensity  # in double precision, as it was drawn
        at = [*(candidates.index(name) for name in judged.names), len(candidates)]
        target, model = np.zeros(len(candidates) + 1), np.zeros(len(candidates) + 1)
        target[at] = judged.target
        model[at] = judged.model[:, REWARDS.index(self._reward)]
        return _Spooled(
            chosen=self._number[entry.slots[drawn.slot].action],
            propensity=drawn.propensity,
            x=self._context(entry),
            actions=numbers,
            logged=logged.tobytes(),
            target=target.tobytes(),
            model=model.tobytes(),
            terms=judged.terms,
        )

    def _context(self, entry: DecisionEntry) -> bytes:
        if entry.release not in self._aligned:
            known = {name: i for i, name in enumerate(self._plan_of(entry.release).layout.columns)}
            here = [i for i, name in enumerate(self._columns) if name in known]
            there = [known[self._columns[i]] for i in here]
            self._aligned[entry.release] = np.array(here, np.int64), np.array(there, np.int64)
        here_at, there_at = self._aligned[entry.release]
        context = np.zeros(len(self._columns), "<f4")
        context[here_at] = np.frombuffer(entry.x, "<f4")[there_at]
        return context.tobytes()

    def write(self, out: Path) -> Exported:
        """Write the file; it appears whole, or not at all.

        Raises
        ------
        Invalid
            No decision counts.
        """
        self._spool.flush()
        left_out = Counter(self._left_out)
        counts: list[Awaited | None] = []
        for row in self._rows:
            why = self._maturity.why_not(row)
            counts.append(row if why is None else None)
            if why is not None:
                left_out[why] += 1
        if not any(counts):
            told = ", ".join(f"{count} {why}" for why, count in sorted(left_out.items())) or "the log has none"
            raise Invalid(
                f"no decision counts ({told}); see --since, --placement and --young", code="nothing_to_export"
            )
        files = self._write_csv(counts, out) if out.suffix == ".csv" else self._write_npz(counts, out)
        return Exported(
            rows=sum(1 for row in counts if row is not None),
            actions=("none", *list(self._number)[1:]),
            left_out=dict(sorted(left_out.items())),
            files=tuple(str(file) for file in files),
        )

    def _kept(self, counts: list[Awaited | None]) -> Iterator[tuple[Awaited, _Spooled]]:
        """Read back the rows that count."""
        self._spool.seek(0)
        decode = msgspec.msgpack.Decoder(_Spooled).decode
        for row in counts:
            packed = self._spool.read(int.from_bytes(self._spool.read(_LENGTH), "little"))
            if row is not None:
                yield row, decode(packed)

    def _earned(self, row: Awaited, spooled: _Spooled) -> float:
        return spooled.terms.rewards(row.told)[REWARDS.index(self._reward)]

    def _write_npz(self, counts: list[Awaited | None], out: Path) -> list[Path]:
        """Spread the rows over one file per column, then pack these under NumPy's headers."""
        n, k, folder = sum(1 for row in counts if row is not None), len(self._number), Path(self._folder.name)
        column: dict[str, tuple[str, tuple[int, ...]]] = {
            "action": ("<i8", (n,)),
            "reward": ("<f8", (n,)),
            "pscore": ("<f8", (n,)),
            "timestamp": ("<i8", (n,)),
            "context": ("<f4", (n, len(self._columns))),
            "pi_b": ("<f8", (n, k, 1)),
            "action_dist": ("<f8", (n, k, 1)),
            "estimated_rewards": ("<f8", (n, k, 1)),
        }
        opened = {name: (folder / name).open("wb") for name in column}
        for row, spooled in self._kept(counts):
            at = [*spooled.actions, 0]
            values: dict[str, Any] = {
                "action": spooled.chosen,
                "reward": self._earned(row, spooled),
                "pscore": spooled.propensity,
                "timestamp": row.at_ms,
                "context": np.frombuffer(spooled.x, "<f4"),
                "pi_b": _dense(spooled.logged, at, k),
                "action_dist": _dense(spooled.target, at, k),
                "estimated_rewards": _dense(spooled.model, at, k),
            }
            for name, value in values.items():
                opened[name].write(np.asarray(value, column[name][0]).tobytes())
        for file in opened.values():
            file.close()
        whole = folder / "whole.npz"
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
            for name, (kind, shape) in column.items():
                with packed.open(f"{name}.npy", "w", force_zip64=True) as member, (folder / name).open("rb") as raw:
                    header = {"descr": kind, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(member, header)
                    shutil.copyfileobj(raw, member)
            names = np.array(["none", *list(self._number)[1:]])
            small = {
                "n_rounds": np.int64(n),
                "n_actions": np.int64(k),
                "position": np.zeros(n, np.int64),
                "action_context": np.eye(k),
                "action_name": names,
                "context_name": np.array(self._columns),
            }
            for name, array in small.items():
                with packed.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        whole.replace(out)
        return [out]

    def _write_csv(self, counts: list[Awaited | None], out: Path) -> list[Path]:
        whole, items = Path(self._folder.name) / "whole.csv", Path(self._folder.name) / "items.csv"
        with whole.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            features = [f"user_feature_{i}" for i in range(len(self._columns))]
            rows.writerow(["", "timestamp", "item_id", "position", "click", "propensity_score", *features])
            for number, (row, spooled) in enumerate(self._kept(counts)):
                at = datetime.fromtimestamp(row.at_ms / 1000, UTC).isoformat(sep=" ", timespec="milliseconds")
                reward = self._earned(row, spooled)
                click = int(reward) if self._reward == "acceptance" else repr(reward)
                context = [repr(value) for value in np.frombuffer(spooled.x, "<f4").tolist()]
                rows.writerow([number, at, spooled.chosen, 1, click, repr(spooled.propensity), *context])
        with items.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["", "item_id", "item_feature_0", "item_feature_1"])
            for name, number in self._number.items():
                rows.writerow([number, number, f"{number}.0", name or "none"])
        beside = out.with_name("item_context.csv")
        items.replace(beside)
        whole.replace(out)
        return [out, beside]


def _dense(packed: bytes, at: list[int], k: int) -> NDArray[np.float64]:
    """Spread a packed distribution over all actions, float64[k]."""
    dense = np.zeros(k)
    dense[at] = np.frombuffer(packed, _F64)
    return dense
