"""Advice in one line for a command line that does not compose, with the nearest valid choice."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf

from ezm_lightning.config.folder import Folders, as_list, config_groups
from ezm_lightning.config.given import GIVEN
from ezm_lightning.config.signatures import accepted_parameters, import_target
from ezm_lightning.envs.sources import known_tasks
from ezm_lightning.errors import nearest

Compose = Callable[[list[str]], DictConfig]  # of overrides
OPEN = ("callbacks", "logger")  # nodes whose keys are names: all their values are built, in their order
MEANT = {  # words that are not keys, and the overrides that they mean
    "device": "trainer=gpu, or trainer=cpu",
    "task": "tasks=...",
    "value_target": "value_mix=...",
    "steps": "env_steps_per_task=...",
    "learning_rate": "module.optimizer.lr=...",
    "gamma": "discount=...",
    "num_envs": "envs_per_task=...",
}
LABELS = "callbacks.tensorboard.hparams."  # of values that stand elsewhere
UNKNOWN_KEY = re.compile(r"Could not (?:override|append to config|delete from config)\.? '([^']+)'")


def without_hydra(cfg: DictConfig) -> DictConfig:
    """A copy of the config without Hydra's node, as the command gets it."""
    plain = cfg.copy()
    OmegaConf.set_struct(plain, False)
    del plain["hydra"]
    return plain


def explain_missing(error: MissingConfigException, config_name: str, folders: Folders) -> str:
    """The message for a missing option of a group, or a missing file."""
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = config_groups(folders).get(group) or list(error.options or [])
    if not group:
        return f"no configuration file {option!r} in {folders}"
    named = (
        f"; a task is named with its source: {nearest(option, _ends(known_tasks(), option), 1)}"
        if group == "tasks"
        else ""
    )
    return f"unknown {group} {option!r}; nearest: {nearest(option, options)} (choices: {', '.join(options)}){named}"


def _ends(tasks: Sequence[str], word: str) -> list[str]:
    """The tasks whose name without the source is ``word``; all tasks if there is none."""
    return [task for task in tasks if task.partition("/")[2] == word] or list(tasks)


def explain_composition(
    error: ConfigCompositionException, config_name: str, overrides: Sequence[str], folders: Folders, compose: Compose
) -> str:
    """The message for a config that does not compose; ``compose`` takes fewer overrides, to find near choices."""
    if str(error).startswith("Multiple values for "):
        group = str(error).removeprefix("Multiple values for ").partition(".")[0]
        return f"{group} is chosen already: write {group}=... without a '+'; several of {group} are {group}=[a,b]"
    if str(error).startswith("Ambiguous value"):
        text = str(error).splitlines()[0].partition("'")[2].rstrip("'")
        return _explain_choices(text, compose([]))
    if (disagreement := explain_agent(overrides, folders, compose)) is not None:
        return disagreement
    absent = re.match(r"Could not override '([^']+)'\. No match in the defaults list", str(error))
    if absent is not None:
        groups = chosen_groups(compose([]))
        chosen = [text for text in overrides if text.startswith(("agent=", "experiment=")) and _key(text) in groups]
        return explain_no_group(absent[1], config_name, compose(chosen))
    if (repeated := re.match(r"(\w+) appears more than once in the final defaults list", str(error))) is not None:
        return f"{repeated[1]} is chosen already: write {repeated[1]}=... without a '+'"
    match = UNKNOWN_KEY.search(str(error))
    if match is None or (error.__cause__ is not None and "not in" not in str(error.__cause__)):
        return hydra_line(error.__cause__ or error)
    try:
        base = compose([text for text in overrides if _is_choice(text, folders)])
    except HydraException:  # the mistake is in a file
        hint = "; an experiment's first line is '# @package _global_'" if "@experiment" in str(error) else ""
        return hydra_line(error) + hint
    return explain_unknown_key(match.group(1), base, folders)


def chosen_groups(cfg: DictConfig) -> dict[str, str | None]:
    """The groups that a config with Hydra's node is composed of, and the option of each; Hydra's own are left out."""
    choices = OmegaConf.select(cfg, "hydra.runtime.choices")
    return {str(group): option for group, option in choices.items() if "/" not in str(group)}


def explain_no_group(group: str, config_name: str, cfg: DictConfig) -> str:
    """The message for a group of configs that a command, or its agent, does not have."""
    groups = chosen_groups(cfg)
    whose = f"{config_name} with agent={groups['agent']}" if "agent" in groups else config_name
    return f"{whose} has no group {group!r} here; it has {', '.join(groups) or 'none'}"


def explain_agent(overrides: Sequence[str], folders: Folders, compose: Compose) -> str | None:
    """The message for an experiment of another agent than the one that is chosen beside it; None if there is none."""
    chosen = {_key(text): text.partition("=")[2] for text in overrides}
    agent, experiment = chosen.get("agent"), chosen.get("experiment")
    default, experiments = chosen_groups(compose([])).get("agent"), config_groups(folders).get("experiment", [])
    if agent is None or default is None or experiment not in experiments:
        return None
    its_agent = chosen_groups(compose([f"experiment={experiment}"])).get("agent")
    if agent == its_agent:
        return None
    agents = {name: re.search(r"override /agent: (\w+)", _text("experiment", name, folders)) for name in experiments}
    fitting = [name for name, match in agents.items() if (match[1] if match else default) == agent]
    advice = f"experiment={nearest(experiment, fitting, 1)}" if fitting else f"agent={agent} without an experiment"
    return f"experiment={experiment} is of agent={its_agent} and has keys that agent={agent} lacks; nearest: {advice}"


def _text(group: str, option: str, folders: Folders) -> str:
    """The text of an option's file."""
    files = (folder / group / f"{option}.yaml" for folder in as_list(folders))
    return next(file for file in files if file.is_file()).read_text(encoding="utf-8")


def undecoded(folders: Folders) -> str:
    """The first config of the user's that is not written in UTF-8; 'a config' if it is elsewhere."""
    for file in (file for folder in as_list(folders)[1:] for file in sorted(folder.rglob("*.yaml"))):
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return str(file)
    return "a config"


def _key(override: str) -> str:
    return override.partition("=")[0]


def explain_option(group: str, base: DictConfig, cfg: DictConfig) -> str:
    """The message for an option of a group that is of another agent; ``base`` is composed with the agent's options."""
    groups = chosen_groups(base)
    whose = f"agent={groups['agent']}" if "agent" in groups else "this command"
    return f"{group}={chosen_groups(cfg)[group]} does not fit {whose}; nearest: {group}={groups[group]}"


def _explain_choices(text: str, base: DictConfig) -> str:
    """The message for ``key=a,b`` without --multirun: it means a list if the key holds one, or else a sweep."""
    key, _, value = text.partition("=")
    if key == "tasks.names" and value.startswith("["):  # written by `rewrite`
        key, value = "tasks", value.replace("[", "").replace("]", "")
        text = f"{key}={value}"
    of_tasks = key == "tasks" and "/" in value  # a suite is no part of a list
    a_list = of_tasks or isinstance(OmegaConf.select(base, key), ListConfig)
    return f"{text}: {f'a list is written {key}=[{value}], ' * a_list}a run for each value needs --multirun"


def _is_choice(override: str, folders: Folders) -> bool:
    key, _, option = override.partition("=")
    return key.startswith("hydra/") or option in config_groups(folders).get(key, [])


def explain_unknown_key(key: str, cfg: DictConfig, folders: Folders) -> str:
    """The message for a ``key`` that ``cfg`` lacks: it may be an argument to add with '+', or near another key."""
    parent, _, leaf = key.rpartition(".")
    if key in MEANT:
        return f"unknown key {key!r}; nearest: {MEANT[key]}"
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if key in GIVEN:
        return f"{key}: {GIVEN[key]}"
    if isinstance(node, DictConfig) and leaf in map(str, node):
        return f"{key} is null already; leave out ~{key}"
    if parent in OPEN:
        return f"no {key!r} in the config: write +{key}=... for a new one"
    if isinstance(node, DictConfig) and "_target_" in node:
        parameters = accepted_parameters(import_target(node["_target_"], parent)) or []
        accepted = [name for name in parameters if f"{parent}.{name}" not in GIVEN]
        if leaf in accepted:
            return f"key {key!r} is not in the config, but {node['_target_']} takes it: write +{key}=..."
        meant = f"{parent}.{nearest(leaf, parameters, count=1)}"
        if meant in GIVEN:
            return f"unknown key {key!r}; {meant}: {GIVEN[meant]}"
        below = [name for name in _dotted_keys(node, parent) if name.rpartition(".")[2] == leaf]
        near = nearest(leaf, sorted({*accepted, *map(str, node)})).split(", ")
        return f"unknown key {key!r}; nearest: {', '.join(below or [f'{parent}.{name}' for name in near])}"
    return f"unknown key {key!r}; nearest: {_nearest_key(key, cfg, folders)}"


def _nearest_key(key: str, cfg: DictConfig, folders: Folders) -> str:
    dotted = (name for name in _dotted_keys(without_hydra(cfg)) if not name.startswith(LABELS))
    keys = list(dict.fromkeys([*dotted, *config_groups(folders)]))
    same_leaf = [name for name in keys if name.rpartition(".")[2] == key.rpartition(".")[2]]
    if same_leaf:
        return ", ".join(same_leaf[:3])
    head = key.partition(".")[0]
    return nearest(key, keys) if head in cfg or "." not in key else nearest(head, [k for k in keys if "." not in k])


def _dotted_keys(cfg: DictConfig, path: str = "") -> list[str]:
    keys = []
    for key in map(str, cfg):
        where = f"{path}.{key}" if path else key
        keys.append(where)
        if not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, key):
            child = cfg[key]
            keys += _dotted_keys(child, where) if isinstance(child, DictConfig) else []
    return keys


def perhaps_a_callback(key: str, cfg: DictConfig) -> str:
    node = OmegaConf.select(cfg, key)
    if not (isinstance(node, DictConfig) and "_target_" in node and is_callback(import_target(node._target_, key))):
        return ""
    return f"; a callback is +callbacks.{key.rpartition('.')[2]}={{_target_: {node._target_}}}"


def is_callback(target: Callable[..., Any]) -> bool:
    """Whether ``target`` may build a callback of Lightning; a function may."""
    from lightning import Callback

    return not inspect.isclass(target) or issubclass(target, Callback)


def hydra_line(error: BaseException) -> str:
    """Hydra's message of an error, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    noise = ("full_key:", "object_type=", "reference_type=", "See ")
    return "; ".join(line for line in lines if not line.startswith(noise))
