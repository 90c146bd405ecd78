"""ezm distil ckpt_path=FILE: the planner distilled into the policy, from the run's stored replay.

The policy is fitted to new searches of the windows in replay. No simulator step is added; simulators only play the
episodes of the table. Examples:
  ezm distil ckpt_path=last name=demo
  ezm distil ckpt_path=FILE out=distilled updates=5_000
  ezm distil ckpt_path=FILE policy_target=best_action         eq. 6 of the paper; the default is its eq. 5

Only the policy head learns. The model, its rewards and its values keep their bits. One episode in ten is held out, and
the cross entropy of the policy to the search's improved policy is measured there. The new folder has the form of a run,
with the replay, and all that reads a run reads it, apart from resuming and ezm transfer. The source is not changed.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ezm_lightning.agent import Agent, load
from ezm_lightning.build import make_evaluation_env, make_module
from ezm_lightning.callbacks.record import git_state
from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.folder import WEIGHTS, checksum, publish, rank_folders, synced, weights_file
from ezm_lightning.checkpoints.runs import check_intact
from ezm_lightning.checkpoints.tensor_file import write
from ezm_lightning.checkpoints.text_file import replace_text
from ezm_lightning.commands.agent_card import POLICY
from ezm_lightning.commands.eval import chosen_device
from ezm_lightning.commands.printing import table
from ezm_lightning.commands.train import quiet
from ezm_lightning.config.launch import hydra_main
from ezm_lightning.config.saved import check_built
from ezm_lightning.distillation import HEAD, begin_, distil_, learning_config, split
from ezm_lightning.envs.sources import configure
from ezm_lightning.evaluation.episodes import evaluation_seed, play
from ezm_lightning.export.folder import check_new, new_folder
from ezm_lightning.module import EZM

RECORD = "distil.json"  # in the new folder
UNKNOWN = "–"


@dataclass(frozen=True)
class Outcome:
    """A task's mean returns over the same initial states, before and after."""

    task: str
    policy_before: float
    policy_after: float
    search_before: float
    search_after: float
    error: float  # standard error of the search's lead before, over pairs of episodes; inf for one pair

    @property
    def gap_closed(self) -> float | None:
        """The share of the search's lead over the policy that the policy has made good. None for a lead of less than
        two standard errors: chance explains it."""
        gap = self.search_before - self.policy_before
        return (self.policy_after - self.policy_before) / gap if gap > 2 * self.error else None


def check_source(agent: Agent, path: str) -> None:
    """Raises ValueError for an agent that does not plan or whose reanalyzer cannot search."""
    if not isinstance(agent.module, EZM):
        raise ValueError(f"{path} holds a {type(agent.module).__name__}; ezm distil knows agents that plan, EZM")
    reanalyzer: Any = agent.module.reanalyzer
    if not callable(getattr(reanalyzer, "search", None)):
        raise ValueError(
            f"{path}: its reanalyzer, a {type(reanalyzer).__name__}, cannot search; nothing to distil from"
        )


def replay_folders(path: str) -> list[Path]:
    """The folders of the checkpoint's replay. Raises ValueError if it has none or is damaged."""
    folders = [rank / "replay" for rank in rank_folders(path)]
    if not folders or not all((folder / "obs.pt").is_file() for folder in folders):
        raise ValueError(f"{path} holds no replay to distil from; give the run's folder, or one of its step=….ckpt")
    check_intact(path)
    return folders


def returns(agent: Agent, episodes: int) -> dict[str, Tensor]:
    """Returns [T, episodes] of the search and of the policy's mean, from the initial states of ``ezm eval``."""
    if episodes == 0:
        return {}
    env, seed = make_evaluation_env(agent.cfg, episodes), evaluation_seed(agent.cfg.seed)
    actors = {"search": agent.actor(agent.tasks), "policy": agent.other_actors(agent.tasks)[POLICY]}
    try:
        played = {name: play(env, actor, seed=seed, device=agent.module.device) for name, actor in actors.items()}
        return {name: result.honoured.view(len(agent.tasks), episodes) for name, result in played.items()}
    finally:
        env.close()


def outcomes(tasks: Sequence[str], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[Outcome]:
    """A row a task; none where nothing was played."""
    if not before:
        return []
    means = [played[name].mean(1).tolist() for name in ("policy", "search") for played in (before, after)]
    lead = before["search"] - before["policy"]
    errors = (lead.std(1) / lead.shape[1] ** 0.5).tolist() if lead.shape[1] > 1 else [math.inf] * len(tasks)
    return [Outcome(*row) for row in zip(tasks, *means, errors, strict=True)]


def mean_of(rows: Sequence[Outcome]) -> Outcome:
    """The means over tasks."""
    columns = zip(*(list(asdict(row).values())[1:-1] for row in rows), strict=True)
    policy_before, policy_after, search_before, search_after = (sum(column) / len(rows) for column in columns)
    error = math.hypot(*(row.error for row in rows)) / len(rows)
    return Outcome("mean", policy_before, policy_after, search_before, search_after, error)


def print_outcomes(rows: Sequence[Outcome], episodes: int, seed: int) -> None:
    """Prints the table, with a mean if there are several tasks."""
    if not rows:
        return
    lines = []
    for row in [*rows, *([mean_of(rows)] if len(rows) > 1 else [])]:
        task, *means, _ = asdict(row).values()
        lines.append((task, *means, UNKNOWN if row.gap_closed is None else f"{100 * row.gap_closed:.0f} %"))
    columns = ("task", "policy before", "policy after", "search before", "search after", "gap closed")
    table(columns, lines, f"distil: mean returns of {episodes} episodes a task, seed {seed}")
    unled = [row.task for row in rows if row.gap_closed is None]
    if unled:
        print(f"no gap     the search does not lead the policy by two standard errors: {', '.join(unled)}")


def written(row: Outcome) -> dict[str, Any]:
    """A row for JSON, which knows no infinity."""
    return {**asdict(row), "error": row.error if math.isfinite(row.error) else None, "gap_closed": row.gap_closed}


def write_run(out: Path, content: Mapping[str, Any], replays: Sequence[Path], record: Mapping[str, Any]) -> Path:
    """Writes the new run, whole or not at all: a checkpoint of weights, config and a copy of the replay, and its
    record. Returns the checkpoint's path."""
    name = f"step={content['global_step']:08d}.ckpt"
    with new_folder(out) as place:
        draft = place / "draft"
        for folder in replays:
            shutil.copytree(folder, draft / folder.parent.name / folder.name)
        write(dict(content), draft / WEIGHTS)
        write_record(place, record)
        (place / "checkpoints").mkdir()
        publish(draft, synced(draft, draft), place / "checkpoints" / name)
    return out / "checkpoints" / name


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes the record of what was done, completely or not at all."""
    replace_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


def lineage(path: str, source: DictConfig) -> dict[str, Any]:
    """Where an agent comes from that is distilled from ``path``: the run that was trained, and the distillations since.

    ``source`` is the config at ``path``; if that agent was distilled itself, its own record is ``earlier``.
    """
    earlier: Any = OmegaConf.to_container(source.distil) if "distil" in source else None
    return {
        "source": earlier["source"] if earlier else path,
        "ckpt_path": path,
        "checksum": checksum(weights_file(path)),
        "earlier": earlier,
    }


def run(cfg: DictConfig) -> None:
    """One distillation, from a composed config: everything is checked before anything is trained."""
    quiet()
    git = git_state(Path(__file__).parents[1])
    path, out = str(Path(cfg.ckpt_path).absolute()), Path(cfg.out).absolute()  # an environment may change the folder
    check_new(out)
    device = chosen_device("device", cfg.device)
    configure(cfg)
    source = load(path, trust=cfg.trust)
    check_source(source, path)
    folders = replay_folders(path)
    own = learning_config(source.cfg, cfg.policy_target, cfg.seed)
    check_built(OmegaConf.masked_copy(own, ["module"]), path, trust=cfg.trust)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.set_num_threads(own.torch_threads)
    module = cast(EZM, make_module(own))
    module.load_state_dict(source.module.state_dict())
    replays = split(folders, own, module, seed=cfg.seed)
    begin_(module)
    agent = Agent(source.cfg, module.to(device).eval())
    numbers = sum(x.numel() for x in module.model.policy_head.parameters())
    print(f"checkpoint {path}")
    print(f"distil     {numbers:,} numbers of the {HEAD} learn, {cfg.updates:,} updates of {own.batch_size} windows")
    before = returns(agent, cfg.eval_episodes)
    entropy = distil_(module, *replays, own, updates=cfg.updates, seed=cfg.seed)
    print(
        "cross entropy to the search on held-out windows: {before:.3f} nats before, {after:.3f} after".format(**entropy)
    )
    about = {
        **lineage(path, source.cfg),
        "updates": cfg.updates,
        "seed": cfg.seed,
        "policy_target": OmegaConf.to_container(cfg.policy_target),
    }
    record = {**about, "cross_entropy": entropy, "git": git}
    checkpoint = write_run(out, distilled(path, module, about, out), folders, record)
    rows = outcomes(agent.tasks, before, returns(agent, cfg.eval_episodes))
    print_outcomes(rows, cfg.eval_episodes, evaluation_seed(own.seed))
    write_record(out, {**record, "episodes": cfg.eval_episodes, "returns": [written(row) for row in rows]})
    print(f"checkpoint {checkpoint}\nnext       ezm export ckpt_path={shlex.quote(str(out))} what=policy")


def distilled(path: str, module: EZM, about: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The content of the new checkpoint: the source's config with what was done, and the weights."""
    content = read_checkpoint(path)
    return {
        "state_dict": {name: x.cpu() for name, x in module.state_dict().items()},
        "hyper_parameters": {**content["hyper_parameters"], "run_dir": str(out), "distil": dict(about)},
        "global_step": content["global_step"] + about["updates"],
    }


def main(argv: list[str] | None = None) -> int | None:
    """The command; see ``ezm distil --help``."""
    return hydra_main("distil", run, argv if argv is not None else sys.argv[1:])
