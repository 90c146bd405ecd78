"""ezm export ckpt_path=FILE: the agent of a checkpoint as ONNX files, search included, that act without torch.

The checkpoint alone is enough, it holds its training config. Examples:
  ezm export ckpt_path=last name=demo                      into the newest run's folder export/
  ezm export ckpt_path=FILE out=robot what=policy          the policy alone, many times faster than a search
  ezm export ckpt_path=FILE out=robot planner.num_simulations=16
  ezm export ckpt_path=FILE out=robot batch=4              plans for four observations in one call

The folder holds search.onnx and policy.onnx with the weights inside, agent.json (tasks, widths, action masks, how each
noise input is drawn, versions) and runtime.py, which acts with NumPy and onnxruntime alone:
  from ezm_lightning.export.runtime import ExportedAgent   # or, in the folder: from runtime import ExportedAgent
  agent = ExportedAgent("robot")
  action = agent.act(obs, "dmc/walker-walk")               # [obs_dim] -> [action_dim] in [-1, 1]

Before the folder gets its name, every graph is compared with torch. Needs pip install 'ezm-lightning[onnx]'.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ezm_lightning.acting import PlannerActor
from ezm_lightning.agent import Agent, load
from ezm_lightning.config.launch import hydra_main
from ezm_lightning.config.per_task import for_each, merged
from ezm_lightning.envs.sources import configure
from ezm_lightning.errors import nearest
from ezm_lightning.export.check import Check, latency_ms
from ezm_lightning.export.folder import check_new, write_agent
from ezm_lightning.export.onnx_graph import OnnxModule, check_packages
from ezm_lightning.export.policy import PolicyModule
from ezm_lightning.export.runtime import ExportedAgent
from ezm_lightning.export.search import SearchModule
from ezm_lightning.model import PackedModel

WHAT = {"both": ("search", "policy"), "search": ("search",), "policy": ("policy",)}
SETTINGS = ("num_simulations", "max_num_considered_actions", "num_candidates", "num_leaf_candidates", "discount")


def run(cfg: DictConfig) -> None:
    """One export, from a composed config."""
    check_packages()
    if cfg.what not in WHAT:
        raise ValueError(f"what={cfg.what}; nearest: {nearest(str(cfg.what), WHAT, count=1)} ({', '.join(WHAT)})")
    out = Path(cfg.out)
    check_new(out)
    configure(cfg)
    planner = {key: value for key, value in cfg.planner.items() if value is not None}
    agent = load(cfg.ckpt_path, device="cpu", trust=cfg.trust, **planner)
    print(f"checkpoint {cfg.ckpt_path}")
    settings: Any = OmegaConf.to_container(agent.cfg.planner)
    checks = write_agent(
        out,
        modules_of(agent, cfg.what, batch=cfg.batch, path=cfg.ckpt_path),
        tasks=agent.tasks,
        about={
            "checkpoint": Path(cfg.ckpt_path).name,
            "action_repeat": merged(for_each(agent.cfg.tasks.action_repeat, agent.tasks)),
            "planner": {name: settings[name] for name in SETTINGS},
        },
        roots=cfg.roots,
    )
    for name, result in checks.items():
        print_graph(out, name, result)


def print_graph(folder: Path, name: str, result: Check) -> None:
    """Prints where a graph is, how it compares with torch, and how fast it decides here."""
    file = folder / f"{name}.onnx"
    median, slow = latency_ms(ExportedAgent(folder, graph=name))
    print(f"{name:<11}{file}, {file.stat().st_size / 1e6:.2f} MB")
    print(
        f"           {result.equal} of {result.roots} actions as in torch"
        f"{f', {result.tied} at a tie of values' if result.tied else ''}, difference {result.largest_difference:.0e}"
    )
    print(f"           one decision here: p50 {median:.2f} ms, p99 {slow:.2f} ms, so up to {1e3 / slow:,.0f} Hz")


def modules_of(agent: Agent, what: str, *, batch: int, path: str) -> dict[str, OnnxModule]:
    """The modules to be written, by the name of their graph. Raises ValueError for an agent of another kind."""
    actor = agent.module.make_actor()
    if not isinstance(actor, PlannerActor):
        raise ValueError(f"{path} holds a {type(agent.module).__name__}; ezm export writes agents that plan, EZM")
    packed, planner = PackedModel(actor.model.model, "float32"), actor.planner
    modules: dict[str, OnnxModule] = {}
    if "search" in WHAT[what]:
        modules["search"] = SearchModule(planner, packed, batch=batch)
    if "policy" in WHAT[what]:
        modules["policy"] = PolicyModule(packed)
    return modules


def main(argv: list[str] | None = None) -> int | None:
    """The command; see ``ezm export --help``."""
    return hydra_main("export", run, argv if argv is not None else sys.argv[1:])
