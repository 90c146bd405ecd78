"""Ctrl-C is one line and status 130 wherever nothing is to be saved; a closed terminal saves the run."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from ezm_lightning.callbacks.stop import Stop
from ezm_lightning.config.interrupt import interruptible
from tests.runs.short import SIZE, budget

ROOT = Path(__file__).parents[2]
EZM = [sys.executable, "-m", "ezm_lightning.commands.cli"]
TRAIN = ["train", *SIZE, "tasks=[tests.runs.waiting/point]"]


def started(*argv: str, **more) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more.pop("env", {})
    return subprocess.Popen([*EZM, *argv], env=environment, text=True, **more)


def waits_for(file: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not file.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def interrupted(place: str, folder: Path, *argv: str) -> tuple[int, str]:
    """Status and standard error of a command that gets SIGINT while it waits at a place."""
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = started(*argv, cwd=folder, env={"WAIT": f"{place}:{folder / place}"}, **pipes, **heard)
    waits_for(folder / place, process)
    time.sleep(0.2)  # from the file to the wait
    process.send_signal(signal.SIGINT)
    return process.wait(60), process.stderr.read()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    done = started(*TRAIN, budget(2), f"hydra.run.dir={run}", stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert done.wait(240) == 0
    return run


@pytest.mark.parametrize("place", ["import", "reset", "step"])
def test_training_interrupted_before_its_first_update(tmp_path: Path, place: str) -> None:
    status, said = interrupted(place, tmp_path, *TRAIN, budget(2), f"hydra.run.dir={tmp_path}/run")
    assert status == 130 and "Traceback" not in said
    lines = [line for line in said.splitlines() if "interrupted" in line or "SIGINT" in line]
    assert lines == ["interrupted" if place == "import" else "SIGINT: stopped before the first update, nothing to save"]
    assert said.strip().splitlines()[-1] == lines[0]
    assert (tmp_path / "run").exists() == (place != "import")


@pytest.mark.parametrize("place", ["import", "step"])
def test_an_evaluation_interrupted(finished: Path, tmp_path: Path, place: str) -> None:
    status, said = interrupted(place, tmp_path, "eval", f"ckpt_path={finished}")
    assert status == 130
    assert said == "interrupted\n"


def test_an_interrupt_that_other_code_has_turned_into_an_error() -> None:
    with pytest.raises(SystemExit) as ended, interruptible():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError("in a callback") from error
    assert ended.value.code == 130
    with pytest.raises(RuntimeError), interruptible():
        raise RuntimeError("of another kind")


def test_a_closed_terminal_saves_the_run(tmp_path: Path) -> None:
    """The kernel sends SIGHUP, and nothing can be written to the terminal any more."""
    master, slave = pty.openpty()
    seen = tmp_path / "update"
    counter = f"+callbacks.count={{_target_: tests.config.test_given.Counter, path: {seen}}}"
    process = started(
        *TRAIN, budget(2000), counter, f"hydra.run.dir={tmp_path}/run", stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(slave)
    deadline = time.monotonic() + 240
    while not seen.exists():
        assert process.poll() is None and time.monotonic() < deadline
        if select.select([master], [], [], 0.05)[0]:
            os.read(master, 4096)
    os.close(master)
    assert process.wait(60) == 129
    (saved,) = (tmp_path / "run" / "checkpoints").glob("*.ckpt")
    assert saved.name == f"step={int(seen.read_text()):08d}.ckpt"


def test_under_nohup_a_closed_terminal_means_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop().listening():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
