"""Weights moved to other tasks: wider observations change nothing, frozen networks stand still."""

import pytest
import torch

from ezm_lightning.model.networks import StackedBatchNorm
from ezm_lightning.model.obs_norm import TaskObsNorm
from ezm_lightning.model.task_embedding import cut
from ezm_lightning.model.transplant import mean_row, transplanted

OLD, NEW = {"obs_dims": [4, 5], "action_dims": [2, 1]}, {"obs_dims": [9], "action_dims": [2]}


@pytest.fixture
def old(make_model):
    model = make_model(wake=True, **OLD)
    model.obs_norm.update_(torch.randn(20, 5) * 3 + 1, torch.ones(20, 5, dtype=torch.bool))
    return model.eval()


def moved(old, make_model, **changes):
    new = make_model(seed=1, **{**NEW, **changes}).eval()
    new.load_state_dict(transplanted(old.state_dict(), new, old.embed(torch.tensor([1]))))
    return new


def test_wider_observations_leave_the_function_as_it_is(old, make_model) -> None:
    new = moved(old, make_model)
    obs, task = torch.randn(6, 5), torch.ones(6, dtype=torch.int64)
    before = old.initial_inference(obs, task)
    after = new.initial_inference(torch.nn.functional.pad(obs, (0, 4)), task - 1)
    for name in before._fields:
        torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=0, atol=1e-6)
    assert new.obs_norm.var[5:].tolist() == [1] * 4 and not new.obs_norm.count[5:].any()


def test_a_wider_action_does_not_fit(old, make_model) -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        moved(old, make_model, action_dims=[4])
    assert moved(old, make_model, action_dims=[1], least_action_dim=2).action_mask.tolist() == [[1, 0]]


def test_statistics_of_their_own_begin_anew(make_model) -> None:
    old = make_model(obs_norm=TaskObsNorm, **OLD)
    old.obs_norm.mean.fill_(7.0)
    new = moved(old, make_model, obs_norm=TaskObsNorm)
    assert not new.obs_norm.mean.any() and new.obs_norm.mean.shape == (1, 9)


def test_the_first_vector_is_the_mean_of_the_old_ones() -> None:
    table = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    torch.testing.assert_close(cut(table), torch.tensor([[1.0, 0.0], [0.0, 0.5]]))
    torch.testing.assert_close(mean_row(table), torch.tensor([0.5, 0.25]))
    assert mean_row(torch.tensor([[2.0, 0.0], [2.0, 0.0]])).norm() <= 1 + 1e-6


def test_frozen_networks_and_their_batch_norms_stand_still(make_model, make_batch) -> None:
    model, batch = make_model(wake=True, head_norm=StackedBatchNorm), make_batch()
    model.train_only_(["task_embedding"])
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prediction = model.unroll(batch.obs[:, 0], batch.action[:, :3], batch.task)
    prediction.value_logits.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["task_embedding.weight"]
    differ = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert set(differ) <= {"task_embedding.weight"}  # cut to norm 1 at its first use
    model.train_only_(["task_embedding", "value_heads"])
    model.train()
    model.unroll(batch.obs[:, 0], batch.action[:, :3], batch.task)
    moving = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moving - {"task_embedding"} == {"value_heads"}


def test_a_network_that_is_not_there(make_model) -> None:
    with pytest.raises(ValueError, match="no network 'value_head'; nearest: value_heads"):
        make_model().train_only_(["value_head"])
