"""The groups of runs that are compared with each other make as many steps and updates as their comparison says."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig, OmegaConf

from benchmarks import learning
from ezm_lightning import build
from ezm_lightning.config.folder import config_dir
from ezm_lightning.config.overrides import rewrite
from tests.config.test_experiments import composed

GROUPS = learning.groups()


def first_of(group: str) -> DictConfig:
    return composed(*rewrite(next(iter(GROUPS[group].values())), config_dir()))


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_composes(group):
    assert build.num_updates(first_of(group)) > 0


@pytest.mark.parametrize(
    ("group", "of", "share"),
    [
        ("two_tasks", "demo", 1),
        ("one_task", "demo", 1),
        ("one_task_quarter", "demo", 1 / 4),
        ("brc_demo", "demo", 1),
        ("brc_two_tasks", "demo", 1),
        ("brc_one_task", "demo", 1),
        ("brc_one_task_quarter", "demo", 1 / 4),
        ("ten_tasks", "dmc_easy", 1),
        ("ten_alone", "dmc_easy", 1 / 10),
        ("eight_tasks", "dmc_easy", 1),
        ("four_tasks", "dmc_easy", 1),
        ("brc_eight_tasks", "brc", 1),
        ("brc_four_tasks", "brc", 1),
        ("h1_alone", "h1_cpu", 1),
        ("newt_eight", "newt_cpu", 1 / 2),
        ("newt_four", "newt_cpu", 1 / 4),
        ("newt_alone", "newt_cpu", 1 / 16),
    ],
)
def test_a_group_has_its_share_of_the_updates_of_another(group, of, share):
    cfg, other = first_of(group), first_of(of)
    assert build.num_updates(cfg) == pytest.approx(share * build.num_updates(other), abs=1)
    assert cfg.env_steps_per_task == other.env_steps_per_task
    assert cfg.warmup_env_steps == other.warmup_env_steps


def test_the_ablations_are_those_of_the_experiments():
    files = {path.stem: OmegaConf.load(path) for path in (config_dir() / "experiment" / "ablation").glob("*.yaml")}
    assert learning.ablations().keys() == files.keys()
    for name, switches in learning.ablations().items():
        del files[name]["defaults"], files[name]["name"]
        assert OmegaConf.from_dotlist(switches) == files[name]


def test_a_name_that_no_run_has_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["learning", "run", "dmc_easy", "--only", "acrobot"])
    with pytest.raises(SystemExit) as refused:
        learning.main()
    assert refused.value.code == 2
    assert "--only=acrobot: no run of dmc_easy has it in its name" in capsys.readouterr().err
