"""Cosines of gradients are read as they were measured, averaged over seeds, and drawn a part at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from ezm_lightning.report.contents import make_contents
from ezm_lightning.report.figures import make_figures
from ezm_lightning.report.groups import make_groups
from ezm_lightning.report.runs import read_run
from ezm_lightning.report.similarity import COLUMNS, pairs_of
from tests.report.folders import make_run


def test_pairs_are_averaged_over_seeds_and_drawn(tmp_path: Path) -> None:
    runs = []
    for seed, shift in ((1, 0.0), (2, 0.2)):
        folder = make_run(tmp_path / f"seed{seed}", [(10, 1.0)], seed=seed)
        rows = [f"{step},{step},critic,a,{other},{cosine + shift}" for step in (10, 20) for other, cosine in
                (("b", -0.5), ("c", 0.5))]  # fmt: skip
        text = "\n".join([",".join(COLUMNS), *rows, "20,20,actor,a,b,0.1", "30,30,cri"])
        (folder / "gradient_similarity.csv").write_text(text)
        runs.append(read_run(folder / "eval.csv"))
    contents = make_contents(make_groups({}, runs)[0], [], [])
    data = contents.data[-1]
    assert data.name == "gradient_similarity" and len(data.rows) == 10
    pairs = pairs_of(data, "mine", "critic")
    assert list(pairs) == [("a", "c"), ("a", "b")]
    assert pairs["a", "b"][0].tolist() == [10, 20] and pairs["a", "b"][1].tolist() == pytest.approx([-0.4, -0.4])
    names = [figure.name for figure in make_figures(contents)]
    assert names[-2:] == ["gradients_mine_critic.png", "gradients_mine_actor.png"]
