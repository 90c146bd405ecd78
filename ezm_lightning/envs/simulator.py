"""What a source of environments is made of: one ``Simulator`` a slot, or ``Slots`` that step several together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.errors import nearest

State = dict[str, Any]  # tensors, strings, numbers, lists and dicts of them: torch.load(weights_only=True) reads it


class Transition(NamedTuple):
    """What one or more simulator steps with the same action led to."""

    obs: ArrayLike  # [obs_dim], after the last step
    reward: float  # summed over the steps
    terminated: bool  # the task's own end, in any of the steps
    truncated: bool = False  # an end that is not the task's; the time limit is counted outside
    steps: int = 1  # simulator steps really taken
    success: bool | None = None  # the task's goal held after any of the steps; None where the task has no such signal


class Simulator:
    """One environment of one task: set the three numbers, write ``seed``, ``reset`` and ``step``.

    Actions arrive as float64 arrays [action_dim] in [-1, 1]. A simulator that can be saved exactly also writes
    ``get_state`` and ``set_state``; without them its episode starts anew when a run is resumed. A task that is judged
    by success sets ``reports_success`` and returns ``Transition(..., success=...)``. One that knows the bounds of a
    step's reward sets ``reward_range``; without it the scale of its rewards is found in the warm-up.
    """

    obs_dim: int
    action_dim: int
    max_episode_steps: int = 1000
    reports_success: bool = False
    reward_range: tuple[float, float] | None = None  # bounds of one step's reward, where known

    def seed(self, seed: int) -> None:
        """Seed everything random; takes effect at the next reset."""
        raise NotImplementedError

    def reset(self) -> ArrayLike:
        """The first observation [obs_dim] of a new episode."""
        raise NotImplementedError

    def step(self, action: NDArray[np.float64]) -> Transition:
        """One simulator step."""
        raise NotImplementedError

    def advance(self, action: NDArray[np.float64], steps: int, stop_at_termination: bool) -> Transition:
        """Up to ``steps`` simulator steps with one action; rewards are summed, an episode's end stops early, and the
        decision is a success if any of its steps is."""
        reward, terminated, success = 0.0, False, None
        for taken in range(1, steps + 1):  # noqa: B007 - told below
            result = self.step(action)
            reward += float(result.reward)
            terminated |= bool(result.terminated)
            if result.success is not None:
                success = bool(success or result.success)
            if result.truncated or (terminated and stop_at_termination):
                break
        return Transition(result.obs, reward, terminated, bool(result.truncated), taken, success)

    def get_state(self) -> State | None:
        """Everything needed to continue bit for bit, or None where that is not supported."""
        return None

    def set_state(self, state: State) -> None:
        """Continue from ``state``, what ``get_state`` returned."""
        raise NotImplementedError

    def render(self, height: int, width: int) -> NDArray[np.uint8]:
        """A picture [height, width, 3]."""
        raise NotImplementedError(f"{type(self).__name__} draws no pictures: it has no render method")


@dataclass
class SlotsStep:
    """One vector step of m environments of one task."""

    obs: NDArray[np.floating]  # [m, obs_dim]
    reward: NDArray[np.float64]  # [m], summed over action repeats
    termination: NDArray[np.bool_]  # [m], the task's own signal, also where it does not end the episode
    truncated: NDArray[np.bool_]  # [m], the time limit (or the environment's own truncation)
    steps: int  # simulator steps taken by the m environments together
    faults: dict[int, Exception] = field(default_factory=dict)  # rows whose simulator failed; the rest of them is void
    success: NDArray[np.bool_] | None = None  # [m], in any of the steps; None where the task reports no success


class Slots:
    """m environments of one task, stepped together.

    A step is ``begin``, ``advance`` of every row it returned, in any order and by any threads, then ``settle``, and so
    on with the rows that ``settle`` returned, until there are none: then ``outcome`` is complete.
    """

    outcome: SlotsStep  # of the last step

    def seed(self, seeds: Sequence[int]) -> None:
        """Seed everything random, each row with its own."""
        raise NotImplementedError

    def reset(self, rows: Sequence[int]) -> NDArray[np.floating]:
        """First observations [len(rows), obs_dim] of new episodes in these rows. Threads may reset different rows."""
        raise NotImplementedError

    def begin(self, action: NDArray[np.float64]) -> list[int]:
        """Take the actions [m, action_dim] in [-1, 1]; the rows to advance, all of them."""
        raise NotImplementedError

    def advance(self, row: int) -> None:
        """Let one row's physics go on. What its simulator raises goes into ``outcome.faults``."""
        raise NotImplementedError

    def settle(self) -> list[int]:
        """Note what came of the rows that have been advanced; those that go on, where actions are repeated."""
        raise NotImplementedError

    def step(self, action: NDArray[np.float64]) -> SlotsStep:
        """Advance all rows, one after the other."""
        rows = self.begin(action)
        while rows:
            for row in rows:
                self.advance(row)
            rows = self.settle()
        return self.outcome

    def get_state(self) -> list[State]:
        """One state a row."""
        raise NotImplementedError

    def set_state(self, states: Sequence[State]) -> list[int]:
        """Continue from saved states; returns the rows that cannot and have to be reset."""
        raise NotImplementedError

    def render(self, row: int, height: int, width: int) -> NDArray[np.uint8]:
        """A picture [height, width, 3] of one row."""
        raise NotImplementedError


class PhysicsSlots(Slots):
    """Slots whose physics is stepped row by row and whose rewards are then computed for all of them.

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
        """One simulator step of a row; what goes wrong in it is raised."""
        raise NotImplementedError

    def judge(self, rows: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Reward [m] and termination [m] of the step just taken; only where ``rows`` [m] is true do they matter."""
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
        obs = np.empty((m, self.spec.obs_dim))  # until all repeats are settled
        self.outcome = SlotsStep(obs, np.zeros(m), np.zeros(m, bool), np.zeros(m, bool), steps=0)
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
        return []


class SimulatorSlots(Slots):
    """Slots of a ``Simulator`` each, which repeats actions itself: time limit and counting."""

    def __init__(
        self, spec: TaskSpec, simulators: Sequence[Simulator], *, action_repeat: int, ignore_termination: bool
    ) -> None:
        self.spec, self.simulators = spec, list(simulators)
        self.action_repeat, self.ignore_termination = action_repeat, ignore_termination
        self.elapsed = [0] * len(self.simulators)  # simulator steps since the episode began

    def seed(self, seeds: Sequence[int]) -> None:
        for simulator, seed in zip(self.simulators, seeds, strict=True):
            simulator.seed(seed)

    def reset(self, rows: Sequence[int]) -> NDArray[np.float32]:
        obs = np.zeros((len(rows), self.spec.obs_dim), np.float32)
        for i, row in enumerate(rows):
            self.elapsed[row] = 0
            obs[i] = self._checked(self.simulators[row].reset())
        return obs

    def _checked(self, obs: ArrayLike) -> ArrayLike:
        if np.shape(obs) != (self.spec.obs_dim,):
            raise ValueError(
                f"{self.spec.name} observes an array of shape {np.shape(obs)}, its obs_dim is {self.spec.obs_dim}"
            )
        return obs

    def begin(self, action: NDArray[np.float64]) -> list[int]:
        m = len(self.simulators)
        self.action = action
        self.taken = [1] * m  # simulator steps; a row with a fault has tried one
        self.outcome = SlotsStep(
            obs=np.zeros((m, self.spec.obs_dim), np.float32),
            reward=np.zeros(m),
            termination=np.zeros(m, bool),
            truncated=np.zeros(m, bool),
            steps=0,
            success=np.zeros(m, bool) if self.spec.reports_success else None,
        )
        return list(range(m))

    def advance(self, row: int) -> None:
        out, steps = self.outcome, max(1, min(self.action_repeat, self.spec.max_episode_steps - self.elapsed[row]))
        try:
            result = self.simulators[row].advance(self.action[row], steps, not self.ignore_termination)
        except Exception as error:
            out.faults[row] = error
            return
        if out.success is not None:
            out.success[row] = bool(result.success)
        elif result.success is not None:
            raise ValueError(f"{self.spec.name} returns a success, but its reports_success is not set to True")
        self.elapsed[row] += result.steps
        self.taken[row] = result.steps
        out.obs[row], out.reward[row], out.termination[row] = result.obs, result.reward, result.terminated
        out.truncated[row] = result.truncated or self.elapsed[row] >= self.spec.max_episode_steps

    def settle(self) -> list[int]:
        self.outcome.steps = sum(self.taken)
        return []

    def get_state(self) -> list[State]:
        return [
            {"elapsed": elapsed, "simulator": simulator.get_state()}
            for elapsed, simulator in zip(self.elapsed, self.simulators, strict=True)
        ]

    def set_state(self, states: Sequence[State]) -> list[int]:
        restart = []
        for row, state in enumerate(states):
            self.elapsed[row] = state["elapsed"]
            if state["simulator"] is None:
                restart.append(row)
            else:
                self.simulators[row].set_state(state["simulator"])
        return restart

    def render(self, row: int, height: int, width: int) -> NDArray[np.uint8]:
        return self.simulators[row].render(height, width)


class SimulatorSource:
    """A source made of a dict from task name to ``Simulator`` class (or a function that builds one)."""

    def __init__(self, prefix: str, tasks: Mapping[str, Callable[[], Simulator]]) -> None:
        self.prefix, self.tasks = prefix, tasks

    def known_tasks(self) -> list[str]:
        return list(self.tasks)

    def task_spec(self, task: str) -> TaskSpec:
        if task not in self.tasks:
            raise ValueError(f"unknown task {self.prefix}/{task}; nearest: {nearest(task, self.tasks)}")
        factory: Any = self.tasks[task]
        simulator = factory if hasattr(factory, "obs_dim") and hasattr(factory, "action_dim") else factory()
        return TaskSpec(
            f"{self.prefix}/{task}",
            simulator.obs_dim,
            simulator.action_dim,
            simulator.max_episode_steps,
            reward_range=simulator.reward_range,
            reports_success=simulator.reports_success,
        )

    def make(self, task: str, num_slots: int, *, action_repeat: int, ignore_termination: bool) -> SimulatorSlots:
        return SimulatorSlots(
            self.task_spec(task),
            [self.tasks[task]() for _ in range(num_slots)],
            action_repeat=action_repeat,
            ignore_termination=ignore_termination,
        )


def to_box(low: NDArray[Any], high: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(centre, half width) [A] such that centre + half width * a maps [-1, 1] onto the box.

    An infinite bound counts as 1 away from zero: an unbounded dimension receives the action in [-1, 1] as it is.
    The box [-1, 1] gives (0, 1), so its actions pass through bit for bit.
    """
    low64, high64 = np.asarray(low, np.float64), np.asarray(high, np.float64)
    unbounded = 1e9  # dm_control writes 1e10 for an actuator without control range
    low64 = np.where(low64 < -unbounded, -1.0, low64)
    high64 = np.where(high64 > unbounded, 1.0, high64)
    return (low64 + high64) / 2, (high64 - low64) / 2
