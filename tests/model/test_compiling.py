"""Compiled forms: the same plans, losses and gradients (``tests.runs.compiled``); wrong options are refused by name."""

import subprocess
import sys

import pytest

from ezm_lightning.model.compiling import compiled


@pytest.mark.parametrize("what", ["plan", "losses"])
def test_the_same_numbers(what):
    done = subprocess.run(
        [sys.executable, "-m", "tests.runs.compiled", what], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "fast"}, "Unrecognized mode=fast, should be one of: default"),
        ({"backend": "tensorrt9"}, "Invalid backend: 'tensorrt9'"),
        ({"speed": 3}, "unexpected keyword argument 'speed'"),
        ({"dynamic": 7}, "Expected enable to be a bool"),
    ],
)
def test_options_that_torch_compile_does_not_have(options, said):
    with pytest.raises(ValueError, match=r"compile=\{.*") as raised:
        compiled(abs, options)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_none_leaves_a_function_as_it_is():
    assert compiled(abs, None) is abs
