"""ezm export ckpt_path=FILE: the agent of a checkpoint as ONNX files, search included, that act without torch, as
programs of torch.export, or as one small file for ezm_lightning.load.

Only the checkpoint is needed: it holds its training config. Examples:
  ezm export ckpt_path=last name=demo                      into the newest run's folder export/
  ezm export ckpt_path=FILE out=robot what=policy          only the policy, many times faster than a search
  ezm export ckpt_path=FILE out=robot tasks=[dmc/walker-walk]    only some of the agent's tasks
  ezm export ckpt_path=FILE out=robot planner.num_simulations=16
  ezm export ckpt_path=FILE out=robot batch=4              plans for four observations in one call
  ezm export ckpt_path=FILE out=robot format=torch         search.pt2 and policy.pt2, which need torch to act
  ezm export ckpt_path=FILE out=walker format=agent        walker.agent for ezm_lightning.load, with a card

The folder holds search.onnx and policy.onnx with the weights inside, agent.json (tasks, widths, action masks, how each
noise input is drawn, versions) and runtime.py, which acts with only NumPy and onnxruntime:
  from ezm_lightning.export.runtime import ExportedAgent   # or, in the folder: from runtime import ExportedAgent
  agent = ExportedAgent("robot")
  action = agent.act(obs, "dmc/walker-walk")               # [obs_dim] -> [action_dim] in [-1, 1]

Before the folder gets its name, every graph is compared with torch at 1,000 observations, half of them from the replay.
``what=policy`` also plays episodes and reports tasks in which the policy alone is worse than the search. ONNX needs
pip install 'ezm-lightning[onnx]'.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import DictConfig, OmegaConf

from ezm_lightning.acting import PlannerActor
from ezm_lightning.agent import Agent, among, chosen_tasks, load
from ezm_lightning.checkpoints.agent_file import SUFFIX
from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.folder import rank_folders
from ezm_lightning.checkpoints.runs import UNKNOWN, command_of, commits_of, recorded_starts
from ezm_lightning.checkpoints.tensor_file import read
from ezm_lightning.commands.agent_card import POLICY, card, write_card
from ezm_lightning.commands.eval import Row, evaluate, print_others
from ezm_lightning.config.launch import hydra_main
from ezm_lightning.config.per_task import for_each, merged
from ezm_lightning.envs.sources import configure
from ezm_lightning.errors import first_line, nearest
from ezm_lightning.evaluation.episodes import evaluation_seed
from ezm_lightning.export.check import Check, Recorded, latency_ms
from ezm_lightning.export.folder import check_new, write_agent
from ezm_lightning.export.graph import GraphModule, check_packages
from ezm_lightning.export.policy import PolicyModule
from ezm_lightning.export.runtime import ExportedAgent
from ezm_lightning.export.search import SearchModule
from ezm_lightning.model import PackedModel
from ezm_lightning.player import record_of

WHAT = {"both": ("search", "policy"), "search": ("search",), "policy": ("policy",)}
SETTINGS = ("num_simulations", "max_num_considered_actions", "num_candidates", "num_leaf_candidates", "discount")


def run(cfg: DictConfig) -> None:
    """One export, from a composed config."""
    for key, choices in (("what", WHAT), ("format", FORMATS)):
        if cfg[key] not in choices:
            near = nearest(str(cfg[key]), choices, count=1)
            raise ValueError(f"{key}={cfg[key]}; nearest: {near} ({', '.join(choices)})")
    FORMATS[cfg.format](cfg)


def export_graphs(cfg: DictConfig) -> None:
    """Writes the folder of graphs."""
    check_packages(cfg.format)
    out, checkpoint = Path(cfg.out).absolute(), Path(cfg.ckpt_path).absolute()  # an environment may change the folder
    check_new(out)
    agent, tasks = loaded(cfg)
    check_plans(agent, cfg.ckpt_path)
    rows = returns(cfg, agent, tasks) if cfg.what == "policy" else []
    recorded = recorded_observations(checkpoint, [agent.tasks.index(task) for task in tasks])
    agent = among(agent, tasks)
    settings: Any = OmegaConf.to_container(agent.cfg.planner)
    checks = write_agent(
        out,
        modules_of(agent, cfg.what, batch=cfg.batch),
        tasks=agent.tasks,
        about={
            "checkpoint": checkpoint.name,
            "action_repeat": merged(for_each(agent.cfg.tasks.action_repeat, agent.tasks)),
            "planner": {name: settings[name] for name in SETTINGS},
        },
        format=cfg.format,
        roots=cfg.roots,
        recorded=recorded,
    )
    for name, result in checks.items():
        print_graph(out, name, result)
    compare_policy(rows)


def export_agent(cfg: DictConfig) -> None:
    """Writes an agent file and its card."""
    if Path(cfg.out).name in ("", ".."):
        raise ValueError(f"out={cfg.out} is a folder; an agent file has a name of its own: out={Path(cfg.out, 'mine')}")
    out, checkpoint = Path(cfg.out).absolute(), Path(cfg.ckpt_path).absolute()  # an environment may change the folder
    file = out if out.suffix == SUFFIX else out.with_name(out.name + SUFFIX)
    for place in (file, file.with_suffix(".md")):
        check_new(place)
    content = read_checkpoint(checkpoint)
    agent, tasks = loaded(cfg)
    check_plans(agent, cfg.ckpt_path)
    rows = returns(cfg, agent, tasks)
    agent = among(agent, tasks)
    record = record_of({"state_dict": agent.module.state_dict()}, agent.cfg, cfg.ckpt_path)
    record.write(file)
    made = how_made(checkpoint, content["hyper_parameters"].get("distil")) | {
        key: str(value) for key, value in cfg.card.items() if value is not None
    }
    about = card(file, record, rows, seed=evaluation_seed(agent.cfg.seed), updates=content["global_step"], **made)
    written = write_card(about, file)
    print(f"agent      {file}, {file.stat().st_size / 1e6:.2f} MB\ncard       {written}")


def how_made(checkpoint: str | Path, distil: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The command and the commits that trained a checkpoint, as its run has recorded them, or 'unknown'.

    ``distil`` is that node of a distilled agent's config: its source was trained, and then distilled.
    """
    source = Path(distil["source"] if distil else checkpoint)
    starts = recorded_starts(source.parent.parent)
    return {"command": (command_of(starts) or UNKNOWN) + distillations(distil), "commit": commits_of(starts) or UNKNOWN}


def distillations(distil: Mapping[str, Any] | None) -> str:
    """'; ezm distil ckpt_path=… updates=…' of each distillation of an agent, in their order."""
    if not distil:
        return ""
    earlier, read = distil.get("earlier"), Path(distil.get("ckpt_path", distil["source"]))
    return f"{distillations(earlier)}; ezm distil ckpt_path={read.name} updates={distil['updates']}"


FORMATS = {"onnx": export_graphs, "torch": export_graphs, "agent": export_agent}


def recorded_observations(checkpoint: Path, tasks: Sequence[int]) -> Recorded | None:
    """Observations of ``tasks`` in a checkpoint's replay, and their positions among these; None if it has none."""
    replays = [rank / "replay" for rank in rank_folders(checkpoint)]
    folders = [folder for folder in replays if (folder / "obs.pt").is_file()]
    if not folders:
        return None
    columns = [[read(folder / f"{name}.pt", mmap=True).numpy() for folder in folders] for name in ("obs", "task")]
    obs, task = map(np.concatenate, columns)
    position = np.full(max(*tasks, task.max(initial=0)) + 1, -1)
    position[list(tasks)] = range(len(tasks))
    chosen = position[task] >= 0
    return (obs[chosen], position[task[chosen]]) if chosen.any() else None


def loaded(cfg: DictConfig) -> tuple[Agent, list[str]]:
    """The checkpoint's agent on the CPU with the config's changes of the planner, and which of its tasks to write."""
    configure(cfg)
    planner = {key: value for key, value in cfg.planner.items() if value is not None}
    agent = load(cfg.ckpt_path, device="cpu", trust=cfg.trust, **planner)
    tasks = chosen_tasks(agent, OmegaConf.select(cfg, "tasks.names"))
    print(f"checkpoint {cfg.ckpt_path}")
    return agent, tasks


def check_plans(agent: Agent, path: str) -> None:
    """Raises ValueError for an agent that does not plan."""
    if not isinstance(agent.module.make_actor(), PlannerActor):
        raise ValueError(f"{path} holds a {type(agent.module).__name__}; ezm export writes agents that plan, EZM")


def returns(cfg: DictConfig, agent: Agent, tasks: Sequence[str]) -> list[Row]:
    """The returns of the agent and of its policy alone; [] without episodes or without a simulator."""
    if not cfg.eval_episodes:
        return []
    seed = evaluation_seed(agent.cfg.seed)
    try:
        rows = evaluate(agent, tasks, episodes=cfg.eval_episodes, seed=seed, policy=True)
    except ImportError as error:
        print(f"returns    not measured: {first_line(error)}")
        return []
    print_others(rows)
    return rows


def compare_policy(rows: Sequence[Row]) -> None:
    """Prints the tasks in which the search leads the policy alone by more than two standard errors."""
    for row in rows:
        alone, error = row.others.get(POLICY), row.other_errors.get(POLICY)
        if alone is not None and error is not None and row.return_ - alone > 2 * error:
            print(
                f"worse      {row.task}: the policy alone reaches {alone:.1f}, the search {row.return_:.1f}: "
                "what=search exports the search, ezm distil trains the policy towards it"
            )


def print_graph(folder: Path, name: str, result: Check) -> None:
    """Prints a graph's file, its comparison with torch, and its speed on this machine."""
    agent = ExportedAgent(folder, graph=name)
    file, (median, slow) = folder / agent.file, latency_ms(agent)
    print(f"{name:<11}{file}, {file.stat().st_size / 1e6:.2f} MB")
    print(
        f"           {result.equal} of {result.roots} actions as in torch"
        f"{f', {result.tied} at a tie of values' if result.tied else ''}, difference {result.largest_difference:.0e}"
    )
    print(f"           one decision here: p50 {median:.2f} ms, p99 {slow:.2f} ms, so up to {1e3 / slow:,.0f} Hz")


def modules_of(agent: Agent, what: str, *, batch: int) -> dict[str, GraphModule]:
    """The modules to write, by the name of their graph."""
    actor = cast(PlannerActor, agent.module.make_actor())
    packed, planner = PackedModel(actor.model.model, "float32"), actor.planner
    modules: dict[str, GraphModule] = {}
    if "search" in WHAT[what]:
        modules["search"] = SearchModule(planner, packed, batch=batch)
    if "policy" in WHAT[what]:
        modules["policy"] = PolicyModule(packed)
    return modules


def main(argv: list[str] | None = None) -> int | None:
    """The command; see ``ezm export --help``."""
    return hydra_main("export", run, argv if argv is not None else sys.argv[1:])
