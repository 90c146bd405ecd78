"""The presets with the authors' constants: every number of the published agent, written out here a second time."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ezm_lightning.config.folder import config_dir

PUBLISHED = {  # by key of the composed config; the authors' code, commit eec512f
    "discount": 0.99,
    "module.value_limit": 10.0,  # atoms on [-10, 10]
    "module.num_atoms": 101,
    "module.initial_temperature": 0.1,
    "module.entropy_per_dim": -0.5,  # target entropy -A/2
    "module.ema_decay": 0.995,  # target += 0.005 (online - target)
    "module.optimizer._target_": "torch.optim.AdamW",
    "module.optimizer.lr": 3e-4,
    "module.optimizer.weight_decay": 1e-4,
    "module.width": 4096,
    "module.num_blocks": 2,
    "module.num_critics": 2,
    "module.actor_width": 256,
    "module.actor_blocks": 1,
    "module.unroll_steps": 1,
    "module.td_steps": 1,
    "batch_size": 1024,
    "warmup_env_steps": 5_000,
    "envs_per_task": 1,
    "tasks.action_repeat": 1,
    "replay.priority_exponent": 0.0,
    "trainer.gradient_clip_val": None,
}
PRESETS = {  # number of tasks, simulator steps per task
    "brc_humanoidbench_medium": (9, 1_000_000),
    "brc_humanoidbench_hard": (14, 2_000_000),
    "brc_dmc_dogs": (4, 1_000_000),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_published_preset_has_the_authors_constants(preset: str) -> None:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("train", overrides=[f"experiment={preset}"])
    assert {key: OmegaConf.select(cfg, key, default="absent") for key in PUBLISHED} == PUBLISHED
    num_tasks, env_steps = PRESETS[preset]
    assert (len(cfg.tasks.names), cfg.env_steps_per_task) == (num_tasks, env_steps)
    assert num_tasks / cfg.env_steps_per_update == 2  # updates per step of all tasks
