"""docs/deploy.md and docs/data.md, executed as they are printed there, from top to bottom in an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from ezm_lightning.commands.doctor import check_rendering
from tests.docs.test_extend import BLOCK, run

DOCS = Path(__file__).parents[2] / "docs"


def test_every_block_of_deploy_does_what_it_says(tmp_path: Path) -> None:
    if not check_rendering()[0]:
        pytest.skip("OpenGL does not work here: `ezm doctor` says what to install")
    for language, text in BLOCK.findall((DOCS / "deploy.md").read_text(encoding="utf-8")):
        run(tmp_path, language, text)
    names = {file.name for file in tmp_path.iterdir()}
    assert {"dmc_walker-walk.mp4", "dmc_walker-walk.gif", "mine.agent", "mine.md"} <= names
    assert "| dmc/cartpole-balance |" in (tmp_path / "mine.md").read_text()


def test_every_block_of_data_does_what_it_says(tmp_path: Path) -> None:
    pytest.importorskip("minari", reason="pip install 'ezm-lightning[minari]'")
    for language, text in BLOCK.findall((DOCS / "data.md").read_text(encoding="utf-8")):
        run(tmp_path, language, text)
    assert (tmp_path / "data" / "ezm" / "dmc-cartpole-balance-v0").is_dir()
