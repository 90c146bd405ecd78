"""Checkpoints of older versions: entries that have another name today, and entries that they lack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLASSES = {
    "ezm_lightning.reanalyze.TDShare": "ezm_lightning.value_mix.TDShare",
    "ezm_lightning.reanalyze.SearchShare": "ezm_lightning.value_mix.SearchShare",
    "ezm_lightning.reanalyze.AgeShare": "ezm_lightning.value_mix.AgeShare",
    "ezm_lightning.reanalyze.VarianceShare": "ezm_lightning.value_mix.VarianceShare",
}
REMOVED = {"ezm_lightning.planner.Planner": ("trace",)}  # parameters that did not affect results
ENTRIES = {  # beginnings of the names in a state_dict, the longer ones first
    "target_model.": "target.model.",
    "td_share.range.": "value_mix.range.",
    "td_share.": "value_mix.range.",
}


def renewed(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint as today's version would have written it; today's content is returned unchanged.

    Before there was a choice of agents, the parts of EZ-M were top-level nodes of a config.
    """
    config, state = content.get("hyper_parameters"), content.get("state_dict")
    if not isinstance(config, Mapping) or not isinstance(state, Mapping):
        return content
    remaining = with_new_losses(without_removed(config))
    if remaining != config:
        content, config = {**content, "hyper_parameters": remaining}, remaining
    if "value_mix" in config:
        return content
    if any(key not in config for key in ("model", "planner", "reanalyzer", "module", "value_target", "collect")):
        return content
    return {**content, "hyper_parameters": _config(dict(config)), "state_dict": _state(state, config)}


def renewed_rank_state(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a rank as today's version would have written it."""
    if "learner_generator" not in state:
        return state
    return {**state, "learner": {"generator": state["learner_generator"]}}


def _config(config: dict[str, Any]) -> dict[str, Any]:
    tasks = len(config["tasks"]["names"])
    module, reanalyzer, collect = (dict(config[key]) for key in ("module", "reanalyzer", "collect"))
    mix = dict(config.pop("value_target"))
    mix["_target_"] = CLASSES.get(mix["_target_"], mix["_target_"])
    best_action = {"_target_": "ezm_lightning.policy_target.BestAction"}
    fixed = {"_target_": "ezm_lightning.temperature.FixedTemperature", "value": 0.0}
    temperature = {**config.get("temperature", fixed), "num_tasks": tasks}
    gradient: dict[str, Any] = {
        "_target_": "ezm_lightning.value_gradient.ValueGradient",
        "discount": config["discount"],
    }
    gradient |= {key: value for key, value in module.get("value_gradient", {}).items() if key != "_partial_"}
    config |= _dims(config["tasks"]["names"])
    model = {"obs_dims": "${obs_dims}", "action_dims": "${action_dims}", **config["model"]}
    reanalyzer |= {"planner": config["planner"], "policy_target": config.get("policy_target", best_action)}
    module |= {
        "model": model,
        "reanalyzer": reanalyzer,
        "value_mix": mix,
        "temperature": temperature,
        "value_gradient": gradient | {"num_tasks": tasks},
        "loss_coefs": {"value_gradient": 0.0, "temperature": 1.0} | dict(module["loss_coefs"]),
        "act_with_target": collect.pop("act_with_target", True),
    }
    return config | {"module": module, "model": model, "reanalyzer": reanalyzer, "value_mix": mix, "collect": collect}


def without_removed(config: Any) -> Any:
    """The config without the parameters in ``REMOVED``."""
    if isinstance(config, list):
        return [without_removed(entry) for entry in config]
    if not isinstance(config, Mapping):
        return config
    removed = REMOVED.get(config.get("_target_", ""), ())
    return {key: without_removed(entry) for key, entry in config.items() if key not in removed}


def with_new_losses(config: Any) -> Any:
    """The config with a coefficient of 0 for each loss that its learner did not have yet."""
    module = config.get("module")
    if not isinstance(module, Mapping) or not isinstance(module.get("loss_coefs"), Mapping):
        return config
    if module.get("_target_") != "ezm_lightning.module.EZM" or "bc" in module["loss_coefs"]:
        return config
    return {**config, "module": {**module, "loss_coefs": {**module["loss_coefs"], "bc": 0.0}}}


def _dims(names: list[str]) -> dict[str, Any]:
    """References to the tasks' dimensions; a config of today holds the dimensions."""
    listed = ",".join(names)
    return {"obs_dims": f"${{obs_dims:[{listed}]}}", "action_dims": f"${{action_dims:[{listed}]}}"}


def _state(state: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    entries = {}
    for name, value in state.items():
        old = next((old for old in ENTRIES if name.startswith(old)), "")
        entries[ENTRIES.get(old, "") + name.removeprefix(old)] = value
    tasks = len(config["tasks"]["names"])
    entries.setdefault("value_gradient.range.extremes", torch.zeros(tasks, 2))
    entries.setdefault("value_gradient.range.seen", torch.zeros(tasks, dtype=torch.bool))
    return entries
