"""``python -m benchmarks update`` and ``reanalyze``: what the learner does with a batch."""

from __future__ import annotations

import torch
from omegaconf import DictConfig

from benchmarks.arguments import Arguments
from benchmarks.measure import Call, Row, Timer, against_products, count_flops, measured
from benchmarks.sizes import autocast, compile_override, config, given_targets, make_learner, windows
from ezm_lightning.model import Inference
from ezm_lightning.module import EZM
from ezm_lightning.types import Batch, Targets

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}
COUNTED = 2  # windows in the batch whose FLOPs are counted: the fewest that batch norms take


def update_rows(arguments: Arguments, timer: Timer) -> list[Row]:
    """One row a batch size: a whole update on given targets."""
    own, device = arguments.own, arguments.device
    cfg = config(own["size"], *compile_override("module", own["compile"]), device=device)
    module, dtype = make_learner(cfg, device), PRECISIONS[cfg.trainer.precision]
    per_window = count_flops(UpdateCall(cfg, module, COUNTED, device)) / COUNTED
    calls = {size: UpdateCall(cfg, module, size, device) for size in own["batch"]}
    return [_row(arguments, timer, module, size, call, per_window * size, dtype) for size, call in calls.items()]


def reanalyze_rows(arguments: Arguments, timer: Timer) -> list[Row]:
    """One row a batch size: the targets of a batch, the searches of all its windows included."""
    own, device = arguments.own, arguments.device
    cfg = config(own["size"], "reanalyzer.ratio=1.0", *compile_override("planner", own["compile"]), device=device)
    module, few = make_learner(cfg, device).eval(), windows(cfg, COUNTED, device)
    dtype = module.target.search_form.dtype
    per_window = count_flops(lambda: _targets(module, few, module.target.model)) / COUNTED
    calls = {size: reanalyze_call(cfg, module, size, device) for size in own["batch"]}
    return [_row(arguments, timer, module, size, call, per_window * size, dtype) for size, call in calls.items()]


class UpdateCall:
    """One update: unroll, losses, backward, clipping, optimiser, target model."""

    def __init__(self, cfg: DictConfig, module: EZM, batch_size: int, device: str) -> None:
        self.module, self.clip = module.train(), cfg.trainer.gradient_clip_val
        self.autocast = autocast(cfg, device)
        self.batch = windows(cfg, batch_size, device)
        self.targets = given_targets(self.batch, cfg.unroll_steps)
        self.optimizer = module.make_optimizer(module.model.parameters())

    def __call__(self) -> None:
        module, batch = self.module, self.batch
        shape = self.targets.action.squeeze(2).shape
        noise = torch.randn(shape, generator=module.generator, device=module.device)
        with self.autocast:
            _, losses, _ = module.learn(batch, self.targets, noise)
            loss = module.weighted_loss(batch, losses).mean()
        self.loss = loss.detach()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.model.parameters(), self.clip)
        self.optimizer.step()
        module.target.ema_update_(module.model)
        module.target.refresh_()


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
        arguments, size=arguments.own["size"], batch=batch_size, ms=ours, floor=floor, parameters=parameters
    )
