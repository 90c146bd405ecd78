"""How fast the HumanoidBench tasks step: raw MuJoCo, the native batched environment, the original package.

    python -m benchmarks.humanoidbench                             # h1-walk, h1hand-walk, then the nine of Medium
    python -m benchmarks.humanoidbench --tasks h1-maze --slots 16 --threads 4

All of a task's ways run in turn, ``--repeats`` times; a line gives the median in environment steps (10 physics steps)
a second, and its ratio to the first line. Uniform actions, a new episode after each fall. The original is measured
where ``humanoid_bench`` can be imported.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np
import torch

from ezm_lightning.envs import MultiTaskEnv
from ezm_lightning.envs.humanoidbench.models import load_model
from ezm_lightning.envs.humanoidbench.suite import FRAME_SKIP, TASKS

MEDIUM = [f"hb/{name}" for name in TASKS if name.startswith("h1-")]
Run = Callable[[float], float]  # seconds -> environment steps a second


class Raw:
    """MjData of one model stepped by ``mj_step`` alone: what no environment can beat."""

    def __init__(self, task: str, slots: int, threads: int) -> None:
        self.model = load_model(task)
        self.data = [mujoco.MjData(self.model) for _ in range(slots)]
        self.chunks = np.array_split(np.arange(slots), threads)
        self.pool = ThreadPoolExecutor(threads)
        low, high = self.model.actuator_ctrlrange.T
        self.controls = np.random.default_rng(0).uniform(low, high, (64, slots, self.model.nu))
        for data in self.data:
            mujoco.mj_resetDataKeyframe(self.model, data, 0)

    def _advance(self, rows: np.ndarray, controls: np.ndarray) -> None:
        for row in rows:
            data = self.data[row]
            data.ctrl[:] = controls[row]
            mujoco.mj_step(self.model, data, FRAME_SKIP)
            if data.qpos[2] < 0.2:
                mujoco.mj_resetDataKeyframe(self.model, data, 0)

    def __call__(self, seconds: float) -> float:
        steps, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            controls = self.controls[steps % len(self.controls)]
            if len(self.chunks) == 1:
                self._advance(self.chunks[0], controls)
            else:
                list(self.pool.map(lambda rows, now=controls: self._advance(rows, now), self.chunks))
            steps += 1
        return steps * len(self.data) / (time.perf_counter() - started)


class Native:
    """``MultiTaskEnv``, called as the collector calls it."""

    def __init__(self, tasks: list[str], slots: int, threads: int) -> None:
        self.env = MultiTaskEnv(tasks, envs_per_task=slots, num_threads=threads)
        generator = torch.Generator().manual_seed(0)
        self.actions = torch.rand(64, *self.env.action_spec.shape, generator=generator) * 2 - 1
        self.td, self.busy, self.wall = self.env.reset(), 0.0, 0.0
        for group in self.env._groups:
            group.slots.step = self._timed(group.slots.step)

    def _timed(self, step: Callable) -> Callable:
        def timed(action: np.ndarray) -> object:
            started = time.thread_time()
            try:
                return step(action)
            finally:
                self.busy += time.thread_time() - started

        return timed

    def __call__(self, seconds: float) -> float:
        self.busy, steps, started = 0.0, 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            _, self.td = self.env.step_and_maybe_reset(self.td.set("action", self.actions[steps % 64]))
            steps += 1
        self.wall = time.perf_counter() - started
        return steps * self.env.num_slots / self.wall


class Original:
    """One environment of the original package in a loop of ``env.step``."""

    def __init__(self, task: str) -> None:
        from ezm_lightning.envs.gym import GymTask

        self.env = GymTask(f"{task}-v0").env
        self.env.reset(seed=0)
        self.actions = np.random.default_rng(0).uniform(-1, 1, (64, *self.env.action_space.shape)).astype(np.float32)

    def __call__(self, seconds: float) -> float:
        steps, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            _, _, terminated, truncated, _ = self.env.step(self.actions[steps % 64])
            steps += 1
            if terminated or truncated:
                self.env.reset()
        return steps / (time.perf_counter() - started)


def ways(task: str, slots: int, threads: int) -> dict[str, Run]:
    """Each way to step a task, by name."""
    runs: dict[str, Run] = {
        "mj_step, 1 thread": Raw(task, 1, 1),
        f"mj_step, {threads} threads, {slots} slots": Raw(task, slots, threads),
        f"native, {threads} threads, {slots} slots": Native([f"hb/{task}"], slots, threads),
    }
    try:
        runs["original, env.step"] = Original(task)
    except ImportError as error:
        print(f"original: not measured: {error}")
    return runs


def measure(runs: dict[str, Run], seconds: float, repeats: int) -> dict[str, float]:
    """Medians over repeats in which every way has its turn."""
    figures: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            figures[name].append(run(seconds))
    return {name: statistics.median(values) for name, values in figures.items()}


def busy_share(seconds: float, threads: int) -> float:
    """The share of their time for which the threads step the nine tasks of Medium, whose costs differ."""
    native = Native(MEDIUM, 8, threads)
    native(1.0)
    native(seconds)
    return native.busy / (threads * native.wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["h1-walk", "h1hand-walk"])
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"mujoco {mujoco.__version__}, torch {torch.__version__}, median of {options.repeats} x {options.seconds} s")
    for task in options.tasks:
        figures = measure(ways(task, options.slots, options.threads), options.seconds, options.repeats)
        first = next(iter(figures.values()))
        print(task)
        for name, value in figures.items():
            print(f"  {name:<34}{value:9.0f} steps/s {value / first:6.2f}")
    share = busy_share(options.seconds * options.repeats, options.threads)
    print(f"Medium, 9 tasks x 8 slots, {options.threads} threads: busy {share:.0%}")


if __name__ == "__main__":
    main()
