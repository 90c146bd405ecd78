"""Overrides as they are typed: shorthands written out, paths quoted, parsed one by one, a sweep's choices listed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import OverrideParseException

from ezm_lightning.config.folder import Folders, as_list, config_groups

NOTHING = ("null", "false", "[]", "{}")  # as a choice of a group: its option 'none', if it has one


def rewrite(overrides: Sequence[str], folders: Folders) -> list[str]:
    """``overrides`` with shorthands written out.

    ``tasks=[a,b]`` and ``tasks=source/task`` become ``tasks=custom tasks.names=[...]`` (the options of the group
    ``tasks`` are suites); a name with arguments (``gym/LunarLander-v3?continuous=true``) is quoted there. A path, which
    may contain any character, is quoted too.
    """
    return [new for override in overrides for new in _rewrite_one(override, folders)]


def _rewrite_one(override: str, folders: Folders) -> list[str]:
    key, _, value = override.partition("=")
    if key == "tasks" and value.startswith("["):
        names = value[1:-1].split(",") if value.endswith("]") and not set(value) & set("'\"") else None
        return ["tasks=custom", f"tasks.names={_names(names) if names else value}"]
    if value.lower() in (*NOTHING, "true") and (options := config_groups(folders).get(key)):
        if "none" not in options or value.lower() == "true":
            raise ValueError(f"{override}: its choices are {', '.join(options)}")
        return [f"{key}=none"]
    if key == "tasks" and "/" in value and not any((f / "tasks" / f"{value}.yaml").is_file() for f in as_list(folders)):
        return ["tasks=custom", f"tasks.names={','.join(_names([name]) for name in value.split(','))}"]
    is_path = ("/" in value and os.path.exists(value)) or (key == "ckpt_path" and "=" in value)
    if is_path and not value.startswith(("'", '"')):
        return [f"{key}={quoted(value)}"]
    return [override]


def _names(names: Sequence[str]) -> str:
    """A list of task names; one with arguments is quoted, since Hydra takes its '=' for the end of a key."""
    return f"[{','.join(quoted(name.strip()) if '?' in name else name for name in names)}]"


def quoted(path: str | Path) -> str:
    """A path as the value of an override, whichever characters it has."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


def parse(overrides: Sequence[str]) -> list[Override]:
    """The parsed overrides. Raises ValueError with the override that cannot be read."""
    parser, parsed = OverridesParser.create(), []
    for text in overrides:
        if text.endswith(".ckpt") and "/" in text.partition("=")[0]:
            raise ValueError(f"cannot read {text!r}, an override is key=value; a checkpoint is ckpt_path={text}")
        if text.count("[") > text.count("]"):  # a shell has cut it at a space
            typed = text.replace("tasks.names=", "tasks=", 1)
            key = typed.partition("=")[0]
            raise ValueError(
                f"{typed} has no end: a list has no spaces, {key}=[a,b], or quotes around it, '{key}=[a, b]'"
            )
        try:
            parsed += parser.parse_overrides([text])
        except OverrideParseException as error:
            lines = [line for line in str(error).splitlines() if not line.startswith(("Error parsing", "See "))]
            raise ValueError(
                f"cannot read {text!r}, an override is key=value: {'; '.join(lines)}{_meant(text)}"
            ) from error
    return parsed


def _meant(text: str) -> str:
    """What may have been meant by an override that cannot be read."""
    key, equals, value = text.partition("=")
    if not equals:
        return f"; a checkpoint is ckpt_path={text}" if "/" in text or text.endswith(".ckpt") else ""
    with contextlib.suppress(OverrideParseException):
        OverridesParser.create().parse_overrides([f"{key}={quoted(value)}"])
        return f'; in quotes it is text: "{key}={quoted(value)}"'
    return ""


def jobs(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Lists of overrides that contain every choice of a sweep once; not the product of all choices."""
    parsed = parse(overrides)
    choices = [
        _choices(override) if override.is_sweep_override() else [text]
        for override, text in zip(parsed, overrides, strict=True)
    ]
    for row in zip_longest(*choices):
        yield [value if value is not None else options[0] for value, options in zip(row, choices, strict=True)]
    if not choices:
        yield []


def _choices(override: Override) -> list[str]:
    """An override for each value of a sweep; for an interval, one for each end."""
    interval = override.value()
    if isinstance(interval, Glob):
        raise ValueError(f"{override.input_line} cannot be expanded; write the choices: {override.key_or_group}=a,b")
    values = [interval.start, interval.end] if isinstance(interval, IntervalSweep) else override.sweep_string_iterator()
    return [f"{override.get_key_element()}={value}" for value in values]
