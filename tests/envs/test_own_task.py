"""The recipe of docs/extend.md for a task of your own, executed as it is printed there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
HEADING = "## A task of your own"
FENCE = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def recipe():
    """(the text of the section, {language: its code})."""
    text = PAGE.read_text(encoding="utf-8")
    assert HEADING in text, f"docs/extend.md has no section {HEADING!r}"
    section = text.split(HEADING)[1].split("\n## ")[0]
    blocks = dict(FENCE.findall(section))
    assert set(blocks) == {"python", "bash"}, "the section has one python and one bash block"
    return section, blocks


def test_the_recipe_trains_and_evaluates(recipe, tmp_path):
    section, blocks = recipe
    name = re.search(r"`(\w+\.py)`", section).group(1)
    (tmp_path / name).write_text(blocks["python"], encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", blocks["bash"]],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    task = re.search(r"tasks=\[([^\],]+)", blocks["bash"]).group(1)
    assert f"{task} " in done.stdout.split("checkpoint ")[-1]  # the table of ezm eval
    assert list(tmp_path.glob("runs/debug/*/checkpoints/*.ckpt"))


def test_what_the_page_of_own_tasks_types_is_found_in_this_folder(recipe):
    """The console script does not look for modules in the folder that it is started in."""
    page = (PAGE.parent / "own-task.md").read_text(encoding="utf-8")
    typed = re.findall(r"`([^`]*tasks=\[my_tasks/reach\])`", page)
    assert typed[0] in recipe[1]["bash"] and all(command.startswith("PYTHONPATH=. ezm train ") for command in typed)
    assert len(typed) == page.count("tasks=[my_tasks/reach]")
