"""The numbers in the log count what exists: searches that were made, valid positions, a task's own dimensions."""

import csv
from pathlib import Path

import pytest
import torch

from ezm_lightning import build, diagnostics
from ezm_lightning.commands import train
from ezm_lightning.types import Batch, SearchOutput, Targets
from tests.runs.short import SIZE, budget

K = 3


def targets_of(batch: Batch, **changes) -> Targets:
    size = len(batch)
    valid, value = batch.valid[:, : K + 1].clone(), torch.ones(size, K + 1)
    fields = {
        "reward": torch.zeros(size, K),
        "value": value,
        "value_td": value,
        "value_search": value,
        "value_variance": value,
        "action": batch.action[:, : K + 1, None],
        "action_weights": torch.ones(size, K + 1, 1),
        "reward_valid": valid[:, 1:],
        "value_valid": valid,
        "policy_valid": valid,
        "terminal": torch.zeros_like(valid),
    }
    return Targets(**{**fields, **changes}, batch_size=[size])


def logged(model, batch: Batch, targets: Targets) -> dict[str, float]:
    prediction = model.unroll(batch.obs[:, 0], batch.action[:, :K], batch.task)
    metrics = diagnostics.metrics(model, batch, targets, None, prediction, {}, torch.zeros(len(batch)))
    return {tag: float(value) for tag, value in metrics.items()}


def test_only_searched_states_are_compared_with_their_returns(make_model, make_batch):
    batch, search = make_batch(), torch.full((6, K + 1), torch.nan)
    assert logged(make_model(), batch, targets_of(batch, value_search=search))["target/value_search_minus_td"] == 0
    search[0, 1], search[2, 0] = 5.0, 2.0
    assert logged(make_model(), batch, targets_of(batch, value_search=search))["target/value_search_minus_td"] == 2.5


def test_what_lies_after_an_episodes_end_is_not_clipped(make_model, make_batch):
    valid = torch.ones(6, 7, dtype=torch.bool)
    valid[:, 2:] = False
    batch = make_batch(valid=valid)
    reward, value = torch.full((6, K), 1e6), torch.full((6, K + 1), 1e6)
    reward[:, 0], value[:, :2] = 0.5, 1.0
    shown = logged(make_model(), batch, targets_of(batch, reward=reward, value=value))
    assert shown["target/reward_clipped"] == shown["target/value_clipped"] == 0
    value[0, 0] = 1e6  # one of the twelve that are valid
    assert logged(make_model(), batch, targets_of(batch, value=value))["target/value_clipped"] == pytest.approx(1 / 12)


def test_the_policys_numbers_are_of_the_tasks_own_dimensions(make_model, make_batch):
    model, batch = make_model(wake=True), make_batch()
    prediction = model.unroll(batch.obs[:, 0], batch.action[:, :K], batch.task)
    own = model.action_mask[batch.task].bool()
    assert not own.all()
    expected = [prediction.policy_mean[row, k][own[row]].abs() for row in range(6) for k in range(K + 1)]
    deviations = [prediction.policy_log_std[row, k][own[row]].exp() for row in range(6) for k in range(K + 1)]
    shown = logged(model, batch, targets_of(batch))
    assert shown["policy/mean_abs"] == pytest.approx(torch.cat(expected).mean().item(), rel=1e-5)
    assert shown["policy/std"] == pytest.approx(torch.cat(deviations).mean().item(), rel=1e-5)


def test_one_candidate_has_no_spread(make_model):
    one = torch.ones(4, 1)
    value = {name: torch.ones(4) for name in ("search_value", "root_value", "root_value_variance")}
    own = dict.fromkeys(("best_action", "action_weights", "qvalues", "visit_counts"), one)
    search = SearchOutput(candidates=one[..., None], **own, **value, batch_size=[4])
    shown = diagnostics._of_search(search)
    assert shown["search/q_spread"] == 0 and shown["search/head_std_over_q_spread"].isfinite()


def test_in_bf16_an_update_that_changes_nothing_has_not_moved_the_policy(tmp_path: Path, monkeypatch) -> None:
    """A policy in bf16 before the update and in float32 after it would differ by the rounding."""
    made = build.make_module

    def with_a_policy(cfg):
        module = made(cfg)
        torch.nn.init.normal_(module.model.policy_head.body[-1].weight, std=0.5)
        return module

    monkeypatch.setattr(build, "make_module", with_a_policy)
    still = ["module.optimizer.lr=1e-30", "module.optimizer.weight_decay=0", "trainer.log_every_n_steps=1"]
    arguments = [*SIZE, budget(3), *still, "trainer.precision=bf16-mixed", "logger=csv", f"hydra.run.dir={tmp_path}"]
    assert train.main(arguments) == 0
    (file,) = tmp_path.rglob("metrics.csv")
    moved = [float(row["policy/kl_of_update"]) for row in csv.DictReader(file.open()) if row["policy/kl_of_update"]]
    assert len(moved) == 3 and max(map(abs, moved)) < 1e-7
