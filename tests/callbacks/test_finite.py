"""An update that is not finite leaves no trace; several in a row stop with a report; the others are not touched."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import Tensor

from ezm_lightning.callbacks.finite import SkipNonFiniteUpdates
from ezm_lightning.callbacks.priorities import UpdatePriorities
from ezm_lightning.callbacks.target import UpdateTarget
from ezm_lightning.datamodule import BatchStream
from ezm_lightning.module import EZM
from ezm_lightning.planner import Planner
from ezm_lightning.policy_target import ImprovedPolicy
from ezm_lightning.reanalyze import Reanalyzer
from ezm_lightning.temperature import TunedTemperature
from ezm_lightning.value_gradient import ValueGradient
from ezm_lightning.value_mix import VarianceShare
from tests.coefficients import COEFS

K, NAMES = 3, ["dmc/walker-walk", "dmc/walker-run", "gym/Hopper-v5"]


class Data(L.LightningDataModule):
    """Streams the given batches; its replay remembers whose priorities it was given."""

    def __init__(self, batches):
        super().__init__()
        self.batches, self.updated = batches, []
        self.replay = SimpleNamespace(update_priority=lambda index, priority: self.updated.append(int(index[0])))

    def train_dataloader(self):
        return BatchStream(iter(self.batches).__next__, len(self.batches))


class Watch(L.Callback):
    """Everything that learning moves, before and after each update."""

    def __init__(self):
        self.before, self.after = [], []

    def on_train_batch_start(self, trainer, module, *_):
        for model in (module.model, module.target.model):
            model.embed(torch.arange(3))  # its first use cuts the embedding's norm to 1
        self.before.append(self.state(trainer, module))

    def on_train_batch_end(self, trainer, module, *_):
        self.after.append(self.state(trainer, module))

    @staticmethod
    def state(trainer, module):
        return copy.deepcopy({**module.state_dict(), "optimizer": trainer.optimizers[0].state_dict()["state"]})


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def nan_reward(module, batch):
    batch.reward[2, 1] = torch.nan


def infinite_obs(module, batch):
    batch.obs[1, 0, 0] = torch.inf  # reaches the observation statistics and batch norm


def loss_only(module, batch):
    """The loss is NaN, its gradient is finite."""
    step = module.training_step

    def once(*args):
        module.training_step = step
        out = step(*args)
        return {**out, "loss": out["loss"] + torch.nan}

    module.training_step = once


def gradient_only(module, batch):
    """The loss is finite, its gradient is not."""

    def once(gradient):
        handle.remove()
        return gradient * torch.inf

    handle = next(module.model.parameters()).register_hook(once)


FAULTS = [nan_reward, infinite_obs, loss_only, gradient_only]


@pytest.fixture
def fit(make_model, make_batch):
    """Trains on one batch a fault (None: a good one); returns what was watched, the guard and the data."""

    def run(faults, *, guard=True, max_in_a_row=3, **trainer):
        planner = Planner(num_simulations=4, max_num_considered_actions=2, num_candidates=4, num_policy_candidates=2)
        module = EZM(
            model=make_model(wake=True),
            reanalyzer=Reanalyzer(planner, policy_target=ImprovedPolicy(), unroll_steps=K, td_steps=3),
            value_mix=VarianceShare(num_tasks=3),
            value_gradient=ValueGradient(num_tasks=3, discount=planner.discount),
            temperature=TunedTemperature(num_tasks=3),
            loss_coefs=COEFS,
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3, weight_decay=0.1),
            ema_half_life=10,
        )
        data = Data([make_batch(seed=i, index=torch.arange(6) + 10 * i) for i in range(len(faults))])

        class Break(L.Callback):
            def on_train_batch_start(self, trainer, module, batch, batch_idx):
                if faults[batch_idx] is not None:
                    faults[batch_idx](module, batch)

        watch, skip = Watch(), SkipNonFiniteUpdates(NAMES, max_in_a_row=max_in_a_row)
        callbacks = [Break(), *([skip] if guard else []), UpdatePriorities(), UpdateTarget(), watch]
        L.Trainer(
            accelerator="cpu", max_steps=len(faults), max_epochs=-1, gradient_clip_val=5.0, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
            **trainer,
        ).fit(module, datamodule=data)  # fmt: skip
        return watch, skip, data

    return run


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_update_that_is_not_finite_leaves_no_trace(fit, fault, precision):
    with pytest.warns(UserWarning, match=r"non-finite .* at update 2 .* in a batch of .*: update skipped"):
        watch, skip, data = fit([None, None, fault, None], precision=precision)
    moved = [not same(before, after) for before, after in zip(watch.before, watch.after, strict=True)]
    assert moved == [True, True, False, True]
    assert data.updated == [0, 10, 30] and (skip.skipped, skip.in_a_row) == (1, 0)
    assert all(x.isfinite().all() for x in watch.after[-1].values() if isinstance(x, Tensor))


@pytest.mark.filterwarnings("ignore")
def test_finite_updates_are_the_same_bits_with_and_without_the_guard(fit):
    assert same(fit([None] * 4)[0].after[-1], fit([None] * 4, guard=False)[0].after[-1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("max_in_a_row", [1, 3])
def test_several_in_a_row_stop_with_the_report(fit, max_in_a_row):
    interrupted = [*([nan_reward] * (max_in_a_row - 1)), None]
    with pytest.raises(FloatingPointError) as error:
        fit([*interrupted, *([infinite_obs] * max_in_a_row), None], max_in_a_row=max_in_a_row)
    told = [f"update {2 * max_in_a_row - 1} ", ", ".join(NAMES), "consistency=nan", "gradient norm=nan"]
    assert all(part in str(error.value) for part in [*told, f"max_nonfinite_updates={max_in_a_row}"]), error.value


def test_the_report_names_only_the_tasks_of_the_batch():
    guard = SkipNonFiniteUpdates(NAMES, max_in_a_row=1)
    guard._task = torch.tensor([2, 0, 2])
    module = SimpleNamespace(last_losses={"reward": torch.tensor(0.5), "value": torch.tensor(torch.nan)})
    report = guard._report(17, module, torch.tensor(torch.inf))
    assert "update 17 (reward=0.5, value=nan, gradient norm=inf) in a batch of dmc/walker-walk, gym/Hopper" in report


def test_the_count_survives_a_checkpoint():
    guard, other = (SkipNonFiniteUpdates(NAMES, max_in_a_row=5) for _ in range(2))
    guard.skipped, guard.in_a_row = 7, 2
    other.load_state_dict(guard.state_dict())
    assert (other.skipped, other.in_a_row) == (7, 2)


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="max_nonfinite_updates=0 must be at least 1"):
        SkipNonFiniteUpdates(NAMES, max_in_a_row=0)
