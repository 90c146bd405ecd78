"""Videos of evaluation episodes: one file per task, drawn by the simulator itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.errors import kind_and_line
from ezm_lightning.evaluation.movie import Movie, check_picture, check_size


class EpisodeVideos:
    """Records each task's first episode, a frame per ``every`` decisions, at ``fps`` frames per second.

    Files grow under a temporary name; ``finish`` renames them to ``<folder>/<task><suffix>`` (.mp4 or .gif). If a
    picture of a task cannot be drawn, its recording stops, the episodes continue, and ``finish`` warns; it raises if
    there is no task left. Sizes are multiples of 2, in pixels.
    """

    def __init__(
        self, folder: str | Path, height: int, width: int, *, fps: int, every: int = 1, suffix: str = ".mp4"
    ) -> None:
        check_size(height, width)
        self.folder, self.height, self.width, self.fps = Path(folder), height, width, fps
        self.every, self.suffix, self._decisions = every, suffix, 0
        self._movies: dict[Path, Movie] = {}
        self._problems: dict[Path, Exception] = {}

    def record(self, env: MultiTaskEnv) -> Callable[[Tensor], None]:
        """The hook for ``run_episodes`` in ``env``."""
        slots = [int((env.slot_task == task).nonzero()[0]) for task in range(len(env.task_specs))]
        files = [self.file(spec) for spec in env.task_specs]

        def on_step(playing: Tensor) -> None:
            self._decisions += 1
            if (self._decisions - 1) % self.every:
                return
            for slot, file in zip(slots, files, strict=True):
                if playing[slot] and file not in self._problems:
                    try:
                        self._add(file, env.render(slot, self.height, self.width))
                    except Exception as error:  # a simulator draws its own pictures: anything may be raised
                        self._problems[file] = error

        return on_step

    def file(self, spec: TaskSpec) -> Path:
        """The file of a task's video."""
        return self.folder / f"{spec.name.replace('/', '_')}{self.suffix}"

    def _add(self, file: Path, picture: Any) -> None:
        if file not in self._movies:
            check_picture(picture, self.height, self.width)  # ffmpeg complains of a movie without a picture
            self._movies[file] = Movie(file, self.height, self.width, fps=self.fps)
        self._movies[file].add(picture)

    def finish(self) -> list[Path]:
        """The finished files. Warns of those that could not be recorded; raises ImportError, with the remedy, if none
        could."""
        for file in self._problems:
            if file in self._movies:
                self._movies.pop(file).discard()
        if self._problems and not self._movies:
            problem = next(iter(self._problems.values()))
            raise ImportError(f"no video was written: {problem}") from problem
        for file, problem in self._problems.items():
            warnings.warn(f"{file.name} was not written: {kind_and_line(problem)}", stacklevel=2)
        return [movie.finish() for movie in self._movies.values()]
