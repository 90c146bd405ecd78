"""Each task's own statistics of observations, against NumPy's moments and through the packed model."""

import numpy as np
import pytest
import torch

from ezm_lightning.model import PackedModel
from ezm_lightning.model.networks import ObsNorm
from ezm_lightning.model.obs_norm import TaskObsNorm
from ezm_lightning.module import EZM

TASKS, DIM = 3, 4


def batches(count: int):
    """Batches of tasks 0 and 1 with statistics far apart; task 1 has two dimensions, task 2 is never seen."""
    g = torch.Generator().manual_seed(0)
    for _ in range(count):
        task = torch.randint(2, (7,), generator=g)
        mask = torch.arange(DIM) < torch.tensor([4, 2])[task, None]
        obs = torch.randn(7, DIM, generator=g) * (1 + 9 * task[:, None]) + 100.0 * task[:, None]
        yield obs * mask, mask, task


def test_the_statistics_are_the_moments_of_each_task() -> None:
    norm, seen = TaskObsNorm(DIM, TASKS), [[], []]
    for obs, mask, task in batches(20):
        norm.update_(obs, mask, task)
        for index in (0, 1):
            seen[index].append(obs[task == index].numpy())
    for index, dims in ((0, 4), (1, 2)):
        rows = np.concatenate(seen[index])[:, :dims]
        np.testing.assert_allclose(norm.mean[index, :dims], rows.mean(0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(norm.var[index, :dims], rows.var(0), rtol=1e-4)
        assert norm.count[index, :dims].tolist() == [len(rows)] * dims
    assert not norm.count[1, 2:].any() and not norm.mean[2].any() and (norm.var[2] == 1).all()


def test_with_one_task_it_is_the_shared_form() -> None:
    own, shared = TaskObsNorm(DIM, 1, clip=1e6), ObsNorm(DIM)
    for obs, mask, _ in batches(5):
        own.update_(obs, mask, torch.zeros(7, dtype=torch.int64))
        shared.update_(obs, mask)
    obs, mask, task = next(batches(1))
    torch.testing.assert_close(own.mean[0], shared.mean)
    torch.testing.assert_close(own(obs, mask, torch.zeros_like(task)), shared(obs, mask))


def test_a_dimension_that_stands_still_is_cut() -> None:
    norm, task = TaskObsNorm(2, 1, clip=10.0), torch.zeros(5, dtype=torch.int64)
    norm.update_(torch.full((5, 2), 3.0), torch.ones(5, 2, dtype=torch.bool), task)
    out = norm(torch.tensor([[3.0, 4.0]]), torch.ones(1, 2, dtype=torch.bool), task[:1])
    assert out.tolist() == [[0.0, 10.0]]


def test_padding_stays_zero() -> None:
    norm = TaskObsNorm(DIM, TASKS)
    for batch in batches(3):
        norm.update_(*batch)
    obs, mask, task = next(batches(1))
    assert not norm(obs, mask, task)[~mask].any()


def test_the_packed_model_reads_the_statistics_of_its_task(make_model, make_batch) -> None:
    model, batch = make_model(wake=True, obs_norm=TaskObsNorm).eval(), make_batch(6)
    obs, task = batch.obs[:, 0] * 3 + task_offsets(batch.task), batch.task
    obs = obs * model.obs_mask[task]
    for _ in range(3):
        model.obs_norm.update_(obs, model.obs_mask[task], task)
    packed = PackedModel(model)
    for roots in (obs, obs + 500):  # the second is cut
        plain, fast = model.initial_inference(roots, task), packed.initial_inference(roots, task)
        torch.testing.assert_close(fast.latent, plain.latent, rtol=1e-5, atol=1e-5)
    other = (task + 1) % 3
    assert not torch.allclose(
        model.obs_norm(obs, model.obs_mask[task], task), model.obs_norm(obs, model.obs_mask[task], other)
    )


def task_offsets(task: torch.Tensor) -> torch.Tensor:
    return 10.0 * task[:, None]


@pytest.mark.parametrize("kind", [ObsNorm, TaskObsNorm])
def test_a_learner_updates_the_statistics_of_the_batches_tasks(kind, make_model, make_batch) -> None:
    model, batch = make_model(obs_norm=kind), make_batch(4, task=torch.tensor([0, 0, 2, 2]))

    class Learner:
        trainer = type("Trainer", (), {"world_size": 1})()

    learner = Learner()
    learner.model = model
    EZM.update_obs_norm_(learner, batch)
    counts = model.obs_norm.count
    if kind is TaskObsNorm:
        assert counts[:, 0].tolist() == [2, 0, 2] and counts[2].tolist() == [2, 2, 2, 0, 0, 0]
    else:
        assert counts.tolist() == [4, 4, 4, 2, 0, 0]
