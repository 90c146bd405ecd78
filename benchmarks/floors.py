"""Writes what knowing nothing is worth: the returns of random and of zero actions, measured on tasks of the Control
Suite and of Gymnasium.

    python -m benchmarks.floors > ezm_lightning/report/floors.csv     # about 5 minutes on a core

Random actions are uniform in [-1, 1], each held for 2 simulator steps as the presets do. 20 whole episodes of each. The
H1's are those that `benchmarks.humanoid_floors` has of the original assets. `ezm report` draws them, and its scores of
Control Suite and Gymnasium tasks start at the random return.
"""

from __future__ import annotations

import csv
import sys

import gymnasium

from benchmarks.humanoid_floors import ORIGINAL, ORIGINAL_ZERO
from ezm_lightning.envs.dmc.dims import DIMS
from ezm_lightning.envs.humanoidbench.suite import TASKS
from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.evaluation.episodes import floor_actors, play

DMC_SUCCESS = 1000  # an episode's steps, each paid at most 1
ACTION_REPEAT, SEED, EPISODES = 2, 10_000, 20
GYM = ("HalfCheetah-v5", "Hopper-v5", "BipedalWalker-v3", "LunarLander-v3?continuous=true")  # newt_cpu's
SLOW = ("dog", "humanoid", "quadruped", "swimmer", "lqr", "stacker", "manipulator")


def mean_return(task: str, episodes: int, *, random: bool) -> float:
    """The mean return of whole episodes, one a slot."""
    env = MultiTaskEnv([task], envs_per_task=episodes, action_repeat=ACTION_REPEAT, ignore_termination=True, seed=SEED)
    actor = floor_actors(env.action_dims, env.action_dim)["random" if random else "zero"]
    try:
        return float(play(env, actor, seed=SEED).honoured.mean())
    finally:
        env.close()


def main() -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("task", "random", "zero", "score_0", "score_1", "source"))
    control = (name for name in sorted(DIMS) if not name.startswith(SLOW))
    successes = {f"dmc/{name}": (DMC_SUCCESS, "benchmarks.floors") for name in control}
    for name in GYM:
        threshold = gymnasium.spec(name.partition("?")[0]).reward_threshold
        successes[f"gym/{name}"] = (threshold, "benchmarks.floors, reward_threshold of gymnasium")
    for task, success in successes.items():
        random, zero = (mean_return(task, EPISODES, random=random) for random in (True, False))
        writer.writerow((task, f"{random:.2f}", f"{zero:.2f}", f"{random:.2f}", *success))
        sys.stdout.flush()
    measured = [name for name in TASKS if name in ORIGINAL]
    for name in [*measured, *(name for name in TASKS if name not in ORIGINAL)]:
        published = (TASKS[name].random_score, TASKS[name].success_score)
        if name in ORIGINAL:
            numbers = (ORIGINAL[name].score, ORIGINAL_ZERO[name], *published, "benchmarks.humanoid_floors")
        else:
            numbers = ("", "", *published, "HumanoidBench")
        writer.writerow((f"hb/{name}", *numbers))


if __name__ == "__main__":
    main()
