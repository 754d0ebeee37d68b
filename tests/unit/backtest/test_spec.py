"""Specifications: a good one, and every fault at once with its line and field."""

from pathlib import Path

import pytest

from nbx.backtest.spec import read_spec, service_faults, swaying
from nbx.catalog.parse import parse_catalog
from nbx.errors import SetupError

from .log import SPEC, write_spec

ROOT = Path(__file__).parents[3]
CATALOG = "\n".join(line[2:] for line in SPEC.partition("catalog:\n")[2].splitlines())


def faults_of(path: Path) -> list[str]:
    with pytest.raises(SetupError) as caught:
        read_spec(path)
    return [fault.removeprefix(str(path)) for fault in caught.value.faults]


def test_a_good_specification(tmp_path: Path) -> None:
    spec = read_spec(write_spec(tmp_path))
    assert spec.placement == "mail"
    assert spec.actions == {"A": "red", "B": "green", "C": "blue"}
    assert sum(spec.probabilities.values()) == pytest.approx(1.0)
    assert spec.columns["member"].values == {"gold": True, "none": False}
    assert list(spec.data_columns) == ["arm", "bought", "age", "status", "town"]
    assert (spec.negative_event, spec.shuffle, spec.separator) == ("declined", None, "")
    assert parse_catalog(spec.catalog_text) == spec.catalog


def test_the_example_is_good() -> None:
    assert read_spec(ROOT / "examples" / "hillstrom.yaml").placement == "email"


def test_a_catalog_may_stand_in_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(CATALOG)
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.partition("catalog:\n")[0] + "catalog: shop.yaml\n")
    assert read_spec(path).catalog.name == "shop"
    path.write_text(SPEC.partition("catalog:\n")[0] + "catalog: nowhere.yaml\n")
    assert faults_of(path)[0].startswith(":9 catalog: ")


def test_all_faults_at_once_with_line_and_field(tmp_path: Path) -> None:
    path = write_spec(
        tmp_path,
        ("column: arm", "column: arm\n  probabilties: {}"),
        ("C: blue", "C: bleu"),
        ("positive: 1", "positive: [1, 0]"),
        ("age: age", "agee: age"),
        ("gold: true", "gold: maybe"),
    )
    found = faults_of(path)
    text = "\n".join(found)
    for words in (
        ":3 action.probabilties: unknown key; there are column, values, probabilities",
        ":2 action.values.C: bleu is no action of the catalog at mail",
        ":2 action.values: no value leads to blue, which the catalog shows at mail",
        ":5 reward.negative: 0 is positive too",
        ":7 columns.agee: is no feature of the catalog",
        ":8 columns.member.values.gold: 'maybe' is neither yes nor no; member is a boolean",
    ):
        assert words in text, text
    assert len(found) == 6


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("column: arm", "columm: arm", ":2 action.column: is missing"),
        ("reward: {column: bought, positive: 1, negative: 0}", "reward: 1", ":4 reward: must be a mapping"),
        ("reward:", "rewards:", ":1 reward: is missing"),
        ("age: age\n", "age: age\n  age: age\n", ":7 columns.age: is given twice"),
        ("age: age", "age: [age]", ":6 columns.age: must be a mapping of key: value"),
        ("{A: red, B: green, C: blue}", "{A: red}", ":3 action.values: must lead to at least two actions"),
        ("negative: 0", "negative_event: ignored", ":4 reward.negative_event: must be declined or dismissed"),
        ("columns:", "shuffle: x\ncolumns:", ":5 shuffle: must be a whole number, found x"),
        ("columns:", "separator: ab\ncolumns:", ":5 separator: must be one character"),
        ("columns:", "placement: web\ncolumns:", ":5 placement: web is not in the catalog, which has mail"),
        ("columns:", "x: &a 1\ny: *a\ncolumns:", ":6: aliases (*) are not allowed"),
        ("column: arm", "column: [", ": is not YAML: "),
        ("exchange: 0", "exchange: 1", "catalog.experience.exchange: is 1: write exchange: 0"),
        ("red: {group: g, value: 1", "red: {group: g, value: 2", "catalog.actions: must have one and the same value"),
        ("{topic: t}", "{topic: t, pause: {ignored: 1d}}", "catalog.groups.g: has limits or a pause"),
        ("impressions: reported", "impressions: implicit", "catalog.placements.mail: must have impressions: reported"),
        ("type: number", "type: numbr", ":13:17 features.age.type: "),
        (
            "  values: {A:", "  probabilities: {red: 0.5, green: 0.4, blue: 0.4}\n  values: {A:",
            ":3 action.probabilities: must sum to 1, sum to 1.3",
        ),
        (
            "  values: {A:", "  probabilities: {red: 0.5, pink: 0.5}\n  values: {A:",
            "action.probabilities.pink: is none of the actions",
        ),
    ],
)  # fmt: skip
def test_each_fault_is_told_with_its_place(tmp_path: Path, old: str, new: str, words: str) -> None:
    found = faults_of(write_spec(tmp_path, (old, new)))
    assert any(words in fault for fault in found), found


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be read: No such file"):
        read_spec(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"caf\xe9: 1")
    with pytest.raises(SetupError, match="is not UTF-8"):
        read_spec(tmp_path / "latin.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert "must be a mapping" in faults_of(tmp_path / "empty.yaml")[0]


def test_a_service_that_does_not_fit(tmp_path: Path) -> None:
    spec = read_spec(write_spec(tmp_path))
    assert list(service_faults(spec, spec.catalog)) == []
    assert list(swaying(spec.catalog, spec.probabilities)) == []
    other = parse_catalog(
        CATALOG.replace("age: {type: number, from: context", "age: {type: number")
        .replace("member: {type: boolean, from: context}", "gold: {type: boolean}")
        .replace("blue: {", "cyan: {")
        .replace("exchange: 0", "exchange: 2")
    )
    assert list(service_faults(spec, other)) == [
        "action blue has no treatment for placement mail there",
        "feature age is a number from profile there, a number from context here",
        "feature member is not declared there",
    ]
    assert [field for field, _ in swaying(other, spec.probabilities)] == ["experience.exchange"]
