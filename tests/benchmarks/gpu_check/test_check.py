"""The check on a CPU at small size: every part, what it sees where something is wrong, and its page."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time

import pytest
import torch

import benchmarks.gpu_check as gpu_check
from benchmarks import measure
from benchmarks.gpu_check import agreement, arguments, compiling, loop, part, precision, run, timeline, training
from benchmarks.gpu_check.finding import CPU, GPU, VERDICTS, Finding, relative_difference
from benchmarks.gpu_check.page import bar, make_page
from benchmarks.gpu_check.parts import PARTS
from benchmarks.sizes import config, make_learner

SLOW = ("resume", "ranks")  # tests/runs has the same, smaller
APART = ("counts", "compile")  # test_counting.py; below


@pytest.fixture(autouse=True)
def small_product(monkeypatch):
    monkeypatch.setitem(measure.PRODUCT, "cpu", 256)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PARTS if name not in APART],
)
def test_every_part_runs_on_a_cpu(name, tmp_path, unchecked_traces):
    findings = list(PARTS[name](dataclasses.replace(CPU, out=tmp_path)))
    assert findings and {finding.part for finding in findings} == {name}
    assert all(finding.verdict in ("ok", "skipped") for finding in findings), findings
    assert all(json.loads(finding.as_json())["result"] for finding in findings)


@pytest.mark.slow  # tests/model/test_compiling.py has the same, smaller
def test_compiling_in_a_process_without_checked_annotations(tmp_path):
    """A compiler traces with sizes that the annotations which pytest checks would refuse."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "only=compile", "device=cpu", f"out={tmp_path / 'page'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    verdicts = [line.split()[0] for line in done.stdout.splitlines() if "compiled with" in line]
    assert len(verdicts) == 2 and set(verdicts) <= {"ok", "faster"}


def test_other_weights_are_seen():
    overrides = (*agreement.FLOAT32, *CPU.overrides)
    ours, reference = (agreement.woken(make_learner(config("demo", *overrides), "cpu")) for _ in range(2))
    assert agreement.update(CPU, ours, reference).verdict == "ok"
    with torch.no_grad():
        for each in (ours.model, ours.target.model):
            for weight in each.parameters():
                weight.mul_(1.2)
        ours.target.refresh_()
    found = [agreement.update(CPU, ours, reference), *agreement.targets(CPU, ours, reference)]
    assert [finding.verdict for finding in found] == ["wrong"] * 3


def test_two_devices_draw_the_same_numbers():
    drawn = []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        with agreement.HostRandom():
            drawn.append([torch.randn(3, generator=generator), torch.rand(2), torch.randperm(5, generator=generator)])
    assert all(torch.equal(x, y) for x, y in zip(*drawn, strict=True))


def test_a_search_that_loses_value_in_float16_gets_an_override(monkeypatch):
    monkeypatch.setattr(precision, "LOST", -1.0)
    finding = next(precision.findings(CPU))
    assert finding.verdict == "look" and finding.override == "module.search_model.dtype=float32"


def test_compiling_is_judged_by_time_and_by_results():
    options = {"mode": "reduce-overhead", "dynamic": False}
    faster = compiling.judged("planner", options, [5.0, 10.0], 30.0, True, "same")
    assert faster.verdict == "faster"
    assert faster.override == "'planner.compile={mode: reduce-overhead, dynamic: false}'"
    assert compiling.judged("planner", options, [9.5, 10.0], 30.0, True, "same").override == ""
    other = compiling.judged("module", options, [5.0, 10.0], 30.0, False, "other")
    assert (other.verdict, other.override) == ("look", "module.compile=null")


def test_what_does_not_compile_is_a_finding():
    def fails() -> Finding:
        raise RuntimeError("no compiler\nat all")

    finding = compiling.tried("module", {"backend": "inductor"}, fails)
    assert finding.verdict == "look" and finding.result == "does not compile: no compiler"


def test_hours_are_those_of_the_whole_budget(monkeypatch):
    details = {"updates_per_s": 0.0, "env_steps_per_s": 900.0, "learner_waits_share": 0.5}
    row = measure.Row("train", "medium", 512, 50.0, 1.0, None, 1, "a GPU", {}, details=details)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    finding = loop.judged("medium", row, GPU)
    updates = 9 * (1_000_000 - 5_000) // 45
    assert finding.figures["predicted_hours"] == pytest.approx(updates / 20 / 3600, rel=1e-3)
    assert finding.verdict == "look"  # the learner waits


@pytest.mark.parametrize(
    ("difference", "again", "sizes", "verdict"),
    [(0, 0, CPU, "ok"), (1e-7, 1e-7, CPU, "wrong"), (1e-7, 1e-7, GPU, "ok"), (1e-3, 1e-7, GPU, "wrong")],
)
def test_resuming_may_differ_as_much_as_two_equal_runs(difference, again, sizes, verdict):
    assert training.judged(difference, again, sizes).verdict == verdict


def test_a_part_that_fails_keeps_what_it_has_found(tmp_path, monkeypatch):
    def failing(sizes):
        yield Finding("copies", "first", "ok", "found")
        raise RuntimeError("the device is gone")

    monkeypatch.setitem(PARTS, "copies", failing)
    assert part.main("copies", "cpu", str(tmp_path), str(tmp_path / "findings")) == 1
    first, last = [json.loads(line) for line in (tmp_path / "findings").read_text().splitlines()]
    assert first["what"] == "first"
    assert (last["verdict"], last["result"]) == ("failed", "RuntimeError: the device is gone")


def test_a_part_that_takes_too_long_is_ended(tmp_path):
    start = time.monotonic()
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert run.finished(sleeping, tmp_path / "log", 0.2) is None
    assert time.monotonic() - start < 10


def test_without_time_a_part_is_skipped_and_says_what_to_type(tmp_path):
    given = dataclasses.replace(arguments.parse(["minutes=1", "device=cpu"]), out=tmp_path)
    (finding,) = run.of_part("loop", given, 5.0)
    assert finding.verdict == "skipped" and "minutes=2, or only=loop" in finding.result


def test_the_command_writes_the_page_and_the_same_as_json(tmp_path, capsys):
    assert gpu_check.main(["only=copies", "device=cpu", "minutes=5", f"out={tmp_path / 'page'}"]) == 0
    found = json.loads((tmp_path / "page" / "findings.json").read_text())
    assert [each["part"] for each in found["findings"]] == ["copies", "copies"]
    assert found["packages"]["torch"] == torch.__version__ and found["command"].endswith("page'}") is False
    page = (tmp_path / "page" / "index.html").read_text()
    assert "three copies in a row arrive as they were sent" in page and "<script" not in page
    assert "copies in a row" in capsys.readouterr().out


def test_a_page_names_each_override_once_and_escapes():
    slow = Finding("loop", "<loop>", "look", "slow", "env_threads=8", {"phases_ms": {"targets": 1.0, "unroll": 3.0}})
    about = {"device": "GPU", "command": "c", "git": None, "started": "now", "python": "3", "cuda": None}
    page = make_page({**about, "devices": 1, "cpu_threads": 2, "packages": {}}, [slow, slow])
    assert "ezm train … env_threads=8</code>" in page and "&lt;loop&gt;" in page and "<loop>" not in page
    assert "2 look" in page and page.count("<svg") == 2


def test_the_bar_is_as_long_as_its_phases():
    widths = [
        float(part.split("'")[0])
        for part in bar({"a": 1.0, "b": 3.0}).split("<rect")[1:]
        for part in [part.split("width='")[1]]
    ]
    assert widths == [240.0, 720.0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["minuts=3"], "nearest: minutes="),
        (["minutes=0"], "minutes=0 must be a number above 0"),
        (["minutes=soon"], "minutes=soon must be"),
        (["device=gpu"], "device=gpu is not known"),
        (["only=loops"], "only=loops is no part; nearest: loop"),
    ],
)
def test_a_mistake_is_one_line(argv, message, capsys):
    assert gpu_check.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and message in captured.err


def test_help_names_every_part():
    assert all(f"\n  {name} " in (gpu_check.__doc__ or "") for name in PARTS)


def test_verdicts_are_known():
    with pytest.raises(ValueError, match="verdict=fine is not known"):
        Finding("loop", "", "fine", "")
    assert relative_difference(torch.ones(3), torch.ones(3)) == 0 and "wrong" in VERDICTS


def test_the_gpu_is_busy_as_long_as_its_kernels():
    class Event:
        def __init__(self, name, device, start, end):
            self.name, self.device_type, self.cpu_time_total = name, device, end - start
            self.time_range = type("Range", (), {"start": start, "end": end, "elapsed_us": lambda _: end - start})()

    kinds = torch.autograd.DeviceType
    phases = [Event(name, kinds.CPU, 0, 2_000) for name in timeline.PHASES]
    profile = type("Profile", (), {"events": lambda _: [*phases, Event("gemm", kinds.CUDA, 0, 4_000)]})()
    _, busy = timeline.read(profile, GPU)
    assert busy.verdict == "look" and busy.figures["busy"] == pytest.approx(0.4)
    assert busy.figures["longest_ms"] == {"gemm": 4.0} and "reduce-overhead" in busy.override
