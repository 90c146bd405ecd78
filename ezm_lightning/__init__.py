"""EfficientZero-Multitask: one agent, many robot tasks, one shared latent world model.

The river of data (each name is a file or a folder of this package)::

              ┌───────── weights: target update (EMA; planner and reanalyze read the target model) ◄────────┐
              ▼                                                                                              │
    envs ─obs,task─► planner ─action─► envs ─transition─► replay ─Batch─► reanalyze ─Targets─► ops.losses ─► module
                                                            ▲                 ▲ same planner                 │
                                                            └──── priority ◄──────────────────────────── callbacks

Forward edges are function calls. The backward edges (priorities, weights) and the side edge (collection) are
callbacks, so feedback is never hidden. Rooms: ``types`` (records), ``ops`` (formulas), ``search`` (Gumbel search),
``model`` (the six networks), ``envs`` (tasks). Commands: ``train``, ``eval``, ``tasks``, ``doctor``.
"""

__version__ = "0.1.0"
