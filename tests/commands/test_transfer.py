"""``ezm transfer``: what is trained, what stays, the table, and every wrong command in one line."""

import csv
import os
import shutil
import tempfile

import pytest
import torch
from omegaconf import OmegaConf

from ezm_lightning.agent import load
from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.folder import weights_file
from ezm_lightning.checkpoints.runs import newest_checkpoint, recorded_starts
from ezm_lightning.commands import eval as ezm_eval
from ezm_lightning.commands import train, transfer
from ezm_lightning.envs import sources
from ezm_lightning.evaluation.episodes import evaluation_seed
from ezm_lightning.report.groups import make_groups
from ezm_lightning.report.runs import read_run
from tests.commands.test_eval import Edge, Pair, Point

EMBEDDED = "runs/new/embedding/seed1"
BUDGET = ["transfer.env_steps_per_task=500", "transfer.warmup_env_steps=100", "transfer.interval=200"]


class Wide(Point):
    """More observations than the agent has seen."""

    obs_dim = 7


class Arms(Point):
    """More actions than the agent has."""

    action_dim = 3


class Away(Point):
    """Changes the working folder."""

    def __init__(self):
        os.chdir(tempfile.mkdtemp())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of ``experiment=debug`` on two short tasks, in a folder ``runs/debug/seed1``."""
    tasks = {"point": Point, "edge": Edge, "pair": Pair, "wide": Wide, "arms": Arms, "away": Away}
    sources.register_source("moved", tasks)
    folder = tmp_path_factory.mktemp("source") / "runs" / "debug" / "seed1"
    line = ["experiment=debug", "tasks=[moved/edge,moved/pair]", "env_steps_per_task=150", "warmup_env_steps=100"]
    line += ["callbacks=gradient_similarity", "discount={moved/edge: 0.98, others: 0.99}"]  # of two tasks and of one
    line += ["checkpoint.monitor=eval/return/moved/edge"]
    try:
        assert train.main([*line, f"hydra.run.dir={folder}"]) == 0
        yield folder
    finally:
        del sources.SOURCES["moved"]


def test_one_command_makes_runs_and_one_table(run, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    line = [
        f"ckpt_path={run}",
        "tasks=[moved/wide]",
        "transfer.train=[embedding,scratch]",
        "transfer.name=new",
        *BUDGET,
    ]
    assert transfer.main(line) == 0
    out = capsys.readouterr().out
    source = load(newest_checkpoint(run)).module.model
    assert f"transfer embedding: {source.task_embedding.weight.shape[1]} parameters of the model are trained" in out
    assert "floor" in out and "/ scratch" in out

    trained = load(newest_checkpoint(tmp_path / "runs/new/embedding/seed1"))
    assert trained.cfg.discount == {"others": 0.99} and "gradient_similarity" not in trained.cfg.callbacks
    (row,) = ezm_eval.evaluate(trained, trained.tasks, episodes=5, seed=evaluation_seed(trained.cfg.seed))
    assert transfer.floors(trained.cfg) == {"moved/wide": max(row.random, row.zero)}  # those of ezm eval
    assert trained.cfg.transfer.tasks == ["moved/edge", "moved/pair"] and trained.cfg.transfer.train == "embedding"
    old, new = source.state_dict(), trained.module.model.state_dict()
    same = set(new) - {
        "task_embedding.weight",
        "representation.0.weight",
        *(f"obs_norm.{x}" for x in ("mean", "var", "count")),
    }
    assert all(torch.equal(new[name], old[name]) for name in same)
    width = old["obs_norm.mean"].shape[0]
    assert torch.equal(new["obs_norm.mean"][:width], old["obs_norm.mean"])
    assert torch.equal(new["representation.0.weight"][:, :width], old["representation.0.weight"][:, :width])
    assert not new["representation.0.weight"][:, width : width + 2].any()
    row = transfer.first_rows(load(newest_checkpoint(run)), "mean", ["moved/wide"])
    assert not torch.equal(new["task_embedding.weight"], row)

    curves = list(csv.DictReader((tmp_path / "runs/new/transfer_seed1.csv").open()))
    assert [row["env_steps"] for row in curves if row["train"] == "scratch"][:1] == ["100"]
    assert {row["train"] for row in curves} == {"embedding", "scratch"} and len(curves) >= 6

    assert transfer.main(line) == 0  # the same command again trains nothing
    again = capsys.readouterr().out
    assert again.count("has spent env_steps_per_task=500 already") == 2
    assert again.splitlines()[-3:] == out.splitlines()[-3:]
    assert transfer.main([text.replace("moved/wide", "moved/point") for text in line]) == 2
    assert "runs/new/embedding/seed1 holds another transfer (new tasks differ)" in capsys.readouterr().err
    assert ezm_eval.main(["ckpt_path=runs/new/embedding/seed1", "eval.episodes=1"]) == 0
    assert "moved/wide" in capsys.readouterr().out
    assert all(start["command"].startswith("ezm transfer ") for start in recorded_starts(tmp_path / EMBEDDED))
    groups, _ = make_groups({}, [read_run(tmp_path / arm / "eval.csv") for arm in (EMBEDDED, "runs/new/scratch/seed1")])
    assert [group.name.partition(" ")[0] for group in groups] == ["new:", "new:"]  # by what they learn


def test_runs_of_an_environment_that_changes_the_working_folder(run, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    line = [f"ckpt_path={os.path.relpath(run)}", "tasks=[moved/away]", "transfer.train=[scratch]", "transfer.name=far"]
    for _ in range(2):
        assert transfer.main([*line, *BUDGET]) == 0
    said = capsys.readouterr().out
    assert said.count("has spent env_steps_per_task=500 already") == 1  # the same command again trains nothing
    assert said.splitlines()[-1] == "curves runs/far/transfer_seed1.csv"
    files = {file.name for file in (tmp_path / "runs" / "far").rglob("*")}
    assert {"transfer_seed1.csv", "eval.csv", "manifest.json"} <= files


REFUSED = [
    ("tasks=[moved/point] transfer.train=[heds]", "transfer.train=heds is nothing to train; nearest: heads"),
    (
        "tasks=[moved/point] transfer.train=[]",
        "transfer.train=[] trains nothing; choices: embedding, heads, all, scratch",
    ),
    ("tasks=[moved/point] transfer.init=moved/edg", "transfer.init=moved/edg; nearest: moved/edge"),
    ("", "ezm transfer needs new tasks: tasks=["),
    ("tasks=[moved/edge]", "has learned moved/edge already"),
    ("tasks=[moved/arms]", "moved/arms has 3 action dimensions, the model of"),
    ("tasks=[moved/arms]", "train it with model.least_action_dim=3"),
    ("tasks=[moved/piont]", "unknown task moved/piont; nearest: "),
    ("tasks=[moved/point] transfer.env_steps_per_task=0", "transfer.env_steps_per_task=0 must be a whole number"),
    (
        "tasks=[moved/point] transfer.env_steps_per_task=50",
        "error: transfer.env_steps_per_task=50 leaves no update after transfer.warmup_env_steps=100 with env_steps",
    ),
    ("tasks=[moved/point] transfer.iint=mean", "unknown key 'transfer.iint'; nearest: transfer.init"),
]


@pytest.mark.parametrize(("line", "words"), REFUSED, ids=[f"{line} {words[:12]}" for line, words in REFUSED])
def test_a_wrong_transfer_is_refused_in_one_line(run, tmp_path, monkeypatch, capsys, line, words) -> None:
    monkeypatch.chdir(tmp_path)
    assert transfer.main([f"ckpt_path={run}", *line.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert words in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_apart_from_its_run(run, tmp_path, monkeypatch, capsys) -> None:
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(weights_file(newest_checkpoint(run)).read_bytes())
    monkeypatch.chdir(tmp_path)
    assert transfer.main([f"ckpt_path={alone}", "tasks=[moved/point]"]) == 2
    assert "is apart from its run's folder" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["evaluate", "callbacks.evaluate"])
def test_a_transfer_evaluates_also_if_its_source_did_not(run, tmp_path, key) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    written = OmegaConf.load(copy / "hydra" / "config.yaml")
    OmegaConf.update(written, key, None)
    OmegaConf.save(written, copy / "hydra" / "config.yaml")
    saved = OmegaConf.create(read_checkpoint(newest_checkpoint(run))["hyper_parameters"])
    for name in {key, "callbacks.evaluate"}:
        OmegaConf.update(saved, name, None)
    cfg = transfer.source_config(str(newest_checkpoint(copy)), {"hyper_parameters": OmegaConf.to_container(saved)})
    assert cfg.callbacks.evaluate == cfg.evaluate and cfg.evaluate._target_.endswith(".Evaluate")


def test_the_area_is_the_mean_of_the_curve() -> None:
    rows = [{"env_steps": steps, "return": value} for steps, value in ((0, 0), (10, 10), (30, 10))]
    outcome = transfer.Outcome("a/b", "all", 1, rows)
    assert (outcome.zero_shot, outcome.final) == (0, 10)
    assert outcome.area == pytest.approx((50 + 200) / 30)
