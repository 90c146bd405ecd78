"""Command lines that once ended in a traceback or in advice that was wrong, and what they say; nothing is written."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from ezm_lightning.commands import cli

SAYS = {
    "eval ckpt_path=last experiment=demo": "eval has no group 'experiment' here; it has tasks",
    "eval ckpt_path=last model=small": "eval has no group 'model' here; it has tasks",
    "eval ckpt_path=last trainer=gpu": "eval has no group 'trainer' here; it has tasks",
    "export ckpt_path=last experiment=demo": "export has no group 'experiment' here",
    "train logger.tensorboard=x": "logger.tensorboard=x is nothing to build",
    "train planner=fast": "planner=fast has no parts: write planner.KEY=...",
    "train replay=big": "replay=big has no parts: write replay.KEY=...",
    "train module=x": "module=x has no parts: write module.KEY=...",
    "train module=null": "module=null has no parts: write module.KEY=...",
    "train planner=null": "planner=null has no parts: write planner.KEY=...",
    "train collect=off": "collect=off has no parts: write collect.KEY=...",
    "train evaluate=off": "evaluate=off has no parts: write evaluate.KEY=...",
    "train checkpoint=never": "checkpoint=never has no parts: write checkpoint.KEY=...",
    "train model=null": "model=null: its choices are ",
    "train trainer=null": "trainer=null: its choices are cpu, ddp, gpu",
    "train +module.loss_coefs.foo=1": "these differ: foo",
    "train --experiment=debug": "unknown flag --experiment=debug; an override has no dashes: experiment=debug",
    "train --tasks=dmc/walker-walk": "an override has no dashes: tasks=dmc/walker-walk",
    "train tasks=dmc/walker-walk,dmc/cheetah-run": "a list is written tasks=[dmc/walker-walk,dmc/cheetah-run]",
    "train tasks=[dmc/walker-walk, dmc/cheetah-run]": "tasks=[dmc/walker-walk, has no end: a list has no spaces",
    "train tasks.value_range=[-9, 9]": "or quotes around it, 'tasks.value_range=[a, b]'",
    "train experiment=demo,debug": "experiment=demo,debug: a run for each value needs --multirun",
    "train device=cuda": "unknown key 'device'; nearest: trainer=gpu, or trainer=cpu",
    "train task=dmc/walker-walk": "unknown key 'task'; nearest: tasks=...",
    "train tasks=walker-walk": "a task is named with its source: dmc/walker-walk",
    "train seed=[1,2]": "seed=[1, 2] must be a whole number",
    "eval runs/demo": "a checkpoint is ckpt_path=runs/demo",
    "eval runs/demo/checkpoints/step=00000003.ckpt": "is ckpt_path=runs/demo/checkpoints/step=00000003.ckpt",
    "tasks cartpole walker": "no task contains 'cartpole' and 'walker'; nearest: dmc/cartpole-",
    "fetch hbb": "no source 'hbb' to fetch; nearest: hb",
}


@pytest.mark.parametrize("line", SAYS)
def test_it_says_so_in_one_line(tmp_path: Path, monkeypatch, capsys, line: str) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)
    small = ["experiment=debug"] * (words[0] == "train" and not any("experiment" in word for word in words))
    assert cli.main([*words, *small]) == 2
    said = capsys.readouterr()
    assert SAYS[line] in said.err and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert said.out == "" and list(tmp_path.iterdir()) == []


def test_the_tasks_of_all_words_are_listed_and_nothing_is_written(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["tasks", "cartpole", "balance"]) == 0
    said = capsys.readouterr()
    names = [line.split()[0] for line in said.out.splitlines()]
    assert names == ["task", "dmc/cartpole-balance", "dmc/cartpole-balance_sparse"]
    assert cli.main(["tasks", "gym/"]) == 0
    assert capsys.readouterr().err == "" and list(tmp_path.iterdir()) == []  # MuJoCo's warnings, MUJOCO_LOG.TXT
