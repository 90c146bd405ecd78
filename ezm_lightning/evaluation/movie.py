"""A video file: an mp4 that grows frame by frame, and a GIF made of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

GIF_FPS = 12


class Movie:
    """An mp4, or a GIF if ``file`` has that suffix, of pictures [height, width, 3] uint8 at ``fps`` frames per second.

    It grows under a temporary name beside ``file``, and ``finish`` renames it. Sizes are multiples of 2. Raises
    ValueError for other sizes, OSError if the folder cannot be written.
    """

    def __init__(self, file: Path, height: int, width: int, *, fps: int) -> None:
        import imageio_ffmpeg  # brings its own ffmpeg

        check_size(height, width)
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file, self._temporary = file, file.with_suffix(f".tmp{file.suffix}")
        self._height, self._width = height, width
        size, gif = (width, height), file.suffix == ".gif"
        kind: dict[str, Any] = {"codec": "gif", "pix_fmt_out": "rgb8"} if gif else {"quality": 7}
        self._writer = imageio_ffmpeg.write_frames(self._temporary, size, fps=fps, macro_block_size=2, **kind)
        self._writer.send(None)  # starts ffmpeg

    def add(self, picture: NDArray[Any]) -> None:
        """Appends a frame. Raises ValueError for a picture of another size or type: ffmpeg would draw garbage."""
        check_picture(picture, self._height, self._width)
        self._writer.send(picture.tobytes())

    def finish(self) -> Path:
        """The finished file."""
        self._writer.close()
        os.replace(self._temporary, self.file)
        return self.file

    def discard(self) -> None:
        """Removes the unfinished file."""
        self._writer.close()
        self._temporary.unlink(missing_ok=True)


def check_size(height: int, width: int) -> None:
    """Raises ValueError for a size that an mp4 cannot have."""
    if min(height, width) < 2 or height % 2 or width % 2:
        raise ValueError(f"a video's height and width are even numbers of pixels, got {height} and {width}")


def check_picture(picture: Any, height: int, width: int) -> None:
    """Raises ValueError unless a picture is [height, width, 3] uint8."""
    dtype = getattr(picture, "dtype", type(picture).__name__)
    if np.shape(picture) != (height, width, 3) or dtype != np.uint8:
        raise ValueError(
            f"a picture has the shape {list(np.shape(picture))} of {dtype}, expected {[height, width, 3]} of uint8"
        )


def write_gif(movie: Path) -> Path:
    """A GIF beside an mp4, with its own palette and ``GIF_FPS`` frames per second. Raises OSError if it fails."""
    import imageio_ffmpeg

    file = movie.with_suffix(".gif")
    temporary = file.with_suffix(".tmp.gif")
    picture = f"fps={GIF_FPS},split[frames][seen];[seen]palettegen[palette];[frames][palette]paletteuse"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-i", movie, "-vf", picture, temporary]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{file} was not written: {done.stderr.strip()}")
    os.replace(temporary, file)
    return file
