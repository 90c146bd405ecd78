"""ezm transfer ckpt_path=FILE tasks=[...]: what a trained agent is worth for tasks that it has not seen.

Trains runs on the new tasks that start from the agent's weights, and one from new weights, and prints one table:
  ezm transfer ckpt_path=last name=demo tasks=[dmc/cartpole-three_poles]
  ezm transfer ckpt_path=FILE tasks=mine --config-dir=my_conf transfer.train=[all,scratch]
  ezm transfer ckpt_path=FILE tasks=[dmc/cartpole-three_poles] transfer.env_steps_per_task=25_000
  ezm transfer ckpt_path=FILE tasks=[dmc/cartpole-three_poles] transfer.init=dmc/cartpole-swingup

transfer.train lists what learns, a run each. embedding: the new tasks' vectors alone. heads: these, the trunk and the
heads of reward, value and policy. all: everything. scratch: everything, from new weights, to compare with.

Each run has a folder runs/<transfer.name>/<what learns>/seed<seed>, with its curve (eval.csv), checkpoints and config.
The curves of all are in runs/<transfer.name>/transfer_seed<seed>.csv. The same command resumes a run that was stopped.
"""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ezm_lightning import build
from ezm_lightning.agent import Agent, load
from ezm_lightning.callbacks.gradient_similarity import GradientSimilarity
from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.folder import checksum, weights_file
from ezm_lightning.checkpoints.old_names import with_new_losses
from ezm_lightning.checkpoints.runs import newest_checkpoint
from ezm_lightning.checkpoints.text_file import csv_text, replace_text
from ezm_lightning.commands import train
from ezm_lightning.commands.printing import table
from ezm_lightning.config.folder import config_dir
from ezm_lightning.config.launch import hydra_main
from ezm_lightning.config.per_task import PER_TASK, check_new_tasks, kept
from ezm_lightning.config.signatures import check_targets
from ezm_lightning.envs.sources import configure, resolve_tasks
from ezm_lightning.errors import nearest
from ezm_lightning.evaluation.episodes import evaluation_seed, floor_actors, play
from ezm_lightning.language.encoders import encoder_kind
from ezm_lightning.language.instructions import instructions_of
from ezm_lightning.model import WorldModel
from ezm_lightning.model.task_embedding import Id, Text
from ezm_lightning.model.transplant import mean_row, transplanted

HEADS = ["task_embedding", "trunk", "reward_head", "value_heads", "policy_head"]
TRAINED = {"embedding": ["task_embedding"], "heads": HEADS, "all": None, "scratch": None}
COLUMNS = ("task", "train", "env_steps", "update", "return", "return_std", "success")


@dataclass(frozen=True)
class Outcome:
    """The curve of a run on one new task, from before the first update to the end."""

    task: str
    arm: str
    parameters: int  # the number of trained parameters of the model
    rows: Sequence[Mapping[str, Any]]  # of eval.csv

    @property
    def zero_shot(self) -> float:
        return float(self.rows[0]["return"])

    @property
    def final(self) -> float:
        return float(self.rows[-1]["return"])

    @property
    def area(self) -> float:
        """The mean of the curve over simulator steps, by trapezoids."""
        steps = torch.tensor([float(row["env_steps"]) for row in self.rows])
        returns = torch.tensor([float(row["return"]) for row in self.rows])
        span = float(steps[-1] - steps[0])
        return float(torch.trapezoid(returns, steps)) / span if span else self.final


def check_wanted(wanted: DictConfig) -> list[str]:
    """The arms of a config. Raises ValueError for an unknown one, with the nearest."""
    arms = [str(arm) for arm in (wanted.train if OmegaConf.is_list(wanted.train) else [wanted.train])]
    for arm in arms:
        if arm not in TRAINED:
            raise ValueError(
                f"transfer.train={arm} is nothing to train; nearest: {nearest(arm, TRAINED, 1)} "
                f"(choices: {', '.join(TRAINED)})"
            )
    if not arms:
        raise ValueError(f"transfer.train=[] trains nothing; choices: {', '.join(TRAINED)}")
    return list(dict.fromkeys(arms))


def check_tasks(agent: Agent, names: Sequence[str] | None, path: str) -> list[str]:
    """The new tasks. Raises ValueError for none, for one that the agent knows and for an action that is too wide."""
    if not names:
        raise ValueError("ezm transfer needs new tasks: tasks=[dmc/cartpole-three_poles], as ezm tasks lists them")
    if not isinstance(getattr(agent.module, "model", None), WorldModel):
        raise ValueError(f"{path} holds a {type(agent.module).__name__}; ezm transfer knows agents with a world model")
    known = [name for name in names if name in agent.tasks]
    if known:
        raise ValueError(f"{path} has learned {', '.join(known)} already; name tasks that are new to it")
    room = cast(Tensor, agent.module.model.action_mask).shape[1]
    check_new_tasks(agent.cfg, names)
    for spec in resolve_tasks(list(names)):
        if spec.action_dim > room:
            raise ValueError(
                f"{spec.name} has {spec.action_dim} action dimensions, the model of {path} has room for {room}, and "
                f"wider actions would change what it computes; train it with model.least_action_dim={spec.action_dim}"
            )
    return list(names)


def default_init(agent: Agent) -> str:
    """'text' if the agent knows tasks by their instructions, else 'mean'."""
    return "text" if isinstance(cast(Any, agent.module.model).task_embedding, Text) else "mean"


def first_rows(agent: Agent, init: str, tasks: Sequence[str], instructions: str | None = None) -> Tensor:
    """First embeddings [T, E] of the new tasks. Raises ValueError for an unknown ``init``, with the nearest."""
    model = cast(WorldModel, agent.module.model)
    old, reads = model.embed(torch.arange(model.num_tasks)), isinstance(model.task_embedding, Text)
    if init == "text" and not reads:
        raise ValueError("transfer.init=text: the checkpoint knows its tasks by their index alone; nearest: mean")
    if init in ("text", "nearest") and reads:
        z = centred_texts(agent, instructions_of(tasks, instructions, "transfer.instructions"))
        if init == "text":
            return cast(Text, model.task_embedding).vector(z)
        return old[(z @ cast(Text, model.task_embedding).z.t()).argmax(1)]
    if init == "mean":
        return mean_row(old).expand(len(tasks), -1)
    if init not in agent.tasks:
        choices = [*(["text", "nearest"] if reads else []), "mean", *agent.tasks]
        raise ValueError(f"transfer.init={init}; nearest: {nearest(init, choices, 1)} (choices: {', '.join(choices)})")
    return old[agent.tasks.index(init)].expand(len(tasks), -1)


def centred_texts(agent: Agent, texts: Sequence[str]) -> Tensor:
    """z [T, L] of instructions, by the encoder that the agent was trained with."""
    encode = encoder_kind(str(agent.cfg.texts.encoder)).make()
    return cast(Text, agent.module.model.task_embedding).centred(encode(texts))


def source_config(path: str, content: Mapping[str, Any]) -> DictConfig:
    """The config of a checkpoint's run as it was written, with its references; with evaluations if it had none.
    Raises ValueError if its file is missing or is of another run."""
    file = Path(path).resolve().parent.parent / "hydra" / "config.yaml"
    if not file.is_file():
        raise ValueError(
            f"{path} is apart from its run's folder: ezm transfer needs {file}, as ezm train has written it"
        )
    written = OmegaConf.to_container(OmegaConf.load(file))
    cfg = cast(DictConfig, OmegaConf.create(with_new_losses(written)))
    saved = {key: value for key, value in content["hyper_parameters"].items() if key not in ("texts", "task_notes")}
    cfg.run_dir, cfg.ckpt_path = saved["run_dir"], saved["ckpt_path"]
    if OmegaConf.to_container(cfg, resolve=True) != OmegaConf.to_container(OmegaConf.create(dict(saved))):
        raise ValueError(f"{file} is not the config that {path} was trained with")
    if cfg.evaluate is None:  # the outcome of a transfer is its curve
        cfg.evaluate = OmegaConf.load(config_dir() / "train.yaml").evaluate
    if cfg.callbacks.get("evaluate") is None:
        cfg.callbacks.evaluate = "${evaluate}"
    return cfg


def arm_config(
    source: DictConfig, agent: Agent, arm: str, tasks: Sequence[str], init: str, cfg: DictConfig, runs: Path
) -> DictConfig:
    """The config of an ordinary run on the new tasks, in the folder ``runs`` of the transfer; supports, action repeat
    and widths stay those of the source."""
    arm_cfg, wanted, model = source.copy(), cfg.transfer, cast(WorldModel, agent.module.model)
    arm_cfg.tasks.names = list(tasks)
    for key in PER_TASK:
        setting = OmegaConf.select(arm_cfg, key)
        if isinstance(setting, DictConfig):  # one number may be a reference, which stays one
            OmegaConf.update(arm_cfg, key, kept(setting, tasks), merge=False)
    if len(tasks) == 1:  # no two tasks to compare
        compares = f".{GradientSimilarity.__name__}"
        for name in [name for name, node in arm_cfg.callbacks.items() if node and node._target_.endswith(compares)]:
            del arm_cfg.callbacks[name]
    arm_cfg.name, arm_cfg.seed, arm_cfg.ckpt_path = str(wanted.name), wanted.seed, None
    arm_cfg.run_dir = str(runs / arm / f"seed{wanted.seed}")
    for key in ("env_steps_per_task", "warmup_env_steps"):
        if wanted[key] is not None:
            arm_cfg[key] = wanted[key]
    for key in ("interval", "episodes"):
        if wanted[key] is not None:
            arm_cfg.evaluate[key] = wanted[key]
    arm_cfg.model.least_obs_dim, arm_cfg.model.least_action_dim = model.obs_mask.shape[1], model.action_mask.shape[1]
    arm_cfg.model.task_embedding = {"_target_": f"{Id.__module__}.Id", "_partial_": True}
    arm_cfg.module.trained, arm_cfg.checkpoint.monitor = TRAINED[arm], None  # it may be a metric of an old task
    if "demos" in arm_cfg:  # they are of the old tasks
        arm_cfg.demos.paths, arm_cfg.pretrain.updates, arm_cfg.module.loss_coefs.bc = [], 0, 0.0
    arm_cfg.transfer = {
        "train": arm,
        "init": init,
        "source": str(cfg.ckpt_path),
        "checksum": checksum(weights_file(cfg.ckpt_path)),
        "tasks": agent.tasks,
    }
    check_targets(arm_cfg)
    try:
        build.num_updates(arm_cfg)
    except ValueError as error:  # with the keys of this command
        raise ValueError(re.sub("(env_steps_per_task|warmup_env_steps)=", r"transfer.\1=", str(error))) from error
    return arm_cfg


def resumed(arm_cfg: DictConfig) -> DictConfig:
    """The config with the newest checkpoint of its folder, if there is one. Raises ValueError for one of another
    transfer."""
    checkpoint = newest_checkpoint(Path(arm_cfg.run_dir))
    if checkpoint is None:
        return arm_cfg
    saved = read_checkpoint(checkpoint)["hyper_parameters"]
    now = {**arm_cfg.transfer, "new tasks": list(arm_cfg.tasks.names)}
    then = {**(saved.get("transfer") or {}), "new tasks": list(saved["tasks"]["names"])}
    differ = [key for key in ("new tasks", "train", "init", "checksum") if now[key] != then.get(key)]
    if differ:
        raise ValueError(
            f"{os.path.relpath(arm_cfg.run_dir)} holds another transfer ({', '.join(differ)} differ): "
            "give transfer.name=..."
        )
    again = arm_cfg.copy()
    again.ckpt_path = str(checkpoint)
    return again


def run_arm(arm_cfg: DictConfig, weights: Mapping[str, Tensor], rows: Tensor) -> int:
    """Trains one arm. Returns the number of trained parameters of the model."""
    parameters = 0

    def start(module: L.LightningModule) -> None:
        nonlocal parameters
        model = cast(Any, module.model)
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if arm_cfg.transfer.train != "scratch":
            model.load_state_dict(transplanted(weights, model, rows))
            module.target.model.load_state_dict(model.state_dict())
            module.target.refresh_()
        first = "new weights" if arm_cfg.transfer.train == "scratch" else f"first embedding: {arm_cfg.transfer.init}"
        print(f"transfer {arm_cfg.transfer.train}: {parameters:,} parameters of the model are trained; {first}")

    _write_config(arm_cfg)
    train.run(resumed(arm_cfg), start)
    return parameters


@rank_zero_only
def _write_config(arm_cfg: DictConfig) -> None:
    """Keeps an arm's config where ``ezm train`` keeps a run's."""
    file = Path(arm_cfg.run_dir, "hydra", "config.yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_text(file, OmegaConf.to_yaml(arm_cfg))


def outcomes_of(arm_cfg: DictConfig, parameters: int) -> list[Outcome]:
    """The outcome of a run for each of its tasks, read from eval.csv."""
    rows = list(csv.DictReader(Path(arm_cfg.run_dir, "eval.csv").read_text(encoding="utf-8").splitlines()))
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        curves.setdefault(row["task"], []).append(row)
    return [Outcome(task, arm_cfg.transfer.train, parameters, curve) for task, curve in curves.items()]


def floors(arm_cfg: DictConfig) -> dict[str, float]:
    """Each task's larger return of random and of zero actions: a constant beats random ones in half of the tasks."""
    env = build.make_evaluation_env(arm_cfg, max(5, arm_cfg.evaluate.episodes))
    seed, actors = evaluation_seed(arm_cfg.seed), floor_actors(env.action_dims, env.action_dim)
    returns = [play(env, actor, seed=seed).honoured for actor in actors.values()]
    best = {
        spec.label: max(float(of_slots[env.slot_task == index].mean()) for of_slots in returns)
        for index, spec in enumerate(env.task_specs)
    }
    env.close()
    return best


def print_outcomes(outcomes: Sequence[Outcome], floor: Mapping[str, float]) -> None:
    """Prints a line for each task and arm; shares are relative to the scratch run, if there is one."""
    scratch = {outcome.task: outcome for outcome in outcomes if outcome.arm == "scratch"}

    def share(value: float, of: Outcome | None, name: str) -> str:
        whole = getattr(of, name) if of else 0.0
        return f"{value / whole:.2f}" if whole > 0 else "–"

    lines = []
    for outcome in outcomes:
        task, final, area = outcome.task, outcome.final, outcome.area
        base = scratch.get(task)
        returns = (floor[task], outcome.zero_shot, final, share(final, base, "final"))
        lines.append((task, outcome.arm, f"{outcome.parameters:,}", *returns, area, share(area, base, "area")))
    columns = ("task", "learns", "parameters", "floor", "at 0", "final", "/ scratch", "area", "/ scratch")
    table(columns, lines, "transfer: returns before, after, and on average over the curve")


def write_curves(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes all curves as CSV, whole or not at all."""
    rows = ({**row, "train": outcome.arm} for outcome in outcomes for row in outcome.rows)
    replace_text(path, csv_text(COLUMNS, rows))


def run(cfg: DictConfig) -> None:
    """One transfer, from a composed config: everything is checked before anything is trained."""
    arms, runs, cfg = check_wanted(cfg.transfer), Path("runs", str(cfg.transfer.name)), cfg.copy()
    cfg.ckpt_path = path = str(Path(cfg.ckpt_path).absolute())
    folder = runs.absolute()
    configure(cfg)  # from here on an environment may change the working folder
    agent = load(path, trust=cfg.transfer.trust)
    tasks = check_tasks(agent, OmegaConf.select(cfg, "tasks.names"), path)
    if "embedding" in arms and not any(agent.module.model.embeds):
        raise ValueError(f"transfer.train=embedding: the model of {path} reads no task embedding; nearest: heads")
    init = str(cfg.transfer.init or default_init(agent))
    rows = first_rows(agent, init, tasks, cfg.transfer.instructions)
    source = source_config(path, read_checkpoint(path))
    configs = [arm_config(source, agent, arm, tasks, init, cfg, folder) for arm in arms]
    for arm_cfg in configs:
        resumed(arm_cfg)
    weights = agent.module.model.state_dict()
    outcomes = [outcome for arm_cfg in configs for outcome in outcomes_of(arm_cfg, run_arm(arm_cfg, weights, rows))]
    print_outcomes(outcomes, floors(configs[0]))
    curves = f"transfer_seed{cfg.transfer.seed}.csv"
    write_curves(folder / curves, outcomes)
    print(f"curves {runs / curves}")


def main(argv: list[str] | None = None) -> int | None:
    """The command; see ``ezm transfer --help``."""
    return hydra_main("transfer", run, argv if argv is not None else sys.argv[1:])
