"""A logged data file as rows the service can be asked about: CSV (plain or compressed) or Parquet, read as a stream.

Every value is text first, whatever the file holds, and is converted by the specification's rules: one set of rules and
one wording of errors for both kinds of file. The whole file is read and converted into a `Spool` on disk before the
first row is used, so a value that cannot be parsed in the last row is told before anything was sent. The spool is also
what makes a shuffle exact in bounded memory: each row goes into one of `BUCKETS` files by chance, and each file is
shuffled when it is read (Rao 1961, Sandelius 1962).

Rows are counted from 1, the header of a CSV file and empty lines not included.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from msgspec import Struct

from nbx.backtest.spec import Spec, feature_value
from nbx.errors import NbxError, SetupError
from nbx.features.schema import Feature, Value
from nbx.ids import checked_id
from nbx.limits import ID_LENGTH

BLOCK_BYTES = 1 << 20
"""Read at a time; a header and every row must be shorter."""
BATCH_ROWS = 8192
FAULTS = 20
"""Wrong values told at once; then reading stops."""
BUCKETS = 64
"""Files of a shuffled spool: ten million rows are 160,000 in memory at a time."""
PREFIX_LENGTH = 32
"""Characters that a run puts before a customer's id."""
SEPARATORS = (",", ";", "\t", "|")
_PARQUET = b"PAR1"

Texts = Sequence[str]


class Row(Struct, frozen=True, array_like=True):
    """One row of the log."""

    number: int
    customer: str
    """Of the id column; empty when there is none."""
    context: dict[str, Value]
    profile: dict[str, Value]
    action: str
    positive: bool


class Spool:
    """Rows of a log on disk, checked.

    Parameters
    ----------
    directory
        Exists; gets the files.
    seed
        Of the shuffle; None keeps the order of the file.
    """

    def __init__(self, directory: Path, *, seed: int | None = None) -> None:
        self._paths = [directory / f"rows-{k:02}" for k in range(1 if seed is None else BUCKETS)]
        self._seed = seed
        self.count = 0
        self.actions: Counter[str] = Counter()
        self.positives = 0
        self.outside: Counter[str] = Counter()
        """Feature → rows whose category is none of those it is encoded with."""

    def fill(self, rows: Iterator[Row], catalog_features: Sequence[Feature]) -> None:
        """Write rows and count them."""
        known = {
            f.name: (frozenset(f.encoding.categories), f.origin == "context")
            for f in catalog_features
            if f.encoding.kind == "onehot"
        }
        encode = msgspec.msgpack.Encoder().encode
        random = np.random.default_rng(self._seed)
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb")) for path in self._paths]
            for row in rows:
                packed = encode(row)
                file = files[int(random.integers(len(files)))] if len(files) > 1 else files[0]
                file.write(len(packed).to_bytes(4, "little") + packed)
                self.count += 1
                self.positives += row.positive
                self.actions[row.action] += 1
                for name, (categories, in_context) in known.items():
                    value = (row.context if in_context else row.profile).get(name)
                    if value is not None and value not in categories:
                        self.outside[name] += 1

    def rows(self) -> Iterator[Row]:
        """Read the rows back, in the order of the file or shuffled."""
        decode = msgspec.msgpack.Decoder(Row).decode
        if self._seed is None:
            yield from (decode(packed) for packed in _packed(self._paths[0]))
            return
        random = np.random.default_rng([self._seed, 1])
        for path in self._paths:
            bucket = list(_packed(path))
            for k in random.permutation(len(bucket)):
                yield decode(bucket[k])


def read_rows(path: Path, spec: Spec) -> Iterator[Row]:
    """Read a file row by row, in bounded memory.

    Raises
    ------
    SetupError
        The file cannot be read, lacks columns, or has values that cannot be used: up to `FAULTS` of them at once, each
        with row and column.
    """
    faults: list[str] = []
    convert = _Converter(spec)
    with _reading(path):
        for number, texts in enumerate(_texts(path, spec), 1):
            row = convert(number, texts, faults)
            if row is not None and not faults:
                yield row
            if len(faults) >= FAULTS:
                faults.append("there may be more: reading stopped here")
                break
    if faults:
        raise SetupError(f"{path}: values that cannot be used", faults=tuple(faults))


class _Converter:
    """From texts in the order of the columns to a row."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        position = {column: k for k, column in enumerate(spec.data_columns)}
        features = {feature.name: feature for feature in spec.catalog.features}
        self._features = [
            (features[name], position[mapped.column], mapped.column, mapped.values)
            for name, mapped in spec.columns.items()
        ]
        self._action, self._reward = position[spec.action_column], position[spec.reward_column]
        self._id = position.get(spec.id_column)

    def __call__(self, number: int, texts: Texts, faults: list[str]) -> Row | None:
        spec, before = self._spec, len(faults)
        context: dict[str, Value] = {}
        profile: dict[str, Value] = {}
        for feature, k, column, values in self._features:
            text = texts[k]
            if not text:
                continue  # missing: the feature's default
            try:
                value = _mapped(text, values) if values else feature_value(feature, text)
                (context if feature.origin == "context" else profile)[feature.name] = value
            except ValueError as error:
                faults.append(f"row {number} column {column}: {_shown(text)} {error} (feature {feature.name})")
        text = texts[self._action]
        action = spec.actions.get(text, "")
        if not action:
            known = ", ".join(spec.actions)
            faults.append(f"row {number} column {spec.action_column}: {_shown(text)} is no value of action: {known}")
        outcome = texts[self._reward]
        positive = outcome in spec.positive
        if not outcome or (spec.negative and not positive and outcome not in spec.negative):
            known = ", ".join(sorted(spec.positive | spec.negative))
            faults.append(f"row {number} column {spec.reward_column}: {_shown(outcome)} is no outcome: {known}")
        customer = texts[self._id] if self._id is not None else ""
        if self._id is not None:
            try:
                checked_id(customer, "the id")
                if len(customer) > ID_LENGTH - PREFIX_LENGTH:
                    raise SetupError(f"the id has more than {ID_LENGTH - PREFIX_LENGTH} characters")
            except NbxError as error:
                faults.append(f"row {number} column {spec.id_column}: {error.message}")
        return Row(number, customer, context, profile, action, positive) if len(faults) == before else None


def _mapped(text: str, values: dict[str, Value]) -> Value:
    if text not in values:
        raise ValueError(f"is none of the values: {', '.join(values)}")
    return values[text]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def _packed(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while header := file.read(4):
            yield file.read(int.from_bytes(header, "little"))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        words = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise SetupError(f"{path}: cannot be read: {words}") from error


def _texts(path: Path, spec: Spec) -> Iterator[Texts]:
    if not path.is_file():
        raise SetupError(f"{path}: there is no such file")
    with path.open("rb") as file:
        parquet = file.read(len(_PARQUET)) == _PARQUET
    yield from _parquet_texts(path, spec) if parquet else _csv_texts(path, spec)


def _parquet_texts(path: Path, spec: Spec) -> Iterator[Texts]:
    columns = list(spec.data_columns)
    with pa_parquet.ParquetFile(path) as file:
        _check_columns(path, spec, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            lists = [list(map(_text, batch.column(column).to_pylist())) for column in columns]
            yield from zip(*lists, strict=True)


def _csv_texts(path: Path, spec: Spec) -> Iterator[Texts]:
    columns = list(spec.data_columns)
    separator, header = _header(path, spec)
    _check_columns(path, spec, header)
    with pa.input_stream(str(path), compression="detect", buffer_size=BLOCK_BYTES) as stream:
        reader = pa_csv.open_csv(
            stream,
            read_options=pa_csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=pa_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
            ),
        )
        with reader:
            for batch in reader:
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _header(path: Path, spec: Spec) -> tuple[str, list[str]]:
    """Return separator and header: of the separators the one with which most of the wanted columns are there."""
    with pa.input_stream(str(path), compression="detect") as stream:
        block = stream.read(BLOCK_BYTES)
    text = block.decode("utf-8-sig", errors="ignore" if len(block) == BLOCK_BYTES else "strict")
    wanted = set(spec.data_columns)

    def split(separator: str) -> list[str]:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])

    if spec.separator:
        return spec.separator, split(spec.separator)
    return max(((s, split(s)) for s in SEPARATORS), key=lambda found: (len(wanted & set(found[1])), len(found[1])))


def _check_columns(path: Path, spec: Spec, names: Sequence[str]) -> None:
    if not names:
        raise SetupError(f"{path}: is empty")
    count = Counter(names)
    faults = [
        f"{spec.source} {field}: there is no column {column} in {path}"
        if column not in count
        else f"{spec.source} {field}: {path} has {count[column]} columns {column}"
        for column, field in spec.data_columns.items()
        if count[column] != 1
    ]
    if faults:
        faults.append(f"its columns are {', '.join(list(names)[:50])}")
        raise SetupError(f"{path} does not fit the specification", faults=tuple(faults))


def _text(value: Any) -> str:
    """Write a value of a typed file as a CSV file would: missing is empty, whole numbers have no point."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
