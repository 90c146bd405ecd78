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
(instructions as vectors), ``replay``, ``evaluation``, ``checkpoints``, ``config``, ``commands`` (``ezm``), ``export``
(agents without torch), ``brc`` (the second agent). ``build`` turns a config into objects, ``agent`` a checkpoint into
what acts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ezm_lightning.agent import Agent

__version__ = "0.1.0"


def load(path: str | Path, **options: Any) -> Agent:
    """The agent in a checkpoint file of ``ezm train``; see :func:`ezm_lightning.agent.load` for the options."""
    from ezm_lightning import agent

    return agent.load(path, **options)
