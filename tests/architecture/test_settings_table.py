"""docs/settings.md holds the table that the settings themselves give."""

from pathlib import Path

import msgspec

from nbx.settings import Settings, settings_table

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_page_holds_exactly_the_generated_table() -> None:
    lines = PAGE.read_text("utf-8").splitlines(keepends=True)
    assert "".join(line for line in lines if line.startswith("|")) == settings_table()


def test_every_setting_has_a_row_with_a_meaning() -> None:
    rows = [line.split(" | ") for line in settings_table().splitlines()[2:]]
    assert [row[1].strip("`") for row in rows] == [field.name for field in msgspec.structs.fields(Settings)]
    assert all(len(row[-1]) > 20 for row in rows)
