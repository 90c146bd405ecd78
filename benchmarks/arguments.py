"""The arguments of ``python -m benchmarks``: what to measure, then key=value. A mistake is one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.sizes import SIZES
from ezm_lightning.checkpoints.runs import existing_checkpoint
from ezm_lightning.errors import nearest

LEAST_REPEATS = 5


@dataclass(frozen=True)
class Arguments:
    """What to measure, and how; ``own`` are the keys that not every what takes."""

    what: str
    repeats: int
    threads: int
    device: str
    clock: str
    json: bool
    options: dict[str, Any]


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError("must be a whole number of at least 1")
    return int(text)


def _positives(text: str) -> list[int]:
    return [_positive(number) for number in text.strip("[]").split(",")]


def _repeats(text: str) -> int:
    if _positive(text) < LEAST_REPEATS:
        raise ValueError(f"must be at least {LEAST_REPEATS}: a median of fewer says little")
    return int(text)


def _text(text: str) -> str:
    return text


def one_of(*choices: str) -> Callable[[str], str]:
    """Reads one of these words."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(
                f"is not known; nearest: {nearest(text, choices, count=1)} (choices: {', '.join(choices)})"
            )
        return text

    return read


def _flag(text: str) -> bool:
    return one_of("true", "false")(text) == "true"


def _device(text: str) -> str:
    if one_of("cpu", "cuda")(text) == "cuda" and not torch.cuda.is_available():
        raise ValueError("needs a CUDA device, torch sees none; nearest: cpu")
    return text


Key = tuple[Callable[[str], Any], str]  # how a value is read, and the default as it would be written
COMMON: dict[str, Key] = {
    "repeats": (_repeats, "7"),
    "threads": (_positive, "1"),
    "device": (_device, "cpu"),
    "clock": (one_of("wall", "cpu"), "wall"),
    "json": (_flag, "false"),
}
SIZE: Key = (one_of(*SIZES), "hard")
COMPILE: Key = (one_of("default", "reduce-overhead", "max-autotune"), "")  # modes of torch.compile
OWN: dict[str, dict[str, Key]] = {
    "search": {
        "size": SIZE,
        "batch": (_positives, "1,9,64,256"),
        "dtype": (one_of("float32", "float16"), ""),
        "compile": COMPILE,
        "against": (one_of("mctx", "plain"), ""),
    },
    "update": {"size": SIZE, "batch": (_positives, "64"), "compile": COMPILE},
    "reanalyze": {"size": SIZE, "batch": (_positives, "16"), "compile": COMPILE},
    "decision": {
        "task": (_text, "dmc/walker-walk"),
        "against": (one_of("tdmpc2"), ""),
        "source": (_text, ""),
    },
    "replay": {
        "batch": (_positives, "512"),
        "capacity": (_positives, "100000"),
        "against": (one_of("index_select"), ""),
    },
    "env": {
        "task": (_text, "dmc/walker-walk"),
        "batch": (_positives, "8"),
        "action_repeat": (_positive, "1"),
        "against": (one_of("mj_step"), ""),
    },
    "collect": {"size": (one_of(*SIZES), "demo"), "batch": (_positives, "4")},
    "train": {"size": (one_of(*SIZES), "demo"), "updates": (_positive, "200")},
    "trained": {"ckpt_path": (_text, "")},
}


def parse(argv: Sequence[str]) -> Arguments:
    """The arguments. Raises ValueError with the nearest valid choice for what, key or value."""
    if not argv or "=" in argv[0]:
        raise ValueError(f"say what to measure: {', '.join(OWN)} (python -m benchmarks --help says more)")
    what = argv[0]
    if what not in OWN:
        raise ValueError(f"unknown {what!r}; nearest: {nearest(what, OWN, count=1)} (choices: {', '.join(OWN)})")
    keys = COMMON | OWN[what]
    values = {key: read(default) if default else None for key, (read, default) in keys.items()}
    for text in argv[1:]:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"cannot read {text!r}: an argument is key=value, with one of {', '.join(keys)}")
        if key not in keys:
            raise ValueError(f"python -m benchmarks {what} has no key {key!r}; nearest: {nearest(key, keys, count=1)}")
        try:
            values[key] = keys[key][0](value)
        except ValueError as error:
            raise ValueError(f"{text}: {error}") from error
    common: dict[str, Any] = {key: values.pop(key) for key in COMMON}
    return Arguments(what=what, **common, options=values)


def given_checkpoint(path: str) -> str:
    """The checkpoint that ``ckpt_path`` names. Raises ValueError if nothing is given or nothing is there."""
    if not path:
        raise ValueError("ckpt_path=RUN says which checkpoint to measure: a run's folder, or one of its step=….ckpt")
    return existing_checkpoint(path)
