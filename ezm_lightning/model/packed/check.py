"""Whether a packed model computes what the world model computes, also one of a user's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ezm_lightning.model.inference import Inference
from ezm_lightning.model.packed.model import PackedModel
from ezm_lightning.model.world_model import WorldModel

TOLERANCE = {torch.float64: 1e-2, torch.float32: 1e-2}  # of a difference divided by 1 + the size; 0.1 of half precision
WHERE = "change both, see docs/extend.md, A network of your own"
ROOTS, COLUMNS = 4, 3


@torch.no_grad()
def check_packed(model: WorldModel, pack: Callable[[WorldModel], PackedModel]) -> None:
    """Raises ValueError, with what differs, unless ``pack`` makes a model that answers as ``model`` does.

    Both are asked at random inputs. Weights that are all 0, as those of heads are at first, are drawn at random in a
    copy. A model on device 'meta' has no numbers and passes.
    """
    if model.action_mask.is_meta:
        return
    generator = torch.Generator().manual_seed(0)
    model = copy.deepcopy(model).cpu().eval()
    for weight in model.parameters():
        if not weight.any():
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5)
    try:
        packed = pack(model)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if type(model) is WorldModel:
            raise
        raise ValueError(
            f"{type(model).__name__} has layers that its packed copy, which searches, does not know ({error}): {WHERE}"
        ) from error
    task = torch.arange(ROOTS) % model.num_tasks
    obs = torch.randn(ROOTS, model.obs_mask.shape[1], generator=generator) * model.obs_mask[task]
    action = torch.rand(ROOTS, COLUMNS, model.action_mask.shape[1], generator=generator) * 2 - 1
    inputs = task, obs, action * model.action_mask[task][:, None]
    for (name, theirs), (_, ours) in zip(_answers(packed, *inputs), _answers(model, *inputs), strict=True):
        difference = ((theirs.float() - ours).abs() / (1 + ours.abs())).max().item()
        if not difference <= TOLERANCE.get(packed.dtype, 0.1):
            raise ValueError(
                f"the packed copy of {type(model).__name__}, which searches, has another {name} than the model "
                f"(by {difference:.2g}): {WHERE}"
            )


def _answers(model: Inference, task: Tensor, obs: Tensor, action: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What a model says at observations [B, D] and after actions [B, k, A], by name."""
    root = model.initial_inference(obs, task)
    heads = torch.arange(COLUMNS)[:, None] % model.num_value_heads
    latent = root.latent[:, None].expand(-1, COLUMNS, -1)
    step = model.recurrent_inference(latent, action, model.embed(task), heads)
    yield "latent", root.latent
    yield "value", root.head_values
    yield "policy", model.policy(root.policy_input)[0]
    yield "reward", step.reward
    yield "latent of the next step", step.latent
    yield "value of the next step", step.head_values
