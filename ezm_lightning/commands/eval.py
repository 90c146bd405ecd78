"""ezm eval ckpt_path=FILE: play the tasks of a checkpoint and print a table of returns.

Only the checkpoint is needed: it holds its training config. Examples:
  ezm eval ckpt_path=last name=demo                        the newest run of experiment=demo
  ezm eval ckpt_path=FILE tasks=[dmc/cartpole-swingup] eval.episodes=20
  ezm eval ckpt_path=FILE planner.num_simulations=64       search deeper than in training
  ezm eval ckpt_path=FILE eval.policy=true                 also without search: the policy's mean and a sample
  ezm eval ckpt_path=FILE eval.open_loop=[1,4,16,48]       look only at every 4th, 16th, 48th decision; see docs/newt.md
  ezm eval ckpt_path=FILE eval.video=true                  one mp4 per task, in the run's folder videos/
  ezm eval ckpt_path=FILE eval.json=returns.json
  ezm eval ckpt_path=FILE eval.instructions=texts.yaml     other instructions, or new tasks with theirs

A return is a mean (± standard deviation) over episodes. One is up to the task's own termination, the other ignores
termination and plays the episode to its time limit. Each has its score: (return - random) / (success - random) if both
are published, return / 1000 in the Control Suite. The mean score is printed as it is, and with each score cut at 1.
"random" and "zero" are the floors: the returns of uniformly random and of zero actions from the same initial states.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ezm_lightning.agent import Agent, chosen_tasks, instructed, load
from ezm_lightning.build import action_repeat
from ezm_lightning.checkpoints.runs import not_writable
from ezm_lightning.checkpoints.text_file import replace_text
from ezm_lightning.commands.open_loop import check_open_loop, play_open_loop, print_open_loop, write_drift
from ezm_lightning.commands.printing import returns_grid, show
from ezm_lightning.config.launch import hydra_main
from ezm_lightning.envs.sources import configure
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.errors import first_line
from ezm_lightning.evaluation.episodes import EpisodeReturns, evaluation_seed, floor_actors, play
from ezm_lightning.evaluation.scores import normalised
from ezm_lightning.evaluation.videos import EpisodeVideos
from ezm_lightning.language.instructions import checked, read_instructions

COLUMNS = ("task", "return", "score", "ignoring\ntermination", "score", "random", "zero")
SCORES = ("score", "score_ignoring_termination")
UNKNOWN = "–"


@dataclass(frozen=True)
class Row:
    """One task's line of the table; undiscounted returns, their mean and standard deviation over episodes."""

    task: str
    return_: float
    return_std: float
    return_ignoring_termination: float
    return_ignoring_termination_std: float
    score: float | None  # see evaluation/scores.py
    score_ignoring_termination: float | None  # of the other return
    random: float  # the return of uniformly random actions
    zero: float  # the return of zero actions
    episodes: int
    success: float | None = None  # share of successful episodes; None if the task does not report success
    others: Mapping[str, float] = field(default_factory=dict)  # returns of other ways to act, by name
    other_successes: Mapping[str, float | None] = field(default_factory=dict)  # their shares of successful episodes
    other_errors: Mapping[str, float | None] = field(default_factory=dict)  # of the agent's leads, see _lead_error


def evaluate(
    agent: Agent,
    tasks: Sequence[str],
    *,
    episodes: int,
    seed: int,
    videos: EpisodeVideos | None = None,
    policy: bool = False,
) -> list[Row]:
    """A row per task. The agent and both floors start from the same ``episodes`` initial states of a task, which do not
    depend on the other tasks played.

    ``policy`` plays the agent's other ways to act as well: for a planner its policy's mean and a sample of it.
    """
    env = agent.evaluation_env(tasks, episodes)
    on: dict[str, Any] = {"seed": seed, "device": agent.module.device}
    try:
        trained = play(env, agent.actor(tasks), on_step=videos.record(env) if videos else None, **on)
        floors = {
            name: play(env, actor, seed=seed) for name, actor in floor_actors(env.action_dims, env.action_dim).items()
        }
        other_actors = agent.other_actors(tasks) if policy else {}
        others = {name: play(env, actor, **on) for name, actor in other_actors.items()}
        return [_row(spec, env.slot_task == i, trained, others, **floors) for i, spec in enumerate(env.task_specs)]
    finally:
        env.close()


def _row(
    spec: TaskSpec,
    slots: Tensor,
    trained: EpisodeReturns,
    others: Mapping[str, EpisodeReturns],
    random: EpisodeReturns,
    zero: EpisodeReturns,
) -> Row:
    honoured, ignored = trained.honoured[slots], trained.ignored[slots]
    return Row(
        task=spec.label,
        return_=float(honoured.mean()),
        return_std=float(honoured.std(unbiased=False)),
        return_ignoring_termination=float(ignored.mean()),
        return_ignoring_termination_std=float(ignored.std(unbiased=False)),
        score=normalised(float(honoured.mean()), spec),
        score_ignoring_termination=normalised(float(ignored.mean()), spec),
        random=float(random.honoured[slots].mean()),
        zero=float(zero.honoured[slots].mean()),
        episodes=int(slots.sum()),
        success=_success(spec, slots, trained),
        others={name: float(played.honoured[slots].mean()) for name, played in others.items()},
        other_successes={name: _success(spec, slots, played) for name, played in others.items()},
        other_errors={name: _lead_error(honoured - played.honoured[slots]) for name, played in others.items()},
    )


def _lead_error(lead: Tensor) -> float | None:
    """The standard error of the agent's lead over another way to act, over pairs of episodes; None for one pair."""
    return float(lead.std() / len(lead) ** 0.5) if len(lead) > 1 else None


def _success(spec: TaskSpec, slots: Tensor, played: EpisodeReturns) -> float | None:
    return float(played.success[slots].double().mean()) if spec.reports_success else None


def mean_of(rows: Sequence[Row]) -> dict[str, float | None]:
    """The means over tasks of all columns, of scores also with each cut at 1; None if a task lacks the value."""
    keys = ("return_", "return_ignoring_termination", *SCORES, "random", "zero")
    values = {key: [getattr(row, key) for row in rows] for key in keys}
    values |= {f"{key}_cut": [None if x is None else min(x, 1.0) for x in values[key]] for key in SCORES}
    return {key: None if None in column else sum(column) / len(column) for key, column in values.items()}


def print_rows(rows: Sequence[Row], title: str = "") -> None:
    """Prints the table, with lines of means if there are several tasks; it fits in 80 columns.

    The share of successes is the last column, if a task reports it.
    """
    successes = any(row.success is not None for row in rows)
    grid = returns_grid(*COLUMNS, *(["success"] if successes else []), title=title)
    for row in rows:
        deviation = f" ± {row.return_std:.1f}"
        grid.add_row(
            row.task, f"{row.return_:.1f}{deviation}", *_cells(asdict(row)), *([_score(row.success)] * successes)
        )
    if len(rows) > 1:
        mean = mean_of(rows)
        grid.add_section()
        grid.add_row("mean", f"{mean['return_']:.1f}", *_cells(mean))
        if mean["score"] is not None:
            cut = [_score(mean[f"{key}_cut"]) for key in SCORES]
            grid.add_row("mean, scores cut at 1", "", cut[0], "", cut[1])
    show(grid)


def print_others(rows: Sequence[Row]) -> None:
    """Prints the agent's return beside those of its other ways to act, from the same initial states.

    A task that reports success has the share of successful episodes behind each return.
    """
    grid = returns_grid("task", "agent", *rows[0].others)
    for row in rows:
        returns, successes = (row.return_, *row.others.values()), (row.success, *row.other_successes.values())
        grid.add_row(row.task, *(_with_success(*both) for both in zip(returns, successes, strict=True)))
    show(grid)


def _with_success(return_: float, success: float | None) -> str:
    return f"{return_:.1f}" if success is None else f"{return_:.1f} ({_score(success)})"


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    played_on, random, zero = (f"{row[key]:.1f}" for key in ("return_ignoring_termination", "random", "zero"))
    score, score_played_on = (_score(row[key]) for key in SCORES)
    return score, played_on, score_played_on, random, zero


def _score(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"


def write_json(path: Path, rows: Sequence[Row], about: dict[str, Any]) -> None:
    """Writes the table, its means and ``about`` to ``path``, completely or not at all."""
    plain = [_plain(asdict(row)) for row in rows]
    text = json.dumps({**about, "tasks": plain, "mean": _plain(mean_of(rows))}, indent=2)
    replace_text(path, text + "\n")


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key.rstrip("_"): value for key, value in row.items()}


def run(cfg: DictConfig) -> None:
    """One evaluation, from a composed config."""
    settings = cfg.eval
    if settings.episodes < 1:
        raise ValueError(f"eval.episodes={settings.episodes} must be at least 1")
    texts = given_texts(settings.instructions)
    for key in ("json", "drift"):
        if settings[key] is None:
            continue
        folder = Path(settings[key]).parent
        if not folder.is_dir():
            raise ValueError(f"eval.{key}={settings[key]}: there is no folder {folder}")
        if (problem := not_writable(folder)) is not None:
            raise ValueError(f"eval.{key}={settings[key]} cannot be written ({problem.strerror})")
    if settings.drift is not None and settings.open_loop is None:
        raise ValueError(f"eval.drift={settings.drift}: only open loops drift; add eval.open_loop=[1,4,16,48]")
    if settings.open_loop is not None:
        check_open_loop(settings.open_loop)
    folder, json_file = Path(settings.output_dir).absolute(), settings.json and Path(settings.json).absolute()
    drift_file = settings.drift and Path(settings.drift).absolute()
    configure(cfg)  # from here on an environment may change the working folder
    planner = {key: value for key, value in cfg.planner.items() if value is not None}
    agent = load(cfg.ckpt_path, device=chosen_device("eval.device", settings.device), trust=settings.trust, **planner)
    if texts:
        agent = instructed(agent, texts)
    tasks = chosen_tasks(agent, OmegaConf.select(cfg, "tasks.names"))
    intervals = [] if settings.open_loop is None else check_open_loop(settings.open_loop, agent)
    torch.set_num_threads(agent.cfg.torch_threads)
    seed = settings.seed if settings.seed is not None else evaluation_seed(agent.cfg.seed)
    videos = EpisodeVideos(folder, *settings.video_size, fps=settings.video_fps) if settings.video else None
    print(f"checkpoint {cfg.ckpt_path}")
    rows = evaluate(agent, tasks, episodes=settings.episodes, seed=seed, videos=videos, policy=settings.policy)
    print_rows(rows, f"{settings.episodes} episode{'s' * (settings.episodes > 1)} a task, seed {seed}")
    if rows[0].others:
        print_others(rows)
    about: dict[str, Any] = {}
    if intervals:
        open_loop, drifts = play_open_loop(agent, tasks, intervals, episodes=settings.episodes, seed=seed)
        print_open_loop(open_loop)
        about = {"open_loop": [asdict(row) for row in open_loop]}
        if settings.drift is not None:
            write_drift(drift_file, agent, tasks, drifts)
            print(f"drift {settings.drift}")
    if settings.json is not None:
        about |= {"checkpoint": str(cfg.ckpt_path), "seed": seed, "action_repeat": action_repeat(agent.cfg)}
        write_json(json_file, rows, about)
        print(f"json {settings.json}")
    if videos is not None:
        for file in videos.finish():
            print(f"video {file}")


def given_texts(setting: Any) -> dict[str, str]:
    """Instructions by task, from a mapping or from the YAML file of a path; {} for null."""
    if setting is None:
        return {}
    if isinstance(setting, DictConfig):
        return checked(OmegaConf.to_container(setting), "eval.instructions")
    return read_instructions(str(setting), "eval.instructions")


def chosen_device(key: str, name: str) -> str:
    """The device of a key's value; ``auto`` is the GPU if there is one. Raises ValueError for one that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{key}={name} cannot be used: {first_line(error)}") from error
    return name


def main(argv: list[str] | None = None) -> int | None:
    """The command; see ``ezm eval --help``."""
    return hydra_main("eval", run, argv if argv is not None else sys.argv[1:])
