"""Small agents and batches, and the update in three forms: one optimiser on the sum of the losses, three optimisers
that read the critics as they were, and three in the published order."""

from types import SimpleNamespace

import torch
from tensordict import TensorDict
from torch import Tensor

from ezm_lightning.brc import BRC
from ezm_lightning.types import Batch

OBS_DIMS, ACTION_DIMS = (5, 3, 4), (2, 1, 3)


def make_brc(*, seed: int = 0, scale: float | None = 10.0, **changes) -> BRC:
    """A small agent in training, its trainer a stub that never logs; every task's return-to-go has been ``scale``."""
    torch.manual_seed(seed)
    sizes = {"obs_dims": OBS_DIMS, "action_dims": ACTION_DIMS, "width": 16, "actor_width": 16}
    module = BRC(**{**sizes, "seed": seed, **changes})
    module._trainer = SimpleNamespace(global_step=1, log_every_n_steps=1000, global_rank=0, world_size=1)
    module.on_fit_start()
    if scale is not None:
        for task in range(len(module.action_mask)):
            module.reward_scale.update_(task, torch.tensor([scale]), terminated=True)
    return module


def act(module: BRC, obs: Tensor, task: Tensor, *, explore: bool = False, seed: int = 0) -> Tensor:
    """The module's actions."""
    return module.make_actor().act(obs, task, torch.Generator().manual_seed(seed), explore=explore)["action"]


def make_windows(*, rows: int = 12, seed: int = 0, obs_dims=OBS_DIMS, action_dims=ACTION_DIMS, **changes) -> Batch:
    """Windows of three rows of random numbers, padded with 0; every third one terminates at its second row."""
    g = torch.Generator().manual_seed(seed)
    task = torch.arange(rows) % len(obs_dims)
    has = [torch.arange(max(dims)) < torch.tensor(dims)[task, None, None] for dims in (obs_dims, action_dims)]
    final = torch.zeros(rows, 3, dtype=torch.bool)
    final[::3, 1] = True
    fields = {
        "obs": torch.randn(rows, 3, max(obs_dims), generator=g) * has[0],
        "action": (torch.rand(rows, 3, max(action_dims), generator=g) * 2 - 1) * has[1],
        "reward": torch.randn(rows, 3, generator=g),
        "valid": torch.ones(rows, 3, dtype=torch.bool),
        "final": final,
        "extras": TensorDict({}, batch_size=[rows, 3]),
        "task": task,
        "age": torch.zeros(rows, dtype=torch.int64),
        "weight": torch.ones(rows),
        "index": torch.arange(rows),
        "demo": torch.zeros(rows, dtype=torch.bool),
    }
    return Batch(**{**fields, **changes}, batch_size=[rows])


def update_(module: BRC, optimizer: torch.optim.Optimizer, batch: Batch) -> Tensor:
    """What Lightning does with a training step; returns the loss."""
    loss = module.training_step(batch, 0)["loss"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    module.update_target_()
    return loss.detach()


def three_optimizers(module: BRC) -> list[torch.optim.Optimizer]:
    """Of critics and embedding, of the actor, of log α: the specification's numbers, written out."""
    usual = {"lr": 3e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-4}
    return [
        torch.optim.AdamW(module.critic.parameters(), **usual),
        torch.optim.AdamW(module.actor.parameters(), **usual),
        torch.optim.Adam([module.log_temperature], lr=3e-4, betas=(0.5, 0.999), eps=1e-8),
    ]


def separate_update_(module: BRC, optimizers: list[torch.optim.Optimizer], batch: Batch) -> None:
    """Three losses with three gradients, then three steps."""
    target, noise = draw(module, batch)
    losses = module.losses(batch, target, noise)
    for name, optimizer in zip(("critic", "actor", "temperature"), optimizers, strict=True):
        set_gradient_(optimizer, losses[name])
    for optimizer in optimizers:
        optimizer.step()
    module.update_target_()


def published_update_(module: BRC, optimizers: list[torch.optim.Optimizer], batch: Batch) -> None:
    """The authors' order: critics and target first; the actor reads the critics that have just been updated."""
    critic, actor, temperature = optimizers
    target, noise = draw(module, batch)
    set_gradient_(critic, module.losses(batch, target, noise)["critic"])
    critic.step()
    module.update_target_()
    losses = module.losses(batch, target, noise)
    set_gradient_(actor, losses["actor"])
    set_gradient_(temperature, losses["temperature"])
    actor.step()
    temperature.step()


def draw(module: BRC, batch: Batch) -> tuple[Tensor, Tensor]:
    """The target distribution and the noise of the actor's action, drawn as the training step draws them."""
    next_noise, noise = torch.randn(2, *batch.action[:, 0].shape, generator=module.generator)
    return module.target_distribution(batch, next_noise), noise


def set_gradient_(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """The gradient of one loss's mean over the batch, for the parameters of one optimiser."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = torch.autograd.grad(loss.mean(), parameters, retain_graph=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
