"""The three forms of a task's vector: their norms, their gradients, what they share, and the packed model."""

import pytest
import torch

from ezm_lightning.model import PackedModel
from ezm_lightning.model.target import TargetModel
from ezm_lightning.model.task_embedding import Both, Id, Text, cut

L, E = 12, 8


def filled(kind, seed: int = 0, tasks: int = 3, **options):
    torch.manual_seed(seed)
    form = kind(tasks, E, text_dim=L, **options)
    g = torch.Generator().manual_seed(1)
    form.set_texts_(torch.randn(tasks, L, generator=g), torch.randn(20, L, generator=g))
    return form


def test_id_is_torchs_embedding_bit_for_bit() -> None:
    torch.manual_seed(0)
    mine = Id(3, E)
    torch.manual_seed(0)
    theirs = torch.nn.Embedding(3, E, max_norm=1.0)
    task = torch.tensor([2, 0, 2])
    assert torch.equal(mine(task), theirs(task)) and mine.state_dict().keys() == theirs.state_dict().keys()


def test_both_begins_as_text() -> None:
    task = torch.arange(3)
    assert torch.equal(filled(Both)(task), filled(Text)(task))
    both = filled(Both)
    both.residual.data.normal_()
    assert not torch.equal(both(task), filled(Text)(task))
    assert torch.equal(both(task, torch.zeros(3, dtype=torch.bool)), filled(Text)(task))
    assert torch.equal(both(task, torch.ones(3, dtype=torch.bool)), both(task))


def test_norms() -> None:
    form = filled(Both)
    form.residual.data.normal_(std=10)
    assert (form(torch.arange(3)).norm(dim=-1) <= 1 + 1e-6).all()
    assert torch.equal(cut(torch.tensor([[0.3, 0.4]])), torch.tensor([[0.3, 0.4]]))
    torch.manual_seed(0)
    wide = Text(1, 128, text_dim=384)
    z = torch.nn.functional.normalize(torch.randn(1000, 384), dim=-1)
    assert abs(float((z @ wide.weight.t()).square().sum(-1).mean()) - 1) < 0.02


def test_gradients_and_twins() -> None:
    form = filled(Both)
    form(torch.tensor([0, 1])).square().sum().backward()
    assert (form.weight.grad != 0).any() and (form.residual.grad[:2] != 0).any() and not form.residual.grad[2].any()
    assert not form.z.requires_grad and not form.mu.requires_grad
    twins = Text(2, E, text_dim=L)
    twins.set_texts_(torch.ones(2, L), torch.randn(5, L))
    assert torch.equal(twins(torch.tensor([0])), twins(torch.tensor([1])))


@pytest.mark.parametrize("kind", [Id, Text, Both])
def test_the_packed_model_follows(kind, make_model, make_batch) -> None:
    def make(tasks, dim):
        return kind(tasks, dim) if kind is Id else filled(kind, tasks=tasks)

    model, batch = make_model(wake=True, task_embedding=make).eval(), make_batch()
    roots = batch.obs[:, 0], batch.task
    packed = PackedModel(model)
    torch.testing.assert_close(
        packed.initial_inference(*roots)[0], model.initial_inference(*roots)[0], rtol=0, atol=1e-5
    )
    target = TargetModel(model, half_life=1.0)
    form = target.search_form
    with torch.no_grad():
        model.task_embedding.weight.mul_(-0.5)
    target.ema_update_(model)
    target.refresh_()
    after = target.model.initial_inference(*roots)
    torch.testing.assert_close(form.initial_inference(*roots)[0], after[0], rtol=0, atol=1e-5)


def test_root_and_unroll_see_one_embedding(make_model, make_batch) -> None:
    """Two windows of one task, one with its residual and one without."""
    model = make_model(wake=True, task_embedding=lambda tasks, dim: filled(Both, tasks=tasks)).eval()
    model.task_embedding.residual.data.normal_()
    batch = make_batch(2, task=torch.tensor([1, 1]))
    batch.obs[1], batch.action[1] = batch.obs[0], batch.action[0]
    given = model.task_embedding(batch.task, torch.tensor([True, False]))
    prediction = model.unroll(batch.obs[:, 0], batch.action[:, :3], batch.task, given)
    plain = model.unroll(batch.obs[:, 0], batch.action[:, :3], batch.task)
    assert torch.equal(prediction.latent[0], plain.latent[0]) and not torch.equal(prediction.latent[1], plain.latent[1])
    model.task_embedding.residual.data.zero_()
    without = model.unroll(batch.obs[:, 0], batch.action[:, :3], batch.task)
    torch.testing.assert_close(prediction.latent[1], without.latent[1])
