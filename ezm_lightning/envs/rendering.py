"""Pictures of a MuJoCo simulation without a screen, and which OpenGL library draws them."""

from __future__ import annotations

import ctypes.util
import os
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

HELP = (
    "to draw without a screen install libegl1 and set MUJOCO_GL=egl, or install libosmesa6 and set MUJOCO_GL=osmesa, "
    "before Python starts"
)


def choose_gl() -> None:
    """Set MUJOCO_GL where it is unset and there is no screen: to egl where that library is found, else to disable.

    MuJoCo and dm_control read it when they are imported, so this runs before either. Without it both reach for GLFW,
    which warns, or aborts the process, where there is no display.
    """
    if "MUJOCO_GL" in os.environ or not sys.platform.startswith("linux") or os.environ.get("DISPLAY"):
        return
    os.environ["MUJOCO_GL"] = "egl" if _egl_works() else "disable"


def _egl_works() -> bool:
    if ctypes.util.find_library("EGL") is None:
        return False
    os.environ["MUJOCO_GL"] = "egl"
    try:
        import mujoco.egl  # noqa: F401 - opens a display, or raises
    except (ImportError, AttributeError, RuntimeError, OSError):
        return False
    finally:
        del os.environ["MUJOCO_GL"]
    return True


class Camera:
    """Draws one simulation; keeps its OpenGL context between pictures of the same size."""

    def __init__(self, model: Any, data: Any, camera: int = -1) -> None:
        self.model, self.data = model, data
        self.camera = camera if camera < model.ncam else -1
        self.renderer: Any = None

    def render(self, height: int, width: int) -> NDArray[np.uint8]:
        """A picture [height, width, 3]. Raises RuntimeError, saying what to install, where OpenGL does not work."""
        import mujoco

        if self.renderer is None or (self.renderer.height, self.renderer.width) != (height, width):
            self.close()
            self.renderer = self._open(height, width)
        if self.model.nhfield:
            self.renderer.close()  # terrain is uploaded when a context opens, and changes with the episode
            self.renderer = self._open(height, width)
        mujoco.mj_camlight(self.model, self.data)
        self.renderer.update_scene(self.data, camera=self.camera)
        return np.array(self.renderer.render())

    def _open(self, height: int, width: int) -> Any:
        import mujoco

        backend = os.environ.get("MUJOCO_GL", "")
        if backend in ("disable", "disabled", "off", "false", "0"):
            raise RuntimeError(f"no OpenGL library is in use (MUJOCO_GL={backend}); {HELP}")
        if backend in ("", "glfw") and sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
            raise RuntimeError(f"MuJoCo was imported for drawing on a screen, and there is none; {HELP}")
        frame = self.model.vis.global_
        frame.offheight, frame.offwidth = max(frame.offheight, height), max(frame.offwidth, width)
        try:
            return mujoco.Renderer(self.model, height=height, width=width)
        except (mujoco.FatalError, ImportError, AttributeError, RuntimeError, OSError) as error:
            raise RuntimeError(f"OpenGL does not work here (MUJOCO_GL={backend or 'unset'}: {error}); {HELP}") from error

    def close(self) -> None:
        """Free the OpenGL context."""
        if self.renderer is not None:
            self.renderer.close()
            self.renderer = None
