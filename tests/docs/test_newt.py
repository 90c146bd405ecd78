"""docs/newt.md, executed as it is printed there, from top to bottom in one empty folder."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.conftest import skip_without_simulators
from tests.docs.test_extend import BLOCK, run, sections

PAGE = Path(__file__).parents[2] / "docs" / "newt.md"
SECTIONS = sections(PAGE)
NEEDS = {"experiment=newt_cpu": ("mw/", "gym/LunarLander", "gym/BipedalWalker")}


def bash(heading: str) -> list[str]:
    return [text for language, text in BLOCK.findall(SECTIONS[heading]) if language == "bash"]


def test_the_suite_trains(tmp_path: Path) -> None:
    for words, tasks in NEEDS.items():
        skip_without_simulators(tasks)
        run(tmp_path, "bash", next(text for text in bash("Many unlike tasks") if words in text))


def test_statistics_of_each_task(tmp_path: Path) -> None:
    run(tmp_path, "bash", next(text for text in bash("Many unlike tasks") if "own_statistics" in text))


def test_open_loops_and_transfer(tmp_path: Path) -> None:
    for text in bash("Open loops"):
        run(tmp_path, "bash", text)
    rows = list(csv.DictReader((tmp_path / "drift.csv").open()))
    assert {row["interval"] for row in rows} == {"4", "16"} and len(rows) == 4 * (4 + 16)
    for text in bash("Transfer"):  # of the agent that the section before has trained
        run(tmp_path, "bash", text)
    curves = list(csv.DictReader((tmp_path / "runs/debug_transfer/transfer_seed1.csv").open()))
    assert {row["train"] for row in curves} == {"embedding", "all", "scratch"}


def test_demonstrations(tmp_path: Path) -> None:
    pytest.importorskip("minari", reason="pip install 'ezm-lightning[minari]'")
    for text in bash("Demonstrations"):
        run(tmp_path, "bash", text)
    (stage,) = tmp_path.glob("runs/demos_cpu/*/pretrain/checkpoints/step=00000005.ckpt")
    assert (stage.parents[2] / "checkpoints").is_dir()


def test_language(tmp_path: Path) -> None:
    (file,) = (text for language, text in BLOCK.findall(SECTIONS["Language"]) if language == "yaml")
    (tmp_path / file.split()[1]).write_text(file, encoding="utf-8")
    for text in bash("Language"):
        run(tmp_path, "bash", text)


def test_every_block_is_run_by_a_test() -> None:
    assert set(SECTIONS) == {"Many unlike tasks", "Open loops", "Demonstrations", "Transfer", "Language"}
    assert len(bash("Many unlike tasks")) == 2


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_section_has_a_command(heading: str) -> None:
    assert bash(heading)
