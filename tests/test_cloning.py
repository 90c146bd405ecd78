"""Behaviour cloning: the loss of demonstrated actions, which learns a policy; 0 where nothing is shown."""

from __future__ import annotations

import pytest
import torch

from ezm_lightning.model import WorldModel
from ezm_lightning.ops import losses
from ezm_lightning.ops.squashed_gaussian import SoftsignBound, log_prob
from tests.coefficients import COEFS
from tests.test_module import make_module  # noqa: F401  (a fixture)


@pytest.fixture
def demo(make_batch):
    """Six windows: the first three are demonstrations, of which the second ends after two transitions."""
    batch = make_batch()
    batch.demo[:3] = True
    batch.valid[1, 3:] = False
    return batch


def test_the_loss_is_that_of_a_loop(make_model, demo):
    """Each action that was taken in a window of a demonstration, once; K = 3."""
    model = make_model(wake=True)
    prediction = model.unroll(demo.obs[:, 0], demo.action[:, :3], demo.task).detach()
    mask = model.action_mask[demo.task]
    found = losses.cloning_loss(prediction, demo, mask)
    for row in range(6):
        total = 0.0
        for k in range(4):
            if demo.demo[row] and demo.valid[row, k + 1]:
                mean, log_std = prediction.policy_mean[row, k], prediction.policy_log_std[row, k]
                total -= float(log_prob(demo.action[row, k], mean, log_std, mask[row]))
        assert float(found[row]) == pytest.approx(total / 3, rel=1e-5)
    assert (found[:3] != 0).all() and (found[3:] == 0).all()


def test_it_is_not_computed_where_its_coefficient_is_0(make_module, demo, monkeypatch):  # noqa: F811
    monkeypatch.setattr(losses, "cloning_loss", lambda *_: pytest.fail("computed"))
    module = make_module(loss_coefs={**COEFS, "bc": 0.0})
    module.training_step(demo, 0)
    assert module.last_losses["bc"] == 0


def test_it_moves_the_policy_towards_what_is_shown(make_module, demo):  # noqa: F811
    """And nothing where no window is shown."""
    module = make_module(loss_coefs={name: float(name == "bc") for name in COEFS})
    optimizer = torch.optim.Adam(module.model.parameters(), lr=3e-3)
    before = None
    for _ in range(30):
        optimizer.zero_grad()
        module.training_step(demo, 0)["loss"].backward()
        optimizer.step()
        before = before if before is not None else module.last_losses["bc"]
    assert module.last_losses["bc"] < before - 0.5
    demo.demo[:] = False
    assert module.training_step(demo, 0)["loss"] == 0


def test_it_clones_a_linear_policy():
    """Test 8 of the specification: one task, 4 observations, a = tanh(K o), 1,000 rows, 500 updates of 256."""
    torch.manual_seed(0)
    model = WorldModel(
        obs_dims=[4], action_dims=[2], latent_dim=128, num_blocks=1, head_dim=128, mean_bound=2.0,
        initial_std=0.135, log_std_bound=SoftsignBound(low=-3.0, high=-1.0),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    gains = 0.5 * torch.randn(4, 2, generator=generator)
    obs = torch.randn(1000, 4, generator=generator)
    action, task = torch.tanh(obs @ gains), torch.zeros(1000, dtype=torch.int64)
    model.obs_norm.update_(obs, model.obs_mask[task], task)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(500):
        rows = torch.randint(1000, (256,), generator=generator)
        mean, log_std = model.policy(model.represent_policy(obs[rows], task[rows])[1])
        loss = -log_prob(action[rows], mean, log_std, model.action_mask[task[rows]]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        mean, log_std = model.policy(model.represent_policy(obs, task)[1])
    assert (torch.tanh(mean) - action).square().mean() < 1.5e-3
    assert (log_std > -3).all()
    full = log_prob(torch.ones_like(action), mean, log_std, model.action_mask[task])
    assert full.isfinite().all()
