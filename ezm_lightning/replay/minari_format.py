"""Episodes of one task as a Minari dataset, and back, to the bit.

Minari (https://minari.farama.org) stores N+1 observations, N actions, rewards, terminations and truncations of an
episode. ``infos`` has the other columns (an actor's extras and ``env_step``), and the metadata have the task, action
repeat, versions and instruction. A dataset has one space, so there is one dataset per task. Minari does not check its
input, so episodes are checked here. Needs the extra ``minari``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ezm_lightning.errors import kind_and_line

NAMESPACE = "ezm"
RUNNING = "running"  # an episode that had not ended when it was written, or that its collector left
ALGORITHM = "EfficientZero-Multitask (ezm_lightning)"
Array = NDArray[Any]


@dataclass(frozen=True)
class Episode:
    """N transitions of one task at the task's widths, in the dtypes of the replay."""

    obs: Array  # [N+1, d] float32
    action: Array  # [N, a] float32 in [-1, 1]
    reward: Array  # [N] float32, summed over the action repeats
    terminated: Array  # [N] bool
    truncated: Array  # [N] bool
    columns: Mapping[str, Array] = field(default_factory=dict)  # [N+1] each, other columns of a row, by name
    running: bool = False  # it has not ended: its last transition is neither terminated nor truncated
    seed: int | None = None  # of its initial state, where it is known

    def __len__(self) -> int:
        return len(self.reward)

    def check(self, name: str, obs_dim: int, action_dim: int) -> None:
        """Raises ValueError, with what is wrong, unless both Minari and the replay can store the episode."""
        n = len(self)
        shapes = {"obs": (n + 1, obs_dim), "action": (n, action_dim), "terminated": (n,), "truncated": (n,)}
        for key, shape in shapes.items():
            if getattr(self, key).shape != shape:
                raise ValueError(f"{name}: {key} is {list(getattr(self, key).shape)}, expected {list(shape)}")
        if n == 0:
            raise ValueError(f"{name} has no transition")
        for key in ("obs", "action", "reward"):
            if not np.isfinite(getattr(self, key)).all():
                raise ValueError(f"{name}: {key} is not finite")
        if np.abs(self.action).max() > 1:
            raise ValueError(f"{name}: an action is {np.abs(self.action).max():.3g}, outside [-1, 1]")
        ends = self.terminated | self.truncated
        if ends[:-1].any() or ends[-1] == self.running:
            raise ValueError(f"{name}: {'it has no end' if not ends.any() else 'it goes on after its end'}")
        for key, column in self.columns.items():
            if len(column) != n + 1:
                raise ValueError(f"{name}: {key} has {len(column)} values, expected {n + 1}")


def check_package() -> None:
    """Raises ImportError, with what to type, if Minari or h5py is not installed."""
    missing = [name for name in ("minari", "h5py") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"Minari datasets need {', '.join(missing)}: pip install 'ezm-lightning[minari]'")


def dataset_id(task: str, version: int = 0) -> str:
    """The Minari id of a task: ``ezm/dmc-walker-walk-v0`` for ``dmc/walker-walk``."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", task)
    return f"{NAMESPACE}/{re.sub(r'-v(?=[0-9])', '_v', name)}-v{version}"


def write_dataset(
    root: Path,
    task: str,
    episodes: Iterable[Episode],
    *,
    obs_dim: int,
    action_dim: int,
    about: Mapping[str, Any],
) -> Path:
    """Writes the episodes of a task below ``root``. Returns the folder of the dataset.

    ``minari.load_dataset(dataset_id(task))`` reads it with ``MINARI_DATASETS_PATH=root``. ``about`` is added to the
    metadata. Raises ValueError for an episode that is not whole, ImportError without Minari.
    """
    check_package()
    import minari
    from gymnasium.spaces import Box

    name = dataset_id(task)
    with _datasets_in(root):
        dataset = minari.create_dataset_from_buffers(
            name,
            _buffers(task, episodes, obs_dim, action_dim),
            observation_space=Box(-np.inf, np.inf, (obs_dim,), np.float32),
            action_space=Box(-1.0, 1.0, (action_dim,), np.float32),
            algorithm_name=ALGORITHM,
            description=f"Episodes of {task}: transitions of several simulator steps each, actions in [-1, 1].",
            data_format="hdf5",
        )
    dataset.storage.update_metadata({"task": task, **about})
    return root / name


def _buffers(task: str, episodes: Iterable[Episode], obs_dim: int, action_dim: int) -> Iterator[Any]:
    from minari.data_collector import EpisodeBuffer

    for number, episode in enumerate(episodes):
        episode.check(f"episode {number} of {task}", obs_dim, action_dim)
        truncated = episode.truncated.copy()
        truncated[-1] |= episode.running  # every episode of Minari has an end
        yield EpisodeBuffer(
            id=number,
            seed=episode.seed,
            options={RUNNING: episode.running},
            observations=episode.obs,
            actions=episode.action,
            rewards=episode.reward,
            terminations=episode.terminated,
            truncations=truncated,
            infos=dict(episode.columns),
        )


@contextlib.contextmanager
def _datasets_in(root: Path) -> Iterator[None]:
    """Within this context Minari's folder is ``root``, and its warnings about missing environments are not printed."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root.absolute())  # Minari does not find its files if the path is relative
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before


class Dataset:
    """A Minari dataset of flat Box observations and Box actions in a folder.

    ``task`` is the task in the metadata, None if there is none. Actions are scaled to [-1, 1] if the space has other
    bounds. Raises ValueError for a folder without such a dataset, ImportError without Minari.
    """

    def __init__(self, folder: str | Path) -> None:
        check_package()
        import minari
        from gymnasium.spaces import Box

        data = Path(folder).absolute() / "data"
        if not (data / "metadata.json").is_file():
            raise ValueError(f"{folder} is no Minari dataset: there is no {data / 'metadata.json'}")
        try:
            self._dataset = minari.MinariDataset(data)
            self.metadata: dict[str, Any] = dict(self._dataset.storage.metadata)
            spaces = self._dataset.observation_space, self._dataset.action_space
        except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
            raise ValueError(f"{folder} cannot be read as a Minari dataset ({kind_and_line(error)})") from error
        for what, space in zip(("observations", "actions"), spaces, strict=True):
            if not isinstance(space, Box) or len(space.shape) != 1:
                raise ValueError(f"{folder}: its {what} are {space}; a flat Box is what replay stores")
        self.folder, self.task = Path(folder), self.metadata.get("task")
        self.obs_dim, self.action_dim = spaces[0].shape[0], spaces[1].shape[0]
        self._low, self._high = np.asarray(spaces[1].low), np.asarray(spaces[1].high)
        if not np.isfinite([self._low, self._high]).all():
            raise ValueError(f"{folder}: its actions have no bounds, which replay's [-1, 1] cannot hold")

    def __len__(self) -> int:
        return int(self._dataset.total_episodes)

    def episodes(self) -> Iterator[Episode]:
        """Every episode, checked. Raises ValueError for one that is not whole and for a damaged file."""
        indices = range(len(self))
        metadata = self._dataset.storage.get_episode_metadata(indices)
        try:
            for number, (values, about) in enumerate(
                zip(self._dataset.storage.get_episodes(indices), metadata, strict=True)
            ):
                episode = self._episode(values, about)
                episode.check(f"episode {number} of {self.folder}", self.obs_dim, self.action_dim)
                yield episode
        except (OSError, KeyError) as error:
            raise ValueError(f"{self.folder} is damaged: {error}") from error

    def _episode(self, values: Mapping[str, Any], about: Mapping[str, Any]) -> Episode:
        running = bool(about.get("options", {}).get(RUNNING, False))
        truncated = np.asarray(values["truncations"], bool)
        if running:
            truncated[-1] = False
        return Episode(
            obs=np.asarray(values["observations"], np.float32),
            action=self._scaled(np.asarray(values["actions"])),
            reward=np.asarray(values["rewards"], np.float32),
            terminated=np.asarray(values["terminations"], bool),
            truncated=truncated,
            columns=_columns(values.get("infos"), len(values["rewards"]) + 1),
            running=running,
            seed=about.get("seed"),
        )

    def _scaled(self, action: Array) -> Array:
        """Actions of the dataset's box, scaled to [-1, 1]; those in [-1, 1] keep their bits."""
        if (self._low != -1).any() or (self._high != 1).any():
            action = 2 * (action - self._low) / (self._high - self._low) - 1
        return action.astype(np.float32)


def _columns(infos: Mapping[str, Any] | None, rows: int) -> dict[str, Array]:
    """The columns of the infos that have one number per row."""
    arrays = {name: np.asarray(value) for name, value in (infos or {}).items() if not isinstance(value, Mapping)}
    return {name: value for name, value in arrays.items() if value.shape == (rows,) and value.dtype.kind in "fib"}


def find_datasets(root: Path) -> list[Path]:
    """The folders of the datasets at or below ``root``, sorted. Raises ValueError if there is none."""
    folders = sorted(file.parent.parent for file in root.glob("**/data/metadata.json"))
    if not folders:
        raise ValueError(f"{root} holds no Minari dataset: no data/metadata.json in it or below it")
    return folders


def tasks_of(datasets: Sequence[Dataset], task: str | None) -> list[str]:
    """The task of each dataset. Raises ValueError if a task is unknown or two datasets are of one task."""
    if task is not None and len(datasets) > 1:
        raise ValueError(f"task={task} names one task, and there are {len(datasets)} datasets")
    names = [task or dataset.task for dataset in datasets]
    for dataset, name in zip(datasets, names, strict=True):
        if name is None:
            raise ValueError(f"{dataset.folder} does not say which task it is of: give task=, such as dmc/walker-walk")
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"more than one dataset is of {', '.join(sorted(map(str, repeated)))}")
    return [str(name) for name in names]
