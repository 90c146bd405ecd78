"""One rank of a run: `python -m tests.runs.two_ranks FOLDER OVERRIDES…` trains and writes FOLDER/rank<r>.json.

Lightning starts the other ranks with the same command line.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import torch

from ezm_lightning.brc import BRC
from ezm_lightning.brc.reward_scale import RewardScale
from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.commands import train
from ezm_lightning.module import EZM
from tests.runs import short


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """Of names and bytes."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return sha.hexdigest()


class Broken(short.Point):
    """Fails on the rank that FAIL_RANK names, after the warm-up."""

    steps = 0

    def step(self, action):
        Broken.steps += 1
        if os.environ.get("LOCAL_RANK", "0") == os.environ["FAIL_RANK"] and Broken.steps > 150:
            raise RuntimeError("the simulator is broken")
        return super().step(action)


TASKS = {"point": short.Point, "point_too": short.Point, "broken": Broken}


def extremes(scale: RewardScale) -> list[list[float]]:
    return [scale.low.tolist(), scale.high.tolist()]


def own_scale() -> list[RewardScale]:
    """A reward scale that only the episodes of this rank update, once one of them has ended."""
    own: list[RewardScale] = []
    update = RewardScale.update_

    def watched(self: RewardScale, task: int, reward: torch.Tensor, *, terminated: bool) -> None:
        update(self, task, reward, terminated=terminated)
        if not own:
            own.append(RewardScale(self.action_dims.tolist(), discount=self.discounts))
        update(own[0], task, reward, terminated=terminated)

    RewardScale.update_ = watched
    return own


def main(folder: str, *overrides: str) -> int | None:
    kept, on_fit_start = {}, Collect.on_fit_start

    def keep(self, trainer, pl_module):
        kept.update(collect=self, trainer=trainer, module=pl_module)
        on_fit_start(self, trainer, pl_module)

    Collect.on_fit_start = keep
    own = own_scale()
    status = train.main(list(overrides))
    if kept and not status:
        module, collect = kept["module"], kept["collect"]
        parts = (
            {"learner": module.model.state_dict(), "target": module.target.model.state_dict()}
            if isinstance(module, EZM)
            else {"learner": dict(module.named_parameters())}
        )
        group = kept["trainer"].optimizers[0].param_groups[0]
        report = {
            **({"extremes": extremes(module.reward_scale), "own": extremes(*own)} if isinstance(module, BRC) else {}),
            **{name: digest(dict(tensors)) for name, tensors in parts.items()},
            "updates": kept["trainer"].global_step,
            "lr": group.get("initial_lr", group["lr"]),  # without a schedule it is the only one
            "env_steps": collect.env.env_steps.tolist(),
            "stored": len(kept["trainer"].datamodule.replay),
        }
        (Path(folder) / f"rank{kept['trainer'].global_rank}.json").write_text(json.dumps(report))
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
