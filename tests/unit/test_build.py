"""The fingerprint of a build: the same for the same code and libraries, another one for any other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from nbx.build import LIBRARIES, Build, current_build, digest_of

BUILD = Build(version="1", code="ab", libraries={"numpy": "2.2", "python": "3.11"})


def test_it_is_the_same_in_every_process() -> None:
    command = [sys.executable, "-c", "from nbx.build import current_build; print(current_build().fingerprint)"]
    other = subprocess.run(command, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == current_build().fingerprint
    assert len(current_build().fingerprint) == 16


def test_it_has_what_bits_depend_on() -> None:
    build = current_build()
    assert {*LIBRARIES, "python", "cpu"} == build.libraries.keys()
    assert "none" not in build.libraries.values()


def test_order_does_not_matter_and_any_part_does() -> None:
    other = structs.replace(BUILD, libraries=dict(reversed(BUILD.libraries.items())))
    assert other.fingerprint == BUILD.fingerprint
    changed = [
        structs.replace(BUILD, version="2"),
        structs.replace(BUILD, code="ac"),
        structs.replace(BUILD, libraries={**BUILD.libraries, "numpy": "2.3"}),
        structs.replace(BUILD, libraries={**BUILD.libraries, "river": "1"}),
    ]
    assert len({each.fingerprint for each in (BUILD, *changed)}) == 5
    kinds = ["code_changed", "code_changed", "library_changed", "library_changed"]
    assert [BUILD.changed_to(each) for each in changed] == kinds
    assert BUILD.changed_to(other) == ""
    assert BUILD.changes_to(changed[3]) == ("river none → 1",)
    assert BUILD.changes_to(changed[1]) == ("nbx 1 (ab) → 1 (ac)",)
    assert BUILD.changes_to(other) == ()


@pytest.mark.parametrize("change", ["content", "name", "script", "more", "page"])
def test_every_source_file_counts_and_nothing_else(tmp_path: Path, change: str) -> None:
    (tmp_path / "inner").mkdir()
    files = {"a.py": "one", "inner/b.py": "two", "c.lua": "three", "inner/page.html": "four"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    before = digest_of(tmp_path)
    assert digest_of(tmp_path) == before
    match change:
        case "content":
            (tmp_path / "inner/b.py").write_text("twp")
        case "name":
            (tmp_path / "a.py").rename(tmp_path / "d.py")
        case "script":
            (tmp_path / "c.lua").write_text("")
        case "more":
            (tmp_path / "empty.py").write_text("")
        case _:
            (tmp_path / "inner/page.html").write_text("five")
    assert (digest_of(tmp_path) == before) == (change == "page")
