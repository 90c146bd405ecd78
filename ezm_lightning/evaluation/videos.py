"""Videos of evaluation episodes: one file per task, drawn by the simulator itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.envs.spec import TaskSpec


class EpisodeVideos:
    """Records each task's first episode, a frame per ``every`` decisions, at ``fps`` frames a second.

    Files grow under a temporary name and get theirs, ``<folder>/<task><suffix>`` (.mp4 or .gif), in ``finish``. Where a
    picture cannot be drawn recording stops, the episodes go on, and ``finish`` raises. Sizes in pixels, multiples of 2.
    """

    def __init__(
        self, folder: str | Path, height: int, width: int, *, fps: int, every: int = 1, suffix: str = ".mp4"
    ) -> None:
        if min(height, width) < 2 or height % 2 or width % 2:
            raise ValueError(f"a video's height and width are even numbers of pixels, got {height} and {width}")
        self.folder, self.height, self.width, self.fps = Path(folder), height, width, fps
        self.every, self.suffix, self._decisions = every, suffix, 0
        self._writers: dict[Path, Any] = {}
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
        """Where a task's video will be."""
        return self.folder / f"{spec.name.replace('/', '_')}{self.suffix}"

    def _add(self, file: Path, picture: Any) -> None:
        if file not in self._writers:
            self._writers[file] = self._open(file)
        self._writers[file].send(picture.tobytes())

    def _open(self, file: Path) -> Any:
        import imageio_ffmpeg  # brings its own ffmpeg

        file.parent.mkdir(parents=True, exist_ok=True)
        size = (self.width, self.height)
        kind: dict[str, Any] = {"codec": "gif", "pix_fmt_out": "rgb8"} if self.suffix == ".gif" else {"quality": 7}
        writer = imageio_ffmpeg.write_frames(_temporary(file), size, fps=self.fps, macro_block_size=2, **kind)
        writer.send(None)  # starts ffmpeg
        return writer

    def finish(self) -> list[Path]:
        """The finished files. Raises ImportError, saying what to install, where recording was not possible."""
        for writer in self._writers.values():
            writer.close()
        if self._problem is not None:
            for file in self._writers:
                _temporary(file).unlink(missing_ok=True)
            raise ImportError(f"no video was written: {self._problem}") from self._problem
        for file in self._writers:
            os.replace(_temporary(file), file)
        return list(self._writers)


def _temporary(file: Path) -> Path:
    return file.with_suffix(f".tmp{file.suffix}")
