"""ezm demos record|import|info: demonstrations for ezm train, as Minari datasets, one per task.

  ezm demos record load=walker out=demos                          an agent that comes with the package plays 40 episodes
  ezm demos record load=runs/demo/seed1_TIME out=demos tasks=[dmc/cartpole-swingup] episodes=10
  ezm demos record policy=scripted tasks=[dmc/cartpole-swingup_sparse] out=demos     a controller without training
  ezm demos record policy=my_robot.act tasks=[my_robot/reach] out=demos              yours: act(obs, task) -> action
  ezm demos import path=DATASET task=gr/AdroitHandDoor-v1 out=demos                  somebody else's Minari dataset
  ezm demos info path=demos                                       episodes, returns, how they were made
  ezm train tasks=[dmc/cartpole-swingup_sparse] demos.paths=[demos] pretrain.updates=2_000 module.loss_coefs.bc=0.1

`record` plays twice the number of episodes, without exploration. It keeps the first episodes of a task whose return is
above 0.75 times the median (1.25 times, if the median is negative), and that succeeded, if the task reports success. If
too few remain, nothing is written and the status is 2. The datasets of ezm dataset export are demonstrations too.
Needs pip install 'ezm-lightning[minari]'.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDictBase
from torch import Tensor

from ezm_lightning.checkpoints.folder import WEIGHTS, checksum
from ezm_lightning.commands.dataset import megabytes, progress, run_word
from ezm_lightning.commands.printing import table
from ezm_lightning.config.overrides import quoted
from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.envs.scripted import policy_of
from ezm_lightning.envs.sources import configure, resolve_tasks
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.evaluation.episodes import Act
from ezm_lightning.evaluation.recording import LEAST_SHARE, Played, good_ones, record_episodes
from ezm_lightning.export.folder import check_new, new_folder
from ezm_lightning.player import Player, agent_file, load
from ezm_lightning.replay.demonstrations import check_fits, digest, task_of
from ezm_lightning.replay.minari_format import Dataset, Episode, check_package, find_datasets, tasks_of, write_dataset

COLUMNS = ("task", "episodes", "decisions", "least return", "median", "greatest", "success")
MADE = (
    "made_by",
    "checkpoint",
    "seed",
    "played",
    "filter",
    "action_repeat",
)  # printed keys of the metadata
TIMES = 2  # episodes played for each that is kept
SCRIPTED_REPEAT = 2


def record(cfg: DictConfig) -> None:
    """Records episodes and writes the good ones, from a composed config."""
    check_package()
    out = Path(cfg.out).absolute()  # an environment may change the working folder
    check_new(out)
    configure(cfg)
    agent, names, repeats = player_of(cfg)
    made = {"made_by": made_by(cfg), "seed": cfg.seed, "filter": bool(cfg.filter), "played": TIMES * cfg.episodes}
    env = MultiTaskEnv(names, envs_per_task=cfg.envs_per_task, action_repeat=repeats, seed=cfg.seed)
    try:
        played = play_all(env, chooser(cfg, agent, names), TIMES * cfg.episodes)
    finally:
        env.close()
    kept = {name: good_ones(episodes) if cfg.filter else episodes for name, episodes in played.items()}
    counts = {name: len(episodes) for name, episodes in kept.items()}
    few = [f"{name} {count} of {len(played[name])}" for name, count in counts.items() if count < cfg.episodes]
    if few:
        raise ValueError(f"episodes={cfg.episodes}: too few episodes are good enough ({', '.join(few)}); filter=false")
    kept = {name: episodes[: cfg.episodes] for name, episodes in kept.items()}
    about = {name: {"action_repeat": repeat, **made} for name, repeat in zip(names, repeats, strict=True)}
    write(out, resolve_tasks(names), kept, about)


def player_of(cfg: DictConfig) -> tuple[Player | None, list[str], list[int]]:
    """The agent (None if a policy plays), the tasks, and the action repeat of each task.

    Raises ValueError unless there is either an agent or a policy, and for a task that the agent does not have.
    """
    if (cfg.load is None) == (cfg.policy is None):
        raise ValueError("who plays? load=AGENT (such as walker, or a run's folder), or policy=scripted")
    given = OmegaConf.select(cfg, "tasks.names")
    if cfg.policy is not None:
        if not given:
            raise ValueError(f"policy={cfg.policy} plays tasks=[...], as ezm tasks lists them")
        for name in given:
            policy_of(cfg.policy, name)
        return None, list(given), [cfg.action_repeat or SCRIPTED_REPEAT] * len(given)
    agent = load(cfg.load, trust=cfg.trust)
    for name in given or ():
        agent.table.index_of(name)
    names = list(given or agent.tasks)
    return agent, names, [cfg.action_repeat or agent.repeat_of(name) for name in names]


def chooser(cfg: DictConfig, agent: Player | None, names: Sequence[str]) -> Act:
    """A function that returns the actions [slots, A] of the agent or of the policy for a step of all slots."""
    specs = resolve_tasks(names)
    width = max(spec.action_dim for spec in specs)
    if agent is not None:
        agent.reset(cfg.seed)
    policies = [None if agent else policy_of(cfg.policy, name) for name in names]

    def act(td: TensorDictBase) -> Tensor:
        obs, task = td["obs"].numpy(), td["task"]
        action = np.zeros((len(obs), width), np.float32)
        for index, (spec, policy) in enumerate(zip(specs, policies, strict=True)):
            mine = (task == index).numpy()
            seen = obs[mine, : spec.obs_dim]
            chosen = (
                np.stack([checked(policy(row), spec) for row in seen])
                if policy is not None
                else cast(Player, agent).act(seen, spec.name, search=cfg.search)
            )
            action[mine, : spec.action_dim] = chosen
        return torch.from_numpy(action)

    return act


def checked(action: Any, spec: TaskSpec) -> np.ndarray:
    """A policy's action as float32. Raises ValueError for another width, or a number outside [-1, 1]."""
    array = np.asarray(action, np.float32)
    if array.shape != (spec.action_dim,) or not (np.abs(array) <= 1).all():
        raise ValueError(f"policy: {array.tolist()} is no action of {spec.name}: {spec.action_dim} numbers in [-1, 1]")
    return array


def play_all(env: MultiTaskEnv, act: Act, count: int) -> dict[str, list[Played]]:
    """``count`` episodes of each task, by task. All slots of the environment are played in parallel."""
    rounds = -(-count * len(env.task_specs) // env.num_slots)
    played: dict[str, list[Played]] = {spec.name: [] for spec in env.task_specs}
    for _ in progress(range(rounds), rounds, "episodes"):
        for slot, episode in enumerate(record_episodes(env, act)):
            played[env.task_specs[int(env.slot_task[slot])].name].append(episode)
    return {name: episodes[:count] for name, episodes in played.items()}


def made_by(cfg: DictConfig) -> str:
    """The entry ``made_by`` of the metadata: the policy, or the name and checksum of the agent's file."""
    if cfg.policy is not None:
        return f"policy {cfg.policy}"
    file = agent_file(cfg.load)
    name = file.parent.name if file.name == WEIGHTS else file.name
    return f"{'agent' if cfg.search else 'policy of'} {name} ({checksum(file)})"


def write(
    out: Path, specs: Sequence[TaskSpec], kept: Mapping[str, Sequence[Played]], about: Mapping[str, Mapping[str, Any]]
) -> None:
    """Writes a dataset for each task to a new folder, all or none, and prints a table of them."""
    package = {"ezm_lightning_version": version("ezm-lightning")}
    with new_folder(out) as place:
        for spec in specs:
            episodes = kept[spec.name]
            shares = [played.success for played in episodes if played.success is not None]
            success = {"success": sum(shares) / len(shares)} if shares else {}
            write_dataset(
                place,
                spec.name,
                (played.episode for played in episodes),
                obs_dim=spec.obs_dim,
                action_dim=spec.action_dim,
                about={**about[spec.name], **success, **package},
            )
        size = megabytes(place)
    print_sets(out)
    plain = re.fullmatch(r"[\w./-]+", str(out), re.ASCII)
    paths = f"demos.paths=[{out}]" if plain else f'"demos.paths=[{quoted(out)}]"'
    print(f"written to {out}, {size:.2f} MB; ezm train {paths}")


def import_sets(cfg: DictConfig) -> None:
    """Writes somebody else's datasets as demonstrations of known tasks, from a composed config."""
    check_package()
    out = Path(cfg.out).absolute()  # an environment may change the working folder
    check_new(out)
    datasets = [Dataset(folder) for folder in find_datasets(Path(cfg.path))]
    specs = resolve_tasks(tasks_of(datasets, cfg.task))
    kept, about = {}, {}
    for dataset, spec in zip(datasets, specs, strict=True):
        check_fits(dataset, spec, cfg.action_repeat)
        episodes = [Played(episode, None) for episode in dataset.episodes()]
        if not episodes:
            raise ValueError(f"{dataset.folder} has no episode")
        kept[spec.name] = (good_ones(episodes) if cfg.filter else episodes)[: cfg.most]
        if not kept[spec.name]:
            raise ValueError(f"{dataset.folder}: no episode is above {LEAST_SHARE} of the median return; filter=false")
        about[spec.name] = how_made(dataset, cfg)
    write(out, specs, kept, about)


def how_made(dataset: Dataset, cfg: DictConfig) -> dict[str, Any]:
    """The metadata of an imported dataset: its id, who made it, and its action repeat: a transition of a set that does
    not say is one step of its environment, as Minari records them."""
    repeat = dataset.metadata.get("action_repeat", 1 if cfg.action_repeat is None else cfg.action_repeat)
    source = dataset.metadata.get("made_by") or dataset.metadata.get("algorithm_name") or "unknown"
    made_by = f"{dataset.metadata.get('dataset_id', dataset.folder.name)} ({source})"
    return {"made_by": made_by, "action_repeat": int(repeat)}


def info(cfg: DictConfig) -> None:
    """Prints the datasets of a folder, from a composed config."""
    check_package()
    print_sets(Path(cfg.path))


def print_sets(folder: Path) -> None:
    """Prints a table of episodes and returns, and below it the origin and the digest of each dataset."""
    datasets = [Dataset(place) for place in find_datasets(folder)]
    episodes = [list(dataset.episodes()) for dataset in datasets]
    table(COLUMNS, [_line(*pair) for pair in zip(datasets, episodes, strict=True)])
    for dataset, of_task in zip(datasets, episodes, strict=True):
        made = {key: dataset.metadata[key] for key in MADE if key in dataset.metadata}
        origin = ", ".join(f"{key}={value}" for key, value in made.items()) or "its metadata have no origin"
        print(f"{task_of(dataset)}: {origin}, digest={digest(of_task)[:12]}")


def _line(dataset: Dataset, episodes: Sequence[Episode]) -> tuple[object, ...]:
    returns = [float(episode.reward.astype(np.float64).sum()) for episode in episodes] or [float("nan")]
    success = dataset.metadata.get("success")
    share = "–" if success is None else f"{float(success):.2f}"
    spread = (min(returns), statistics.median(returns), max(returns))
    return (task_of(dataset), len(episodes), sum(map(len, episodes)), *spread, share)


VERBS = {
    "record": ("demos_record", record),
    "import": ("demos_import", import_sets),
    "info": ("demos_info", info),
}


def main(argv: list[str] | None = None) -> int | None:
    """The command; see ``ezm demos --help``."""
    return run_word("demos", VERBS, sys.argv[1:] if argv is None else argv)
