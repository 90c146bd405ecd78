"""Videos of evaluation episodes: one mp4 per task, drawn by the simulator itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ezm_lightning.envs.multitask import MultiTaskEnv


class EpisodeVideos:
    """Records each task's first episode, a frame per decision, at ``fps`` frames a second.

    Files grow under a temporary name and get theirs, ``<folder>/<task>.mp4``, in ``finish``. Where a picture cannot be
    drawn recording stops, the episodes go on, and ``finish`` raises. Sizes in pixels, multiples of 2.
    """

    def __init__(self, folder: str | Path, height: int, width: int, *, fps: int) -> None:
        if min(height, width) < 2 or height % 2 or width % 2:
            raise ValueError(f"a video's height and width are even numbers of pixels, got {height} and {width}")
        self.folder, self.height, self.width, self.fps = Path(folder), height, width, fps
        self._writers: dict[Path, Any] = {}
        self._problem: Exception | None = None

    def record(self, env: MultiTaskEnv) -> Callable[[Tensor], None]:
        """The hook for ``run_episodes`` in ``env``."""
        slots = [int((env.slot_task == task).nonzero()[0]) for task in range(len(env.task_specs))]
        files = [self.folder / f"{spec.name.replace('/', '_')}.mp4" for spec in env.task_specs]

        def on_step(playing: Tensor) -> None:
            if self._problem is not None:
                return
            try:
                for slot, file in zip(slots, files, strict=True):
                    if playing[slot]:
                        self._add(file, env.render(slot, self.height, self.width))
            except (RuntimeError, ImportError, OSError) as error:
                self._problem = error

        return on_step

    def _add(self, file: Path, picture: Any) -> None:
        if file not in self._writers:
            self._writers[file] = self._open(file)
        self._writers[file].send(picture.tobytes())

    def _open(self, file: Path) -> Any:
        import imageio_ffmpeg  # brings its own ffmpeg

        file.parent.mkdir(parents=True, exist_ok=True)
        size = (self.width, self.height)
        writer = imageio_ffmpeg.write_frames(_temporary(file), size, fps=self.fps, macro_block_size=2, quality=7)
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
    return file.with_suffix(".tmp.mp4")
