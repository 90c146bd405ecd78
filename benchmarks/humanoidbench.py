"""How fast the HumanoidBench tasks step: raw MuJoCo, the native batched environment, the original package.

    python -m benchmarks.humanoidbench                             # h1-walk, h1hand-walk, then the nine of Medium
    python -m benchmarks.humanoidbench --tasks h1-maze --slots 16 --threads 4

All of a task's ways run in turn, ``--repeats`` times; a line gives the median in environment steps (10 physics steps)
a second, its ratio to the first line, and the share of their time that its threads spend stepping and resetting.
Uniform actions, a new episode after each fall. The original is measured where ``humanoid_bench`` can be imported.
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


class Way:
    """A way to step ``slots`` environments in ``threads`` threads; called with seconds, it gives steps a second."""

    slots = threads = 1
    _working: list[float]  # seconds of a thread, each
    busy = 0.0  # the share of the threads' time, as wall-clock has it, that the last call spent in ``timed``

    def step(self, number: int) -> None:
        """One step of every environment."""
        raise NotImplementedError

    def timed(self, function: Callable) -> Callable:
        """The function, with the processor time of its thread counted."""

        def wrapped(*arguments: object) -> object:
            started = time.thread_time()
            try:
                return function(*arguments)
            finally:
                self._working.append(time.thread_time() - started)  # by any thread

        return wrapped

    def __call__(self, seconds: float) -> float:
        self._working, steps, started = [], 0, time.perf_counter()
        while (wall := time.perf_counter() - started) < seconds:
            self.step(steps)
            steps += 1
        self.busy = sum(self._working) / (self.threads * wall)
        return steps * self.slots / wall


class Raw(Way):
    """MjData of one model stepped by ``mj_step`` alone, each thread its own share of them."""

    def __init__(self, task: str, slots: int, threads: int) -> None:
        self.model, self.slots, self.threads = load_model(task), slots, threads
        self.data = [mujoco.MjData(self.model) for _ in range(slots)]
        self.chunks = np.array_split(np.arange(slots), threads)
        self.pool = ThreadPoolExecutor(threads)
        self.advance = self.timed(self._advance)
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

    def step(self, number: int) -> None:
        controls = self.controls[number % len(self.controls)]
        if self.threads == 1:
            self.advance(self.chunks[0], controls)
        else:
            list(self.pool.map(lambda rows: self.advance(rows, controls), self.chunks))


class Native(Way):
    """``MultiTaskEnv``, called as the collector calls it; busy are threads that step or reset simulators."""

    def __init__(self, tasks: list[str], slots: int, threads: int) -> None:
        self.env = MultiTaskEnv(tasks, envs_per_task=slots, num_threads=threads)
        self.slots, self.threads = self.env.num_slots, threads
        generator = torch.Generator().manual_seed(0)
        self.actions = torch.rand(64, *self.env.action_spec.shape, generator=generator) * 2 - 1
        self.td = self.env.reset()
        for group in self.env._groups:
            group.slots.advance = self.timed(group.slots.advance)
            group.slots.settle = self.timed(group.slots.settle)
            group.slots.reset = self.timed(group.slots.reset)

    def step(self, number: int) -> None:
        _, self.td = self.env.step_and_maybe_reset(self.td.set("action", self.actions[number % 64]))


class Original(Way):
    """One environment of the original package in a loop of ``env.step``."""

    def __init__(self, task: str) -> None:
        from ezm_lightning.envs.gym import make

        self.env = make(f"{task}-v0", 1, action_repeat=1, ignore_termination=False).simulators[0].env
        self.env.reset(seed=0)
        self.advance = self.timed(self.env.step)
        self.actions = np.random.default_rng(0).uniform(-1, 1, (64, *self.env.action_space.shape)).astype(np.float32)

    def step(self, number: int) -> None:
        _, _, terminated, truncated, _ = self.advance(self.actions[number % 64])
        if terminated or truncated:
            self.env.reset()


def ways(task: str, slots: int, threads: int) -> dict[str, Way]:
    """Each way to step a task, by name."""
    runs: dict[str, Way] = {
        "mj_step, 1 thread": Raw(task, 1, 1),
        f"mj_step, {threads} threads, {slots} slots": Raw(task, slots, threads),
        f"native, {threads} threads, {slots} slots": Native([f"hb/{task}"], slots, threads),
    }
    try:
        runs["original, env.step"] = Original(task)
    except ImportError as error:
        print(f"original: not measured: {error}")
    return runs


def measure(runs: dict[str, Way], seconds: float, repeats: int) -> dict[str, tuple[float, float]]:
    """Steps a second and the busy share: medians over repeats in which every way has its turn."""
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            figures[name].append((run(seconds), run.busy))
    return {name: tuple(map(statistics.median, zip(*values, strict=True))) for name, values in figures.items()}


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
        first, _ = next(iter(figures.values()))
        print(task)
        for name, (rate, busy) in figures.items():
            print(f"  {name:<34}{rate:9.0f} steps/s {rate / first:6.2f}   busy {busy:.0%}")
    medium = {"Medium, 9 tasks x 8 slots": Native(MEDIUM, 8, options.threads)}
    for name, (rate, busy) in measure(medium, options.seconds, options.repeats).items():
        print(f"{name:<36}{rate:9.0f} steps/s          busy {busy:.0%}")


if __name__ == "__main__":
    main()
