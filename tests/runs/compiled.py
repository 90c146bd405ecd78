"""What is compiled against what is not, without the checks of annotations, which torch.compile cannot read.

python -m tests.runs.compiled plan|losses       prints nothing and exits with 0, or with AssertionError
"""

from __future__ import annotations

import copy
import sys

import torch

from benchmarks.sizes import config, make_learner, planner_of, windows
from ezm_lightning.model import PackedModel
from ezm_lightning.module import EZM

SMALL = (
    "planner.num_simulations=4", "planner.num_candidates=4", "unroll_steps=2", "reanalyzer.ratio=1.0",
    "module.loss_coefs.policy=1.0", "module.loss_coefs.value_gradient=0",
)  # fmt: skip
CFG = config("demo", *SMALL)


def learner(**options) -> EZM:
    """A learner with no weight at zero, its losses compiled with ``options`` if there are any."""
    cfg = copy.deepcopy(CFG)
    cfg.module.compile = options or None
    module = make_learner(cfg, "cpu")
    generator = torch.Generator().manual_seed(1)
    for weight in module.model.parameters():
        weight.data.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return module.train()


def plan() -> None:
    """Plans are the same to the bit, for two numbers of roots, and with weights that have changed."""
    cfg = copy.deepcopy(CFG)
    cfg.planner.compile = {"backend": "eager", "fullgraph": True, "dynamic": False}
    compiled, plain = planner_of(cfg), planner_of(CFG)
    model = learner().model
    packed = PackedModel(model)
    for batch_size in (3, 40):
        batch = windows(CFG, batch_size, "cpu")
        noise = plain.sample_noise(packed, batch_size, torch.Generator().manual_seed(0), explore=True)
        for _ in range(2):
            ours, expected = (each(packed, batch.obs[:, 0], batch.task, noise) for each in (compiled, plain))
            for name, value in expected.items():
                assert torch.equal(getattr(ours, name), value), (name, batch_size)
            with torch.no_grad():
                model.value_heads.body[-1].weight.mul_(1.5)
            packed.refresh_()


def losses() -> None:
    """Losses, priorities, gradients and statistics agree, in one graph and through AOTAutograd."""
    plain = learner()
    torch.manual_seed(1)
    batch = windows(CFG, 8, "cpu")
    targets, _ = plain.reanalyzer(batch, plain.target.search_form, plain.value_mix, 0, plain.generator)
    noise = torch.randn(*targets.value.shape, batch.action.shape[-1])
    expected = learnt(plain, batch, targets, noise)
    ours = learnt(learner(backend="aot_eager", fullgraph=True), batch, targets, noise)
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def learnt(module: EZM, batch, targets, noise) -> dict[str, torch.Tensor]:
    """Everything that one pass forwards and backwards gives."""
    _, losses, priority = module.learn(batch, targets, noise)
    sum(losses.values()).mean().backward()
    gradients = {f"gradient of {name}": weight.grad for name, weight in module.model.named_parameters()}
    return {**losses, "priority": priority, **gradients, **dict(module.model.named_buffers())}


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"plan": plan, "losses": losses}[sys.argv[1]]()
