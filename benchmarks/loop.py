"""``python -m benchmarks env``, ``collect`` and ``train``: the simulators, and the loop around them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import lightning as L
import mujoco
import numpy as np
import psutil

from benchmarks.arguments import Arguments
from benchmarks.measure import Call, Row, Timer, against_products, count_flops, measured
from benchmarks.search import search_flops
from benchmarks.sizes import config, make_learner
from ezm_lightning.build import make_callbacks, make_env, make_replay, make_trainer
from ezm_lightning.callbacks import find
from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.config.given import env_steps_for
from ezm_lightning.datamodule import ReplayDataModule
from ezm_lightning.envs.humanoidbench.slots import FRAME_SKIP
from ezm_lightning.envs.multitask import MultiTaskEnv

STEPS = 25  # vector steps a call


def env_rows(arguments: Arguments, timer: Timer) -> list[Row]:
    """One row a number of slots; the floor is MuJoCo's own step of the same models, in a loop."""
    options, rows = arguments.options, []
    for slots in options["batch"]:
        sizes = {"envs_per_task": slots, "action_repeat": options["action_repeat"]}
        env, other = (MultiTaskEnv([options["task"]], seed=seed, **sizes) for seed in (0, 1))
        ours, floor = (ms / STEPS for ms in timer.medians(env_steps(env), raw_steps(other)))
        row = measured(
            arguments,
            size=options["task"],
            batch=slots,
            ms=ours,
            floor=floor,
            packages=("mujoco", "torchrl"),
            peer=options["against"],
            peer_ms=floor,
        )
        rows.append(row)
    return rows


def env_steps(env: MultiTaskEnv) -> Call:
    """25 vector steps with random actions, resets included."""
    state, actions = env.reset(), [env.action_spec.rand() for _ in range(STEPS)]

    def call() -> None:
        nonlocal state
        for action in actions:
            _, state = env.step_and_maybe_reset(state.set("action", action))

    return call


def raw_steps(env: MultiTaskEnv) -> Call:
    """As many steps of the same models' physics alone, with random controls."""
    env.reset()
    physics = [physics for group in env._groups for physics in _physics(group.slots)]
    random = np.random.default_rng(0)

    def call() -> None:
        for _ in range(STEPS):
            for model, data, substeps in physics:
                data.ctrl[:] = random.uniform(-1, 1, model.nu)
                mujoco.mj_step(model, data, substeps * env.action_repeat)

    return call


def _physics(slots: Any) -> list[tuple[Any, Any, int]]:
    """(model, data, physics steps a simulator step) of each row. Raises ValueError where there is no MuJoCo model."""
    if hasattr(slots, "model"):  # HumanoidBench
        return [(slots.model, data, FRAME_SKIP) for data in slots.data]
    simulators = []
    for simulator in slots.simulators:
        if hasattr(simulator, "physics"):  # the Control Suite
            simulators.append((simulator.physics.model.ptr, simulator.physics.data.ptr, simulator.num_substeps))
        elif hasattr(simulator, "env") and hasattr(simulator.env.unwrapped, "frame_skip"):  # Gymnasium
            env = simulator.env.unwrapped
            simulators.append((env.model, env.data, env.frame_skip))
        else:
            raise ValueError(f"task={slots.spec.name} has no MuJoCo model to step; nearest: dmc/walker-walk")
    return simulators


class Stage:
    """A run as ``ezm train`` has it, without logs, checkpoints and evaluation."""

    def __init__(self, arguments: Arguments, updates: int, *overrides: str) -> None:
        off = ("logger=none", "callbacks.evaluate=null", "callbacks.checkpoint=null", "callbacks.progress=null")
        given = (*off, *overrides)
        budget = env_steps_for(updates, config(arguments.options["size"], *given, device=arguments.device))
        size = arguments.options["size"]
        self.cfg = config(size, *given, f"env_steps_per_task={budget}", device=arguments.device)
        self.env = make_env(self.cfg)
        self.module = make_learner(self.cfg, "cpu")
        self.replay = make_replay(self.cfg, self.env, self.module, 0, 1)
        self.parameters = sum(p.numel() for p in self.module.model.parameters())

    def fit(self, *callbacks: L.Callback) -> None:
        """Trains for as many updates as were asked for; ``callbacks`` stand before the run's own."""
        run_callbacks = make_callbacks(self.cfg, self.env)
        self.trainer = make_trainer(self.cfg, [*callbacks, *run_callbacks])
        self.collect = find(self.trainer, Collect)
        self.trainer.fit(self.module, datamodule=ReplayDataModule(self.replay))

    def search_flops(self) -> float:
        return search_flops(self.cfg, self.module.target.model, self.module.reanalyzer.planner)


def collect_rows(arguments: Arguments, timer: Timer) -> list[Row]:
    """One row a number of slots; the floor is that of the search and the physics."""
    return [_collect_row(arguments, timer, slots) for slots in arguments.options["batch"]]


def _collect_row(arguments: Arguments, timer: Timer, slots: int) -> Row:
    stage = Stage(arguments, 1, f"envs_per_task={slots}", "tasks=[dmc/walker-walk]", "warmup_env_steps=100")
    flops = stage.search_flops() * slots
    physics = raw_steps(make_env(stage.cfg))
    at_end = AtEnd(lambda: against_products(timer, lambda: stage.collect.collect(stage.trainer), physics, flops=flops))
    stage.fit(at_end)
    ours, floor, (raw,) = at_end.result
    return measured(
        arguments,
        size=arguments.options["size"],
        batch=slots,
        ms=ours,
        floor=floor + raw / STEPS,
        packages=("mujoco", "torchrl", "lightning"),
        parameters=stage.parameters,
    )


class AtEnd(L.Callback):
    """Calls a function while the collector still runs."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.result = self.function()


class Stopwatch(L.Callback):
    """Seconds that the host spends in the loop's parts; stands first among the callbacks.

    An update is the training step, backward, clipping, the optimiser and the target model's average.
    """

    def __init__(self, timer: Timer, stage: Stage) -> None:
        self.timer, self.stage = timer, stage
        self.parts: dict[str, float] = {}
        self.updates: list[float] = []  # seconds from one update's end to the next
        self.started = 0.0
        stage.replay.sample = self.timed("draw", stage.replay.sample)  # type: ignore[method-assign]

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its seconds added to a part."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            start = self.timer.clock()
            try:
                return function(*args, **kwargs)
            finally:
                self.parts[part] = self.parts.get(part, 0.0) + self.timer.clock() - start

        return wrapped

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        stage: Any = self.stage
        stage.module.update_target_ = self.timed("update", stage.module.update_target_)
        stage.collect.actor.act = self.timed("acting", stage.collect.actor.act)
        stage.env.step_and_maybe_reset = self.timed("env", stage.env.step_and_maybe_reset)
        stage.replay.extend = self.timed("store", stage.replay.extend)
        self.env_steps = int(stage.env.env_steps.sum())
        self.began = self.last = self.timer.now()

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = self.timer.clock()

    def on_train_batch_end(self, *_: Any) -> None:
        now = self.timer.clock()
        self.parts["update"] = self.parts.get("update", 0.0) + now - self.started
        self.updates.append(now - self.last)
        self.last = now

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds = self.timer.now() - self.began
        self.env_steps = int(self.stage.env.env_steps.sum()) - self.env_steps


def train_rows(arguments: Arguments, timer: Timer) -> list[Row]:
    """One row: training from the first update on, evaluation and logs left out."""
    return [train_row(arguments, timer)]


def train_row(arguments: Arguments, timer: Timer, *overrides: str) -> Row:
    """That row, with overrides of the size's config."""
    updates = arguments.options["updates"]
    stage = Stage(arguments, updates, "replay.capacity=50_000", *overrides)
    watch = Stopwatch(timer, stage)
    stage.fit(watch)
    flops = _flops_per_update(stage, watch.env_steps / updates)
    _, floor, _ = against_products(timer, lambda: None, flops=flops)
    shares = {f"{part}_share": seconds / watch.seconds for part, seconds in sorted(watch.parts.items())}
    busy = watch.parts["update"] + watch.parts.get("acting", 0.0)
    return measured(
        arguments,
        size=arguments.options["size"],
        batch=stage.cfg.batch_size,
        ms=1e3 * statistics.median(watch.updates[1:]),
        floor=floor,
        packages=("torchrl", "lightning", "mujoco"),
        parameters=stage.parameters,
        details={
            "updates_per_s": updates / watch.seconds,
            "env_steps_per_s": watch.env_steps / watch.seconds,
            "search_and_update_share": busy / watch.seconds,
            **shares,
            "learner_waits_share": 1 - watch.parts["update"] / watch.seconds,
            "memory_gb": psutil.Process().memory_info().rss / 1e9,
        },
    )


def _flops_per_update(stage: Stage, env_steps: float) -> float:
    """FLOPs of an update, of its fresh searches, and of the searches that act meanwhile."""
    from benchmarks.learner import COUNTED
    from benchmarks.update import update_of

    cfg, roots = stage.cfg, stage.search_flops()
    module = stage.module.train()
    update = count_flops(update_of(cfg, module, COUNTED, "cpu")) / COUNTED * cfg.batch_size
    searches = cfg.reanalyzer.ratio * cfg.batch_size * (cfg.unroll_steps + 1) + env_steps / cfg.tasks.action_repeat
    return update + searches * roots
