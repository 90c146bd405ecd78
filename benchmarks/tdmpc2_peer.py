"""The peer of ``decision``: TD-MPC2 (MIT) at its default size, from a clone of its repository.

It is made for one GPU. Here its names of the device are replaced while its files are read, and it is not compiled.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import torch
from omegaconf import OmegaConf

from benchmarks.measure import Call

REPOSITORY = "https://github.com/nicklashansen/tdmpc2"
SIZE = 5  # million parameters, its default
ON_A_CPU = {
    "cuda:0": "cpu",
    "capturable=True": "capturable=False",
    "WorldModel(cfg).to(self.device)": "WorldModel(cfg)",  # parts of it are on 'meta', which this torch does not move
}


def decision_call(source: str, obs_dim: int, action_dim: int) -> Call:
    """What TD-MPC2 computes for a decision: its plan of one state and an update on random windows.

    Raises ValueError where ``source`` is no clone.
    """
    folder = Path(source, "tdmpc2")
    if not source or not (folder / "tdmpc2.py").is_file():
        raise ValueError(f"source={source} is no clone of TD-MPC2: git clone {REPOSITORY}, then source=tdmpc2")
    sys.path.insert(0, str(folder))
    _read("common.scale", folder)
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.update({
        **importlib.import_module("common").MODEL_SIZE[SIZE],
        "obs_shape": {"state": [obs_dim]}, "action_dim": action_dim, "episode_length": 500,
        "multitask": False, "task_dim": 0, "compile": False,
        "bin_size": (cfg.vmax - cfg.vmin) / (cfg.num_bins - 1),
    })  # fmt: skip
    agent = _read("tdmpc2", folder).TDMPC2(cfg)
    obs = torch.randn(cfg.horizon + 1, cfg.batch_size, obs_dim)
    action = torch.rand(cfg.horizon, cfg.batch_size, action_dim) * 2 - 1
    reward = torch.rand(cfg.horizon, cfg.batch_size, 1)

    def decide() -> None:
        agent.act(obs[0, 0])
        agent._update(obs, action, reward, torch.zeros_like(reward))

    return decide


def _read(name: str, folder: Path) -> types.ModuleType:
    """A module of the clone, with its tensors on a CPU."""
    text = (folder / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
    for old, new in ON_A_CPU.items():
        text = text.replace(old, new)
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
    return module
