"""``python -m benchmarks update``, ``reanalyze`` and ``decision``: what the learner does with a batch."""

from __future__ import annotations

import torch
from omegaconf import DictConfig

from benchmarks import tdmpc2_peer
from benchmarks.arguments import Arguments
from benchmarks.measure import Call, Row, Timer, against_products, count_flops, measured
from benchmarks.search import plan_call
from benchmarks.sizes import compile_override, config, make_learner, planner_of, windows
from benchmarks.update import Update, update_of
from ezm_lightning.envs.sources import resolve_tasks
from ezm_lightning.model import Inference
from ezm_lightning.module import EZM
from ezm_lightning.types import Batch, Targets

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}
COUNTED = 2  # windows in the batch whose FLOPs are counted: the fewest that batch norms take


def update_rows(arguments: Arguments, timer: Timer) -> list[Row]:
    """One row a batch size: a whole update on given targets."""
    options, device = arguments.options, arguments.device
    cfg = config(options["size"], *compile_override("module", options["compile"]), device=device)
    module, dtype = make_learner(cfg, device), PRECISIONS[cfg.trainer.precision]
    per_window = count_flops(update_of(cfg, module, COUNTED, device)) / COUNTED
    calls = {size: update_of(cfg, module, size, device) for size in options["batch"]}
    return [_row(arguments, timer, module, size, call, per_window * size, dtype) for size, call in calls.items()]


def reanalyze_rows(arguments: Arguments, timer: Timer) -> list[Row]:
    """One row a batch size: the targets of a batch, the searches of all its windows included."""
    options, device = arguments.options, arguments.device
    compiled = compile_override("planner", options["compile"])
    cfg = config(options["size"], "reanalyzer.ratio=1.0", *compiled, device=device)
    module, few = make_learner(cfg, device).eval(), windows(cfg, COUNTED, device)
    dtype = module.target.search_form.dtype
    per_window = count_flops(lambda: _targets(module, few, module.target.model)) / COUNTED
    calls = {size: reanalyze_call(cfg, module, size, device) for size in options["batch"]}
    return [_row(arguments, timer, module, size, call, per_window * size, dtype) for size, call in calls.items()]


def decision_rows(arguments: Arguments, timer: Timer) -> list[Row]:
    """One row: plan and update of a decision in training, where one plan serves several environments."""
    options = arguments.options
    if arguments.device != "cpu":
        raise ValueError(f"device={arguments.device}: a decision is measured on a CPU; nearest: cpu")
    cfg = config("dmc_cpu", f"tasks=[{options['task']}]")
    (spec,) = resolve_tasks(list(cfg.tasks.names))
    module = make_learner(cfg, "cpu")
    update = Update(cfg, module, windows(cfg, cfg.batch_size, "cpu"))
    plan = plan_call(cfg, module.target.search_form, planner_of(cfg), cfg.envs_per_task, "cpu")

    def decisions() -> None:
        for _ in range(cfg.envs_per_task):
            update()
        plan()

    peer = options["against"]
    peers = [tdmpc2_peer.decision_call(options["source"] or "", spec.obs_dim, spec.action_dim)] if peer else []
    ours, floor, others = against_products(timer, decisions, *peers, flops=count_flops(decisions))
    return [
        measured(
            arguments,
            size="dmc_cpu",
            batch=cfg.batch_size,
            ms=ours / cfg.envs_per_task,
            floor=floor / cfg.envs_per_task,
            peer=peer,
            peer_ms=others[0] if peer else None,
        )
    ]


def reanalyze_call(cfg: DictConfig, module: EZM, batch_size: int, device: str) -> Call:
    """The targets of ``batch_size`` random windows."""
    batch = windows(cfg, batch_size, device)
    return lambda: _targets(module, batch, module.target.search_form)


def _targets(module: EZM, batch: Batch, model: Inference) -> Targets:
    targets, _ = module.reanalyzer(batch, model, module.value_mix, 0, module.generator)
    return targets


def _row(
    arguments: Arguments,
    timer: Timer,
    module: EZM,
    batch_size: int,
    call: Call,
    flops: float,
    dtype: torch.dtype,
) -> Row:
    ours, floor, _ = against_products(timer, call, flops=flops, dtype=dtype)
    parameters = sum(p.numel() for p in module.model.parameters())
    return measured(
        arguments, size=arguments.options["size"], batch=batch_size, ms=ours, floor=floor, parameters=parameters
    )
