"""A whole training step stays on its device: on 'meta', where a tensor has no values, the host can read nothing."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.sizes import config, windows
from ezm_lightning.build import make_module

META = torch.device("meta")


@pytest.fixture
def meta_random(monkeypatch):
    """Random numbers without generators, which 'meta' does not have; autocast does not know it either."""
    seeded = lambda device="cpu": SimpleNamespace(manual_seed=lambda _: generator(device))  # noqa: E731
    monkeypatch.setattr(torch, "Generator", seeded)
    for name in ("rand", "randn", "randperm"):
        draw = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *shape, generator=None, draw=draw, **on: draw(*shape, **on))
    monkeypatch.setattr(
        torch, "autocast", lambda device, autocast=torch.autocast, **options: autocast("cpu", **options)
    )


def generator(device) -> SimpleNamespace:
    """What stands for a generator of a device."""
    return SimpleNamespace(device=device)


def refuse(*_, **__):
    raise AssertionError("numbers of the host are brought to the device in the middle of a step")


@pytest.mark.parametrize(
    ("size", "overrides"),
    [
        ("demo", []),
        ("demo", ["value_mix=variance"]),
        ("demo", ["value_mix=age", "reanalyzer.ratio=1.0", "reanalyzer.bootstrap_from_mean=true"]),
        ("hard", ["module.search_model.dtype=float16"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "as it is",
)
def test_a_step_waits_for_nothing(size, overrides, meta_random, monkeypatch):
    """Logging included. An operand left on the CPU raises too."""
    cfg = config(size, *overrides)
    module, batch = make_module(cfg).to(META).train(), windows(cfg, 8, "cpu").to(META)
    module.generator = generator(META)
    module._trainer = SimpleNamespace(global_step=49, log_every_n_steps=50, world_size=1)
    monkeypatch.setattr(torch, "tensor", refuse)  # from a list to a device: the host waits for the copy
    monkeypatch.setattr(torch, "as_tensor", refuse)
    logged: dict = {}
    module.log_dict = lambda metrics, **_: logged.update(metrics)
    for _ in range(2):
        out = module.training_step(batch, 0)
        out["loss"].backward()
        module.update_target_()
    assert {x.device for x in (*out.values(), *logged.values())} == {META}
    assert all(p.grad is not None for p in module.model.parameters() if p.requires_grad)
