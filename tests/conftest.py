"""What several rooms' tests share: one thread, a small world model, random batches."""

from pathlib import Path

import jaxtyping
import pytest
import torch
from tensordict import TensorDict

from ezm_lightning.model import WorldModel
from ezm_lightning.types import Batch
from tests.golden import HOW_TO_GET_ASSETS, original_assets

OBS_DIMS, ACTION_DIMS = [4, 6, 3], [2, 3, 1]


SIMULATORS = {  # beginnings of task names, and the modules that their simulators need
    "mw/": ("metaworld",),
    "gr/": ("gymnasium_robotics",),
    "gym/BipedalWalker": ("Box2D", "pygame"),
    "gym/LunarLander": ("Box2D", "pygame"),
}


def skip_without_simulators(names) -> None:
    """Skips the test where a simulator of these tasks is not installed; ``ezm doctor`` says what to type."""
    for start, modules in SIMULATORS.items():
        if any(name.startswith(start) for name in names):
            for module in modules:
                pytest.importorskip(module, reason=f"{start} tasks need the module {module}: see ezm doctor")


@pytest.fixture(autouse=True)
def one_thread():
    """The tensors are tiny: threads only spin."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def unchecked(trace):
    """``trace`` without the checks of annotations."""

    def call(*arguments, **options):
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            return trace(*arguments, **options)
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)

    return call


@pytest.fixture(scope="session", autouse=True)
def unchecked_traces():
    """While torch traces, sizes are tensors, which annotations of int refuse; a check of an export fixes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.export, "export", unchecked(torch.export.export))
        yield


@pytest.fixture
def humanoid_assets(monkeypatch) -> Path:
    """HumanoidBench's assets (those that physics needs) in use; a test that asks for them skips without."""
    folder = original_assets()
    if folder is None:
        pytest.skip(f"no HumanoidBench assets: {HOW_TO_GET_ASSETS}")
    monkeypatch.setenv("HUMANOID_BENCH_ASSETS", str(folder))
    return folder


@pytest.fixture
def make_model():
    """Builds a small world model of three tasks; ``wake=True`` fills its zero-initialised outputs with noise."""

    def make(*, wake: bool = False, seed: int = 0, kind: type[WorldModel] = WorldModel, **changes) -> WorldModel:
        torch.manual_seed(seed)
        sizes = {"latent_dim": 16, "num_blocks": 1, "head_dim": 16, "task_embedding_dim": 8, "action_embedding_dim": 8}
        model = kind(**{"obs_dims": OBS_DIMS, "action_dims": ACTION_DIMS, "projection_dim": 24, **sizes, **changes})
        if wake:
            for head in (model.reward_head, model.policy_head):
                torch.nn.init.normal_(head.body[-1].weight, std=0.5)
        return model

    return make


@pytest.fixture
def make_batch():
    """Builds a batch of random windows of full length; ``changes`` replaces fields."""

    def make(batch_size: int = 6, window: int = 7, seed: int = 0, **changes) -> Batch:
        g = torch.Generator().manual_seed(seed)
        task = torch.arange(batch_size) % len(OBS_DIMS)
        has = [torch.arange(max(dims)) < torch.tensor(dims)[task, None, None] for dims in (OBS_DIMS, ACTION_DIMS)]
        fields = {
            "obs": torch.randn(batch_size, window, max(OBS_DIMS), generator=g) * has[0],
            "action": (torch.rand(batch_size, window, max(ACTION_DIMS), generator=g) * 1.8 - 0.9) * has[1],
            "reward": torch.rand(batch_size, window, generator=g),
            "valid": torch.ones(batch_size, window, dtype=torch.bool),
            "final": torch.zeros(batch_size, window, dtype=torch.bool),
            "extras": TensorDict({"search_value": torch.randn(batch_size, window, generator=g)}, [batch_size, window]),
            "task": task,
            "age": torch.zeros(batch_size, dtype=torch.int64),
            "weight": torch.ones(batch_size),
            "index": torch.arange(batch_size),
            "demo": torch.zeros(batch_size, dtype=torch.bool),
        }
        return Batch(**{**fields, **changes}, batch_size=[batch_size])

    return make
