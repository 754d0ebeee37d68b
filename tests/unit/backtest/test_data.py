"""Reading logs: CSV in its varieties, Parquet, wrong values, and the spool."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from nbx.backtest import data
from nbx.backtest.data import Row, Spool, read_rows
from nbx.backtest.spec import Spec, read_spec
from nbx.errors import SetupError

from .log import HEADER, log_rows, write_csv, write_spec


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    return read_spec(write_spec(tmp_path))


def test_one_row_becomes_what_the_specification_says(tmp_path: Path, spec: Spec) -> None:
    path = write_csv(tmp_path / "log.csv", [("c", "41.5", "gold", "Bern", "C", "1"), ("c", "", "none", "", "A", "0")])
    assert list(read_rows(path, spec)) == [
        Row(1, "", {"age": 41.5, "member": True}, {"city": "Bern"}, "blue", True),
        Row(2, "", {"member": False}, {}, "red", False),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separator_and_compression_are_found_out(tmp_path: Path, spec: Spec, separator: str) -> None:
    rows = log_rows(50)
    plain = write_csv(tmp_path / "log.csv", rows, separator)
    expected = [(row[4], row[3]) for row in rows]
    packed = tmp_path / "log.csv.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    for path in (plain, packed):
        found = [
            ({v: k for k, v in spec.actions.items()}[row.action], row.profile["city"]) for row in read_rows(path, spec)
        ]
        assert found == expected


def test_parquet_with_typed_columns_reads_as_csv_does(tmp_path: Path, spec: Spec) -> None:
    rows = log_rows(100)
    columns: dict[str, list[object]] = {name: [row[k] for row in rows] for k, name in enumerate(HEADER)}
    columns["age"] = [None if k == 3 else float(str(age)) for k, age in enumerate(columns["age"])]
    columns["bought"] = [int(str(value)) for value in columns["bought"]]
    pa_parquet.write_table(pa.table(columns), tmp_path / "log.parquet")
    rows[3] = (rows[3][0], "", *rows[3][2:])
    csv = write_csv(tmp_path / "log.csv", rows)
    assert list(read_rows(tmp_path / "log.parquet", spec)) == list(read_rows(csv, spec))


def test_wrong_values_are_told_together_with_row_and_column(tmp_path: Path, spec: Spec) -> None:
    rows = log_rows(5)
    rows[1] = ("c", "old", "silver", "Bern", "D", "2")
    rows[3] = ("c", "inf", "gold", "B" * 1025, "", "")
    with pytest.raises(SetupError) as caught:
        list(read_rows(write_csv(tmp_path / "log.csv", rows), spec))
    assert list(caught.value.faults) == [
        "row 2 column age: 'old' is not a number (feature age)",
        "row 2 column status: 'silver' is none of the values: gold, none (feature member)",
        "row 2 column arm: 'D' is no value of action: A, B, C",
        "row 2 column bought: '2' is no outcome: 0, 1",
        "row 4 column age: 'inf' is not a finite number (feature age)",
        f"row 4 column town: '{'B' * 40}…' has more than 1024 characters (feature city)",
        "row 4 column arm: '' is no value of action: A, B, C",
        "row 4 column bought: '' is no outcome: 0, 1",
    ]


def test_reading_stops_after_many_wrong_values(tmp_path: Path, spec: Spec) -> None:
    path = write_csv(tmp_path / "log.csv", [("c", "x", "gold", "Bern", "A", "1")] * 100)
    with pytest.raises(SetupError) as caught:
        list(read_rows(path, spec))
    assert len(caught.value.faults) == data.FAULTS + 1


def test_files_that_cannot_be_used(tmp_path: Path, spec: Spec) -> None:
    def told(name: str, content: bytes | None) -> str:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(SetupError) as caught:
            list(read_rows(path, spec))
        return str(caught.value)

    good = write_csv(tmp_path / "good.csv", log_rows(3)).read_bytes()
    assert "there is no such file" in told("none.csv", None)
    assert "is empty" in told("empty.csv", b"")
    assert "cannot be read" in told("cut.csv.gz", gzip.compress(good)[:40])
    assert "cannot be read" in told("not.csv.gz", good)
    assert "cannot be read" in told("cut.parquet", b"PAR1" + good)
    assert "cannot be read" in told("latin.csv", good + '"c","4","gold","Zürich","A","1"\n'.encode("latin-1"))
    assert "Expected 6 columns" in told("ragged.csv", good + b'"c","4"\n')
    words = told("other.csv", good.replace(b'"age"', b'"alter"').replace(b'"arm"', b'"town"'))
    assert f"{spec.source} action.column: there is no column arm in " in words
    assert f"{spec.source} columns.age: there is no column age in " in words
    assert "has 2 columns town" in words
    assert "its columns are customer, alter" in words


def test_ids_are_checked(tmp_path: Path) -> None:
    spec = read_spec(write_spec(tmp_path, ("columns:", "id: customer\ncolumns:")))
    rows = log_rows(3)
    assert [row.customer for row in read_rows(write_csv(tmp_path / "log.csv", rows), spec)] == ["c0", "c1", "c2"]
    rows[1] = ("", *rows[1][1:])
    rows[2] = ("c" * 97, *rows[2][1:])
    with pytest.raises(SetupError) as caught:
        list(read_rows(write_csv(tmp_path / "log.csv", rows), spec))
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [
        "row 2 column customer",
        "row 3 column customer",
    ]


def test_a_spool_gives_back_every_row_in_order_or_shuffled(tmp_path: Path, spec: Spec) -> None:
    path = write_csv(tmp_path / "log.csv", log_rows(1000))
    orders: list[list[int]] = []
    for seed in (None, 1, 1, 2):
        directory = tmp_path / f"spool{len(orders)}"
        directory.mkdir()
        spool = Spool(directory, seed=seed)
        spool.fill(read_rows(path, spec), spec.catalog.features)
        assert (spool.count, sum(spool.actions.values())) == (1000, 1000)
        assert spool.outside == {"city": 500}  # "Basel, old" is not in the catalog
        orders.append([row.number for row in spool.rows()])
    assert orders[0] == list(range(1, 1001))
    assert orders[1] == orders[2] != orders[3]
    assert sorted(orders[1]) == orders[0]
    # a uniform shuffle of n numbers moves each by n/3 on average
    moved = sum(abs(number - k) for k, number in enumerate(orders[1], 1)) / 1000
    assert 300 < moved < 366
