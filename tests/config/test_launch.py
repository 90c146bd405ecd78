"""Starting a command: what a config must be, what a mistake says, where a run goes on; on a small folder of configs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ezm_lightning.checkpoints.folder import WEIGHTS, publish, synced
from ezm_lightning.checkpoints.runs import existing_checkpoint, last_checkpoint, newest_checkpoint
from ezm_lightning.config.folder import config_dir
from ezm_lightning.config.launch import _whole_tracebacks, hydra_main
from ezm_lightning.config.overrides import jobs, parse, rewrite
from ezm_lightning.config.signatures import fits

FILES = {
    "conf/train.yaml": """
        defaults: [{tasks: cartpole}, {trainer: cpu}, _self_, {experiment: null}]
        name: train
        seed: 1
        ckpt_path: null
        run_dir: ${hydra:runtime.output_dir}
        width: 8
        trainer: {folder: "${run_dir}/logs"}
        hydra:
          run: {dir: "runs/${name}/seed${seed}_${now:%Y-%m-%d_%H-%M-%S}"}
          sweep: {dir: "runs/${name}", subdir: "seed${seed}_${hydra:job.num}"}
          output_subdir: hydra
        """,
    "conf/tasks/cartpole.yaml": "names: [dmc/cartpole-balance]",
    "conf/tasks/custom.yaml": "names: ???",
    "conf/trainer/cpu.yaml": """
        _target_: parts.Trainer
        width: ${width}
        parts: [{_target_: parts.Part, size: 1}]
        """,
    "conf/trainer/gpu.yaml": "{_target_: parts.Trainer, width: 16}",
    "conf/experiment/demo.yaml": "# @package _global_\nname: demo\nseed: 3",
    "parts.py": """
        from __future__ import annotations

        class Trainer:
            def __init__(self, width: int, folder: str = "", rate: float = 0.1, patience: int | None = None,
                         names: list[str] | None = None, fast: bool = False, parts=()): ...

        class Part:
            def __init__(self, size: int, **more): ...
        """,
}


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs; the working folder is the empty ``tmp_path/work``."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("EZM_TRACEBACK", raising=False)
    sys.modules.pop("parts", None)
    return tmp_path / "conf"


class Seen:
    """A command that remembers what it was run with."""

    def __init__(self) -> None:
        self.configs: list[DictConfig] = []
        self.folders: list[Path] = []

    def __call__(self, cfg: DictConfig) -> None:
        self.configs.append(cfg)
        self.folders.append(Path(HydraConfig.get().runtime.output_dir))


def launch(conf: Path, *argv: str) -> tuple[int, Seen]:
    seen = Seen()

    def command(cfg: DictConfig) -> None:
        seen(cfg)

    return hydra_main("train", command, argv, conf), seen


def make_checkpoint(run: Path, step: int, sealed: bool = True) -> Path:
    checkpoint = run / "checkpoints" / f"step={step:08d}.ckpt"
    draft = checkpoint.with_suffix(".draft")
    draft.mkdir(parents=True)
    (draft / WEIGHTS).write_bytes(b"")
    publish(draft, synced(draft, draft) if sealed else {WEIGHTS: "1 bytes"}, checkpoint)
    return checkpoint


def test_a_run_gets_its_config_and_a_folder_of_its_own(conf: Path) -> None:
    status, seen = launch(conf, "experiment=demo", "width=4")
    assert status == 0
    assert (seen.configs[0].seed, seen.configs[0].trainer.width) == (3, 4)
    assert seen.folders[0].parent == Path.cwd() / "runs" / "demo"
    assert seen.folders[0].name.startswith("seed3_")
    assert [file.name for file in seen.folders[0].iterdir()] == ["hydra"]
    assert [file.name for file in Path.cwd().iterdir()] == ["runs"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["experiment=dmo"], ["unknown experiment 'dmo'", "nearest: demo"]),
        (["trainer=gpuu"], ["unknown trainer 'gpuu'", "nearest: gpu", "cpu, gpu"]),
        (["tasks=cartpoll"], ["unknown tasks 'cartpoll'", "nearest: cartpole"]),
        (["trainerr=cpu"], ["unknown key 'trainerr'", "nearest: trainer"]),
        (["widht=3"], ["unknown key 'widht'", "nearest: width"]),
        (["traner.width=3"], ["unknown key 'traner.width'", "trainer.width"]),
        (["rate=3"], ["unknown key 'rate'"]),
        (["trainer.patiense=3"], ["unknown key 'trainer.patiense'", "trainer.patience"]),
        (["trainer.patience=3"], ["parts.Trainer takes it", "+trainer.patience="]),
        (["+trainer.patiense=3"], ["unknown key 'trainer.patiense'", "nearest: patience"]),
        (["++trainer.patiense=3"], ["unknown key 'trainer.patiense'"]),
        (["+widht=3"], ["unknown key 'widht'", "nearest: width"]),
        (["~widht"], ["unknown key 'widht'"]),
        (["hydra.run.dirr=x"], ["unknown key 'hydra.run.dirr'"]),
        (["width"], ["cannot read 'width'", "key=value"]),
        (["width=[1"], ["width=[1 has no end: a list has no spaces"]),
        (["width=1,2"], ["width=1,2: a run for each value needs --multirun"]),
        (["width=wide"], ["trainer.width='wide' is a string, expected int"]),
        (["width=1e5"], ["trainer.width=100000.0 is of type float, expected int"]),
        (["+trainer.names=a"], ["trainer.names='a' is a string", "list[str]"]),
        (["+trainer.fast=1"], ["trainer.fast=1", "expected bool"]),
        (["+trainer.rate=fast"], ["trainer.rate='fast'", "float"]),
        (["width=${widht}"], ["widht"]),
        (["seed=???"], ["no value for seed", "seed=..."]),
        (["tasks=custom"], ["no value for tasks.names"]),
        (["tasks=[dmc/cartpole-balanc]"], ["dmc/cartpole-balanc", "cartpole-balance"]),
        (["tasks=dmc/cartpole-balanc"], ["dmc/cartpole-balanc", "cartpole-balance"]),
        (["tasks=[dcm/cartpole-balance]"], ["dcm", "dmc"]),
        (["trainer._target_=parts.Trainr"], ["parts has no 'Trainr'", "nearest: Trainer"]),
        (["trainer._target_=prats.Trainer"], ["no module 'prats'"]),
        (["ckpt_path=nothing.ckpt"], ["ckpt_path=nothing.ckpt does not exist"]),
        (["ckpt_path=a/step=3.ckpt"], ["ckpt_path=a/step=3.ckpt does not exist"]),
        (["ckpt_path=last"], ["no intact checkpoint in runs/train/seed1_*"]),
        (["-m", "seed=1,2", "width=3,wide"], ["trainer.width='wide'"]),
        (["-m", "seed=1,2", "ckpt_path=last"], ["--multirun"]),
        (["--confg", "job"], ["--confg"]),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    conf: Path, capsys: pytest.CaptureFixture[str], argv: list[str], words: list[str]
) -> None:
    status, seen = launch(conf, *argv)
    captured = capsys.readouterr()
    assert status == 2
    assert not seen.configs
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err
    assert list(Path.cwd().iterdir()) == []


def test_an_argument_that_a_class_takes_can_be_added(conf: Path) -> None:
    status, seen = launch(conf, "+trainer.patience=3", "+trainer.rate=1", "++width=2", "+trainer.parts.0.anything=1")
    assert status == 0
    assert (seen.configs[0].trainer.patience, seen.configs[0].width) == (3, 2)


def test_a_list_of_tasks_replaces_the_suite(conf: Path) -> None:
    tasks = ["dmc/walker-walk", "dmc/cartpole-balance"]
    status, seen = launch(conf, f"tasks=[{','.join(tasks)}]")
    assert status == 0
    assert list(seen.configs[0].tasks.names) == tasks
    _, seen = launch(conf, "tasks=dmc/walker-walk")
    assert list(seen.configs[0].tasks.names) == ["dmc/walker-walk"]


def test_rewriting_leaves_everything_else_alone(conf: Path) -> None:
    assert rewrite(["tasks=cartpole", "ckpt_path=a.ckpt", "x='tasks=[a]'"], conf) == [
        "tasks=cartpole",
        "ckpt_path=a.ckpt",
        "x='tasks=[a]'",
    ]
    assert rewrite(["tasks=dmc/a,dmc/b"], conf) == ["tasks=custom", "tasks.names=[dmc/a],[dmc/b]"]


def test_a_sweep_is_tried_by_every_choice_once() -> None:
    assert list(jobs(["a=1,2,3", "b=x,y", "c=0"])) == [
        ["a=1", "b=x", "c=0"],
        ["a=2", "b=y", "c=0"],
        ["a=3", "b=x", "c=0"],
    ]


def test_multirun_runs_every_combination(conf: Path) -> None:
    status, seen = launch(conf, "seed=1,2", "-m", "width=4")
    assert status == 0
    assert [(cfg.seed, cfg.width) for cfg in seen.configs] == [(1, 4), (2, 4)]
    assert len(set(seen.folders)) == 2


def test_cfg_job_prints_the_config_and_writes_nothing(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, seen = launch(conf, "--cfg", "job", "seed=7")
    assert status == 0 and not seen.configs
    assert OmegaConf.create(capsys.readouterr().out).seed == 7
    assert list(Path.cwd().iterdir()) == []


def test_a_folder_of_ones_own_is_searched_beside_the_packages(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "experiment/mine": "# @package _global_\nname: mine",
        "experiment/odd": "# @package _global_\nwidht: 3",
        "tasks/two": "names: [dmc/walker-run]",
        "fruit/apple": "size: 1",
    }
    for name, text in files.items():
        file = Path("own", f"{name}.yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    status, seen = launch(conf, "--config-dir", "own", "experiment=mine", "tasks=two", "width=4")
    assert status == 0
    assert (seen.configs[0].name, list(seen.configs[0].tasks.names)) == ("mine", ["dmc/walker-run"])
    status, seen = launch(conf, "--config-dir=own", "-m", "experiment=mine,demo")
    assert status == 0 and [cfg.name for cfg in seen.configs] == ["mine", "demo"]
    capsys.readouterr()
    for argv, words in (
        (["--config-dir=own", "experiment=mne"], "unknown experiment 'mne'; nearest: mine (choices: demo, mine, odd)"),
        (["--config-dir=own", "experiment=odd"], "unknown key 'widht'; nearest: width"),
        (["--config-dir=own", "+fruit=apple"], "unknown key 'fruit'"),
        (["--config-dir=nowhere"], "--config-dir=nowhere is no folder"),
        (["--config-path=own"], "yours go beside them: --config-dir=own"),
        (["--config-dir=own", "hydra.searchpath=[file://own]"], "--config-dir=own or hydra.searchpath=..., not both"),
    ):
        status, seen = launch(conf, *argv)
        said = capsys.readouterr().err
        assert status == 2 and not seen.configs and words in said and said.count("\n") == 1
    assert launch(conf, "--config-dir=own", "--help")[0] == 0
    assert "cartpole | custom | two" in capsys.readouterr().out


def test_help_lists_the_groups(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, seen = launch(conf, "--help")
    text = capsys.readouterr().out
    assert status == 0 and not seen.configs
    assert "trainer" in text and "cpu | gpu" in text and "--multirun" in text


def test_last_continues_the_newest_intact_checkpoint_in_its_own_folder(conf: Path) -> None:
    old, new = Path("runs/demo/seed3_2026-01-01_00-00-00"), Path("runs/demo/seed3_2026-01-02_00-00-00")
    make_checkpoint(old, 900)
    make_checkpoint(new, 5)
    wanted = make_checkpoint(new, 10)
    make_checkpoint(new, 15, sealed=False)
    (new / "checkpoints" / "step=00000020.ckpt.tmp").write_bytes(b"")
    make_checkpoint(Path("runs/demo/seed4_2026-01-03_00-00-00"), 10)
    status, seen = launch(conf, "experiment=demo", "ckpt_path=last")
    assert status == 0
    assert Path(seen.configs[0].ckpt_path) == wanted
    assert seen.folders[0] == Path.cwd() / new


def test_last_in_a_folder_that_is_given(conf: Path) -> None:
    wanted = make_checkpoint(Path("elsewhere/a run"), 3)
    status, seen = launch(conf, "hydra.run.dir='elsewhere/a run'", "ckpt_path=last")
    assert status == 0
    assert (Path(seen.configs[0].ckpt_path), seen.folders[0]) == (wanted, Path.cwd() / "elsewhere" / "a run")


def test_a_checkpoint_by_name(conf: Path) -> None:
    file = make_checkpoint(Path("runs/demo/seed3_x"), 3)
    status, seen = launch(conf, f"ckpt_path={file}")
    assert status == 0 and seen.configs[0].ckpt_path == str(file)
    assert existing_checkpoint(str(file.parents[1])) == str(file)
    with pytest.raises(ValueError, match=r"nearest: .*step=00000003\.ckpt"):
        existing_checkpoint(str(file).replace("3.ckpt", "4.ckpt"))
    with pytest.raises(ValueError, match="names: demo"):
        last_checkpoint(Path("runs/train/seed1_now"), seed=1)
    jobs = {number: make_checkpoint(Path(f"runs/sweep/seed1_t_{number}"), 3) for number in (2, 9, 11)}
    assert last_checkpoint(Path("runs/sweep/seed1_now"), seed=1) == jobs[11]
    assert newest_checkpoint(Path("runs/none")) is None


SCRIPT = """
import sys
from ezm_lightning.config.launch import hydra_main
from pathlib import Path

def run(cfg):
    kind = cfg.name
    if kind == "write":
        Path(cfg.run_dir, "curve.csv").write_text("1")
    if kind in ("ours", "write"):
        from ezm_lightning.envs.sources import resolve_tasks
        resolve_tasks([])
    if kind == "theirs":
        int("x")
    if kind == "argv":
        print(sys.argv[1:])

sys.exit(hydra_main("train", run, sys.argv[1:], Path(sys.argv[0]).parent / "conf"))
"""


def run_script(conf: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = conf.parent / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    return subprocess.run(  # without tasks: their simulators' modules import torch
        [sys.executable, str(script), *argv, "~tasks"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{conf.parent}", **environment},
    )


def test_our_own_error_while_starting_is_one_line_and_leaves_no_folder(conf: Path) -> None:
    done = run_script(conf, "name=ours")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no task given") and done.stderr.count("\n") == 1
    assert list(Path.cwd().iterdir()) == []
    assert "Traceback" in run_script(conf, "name=ours", EZM_TRACEBACK="1").stderr


def test_what_a_run_has_written_is_kept(conf: Path) -> None:
    assert run_script(conf, "name=write").returncode == 2
    assert [file.name for file in Path("runs").rglob("*.csv")] == ["curve.csv"]


def test_any_other_error_keeps_its_traceback(conf: Path) -> None:
    done = run_script(conf, "name=theirs")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ValueError: invalid literal" in done.stderr


def test_further_ranks_can_be_started_from_the_users_command_line(conf: Path) -> None:
    argv = ["name=argv", "width=2", 'hydra.run.dir="x/y"', "hydra.output_subdir=null"]
    done = run_script(conf, *argv)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == [*argv, "~tasks"]
    assert list(Path("x/y").iterdir()) == []


@pytest.mark.parametrize(
    ("value", "hint", "good"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        ("1", int, False),
        (1, float, True),
        ("x", float, False),
        (1, bool, False),
        ("x", int | str, True),
        ("x", int | None, False),
        ("x", list[int], False),
        (OmegaConf.create([1]), list[int], True),
        (OmegaConf.create({}), dict[str, int], True),
        ("x", dict[str, int], False),
        ("x", Path, True),
        (3, str, True),
    ],
)
def test_what_fits_a_hint(value: object, hint: object, good: bool) -> None:
    assert fits(value, hint) is good


def test_an_environment_may_clear_the_variables_of_the_process(monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with _whole_tracebacks():
        del os.environ["HYDRA_FULL_ERROR"]
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.mark.parametrize("name", ["a,b", "ünï", "it's", "a=b", "a [b]"])
def test_a_path_may_have_any_character(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.mkdir()
    (override,) = rewrite([f"ckpt_path={path}"], config_dir())
    (parsed,) = parse([override])
    assert not parsed.is_sweep_override() and parsed.value() == str(path)


def test_a_folder_above_runs_names_the_newest_of_them(tmp_path: Path) -> None:
    for job in ("9", "10"):
        (tmp_path / job / "checkpoints" / "step=00000001.ckpt").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"nearest: {tmp_path / '10'}$"):
        existing_checkpoint(str(tmp_path))
