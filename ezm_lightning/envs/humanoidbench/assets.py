"""The user's copy of HumanoidBench's assets: its folder, and whether it is complete and as published.

The robots and scenes are upstream's (github.com/carlosferrazza/humanoid-bench, folder ``humanoid_bench/assets``) and
are not part of this project: ``ezm fetch hb`` fetches them. A copy of another version or a reduced copy works too, with
a warning.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

from ezm_lightning.envs.humanoidbench.asset_digests import DIGESTS
from ezm_lightning.errors import nearest

COMMIT = "791405f5eacf879adbc99105adb3fee73f5a49fc"
VARIABLE = "HUMANOID_BENCH_ASSETS"
NO_ASSETS = "builtin"  # this value of the variable means: use no assets, even if they are installed
PACKAGE_PATH = Path("humanoid_bench", "assets")  # inside a clone of upstream
TESTED_MUJOCO = (3, 17)
_WARNED: set[str] = set()  # the subjects of this process's warnings


def cache_folder() -> Path:
    """The folder of the clone of ``ezm fetch hb``; the assets are in its ``humanoid_bench/assets``.

    Raises ValueError for a user without a home folder, as in some containers, unless XDG_CACHE_HOME is set.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if cache.startswith("~"):
        raise ValueError("this user has no home folder for the cache: XDG_CACHE_HOME=... names another")
    return Path(cache) / "ezm_lightning" / f"humanoid-bench-{COMMIT[:7]}"


def find_assets() -> Path | None:
    """The assets folder in use, or None if there is none.

    The first of: the environment variable HUMANOID_BENCH_ASSETS (a folder, or the word ``builtin`` for none), an
    editable installation of ``humanoid_bench`` (which is not imported), the clone of ``ezm fetch hb``.
    Raises ValueError if the variable is not a folder of assets.
    """
    setting = os.environ.get(VARIABLE)
    if setting:
        return None if setting == NO_ASSETS else _named(setting)
    folders = [_installed()]
    with contextlib.suppress(ValueError):  # a user without a home folder
        folders.append(cache_folder() / PACKAGE_PATH)
    return next((folder for folder in folders if folder is not None and _holds_scenes(folder)), None)


def _named(setting: str) -> Path:
    folder = Path(setting).expanduser().absolute()
    if _holds_scenes(folder):
        return folder
    meant = [inner for inner in (folder / PACKAGE_PATH, folder / "assets", folder.parent) if _holds_scenes(inner)]
    hint = f"; nearest: {meant[0]}" if meant else ""
    problem = "holds no folder envs/ with scenes" if folder.is_dir() else "is no folder"
    raise ValueError(
        f"{VARIABLE}={setting} {problem}; it names a copy of upstream's humanoid_bench/assets, or is the word "
        f"{NO_ASSETS} (use no assets){hint}"
    )


def _holds_scenes(folder: Path) -> bool:
    return (folder / "envs").is_dir()


def _installed() -> Path | None:
    """The assets of the installed package, which a non-editable installation does not have."""
    try:
        spec = importlib.util.find_spec("humanoid_bench")
    except (ImportError, ValueError):
        return None
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    return Path(places[0]) / "assets" if places else None


def model_file(task: str) -> Path:
    """The scene ``envs/h1_pos_walk.xml`` of 'h1-walk' in the assets folder, which has all files it needs.

    Warns once per process about files that differ from upstream's and about a MuJoCo that was not tested. Raises
    FileNotFoundError with the missing files and the remedy, ValueError for a name without '-'.
    """
    robot, dash, kind = task.partition("-")
    if not dash:
        raise ValueError(f"a HumanoidBench task is named <robot>-<task>, such as h1-walk; got {task!r}")
    folder = find_assets()
    if folder is None:
        raise FileNotFoundError(
            f"{task} needs HumanoidBench's assets and none were found: run `ezm fetch hb`, or set "
            f"{VARIABLE} to a copy of upstream's humanoid_bench/assets"
        )
    scene = folder / "envs" / f"{robot}_pos_{kind}.xml"
    if not scene.is_file():
        scenes = [file.stem.replace("_pos_", "-", 1) for file in sorted((folder / "envs").glob("*_pos_*.xml"))]
        hint = f"nearest: {nearest(task, scenes)}; " if scenes else ""
        raise FileNotFoundError(f"{task} needs {scene}, which does not exist; {hint}{_remedy()}")
    files = needed_files(scene)
    missing = [name for name in _names(files, folder) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{task}: {len(missing)} files are missing in {folder}: {_first(missing)}; {_remedy()}")
    _warn_of_differences(task, folder, _names(files, folder))
    check_mujoco_version()
    return scene


def _remedy() -> str:
    unset = f" and unset {VARIABLE}" if os.environ.get(VARIABLE) else ""
    return f"run `ezm fetch hb`{unset} for a complete copy"


def needed_files(scene: Path) -> list[Path]:
    """``scene`` and the files in its ``file`` attributes, also those of included files; they need not exist.

    MuJoCo reads names relative to the folder of the scene, and names of included files also relative to the including
    file. (None of HumanoidBench's scenes sets ``meshdir`` or ``texturedir``.) Raises ValueError for a file that is not
    XML.
    """
    files: list[Path] = []
    waiting = [scene]
    while waiting:
        file = waiting.pop(0)
        if file in files:
            continue
        files.append(file)
        if file.suffix == ".xml" and file.is_file():
            waiting += _references(file, scene.parent)
    return files


def _references(file: Path, base: Path) -> list[Path]:
    try:
        elements = list(ElementTree.parse(file).iter())
    except ElementTree.ParseError as error:
        raise ValueError(f"{file} is no XML ({error}); fetch it again: `ezm fetch hb`") from error
    references = []
    for element in elements:
        for key, name in element.attrib.items():
            if key.startswith("file"):  # a cube texture has six: fileup, filedown, ...
                inside, beside = _joined(base, name), _joined(file.parent, name)
                is_beside = element.tag == "include" and not inside.is_file() and beside.is_file()
                references.append(beside if is_beside else inside)
    return references


def _joined(folder: Path, name: str) -> Path:
    return Path(os.path.normpath(folder / name))


def differing(folder: Path, names: Iterable[str] | None = None) -> list[str]:
    """The existing files among ``names`` that differ from upstream's, by SHA-256.

    ``names`` are relative to the folder; None: all that the 23 tasks need. Names without a known digest (of
    other tasks) and missing files are ignored.
    """
    files = {name: folder / name for name in (DIGESTS if names is None else names) if name in DIGESTS}
    return [name for name, file in files.items() if file.is_file() and _digest(file) != DIGESTS[name]]


def absent(folder: Path) -> list[str]:
    """The files of the 23 tasks that ``folder`` lacks. A reduced copy may work without some of them."""
    return [name for name in DIGESTS if not (folder / name).is_file()]


def _digest(file: Path) -> str:
    status = file.stat()
    return _digest_of(file, status.st_size, status.st_mtime_ns)


@functools.cache
def _digest_of(file: Path, size: int, changed: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _names(files: Iterable[Path], folder: Path) -> list[str]:
    return [Path(os.path.relpath(file, folder)).as_posix() for file in files]


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _warn_of_differences(task: str, folder: Path, names: list[str]) -> None:
    changed = differing(folder, names)
    if changed:
        _warn_once(
            str(folder),
            f"{len(changed)} of the {len(names)} files that {task} uses in {folder} differ from HumanoidBench's at "
            f"{COMMIT[:7]} ({_first(changed)}): another version or a reduced copy, so returns may differ too",
        )


def check_mujoco_version(version: str | None = None) -> None:
    """Warns once per process if MuJoCo (its ``version``, None: the installed one) is not the tested 3.17."""
    version = version or importlib.metadata.version("mujoco")
    release = tuple(int(part) for part in version.split(".")[:2])
    if release == TESTED_MUJOCO:
        return
    tested = ".".join(map(str, TESTED_MUJOCO))
    if release < (3, 13):
        risk = (
            "before 3.13 a foot's mesh touches the floor in other points (4 instead of 8 when standing), and positions "
            "differ by about 0.05 after 10 steps of the same actions: what was learned on one may fall on the other"
        )
    else:
        risk = "contacts between meshes may differ and with them single trajectories; returns should agree"
    _warn_once(f"mujoco {version}", f"HumanoidBench tasks were tested with MuJoCo {tested}, this is {version}: {risk}")


def _warn_once(about: str, message: str) -> None:
    if about not in _WARNED:
        _WARNED.add(about)
        warnings.warn(message, stacklevel=4)
