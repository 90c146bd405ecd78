"""Videos of evaluation episodes: one file per task, drawn by the simulator itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.evaluation.movie import Movie, check_size


class EpisodeVideos:
    """Records each task's first episode, a frame per ``every`` decisions, at ``fps`` frames per second.

    Files grow under a temporary name; ``finish`` renames them to ``<folder>/<task><suffix>`` (.mp4 or .gif). If a
    picture cannot be drawn, recording stops, the episodes continue, and ``finish`` raises. Sizes are multiples of 2, in
    pixels.
    """

    def __init__(
        self, folder: str | Path, height: int, width: int, *, fps: int, every: int = 1, suffix: str = ".mp4"
    ) -> None:
        check_size(height, width)
        self.folder, self.height, self.width, self.fps = Path(folder), height, width, fps
        self.every, self.suffix, self._decisions = every, suffix, 0
        self._movies: dict[Path, Movie] = {}
        self._problem: Exception | None = None

    def record(self, env: MultiTaskEnv) -> Callable[[Tensor], None]:
        """The hook for ``run_episodes`` in ``env``."""
        slots = [int((env.slot_task == task).nonzero()[0]) for task in range(len(env.task_specs))]
        files = [self.file(spec) for spec in env.task_specs]

        def on_step(playing: Tensor) -> None:
            self._decisions += 1
            if self._problem is not None or (self._decisions - 1) % self.every:
                return
            try:
                for slot, file in zip(slots, files, strict=True):
                    if playing[slot]:
                        self._add(file, env.render(slot, self.height, self.width))
            except (RuntimeError, ImportError, OSError) as error:
                self._problem = error

        return on_step

    def file(self, spec: TaskSpec) -> Path:
        """The file of a task's video."""
        return self.folder / f"{spec.name.replace('/', '_')}{self.suffix}"

    def _add(self, file: Path, picture: Any) -> None:
        if file not in self._movies:
            self._movies[file] = Movie(file, self.height, self.width, fps=self.fps)
        self._movies[file].add(picture)

    def finish(self) -> list[Path]:
        """The finished files. Raises ImportError, with the remedy, if recording was not possible."""
        if self._problem is not None:
            for movie in self._movies.values():
                movie.discard()
            raise ImportError(f"no video was written: {self._problem}") from self._problem
        return [movie.finish() for movie in self._movies.values()]
