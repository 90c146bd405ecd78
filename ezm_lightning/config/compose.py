"""From a command line to a checked config; every mistake is reported in one line with the nearest valid choice."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore  # noqa: F401  (registers Hydra's own schema)
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, OmegaConfBaseException
from yaml import YAMLError

import ezm_lightning.config.resolvers  # noqa: F401  (what the files of conf/ compute with)
from ezm_lightning.config.advice import (
    OPEN,
    chosen_groups,
    explain_agent,
    explain_composition,
    explain_missing,
    explain_no_group,
    explain_option,
    explain_unknown_key,
    hydra_line,
    is_callback,
    perhaps_a_callback,
    undecoded,
    without_hydra,
)
from ezm_lightning.config.folder import Folders, as_list, config_groups
from ezm_lightning.config.given import check_given
from ezm_lightning.config.limits import check_devices, check_limits
from ezm_lightning.config.overrides import parse
from ezm_lightning.config.pretraining import check_demos
from ezm_lightning.config.signatures import check_targets, import_target
from ezm_lightning.config.texts import check_texts
from ezm_lightning.envs.sources import configure, resolve_tasks
from ezm_lightning.errors import nearest

# The preset is complete. If the plugin is installed, Hydra also checks it by the plugin's schema and warns.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/submitit_slurm' is validated against ConfigStore schema")
NEEDED = {"collect": "no simulator is stepped", "target": "no target network moves"}  # of the callbacks
LOGGER_PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow", "CometLogger": "comet_ml"}
OPEN_IN_HYDRA = (
    "callbacks",
    "sweeper.params",
    "job.env_set",
    "job_logging",
    "hydra_logging",
    "runtime",
    "help",
    "hydra_help",
)  # any keys
RANGE = re.compile(r"\+*(tasks\.reward_range|tasks\.value_range|value_range)\b")  # the last: of suites without one
REFERENCE = re.compile(r"\$\{([a-z_]+)\}")


def compose_checked(config_name: str, overrides: Sequence[str], folders: Folders) -> DictConfig:
    """The config with Hydra's own node, composed and checked. Raises ValueError with one line for any mistake."""
    cfg = compose_raw(config_name, overrides, folders)
    with hydra_resolvers(cfg):
        plain = without_hydra(cfg)
        base = _base(config_name, cfg, folders)
        try:
            _check_nodes(plain, without_hydra(base), config_groups(folders))
            _check_options(cfg, base)
            _check_known(cfg, base, config_name, folders)
            _check_deleted(overrides, base)
        except ValueError as error:
            again = partial(_compose, config_name, folders=folders)
            raise ValueError(explain_agent(overrides, folders, again) or error) from error
        _check_open(plain)
        _check_loggers(plain)
        check_given(plain)
        _check_values(plain)
        _check_name(plain)
        _check_tasks(plain)
        check_texts(plain)
        check_demos(plain)
        check_limits(plain)
        _check_read_in_training(plain, overrides)
        _check_ranges(plain, overrides)
        _check_callbacks(plain)
        if not on_slurm(cfg):
            check_devices(plain)
        check_targets(plain)
    return cfg


def _base(config_name: str, cfg: DictConfig, folders: Folders) -> DictConfig:
    """The config with the agent of ``cfg`` alone, on which the keys depend, and with the options of groups that have
    none by themselves, such as the tasks of ``ezm eval``."""
    chosen = chosen_groups(cfg)
    agent = [f"agent={chosen['agent']}"] if chosen.get("agent") else []
    base = compose_raw(config_name, agent, folders)
    empty = [group for group, option in chosen_groups(base).items() if option is None and group != "experiment"]
    added = [f"{group}={chosen[group]}" for group in empty if chosen.get(group)]
    return compose_raw(config_name, [*agent, *added], folders) if added else base


def compose_raw(config_name: str, overrides: Sequence[str], folders: Folders) -> DictConfig:
    """The composed config, Hydra's node included. Raises ValueError with one line if it does not compose."""
    parse(overrides)
    try:
        return _compose(config_name, overrides, folders)
    except MissingConfigException as error:
        raise ValueError(explain_missing(error, config_name, folders)) from error
    except ConfigCompositionException as error:
        again = partial(_compose, config_name, folders=folders)
        raise ValueError(explain_composition(error, config_name, overrides, folders, again)) from error
    except (HydraException, OmegaConfBaseException, OSError, YAMLError) as error:
        raise ValueError(hydra_line(error)) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{undecoded(folders)}: {error}; a config is written in UTF-8") from error


def _compose(config_name: str, overrides: Sequence[str], folders: Folders) -> DictConfig:
    first, *more = as_list(folders)
    searched = [f"hydra.searchpath=['file://{folder}']" for folder in more]
    with initialize_config_dir(str(first), version_base="1.3"):
        return compose(config_name, overrides=[*overrides, *searched], return_hydra_config=True)


@contextlib.contextmanager
def hydra_resolvers(cfg: DictConfig) -> Iterator[None]:
    """Within this context ``${hydra:...}`` is resolved from a config that is not running yet."""
    singleton = HydraConfig.instance()
    before = singleton.cfg
    singleton.set_config(cfg)
    try:
        yield
    finally:
        singleton.cfg = before


def on_slurm(cfg: DictConfig) -> bool:
    """Whether the run will start in a SLURM job, whose GPUs may differ from those of this machine."""
    return str(OmegaConf.select(cfg, "hydra.launcher._target_")).endswith(".SlurmLauncher")


def _check_options(cfg: DictConfig, base: DictConfig) -> None:
    """Raises ValueError for an option of another agent, such as a model that is built where the agent's is read."""
    for group in chosen_groups(base):
        nodes = [node for node in (cfg.get(group), base.get(group)) if isinstance(node, DictConfig)]
        if len(nodes) == 2 and ("_target_" in nodes[0]) != ("_target_" in nodes[1]):
            raise ValueError(explain_option(group, base, cfg))


def _check_known(cfg: DictConfig, base: DictConfig, config_name: str, folders: Folders) -> None:
    """Raises ValueError for a key that is not read, from the command line or from a file of the user."""
    groups = chosen_groups(base)
    for key in _unknown_keys(without_hydra(cfg), without_hydra(base)):
        if key in groups:
            option = chosen_groups(cfg).get(key) if key == "experiment" else None  # whose keys are the config's own
            first_line = f"; the first line of {key}/{option}.yaml is '# @package _global_'" if option else ""
            raise ValueError(f"{key} is a group, which has no keys here: it is chosen by {key}=...{first_line}")
        if key in config_groups(as_list(folders)[0]):
            raise ValueError(explain_no_group(key, config_name, base))
        raise ValueError(explain_unknown_key(key, base, folders) + perhaps_a_callback(key, cfg))
    for key in _unknown_keys(cfg.hydra, base.hydra, "hydra"):
        if not key.startswith(tuple(f"hydra.{node}." for node in OPEN_IN_HYDRA)):
            parent, _, leaf = key.rpartition(".")
            near = nearest(leaf, map(str, OmegaConf.select(base, parent)), 1)
            raise ValueError(f"unknown key {key!r}; nearest: {parent}.{near}")


def _check_deleted(overrides: Sequence[str], base: DictConfig) -> None:
    """Raises ValueError for a key that is taken out and is read, which would be missed only when a run is built."""
    for text in overrides:
        key = text.removeprefix("~").partition("=")[0]
        parent, _, leaf = key.rpartition(".")
        node = OmegaConf.select(base, parent) if parent else base
        if not text.startswith("~") or key in chosen_groups(base) or key.startswith(tuple(f"{name}." for name in OPEN)):
            continue
        if isinstance(node, DictConfig) and "_target_" not in node and leaf in map(str, node):
            raise ValueError(f"{text}: {key} is read and cannot be left out; write {key}=...")


def _check_open(cfg: DictConfig) -> None:
    """Raises ValueError for a callback or a logger that is no node of a class, and for a run that lacks a callback of
    ``NEEDED``."""
    for name in OPEN:
        for key, node in (OmegaConf.select(cfg, name) or {}).items():
            if node is not None and not (isinstance(node, DictConfig) and "_target_" in node):
                raise ValueError(f"{name}.{key}={node} is nothing to build: +{name}.{key}={{_target_: module.Class}}")
    for key, consequence in NEEDED.items() if OmegaConf.select(cfg, "callbacks") is not None else ():
        if OmegaConf.select(cfg, f"callbacks.{key}") is None:
            raise ValueError(f"callbacks.{key}=null: without it {consequence}")


def _check_read_in_training(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Raises ValueError for a key of the tasks on the command line of a command that reads only their names."""
    for text in (text.lstrip("+") for text in overrides):
        if "module" not in cfg and text.startswith("tasks.") and not text.startswith("tasks.names="):
            same = text.removeprefix("tasks.")
            advice = f"write {same}" if same.partition("=")[0] in cfg else "leave it out"
            raise ValueError(f"{text} is read by ezm train alone; {advice}")


def _check_ranges(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Raises ValueError for a range of rewards or values on the command line that nothing in the config reads."""
    for text, key in ((text, match[1]) for text in overrides if (match := RANGE.match(text))):
        written, general = OmegaConf.to_yaml(cfg), key == "value_range"
        if f"${{{'tasks.value_range' if general else key}}}" not in written:
            raise ValueError(f"{text}: {cfg.module._target_} has no use for it; leave it out")
        if general and "${oc.select:value_range}" not in written:
            raise ValueError(f"{text}: these tasks have a range of their own; write tasks.{text.lstrip('+')}")


def _check_callbacks(cfg: DictConfig) -> None:
    """Raises ValueError for a callback that is none of Lightning's; their classes are imported."""
    for key, node in (OmegaConf.select(cfg, "callbacks") or {}).items():
        if node is not None and not is_callback(import_target(node._target_, f"callbacks.{key}")):
            raise ValueError(f"callbacks.{key}._target_={node._target_} is no lightning.Callback")


def _check_loggers(cfg: DictConfig) -> None:
    """Raises ValueError for a logger whose package is not installed."""
    for name, node in (OmegaConf.select(cfg, "logger") or {}).items():
        package = LOGGER_PACKAGES.get(str(node and node._target_).rpartition(".")[2])
        if package is not None and importlib.util.find_spec(package) is None:
            raise ValueError(f"logger.{name} needs the package {package}: pip install {package}")


def _check_nodes(cfg: DictConfig, base: DictConfig, groups: Collection[str], path: str = "") -> None:
    """Raises ValueError if another value replaces a node, or a reference to a node."""
    for key in map(str, base):
        where = f"{path}.{key}" if path else key
        if key not in cfg.keys() or where in OPEN or OmegaConf.is_missing(base, key):  # noqa: SIM118
            continue
        reference, value = REFERENCE.fullmatch(_written(base, key)), _written(cfg, key)
        if reference and isinstance(base[key], DictConfig) and value != reference[0] and not _may_be_null(where, value):
            name = reference[1]
            remedy = f"it is chosen by {name}=..." if name in groups else f"its arguments are {name}.KEY=..."
            raise ValueError(f"{where}={value}: {remedy}")
        if reference or not isinstance(base[key], DictConfig) or _may_be_null(where, value):
            continue
        if not isinstance(cfg[key], DictConfig):
            remedy = f"its choices are {', '.join(config_groups()[key])}" if key in groups else f"write {where}.KEY=..."
            raise ValueError(f"{where}={value} has no parts: {remedy}")
        _check_nodes(cfg[key], base[key], groups, where)


def _written(cfg: DictConfig, key: str) -> str:
    """The value at a key as it is written: an interpolation is not resolved."""
    node: Any = cfg._get_node(key)
    return "null" if node is None or node._value() is None else str(node._value())


def _may_be_null(where: str, value: str) -> bool:
    """Whether a run can be without the node: its evaluations, its checkpoints, one of its callbacks."""
    return value == "null" and (where in ("evaluate", "checkpoint") or where.startswith("callbacks."))


def _unknown_keys(cfg: DictConfig, base: DictConfig, path: str = "") -> Iterator[str]:
    """The keys of ``cfg`` that ``base`` lacks, outside nodes that accept any key: `_target_` nodes and open nodes."""
    for key in map(str, cfg):
        where = f"{path}.{key}" if path else key
        if key not in base.keys():  # noqa: SIM118  ("in" finds no key whose value is missing)
            yield where
        elif where not in OPEN and _is_plain(base, key) and _is_plain(cfg, key):
            yield from _unknown_keys(cfg[key], base[key], where)


def _is_plain(cfg: DictConfig, key: str) -> bool:
    """Whether a key holds a node that is read key by key."""
    if OmegaConf.is_missing(cfg, key) or OmegaConf.is_interpolation(cfg, key):
        return False
    return isinstance(cfg[key], DictConfig) and "_target_" not in cfg[key]


def _check_values(cfg: DictConfig) -> None:
    missing = sorted(_missing_keys(cfg))
    if missing:
        raise ValueError(f"no value for {', '.join(missing)}: write {missing[0]}=...")
    _check_interpolations(cfg, cfg, "")


def _missing_keys(cfg: DictConfig, path: str = "") -> Iterator[str]:
    """The dotted keys without a value; a key itself may contain a dot, such as a task in a module."""
    for key in map(str, cfg):
        where = f"{path}.{key}" if path else key
        if OmegaConf.is_missing(cfg, key):
            yield where
        elif not OmegaConf.is_interpolation(cfg, key) and isinstance(cfg[key], DictConfig):
            yield from _missing_keys(cfg[key], where)


def _check_interpolations(cfg: DictConfig | ListConfig, root: DictConfig, path: str) -> None:
    for key in list(cfg) if isinstance(cfg, DictConfig) else range(len(cfg)):
        where = f"{path}.{key}" if path else str(key)
        try:
            child = cfg[key]
        except InterpolationKeyError as error:
            raise ValueError(f"{where}: {hydra_line(error)}") from error
        except InterpolationResolutionError:  # such as the run's folder, which is known only after it is made
            continue
        if isinstance(child, (DictConfig, ListConfig)) and not OmegaConf.is_interpolation(cfg, key):
            _check_interpolations(child, root, where)


def _check_name(cfg: DictConfig) -> None:
    """Raises ValueError for a name that cannot be the name of a run's folder."""
    name = cfg.get("name", "train")
    words = str(name).split("/")
    if name is None or not isinstance(name, str | int | float) or isinstance(name, bool) or {"", ".", ".."} & {*words}:
        shown = "null" if name is None else name
        raise ValueError(f"name={shown} must be a word: the runs of that name are in the folder runs/NAME")


def _check_tasks(cfg: DictConfig) -> None:
    names = OmegaConf.select(cfg, "tasks.names")
    configure(cfg)
    if names is not None:
        _check_words(names)
        resolve_tasks([str(name) for name in names])


def _check_words(names: Any) -> None:
    words = names if isinstance(names, ListConfig) else None
    if words is None or not all(isinstance(word, str) for word in words):
        flat = names if isinstance(names, str) else ",".join(re.findall(r"[\w./:?=-]+", str(names).replace("'", " ")))
        raise ValueError(f"tasks.names={str(names).replace(chr(39), '')}: a list of tasks is tasks=[{flat}]")
