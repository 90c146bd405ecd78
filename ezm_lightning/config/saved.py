"""The training config inside a checkpoint: complete, with only classes that may be built."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

import ezm_lightning.config.resolvers  # noqa: F401  (an old config is completed by them)
from ezm_lightning.config.signatures import (
    HYDRA_KEYS,
    check_targets,
    import_target,
    target_nodes,
    type_hints,
)
from ezm_lightning.envs.sources import resolve_tasks

BUILT = ("module",)
CONFIG_KEYS = ("tasks.names", "tasks.action_repeat", "obs_dims", "action_dims", "seed", *BUILT)
UNCHANGING = {
    "env_threads": 0,
    "torch_threads": 1,
    "max_fault_share": 0.01,
}  # settings that do not affect results and that older checkpoints may lack
TRUSTED = ("ezm_lightning.", "torch.optim.")


def saved_config(content: Mapping[str, Any], path: str | Path, *, trust: bool = False) -> DictConfig:
    """The training config inside a checkpoint, resolved and checked against its classes.

    A config contains the names of classes to build, so a foreign file could contain any function to call. Names outside
    this package and ``torch.optim`` are refused unless ``trust``. Raises ValueError for those, for missing keys and for
    keys that this version does not accept.
    """
    cfg = resolved_config(content, path)
    _check_tasks(cfg, path)
    check_built(OmegaConf.masked_copy(cfg, list(BUILT)), path, trust=trust)
    return cfg


def resolved_config(content: Mapping[str, Any], path: str | Path) -> DictConfig:
    """The training config inside a checkpoint, resolved. Raises ValueError for missing keys."""
    cfg = OmegaConf.merge(UNCHANGING, dict(content["hyper_parameters"]))
    assert isinstance(cfg, DictConfig)
    OmegaConf.resolve(cfg)  # so that interpolated values are checked too
    missing = [key for key in CONFIG_KEYS if OmegaConf.select(cfg, key) is None]
    if missing:
        raise ValueError(
            f"{path} is not a checkpoint of this version of ezm train: its config has no {', '.join(missing)}"
        )
    return cfg


def check_built(built: DictConfig, path: str | Path, *, trust: bool = False) -> None:
    """Raises ValueError unless every class in ``built`` is trusted and accepts the arguments beside it."""
    if not trust:
        _check_trusted(built, path)
    try:
        check_targets(built)
    except ValueError as error:
        raise ValueError(f"{path} does not fit this version of ezm_lightning: {error}") from error


def make_part(node: Any) -> Any:
    """The object of a resolved and checked node: ``hydra.utils.instantiate`` without Hydra."""
    if isinstance(node, ListConfig):
        return [make_part(item) for item in node]
    if not isinstance(node, DictConfig):
        return node
    values = {str(key): make_part(node[key]) for key in node if key not in HYDRA_KEYS}
    if "_target_" not in node:
        return values
    target = import_target(node["_target_"], "")
    hints = type_hints(target)
    values |= {key: float(value) for key, value in values.items() if hints.get(key) is float and value is not None}
    return partial(target, **values) if node.get("_partial_") else target(**values)


def _check_tasks(cfg: DictConfig, path: str | Path) -> None:
    """Raises ValueError if the widths of the tasks differ from those that the agent was trained with; warns if their
    physics do (an H1 with built-in shapes, where HumanoidBench's is installed now)."""
    specs = resolve_tasks(list(cfg.tasks.names))
    for kind in ("obs", "action"):
        now, then = [getattr(spec, f"{kind}_dim") for spec in specs], list(cfg[f"{kind}_dims"])
        if now != then:
            raise ValueError(f"{path} was trained on {kind}_dims={then}, its tasks {list(cfg.tasks.names)} have {now}")
    if "task_notes" not in cfg:  # an older checkpoint
        return
    for spec in specs:
        trained_on = replace(spec, note=cfg.task_notes.get(spec.name, ""))
        if trained_on != spec:
            warnings.warn(f"{path} was trained on {trained_on.label}, and here is {spec.label}", stacklevel=2)


def _check_trusted(cfg: DictConfig, path: str | Path) -> None:
    for where, node in target_nodes(cfg):
        name = str(node["_target_"])
        trusted = name.startswith(TRUSTED) and f"{import_target(name, where).__module__}.".startswith(TRUSTED)
        if not trusted:
            raise ValueError(
                f"{path} names code that is not part of ezm_lightning: {where}._target_={name}; "
                "if you know where the file comes from, write trust=true "
                "(ezm eval: eval.trust=true, ezm transfer: transfer.trust=true)"
            )
