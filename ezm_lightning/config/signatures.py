"""Checks of a composed config against its classes, before anything is built or written."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError

from ezm_lightning.errors import first_line, nearest
from ezm_lightning.ranges import Range

HYDRA_KEYS = {"_target_", "_args_", "_recursive_", "_convert_", "_partial_"}


def check_targets(cfg: DictConfig) -> None:
    """Raises ValueError unless every ``_target_`` of ``cfg`` imports and accepts the keys and values beside it."""
    for path, node in target_nodes(cfg):
        target = import_target(node["_target_"], path)
        parameters = accepted_parameters(target)
        hints = type_hints(target)
        for key in map(str, node):
            if key in HYDRA_KEYS:
                continue
            where = f"{path}.{key}" if path else key
            if parameters is not None and key not in parameters:
                near = f"nearest: {nearest(key, parameters)}" if parameters else "it takes none"
                raise ValueError(f"unknown key {where!r}: {node['_target_']} does not take it; {near}")
            if key in hints:
                _check_type(where, node, key, hints[key])


def target_nodes(cfg: DictConfig | ListConfig, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """(dotted path, node) of every node with a ``_target_``, outermost first; interpolations are not followed."""
    if isinstance(cfg, DictConfig) and "_target_" in cfg:
        yield path, cfg
    for key in list(cfg) if isinstance(cfg, DictConfig) else range(len(cfg)):
        if OmegaConf.is_missing(cfg, key) or OmegaConf.is_interpolation(cfg, key):
            continue
        if isinstance(cfg[key], (DictConfig, ListConfig)):
            yield from target_nodes(cfg[key], f"{path}.{key}" if path else str(key))


def import_target(name: str, path: str) -> Callable[..., Any]:
    """The class or function called ``name``. Raises ValueError with the nearest name in its module."""
    module, attributes = _import_longest(name, path)
    target: Any = module
    for attribute in attributes:
        if not hasattr(target, attribute):
            public = [attr for attr in dir(target) if not attr.startswith("_")]
            raise ValueError(
                f"{path}._target_={name}: {_name(target)} has no {attribute!r}; nearest: {nearest(attribute, public)}"
            )
        target = getattr(target, attribute)
    if not callable(target):
        raise ValueError(f"{path}._target_={name} is not a class or function")
    return target


def _import_longest(name: str, path: str) -> tuple[Any, list[str]]:
    parts = str(name).split(".")
    for length in range(len(parts), 0, -1):
        candidate = ".".join(parts[:length])
        try:
            return importlib.import_module(candidate), parts[length:]
        except ModuleNotFoundError as error:
            if error.name is None or not f"{candidate}.".startswith(f"{error.name}."):
                raise ValueError(f"{path}._target_={name}: needs the package {error.name!r}, not installed") from error
    raise ValueError(f"{path}._target_={name}: there is no module {parts[0]!r}")


def _name(target: Any) -> str:
    return str(getattr(target, "__qualname__", None) or getattr(target, "__name__", target))


def accepted_parameters(target: Callable[..., Any]) -> Collection[str] | None:
    """The keyword arguments that ``target`` accepts; None if it accepts any. An ``nn.Module`` that has no
    ``__init__`` has the one of torch, which accepts none."""
    if inspect.isclass(target) and getattr(target.__init__, "__module__", None) == "torch.nn.modules.module":
        return []
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def ranges_of(target: Callable[..., Any]) -> dict[str, Range]:
    """The range of each parameter of ``target`` that has one."""
    ranges = {name: _range_in(hint) for name, hint in type_hints(target).items()}
    return {name: limits for name, limits in ranges.items() if limits is not None}


def ranges_in(cfg: DictConfig) -> dict[str, Range]:
    """The range of every number of a config that is a parameter of one of its classes, by dotted key."""
    ranges: dict[str, Range] = {}
    for path, node in target_nodes(cfg):
        hints = type_hints(import_target(node["_target_"], path))
        for key in map(str, node):
            if key in hints and not OmegaConf.is_missing(node, key):
                ranges |= _ranges_at(f"{path}.{key}" if path else key, node[key], hints[key])
    return ranges


def _ranges_at(where: str, value: Any, hint: Any) -> Iterator[tuple[str, Range]]:
    """(key, range) of the numbers in a hint: one, or those of a dict or of a list."""
    if isinstance(value, ListConfig):
        inside = _range_of_items(hint)
        yield from ((f"{where}.{index}", inside) for index in range(len(value)) if inside is not None)
        return
    limits = _range_in(hint)
    if limits is not None:
        yield where, limits
    if isinstance(value, DictConfig) and typing.get_origin(hint) is dict:
        inside = _range_in(typing.get_args(hint)[1])
        yield from ((f"{where}.{name}", inside) for name in map(str, value) if inside is not None)


def _range_of_items(hint: Any) -> Range | None:
    """The range in a hint of a list: ``Sequence[Annotated[float, Range(...)]]``, alone or in a union."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next((limits for limits in map(_range_of_items, typing.get_args(hint)) if limits is not None), None)
    sequence = inspect.isclass(typing.get_origin(hint)) and issubclass(typing.get_origin(hint), Sequence)
    return _range_in(typing.get_args(hint)[0]) if sequence else None


def _range_in(hint: Any) -> Range | None:
    """The range in a hint: ``Annotated[float, Range(...)]``, alone or in a union with None."""
    if typing.get_origin(hint) is typing.Annotated:
        return next((entry for entry in hint.__metadata__ if isinstance(entry, Range)), None)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        first = next((limits for limits in map(_range_in, typing.get_args(hint)) if limits is not None), None)
        return first and replace(first, or_null=type(None) in typing.get_args(hint))
    return None


def type_hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The hints of the parameters of ``target``; empty if they cannot be read."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except Exception:  # only a type checker can resolve such a hint
        return {}


def _check_type(where: str, node: DictConfig, key: Any, hint: Any) -> None:
    try:
        value = None if OmegaConf.is_missing(node, key) else node[key]
    except InterpolationKeyError as error:
        raise ValueError(f"{where}: {first_line(error)}") from error
    except InterpolationResolutionError:  # known only after the run's folder is made
        return
    for place, limits in _ranges_at(where, value, hint):
        limits.check(place, OmegaConf.select(node, f"{key}{place.removeprefix(where)}"))
    if value is not None and not fits(value, hint):
        raise ValueError(f"{where}={value!r} is {_described(value)}, expected {_hint_name(hint)}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain config value agrees with ``hint``; True if that is not cheap to decide."""
    if typing.get_origin(hint) is typing.Annotated:
        return fits(value, hint.__origin__)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, member) for member in typing.get_args(hint) if member is not type(None))
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    kind = origin or hint
    if inspect.isclass(kind) and kind is not str and kind is not object:
        if issubclass(kind, Mapping):
            return isinstance(value, DictConfig)
        if issubclass(kind, (list, tuple, set)) or kind.__module__ == "collections.abc":
            return not isinstance(value, (str, int, float))
    return True


def _described(value: Any) -> str:
    return "a string" if isinstance(value, str) else f"of type {type(value).__name__}"


def _hint_name(hint: Any) -> str:
    return hint.__name__ if inspect.isclass(hint) else str(hint).replace("typing.", "")
