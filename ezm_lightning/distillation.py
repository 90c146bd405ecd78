"""The planner distilled into the policy: the policy head is fitted to new searches of a run's stored replay.

All other weights stand still, so the model that is searched, its rewards and its values keep their bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig

from ezm_lightning.callbacks.finite import SkipNonFiniteUpdates
from ezm_lightning.callbacks.progress import ProgressBar
from ezm_lightning.datamodule import ReplayDataModule
from ezm_lightning.module import EZM
from ezm_lightning.ops.denormals import flushed_denormals
from ezm_lightning.ops.losses import policy_loss
from ezm_lightning.replay import Replay
from ezm_lightning.replay.episodes import SavedReplay, replay_of
from ezm_lightning.types import Batch, Targets

HEAD = "policy_head"
HELD_OUT = 10  # one of this number of episodes is not learned from
CHECKED = 4  # batches of held-out windows

Windows = list[tuple[Batch, Targets]]


def learning_config(cfg: DictConfig, policy_target: DictConfig, seed: int) -> DictConfig:
    """The config of a run in which the policy head alone learns, from a search of every window."""
    own = cfg.copy()
    module = own.module
    module.loss_coefs = {name: float(name == "policy") for name in module.loss_coefs}
    reanalyzer = module.reanalyzer
    reanalyzer.ratio, reanalyzer.trace_decay, reanalyzer.policy_target = 1.0, None, policy_target
    module.trained, module.compile, module.logged_windows, module.seed = [HEAD], None, 0, seed
    return own


def begin_(module: EZM) -> None:
    """Gives the learner and the target model the weights that act, and lets nothing but the policy head learn."""
    acting = (module.target.model if module.act_with_target else module.model).state_dict()
    module.model.load_state_dict(acting)
    module.target.model.load_state_dict(acting)
    module.target.refresh_()
    module.temperature.requires_grad_(False)
    module.model.obs_norm.moves = False


def hand_over_(module: EZM) -> None:
    """Gives the target model, which acts, the policy head that has learned."""
    module.target.model.policy_head.load_state_dict(module.model.policy_head.state_dict())
    module.target.refresh_()
    module.eval()


def split(folders: Sequence[Path], cfg: DictConfig, module: EZM, *, seed: int) -> tuple[Replay, Replay]:
    """The episodes that ranks saved in ``folders``: those to learn from, and one in ten of each task held out.

    Windows are drawn uniformly. Raises ValueError for a task with fewer than two episodes.
    """
    saved = SavedReplay(folders)
    learned, held_out = [], []
    for task, (name, *widths) in enumerate(zip(cfg.tasks.names, cfg.obs_dims, cfg.action_dims, strict=True)):
        episodes = list(saved.episodes(task, *widths))
        if len(episodes) < 2:
            raise ValueError(
                f"the replay has {len(episodes)} episodes of {name}; ezm distil needs 2, one to check with"
            )
        last = [index % HELD_OUT == HELD_OUT - 1 for index in range(len(episodes))]
        last = last if any(last) else [index == len(episodes) - 1 for index in range(len(episodes))]
        learned.append([episode for episode, held in zip(episodes, last, strict=True) if not held])
        held_out.append([episode for episode, held in zip(episodes, last, strict=True) if held])
    sizes: dict[str, Any] = {
        "obs_dim": module.model.obs_mask.shape[1],
        "action_dim": module.model.action_mask.shape[1],
        "extras": module.make_actor().extras,
        "unroll_steps": module.reanalyzer.unroll_steps,
        "td_steps": module.reanalyzer.td_steps,
        "batch_size": cfg.batch_size,
        "priority_exponent": 0.0,
    }
    return replay_of(learned, **sizes, seed=seed), replay_of(held_out, **sizes, seed=seed + 1)


def searched(module: EZM, replay: Replay, *, seed: int) -> Windows:
    """A few batches of windows with their targets, the same for the same seed."""
    generator = torch.Generator(module.device).manual_seed(seed)
    batches = [replay.sample().to(module.device) for _ in range(CHECKED)]
    return [
        (batch, module.reanalyzer(batch, module.target.search_form, module.value_mix, 0, generator)[0])
        for batch in batches
    ]


@torch.no_grad()
def cross_entropy(module: EZM, windows: Windows) -> float:
    """−Σ_c w_c log π(a_c) in nats, the mean over all searched positions of windows; w are the search's weights."""
    module.eval()
    total = positions = 0.0
    for batch, targets in windows:
        steps = targets.reward.shape[1]
        prediction = module.model.unroll(batch.obs[:, 0], batch.action[:, :steps], batch.task)
        total += steps * float(policy_loss(prediction, targets, module.model.action_mask[batch.task]).sum())
        positions += float(targets.policy_valid.sum())
    return total / positions


class UpdatesBar(ProgressBar):
    """The bar of training, or its lines without a terminal, with updates alone."""

    def status(self, trainer: L.Trainer) -> list[str]:
        return [f"{trainer.global_step:,}/{trainer.max_steps:,} updates"]


def fit_(module: EZM, replay: Replay, cfg: DictConfig, *, updates: int) -> None:
    """Trains the policy head on windows of ``replay``. The target model is searched and stands still."""
    device = module.device
    trainer = L.Trainer(
        accelerator=device.type,
        devices=[device.index or 0] if device.type != "cpu" else 1,
        max_steps=updates,
        max_epochs=-1,
        gradient_clip_val=cfg.trainer.gradient_clip_val,
        callbacks=[SkipNonFiniteUpdates(cfg.tasks.names, max_in_a_row=cfg.max_nonfinite_updates), UpdatesBar()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    module.train()
    try:
        with flushed_denormals():
            trainer.fit(module, datamodule=ReplayDataModule(replay))
    except SystemExit as end:  # Lightning's own answer to Ctrl-C
        raise KeyboardInterrupt from end
    module.to(device)


def distil_(
    module: EZM, learned: Replay, held_out: Replay, cfg: DictConfig, *, updates: int, seed: int
) -> dict[str, float]:
    """Fits the policy head and hands it over; its cross entropy on windows of ``held_out``, before and after."""
    windows = searched(module, held_out, seed=seed)
    before = cross_entropy(module, windows)
    fit_(module, learned, cfg, updates=updates)
    after = cross_entropy(module, windows)
    hand_over_(module)
    return {"before": before, "after": after}
