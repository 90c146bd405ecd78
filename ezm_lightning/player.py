"""A trained agent that acts: out of an agent file, a checkpoint or a run, without Lightning, Hydra or a simulator.

Observations and actions are NumPy arrays or torch tensors, one or a batch, at each task's own width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ezm_lightning.acting import Actor, PlannerActor, PolicyActor, decide
from ezm_lightning.checkpoints.agent_file import SUFFIX, AgentRecord, is_agent_file, record_in
from ezm_lightning.checkpoints.contents import as_checkpoint, check_entries, read_content
from ezm_lightning.checkpoints.folder import is_checkpoint, weights_file
from ezm_lightning.checkpoints.runs import checkpoint_in
from ezm_lightning.config.per_task import for_each, merged
from ezm_lightning.config.saved import check_built, make_part, resolved_config
from ezm_lightning.errors import nearest
from ezm_lightning.export.runtime import DESCRIPTION, Array, TaskTable

EZM = "ezm_lightning.module.EZM"
LEARNING = ("projection.", "prediction.")  # the networks that only a loss reads
SHIPPED = Path(__file__).parent / "agents"
Obs = TypeVar("Obs")


class Player:
    """A trained agent that acts.

    ``tasks`` are the names of its tasks, ``table`` has their widths. ``action_repeat`` is the number of simulator steps
    for which an action was held in training; the caller repeats the action. It is a list, one number per task, if the
    tasks differ; :meth:`repeat_of` returns the number of one task.
    """

    def __init__(
        self,
        table: TaskTable,
        *,
        plan: Callable[[int | None], Actor],
        policy: Actor,
        embed: Callable[[Tensor], Tensor] | None,
        action_repeat: int | Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.table, self.action_repeat = table, action_repeat
        self._plan, self._policy, self._embed = plan, policy, embed
        self._planners: dict[int | None, Actor] = {}
        self._generator = torch.Generator(device=device)
        self.reset()

    @property
    def tasks(self) -> list[str]:
        """Task names in the order of the agent's task indices."""
        return list(self.table.names)

    def repeat_of(self, task: str) -> int:
        """The number of simulator steps of an action of a task. Raises ValueError for an unknown task."""
        index = self.table.index_of(task)
        return self.action_repeat if isinstance(self.action_repeat, int) else int(self.action_repeat[index])

    def act(
        self, obs: Obs, task: str | Sequence[str] | None = None, *, search: bool = True, simulations: int | None = None
    ) -> Obs:
        """Actions in [−1, 1], float32, of the type of ``obs``. A task scales them to its own range.

        For ``obs`` [d] or [B, d] of one task and its width they are [a] or [B, a]. For a list of B tasks ``obs``
        is [B, D], padded with zeros to the widest task, and the actions are [B, A]. ``task`` may be left out if the
        agent has one task. ``search`` plans, as in training; without it, or without a planner, the policy's mean acts.
        ``simulations`` is the budget of a plan; None: as in training.

        Raises ValueError for an unknown task, for an observation of another width or that is not finite, and for a
        budget below 1 or of an agent that does not plan.
        """
        task = self._the_task(task)
        actor = self.actor(search=search, simulations=simulations)
        array = obs.detach().cpu().numpy() if isinstance(obs, Tensor) else np.asarray(obs)
        rows, index = self.table.rows(array, task)
        padded = decide(actor, torch.from_numpy(rows), torch.from_numpy(index), self._generator)
        action: Any = self.table.unpadded(padded.numpy(), task, array.ndim)
        if isinstance(obs, Tensor):
            action = torch.from_numpy(action).to(obs.device)
        return action

    def reset(self, seed: int = 0) -> None:
        """Seeds the noise of the searches: the same seed and the same observations give the same actions.

        The agent has no other state between actions.
        """
        self._generator.manual_seed(seed)

    def embedding(self, task: str | None = None) -> Array:
        """The embedding [E] of a task, float32. Tasks with similar dynamics have similar embeddings.

        Raises ValueError for an unknown task, and for an agent that has no embeddings.
        """
        if self._embed is None:
            raise ValueError(f"the agent of {', '.join(self.table.names)} has no task embeddings")
        index = torch.tensor([self.table.index_of(str(self._the_task(task)))], device=self._generator.device)
        with torch.no_grad():
            return self._embed(index)[0].float().cpu().numpy()

    def _the_task(self, task: str | Sequence[str] | None) -> str | Sequence[str]:
        if task is None and len(self.table.names) > 1:
            raise ValueError(f"which task? The agent has {', '.join(self.table.names)}")
        return self.table.names[0] if task is None else task

    def actor(self, *, search: bool = True, simulations: int | None = None) -> Actor:
        """The actor for padded tensors and task indices: a planner with its model, or the policy alone.

        Raises ValueError as ``act`` does for ``simulations``.
        """
        if simulations is not None and (isinstance(simulations, bool) or int(simulations) != simulations):
            raise ValueError(f"simulations={simulations} must be a whole number")
        if simulations is not None and simulations < 1:
            raise ValueError(f"simulations={simulations} must be at least 1; nearest: 1, or search=False")
        if not search:
            return self._policy
        if simulations not in self._planners:
            self._planners[simulations] = self._plan(simulations)
        return self._planners[simulations]


def load(path: str | Path, *, device: str = "cpu", trust: bool = False) -> Player:
    """The agent in a file of ``ezm export format=agent``, in a checkpoint or in a run's folder, ready to act.

    ``path`` may also be the name of an agent that comes with the package (``walker``). ``trust`` builds classes outside
    this package if a checkpoint names them. An agent other than EZM is built through its LightningModule. Raises
    ValueError for a file that is missing, cut short or of another version, for a name that is unknown, and for a GPU
    that is not there.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device}: torch finds no GPU here; nearest: cpu")
    file = agent_file(path)
    content = read_content(file)
    if is_agent_file(content):
        return player_of(record_in(content, file), file, device=device)
    checkpoint = as_checkpoint(content, file)
    cfg = resolved_config(checkpoint, file)
    if cfg.module._target_ != EZM:
        return _player_of_learner(file, device=device, trust=trust)
    return player_of(record_of(checkpoint, cfg, file), file, device=device, trust=trust)


def shipped() -> list[str]:
    """The names of the agents that come with the package."""
    return sorted(file.stem for file in SHIPPED.glob(f"*{SUFFIX}"))


def agent_file(path: str | Path) -> Path:
    """The file that ``load`` reads. Raises ValueError, with the nearest, if there is none."""
    given = Path(path)
    if is_checkpoint(given):
        return weights_file(given)
    if (given / DESCRIPTION).is_file():
        raise ValueError(f"{path} is an exported folder: ezm_lightning.export.runtime.ExportedAgent({str(path)!r})")
    if given.is_dir():
        return weights_file(checkpoint_in(given, str(path)))
    if str(path) in shipped():
        return SHIPPED / f"{path}{SUFFIX}"
    beside = [str(file) for end in (SUFFIX, ".ckpt") for file in given.parent.glob(f"*{end}")]
    runs = [str(folder.parent) for folder in Path("runs").glob("*/*/checkpoints")]
    choices = [*shipped(), *beside, *runs]
    hint = f"; nearest: {nearest(str(path), choices, count=1)}" if choices else ""
    raise ValueError(f"{path} is no agent file, checkpoint or run, and no agent of that name is shipped{hint}")


def record_of(content: dict[str, Any], cfg: DictConfig, path: str | Path) -> AgentRecord:
    """The networks and the planner that act, from the content of a checkpoint of EZM and its resolved config.

    Raises ValueError for a checkpoint of another agent.
    """
    if cfg.module._target_ != EZM:
        raise ValueError(f"{path} holds a {cfg.module._target_}; only EZM can be written as an agent file")
    prefix = "target.model." if cfg.module.act_with_target else "model."
    weights = {name.removeprefix(prefix): x for name, x in content["state_dict"].items() if name.startswith(prefix)}
    nodes = {
        "model": cfg.module.model,
        "planner": cfg.module.reanalyzer.planner,
        "search_model": cfg.module.search_model,
    }
    return AgentRecord(
        tasks=list(cfg.tasks.names),
        obs_dims=list(cfg.obs_dims),
        action_dims=list(cfg.action_dims),
        action_repeat=merged(for_each(cfg.tasks.action_repeat, cfg.tasks.names)),
        config={name: OmegaConf.to_container(node) for name, node in nodes.items()},
        weights={name: x.clone() for name, x in weights.items() if not name.startswith(LEARNING)},
    )


def player_of(record: AgentRecord, path: str | Path, *, device: str = "cpu", trust: bool = False) -> Player:
    """The agent of a record that was read from ``path``. Raises ValueError for a record of another version."""
    cfg = OmegaConf.create(record.config)
    check_built(cfg, path, trust=trust)
    if "compile" in cfg.planner:
        cfg.planner.compile = None  # a machine that only plays may have no compiler
    model = make_part(cfg.model)
    expected = {name: x for name, x in model.state_dict().items() if not name.startswith(LEARNING)}
    check_entries(record.weights, expected, path)
    model.load_state_dict(record.weights, strict=False)
    packed = make_part(cfg.search_model)(model.to(device).requires_grad_(False).eval())

    def plan(simulations: int | None) -> PlannerActor:
        budget = {} if simulations is None else {"num_simulations": int(simulations)}
        return PlannerActor(make_part(OmegaConf.merge(cfg.planner, budget)), packed)

    return Player(
        TaskTable(list(record.tasks), list(record.obs_dims), list(record.action_dims), packed.obs_mask.shape[1]),
        plan=plan,
        policy=PolicyActor(packed),
        embed=packed.embed if any(packed.embeds) else None,
        action_repeat=record.action_repeat,
        device=device,
    )


def _player_of_learner(file: Path, *, device: str, trust: bool) -> Player:
    """The agent of any learner, which may import Lightning."""
    from ezm_lightning.agent import load as load_agent
    from ezm_lightning.agent import padded_obs_dim

    agent = load_agent(file, device=device, trust=trust)
    acts: Actor = agent.module.make_actor()
    others: dict[str, Actor] = getattr(agent.module, "other_actors", dict)()
    cfg = agent.cfg

    def plan(simulations: int | None) -> Actor:
        if simulations is None:
            return acts
        if not isinstance(acts, PlannerActor):
            raise ValueError(f"simulations={simulations}: {type(agent.module).__name__} has no planner to give it to")
        planner = make_part(OmegaConf.merge(cfg.planner, {"num_simulations": int(simulations)}))
        return PlannerActor(planner, acts.model)

    return Player(
        TaskTable(agent.tasks, list(cfg.obs_dims), list(cfg.action_dims), padded_obs_dim(cfg)),
        plan=plan,
        policy=others.get("policy mean", acts),
        embed=getattr(agent.module, "embed", None),
        action_repeat=merged(for_each(cfg.tasks.action_repeat, cfg.tasks.names)),
        device=device,
    )
