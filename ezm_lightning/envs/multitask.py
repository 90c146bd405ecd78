"""One TorchRL environment that steps many slots of many tasks at once."""

from __future__ import annotations

import contextlib
import ctypes
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from ezm_lightning.envs import checks
from ezm_lightning.envs.checks import Unfit
from ezm_lightning.envs.process import torch_unchanged
from ezm_lightning.envs.slots import Slots, State
from ezm_lightning.envs.sources import make_slots, resolve_tasks
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.errors import kind_and_line
from ezm_lightning.ops.per_task import spread

FAULT_WINDOW = 1000  # simulator steps of a task, of which ``max_fault_share`` is the share
RESET_ATTEMPTS = 3


class _Group:
    """The slots [start, stop) of one task."""

    def __init__(self, slots: Slots, spec: TaskSpec, task: int, start: int, stop: int) -> None:
        self.slots, self.spec, self.task, self.start, self.stop = slots, spec, task, start, stop
        self.seconds = 0.0  # running mean of the time of an advance; the slowest group is started first
        self.has_worked = False  # a slot has been stepped without a fault


class MultiTaskEnv(EnvBase):
    """n = len(tasks) * envs_per_task slots, grouped by task. Observations and actions are zero-padded to the largest,
    and to ``least_obs_dim`` and ``least_action_dim``.

    Keys, all with leading dimension n::

        obs            [n, D] float32            task     [n] int64           action_mask [n, A] bool
        action         [n, A] float32 in [-1, 1], mapped onto the task's own box; masked dimensions are cut
        reward         [n, 1] float32, summed over action repeats
        done terminated truncated   [n, 1] bool
        termination    [n, 1] bool, the task's own signal, also if ``ignore_termination`` continues the episode
        success        [n, 1] bool, the goal was reached in a step of this decision; only if a task reports success,
                       and False for the slots of other tasks
        reward_to_end  [n, 1] float32, the part of the reward up to a termination; only with ``ignore_termination``

    ``action_repeat`` is one number, or one per task; the tasks then differ in simulator steps per vector step.
    ``num_threads`` 0 steps in the calling thread. Otherwise each thread takes the next slot, slowest tasks first, until
    all are done. So all threads stay busy, and the results do not depend on the order. ``seed`` fixes all randomness:
    each slot has its own child of it. ``places`` are the positions of the tasks in a longer list; their slots then draw
    the same numbers as in an environment of that list.

    A simulator has a fault if it raises, or if an observation or a reward is not finite or is beyond 1e18. Its episode
    ends there, truncated, with reward 0 and the last good observation, and the slot starts a new one. A step that
    raises counts as one simulator step. ``faults`` [T] counts faults by task, failed resets included; each kind is
    warned about once. An error after an ignored termination is no fault: the episode ends there. An environment of the
    wrong form (see ``checks``) that has never worked is refused at its first fault.
    Raises ValueError for unknown tasks, in ``step`` for actions of the wrong width or that are not finite, and for a
    task that fails more than ``max_fault_share`` of its last 1000 simulator steps or 3 resets in a row.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        envs_per_task: int = 1,
        action_repeat: int | Sequence[int] = 1,
        num_threads: int = 0,
        seed: int = 0,
        ignore_termination: bool = False,
        max_fault_share: float = 0.01,
        places: Sequence[int] | None = None,
        least_obs_dim: int = 0,
        least_action_dim: int = 0,
    ) -> None:
        if not 0 <= max_fault_share <= 1:
            raise ValueError(f"max_fault_share={max_fault_share} must lie in [0, 1]")
        for name, value, least in (
            ("envs_per_task", envs_per_task, 1),
            *(("action_repeat", repeat, 1) for repeat in np.atleast_1d(action_repeat).tolist()),
            ("num_threads", num_threads, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        specs = resolve_tasks(tasks)
        self.num_slots = len(specs) * envs_per_task
        super().__init__(device=torch.device("cpu"), batch_size=torch.Size([self.num_slots]))
        self.task_specs, self.ignore_termination, self.action_repeat = specs, ignore_termination, action_repeat
        self.action_repeats = spread(action_repeat, len(specs))
        self.vector_step = envs_per_task * sum(self.action_repeats)  # simulator steps if no episode ends
        self.reports_success = any(spec.reports_success for spec in specs)
        self.obs_dims, self.action_dims = [s.obs_dim for s in specs], [s.action_dim for s in specs]
        self.obs_dim, self.action_dim = max(*self.obs_dims, least_obs_dim), max(*self.action_dims, least_action_dim)
        self.slot_task = torch.arange(len(specs)).repeat_interleave(envs_per_task)
        self.env_steps = torch.zeros(len(specs), dtype=torch.int64)
        self._steps_taken = self.env_steps.numpy()  # shares memory with env_steps
        self.faults = torch.zeros(len(specs), dtype=torch.int64)
        self.max_fault_share = max_fault_share
        self._recent_faults: list[deque[int]] = [  # env_steps at the last faults, one more than are allowed
            deque(maxlen=1 + round(max_fault_share * FAULT_WINDOW)) for _ in specs
        ]
        self._task = self.slot_task.numpy().copy()
        self._action_mask = np.arange(self.action_dim) < np.array(self.action_dims)[self._task, None]
        self._make_specs()
        self._groups = self._make_groups()
        self.draws = any(group.slots.draws for group in self._groups)  # whether any of the tasks has pictures
        self._num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads, "simulators") if num_threads else None
        self._obs = np.zeros((self.num_slots, self.obs_dim), np.float32)
        self._over = np.ones(self.num_slots, bool)  # no episode is running in this slot
        self._terminated = np.zeros(self.num_slots, bool)  # the episode has terminated, which is ignored
        self._places = list(range(len(specs))) if places is None else list(places)
        self._restored = False
        self._set_seed(seed)

    def _make_specs(self) -> None:
        n, num_tasks = self.num_slots, len(self.task_specs)
        flag = {"n": 2, "shape": (n, 1), "dtype": torch.bool}
        self.observation_spec = Composite(
            obs=Unbounded((n, self.obs_dim)),
            task=Categorical(num_tasks, shape=(n,)),
            action_mask=Binary(shape=(n, self.action_dim), dtype=torch.bool),
            termination=Categorical(**flag),
            **({"success": Categorical(**flag)} if self.reports_success else {}),
            **({"reward_to_end": Unbounded((n, 1))} if self.ignore_termination else {}),
            shape=(n,),
        )
        self.action_spec = Bounded(-1.0, 1.0, (n, self.action_dim))
        self.reward_spec = Unbounded((n, 1))
        self.full_done_spec = Composite(
            {key: Categorical(**flag) for key in ("done", "terminated", "truncated")}, shape=(n,)
        )

    def _make_groups(self) -> list[_Group]:
        """Each task's slots."""
        n, groups = self.num_slots // len(self.task_specs), []
        for task, spec in enumerate(self.task_specs):
            repeat = self.action_repeats[task]
            slots = make_slots(spec.name, n, action_repeat=repeat, ignore_termination=self.ignore_termination)
            groups.append(_Group(slots, spec, task, task * n, (task + 1) * n))
        return groups

    def _set_seed(self, seed: int | None) -> None:
        n = self.num_slots // len(self.task_specs)
        root = np.random.SeedSequence(seed).entropy
        for group, place in zip(self._groups, self._places, strict=True):
            children = [np.random.SeedSequence(root, spawn_key=(place * n + row,)) for row in range(n)]
            with checks.building(group.spec.name, "seeded"):
                group.slots.seed([int(child.generate_state(1)[0]) for child in children])

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        requested = None if tensordict is None else tensordict.get("_reset", None)
        rows = np.ones(self.num_slots, bool) if requested is None else requested.reshape(self.num_slots).numpy()
        if self._restored and requested is None:
            rows = self._over.copy()
        self._restored = False
        self._start_episodes(rows)
        flags = ("done", "terminated", "truncated", "termination", *(["success"] if self.reports_success else []))
        paid = {"reward_to_end": torch.zeros(self.num_slots, 1)} if self.ignore_termination else {}
        return self._observed(**{flag: torch.zeros(self.num_slots, 1, dtype=torch.bool) for flag in flags}, **paid)

    def _start_episodes(self, rows: NDArray[np.bool_]) -> None:
        places = [(group, int(row)) for group in self._groups for row in np.flatnonzero(rows[group.start : group.stop])]
        faults: dict[tuple[int, int], list[Exception]] = {(group.task, row): [] for group, row in places}

        def start(group: _Group, row: int) -> None:
            first = _first_obs(group, row, faults[group.task, row])
            self._obs[group.start + row, : group.spec.obs_dim] = first

        self._share(start, places)
        for group, row in places:
            self._count_faults(group, faults[group.task, row])
        self._over[rows] = self._terminated[rows] = False

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        action = self._checked(tensordict["action"])
        if self._restored:  # setting an attribute of an nn.Module takes longer than reading it
            self._restored = False
        reward = np.zeros((self.num_slots, 1), np.float32)
        to_end = np.zeros((self.num_slots, 1), np.float32) if self.ignore_termination else None
        termination, truncated, success = np.zeros((3, self.num_slots, 1), bool)

        def finish(group: _Group) -> None:
            rows, result = slice(group.start, group.stop), group.slots.outcome
            checks.outcome(group.spec.name, result, group.stop - group.start, group.spec.obs_dim)
            with np.errstate(over="ignore", invalid="ignore"):
                obs, paid = result.obs.astype(np.float32), result.reward.astype(np.float32)
            good = checks.good_rows(obs, paid, result.faults)
            ended = [] if to_end is None else [row for row in result.faults if self._terminated[group.start + row]]
            np.copyto(self._obs[rows, : group.spec.obs_dim], obs, where=good[:, None])
            np.copyto(reward[rows, 0], paid, where=good)
            termination[rows, 0], truncated[rows, 0] = result.termination & good, result.truncated | ~good
            if result.success is not None:
                success[rows, 0] = result.success & good
            if to_end is not None:
                earned = paid if result.reward_to_end is None else result.reward_to_end
                np.copyto(to_end[rows, 0], earned, where=good, casting="same_kind")
                for row in ended:  # the episode had terminated before
                    del result.faults[row]

        self._advance(action, finish)
        for group in self._groups:
            self._steps_taken[group.task] += group.slots.outcome.steps
            if group.slots.outcome.faults:
                self._count_faults(group, [fault for _, fault in sorted(group.slots.outcome.faults.items())])
            group.has_worked |= len(group.slots.outcome.faults) < group.stop - group.start
        if to_end is not None:
            self._terminated |= termination[:, 0]
        terminated = np.zeros_like(termination) if self.ignore_termination else termination
        done = terminated | truncated
        self._over[:] = done[:, 0]
        return self._observed(
            reward=torch.from_numpy(reward),
            done=torch.from_numpy(done),
            terminated=torch.from_numpy(terminated.copy()),
            truncated=torch.from_numpy(truncated),
            termination=torch.from_numpy(termination),
            **({"success": torch.from_numpy(success)} if self.reports_success else {}),
            **({} if to_end is None else {"reward_to_end": torch.from_numpy(to_end)}),
        )

    def _advance(self, action: NDArray[np.float64], finish: Callable[[_Group], None]) -> None:
        """Steps every slot. The thread that advances the last row of a group finishes the group."""
        going = [(g, g.slots.begin(action[g.start : g.stop, : g.spec.action_dim])) for g in self._groups]
        while going:
            going = self._round(going, finish)

    def _round(
        self, going: Sequence[tuple[_Group, list[int]]], finish: Callable[[_Group], None]
    ) -> list[tuple[_Group, list[int]]]:
        """Advances these rows of groups once; returns the rows to advance again, to repeat actions."""
        ahead = {group.task: iter(range(len(rows) - 1, -1, -1)) for group, rows in going}  # the number of rows left
        further: list[tuple[_Group, list[int]]] = []

        def advance(group: _Group, row: int) -> None:
            started = time.perf_counter()
            group.slots.advance(row)
            group.seconds += 0.1 * (time.perf_counter() - started - group.seconds)
            if next(ahead[group.task]) == 0:
                rows = group.slots.settle()
                if rows:
                    further.append((group, rows))
                else:
                    finish(group)

        slowest_first = sorted(going, key=lambda pair: -pair[0].seconds)
        self._share(advance, [(group, row) for group, rows in slowest_first for row in rows])
        return further

    def _count_faults(self, group: _Group, faults: Iterable[Exception]) -> None:
        name, recent, steps = group.spec.name, self._recent_faults[group.task], int(self.env_steps[group.task])
        for fault in faults:
            if isinstance(fault, Unfit) and not group.has_worked:
                raise ValueError(str(fault)) from fault
            self.faults[group.task] += 1
            recent.append(steps)
            problem = f"{name}: {kind_and_line(fault)}"
            if len(recent) == recent.maxlen and steps - recent[0] < FAULT_WINDOW:
                raise ValueError(
                    f"{problem}; {len(recent)} faults within {steps - recent[0]} simulator steps, of {FAULT_WINDOW} "
                    f"max_fault_share={self.max_fault_share} may fail"
                ) from fault
            warnings.warn(f"{problem}; its episode ends here and another begins", stacklevel=2)

    def fault_counts(self, faults: Tensor | None = None) -> dict[str, float]:
        """The number of faults so far, by label, of tasks that had any; or of ``faults`` [T], those of all ranks."""
        counts = zip(self.task_specs, (self.faults if faults is None else faults).tolist(), strict=True)
        return {spec.label: float(count) for spec, count in counts if count}

    def _observed(self, **entries: Tensor) -> TensorDict:
        now = {
            "obs": torch.from_numpy(self._obs.copy()),
            "task": torch.from_numpy(self._task.copy()),
            "action_mask": torch.from_numpy(self._action_mask.copy()),
        }
        return TensorDict({**now, **entries}, batch_size=self.batch_size, device=self.device)

    def _checked(self, action: Tensor) -> NDArray[np.float64]:
        width = self.action_dim
        if action.shape != (self.num_slots, width):
            widest = max(self.task_specs, key=lambda spec: spec.action_dim).name
            raise ValueError(
                f"actions must have shape [{self.num_slots}, {width}], got {list(action.shape)}: "
                f"a row for each slot, as wide as {widest} needs"
            )
        values: NDArray[np.float64] = action.numpy(force=True).astype(np.float64)
        if (np.abs(values) <= 1.0).all():
            return values
        if not np.isfinite(values).all():
            slot = int(np.flatnonzero(~np.isfinite(values).all(-1))[0])
            name = self.task_specs[int(self.slot_task[slot])].name
            raise ValueError(f"the action for {name} (slot {slot}) is not finite: {values[slot].tolist()}")
        return values.clip(-1.0, 1.0)

    def _share(self, do: Callable[[_Group, int], None], places: Sequence[tuple[_Group, int]]) -> None:
        """Calls do(group, row) at every place; each thread takes the next place."""
        waiting = iter(places)

        def work() -> None:
            for group, row in waiting:
                with checks.not_ending(group.spec.name):
                    do(group, row)

        with torch_unchanged(group.spec.name for group, _ in places):
            if self._pool is None or len(places) == 1:
                return work()
            for worker in [self._pool.submit(work) for _ in range(min(self._num_threads, len(places)))]:
                worker.result()

    def get_state(self) -> State:
        """Everything needed to continue bit for bit; readable with ``torch.load(weights_only=True)``."""
        return {
            "tasks": [spec.name for spec in self.task_specs],
            "obs": torch.from_numpy(self._obs.copy()),
            "over": torch.from_numpy(self._over.copy()),
            "env_steps": self.env_steps.clone(),
            "faults": self.faults.clone(),
            "slots": [state for group in self._groups for state in group.slots.get_state()],
        }

    def set_state(self, state: State) -> NDArray[np.bool_]:
        """Continues saved episodes: the next full ``reset()`` returns their current observations.

        Slots whose simulator cannot be saved start a new episode instead, with one warning for their tasks. Returns
        which slots these are [slots]. Raises ValueError for a state of other tasks or of another number of slots.
        """
        names = [spec.name for spec in self.task_specs]
        if state["tasks"] != names or len(state["slots"]) != self.num_slots:
            raise ValueError(
                f"the state holds {len(state['slots'])} slots of {state['tasks']}, "
                f"this environment {self.num_slots} slots of {names}"
            )
        self._obs[...] = state["obs"].numpy()
        self._over[...] = state["over"].numpy()
        self.env_steps[...] = state["env_steps"]
        self.faults[...] = state["faults"]
        restarted = np.zeros(self.num_slots, dtype=bool)
        for group in self._groups:
            rows = group.slots.set_state(state["slots"][group.start : group.stop])
            restarted[[group.start + row for row in rows]] = True
        self._over |= restarted
        if restarted.any():
            tasks = sorted({names[task] for task in self._task[restarted]})
            warnings.warn(
                f"the simulators of {', '.join(tasks)} cannot be saved: their episodes start anew", stacklevel=2
            )
        self._restored = True
        return restarted

    def render(self, slot: int, height: int, width: int) -> NDArray[np.uint8]:
        """A picture [height, width, 3] of a slot. Raises RuntimeError if OpenGL does not work."""
        group = next(group for group in self._groups if group.start <= slot < group.stop)
        return group.slots.render(slot - group.start, height, width)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Stops the threads, closes and deletes the simulators, and returns their memory to the system."""
        if self._pool is not None:
            self._pool.shutdown()
        while self._groups:
            self._groups.pop().slots.close()
        _give_back()
        super().close(raise_if_closed=raise_if_closed)


def _give_back() -> None:
    """Returns freed memory to the system, which glibc may keep: an evaluation makes and deletes 25 MB per simulator."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _first_obs(group: _Group, row: int, faults: list[Exception]) -> NDArray[np.float32]:
    """The first observation of a new episode. Errors of failed resets are added to ``faults``."""
    for _ in range(RESET_ATTEMPTS):
        try:
            first = group.slots.reset([row])[0]
            obs = checks.observation(first, group.spec.obs_dim, group.spec.name)
            wrong = checks.unusable(obs, "first observation of an episode")
            if wrong is None:
                return obs.astype(np.float32)
            fault: Exception = wrong
        except Exception as error:
            if isinstance(error, Unfit) and not group.has_worked:
                raise ValueError(str(error)) from error
            fault = error
        faults.append(fault)
    attempts = f"{RESET_ATTEMPTS} attempts in a row failed: {kind_and_line(fault)}"
    raise ValueError(f"{group.spec.name} cannot be reset, {attempts}") from fault
