"""A trained agent from a checkpoint: its actor, the tasks it knows, and the config it was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn.functional import pad

from ezm_lightning.acting import Actor
from ezm_lightning.build import least_widths, make_evaluation_env, make_module
from ezm_lightning.checkpoints.contents import check_entries, read_checkpoint
from ezm_lightning.config.per_task import check_new_tasks, discounts, merged
from ezm_lightning.config.saved import make_part, saved_config
from ezm_lightning.config.signatures import target_nodes
from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.envs.sources import resolve_tasks
from ezm_lightning.errors import nearest
from ezm_lightning.language.encoders import encoder_kind
from ezm_lightning.model.task_embedding import Text
from ezm_lightning.model.transplant import add_tasks_, instruct_, keep_tasks_
from ezm_lightning.ops.per_task import spread


@dataclass(frozen=True)
class Agent:
    """A trained agent; ``module`` is in eval mode and takes no gradient."""

    cfg: DictConfig
    module: L.LightningModule

    @property
    def tasks(self) -> list[str]:
        """Task names in the order of the agent's task indices."""
        return list(self.cfg.tasks.names)

    def actor(self, tasks: Sequence[str]) -> Actor:
        """The actor of training, for an environment of ``tasks``: a subset of the agent's tasks in any order."""
        return AmongTasks(self.module.make_actor(), self.cfg, tasks)

    def evaluation_env(self, tasks: Sequence[str], episodes: int) -> MultiTaskEnv:
        """The environment of ``episodes`` of each of ``tasks``; their initial states are those of all its tasks."""
        cfg = cast(DictConfig, OmegaConf.merge(self.cfg, {"tasks": {"names": list(tasks)}}))
        return make_evaluation_env(cfg, episodes, places=[self.tasks.index(task) for task in tasks])

    def other_actors(self, tasks: Sequence[str]) -> dict[str, Actor]:
        """Other ways to act with the same weights, by name; empty if the agent has none."""
        actors: Mapping[str, Actor] = getattr(self.module, "other_actors", dict)()
        return {name: AmongTasks(actor, self.cfg, tasks) for name, actor in actors.items()}


class AmongTasks:
    """An actor in an environment of a subset of its tasks, which maps their widths and indices to its own."""

    def __init__(self, actor: Actor, cfg: DictConfig, tasks: Sequence[str]) -> None:
        self.actor, self.extras = actor, actor.extras
        index = [list(cfg.tasks.names).index(name) for name in tasks]
        self.index = torch.tensor(index)
        self.obs_dim = padded_obs_dim(cfg)
        self.action_dim = max(*(cfg.action_dims[task] for task in index), least_widths(cfg)["least_action_dim"])

    def act(self, obs: Tensor, task: Tensor, generator: torch.Generator, *, explore: bool) -> dict[str, Tensor]:
        """The actor's action, cut to the width of the subset, and its extras."""
        obs = pad(obs, (0, self.obs_dim - obs.shape[-1]))  # a subset of the tasks may be padded less
        output = self.actor.act(obs, self.index[task], generator, explore=explore)
        return {**output, "action": output["action"][:, : self.action_dim]}

    def refresh_(self) -> None:
        self.actor.refresh_()


def padded_obs_dim(cfg: DictConfig) -> int:
    """The width of the networks' observations in a resolved config."""
    return max(*cfg.obs_dims, least_widths(cfg)["least_obs_dim"])


def load(path: str | Path, *, device: str = "cpu", trust: bool = False, **planner: Any) -> Agent:
    """The agent in a checkpoint file of ``ezm train``; ``planner`` overrides arguments of its planner.

    Raises ValueError for a file that is not a complete checkpoint, whose weights do not fit its own config, or whose
    agent has no planner to override.
    """
    content = read_checkpoint(path)
    cfg = saved_config(content, path, trust=trust)
    _override_planner(cfg, planner)
    module = make_module(cfg)
    check_entries(content["state_dict"], module.state_dict(), path)
    module.load_state_dict(content["state_dict"])
    return Agent(cfg, module.to(device).requires_grad_(False).eval())


def _override_planner(cfg: DictConfig, changes: Mapping[str, Any]) -> None:
    """Changes every planner of a resolved config."""
    if not changes:
        return
    if OmegaConf.select(cfg, "planner") is None:
        raise ValueError(
            f"planner.{next(iter(changes))}: the checkpoint's agent, {cfg.module._target_}, has no planner"
        )
    for _, node in target_nodes(cfg):
        if node._target_ == cfg.planner._target_:
            node.update(changes)


def instructed(agent: Agent, texts: Mapping[str, str]) -> Agent:
    """The agent with other instructions for tasks that it knows, and with new tasks.

    These tasks lose what was learned of them apart from the instruction. Raises ValueError for an agent that knows its
    tasks only by their index, for a task that is too wide, and for one without a number in a setting that was made per
    task; ImportError if the encoder's weights are not installed.
    """
    new = [name for name in texts if name not in agent.tasks]
    model: Any = getattr(agent.module, "model", None)
    if not isinstance(getattr(model, "task_embedding", None), Text):
        raise ValueError(
            "eval.instructions: the checkpoint knows its tasks by their index alone, instructions say nothing to it; "
            f"for new tasks: ezm transfer ckpt_path=... tasks=[{','.join(new or ['...'])}]"
        )
    specs = resolve_tasks(new) if new else []
    check_new_tasks(agent.cfg, new)
    for spec in specs:
        for kind, room in (("obs", model.obs_mask.shape[1]), ("action", model.action_mask.shape[1])):
            if (wide := getattr(spec, f"{kind}_dim")) > room:
                raise ValueError(f"{spec.name} has {kind}_dim {wide}, the checkpoint's model has room for {room}")
    vectors = encoder_kind(str(agent.cfg.texts.encoder)).make()(list(texts.values()))
    cfg = agent.cfg.copy()
    cfg.tasks.names = [*agent.tasks, *new]
    cfg.obs_dims = [*agent.cfg.obs_dims, *(spec.obs_dim for spec in specs)]
    cfg.action_dims = [*agent.cfg.action_dims, *(spec.action_dim for spec in specs)]
    if specs:
        of_new = spread(discounts(cfg.discount, new, cfg.tasks.action_repeat), len(new))
        _set_discounts_(cfg, agent.module, [*spread(cfg.planner.discount, len(agent.tasks)), *of_new])
    target: Any = agent.module.target
    for instructed_model in (model, target.model):
        if specs:
            add_tasks_(instructed_model, [spec.obs_dim for spec in specs], [spec.action_dim for spec in specs])
        instruct_(instructed_model, [list(cfg.tasks.names).index(name) for name in texts], vectors)
    target.to(agent.module.device)  # makes its search form again, with the new tasks
    return Agent(cfg, agent.module)


def among(agent: Agent, tasks: Sequence[str]) -> Agent:
    """The agent of a world model with these of its tasks alone, in this order. Widths stay those of all its tasks.

    The agent itself is changed.
    """
    module: Any = agent.module
    index, cfg = [agent.tasks.index(name) for name in tasks], agent.cfg.copy()
    obs_dim, action_dim = module.model.obs_mask.shape[1], module.model.action_mask.shape[1]
    cfg.tasks.names = list(tasks)
    for node in (cfg, cfg.module.model):
        node.obs_dims = [node.obs_dims[task] for task in index]
        node.action_dims = [node.action_dims[task] for task in index]
    for model in (cfg.model, cfg.module.model):
        model.least_obs_dim, model.least_action_dim = obs_dim, action_dim
    of_all = spread(cfg.planner.discount, len(agent.tasks))
    _set_discounts_(cfg, module, [of_all[task] for task in index])
    for model in (module.model, module.target.model):
        keep_tasks_(model, index)
    module.target.to(module.device)  # makes its search form again
    return Agent(cfg, module)


def _set_discounts_(cfg: DictConfig, module: Any, discount: Sequence[float]) -> None:
    """Gives the planner of a changed task table the discount of each of its tasks."""
    _override_planner(cfg, {"discount": merged(discount)})
    module.reanalyzer.planner = make_part(cfg.planner)


def chosen_tasks(agent: Agent, names: Sequence[str] | None) -> list[str]:
    """``names``, or all of the agent's tasks. Raises ValueError for a task it was not trained on."""
    for name in names or ():
        if name not in agent.tasks:
            raise ValueError(
                f"the checkpoint has no task {name!r}; nearest: {nearest(name, agent.tasks, count=1)} "
                f"(it has {', '.join(agent.tasks)})"
            )
    return agent.tasks if names is None else list(names)
