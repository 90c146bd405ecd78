"""The reference searches, in both forms; and the command that checks a folder of them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.golden.search import CHECKS, check, float32_ties, load_case, main

FOLDER = Path(__file__).parents[1] / "golden" / "searches"
FILES = sorted(FOLDER.glob("*.npz"))


def test_the_files_are_all_there():
    assert len(FILES) == 18


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_rule_agrees(path):
    case = load_case(path)
    assert {name: int(check(case, name).sum()) for name in CHECKS} == dict.fromkeys(CHECKS, 0)
    assert not float32_ties(case).any()


def test_the_command_counts_and_succeeds(tmp_path, capsys):
    shutil.copy(FILES[0], tmp_path)
    assert main([str(tmp_path)]) == 0
    assert "1 files, 16 roots, 80 searches, 0 disagreements" in capsys.readouterr().out


@pytest.mark.parametrize("field", ["round_search_value", "prior_rule_best", "live_qvalues", "round_visit_counts"])
def test_the_command_sees_one_changed_number(tmp_path, capsys, field):
    arrays = dict(np.load(FILES[0]))
    arrays[field] = arrays[field].copy()
    arrays[field].flat[0] += 1 if arrays[field].dtype.kind == "i" or "visit" in field else 1e-6
    np.savez(tmp_path / "changed.npz", **arrays)
    assert main([str(tmp_path)]) == 1
    assert "1 of 16 differ" in capsys.readouterr().out


def test_the_command_refuses_what_it_cannot_check(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "no such directory" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 1
    assert "holds no *.npz file" in capsys.readouterr().err
    np.savez(tmp_path / "other.npz", gumbel=np.zeros(3))
    assert main([str(tmp_path)]) == 1
    assert "lacks toy_ws" in capsys.readouterr().err
    (tmp_path / "other.npz").write_bytes(b"no archive")
    assert main([str(tmp_path)]) == 1
    assert "not a readable .npz" in capsys.readouterr().err
