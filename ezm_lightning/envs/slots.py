"""Environments of one task that are stepped together; a source of environments makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ezm_lightning.envs.checks import Unfit
from ezm_lightning.envs.spec import TaskSpec

State = dict[str, Any]  # tensors, strings, numbers, lists and dicts of them: torch.load(weights_only=True) reads it


@dataclass
class SlotsStep:
    """One vector step of m environments of one task."""

    obs: NDArray[np.floating]  # [m, obs_dim]
    reward: NDArray[np.float64]  # [m], summed over action repeats
    termination: NDArray[np.bool_]  # [m], the task's own signal, also if it does not end the episode
    truncated: NDArray[np.bool_]  # [m], the time limit (or the environment's own truncation)
    steps: int  # simulator steps taken by the m environments together
    faults: dict[int, Exception] = field(default_factory=dict)  # failed rows; their other entries are invalid
    success: NDArray[np.bool_] | None = None  # [m], in any of the steps; None if the task does not report it
    reward_to_end: NDArray[np.float64] | None = None  # [m], of the steps up to a termination; None: the same as reward


class Slots:
    """m environments of one task, stepped together.

    A step is ``begin``, then ``advance`` of every row that it returned, in any order and in any threads, then
    ``settle``. The rows that ``settle`` returns are advanced again; if there are none, ``outcome`` is complete.
    """

    outcome: SlotsStep  # of the last step

    def seed(self, seeds: Sequence[int]) -> None:
        """Seeds all randomness, each row with its own seed."""
        raise NotImplementedError

    def reset(self, rows: Sequence[int]) -> NDArray[np.floating]:
        """First observations [len(rows), obs_dim] of new episodes in these rows. Threads may reset different rows."""
        raise NotImplementedError

    def begin(self, action: NDArray[np.float64]) -> list[int]:
        """Starts a step with actions [m, action_dim] in [-1, 1]; returns the rows to advance, which are all."""
        raise NotImplementedError

    def advance(self, row: int) -> None:
        """Steps one row's physics. An error of its simulator goes into ``outcome.faults``."""
        raise NotImplementedError

    def settle(self) -> list[int]:
        """Collects the results of the advanced rows; returns the rows to advance again, to repeat actions."""
        raise NotImplementedError

    def step(self, action: NDArray[np.float64]) -> SlotsStep:
        """Advances all rows, one after the other."""
        rows = self.begin(action)
        while rows:
            for row in rows:
                self.advance(row)
            rows = self.settle()
        return self.outcome

    def get_state(self) -> list[State]:
        """One state per row."""
        raise NotImplementedError

    def set_state(self, states: Sequence[State]) -> list[int]:
        """Continues from saved states; returns the rows that cannot and have to be reset."""
        raise NotImplementedError

    @property
    def draws(self) -> bool:
        """Whether :meth:`render` has pictures, where OpenGL works."""
        return True

    def render(self, row: int, height: int, width: int) -> NDArray[np.uint8]:
        """A picture [height, width, 3] of one row."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends what the simulators hold; they are not used any more."""


class PhysicsSlots(Slots):
    """Slots whose physics is stepped row by row; their rewards are then computed for all rows at once.

    Time limit and action repeats are counted here; write ``controls``, ``act``, ``judge`` and ``observe``.
    """

    def __init__(self, spec: TaskSpec, num_slots: int, *, action_repeat: int, ignore_termination: bool) -> None:
        self.spec, self.num_slots = spec, num_slots
        self.action_repeat, self.ignore_termination = action_repeat, ignore_termination
        self.elapsed = np.zeros(num_slots, np.int64)  # simulator steps since the episode began

    def controls(self, action: NDArray[np.float64]) -> NDArray[np.floating]:
        """Actions [m, action_dim] in [-1, 1] as controls of the actuators [m, nu]."""
        raise NotImplementedError

    def act(self, row: int, control: NDArray[np.floating]) -> None:
        """One simulator step of a row; its errors are raised."""
        raise NotImplementedError

    def judge(self, rows: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Reward [m] and termination [m] of the last step; they are used where ``rows`` [m] is true."""
        raise NotImplementedError

    def observe(self) -> NDArray[np.floating]:
        """[m, obs_dim]"""
        raise NotImplementedError

    def begin(self, action: NDArray[np.float64]) -> list[int]:
        m = self.num_slots
        if action.shape != (m, self.spec.action_dim):
            raise ValueError(f"{self.spec.name} takes actions [{m}, {self.spec.action_dim}], got {list(action.shape)}")
        self.control = self.controls(action)
        self.running, self.repeats_left = np.ones(m, bool), self.action_repeat
        obs = np.empty((m, self.spec.obs_dim))  # filled when all repeats are settled
        self.outcome = SlotsStep(obs, np.zeros(m), np.zeros(m, bool), np.zeros(m, bool), steps=0)
        if self.ignore_termination:
            self.outcome.reward_to_end = np.zeros(m)
        return list(range(m))

    def advance(self, row: int) -> None:
        try:
            self.act(row, self.control[row])
        except Exception as error:
            self.outcome.faults[row] = error

    def settle(self) -> list[int]:
        out, running = self.outcome, self.running
        out.steps += int(np.count_nonzero(running))
        running[list(out.faults)] = False
        paid, terminated = self.judge(running)
        running[list(out.faults)] = False
        np.add(out.reward, paid, out=out.reward, where=running)
        if out.reward_to_end is not None:
            np.add(out.reward_to_end, paid, out=out.reward_to_end, where=running & ~out.termination)
        out.termination |= running & terminated
        self.elapsed += running
        out.truncated = self.elapsed >= self.spec.max_episode_steps
        self.repeats_left -= 1
        if self.repeats_left:
            running &= ~out.truncated if self.ignore_termination else ~(out.truncated | out.termination)
            further: list[int] = np.flatnonzero(running).tolist()
            if further:
                return further
        out.obs = self.observe()
        for row in [row for row in out.faults if out.termination[row]]:  # the episode had terminated before
            del out.faults[row]
            out.truncated[row] = True
        return []


def to_box(low: NDArray[Any], high: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(centre, half width) [A] such that centre + half width * a maps [-1, 1] onto the box.

    A dimension without bounds gets the action unchanged; a dimension with one bound uses the interval of length 2 at
    that bound. The box [-1, 1] gives (0, 1), so its actions are unchanged bit for bit. Raises Unfit for a bound that is
    not a number, for a lower bound above the upper, and for an interval without a finite number.
    """
    low64, high64 = np.asarray(low, np.float64), np.asarray(high, np.float64)
    for i in np.flatnonzero(~(low64 <= high64) | (low64 == np.inf) | (high64 == -np.inf)).tolist():
        raise Unfit(f"dimension {i} of its action space has the bounds {low64[i]} and {high64[i]}")
    unbounded = 1e9  # dm_control writes 1e10 for an actuator without control range
    no_low, no_high = low64 < -unbounded, high64 > unbounded
    low64, high64 = (
        np.where(no_low, np.where(no_high, -1.0, high64 - 2.0), low64),
        np.where(no_high, np.where(no_low, 1.0, low64 + 2.0), high64),
    )
    return (low64 + high64) / 2, (high64 - low64) / 2
