"""What an environment does to its process: exceptions, PyTorch's defaults, and what it holds until it is closed."""

from __future__ import annotations

import asyncio
import threading
from typing import ClassVar

import pytest
import torch

from ezm_lightning.envs import MultiTaskEnv, register_source, task_spec
from ezm_lightning.envs.checks import EndedByTask
from ezm_lightning.envs.task_env import TaskEnv
from tests.envs import odd
from tests.envs.test_odd import clean, rollout, task  # noqa: F401  (a fixture)

pytest.importorskip("gymnasium")


@pytest.fixture(autouse=True)
def torch_as_before():
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.set_default_device(None)


def doing(what, where):
    """An environment that calls ``what`` in its method ``where``, from the second call on if it steps."""

    class Env(odd.Odd):
        def __init__(self, render_mode=None):
            super().__init__()
            if where == "built":
                what()

        def reset(self, *, seed=None, options=None):
            if where == "reset":
                what()
            return super().reset(seed=seed)

        def step(self, action):
            if where == "step" and self.t:
                what()
            return super().step(action)

    return Env


CHANGES = {
    "dtype to torch.float64": lambda: torch.set_default_dtype(torch.float64),
    "gradients to False": lambda: torch.set_grad_enabled(False),
    "device to meta": lambda: torch.set_default_device("meta"),
}


QUICK = list(CHANGES)[:2]  # the default device is slow to read, and looked at only where an environment is built


@pytest.mark.parametrize(
    ("change", "where"), [*((c, "built") for c in CHANGES), *((c, at) for c in QUICK for at in ("reset", "step"))]
)
def test_torchs_defaults_stay(change, where):
    with pytest.warns(UserWarning, match=f"gym/Odd-v0 changed torch's default of {change}; it is .* again"):
        env = MultiTaskEnv([task(doing(CHANGES[change], where))], envs_per_task=2)
        rollout(env, 3)
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
    assert torch.zeros(1).device.type == "cpu"


class Own(BaseException):
    pass


@pytest.mark.parametrize("where", ["built", "reset", "step"])
@pytest.mark.parametrize("error", [asyncio.CancelledError("loop closed"), GeneratorExit(), Own("end")])
def test_an_exception_that_would_end_the_process_is_named(where, error):
    def stop():
        raise error

    with pytest.raises(EndedByTask, match=f"gym/Odd-v0 ended the process: {type(error).__name__}: .*test_odd_process"):
        rollout(MultiTaskEnv([task(doing(stop, where))]), 3)


@pytest.mark.parametrize("where", ["built", "reset", "step"])
def test_ctrl_c_is_left_alone(where):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollout(MultiTaskEnv([task(doing(stop, where))]), 3)


class Holds(odd.Odd):
    """Has a thread until it is closed, which would keep the process alive."""

    alive: ClassVar[list] = []

    def __init__(self, render_mode=None):
        super().__init__()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.stop.wait)
        self.thread.start()
        Holds.alive.append(self)

    def close(self):
        self.stop.set()
        self.thread.join()
        Holds.alive.remove(self)


def test_environments_are_closed():
    name = task(Holds)
    assert task_spec(name).obs_dim == 3 and Holds.alive == []
    env = MultiTaskEnv([name], envs_per_task=3)
    assert len(Holds.alive) == 3
    env.close()
    env.close(raise_if_closed=False)
    assert Holds.alive == []
    single = TaskEnv(name)
    single.close()
    assert Holds.alive == []


def test_simulators_of_ones_own_are_closed_too():
    closed = []
    register_source("mine", {"task": type("Mine", (odd.Good,), {"close": lambda self: closed.append(self)})})
    MultiTaskEnv(["mine/task"], envs_per_task=2).close()
    assert len(closed) == 2


@pytest.mark.parametrize("error", [SystemExit("closing"), RuntimeError("twice"), OSError()])
def test_an_error_of_close_is_a_warning_and_the_others_are_closed(error):
    closed = []

    def close(self):
        closed.append(self)
        raise error

    register_source("mine", {"task": type("Mine", (odd.Good,), {"close": close})})
    env = MultiTaskEnv(["mine/task"], envs_per_task=2)
    with pytest.warns(UserWarning, match=f"mine/task cannot be closed: {type(error).__name__}: "):
        env.close()
    assert len(closed) == 2
