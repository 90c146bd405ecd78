"""One update as training makes it, phase by phase: targets, unroll and losses, backward, optimiser, target model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.profiler import record_function

from benchmarks.sizes import autocast as autocast_of
from ezm_lightning.module import EZM
from ezm_lightning.types import Batch

PHASES = ("targets", "unroll", "backward", "optimiser", "target_model")


class WholeUpdate:
    """An update on a batch that lies on the module's device; ``autocast`` and ``backward`` can be replaced."""

    def __init__(
        self,
        cfg: DictConfig,
        module: EZM,
        batch: Batch,
        *,
        autocast: Callable[[], AbstractContextManager] | None = None,
        backward: Callable[[Tensor], None] = Tensor.backward,
    ) -> None:
        self.module, self.batch, self.backward_of = module.train(), batch, backward
        self.clip, device = cfg.trainer.gradient_clip_val, batch.obs.device.type
        self.autocast = autocast or (lambda: autocast_of(cfg, device))
        self.optimizer_ = module.make_optimizer(module.model.parameters())

    def __call__(self) -> None:
        for phase in PHASES:
            with record_function(phase):
                getattr(self, phase)()

    def targets(self) -> None:
        """New searches, and the values of n steps ahead."""
        module = self.module
        self.made, _ = module.reanalyzer(self.batch, module.target.search_form, module.value_mix, 0, module.generator)

    def unroll(self) -> None:
        """The model along the windows, and all losses."""
        shape = (*self.made.value.shape, self.batch.action.shape[-1])
        noise = torch.randn(shape, generator=self.module.generator, device=self.batch.obs.device)
        with self.autocast():
            _, losses, _ = self.module.learn(self.batch, self.made, noise)
            self.loss = self.module.weighted_loss(self.batch, losses).mean()

    def backward(self) -> None:
        """The gradients."""
        self.backward_of(self.loss)

    def optimiser(self) -> None:
        """Clipping and one step."""
        torch.nn.utils.clip_grad_norm_(self.module.model.parameters(), self.clip)
        self.optimizer_.step()
        self.optimizer_.zero_grad()

    def target_model(self) -> None:
        """The average, and the weights laid out for search."""
        self.module.target.ema_update_(self.module.model)
        self.module.target.refresh_()
