"""``Simulator``, slots of simulators, and a source made from a dict of simulators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ezm_lightning.envs import checks
from ezm_lightning.envs.checks import Unfit
from ezm_lightning.envs.saved_state import from_plain, to_plain
from ezm_lightning.envs.slots import Slots, SlotsStep, State
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.errors import nearest

NEEDED = ("seed", "reset", "step")  # of a simulator
DIMENSIONS = ("obs_dim", "action_dim", "max_episode_steps")


class Transition(NamedTuple):
    """The result of one or more simulator steps with the same action."""

    obs: ArrayLike  # [obs_dim], after the last step
    reward: float  # summed over the steps
    terminated: bool  # the task ended, in any of the steps
    truncated: bool = False  # the episode ended otherwise; the time limit is counted elsewhere
    steps: int = 1  # the number of simulator steps taken
    success: bool | None = None  # the goal was reached in any of the steps; None if the task does not report it
    reward_to_end: float | None = None  # summed up to the step that terminated, included; None: the same as reward


class Simulator:
    """One environment of one task: set the three numbers, write ``seed``, ``reset`` and ``step``.

    Actions are float64 arrays [action_dim] in [-1, 1]. To be saved exactly, a simulator also has ``get_state`` and
    ``set_state``; without them it starts a new episode when a run is resumed. A state may hold numbers, words, tensors,
    NumPy arrays, and lists, tuples and dicts of them. A task that is scored by success sets ``reports_success`` and
    returns ``Transition(..., success=...)``. If the bounds of a step's reward are known, set ``reward_range``; else the
    warm-up measures the scale of the rewards. ``close`` ends what it holds, such as a process or a window.
    """

    obs_dim: int
    action_dim: int
    max_episode_steps: int = 1000
    reports_success: bool = False
    reward_range: tuple[float, float] | None = None  # bounds of one step's reward, if known

    def seed(self, seed: int) -> None:
        """Seeds all randomness; takes effect at the next reset."""
        raise NotImplementedError

    def reset(self) -> ArrayLike:
        """The first observation [obs_dim] of a new episode."""
        raise NotImplementedError

    def step(self, action: NDArray[np.float64]) -> Transition:
        """One simulator step."""
        raise NotImplementedError

    def advance(self, action: NDArray[np.float64], steps: int, stop_at_termination: bool) -> Transition:
        """Up to ``steps`` simulator steps with one action, fewer if the episode ends. Rewards are summed. The decision
        is a success if a step up to a termination is one. If a termination does not stop it, a later step that raises
        or returns an unusable observation or reward does, and does not count."""
        reward, terminated, success, to_end = 0.0, False, None, None
        for step_count in range(1, steps + 1):  # noqa: B007 - used after the loop
            try:
                result = _checked(self.step(action.copy()))
                if terminated:
                    _refuse_unusable(result[0], result[1], self.obs_dim)
            except Exception:
                if not terminated:
                    raise
                truncated = True  # the episode has terminated and cannot continue
                break
            obs, paid, ended, truncated, succeeded = result
            reward += paid
            if succeeded is not None and not terminated:
                success = bool(success or succeeded)
            if ended and not terminated:
                terminated, to_end = True, reward
            if truncated or (terminated and stop_at_termination):
                break
        return Transition(obs, reward, terminated, truncated, step_count, success, to_end)

    def get_state(self) -> State | None:
        """Everything needed to continue bit for bit, or None if that is not supported."""
        return None

    def set_state(self, state: State) -> None:
        """Continues from ``state``, a result of ``get_state``."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends what the simulator holds, such as a process, a window or a thread."""

    @property
    def draws(self) -> bool:
        """Whether it has pictures."""
        return type(self).render is not Simulator.render

    def render(self, height: int, width: int) -> NDArray[np.uint8]:
        """A picture [height, width, 3]."""
        raise NotImplementedError(f"{type(self).__name__} draws no pictures: it has no render method")


def _checked(result: Transition) -> tuple[ArrayLike, float, bool, bool, bool | None]:
    """(obs, reward, terminated, truncated, success) of one step. Raises Unfit for anything but a Transition."""
    if not isinstance(result, Transition):
        raise Unfit(f"step returned {checks.kind(result)}, a Transition is expected")
    success = None if result.success is None else checks.flag(result.success, "success")
    return (
        result.obs,
        checks.number(result.reward, "the reward"),
        checks.flag(result.terminated, "terminated"),
        checks.flag(result.truncated, "truncated"),
        success,
    )


def _refuse_unusable(obs: ArrayLike, reward: float, obs_dim: int) -> None:
    """Raises Unfit or FloatingPointError for an observation or a reward that cannot be used."""
    values = checks.observation(obs, obs_dim, "a step")
    wrong = checks.unusable(values) or checks.unusable(reward, "reward")
    if wrong is not None:
        raise wrong


class SimulatorSlots(Slots):
    """Slots with one ``Simulator`` each, which repeats actions itself. Counts steps for the time limit."""

    def __init__(
        self, spec: TaskSpec, simulators: Sequence[Simulator], *, action_repeat: int, ignore_termination: bool
    ) -> None:
        self.spec, self.simulators = spec, list(simulators)
        self.action_repeat, self.ignore_termination = action_repeat, ignore_termination
        self.elapsed = [0] * len(self.simulators)  # simulator steps since the episode began

    @property
    def draws(self) -> bool:
        return self.simulators[0].draws

    def seed(self, seeds: Sequence[int]) -> None:
        for simulator, seed in zip(self.simulators, seeds, strict=True):
            simulator.seed(seed)

    def reset(self, rows: Sequence[int]) -> NDArray[np.float64]:
        obs = np.zeros((len(rows), self.spec.obs_dim))
        for i, row in enumerate(rows):
            self.elapsed[row] = 0
            obs[i] = checks.observation(self._named(self.simulators[row].reset), self.spec.obs_dim, self.spec.name)
        return obs

    def _named(self, call: Callable[[], Any]) -> Any:
        """``call()``; an Unfit error gets the task's name."""
        try:
            return call()
        except Unfit as error:
            raise Unfit(f"{self.spec.name}: {error}") from error

    def begin(self, action: NDArray[np.float64]) -> list[int]:
        m = len(self.simulators)
        self.action = action
        self.taken = [1] * m  # simulator steps; a row with a fault counts one
        self.outcome = SlotsStep(
            obs=np.zeros((m, self.spec.obs_dim)),
            reward=np.zeros(m),
            termination=np.zeros(m, bool),
            truncated=np.zeros(m, bool),
            steps=0,
            success=np.zeros(m, bool) if self.spec.reports_success else None,
            reward_to_end=np.zeros(m) if self.ignore_termination else None,
        )
        return list(range(m))

    def advance(self, row: int) -> None:
        steps = max(1, min(self.action_repeat, self.spec.max_episode_steps - self.elapsed[row]))
        simulator, action = self.simulators[row], self.action[row].copy()
        try:
            result = self._named(lambda: simulator.advance(action, steps, not self.ignore_termination))
            self._take(row, result)
        except Exception as error:
            self.outcome.faults[row] = error

    def _take(self, row: int, result: Transition) -> None:
        """Stores the result of a row. Raises Unfit if it does not agree with the task's spec."""
        out, name = self.outcome, self.spec.name
        if result.success is not None and not self.spec.reports_success:
            raise Unfit(f"{name} returns a success, but its reports_success is not set to True")
        out.obs[row] = checks.observation(result.obs, self.spec.obs_dim, name)
        self.elapsed[row] += result.steps
        self.taken[row] = result.steps
        out.reward[row], out.termination[row] = result.reward, result.terminated
        out.truncated[row] = result.truncated or self.elapsed[row] >= self.spec.max_episode_steps
        if out.success is not None:
            out.success[row] = bool(result.success)
        if out.reward_to_end is not None:
            out.reward_to_end[row] = result.reward if result.reward_to_end is None else result.reward_to_end

    def settle(self) -> list[int]:
        self.outcome.steps = sum(self.taken)
        return []

    def get_state(self) -> list[State]:
        """Raises ValueError, with the task and the entry, for a value that could not be read back."""
        rows = zip(self.elapsed, self.simulators, strict=True)
        return [{"elapsed": elapsed, "simulator": self._saved(simulator)} for elapsed, simulator in rows]

    def _saved(self, simulator: Simulator) -> State | None:
        with checks.building(self.spec.name, "saved"):
            state = simulator.get_state()
            return None if state is None else to_plain(state, "get_state()")

    def set_state(self, states: Sequence[State]) -> list[int]:
        restart = []
        for row, state in enumerate(states):
            self.elapsed[row] = state["elapsed"]
            if state["simulator"] is None:
                restart.append(row)
            else:
                with checks.building(self.spec.name, "put back into its saved state"):
                    self.simulators[row].set_state(from_plain(state["simulator"]))
        return restart

    def render(self, row: int, height: int, width: int) -> NDArray[np.uint8]:
        return self.simulators[row].render(height, width)

    def close(self) -> None:
        """Warns of simulators that cannot be closed."""
        for simulator in self.simulators:
            with checks.closing(self.spec.name):
                simulator.close()


class SimulatorSource:
    """A source made of a dict from task name to ``Simulator`` class (or a function that builds one)."""

    def __init__(self, prefix: str, tasks: Mapping[str, Callable[[], Simulator]]) -> None:
        self.prefix, self.tasks = prefix, tasks

    def known_tasks(self) -> list[str]:
        return list(self.tasks)

    def task_spec(self, task: str) -> TaskSpec:
        if task not in self.tasks:
            raise ValueError(f"unknown task {self.prefix}/{task}; nearest: {nearest(task, self.tasks)}")
        name, factory = f"{self.prefix}/{task}", self.tasks[task]
        simulator: Any = factory
        if any(not isinstance(getattr(factory, number, None), int) for number in DIMENSIONS):
            simulator = self._built(name, factory)
            with checks.closing(name):
                simulator.close()
        return _spec_of(name, simulator)

    def make(self, task: str, num_slots: int, *, action_repeat: int, ignore_termination: bool) -> SimulatorSlots:
        spec, name = self.task_spec(task), f"{self.prefix}/{task}"
        simulators = [self._built(name, self.tasks[task]) for _ in range(num_slots)]
        if len({id(simulator) for simulator in simulators}) < num_slots:
            raise ValueError(f"{name}: the same simulator was built twice, each environment needs one of its own")
        if spec != (built := _spec_of(name, simulators[0])):
            raise ValueError(f"{name}: its class says {spec}, what is built of it {built}; the class must say the same")
        return SimulatorSlots(spec, simulators, action_repeat=action_repeat, ignore_termination=ignore_termination)

    def _built(self, name: str, factory: Any) -> Simulator:
        """One simulator. Raises ValueError if it lacks a part."""
        if not callable(factory):
            raise ValueError(f"{name} is {checks.kind(factory)}, a Simulator class or what builds one is expected")
        simulator = factory()
        if not isinstance(simulator, Simulator):
            hint = f"; a Gymnasium environment is gym/{self.prefix}:ID" if hasattr(simulator, "action_space") else ""
            raise ValueError(f"{name} builds {checks.kind(simulator)}, no ezm_lightning.envs.Simulator{hint}")
        _spec_of(name, simulator)
        lacks = [method for method in NEEDED if not _writes(simulator, method)]
        if lacks and not (lacks == ["step"] and _writes(simulator, "advance")):
            raise ValueError(f"{name} has no {lacks[0]} method; a simulator writes {', '.join(NEEDED)}")
        if _writes(simulator, "get_state") != _writes(simulator, "set_state"):
            has, needs = ("get_state", "set_state") if _writes(simulator, "get_state") else ("set_state", "get_state")
            raise ValueError(f"{name} has {has} without {needs}: a run could not be resumed; write both or neither")
        return simulator


def _writes(simulator: Simulator, method: str) -> bool:
    return getattr(type(simulator), method) is not getattr(Simulator, method) or method in vars(simulator)


def _spec_of(name: str, simulator: Any) -> TaskSpec:
    """The spec of a simulator or of its class. Raises ValueError with the numbers that it lacks."""
    lacks = [number for number in DIMENSIONS if not hasattr(simulator, number)]
    if lacks:
        raise ValueError(f"{name} has no {' and no '.join(lacks)} (a whole number; so are {', '.join(DIMENSIONS)})")
    numbers = [getattr(simulator, number) for number in DIMENSIONS]
    obs_dim, action_dim, max_episode_steps = numbers
    return TaskSpec(
        name,
        obs_dim,
        action_dim,
        max_episode_steps,
        reward_range=simulator.reward_range,
        reports_success=simulator.reports_success,
    )
