"""Where HumanoidBench's assets are, what of them a task needs, and whether they are the published ones."""

import hashlib
import os
import sys
import warnings
from pathlib import Path

import pytest

from ezm_lightning.envs.humanoidbench import TASKS, assets, task_spec
from ezm_lightning.envs.humanoidbench.checks import check_assets
from tests.golden import TRACES

FILES = {
    "envs/h1_pos_walk.xml": '<mujoco><include file="../robots/h1.xml"/></mujoco>',
    "robots/h1.xml": """<mujoco>
        <!-- <mesh file="unused.stl"/> -->
        <asset>
          <mesh name="foot" file="../h1/foot.obj"/>
          <texture name="sky" type="cube" fileup="../common/sky.png" builtin="none"/>
        </asset>
        <include file="legs.xml"/>
        <worldbody><geom type="mesh" mesh="foot"/></worldbody></mujoco>""",
    "robots/legs.xml": '<mujoco><worldbody><geom size=".1"/></worldbody></mujoco>',
    "h1/foot.obj": "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n",
    "common/sky.png": "a picture",
}


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    """No variable, no package, an empty cache; nobody has been warned yet."""
    monkeypatch.delenv(assets.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(assets, "_installed", lambda: None)
    monkeypatch.setattr(assets, "_WARNED", set())


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Small assets of one task, in use, with their digests as the published ones."""
    folder = write(tmp_path / "assets")
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in FILES.items()}
    monkeypatch.setattr(assets, "DIGESTS", digests)
    monkeypatch.setenv(assets.VARIABLE, str(folder))
    return folder


def write(folder: Path) -> Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_without_any_there_is_none():
    assert assets.find_assets() is None
    with pytest.raises(FileNotFoundError, match="ezm fetch hb"):
        assets.model_file("h1-walk")


def test_the_variable_comes_before_the_package_before_the_cache(monkeypatch, tmp_path):
    cached = write(assets.cache_folder() / assets.PACKAGE_PATH)
    assert assets.cache_folder() == tmp_path / "cache" / "ezm_lightning" / "humanoid-bench-791405f"
    assert assets.find_assets() == cached
    installed = write(tmp_path / "site" / "humanoid_bench" / "assets")
    monkeypatch.setattr(assets, "_installed", lambda: installed)
    assert assets.find_assets() == installed
    monkeypatch.setenv(assets.VARIABLE, "builtin")
    assert assets.find_assets() is None
    given = write(tmp_path / "mine")
    monkeypatch.setenv(assets.VARIABLE, str(given))
    assert assets.find_assets() == given


def test_an_installed_package_is_found_and_not_imported(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.delenv(assets.VARIABLE, raising=False)
    monkeypatch.delitem(sys.modules, "humanoid_bench", raising=False)
    (tmp_path / "humanoid_bench").mkdir()
    (tmp_path / "humanoid_bench" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert assets.find_assets() != tmp_path / "humanoid_bench" / "assets"  # not editable: no assets inside
    write(tmp_path / "humanoid_bench" / "assets")
    assert assets.find_assets() == tmp_path / "humanoid_bench" / "assets"


@pytest.mark.parametrize("given", ["nowhere", "", "builtins"])
def test_a_variable_that_names_no_assets_is_refused(given, monkeypatch, tmp_path):
    monkeypatch.setenv(assets.VARIABLE, str(tmp_path / given))
    with pytest.raises(ValueError, match="humanoid_bench/assets, or is the word builtin"):
        assets.find_assets()


def test_a_clone_is_answered_with_its_assets(monkeypatch, tmp_path):
    inside = write(tmp_path / "humanoid_bench" / "assets")
    for given in (tmp_path, tmp_path / "humanoid_bench", inside / "envs"):
        monkeypatch.setenv(assets.VARIABLE, str(given))
        with pytest.raises(ValueError, match=f"nearest: {inside}$"):
            assets.find_assets()


def test_files_are_followed_through_includes(folder):
    scene = assets.model_file("h1-walk")
    assert scene == folder / "envs" / "h1_pos_walk.xml"
    found = {file.relative_to(folder).as_posix() for file in assets.needed_files(scene)}
    assert found == set(FILES)


def test_missing_files_are_named(folder):
    (folder / "h1" / "foot.obj").unlink()
    (folder / "robots" / "legs.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"2 files are missing.*h1/foot.obj.*fetch hb"):
        assets.model_file("h1-walk")


def test_an_unknown_task_names_the_nearest(folder):
    with pytest.raises(FileNotFoundError, match=r"h1_pos_wlak\.xml, which does not exist; nearest: h1-walk"):
        assets.model_file("h1-wlak")
    with pytest.raises(ValueError, match="<robot>-<task>"):
        assets.model_file("walk")


def test_a_broken_file_is_named(folder):
    (folder / "robots" / "h1.xml").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"h1\.xml is no XML"):
        assets.model_file("h1-walk")


def test_changed_files_are_told_once(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assets.model_file("h1-walk")
    assert assets.differing(folder) == []
    for name in list(FILES)[1:]:
        file = folder / name
        file.write_text(FILES[name] + "\n")
        os.utime(file, ns=(1, 1))  # size and time say that a file changed
    with pytest.warns(UserWarning, match=r"4 of the 5 files that h1-walk uses.*differ.*robots/h1\.xml.*, \.\.\.\)"):
        assets.model_file("h1-walk")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assets.model_file("h1-walk")
    assert assets.differing(folder) == list(FILES)[1:]


def test_absent_files_are_no_differences(folder):
    (folder / "common" / "sky.png").unlink()
    assert assets.differing(folder) == [] and assets.absent(folder) == ["common/sky.png"]


def test_the_doctor_reports_them(folder, monkeypatch):
    assert check_assets() == (True, f"{folder}: all 5 files as published")
    (folder / "common" / "sky.png").unlink()
    (folder / "h1" / "foot.obj").write_text("")
    assert check_assets()[1].endswith("1 files differ from commit 791405f, 1 are missing")
    monkeypatch.delenv(assets.VARIABLE)
    good, text = check_assets()
    assert not good and "built-in H1" in text and "ezm fetch hb" in text
    monkeypatch.setenv(assets.VARIABLE, "/nowhere")
    assert "HUMANOID_BENCH_ASSETS=/nowhere" in check_assets()[1]


@pytest.mark.parametrize(
    ("version", "told"),
    [("3.12.1", "4 instead of 8"), ("3.1.6", "4 instead of 8"), ("3.16.0", "meshes"), ("4.0.0", "meshes")],
)
def test_an_untested_mujoco_is_told_once(version, told):
    with pytest.warns(UserWarning, match=rf"tested with MuJoCo 3\.17, this is {version}: .*{told}"):
        assets.check_mujoco_version(version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assets.check_mujoco_version(version)
        assets.check_mujoco_version("3.17.2")


def test_the_digests_cover_the_tasks():
    scenes = {f"envs/{task.replace('-', '_pos_', 1)}.xml" for task in TASKS}
    assert scenes <= set(assets.DIGESTS) and len(assets.DIGESTS) == 79
    assert all(len(digest) == 64 for digest in assets.DIGESTS.values())


@pytest.mark.parametrize("name", ["assets_minimal", "assets_hull"])
def test_reduced_copies_warn_and_load(name, monkeypatch):
    folder = TRACES / name
    if not folder.is_dir():
        pytest.skip(f"no folder {name}: set EZM_TRACES to a folder that has it")
    mujoco = pytest.importorskip("mujoco")
    monkeypatch.setenv(assets.VARIABLE, str(folder))
    with pytest.warns(UserWarning, match="differ.*reduced copy"):
        scenes = [assets.model_file(task) for task in TASKS]
    assert len(set(scenes)) == 23
    assert mujoco.MjModel.from_xml_path(str(assets.model_file("h1-walk"))).nq == 26
    meshes = [path for path in assets.DIGESTS if path.endswith((".stl", ".obj")) and (folder / path).is_file()]
    assert len(meshes) == 20
    assert len(assets.differing(folder, meshes)) == (0 if name == "assets_minimal" else 20)


def test_only_tasks_without_hands_fall_back_on_the_built_in_robot():
    labels = {task: task_spec(task).label for task in TASKS}
    built_in = {task for task, label in labels.items() if "built-in collision shapes" in label}
    assert built_in == {task for task in TASKS if task.startswith("h1-")}


def test_a_user_without_a_home_folder_has_no_cache_and_is_told_how_to_name_one(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(assets.os.path, "expanduser", lambda path: path)  # what it returns where there is none
    assert assets.find_assets() is None
    with pytest.raises(ValueError, match=r"this user has no home folder for the cache: XDG_CACHE_HOME=\.\.\. names"):
        assets.cache_folder()
