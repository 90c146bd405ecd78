"""Times one plan (32 simulations over 16 candidates) on one CPU thread, a table of milliseconds.

    python benchmarks/search.py [--model small hard] [--batch 1 9 64 256] [--repeats 7]

Networks are untrained, of the preset's sizes, for nine tasks with 51 observations and 19 actions (HumanoidBench without
hands): the time of a search depends on neither weights nor tasks. Medians, after one call to warm up; "spread" is the
range of the repeats.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import ezm_lightning.train  # noqa: F401  (registers the resolvers of conf/)
from ezm_lightning.configs import config_dir
from ezm_lightning.model import WorldModel
from ezm_lightning.planner import Planner
from ezm_lightning.report import table

NUM_TASKS, OBS_DIM, ACTION_DIM = 9, 51, 19


def make(size: str) -> tuple[WorldModel, Planner]:
    """The untrained model of ``conf/model/<size>.yaml``, in eval mode, and the default planner."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("train", overrides=[f"model={size}", "run_dir=none"])
    model = instantiate(cfg.model, obs_dims=[OBS_DIM] * NUM_TASKS, action_dims=[ACTION_DIM] * NUM_TASKS)
    return model.eval(), instantiate(cfg.planner)


def plan_call(model: WorldModel, planner: Planner, batch_size: int) -> Callable[[], object]:
    """A plan for ``batch_size`` random observations, noise drawn outside the clock."""
    generator = torch.Generator().manual_seed(0)
    noise = planner.sample_noise(model, batch_size, generator, explore=False)
    obs = torch.randn(batch_size, OBS_DIM, generator=generator)
    return lambda: planner(model, obs, torch.arange(batch_size) % NUM_TASKS, noise)


def milliseconds(call: Callable[[], object], repeats: int) -> list[float]:
    """The time of each of ``repeats`` calls, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return times[1:]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["small", "hard"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 9, 64, 256])
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for size in arguments.model:
        model, planner = make(size)
        for batch_size in arguments.batch:
            times = milliseconds(plan_call(model, planner, batch_size), arguments.repeats)
            spread = f"{min(times):.1f} … {max(times):.1f}"
            rows.append((size, batch_size, statistics.median(times), spread))
    table(("model", "roots", "ms per plan", "spread"), rows)


if __name__ == "__main__":
    main()
