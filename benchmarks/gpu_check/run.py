"""Runs the parts one after the other within the given minutes, and writes the page after each."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import ezm_lightning
from benchmarks.gpu_check.arguments import Arguments
from benchmarks.gpu_check.finding import Finding
from benchmarks.gpu_check.page import make_page
from benchmarks.measure import device_name
from ezm_lightning.callbacks.record import git_state
from ezm_lightning.checkpoints.text_file import replace_text

LEAST = 10.0  # seconds; with less time a part is not started


def run(arguments: Arguments) -> int:
    """Prints each finding and writes ``index.html`` and ``findings.json``; 1 if something is wrong or has failed."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    findings: list[Finding] = []
    end, about = time.monotonic() + 60 * arguments.minutes, surroundings(arguments)
    for name in arguments.parts:
        for finding in of_part(name, arguments, end - time.monotonic()):
            print(f"{finding.verdict:<8}{finding.what}: {finding.result}", flush=True)
            if finding.override:
                print(f"{'':<8}ezm train … {finding.override}", flush=True)
            findings.append(finding)
        write(arguments.out, about, findings)
    print(f"page    {arguments.out / 'index.html'}")
    return int(any(finding.verdict in ("wrong", "failed") for finding in findings))


def of_part(name: str, arguments: Arguments, seconds: float) -> Iterator[Finding]:
    """The findings of a part within ``seconds``, read from the file of its process."""
    what = f"The part {name}"
    if seconds < LEAST:
        result = f"no time was left: minutes={2 * arguments.minutes:g}, or only={name}"
        yield Finding(name, what, "skipped", result)
        return
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "findings", Path(folder) / "log"
        command = [sys.executable, "-m", "benchmarks.gpu_check.part", name, arguments.device]
        status = finished([*command, str(arguments.out.resolve()), str(file)], log, seconds)
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        findings = [Finding(**json.loads(line)) for line in lines]
        yield from findings
        if status is None:
            yield Finding(name, what, "skipped", f"stopped after {seconds:.0f} s: minutes={2 * arguments.minutes:g}")
        elif status and not any(finding.verdict == "failed" for finding in findings):
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            yield Finding(name, what, "failed", f"ended with status {status}: {''.join(last)}")


def finished(command: Sequence[str], log: Path, seconds: float) -> int | None:
    """The status of a command; None where it took longer, and it and its children were ended."""
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def surroundings(arguments: Arguments) -> dict[str, Any]:
    """What the page says of the machine and the code, beside the command."""
    return {
        "command": arguments.command,
        "device": device_name(arguments.device),
        "devices": torch.cuda.device_count(),
        "cpu_threads": os.cpu_count(),
        "git": git_state(Path(ezm_lightning.__file__).parent),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "packages": {name: version(name) for name in ("torch", "tensordict", "torchrl", "lightning", "mujoco")},
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def write(out: Path, about: dict[str, Any], findings: Sequence[Finding]) -> None:
    """The page and the same as JSON; each replaces the one before it at once."""
    content = {**about, "findings": [dataclasses.asdict(finding) for finding in findings]}
    replace_text(out / "findings.json", json.dumps(content, indent=2) + "\n")
    replace_text(out / "index.html", make_page(about, findings))
