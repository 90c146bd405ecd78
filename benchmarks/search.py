"""``python -m benchmarks search``: a plan for B roots."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from omegaconf import DictConfig

from benchmarks.arguments import Arguments
from benchmarks.measure import Call, Row, Timer, against_products, count_flops, measured
from benchmarks.sizes import compile_override, config, planner_of, roots
from ezm_lightning.envs.sources import resolve_tasks
from ezm_lightning.model import Inference, PackedModel, WorldModel
from ezm_lightning.planner import Planner


def rows(arguments: Arguments, timer: Timer) -> list[Row]:
    """One row a batch size."""
    options, device = arguments.options, arguments.device
    cfg = config(options["size"])
    model, plain = make_model(cfg).to(device), planner_of(cfg)
    planner = planner_of(config(options["size"], *compile_override("planner", options["compile"])))
    packed = PackedModel(model, dtype=options["dtype"])
    per_root = search_flops(cfg, model, plain)
    rows = []
    for batch_size in options["batch"]:
        peers = [_peer(options["against"], cfg, model, plain, arguments, batch_size)] if options["against"] else []
        call = plan_call(cfg, packed, planner, batch_size, device)
        ours, floor, others = against_products(timer, call, *peers, flops=per_root * batch_size, dtype=packed.dtype)
        row = measured(
            arguments,
            size=options["size"],
            batch=batch_size,
            ms=ours,
            floor=floor,
            packages=("mctx", "jax") if options["against"] == "mctx" else (),
            parameters=sum(p.numel() for p in model.parameters()),
            peer=options["against"],
            peer_ms=others[0] if others else None,
        )
        rows.append(row)
    return rows


def make_model(cfg: DictConfig) -> WorldModel:
    """The untrained network of a config, in eval mode."""
    from hydra.utils import instantiate

    torch.manual_seed(0)
    specs = resolve_tasks(list(cfg.tasks.names))
    dims = {"obs_dims": [spec.obs_dim for spec in specs], "action_dims": [spec.action_dim for spec in specs]}
    return instantiate(cfg.model, **dims).eval().requires_grad_(False)


def plan_call(cfg: DictConfig, model: Inference, planner: Planner, batch_size: int, device: str) -> Call:
    """A plan for ``batch_size`` random observations, its noise drawn beforehand."""
    obs, task = roots(cfg, batch_size, device)
    noise = planner.sample_noise(model, batch_size, torch.Generator(device=device).manual_seed(0), explore=False)
    return lambda: planner(model, obs, task, noise)


def search_flops(cfg: DictConfig, model: WorldModel, planner: Planner) -> float:
    """FLOPs of the plain model's layers in a search of one root, all value heads counted; nothing is computed."""
    obs, task = roots(cfg, 1, "cpu")
    noise = planner.sample_noise(model, 1, torch.Generator(device=model.action_mask.device), explore=False)
    there = replace(noise, **{name: x.to("meta") for name, x in vars(noise).items()})
    return count_flops(lambda: planner(copy.deepcopy(model).to("meta"), obs.to("meta"), task.to("meta"), there))


def _peer(
    name: str, cfg: DictConfig, model: WorldModel, planner: Planner, arguments: Arguments, batch_size: int
) -> Call:
    if name == "plain":
        return plan_call(cfg, model, planner, batch_size, arguments.device)
    from benchmarks import mctx_peer

    return mctx_peer.plan_call(cfg, model, planner, batch_size, threads=arguments.threads)
