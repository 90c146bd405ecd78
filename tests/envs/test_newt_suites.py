"""The suites newt_cpu and newt_state: composed, stepped, and the latter's model at full width on the meta device."""

from collections import Counter

import numpy as np
import pytest
import torch

from ezm_lightning import build
from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.model.obs_norm import TaskObsNorm
from tests.config.test_experiments import composed

PARTS = {  # tasks by source, and the widths that everything is padded to
    "newt_cpu": ({"dmc": 8, "mw": 4, "gym": 4}, 39, 6),
    "newt_state": ({"dmc": 21, "mw": 49, "gym": 9, "gr": 6}, 109, 12),
}


@pytest.mark.parametrize("suite", PARTS)
def test_a_suite_has_the_tasks_and_widths_that_it_names(suite: str) -> None:
    cfg = composed(f"experiment={suite}", "trainer=cpu")
    sources, obs_dim, action_dim = PARTS[suite]
    assert Counter(name.split("/")[0] for name in cfg.tasks.names) == sources
    assert max(cfg.obs_dims) == obs_dim and max(cfg.action_dims) == action_dim
    assert len(set(cfg.tasks.names)) == len(cfg.tasks.names)


@pytest.mark.parametrize("suite", PARTS)
def test_every_task_of_a_suite_steps(suite: str) -> None:
    cfg = composed(f"experiment={suite}", "trainer=cpu")
    env = MultiTaskEnv(list(cfg.tasks.names), action_repeat=cfg.tasks.action_repeat, seed=0)
    rng = np.random.default_rng(0)
    td = env.reset()
    first = td["obs"].clone()
    for _ in range(5):
        shape = (env.num_slots, max(env.action_dims))
        td["action"] = torch.from_numpy(rng.uniform(-1, 1, shape).astype(np.float32)) * td["action_mask"]
        stepped, td = env.step_and_maybe_reset(td)
        assert torch.isfinite(stepped["next", "reward"]).all()
    assert not env.faults.any() and (env.env_steps >= 4 * cfg.tasks.action_repeat).all()  # an episode may end early
    moved = (td["obs"] != first).any(-1)
    assert moved.all(), [spec.name for spec, one in zip(env.task_specs, moved, strict=True) if not one]
    assert stepped["next", "reward"].abs().max() <= cfg.tasks.reward_range[1]
    env.close()


def test_the_85_tasks_learn_at_full_width_on_the_meta_device() -> None:
    cfg = composed("experiment=newt_state", "trainer=cpu", "planner.compile=null")
    with torch.device("meta"):
        module = build.make_module(cfg)
        model, tasks = module.model, len(cfg.tasks.names)
        prediction = model.unroll(
            torch.empty(tasks, max(cfg.obs_dims)),
            torch.empty(tasks, cfg.unroll_steps, max(cfg.action_dims)),
            torch.zeros(tasks, dtype=torch.int64),
        )
        prediction.value_logits.sum().backward()
    assert 19e6 < sum(p.numel() for p in model.parameters()) < 21e6
    assert prediction.value_logits.shape == (85, cfg.unroll_steps + 1, 5, 101)
    assert isinstance(model.obs_norm, TaskObsNorm) and model.obs_norm.mean.shape == (85, 109)
    parts = {part.name: part.size for part in module.memory_parts(cfg.batch_size, device="cpu", own_weights=True)}
    assert all(size > 0 for size in parts.values()) and len(parts) == 3
