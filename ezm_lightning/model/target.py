"""The slow copy of a world model, and its packed form for search."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ezm_lightning.model.packed import PackedModel
from ezm_lightning.model.world_model import WorldModel


class TargetModel(nn.Module):
    """An exponential moving average of a world model; ``half_life`` in updates.

    A caller of :meth:`ema_update_` calls :meth:`refresh_` too, so that searches read the new weights. The target is
    always in eval mode and takes no gradient.
    """

    def __init__(
        self,
        model: WorldModel,
        *,
        half_life: float,
        make_search_form: Callable[[WorldModel], PackedModel] = PackedModel,
    ) -> None:
        super().__init__()
        if half_life <= 0:
            raise ValueError(f"ema_half_life={half_life} must be positive (in optimiser steps)")
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay, self.make_search_form = 0.5 ** (1 / half_life), make_search_form
        self._search_form: PackedModel | None = None
        self._pairs: tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]] | None = None
        self.register_load_state_dict_post_hook(_refresh_after_loading)

    @property
    def search_form(self) -> PackedModel:
        """The weights laid out for search, made at first use. Acting and reanalyzing share them."""
        if self._search_form is None:  # on the device that training runs on
            self._search_form = self.make_search_form(self.model)
        return self._search_form

    @torch.no_grad()
    def ema_update_(self, model: WorldModel) -> None:
        """Moves one update towards ``model``; its buffers (statistics of batch norms and observations) are copied."""
        if self._pairs is None:  # kept: the lookup takes as long as moving the weights of a small model
            statistics = list(zip(self.model.buffers(), model.buffers(), strict=True))
            self._pairs = list(self.model.parameters()), list(model.parameters()), statistics
        slow, fast, statistics = self._pairs
        torch._foreach_lerp_(slow, fast, 1 - self.decay)
        for slow_buffer, fast_buffer in statistics:
            slow_buffer.copy_(fast_buffer)

    def refresh_(self) -> None:
        """Copies today's weights to the form that searches read."""
        if self._search_form is not None:
            self._search_form.refresh_()

    def train(self, mode: bool = True) -> TargetModel:
        """The target stays in eval mode whatever ``mode`` is."""
        return super().train(False)

    def _apply(self, *args: Any, **kwargs: Any) -> TargetModel:
        self._pairs = self._search_form = None  # on another device there are other tensors
        return super()._apply(*args, **kwargs)


def _refresh_after_loading(target: TargetModel, _: object) -> None:
    target.refresh_()
