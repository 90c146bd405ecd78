"""The record of a run: command, seed, settings, commit, machine, time. What is not recorded is None."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ezm_lightning.checkpoints.runs import PRETRAINING, RECORD, command_of, commits_of, starts_of

UNIMPORTANT = re.compile(  # keys that affect no curve, or that differ by design between runs of one experiment
    r"^(name|seed|ckpt_path|run_dir|torch_threads|env_threads|obs_dims|action_dims|tasks\.names|hydra|logger|callbacks"
    r"|checkpoint|evaluate|humanoid_bench|max_fault_share|max_nonfinite_updates|trainer\.(enable_\w+|log_\w+"
    r"|accelerator|devices|num_nodes|strategy|_target_))\b"
)
PERSONAL = re.compile(r"^(seed|tasks(\.names)?|name|ckpt_path|hydra\.run\.dir)=")  # each run has its own
FINISHED = 0.99  # of the budget: the last evaluation may be a few simulator steps before its end
RUNNING = 600  # seconds; a run whose folder was written later than this is running


@dataclass(frozen=True)
class Record:
    """One run's record."""

    name: str
    seed: int | None = None
    command: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)  # without seed and tasks
    budget: int | None = None  # simulator steps per task
    commit: str | None = None
    machine: str | None = None
    seconds: float | None = None  # wall-clock
    cores: int | None = None  # threads of all processes, if they compute on the CPU
    cpu_seconds: float | None = None  # of a run of one process that computes on the CPU
    gpus: int | None = None
    floors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by task: "random", "zero"
    quiet_for: float | None = None  # seconds since its folder was written; None for a single curve

    @property
    def core_hours(self) -> float | None:
        """The CPU time; without it, wall-clock times threads."""
        if self.cpu_seconds is not None:
            return self.cpu_seconds / 3600
        return None if self.seconds is None or self.cores is None else self.seconds * self.cores / 3600

    @property
    def gpu_hours(self) -> float | None:
        return None if self.seconds is None or self.gpus is None else self.seconds * self.gpus / 3600

    def state(self, last_step: int) -> str:
        """'finished', 'running' or 'unfinished' for a run whose last evaluation was at ``last_step``."""
        if self.budget is None:
            return "not recorded"
        if last_step >= FINISHED * self.budget:
            return "finished"
        return "running" if self.quiet_for is not None and self.quiet_for < RUNNING else "unfinished"


def read_record(file: Path) -> Record:
    """The record of the run with the curve ``file``."""
    config = next((file.parent / name for name in ("hydra", ".hydra") if (file.parent / name).is_dir()), None)
    if file.name == "eval.csv" and (config is not None or (file.parent / RECORD).is_file()):
        return _of_folder(file.parent, config)
    return _of_curve(file)


def _of_folder(folder: Path, config_folder: Path | None) -> Record:
    config = _yaml(config_folder / "config.yaml") if config_folder else {}
    overrides = _yaml(config_folder / "overrides.yaml") if config_folder else None
    content = _json(folder / RECORD)
    flat = dict(flattened(config))
    typed = [str(text) for text in overrides] if isinstance(overrides, list) else None
    seed = flat.get("seed", content.get("seed"))
    return Record(
        name=str(flat.get("name") or content.get("name") or folder.resolve().parent.name),
        seed=_whole(seed) if _whole(seed) is not None else _seed_of_name(folder.name),
        command=command_of(starts_of(content)) or ("ezm train " + " ".join(typed) if typed is not None else None),
        settings={key: value for key, value in flat.items() if not UNIMPORTANT.match(key)},
        budget=_whole(flat.get("env_steps_per_task")),
        **_measured(content, flat, folder),
        floors=content.get("floors") or {},
        quiet_for=max(0.0, time.time() - max(_written(folder), default=0.0)),
    )


def _written(folder: Path) -> Iterator[float]:
    """When each file below a folder was written; without links to nowhere and files that have just gone."""
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            yield file.stat().st_mtime


def _measured(content: Mapping[str, Any], flat: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Commits, machine and time of ``run.json``, with those of the pretraining; without it, the time between
    TensorBoard's events and the threads of the config."""
    stage = _json(folder / PRETRAINING / RECORD)
    starts = [*starts_of(stage), *starts_of(content)]
    hosts = [start["host"] for start in starts if isinstance(start.get("host"), dict)]
    seconds = [part["seconds"] for part in (stage, content) if isinstance(part.get("seconds"), (int, float))]
    measured = {
        "commit": commits_of(starts),
        "seconds": float(sum(seconds)) if seconds else _logged_seconds(folder),
    }
    if not hosts:
        on_cpu = flat.get("trainer.accelerator") == "cpu"
        return {**measured, "cores": _whole(flat.get("torch_threads")) if on_cpu else None}
    last = hosts[-1]
    device, processes = str(last.get("device", "?")), _whole(last.get("processes")) or 1
    threads = (_whole(last.get("threads")) or 1) * processes
    machine = f"{device}, {last.get('cpus', '?')} CPU cores, {threads} thread{'s' * (threads > 1)}"
    if device != "cpu":
        return {**measured, "machine": machine, "gpus": processes}
    return {**measured, "machine": machine, "cores": threads, "cpu_seconds": _cpu_seconds(starts, processes)}


def _cpu_seconds(starts: Sequence[Mapping[str, Any]], processes: int) -> float | None:
    """The CPU time of all starts; None if one start has no record of it, or if only one of several processes has."""
    if processes > 1 or not starts or any("cpu_seconds" not in start for start in starts):
        return None
    return sum(float(start["cpu_seconds"]) for start in starts)


def _of_curve(file: Path) -> Record:
    line = _line_of(file)
    command = line.get("command")
    words = command.split() if command else []
    seeds = [int(word[5:]) for word in words if re.fullmatch(r"seed=\d+", word)]
    settings = [word for word in words if not PERSONAL.match(word)] or [re.sub(r"_?seed\d+", "", file.stem)]
    return Record(
        name=file.resolve().parent.name,
        seed=seeds[0] if seeds else _seed_of_name(file.stem),
        command=command,
        settings={word.partition("=")[0]: word.partition("=")[2] for word in settings},
        commit=line.get("commit"),
        machine=line.get("machine"),
        seconds=line.get("seconds"),
        cpu_seconds=line.get("cpu_seconds"),
        cores=1 if "one thread a run" in str(line.get("machine")) else None,
    )


def _line_of(file: Path) -> dict[str, Any]:
    """The line for a curve, with its group and name, in the nearest ``runs.jsonl`` above it."""
    for folder in file.resolve().parents[:3]:
        records = folder / "runs.jsonl"
        if records.is_file():
            key = (file.parent.resolve().name, file.stem)
            lines = (_object(line) for line in records.read_text(encoding="utf-8", errors="replace").splitlines())
            return next((line for line in lines if (line.get("group"), line.get("run")) == key), {})
    return {}


def _logged_seconds(folder: Path) -> float | None:
    """The time between the first and the last event of each TensorBoard file, summed: pauses are not counted."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    total, has_events = 0.0, False
    for file in sorted(folder.glob("tensorboard/**/events.out.tfevents.*")):
        first = last = None
        try:
            for last in RawEventFileLoader(str(file)).Load():
                first = last if first is None else first
        except Exception:  # a truncated file: the events before count
            pass
        if first is not None and last is not None:
            total += Event.FromString(last).wall_time - Event.FromString(first).wall_time
            has_events = True
    return total if has_events else None


def _yaml(file: Path) -> Any:
    from omegaconf import OmegaConf

    try:
        return OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except Exception:  # absent, or truncated by a crash
        return {}


def _json(file: Path) -> dict[str, Any]:
    try:
        return _object(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _object(text: str) -> dict[str, Any]:
    """The object that a text is; empty if it is none, such as a line that a crash has cut."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def flattened(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The dotted key and the text of each value in nested mappings."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from flattened(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, str(node)


def _whole(value: object) -> int | None:
    return int(str(value)) if str(value).isdigit() else None


def _seed_of_name(name: str) -> int | None:
    match = re.search(r"seed(\d+)", name)
    return int(match[1]) if match else None
