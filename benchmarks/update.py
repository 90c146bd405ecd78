"""One update as training makes it, phase by phase: targets, unroll and losses, backward, optimiser, target model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.profiler import record_function

from benchmarks.sizes import autocast as autocast_of
from benchmarks.sizes import given_targets, windows
from ezm_lightning.module import EZM
from ezm_lightning.types import Batch, Targets

PHASES = ("make_targets", "unroll", "backward", "optimiser", "target_model")


class Update:
    """An update on a batch on the module's device; ``autocast`` and ``backward`` can be replaced.

    With ``targets`` the phase that makes them is left out.
    """

    def __init__(
        self,
        cfg: DictConfig,
        module: EZM,
        batch: Batch,
        targets: Targets | None = None,
        *,
        autocast: Callable[[], AbstractContextManager] | None = None,
        backward: Callable[[Tensor], None] = Tensor.backward,
    ) -> None:
        self.module, self.batch, self.backward_of = module.train(), batch, backward
        self.clip, device = cfg.trainer.gradient_clip_val, batch.obs.device.type
        self.autocast = autocast or (lambda: autocast_of(cfg, device))
        self.optimizer = module.make_optimizer(module.model.parameters())
        self.phases = PHASES if targets is None else PHASES[1:]
        if targets is not None:
            self.targets = targets

    def __call__(self) -> None:
        for phase in self.phases:
            with record_function(phase):
                getattr(self, phase)()

    def make_targets(self) -> None:
        """New searches and n-step returns."""
        search_form, value_mix = self.module.target.search_form, self.module.value_mix
        self.targets, _ = self.module.reanalyzer(self.batch, search_form, value_mix, 0, self.module.generator)

    def unroll(self) -> None:
        """The model along the windows, and all losses."""
        shape = (*self.targets.value.shape, self.batch.action.shape[-1])
        noise = torch.randn(shape, generator=self.module.generator, device=self.batch.obs.device)
        with self.autocast():
            _, losses, _ = self.module.learn(self.batch, self.targets, noise)
            self.loss = self.module.weighted_loss(self.batch, losses).mean()

    def backward(self) -> None:
        """The gradients, which remain until the next update."""
        self.optimizer.zero_grad()
        self.backward_of(self.loss)

    def optimiser(self) -> None:
        """Clipping and one step."""
        torch.nn.utils.clip_grad_norm_(self.module.model.parameters(), self.clip)
        self.optimizer.step()

    def target_model(self) -> None:
        """The moving average, and the weights in the layout for search."""
        self.module.target.ema_update_(self.module.model)
        self.module.target.refresh_()


def update_of(cfg: DictConfig, module: EZM, batch_size: int, device: str) -> Update:
    """An update of ``batch_size`` random windows on given targets."""
    batch = windows(cfg, batch_size, device)
    return Update(cfg, module, batch, given_targets(batch, cfg.unroll_steps))
