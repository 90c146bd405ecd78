"""The programs of docs/examples/ run as their first lines say."""

import subprocess
import sys
from pathlib import Path

import pytest

from ezm_lightning.commands import export
from tests.test_player import write_checkpoint

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
WITHOUT_TORCH = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"


def test_an_exported_agent_runs_in_a_closed_loop_without_torch(tmp_path):
    pytest.importorskip("onnxscript", reason="pip install 'ezm-lightning[onnx]'")
    repeat = "tasks.action_repeat=3"  # the last decision of 1,000 steps lasts one step
    file = write_checkpoint(tmp_path / "a.ckpt", "debug", ["dmc/cartpole-balance"], repeat)
    assert (
        export.main([f"ckpt_path={file}", "what=policy", "eval_episodes=0", "roots=32", f"out={tmp_path / 'robot'}"])
        == 0
    )
    loop = [str(EXAMPLES / "closed_loop.py"), str(tmp_path / "robot"), "task=dmc/cartpole-balance", "hz=1000"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *loop, "episodes=1"], capture_output=True, text=True, check=True
    )
    plan, returns = done.stdout.splitlines()
    assert "of 334 deadlines of 1 ms missed" in plan and plan.startswith("plan ")
    assert 0 < float(returns.rpartition(" ")[2]) <= 1000
