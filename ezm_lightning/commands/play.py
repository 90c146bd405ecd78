"""ezm play AGENT: see a trained agent act, in a window, or without a display in an mp4 and a GIF.

AGENT is the name of an agent that comes with the package, an agent file, a checkpoint or a run's folder. Examples:
  ezm play walker                                          an agent that comes with the package
  ezm play walker search=false                             only its policy, without a search
  ezm play walker simulations=64 seed=3                    a deeper search, another initial state
  ezm play runs/demo/seed1_TIME task=dmc/cartpole-swingup  your own run
  ezm play robot.agent window=false out=videos             a file of `ezm export format=agent`

It prints each episode's return. To play many episodes and compare their returns use `ezm eval`.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from ezm_lightning import make_env
from ezm_lightning.checkpoints.runs import not_writable
from ezm_lightning.config.launch import hydra_main
from ezm_lightning.config.overrides import quoted
from ezm_lightning.envs.sources import configure
from ezm_lightning.envs.task_env import TaskEnv
from ezm_lightning.errors import refuse
from ezm_lightning.evaluation.movie import Movie, check_size, write_gif
from ezm_lightning.evaluation.window import Window, has_display
from ezm_lightning.player import Player, load, shipped


def run(cfg: DictConfig) -> None:
    """Plays, from a composed config."""
    shown = has_display() if cfg.window is None else cfg.window
    check_request(cfg, shown)
    folder = Path(cfg.out).absolute()  # an environment may change the working folder
    configure(cfg)
    agent = load(cfg.load, trust=cfg.trust)
    task = agent.tasks[0] if cfg.task is None else agent.tasks[agent.table.index_of(cfg.task)]
    env = make_env(task, action_repeat=agent.repeat_of(task), seed=cfg.seed)
    env.picture_size = (cfg.size[0], cfg.size[1])
    agent.reset(cfg.seed)
    print(f"agent {cfg.load} plays {task}")
    if shown:
        show(cfg, agent, env)
    else:
        film(cfg, agent, env, folder)


def check_request(cfg: DictConfig, shown: bool) -> None:
    """Raises ValueError, before anything is built, for settings that cannot be shown or written."""
    check_size(*cfg.size)
    problem = None if shown else not_writable(Path(cfg.out))
    if problem is not None:
        raise ValueError(f"out={cfg.out} cannot be written ({problem.strerror})")


def play(cfg: DictConfig, agent: Player, env: TaskEnv) -> Iterator[None]:
    """Yields before each decision of each episode and after the last; prints each episode's return."""
    for episode in range(cfg.episodes):
        obs, _ = env.reset()
        returned, decisions, ended = 0.0, 0, False
        yield
        while not ended:
            action = agent.act(obs, env.task, search=cfg.search, simulations=cfg.simulations)
            obs, reward, terminated, truncated, _ = env.step(action)
            returned, decisions, ended = returned + reward, decisions + 1, terminated or truncated
            yield
        print(f"episode {episode + 1}: return {returned:.1f} in {decisions} decisions")


def film(cfg: DictConfig, agent: Player, env: TaskEnv, folder: Path) -> None:
    """Writes the mp4 and the GIF of the first ``seconds`` to a folder; a failure leaves no files behind."""
    frames = float("inf") if cfg.seconds is None else cfg.seconds * cfg.fps
    movie = Movie(folder / f"{env.task.replace('/', '_')}.mp4", *env.picture_size, fps=cfg.fps)
    try:
        for frame, _ in enumerate(play(cfg, agent, env)):
            if frame < frames:
                movie.add(env.render())
    except BaseException as error:
        movie.discard()
        if isinstance(error, (RuntimeError, NotImplementedError)):
            raise ImportError(f"no video was written: {error}") from error
        raise
    file = movie.finish()
    print(f"video {Path(cfg.out, file.name)}\ngif   {Path(cfg.out, write_gif(file).name)}")


def show(cfg: DictConfig, agent: Player, env: TaskEnv) -> None:
    """Shows a window, ``fps`` pictures per second, until it is closed or the episodes are over."""
    window = Window(f"{cfg.load}: {env.task}", *env.picture_size)
    try:
        for _ in play(cfg, agent, env):
            due = time.monotonic() + 1 / cfg.fps
            if not window.show(env.render()):
                return
            time.sleep(max(0.0, due - time.monotonic()))
    finally:
        window.close()


def is_agent(word: str) -> bool:
    """Whether the first word names an agent. It may have a '=', as checkpoints do, and is then no override: it exists,
    or what is before the '=' is no key."""
    key, equals, _ = word.partition("=")
    is_key = re.fullmatch(r"[+~]*(hydra/)?[\w.@]+", key) is not None
    return not word.startswith("-") and (not equals or not is_key or Path(word).exists())


def main(argv: list[str] | None = None) -> int | None:
    """The command; see ``ezm play --help``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        return refuse(f"ezm play AGENT: no agent is named; with the package come {', '.join(shipped())}")
    if is_agent(arguments[0]):
        arguments[0] = f"load={quoted(arguments[0])}"
    return hydra_main("play", run, arguments)
