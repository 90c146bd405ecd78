"""docs/results.md has what `make results` makes of the committed curves, to the letter."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

from ezm_lightning.commands import report

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_its_command_gives(tmp_path: Path, monkeypatch) -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    command = re.search(r"^Made by `ezm report (.+)`\.$", text, re.MULTILINE)
    assert command, "make results"
    shutil.copytree(ROOT / "results", tmp_path / "results")
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "results.md"
    page.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert report.main(shlex.split(command[1])) == 0
    assert page.read_text(encoding="utf-8") == text, "make results"
    made, kept = tmp_path / "results" / "report", ROOT / "results" / "report"
    for file in sorted(kept.glob("*.csv")):
        assert (made / file.name).read_text() == file.read_text(), f"make results: {file.name}"


def test_its_command_is_that_of_make() -> None:
    recipe = re.search(r"^results:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    commands = recipe[1].replace("\\\n", " ").replace("$(BIN)/", "").splitlines()
    (typed,) = [" ".join(command.split()) for command in commands if "page=docs/results.md" in command]
    assert f"Made by `{typed}`." in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
