"""What is seen while a run trains: it fits any width, and nothing that happens to the output harms the run."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ezm_lightning.callbacks.evaluate import line
from ezm_lightning.callbacks.progress import BAR, SEPARATOR, duration, layout
from ezm_lightning.commands import train
from tests.runs.short import SIZE, budget

ROOT = Path(__file__).parents[2]
PARTS = ["12,000/100,000 steps", "0:12:30 left", "mean return 431", "33 updates/s", "132 steps/s"]
RUN = [*SIZE, "evaluate.interval=100", budget(40)]


@given(st.lists(st.text("abc ", min_size=1, max_size=30), max_size=6), st.integers(0, 300))
def test_any_parts_fit_into_any_width(parts: list[str], width: int) -> None:
    text, bar = layout(parts, width)
    assert len(text) + (bar + 1 if bar else 0) <= max(width, 0)
    assert bar == 0 or BAR[0] <= bar <= BAR[1]
    if bar:
        assert text == SEPARATOR.join(parts[: text.count(SEPARATOR) + 1])


def test_the_most_important_parts_stay() -> None:
    assert layout(PARTS, 200) == (SEPARATOR.join(PARTS), 40)
    assert layout(PARTS, 60)[0] == SEPARATOR.join(PARTS[:3])
    assert layout(PARTS, 27) == (PARTS[0], 6)
    assert layout(PARTS, 12) == ("12,000/100,0", 0)


def test_an_evaluation_is_one_line() -> None:
    rows = [{"env_steps": 12_000, "task": f"dmc/{name}", "return": value, "mean": 20.0} for name, value in
            (("a", 30.0), ("b", 25.0), ("c", 5.0))]  # fmt: skip
    assert line(rows, 3_725.0) == (
        "evaluation at 12,000 steps: mean return 20.0 · best dmc/a 30.0 · worst dmc/c 5.0 · after 1:02:05"
    )
    assert line(rows[:1], 5.0) == "evaluation at 12,000 steps: mean return 20.0 · after 0:00:05"
    assert duration(float("nan")) == "–"


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*RUN, "callbacks.progress.line_interval=0.001", f"hydra.run.dir={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\r" not in said
    lines = [text for text in said.splitlines() if re.match(r"[\d,]+/420 steps · ", text)]
    assert len(lines) == 40 and "updates/s" in lines[-1] and "exploring" in lines[-1]
    assert len(re.findall(r"^evaluation at [\d,]+ steps: mean return", said, re.MULTILINE)) == 5
    assert [text for text in said.splitlines() if text.startswith("next ")]
    log = (tmp_path / "train.log").read_text()
    assert all(text in log for text in lines) and "hydra.run.dir" not in log.splitlines()[0]


def command(folder: Path, **environment: str) -> dict:
    arguments = [sys.executable, "-m", "ezm_lightning.commands.cli", "train", *RUN, f"hydra.run.dir={folder}"]
    return {"args": arguments, "cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": "1"} | environment}


def in_terminal(folder: Path, **environment: str) -> tuple[int, str]:
    """The status and the output of a run in a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(**command(folder, COLUMNS="80", **environment), stdout=theirs, stderr=theirs)
    os.close(theirs)
    output = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        output += part
    os.close(ours)
    return process.wait(), output.decode()


def test_a_terminal_sees_a_bar_and_the_log_keeps_the_lines(tmp_path: Path) -> None:
    status, output = in_terminal(tmp_path, TERM="xterm-256color", NO_COLOR="1")
    assert status == 0 and "━" in output and "/420 steps" in output
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|38;5)[0-9;]*m", output)  # colours
    assert output.endswith("\n") and "\x1b[?25h" in output  # the cursor is back
    log = (tmp_path / "train.log").read_text()
    assert "\x1b" not in log and "/420 steps" not in log
    assert log.count("evaluation at") == output.count("evaluation at") == 5
    assert "mean return" in log and "checkpoint  " in log


def test_a_terminal_that_cannot_redraw_gets_plain_lines(tmp_path: Path) -> None:
    status, output = in_terminal(tmp_path, TERM="dumb", PYTHONIOENCODING="ascii")
    assert status == 0 and "\x1b" not in output and "evaluation at 420 steps" in output


def test_a_reader_that_leaves_ends_nothing(tmp_path: Path) -> None:
    """`ezm train | head -1`: the run ends as it would have, without a traceback, and the log has all of it."""
    process = subprocess.Popen(**command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 0, errors
    assert "Error" not in errors and "Traceback" not in errors
    assert (tmp_path / "checkpoints" / "step=00000040.ckpt").is_dir()
    log = (tmp_path / "train.log").read_text()
    assert "evaluation at 420 steps" in log and "checkpoint  " in log
