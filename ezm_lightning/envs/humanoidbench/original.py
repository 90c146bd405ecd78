"""The original package ``humanoid_bench`` behind ``gym/h1hand-cube-v0`` and every other id it registers.

It was written for MuJoCo 3.1.6 and Gymnasium 0.29. When its first environment is made, what fails with later versions
is corrected from outside; the package's files stay unchanged. The 23 tasks of the benchmark's Medium and Hard suites
are also available as ``hb/...``, which need neither the package nor these corrections, and are faster.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.metadata
import importlib.util
import io
import sys
import threading
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import gymnasium
import numpy as np

from ezm_lightning.envs.humanoidbench.assets import check_mujoco_version
from ezm_lightning.errors import nearest

HOW_TO_INSTALL = (
    "git clone https://github.com/carlosferrazza/humanoid-bench; pip install --no-deps -e humanoid-bench "
    "(editable: another installation lacks its environments and assets)"
)
POLICIES = "humanoid_bench.mjx.flax_to_torch"
KETTLE = Path("kitchen", "adept_models", "kitchen", "assets")  # files that rename the default class of the whole scene
RENAMED = {
    "kettle_asset.xml": ('<default class="kettle">', "<default>"),
    "kettle_chain.xml": ('childclass="kettle"', 'childclass="main"'),
}
_RESETTING = threading.Lock()  # one environment at a time uses NumPy's global generator
_BUILT: set[str] = set()  # the robots of this process


def make(task: str, **kwargs: Any) -> gymnasium.Env:
    """The environment ``h1hand-cube-v0``; ``kwargs`` as for ``gymnasium.make``.

    It has no rendering of its own (that would need a screen). Raises ImportError if the package is missing, ValueError
    if it cannot build the task, and for a G1 beside another robot in one process.
    """
    load()
    check_mujoco_version()
    robot = task.partition("-")[0]
    _refuse_mixture(robot)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some tasks print a line for each environment
            env = gymnasium.make(task, render_mode=None, **kwargs)
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise ValueError(_why_not(task, error)) from error
    _BUILT.add(robot)
    return OwnNumpyRandom(env)


def load() -> None:
    """Imports the package, which registers its ids, and corrects what keeps it from running. Raises ImportError if it
    is missing or incomplete."""
    try:
        if not _has("jax"):
            _stub_policies()
        import humanoid_bench.env
        from humanoid_bench.dmc_deps import dmc_sizes
    except ImportError as error:
        raise ImportError(f"the package humanoid_bench cannot be imported ({error}); {HOW_TO_INSTALL}") from error
    _drop_absent_fields(dmc_sizes.array_sizes, _structs())
    humanoid_bench.env.HumanoidEnv._initialize_simulation = _simulation


def _has(module: str) -> bool:
    return module in sys.modules or importlib.util.find_spec(module) is not None


def _stub_policies() -> None:
    """Replaces the module that imports JAX: its hierarchical policies are not used here."""
    if POLICIES in sys.modules:
        return

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise ImportError("the reaching policies of humanoid_bench need JAX: pip install jax")

    stub: Any = types.ModuleType(POLICIES)
    stub.__spec__ = importlib.machinery.ModuleSpec(POLICIES, None)
    stub.TorchModel = stub.TorchPolicy = refuse
    sys.modules[POLICIES] = stub


def _structs() -> dict[str, Any]:
    import mujoco

    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    return {"mjmodel": model, "mjdata": mujoco.MjData(model)}


def _drop_absent_fields(array_sizes: Mapping[str, dict[str, Any]], structs: Mapping[str, Any]) -> None:
    """Removes fields that MuJoCo no longer has from the package's table, all of whose fields are read."""
    for name, struct in structs.items():
        for field in [field for field in array_sizes[name] if not hasattr(struct, field)]:
            del array_sizes[name][field]


def _simulation(env: Any) -> tuple[Any, Any]:
    """(MjModel, MjData) of a scene; replaces ``MujocoEnv._initialize_simulation``."""
    import mujoco

    scene = Path(env.fullpath)
    model = mujoco.MjModel.from_xml_path(str(scene), _main_class(scene.parents[1]))
    return model, mujoco.MjData(model)


def _main_class(assets: Path) -> dict[str, bytes]:
    """The kitchen's files that rename the class 'main', with 'main' restored: later MuJoCos refuse another name."""
    files = {assets / KETTLE / name: change for name, change in RENAMED.items()}
    return {file.name: file.read_text().replace(*change).encode() for file, change in files.items() if file.exists()}


def _refuse_mixture(robot: str) -> None:
    """Raises ValueError for a G1 beside other robots: it changes heights in their rewards for the whole process."""
    robots = _BUILT | {robot}
    if "g1" in robots and len(robots) > 1:
        raise ValueError(
            f"humanoid_bench's g1 and other robots give wrong rewards in one process, got {', '.join(sorted(robots))}; "
            f"run the g1 tasks in a run of their own"
        )


def _why_not(task: str, error: Exception) -> str:
    import humanoid_bench

    scenes = (Path(humanoid_bench.__file__).parent / "assets" / "envs").glob("*.xml")
    tasks = sorted(f"{_task_of(file.stem)}-v0" for file in scenes)
    first = next(iter(str(error).splitlines()), "") or type(error).__name__
    if not tasks:
        return f"humanoid_bench has no assets for {task}; {HOW_TO_INSTALL}"
    if task not in tasks:
        return f"humanoid_bench has no scene for {task}; nearest: {nearest(task, tasks)}"
    return f"humanoid_bench cannot build {task} with MuJoCo {importlib.metadata.version('mujoco')} ({first})"


def _task_of(scene: str) -> str:
    robot, _, kind = scene.partition("_")
    return f"{robot}-{kind.partition('_')[2]}"


class OwnNumpyRandom(gymnasium.Wrapper):
    """Gives the environment its own NumPy generator, seeded with it, for resets that draw from ``np.random``.

    After each reset the global generator is restored. Code in another thread that draws from it during a reset is not
    protected.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.numpy_state = np.random.RandomState().get_state()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.numpy_state = np.random.RandomState(seed % 2**32).get_state()
        with _RESETTING:
            global_state = np.random.get_state()
            np.random.set_state(self.numpy_state)
            try:
                return self.env.reset(seed=seed, options=options)
            finally:
                self.numpy_state = np.random.get_state()
                np.random.set_state(global_state)
