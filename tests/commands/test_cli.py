"""The console script: verbs, help, tables, the doctor; and what the package ships."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ezm_lightning.commands import cli, doctor, tasks
from ezm_lightning.config.folder import config_dir, config_groups, groups_of

GROUPS = {"play": set(), "distil": {"policy_target"}}  # others: {"tasks"}
ROOT = Path(__file__).parents[2]


def test_help_names_every_verb_and_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for word in [*cli.VERBS, *config_groups()]:
        assert word in text


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) >= 1 and "None" not in text
    if cli.VERBS[verb].takes_overrides:
        assert f"ezm {verb} " in text and "--cfg job" in text
        named = set(re.findall(r"^  (\w+) +\S.* \| ", text.partition("Groups (group=option)")[2], re.MULTILINE))
        if verb == "train":
            assert named == set(config_groups()) and "--multirun" in text
        else:
            assert named == groups_of(verb) == GROUPS.get(verb, {"tasks"})


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ezm_lightning.commands import cli; cli.main(['--help']); cli.main(['train', '--help']); "
        "print([name for name in ('torch', 'hydra', 'lightning', 'mujoco', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian", "seed=1"]) == 2
    captured = capsys.readouterr()
    verbs = "train, eval, report, play, transfer, distil, export, demos, dataset, tasks, fetch, doctor"
    assert captured.err == f"error: unknown verb 'trian'; nearest: train (verbs: {verbs})\n"


def test_a_verb_whose_package_is_missing_is_one_line(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ezm_lightning.commands.tasks", "ezm_lightning.envs.sources"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "ezm_lightning.envs.sources", None)
    assert cli.main(["tasks"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "`ezm doctor` says what to type" in error


def test_tasks_lists_dimensions_and_filters(capsys: pytest.CaptureFixture[str]) -> None:
    assert tasks.main(["cartpole-swingup"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["task", "obs_dim", "action_dim", "steps", "reward"]
    assert lines[1].split() == ["dmc/cartpole-swingup", "5", "1", "1000", "0", "to", "1"]
    assert len(lines) == 3


def test_tasks_names_the_nearest_when_none_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert tasks.main(["carpole-swingup"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "cartpole-swingup" in captured.err


def test_the_doctor_reports_every_package_and_source(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_render", lambda backend: "no library")
    doctor.main([])
    text = capsys.readouterr().out
    named = ["devices", "tasks dmc/", "tasks gym/", "humanoid_bench assets"]
    for word in ["python", *doctor.PACKAGES, *doctor.SIMULATORS, "mctx", *named]:
        assert word in text
    assert "libegl1" in text


def test_the_doctor_warns_of_the_excluded_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda package: "2.6.2")
    good, text = doctor.check_package("lightning", "lightning")
    assert not good and "2.6.2 must not be used" in text


def test_the_doctor_names_every_dependency_that_is_missing_or_does_not_fit(monkeypatch, capsys) -> None:
    monkeypatch.setattr(doctor, "_render", lambda backend: "no library")
    assert doctor.check_declared() == (True, f"all {len(doctor.declared())} of ezm-lightning are there")
    installed = doctor.version
    for needed in doctor.declared():
        other = {None: "missing", "0.0.1": "0.0.1"} if needed.specifier else {None: "missing"}
        for found, words in other.items():
            monkeypatch.setattr(doctor, "version", lambda name, own=needed.name, found=found: (
                found if name == own else installed(name)))  # fmt: skip
            good, text = doctor.check_declared()
            assert not good and text == f"{needed.name} {words}: pip install '{needed.name}{needed.specifier}'"
    monkeypatch.setattr(doctor, "version", lambda name: None if name == "rich" else installed(name))
    assert doctor.main([]) == 1
    assert "NO  dependencies            rich missing: pip install 'rich>=13'" in capsys.readouterr().out


@pytest.mark.parametrize(("source", "module"), [("mw", "metaworld"), ("gr", "gymnasium_robotics")])
def test_the_doctor_looks_for_the_simulator_of_tasks_from_a_table(source: str, module: str, monkeypatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == module else "there")
    good, text = doctor.check_source(source)
    assert not good and text.startswith("not installed: pip install 'ezm-lightning[") and f"{source}/" in text
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: "there")
    assert doctor.check_source(source)[1].endswith(" tasks")


@pytest.mark.parametrize("name", ["packaging", "rich", "numpy", "torch"])
def test_the_doctor_starts_without(name: str) -> None:
    """A dependency that cannot be imported is a line of the report, never the report's end."""
    hide = (
        f"import sys; sys.modules[{name!r}] = None; from ezm_lightning.commands import doctor; found = doctor.version; "
    )
    hide += f"doctor.version = lambda package: None if package == {name!r} else found(package); "
    code = hide + "doctor._render = lambda backend: 'no library'; sys.exit(doctor.main([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    assert done.returncode == 1 and f"{name} missing: pip install" in done.stdout


def test_the_doctor_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda package: None)
    assert doctor.check_package("mujoco", "mujoco") == (False, "not installed: pip install mujoco")
    monkeypatch.setattr(doctor, "_render", lambda backend: "" if backend == "osmesa" else "aborted")
    assert doctor.check_rendering() == (True, "works with MUJOCO_GL=osmesa")


def test_configs_are_found() -> None:
    assert (config_dir() / "train.yaml").is_file()
    assert {"tasks", "model", "trainer", "experiment"} <= set(config_groups())


def test_the_wheel_lists_every_package() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads toml")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "ezm_lightning").rglob("__init__.py")}
    assert set(listed) == folders | {"ezm_lightning.conf"}


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["train", "experiment=demo", "--cfg", "job"], 0, "name: demo"),
        (["train", "experiment=demo", "batch_siz=3"], 2, "unknown key 'batch_siz'; nearest: batch_size"),
        (["train", "experiment=dem"], 2, "unknown experiment 'dem'; nearest: demo"),
        (["train", "experiment=demo", "seed 3"], 2, "cannot read 'seed 3'"),
        (["eval", "eval.episode=3", "ckpt_path=last"], 2, "nearest: eval.episodes"),
    ],
)
def test_a_command_line_that_does_not_compose_waits_for_no_import(arguments: list[str], status: int, said: str) -> None:
    """What composing needs is here in a second; torch, Lightning and the simulators take several."""
    code = "import sys; from ezm_lightning.commands import cli\ntry: status = cli.main(sys.argv[1:])\n"
    code += "except SystemExit as stop: status = stop.code\n"
    code += "print({'torch', 'lightning', 'mujoco'} & {*sys.modules}, file=sys.stderr); sys.exit(status)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode or 0) == status and said in done.stdout + done.stderr
    assert done.stderr.endswith("set()\n"), done.stderr
