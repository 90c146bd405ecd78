"""Checks of the results of environments from any source. A message has the task, the result and what was expected.

Errors while it is built (``building``), the results of its methods (``gym_step``, ``gym_reset``), and the shape, type
and size of each value (``observation``, ``number``, ``flag``, ``good_rows``).
"""

from __future__ import annotations

import contextlib
import sysconfig
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ezm_lightning.envs.process import torch_unchanged
from ezm_lightning.errors import PACKAGE, first_line, kind_and_line, raised_here

LARGEST = 1e18  # of an observation or a reward: the network squares it, and float32 reaches 3e38
NUMBERS = "biuf"  # NumPy's letters for booleans, integers and floating-point numbers
GYM_STEP = "Gymnasium's are obs, reward, terminated, truncated, info"
OURS = (ValueError, ImportError, FloatingPointError, MemoryError)  # what this package raises for a mistake
STANDARD = Path(sysconfig.get_path("stdlib")).resolve()
INSTALLED = {"site-packages", "dist-packages"}


class Unfit(ValueError):
    """A result of an environment has the wrong form. After a good result of the task it is a fault like any other.
    Before the first good result it ends the run, because no other episode will be better."""


class EndedByTask(ValueError):
    """An environment has called ``sys.exit``, or has raised another exception that is not meant to be caught."""

    status = 1  # exit status of the command

    def __init__(self, name: str, stop: BaseException) -> None:
        super().__init__(f"{name} ended the process: {_last_words(stop)}")


def _last_words(stop: BaseException) -> str:
    if not isinstance(stop, SystemExit):
        return described(stop)
    return f"sys.exit({stop.code})" if stop.code is None or isinstance(stop.code, int) else str(stop.code)


@contextlib.contextmanager
def not_ending(name: str) -> Iterator[None]:
    """Within this context an exception of an environment that would end the process, such as SystemExit or
    ``asyncio.CancelledError``, becomes an :class:`EndedByTask`. Errors and KeyboardInterrupt pass."""
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as stop:
        raise EndedByTask(name, stop) from stop


@contextlib.contextmanager
def building(name: str, verb: str = "built") -> Iterator[None]:
    """Within this context an error in an environment's code becomes one line that starts with ``name``."""
    with not_ending(name):
        try:
            with torch_unchanged([name], device=True):
                yield
        except Unfit as error:
            raise ValueError(named(name, error)) from error
        except Exception as error:
            if isinstance(error, OURS) and raised_here(error):
                raise
            kind = ImportError if isinstance(error, ImportError) else ValueError
            raise kind(f"{name} cannot be {verb}: {described(error)}") from error


@contextlib.contextmanager
def closing(name: str) -> Iterator[None]:
    """Within this context, in which an environment is closed, its error is a warning: it is not needed any more."""
    try:
        yield
    except (Exception, SystemExit) as error:
        warnings.warn(f"{name} cannot be closed: {described(error)}", stacklevel=3)


def named(name: str, error: Exception) -> str:
    """The message of an error, which starts with the task's name once."""
    return str(error) if str(error).startswith(name) else f"{name}: {error}"


def described(error: BaseException) -> str:
    """'NameError: name 'Reach' is not defined (my_tasks.py, line 3)': with the innermost line of the user's code."""
    return f"{kind_and_line(error)}{_place(error)}"


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError):  # its message has the place already
        return ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename).resolve()
        if file.is_file() and not (INSTALLED & {*file.parts}) and not ({PACKAGE, STANDARD} & {*file.parents}):
            return f" ({file.name}, line {frame.lineno})"
    return ""


def whole(name: str, what: str, value: Any) -> int:
    """``value`` as an int. Raises ValueError unless it is a whole number of at least 1."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: {what} must be a whole number of at least 1, got {shown(value)}")
    return int(value)


def rising(name: str, what: str, value: Any) -> tuple[float, float]:
    """``value`` as two floats. Raises ValueError unless they are finite and the first is below the second."""
    try:
        low, high = map(float, value)
    except (TypeError, ValueError):
        low = high = np.nan
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(
            f"{name}: {what} must be two finite numbers, the first below the second, got {shown(value)}; or None"
        )
    return low, high


def observation(obs: Any, obs_dim: int, name: str) -> NDArray[Any]:
    """``obs`` as an array [obs_dim] of numbers. Raises Unfit for anything else."""
    if type(obs) is np.ndarray and obs.shape == (obs_dim,) and obs.dtype.kind == "f":
        return obs
    try:
        array = np.asarray(obs)
    except Exception as error:
        raise Unfit(f"{name} observes {kind(obs)}, no array of {obs_dim} numbers: {first_line(error)}") from error
    if np.ma.is_masked(obs):
        raise Unfit(f"{name} observes a masked array, {obs_dim} numbers are expected")
    if array.shape != (obs_dim,):
        raise Unfit(f"{name} observes an array of shape {array.shape}, its obs_dim is {obs_dim}")
    if array.dtype.kind not in NUMBERS:
        raise Unfit(f"{name} observes an array of type {array.dtype}, numbers are expected")
    return array


def number(value: Any, what: str) -> float:
    """``value`` as a float; an array of one number is accepted. Raises Unfit for anything else."""
    if type(value) is float:
        return value
    array = _one(value, what, "one number")
    if array.dtype.kind not in NUMBERS:
        raise Unfit(f"{what} is {shown(value)} of type {type(value).__name__}, a number is expected")
    return float(array.item())


def flag(value: Any, what: str) -> bool:
    """``value`` as a bool; 0, 1 and an array of one value are accepted. Raises Unfit for anything else."""
    if type(value) is bool or type(value) is np.bool_:
        return bool(value)
    array = _one(value, what, "True or False")
    if array.dtype.kind not in NUMBERS or array.item() not in (0, 1):
        raise Unfit(f"{what} is {shown(value)} of type {type(value).__name__}, True or False is expected")
    return bool(array.item())


def _one(value: Any, what: str, expected: str) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except Exception as error:
        raise Unfit(f"{what} is {kind(value)}, {expected} is expected") from error
    if np.ma.is_masked(value):
        raise Unfit(f"{what} is masked, {expected} is expected")
    if array.size != 1:
        raise Unfit(f"{what} has the shape {array.shape}, {expected} is expected")
    return array


def gym_step(result: Any) -> tuple[Any, Any, Any, Any, Any]:
    """The five values of a Gymnasium step. Raises Unfit for anything else."""
    if not isinstance(result, tuple | list):
        raise Unfit(f"step returned {kind(result)}, {GYM_STEP}")
    if len(result) != 5:
        old = " (old Gym API)" if len(result) == 4 else ""
        raise Unfit(f"step returned {len(result)} values, {GYM_STEP}{old}")
    obs, reward, terminated, truncated, info = result
    return obs, reward, terminated, truncated, info


def gym_reset(result: Any) -> Any:
    """The observation of a Gymnasium reset. Raises Unfit unless there is an info too."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        old = "" if isinstance(result, tuple | list) else " (old Gym API)"
        raise Unfit(f"reset returned {kind(result)}{old}, Gymnasium's are obs, info")
    if not isinstance(result[1], Mapping):
        raise Unfit(f"the info of a reset is {kind(result[1])}, a dict is expected")
    return result[0]


def kind(value: Any) -> str:
    """'a dict', 'an array of shape (3,)', '3 values'."""
    if type(value) in (tuple, list):
        return f"{len(value)} value{'s' * (len(value) != 1)}"
    shape = getattr(value, "shape", None)
    return f"an array of shape {tuple(shape)}" if isinstance(shape, tuple) else f"a {type(value).__name__}"


def shown(value: Any) -> str:
    """``repr(value)``, at most 60 letters of it."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a whole number of thousands of digits, or a class of the user
        return kind(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def outcome(name: str, result: Any, num_slots: int, obs_dim: int) -> None:
    """Raises ValueError unless the arrays of a step of ``Slots`` have the right shapes."""
    if result.obs.shape != (num_slots, obs_dim):
        raise ValueError(f"{name} observes arrays [{_by(result.obs)}], [{num_slots} × {obs_dim}] are expected")
    for what in ("reward", "termination", "truncated"):
        if getattr(result, what).shape != (num_slots,):
            raise ValueError(f"{name}: {what} is [{_by(getattr(result, what))}], [{num_slots}] is expected")


def _by(array: NDArray[Any]) -> str:
    return " × ".join(map(str, array.shape))


def good_rows(obs: NDArray[np.float32], reward: NDArray[np.float32], faults: dict[int, Exception]) -> NDArray[np.bool_]:
    """Whether each row [m] is without a fault. Rows with an unusable number are added to ``faults``."""
    good = (np.abs(obs) <= LARGEST).all(-1) & (np.abs(reward) <= LARGEST)  # false for NaN
    if faults or not good.all():
        for row in np.flatnonzero(~good).tolist():
            faults.setdefault(row, unusable(obs[row]) or unusable(reward[row], "reward") or FloatingPointError())
        good[list(faults)] = False
    return good


def unusable(values: Any, what: str = "observation") -> FloatingPointError | None:
    """The reason why these numbers cannot be used; None if they can."""
    flat = np.ravel(values)
    bad = flat[~(np.abs(flat) <= LARGEST)]
    if not bad.size:
        return None
    if np.isfinite(bad[0]):
        return FloatingPointError(f"the {what} is too large for a float32 network: {bad[0]:g}, at most {LARGEST:g}")
    return FloatingPointError(f"the {what} is not finite: {bad[0]}")
