"""A window that shows pictures, on a display. GLFW and PyOpenGL come with MuJoCo."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from numpy.typing import NDArray


def has_display() -> bool:
    """Whether a window can probably be opened."""
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class Window:
    """A window of ``height`` times ``width`` pixels. Raises ImportError if it cannot be opened."""

    def __init__(self, title: str, height: int, width: int) -> None:
        import glfw

        self._glfw = glfw
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its message is in the error below
            opened = glfw.init()
            if opened:
                glfw.window_hint(glfw.RESIZABLE, glfw.FALSE)
                glfw.window_hint(glfw.VISIBLE, glfw.TRUE)
                self._window = glfw.create_window(width, height, title, None, None)
            if not opened or not self._window:
                raise ImportError(f"no window can be opened here ({glfw.get_error()[1]}): window=false writes a video")

    def show(self, picture: NDArray[Any]) -> bool:
        """Shows a picture [height, width, 3] uint8; returns whether the window is still open."""
        from OpenGL import GL

        glfw = self._glfw
        glfw.make_context_current(self._window)
        height, width = picture.shape[:2]
        zoom = glfw.get_framebuffer_size(self._window)[0] / width  # 2 on a screen of high density
        GL.glPixelZoom(zoom, zoom)
        GL.glPixelStorei(GL.GL_UNPACK_ALIGNMENT, 1)
        GL.glRasterPos2f(-1, -1)  # OpenGL counts rows from below
        GL.glDrawPixels(width, height, GL.GL_RGB, GL.GL_UNSIGNED_BYTE, picture[::-1].tobytes())
        glfw.swap_buffers(self._window)
        glfw.poll_events()
        return not glfw.window_should_close(self._window)

    def close(self) -> None:
        """Closes the window."""
        self._glfw.destroy_window(self._window)
