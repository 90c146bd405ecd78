"""Acts with an agent that ``ezm export`` wrote, with only NumPy and ONNX Runtime (``format=torch``: and torch).

This file imports nothing from ezm_lightning, and every exported folder has a copy of it. Beside that folder, a robot
needs only ``pip install numpy onnxruntime``::

    from runtime import ExportedAgent

    agent = ExportedAgent(".")
    action = agent.act(obs, "dmc/walker-walk")

A plan is a function of an observation, a task and noise. ``act`` draws the noise from a seeded generator, ``run`` takes
it as an argument.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1  # of agent.json
DESCRIPTION = "agent.json"
TORCH_SUFFIX = ".pt2"  # of a program of torch.export
Array = np.ndarray[Any, Any]
Graph = Callable[[Mapping[str, Array]], Sequence[Array]]  # a graph's inputs by name to its outputs in order


@dataclass(frozen=True)
class TaskTable:
    """The tasks that an agent knows, in the order of its indices, with their own widths.

    ``width`` is that of the networks' observations. It is above the widest task's if the agent has room for more.
    """

    names: list[str]
    obs_dims: list[int]
    action_dims: list[int]
    width: int

    def rows(self, obs: Any, task: str | Sequence[str]) -> tuple[Array, Array]:
        """Observations [B, ``width``] float32, padded with zeros, and task indices [B] int64.

        ``obs`` is [d] or [B, d] with the width of one task, or [B, D], padded to the widest, for a list of B tasks.
        Raises ValueError for an unknown task and for an observation of another width or that is not finite.
        """
        obs = np.asarray(obs, np.float32)
        one_task = isinstance(task, str)
        indices = [self.index_of(name) for name in ([task] if isinstance(task, str) else task)]
        rows = np.atleast_2d(obs)
        wide = self.obs_dims[indices[0]] if one_task else max(self.obs_dims)
        if obs.ndim not in ((1, 2) if one_task else (2,)) or rows.shape[1] != wide:
            expected = f"[{wide}] or [B, {wide}]" if one_task else f"[{len(indices)}, {wide}]"
            raise ValueError(f"obs has shape {list(obs.shape)}, expected {expected} for {task}")
        if not one_task and len(indices) != len(rows):
            raise ValueError(f"{len(rows)} observations for {len(indices)} tasks")
        check_finite(rows)
        padded = np.zeros((len(rows), self.width), np.float32)
        padded[:, :wide] = rows
        return padded, np.array(np.broadcast_to(np.array(indices, np.int64), len(rows)))

    def unpadded(self, action: Array, task: str | Sequence[str], dimensions: int) -> Array:
        """Actions [B, A] for the caller, cut to the task's width, or to the widest of a list; [a] for one observation.

        ``dimensions`` is the number of dimensions of ``obs``.
        """
        if not isinstance(task, str):
            return action[:, : max(self.action_dims)]
        action = action[:, : self.action_dims[self.index_of(task)]]
        return action if dimensions == 2 else action[0]

    def index_of(self, task: str) -> int:
        """The task's index. Raises ValueError for an unknown task, with the nearest name."""
        if task not in self.names:
            close = difflib.get_close_matches(str(task), self.names, n=1, cutoff=0.0)[0]
            raise ValueError(f"no task {task!r}; nearest: {close} (the agent has {', '.join(self.names)})")
        return self.names.index(task)


def check_finite(obs: Array) -> None:
    """Raises ValueError, with the first such number, if obs [B, D] is not finite."""
    if not np.isfinite(obs).all():
        row, column = np.argwhere(~np.isfinite(obs))[0]
        raise ValueError(f"obs is not finite: {obs[row, column]} in column {column} of row {row}")


class ExportedAgent:
    """An agent in a folder that ``ezm export`` wrote.

    ``graph`` is ``search`` or ``policy`` (the policy's mean without a search); None: the search if the folder has it.
    ``seed`` is the seed of the noise. One call is made while loading, so that the first call of a control loop is not
    slower than the others. Raises ValueError for a folder that is not complete, ImportError without onnxruntime.
    """

    def __init__(self, folder: str | Path, *, graph: str | None = None, seed: int = 0, threads: int = 1) -> None:
        self.folder = Path(folder)
        self.description = read_description(self.folder)
        graphs = self.description["graphs"]
        self.graph = next(name for name in ("search", "policy") if name in graphs) if graph is None else graph
        if self.graph not in graphs:
            raise ValueError(f"{folder} has no graph {self.graph!r} (it has {', '.join(graphs)})")
        self.tasks = [str(task["name"]) for task in self.description["tasks"]]
        self.obs_dims = [int(task["obs_dim"]) for task in self.description["tasks"]]
        self.action_dims = [int(task["action_dim"]) for task in self.description["tasks"]]
        self.table = TaskTable(self.tasks, self.obs_dims, self.action_dims, int(self.description["obs_dim"]))
        self.inputs: dict[str, Any] = graphs[self.graph]["inputs"]
        self.file = str(graphs[self.graph]["file"])
        self.outputs: list[str] = graphs[self.graph]["outputs"]
        self.batch: int | None = graphs[self.graph]["batch"]  # rows of a call; None: any number
        self._call = open_graph(self.folder / self.file, graphs[self.graph], threads)
        self.seed_(seed)
        rows = self.batch or 1
        self.run(np.zeros((rows, self.table.width)), np.zeros(rows), self.draw_noise(rows))
        self.seed_(seed)

    def seed_(self, seed: int) -> None:
        """Restarts the noise: the same seed and the same observations give the same actions."""
        self.generator = np.random.default_rng(seed)

    def act(self, obs: Any, task: str | Sequence[str]) -> Array:
        """Float32 actions in [−1, 1], the range that each task scales to its own.

        With one task ``obs`` is [d] or [B, d] and the actions are [a] or [B, a], with the widths of that task. With a
        list of B tasks ``obs`` is [B, D], padded with zeros to the widest task, and so are the actions [B, A]. Raises
        ValueError for an unknown task and for an observation of another width or that is not finite.
        """
        padded, index = self.table.rows(obs, task)
        return self.table.unpadded(self._act_rows(padded, index), task, np.ndim(obs))

    def _act_rows(self, obs: Array, task: Array) -> Array:
        """Actions [B, A] for obs [B, D]. A graph of fixed size is called repeatedly; the last call is padded."""
        per_call = self.batch or len(obs)
        actions = [np.zeros((0, int(self.description["action_dim"])), np.float32)]
        for start in range(0, len(obs), max(per_call, 1)):
            rows = slice(start, start + per_call)
            filling = [(0, per_call - len(obs[rows]))]
            padded_obs, padded_task = np.pad(obs[rows], [*filling, (0, 0)]), np.pad(task[rows], filling)
            action = self.run(padded_obs, padded_task, self.draw_noise(per_call))["best_action"]
            actions.append(action[: len(obs[rows])])
        return np.concatenate(actions)

    def run(self, obs: Array, task: Array, noise: Mapping[str, Array]) -> dict[str, Array]:
        """Every output of one call by name, for obs [B, D] padded with zeros, task [B] indices, and this noise.

        B is ``batch`` if the graph has a fixed number of rows. Raises ValueError for a wrong shape, for an observation
        that is not finite, and for an unknown index of a task.
        """
        inputs = {"obs": obs, "task": task, **noise}
        feeds = {}
        for name, about in self.inputs.items():
            value = np.ascontiguousarray(inputs[name], about["dtype"])
            expected = [len(obs) if size is None else size for size in about["shape"]]
            if list(value.shape) != expected:
                raise ValueError(f"{name} has shape {list(value.shape)}, expected {expected}")
            feeds[name] = value
        check_finite(feeds["obs"])
        unknown = feeds["task"][(feeds["task"] < 0) | (feeds["task"] >= len(self.tasks))]
        if len(unknown):
            raise ValueError(f"no task of index {unknown[0]}: the agent has {len(self.tasks)}")
        return dict(zip(self.outputs, self._call(feeds), strict=True))

    def draw_noise(self, rows: int) -> dict[str, Array]:
        """New noise for one call with this number of rows."""
        noise = {}
        for name, about in self.inputs.items():
            if "draw" in about:
                shape = [rows if size is None else size for size in about["shape"]]
                noise[name] = draw(about, shape, self.generator).astype(about["dtype"])
        return noise


def draw(about: Mapping[str, Any], shape: Sequence[int], generator: np.random.Generator) -> Array:
    """The noise that ``agent.json`` describes.

    ``zero``: zeros. ``normal``: standard normals, the first ``zero_candidates`` along axis 1 at zero. ``distinct``:
    each row has different integers below ``of``, in random order.
    """
    if about["draw"] == "zero":
        return np.zeros(shape)
    if about["draw"] == "normal":
        noise = generator.standard_normal(shape)
        noise[:, : about["zero_candidates"]] = 0
        return noise
    if about["draw"] == "distinct":
        return generator.random((shape[0], about["of"])).argsort(1)[:, : shape[1]]
    raise ValueError(f"unknown draw {about['draw']!r}: the folder is of a newer version")


def read_description(folder: Path) -> dict[str, Any]:
    """The content of ``agent.json`` in an exported folder. Raises ValueError for another folder."""
    file = folder / DESCRIPTION
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{folder} is no exported agent: {file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        version = description.get("format") if isinstance(description, dict) else None
        raise ValueError(f"{file} has format {version}, this version reads {FORMAT}")
    return description


def open_graph(file: Path, about: Mapping[str, Any], threads: int) -> Graph:
    """A graph on the CPU, ``about`` being what ``agent.json`` says of it.

    Raises ValueError for a file that has changed since it was written, and for one that ONNX Runtime or torch cannot
    read.
    """
    open_content = open_torch if file.suffix == TORCH_SUFFIX else open_onnx
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise ValueError(f"{file} is damaged or of another export: its SHA-256 is not the one in {DESCRIPTION}")
    return open_content(content, about, threads, file)


def open_onnx(content: bytes, about: Mapping[str, Any], threads: int, file: Path) -> Graph:
    """A graph in ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("an exported agent needs onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads use no cores
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has its own classes of errors
        raise ValueError(
            f"onnxruntime {onnxruntime.__version__} cannot read {file}: {str(error).splitlines()[0]}"
        ) from error
    kept = {entry.name for entry in session.get_inputs()}  # a graph drops the inputs that it does not use
    return lambda feeds: session.run(about["outputs"], {name: feeds[name] for name in feeds if name in kept})


def open_torch(content: bytes, about: Mapping[str, Any], threads: int, file: Path) -> Graph:
    """A program of ``torch.export``; ``threads`` is the number of torch's threads in this process."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"{file} needs torch: pip install torch, or export with format=onnx") from error
    torch.set_num_threads(threads)
    try:
        program = torch.export.load(io.BytesIO(content)).module()
    except Exception as error:  # another version's program raises anything
        raise ValueError(f"torch {torch.__version__} cannot read {file}: {str(error).splitlines()[0]}") from error

    def call(feeds: Mapping[str, Array]) -> list[Array]:
        with torch.no_grad():
            return [value.numpy() for value in program(*(torch.from_numpy(feeds[name]) for name in about["inputs"]))]

    return call
