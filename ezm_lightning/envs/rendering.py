"""Pictures of a MuJoCo simulation without a screen, and the choice of the OpenGL library that draws them.

``mujoco.Renderer`` uses the OpenGL library chosen when MuJoCo was first imported. TorchRL imports MuJoCo, and without a
screen the default library cannot draw. So the context is opened here, for the first picture.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes.util
import importlib
import os
import sys
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

_OPEN: weakref.WeakSet[Camera] = weakref.WeakSet()
BACKENDS = ("egl", "osmesa", "glfw")
HELP = (
    "to draw without a screen install the package libegl1 and set MUJOCO_GL=egl, "
    "or install libosmesa6 and set MUJOCO_GL=osmesa, before Python starts"
)


def choose_gl() -> None:
    """Sets MUJOCO_GL if it is unset and there is no screen: to egl if that library works, else to disable.

    This runs before the import of dm_control, which reads the variable. If it is unset, dm_control uses GLFW, which
    warns or aborts the process without a display.
    """
    if "MUJOCO_GL" in os.environ or not sys.platform.startswith("linux") or os.environ.get("DISPLAY"):
        return
    os.environ["MUJOCO_GL"] = "egl" if _egl_works() else "disable"


def _egl_works() -> bool:
    if ctypes.util.find_library("EGL") is None:
        return False
    try:
        importlib.import_module("mujoco.egl")  # opens a display, or raises
    except (ImportError, AttributeError, RuntimeError, OSError):
        return False
    return True


def _open_gl(height: int, width: int) -> Any:
    choose_gl()
    backend = os.environ.get("MUJOCO_GL", "").lower().strip() or "glfw"
    if backend not in BACKENDS:
        raise RuntimeError(f"no OpenGL library is in use (MUJOCO_GL={backend}); {HELP}")
    try:
        context = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
        context.make_current()
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise RuntimeError(f"OpenGL does not work here (MUJOCO_GL={backend}: {error}); {HELP}") from error
    atexit.unregister(_close_all)
    atexit.register(_close_all)  # registered after the library's own function, so called before it
    return context


def _close_all() -> None:
    for camera in list(_OPEN):
        with contextlib.suppress(Exception):  # the process is ending, and the error does not matter
            camera.close()


class Camera:
    """Draws one simulation (``model``, ``data``: MjModel, MjData); keeps its OpenGL context between pictures."""

    def __init__(self, model: Any, data: Any, camera: int = -1) -> None:
        self.model, self.data = model, data
        self.camera = camera if camera < model.ncam else -1
        self.size = (0, 0)
        self.gl: Any = None

    def render(self, height: int, width: int) -> NDArray[np.uint8]:
        """A picture [height, width, 3]. Raises RuntimeError, with the remedy, if OpenGL does not work."""
        import mujoco

        if self.size != (height, width):
            self._open(height, width)
        self.gl.make_current()
        for terrain in range(self.model.nhfield):  # changes with the episode
            mujoco.mjr_uploadHField(self.model, self.context, terrain)
        mujoco.mjv_updateScene(
            self.model, self.data, self.options, None, self.view, mujoco.mjtCatBit.mjCAT_ALL, self.scene
        )
        rectangle = mujoco.MjrRect(0, 0, width, height)
        picture = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(rectangle, self.scene, self.context)
        mujoco.mjr_readPixels(picture, None, rectangle, self.context)
        return picture[::-1].copy()  # OpenGL counts rows from below

    def _open(self, height: int, width: int) -> None:
        import mujoco

        self.close()
        self.gl = _open_gl(height, width)
        frame = self.model.vis.global_
        frame.offheight, frame.offwidth = max(frame.offheight, height), max(frame.offwidth, width)
        try:
            self.context = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except mujoco.FatalError as error:
            self.close()
            raise RuntimeError(f"OpenGL does not work here ({error}); {HELP}") from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        self.scene, self.options = mujoco.MjvScene(self.model, maxgeom=10_000), mujoco.MjvOption()
        drawn = self.options.geomgroup[self.model.geom_group] == 1
        if not drawn[self.model.geom_bodyid > 0].any():
            self.options.geomgroup[:] = 1  # a model without visual geoms shows its collision geoms
        self.view = self._viewpoint()
        self.size = (height, width)
        _OPEN.add(self)

    def _viewpoint(self) -> Any:
        import mujoco

        view = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(self.model, view)
        if self.camera >= 0:
            view.fixedcamid, view.type = self.camera, mujoco.mjtCamera.mjCAMERA_FIXED
        return view

    def close(self) -> None:
        """Frees the OpenGL context."""
        if self.gl is not None:
            self.context = self.scene = None
            self.gl.free()
            self.gl, self.size = None, (0, 0)
