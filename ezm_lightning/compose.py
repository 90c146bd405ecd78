"""From a command line to a checked config; every mistake becomes one line that names the nearest valid choice."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore  # noqa: F401  (registers Hydra's own schema)
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, OmegaConfBaseException

from ezm_lightning.configs import config_groups
from ezm_lightning.envs.humanoidbench import use_assets
from ezm_lightning.envs.tasks import nearest, resolve_tasks
from ezm_lightning.limits import check_devices, check_limits
from ezm_lightning.signatures import accepted_parameters, check_targets, import_target

# The preset is whole; where the plugin is installed Hydra also checks it by the plugin's schema, and says so at length.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/submitit_slurm' is validated against ConfigStore schema")
UNKNOWN_KEY = re.compile(r"Could not (?:override|append to config|delete from config)\.? '([^']+)'")


def rewrite(overrides: Sequence[str], directory: Path) -> list[str]:
    """``overrides`` with two shorthands written out.

    ``tasks=[a,b]`` and ``tasks=source/task`` become ``tasks=custom tasks.names=[...]`` (the group ``tasks`` itself
    holds suites), and a checkpoint's path, which holds a '=', is quoted.
    """
    return [new for override in overrides for new in _rewrite_one(override, directory)]


def _rewrite_one(override: str, directory: Path) -> list[str]:
    key, _, value = override.partition("=")
    if key == "tasks" and value.startswith("["):
        return ["tasks=custom", f"tasks.names={value}"]
    if key == "tasks" and "/" in value and not (directory / "tasks" / f"{value}.yaml").is_file():
        return ["tasks=custom", f"tasks.names={','.join(f'[{name}]' for name in value.split(','))}"]
    if key == "ckpt_path" and "=" in value and not value.startswith(("'", '"')):
        return [f"ckpt_path='{value}'"]
    return [override]


def parse(overrides: Sequence[str]) -> list[Override]:
    """The parsed overrides. Raises ValueError naming the one that cannot be read."""
    parser, parsed = OverridesParser.create(), []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except OverrideParseException as error:
            lines = [line for line in str(error).splitlines() if not line.startswith(("Error parsing", "See "))]
            raise ValueError(f"cannot read {text!r}, an override is key=value: {'; '.join(lines)}") from error
    return parsed


def jobs(overrides: Sequence[str]) -> Iterator[list[str]]:
    """The override lists that together try every choice of a sweep once; not the product of all choices."""
    parsed = parse(overrides)
    choices = [
        [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
        if each.is_sweep_override()
        else [text]
        for each, text in zip(parsed, overrides, strict=True)
    ]
    for row in zip_longest(*choices):
        yield [value if value is not None else options[0] for value, options in zip(row, choices, strict=True)]
    if not choices:
        yield []


def compose_checked(config_name: str, overrides: Sequence[str], directory: Path) -> DictConfig:
    """The config with Hydra's own node, composed and checked. Raises ValueError with one line for any mistake."""
    cfg = compose_raw(config_name, overrides, directory)
    with hydra_resolvers(cfg):
        plain = without_hydra(cfg)
        _check_added(config_name, overrides, directory, plain)
        _check_values(plain)
        _check_tasks(plain)
        check_limits(plain)
        if not on_slurm(cfg):
            check_devices(plain)
        check_targets(plain)
    return cfg


def compose_raw(config_name: str, overrides: Sequence[str], directory: Path) -> DictConfig:
    """The composed config, Hydra's node included. Raises ValueError with one line where it does not compose."""
    parse(overrides)
    try:
        return _compose(config_name, overrides, directory)
    except MissingConfigException as error:
        raise ValueError(_explain_missing(error, config_name, directory)) from error
    except ConfigCompositionException as error:
        raise ValueError(_explain_composition(error, config_name, overrides, directory)) from error
    except (HydraException, OmegaConfBaseException, OSError) as error:
        raise ValueError(_one_line(error)) from error


def _compose(config_name: str, overrides: Sequence[str], directory: Path) -> DictConfig:
    with initialize_config_dir(str(directory), version_base="1.3"):
        return compose(config_name, overrides=list(overrides), return_hydra_config=True)


@contextlib.contextmanager
def hydra_resolvers(cfg: DictConfig) -> Iterator[None]:
    """Lets ``${hydra:...}`` be read from a config that is not running yet."""
    singleton = HydraConfig.instance()
    before = singleton.cfg
    singleton.set_config(cfg)
    try:
        yield
    finally:
        singleton.cfg = before


def on_slurm(cfg: DictConfig) -> bool:
    """Whether the run is to start in a SLURM job: which GPUs are here says nothing of those there."""
    return str(OmegaConf.select(cfg, "hydra.launcher._target_")).endswith(".SlurmLauncher")


def without_hydra(cfg: DictConfig) -> DictConfig:
    """A copy of the config as the command will see it."""
    plain = cfg.copy()
    OmegaConf.set_struct(plain, False)
    del plain["hydra"]
    return plain


def _explain_missing(error: MissingConfigException, config_name: str, directory: Path) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or config_groups(directory).get(group, []))
    if not group:
        return f"no configuration file {option!r} in {directory}"
    return f"unknown {group} {option!r}; nearest: {nearest(option, options)} (choices: {', '.join(options)})"


def _explain_composition(
    error: ConfigCompositionException, config_name: str, overrides: Sequence[str], directory: Path
) -> str:
    if str(error).startswith("Ambiguous value"):
        text = str(error).splitlines()[0].partition("'")[2].rstrip("'")
        key, _, value = text.partition("=")
        return f"{text}: a list is written {key}=[{value}], a sweep over the values needs --multirun"
    match = UNKNOWN_KEY.search(str(error))
    if match is None or (error.__cause__ is not None and "not in" not in str(error.__cause__)):
        return _one_line(error.__cause__ or error)
    base = _compose(config_name, [text for text in overrides if _is_choice(text, directory)], directory)
    return explain_unknown_key(match.group(1), base, directory)


def _is_choice(override: str, directory: Path) -> bool:
    key, _, option = override.partition("=")
    return option in config_groups(directory).get(key, [])


def explain_unknown_key(key: str, cfg: DictConfig, directory: Path) -> str:
    """Why ``key`` is none of ``cfg``'s, and what was perhaps meant: an argument to add with '+', or the nearest key."""
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else None
    if isinstance(node, DictConfig) and "_target_" in node:
        accepted = accepted_parameters(import_target(node["_target_"], parent)) or []
        if leaf in accepted:
            return f"key {key!r} is not in the config, but {node['_target_']} takes it: write +{key}=..."
        near = [f"{parent}.{each}" for each in nearest(leaf, sorted({*accepted, *map(str, node)})).split(", ")]
        return f"unknown key {key!r}; nearest: {', '.join(near)}"
    return f"unknown key {key!r}; nearest: {_nearest_key(key, cfg, directory)}"


def _nearest_key(key: str, cfg: DictConfig, directory: Path) -> str:
    keys = [*_dotted_keys(without_hydra(cfg)), *config_groups(directory)]
    same_leaf = [each for each in keys if each.rpartition(".")[2] == key.rpartition(".")[2]]
    if same_leaf:
        return ", ".join(same_leaf[:3])
    head = key.partition(".")[0]
    return nearest(key, keys) if head in cfg or "." not in key else nearest(head, [k for k in keys if "." not in k])


def _dotted_keys(cfg: DictConfig, path: str = "") -> list[str]:
    found = []
    for key in map(str, cfg):
        where = f"{path}.{key}" if path else key
        found.append(where)
        if not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, key):
            child = cfg[key]
            found += _dotted_keys(child, where) if isinstance(child, DictConfig) else []
    return found


def _check_added(config_name: str, overrides: Sequence[str], directory: Path, cfg: DictConfig) -> None:
    plus = [each for each in parse(overrides) if each.is_add() or each.is_force_add()]
    added = [each for each in plus if not _adds_group(each, directory)]
    if not added:
        return
    kept = [text for text in overrides if not text.startswith("+")]
    base = compose_raw(config_name, kept, directory)
    for each in added:
        key = each.key_or_group
        if not key.startswith("hydra.") and not _has_key(base, key) and not _inside_target(cfg, key):
            raise ValueError(explain_unknown_key(key, base, directory))


def _adds_group(override: Override, directory: Path) -> bool:
    return override.key_or_group.split("@")[0] in config_groups(directory)


def _has_key(cfg: DictConfig, key: str) -> bool:
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return isinstance(node, DictConfig) and leaf in node


def _inside_target(cfg: DictConfig, key: str) -> bool:
    parts = key.split(".")
    nodes = [OmegaConf.select(cfg, ".".join(parts[:length])) for length in range(1, len(parts) + 1)]
    return any(isinstance(node, DictConfig) and "_target_" in node for node in nodes)


def _check_values(cfg: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ValueError(f"no value for {', '.join(missing)}: write {missing[0]}=...")
    _check_interpolations(cfg, cfg, "")


def _check_interpolations(cfg: DictConfig | ListConfig, root: DictConfig, path: str) -> None:
    for key in list(cfg) if isinstance(cfg, DictConfig) else range(len(cfg)):
        where = f"{path}.{key}" if path else str(key)
        try:
            child = cfg[key]
        except InterpolationKeyError as error:
            raise ValueError(f"{where}: {_one_line(error)}") from error
        except InterpolationResolutionError:  # such as the run folder: known only once it is made
            continue
        if isinstance(child, (DictConfig, ListConfig)) and not OmegaConf.is_interpolation(cfg, key):
            _check_interpolations(child, root, where)


def _check_tasks(cfg: DictConfig) -> None:
    names = OmegaConf.select(cfg, "tasks.names")
    use_assets(OmegaConf.select(cfg, "humanoid_bench.assets"))
    if names is not None:
        resolve_tasks([str(name) for name in names])


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    noise = ("full_key:", "object_type=", "reference_type=", "See ")
    return "; ".join(line for line in lines if not line.startswith(noise))
