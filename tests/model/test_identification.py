"""Whether a model knows which action was taken, with models whose answer is known."""

import pytest
import torch

from ezm_lightning.model.identification import action_identified, windows_of_same_task


class Point:
    """The latent is the observation and moves by the action, or not at all where it is blind."""

    def __init__(self, blind=False):
        self.blind = blind

    def embed(self, task):
        return torch.zeros(*task.shape, 1)

    def represent(self, obs, task):
        return obs

    def next_latent(self, latent, action, embedding):
        return latent if self.blind else latent + action

    def project(self, latent):
        return torch.cat([latent, torch.ones_like(latent[..., :1])], -1)

    predict_projection = project


@pytest.fixture
def moving(make_batch):
    """Windows whose next observation is the first plus the action."""
    batch = make_batch()
    batch.action = torch.randn_like(batch.action)
    batch.obs = torch.randn(len(batch), batch.obs.shape[1], batch.action.shape[-1])
    batch.obs[:, 1] = batch.obs[:, 0] + batch.action[:, 0]
    return batch


def test_a_model_that_obeys_the_action_identifies_each(moving):
    assert action_identified(Point(), moving) == 1


def test_a_blind_model_identifies_none_and_a_wrong_one_few(moving):
    assert action_identified(Point(blind=True), moving) == 0  # all alike
    moving.obs[:, 1] = moving.obs[:, 0] - 50 * moving.action[:, 0]
    assert action_identified(Point(), moving) < 0.5


def test_windows_that_end_at_once_do_not_count(moving):
    moving.valid[:, 1:] = False
    assert action_identified(Point(), moving) == 0
    moving.valid[0, 1] = True
    assert action_identified(Point(), moving) == 1


def test_rivals_are_other_windows_of_the_same_task():
    task = torch.tensor([2, 0, 2, 0, 2, 0, 0])
    rivals = windows_of_same_task(task, 4)
    assert torch.equal(rivals[:, 0], torch.arange(7))
    for row, own in zip(rivals.tolist(), task.tolist(), strict=True):
        members = (task == own).nonzero().flatten().tolist()
        assert len(set(row)) == min(4, len(members)) and set(row) <= set(members)
    assert windows_of_same_task(task, 2).shape == (7, 2)
