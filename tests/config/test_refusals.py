"""Command lines that once ended in a traceback or in advice that was wrong, and what they say; nothing is written."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ezm_lightning import build
from ezm_lightning.commands import cli
from ezm_lightning.config.folder import config_dir
from ezm_lightning.config.overrides import rewrite

SAYS = {
    "eval ckpt_path=last experiment=demo": "eval has no group 'experiment' here; it has tasks",
    "eval ckpt_path=last model=small": "eval has no group 'model' here; it has tasks",
    "eval ckpt_path=last trainer=gpu": "eval has no group 'trainer' here; it has tasks",
    "eval ckpt_path=last agent=ezm experiment=demo": "eval has no group 'agent' here; it has tasks",
    "eval ckpt_path=last tasks=cartpole +tasks.foo=1": "unknown key 'tasks.foo'",
    "export ckpt_path=last experiment=demo": "export has no group 'experiment' here",
    "play walker experiment=demo": "play has no group 'experiment' here; it has none",
    "transfer ckpt_path=last experiment=demo": "transfer has no group 'experiment' here; it has tasks",
    "demos record experiment=demo": "demos_record has no group 'experiment' here; it has tasks",
    "dataset export run=x experiment=demo": "dataset_export has no group 'experiment' here; it has tasks",
    "train experiment=dmc_cpu agent=brc": "experiment=dmc_cpu is of agent=ezm and has keys that agent=brc lacks; "
    "nearest: experiment=brc_cpu",
    "train experiment=debug agent=brc": "nearest: experiment=brc_cpu",
    "train experiment=brc_cpu agent=ezm": "experiment=brc_cpu is of agent=brc and has keys that agent=ezm lacks",
    "train experiment=brc_cpu temperature=tuned": "train with agent=brc has no group 'temperature' here; it has",
    "train experiment=brc_cpu +value_mix=age": "train with agent=brc has no group 'value_mix' here; it has",
    "train experiment=brc_cpu td_steps=5": "module.td_steps=5 must be 1",
    "train experiment=brc_cpu unroll_steps=5": "module.unroll_steps=5 must be 1",
    "train experiment=brc_cpu model=small": "model=small does not fit agent=brc; nearest: model=brc_512",
    "train model=brc_256": "model=brc_256 does not fit agent=ezm; nearest: model=small",
    "train experiment=debug +experiment=demo": "experiment is chosen already: write experiment=... without a '+'",
    "train +agent.foo=1": "agent is a group, which has no keys here: it is chosen by agent=...",
    "train +experiment.foo=1": "no keys here: it is chosen by experiment=...",
    "train experiment=debug ~torch_threads": "~torch_threads: torch_threads is read and cannot be left out; write tor",
    "train experiment=debug ~demos.share": "demos.share is read and cannot be left out; write demos.share=...",
    "train experiment=debug ~replay.window": "replay.window is null already; leave out ~replay.window",
    "train -m seed=1,2 hydra.run.dir=foo": "those of a sweep are below hydra.sweep.dir=...",
    "train hydra.sweep.dir=foo": "hydra.sweep.dir=foo is of a sweep: add --multirun",
    "eval -m ckpt_path=a,b": "ezm eval makes no runs to sweep over: leave out --multirun",
    "demos record -m policy=scripted tasks=[dmc/cartpole-swingup] out=a,b": "ezm demos record makes no runs to sweep",
    "eval ckpt_path=last tasks=cartpole tasks.action_repeat=7": "tasks.action_repeat=7 is read by ezm train alone",
    "eval ckpt_path=last tasks=cartpole tasks.value_range=[-5,5]": "value_range=[-5,5] is read by ezm train alone",
    "transfer ckpt_path=last tasks=cartpole tasks.reward_range=[-5,5]": "is read by ezm train alone",
    "demos record policy=scripted tasks=[dmc/cartpole-swingup] tasks.action_repeat=4 out=x": "; write action_repeat=4",
    "train +hydra.foo=1": "unknown key 'hydra.foo'; nearest: hydra.",
    "train +hydra.job.chdri=true": "unknown key 'hydra.job.chdri'; nearest: hydra.job.chdir",
    "train +value_mix.foo=1": "unknown key 'value_mix.foo': ezm_lightning.value_mix.TDShare does not take it",
    "train +callbacks.priorities.foo=1": "unknown key 'callbacks.priorities.foo'",
    "train +model.log_std_bound.mid=3": "unknown key 'model.log_std_bound.mid'",
    "train +module.optimizer.foo=1": "unknown key 'module.optimizer.foo': torch.optim.Adam does not take it",
    "train +pretrain.loss_coefs.foo=1": "unknown key 'pretrain.loss_coefs.foo'",
    "train +callbacks.x._target_=torch.nn.Linear": "callbacks.x._target_=torch.nn.Linear is no lightning.Callback",
    "train +trainer.callbacks=[x]": "trainer.callbacks: a callback has a name: +callbacks.NAME={_target_: ...}",
    "train callbacks.collect=null": "callbacks.collect=null: without it no simulator is stepped",
    "train callbacks.target=null": "callbacks.target=null: without it no target network moves",
    "train callbacks.stop=null": "the run has no callback Stop, which its Checkpoint needs",
    "train callbacks.run_state=null": "the run has no callback RunState, which its Checkpoint needs",
    "train callbacks.evaluate=null checkpoint.monitor=eval/mean": "no callback Evaluate, which its Checkpoint needs",
    "train value_mix=variance model.num_value_heads=1": "compares value heads, model.num_value_heads=1; nearest: 2",
    "train module.trained=[]": "module.trained=[] leaves nothing to learn; nearest: [task_embedding]",
    "train module.trained=[obs_norm]": "module.trained=['obs_norm'] leaves nothing to learn",
    "train temperature=tuned temperature.target_entropy=0.7": "must be a number of at most 0.69; nearest: 0.69",
    "train logger.tensorboard=x": "logger.tensorboard=x is nothing to build",
    "train value_range=[-5,5] tasks=dmc_dogs": "a range of their own; write tasks.value_range=[-5,5]",
    "train experiment=brc_cpu value_range=[-5,5]": "ezm_lightning.brc.BRC has no use for it; leave it out",
    "train -m experiment=glob(dmc*)": "experiment=glob(dmc*) cannot be expanded; write the choices: experiment=a,b",
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
    "train --experiment debug": "unknown flag --experiment; an override has no dashes: experiment=debug",
    "train --seed 2 experiment=debug": "unknown flag --seed; an override has no dashes: seed=2",
    "train learning_rate=1e-3": "unknown key 'learning_rate'; nearest: module.optimizer.lr=...",
    "train num_simulations=8": "unknown key 'num_simulations'; nearest: planner.num_simulations",
    "train gamma=0.9": "unknown key 'gamma'; nearest: discount=...",
    "train tasks=cartpole,demo": "tasks=cartpole,demo: a run for each value needs --multirun",
    "play": "ezm play AGENT: no agent is named; with the package come cartpole, walker",
    "dataset": "ezm dataset is followed by one of export, import",
    "demos": "ezm demos is followed by one of record, import, info",
    "train --experiment=debug": "unknown flag --experiment=debug; an override has no dashes: experiment=debug",
    "train --tasks=dmc/walker-walk": "an override has no dashes: tasks=dmc/walker-walk",
    "train tasks=dmc/walker-walk,dmc/cheetah-run": "a list is written tasks=[dmc/walker-walk,dmc/cheetah-run]",
    "train tasks=[dmc/walker-walk, dmc/cheetah-run]": "tasks=[dmc/walker-walk, has no end: a list has no spaces",
    "train tasks.value_range=[-9, 9]": "or quotes around it, 'tasks.value_range=[a, b]'",
    "train experiment=demo,debug": "experiment=demo,debug: a run for each value needs --multirun",
    "train logger=true": "logger=true: its choices are csv, default, mlflow, none, tensorboard, wandb",
    "train model=false": "model=false: its choices are ",
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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"# @package _global_\nname: mine\n\tseed: 2\n", "mine.yaml"),
        (b"# @package _global_\nname mine\nseed: 2\n", "mine.yaml"),
        (b"# @package _global_\nseed: 1\nseed: 2\n", "mine.yaml"),
        (b"# @package _global_\nname: caf\xe9\n", "mine.yaml: 'utf-8' codec can't decode byte 0xe9"),
        (b"name: mine\n", "the first line of experiment/mine.yaml is '# @package _global_'"),
    ],
    ids=["tab", "colon", "twice", "latin-1", "package"],
)
def test_a_mistake_in_a_file_of_the_users_is_one_line(tmp_path: Path, monkeypatch, capsys, text, says) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_bytes(text)
    assert cli.main(["train", f"--config-dir={tmp_path / 'conf'}", "experiment=mine"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and says in said and said.count("\n") == 1


def test_what_is_refused_is_refused_before_a_simulator_is_built(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "make_env", lambda cfg: pytest.fail("a simulator was built"))
    for wrong in ("+module.loss_coefs.foo=1", "module.seed=word", "planner.num_policy_candidates=99"):
        assert cli.main(["train", "experiment=debug", wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("train experiment=demo --cfg job", 0),
        ("train experiment=dbug", 2),
        ("train experiment=debug batch_sise=3", 2),
        ("train experiment=debug batch_size=0", 2),
        ("train tasks=dmc/walker-wlak", 2),
        ("train experiment=dmc_cpu agent=brc", 2),
    ],
)
def test_it_is_said_before_torch_is_imported(tmp_path: Path, line: str, status: int) -> None:
    """Importing torch, a simulator or Lightning takes seconds."""
    heavy = ("torch", "lightning", "torchrl", "mujoco", "dm_control", "gymnasium")
    code = (
        "import sys; from ezm_lightning.commands import cli; status = cli.main(sys.argv[1:]);"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *line.split()], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status and done.stderr.splitlines()[-1] == "[]", done.stderr


def test_the_tasks_of_all_words_are_listed_and_nothing_is_written(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["tasks", "cartpole", "balance"]) == 0
    said = capsys.readouterr()
    names = [line.split()[0] for line in said.out.splitlines()]
    assert names == ["task", "dmc/cartpole-balance", "dmc/cartpole-balance_sparse"]
    assert cli.main(["tasks", "gym/"]) == 0
    assert capsys.readouterr().err == "" and list(tmp_path.iterdir()) == []  # MuJoCo's warnings, MUJOCO_LOG.TXT


@pytest.mark.parametrize("nothing", ["null", "false", "False", "[]", "{}"])
def test_no_loggers_are_written_in_any_of_lightnings_ways(nothing: str) -> None:
    assert rewrite([f"logger={nothing}"], config_dir()) == ["logger=none"]
