"""What knowing nothing is worth: returns and lengths of random and of zero actions on the nine h1 tasks.

    python -m benchmarks.humanoid_floors --assets builtin               # the robot this project makes: minutes
    python -m benchmarks.humanoid_floors --assets .../humanoid_bench/assets --tasks h1-walk --episodes 200

Random actions are uniform in [-1, 1]; an episode ends at the task's own termination or after 1000 steps. Each mean
comes with its standard error, beside the original's figures and the distance to them in combined standard errors:
|z| above 3 in several tasks means that two models move differently.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ezm_lightning.envs.humanoidbench.assets import VARIABLE
from ezm_lightning.envs.slots import Slots
from ezm_lightning.envs.sources import make_slots

ACTION_DIM = 19
Policy = Callable[[], np.ndarray]  # an action [1, 19]


class Floor(NamedTuple):
    """Mean and standard error of return and length."""

    score: float
    score_error: float
    length: float
    length_error: float


# This program on HumanoidBench's own assets, MuJoCo 3.17.0: the random policy, 240 episodes (crawl 60) ...
ORIGINAL = {
    "h1-stand": Floor(16.99, 0.44, 56.7, 1.6),
    "h1-walk": Floor(4.18, 0.14, 56.7, 1.6),
    "h1-run": Floor(3.19, 0.09, 56.7, 1.6),
    "h1-stair": Floor(5.23, 0.15, 48.0, 1.0),
    "h1-crawl": Floor(300.81, 10.48, 1000.0, 0.0),
    "h1-slide": Floor(5.18, 0.23, 44.5, 1.0),
    "h1-pole": Floor(22.12, 0.66, 45.3, 1.1),
    "h1-hurdle": Floor(3.45, 0.10, 71.8, 1.9),
    "h1-maze": Floor(107.72, 0.20, 71.6, 2.1),
}
# ... and zero actions: the return of 6 episodes.
ORIGINAL_ZERO = {
    "h1-stand": 34.0,
    "h1-walk": 6.2,
    "h1-run": 6.1,
    "h1-stair": 8.3,
    "h1-crawl": 291.8,
    "h1-slide": 8.3,
    "h1-pole": 484.0,
    "h1-hurdle": 17.9,
    "h1-maze": 120.7,
}


def run_episode(slots: Slots, policy: Policy) -> tuple[float, int]:
    """Return and length of one new episode of the single slot."""
    slots.reset([0])
    score, length, over = 0.0, 0, False
    while not over:
        result = slots.step(policy())
        score, length = score + float(result.reward[0]), length + result.steps
        over = bool(result.termination[0] or result.truncated[0])
    return score, length


def measure(task: str, episodes: int, policy: Policy) -> Floor:
    """The floor over independent episodes, one after the other: none is cut off or counted by how early it ends."""
    slots = make_slots(f"hb/{task}", 1, action_repeat=1, ignore_termination=False)
    slots.seed([0])
    scores, lengths = zip(*(run_episode(slots, policy) for _ in range(episodes)), strict=True)
    return Floor(*_mean(scores), *_mean(lengths))


def _mean(values: Sequence[float]) -> tuple[float, float]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return statistics.fmean(values), error


def _distance(mean: float, error: float, other: float, other_error: float) -> str:
    combined = math.hypot(error, other_error)
    return f"{(mean - other) / combined:+.1f}" if 0 < combined < math.inf else "-"


HEADER = (
    f"{'':12}{'random':>16}{'original':>16}{'z':>6}{'length':>16}{'original':>16}{'z':>6}{'zero':>8}{'original':>10}"
)


def line(task: str, random: Floor, zero: Floor) -> str:
    """A task's line of the table, beside the original's figures."""
    known = ORIGINAL[task]
    score, length = (random.score, random.score_error), (random.length, random.length_error)
    known_score, known_length = (known.score, known.score_error), (known.length, known.length_error)
    cells = [f"{mean:.2f} ± {error:.2f}" for mean, error in (score, known_score, length, known_length)]
    return (
        f"{task:12}{cells[0]:>16}{cells[1]:>16}{_distance(*score, *known_score):>6}"
        f"{cells[2]:>16}{cells[3]:>16}{_distance(*length, *known_length):>6}"
        f"{zero.score:8.1f}{ORIGINAL_ZERO[task]:10.1f}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", help=f"a folder, or 'builtin'; default: what is installed, or {VARIABLE}")
    parser.add_argument("--tasks", nargs="+", default=list(ORIGINAL), choices=list(ORIGINAL), metavar="TASK")
    parser.add_argument("--episodes", type=int, default=60, help="of the random policy; crawl, 1000 steps, a third")
    parser.add_argument("--zero-episodes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of the random actions")
    args = parser.parse_args(argv)
    if args.assets:
        os.environ[VARIABLE] = args.assets
    print(HEADER)
    for task in args.tasks:
        rng = np.random.default_rng(args.seed)
        episodes = max(2, args.episodes // 3) if task == "h1-crawl" else args.episodes
        random = measure(task, episodes, lambda rng=rng: rng.uniform(-1, 1, (1, ACTION_DIM)))
        zero = measure(task, args.zero_episodes, lambda: np.zeros((1, ACTION_DIM)))
        print(line(task, random, zero), flush=True)


if __name__ == "__main__":
    main()
