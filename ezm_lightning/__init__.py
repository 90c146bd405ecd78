"""EfficientZero-Multitask: one agent, many robot tasks, one shared latent world model.

The river of data (each name is a file or a folder of this package)::

              ┌────────── weights: target update (EMA; the actor reads the target model) ◄──────────┐
              ▼                                                                                      │
    envs ─obs,task─► acting ─action─► envs ─transition─► replay ─Batch─► reanalyze ─Targets─► ops.losses ─► module
                                                           ▲                 ▲ same planner          │
                                                           └──── priority ◄──────────────────── callbacks

Forward edges are function calls. The backward edges (priorities, weights) and the side edge (collection) are
callbacks, so feedback is never hidden.

Rooms: ``ops`` (formulas), ``search`` (Gumbel search), ``model`` (the six networks), ``envs`` (tasks), ``language``
(instructions as vectors), ``replay``, ``evaluation``, ``report``, ``checkpoints``, ``config``, ``commands`` (``ezm``),
``export`` (agents without torch), ``brc`` (the second agent). ``build`` turns a config into objects. ``agent`` loads a
checkpoint to act with it, to train it further or to compare it.

A few lines act with a trained agent. Its actions need neither Lightning nor a simulator::

    agent = ezm_lightning.load("walker")  # an agent file, a checkpoint, a run's folder, or the name of a shipped agent
    env = ezm_lightning.make_env("dmc/walker-walk", action_repeat=agent.repeat_of("dmc/walker-walk"))  # of Gymnasium
    obs, info = env.reset(seed=0)
    action = agent.act(obs, task="dmc/walker-walk")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ezm_lightning.envs.task_env import TaskEnv
    from ezm_lightning.player import Player

__version__ = "0.1.0"


def load(path: str | Path, *, device: str = "cpu", trust: bool = False) -> Player:
    """The agent in an agent file, a checkpoint or a run, ready to act; see :func:`ezm_lightning.player.load`."""
    from ezm_lightning import player

    return player.load(path, device=device, trust=trust)


def make_env(task: str, *, action_repeat: int = 1, seed: int = 0) -> TaskEnv:
    """A Gymnasium environment of any task; see :class:`ezm_lightning.envs.task_env.TaskEnv`."""
    from ezm_lightning.envs.task_env import TaskEnv

    return TaskEnv(task, action_repeat=action_repeat, seed=seed)
