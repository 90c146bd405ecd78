"""Independent experience replay: windows of consecutive steps, drawn by priority, the same number from every task.

A row is an observation, the action taken in it, and its reward and ends. When an episode ends, one more row holds its
final observation (without an action). So ``W = unroll_steps + td_steps + 1`` consecutive rows hold a whole window,
including the state that a truncation bootstraps from. ``windows`` places rows and draws windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from ezm_lightning.checkpoints.tensor_file import read, write
from ezm_lightning.ranges import Count, NotNegative
from ezm_lightning.replay.shards import Segment, deal, read_shard, segments
from ezm_lightning.replay.windows import SlotWriter, WindowSampler, counted_anew
from ezm_lightning.types import Batch

Schema = dict[str, tuple[tuple[int, ...], torch.dtype]]
SAMPLER_BYTES = 2 * 8  # per row: its priority and the end of its episode


def row_schema(obs_dim: int, action_dim: int, extras: Sequence[str] = ()) -> Schema:
    """Shape and dtype of each entry of a stored row; ``extras`` are the columns that an actor adds."""
    return {
        "obs": ((obs_dim,), torch.float32),
        "action": ((action_dim,), torch.float32),
        "reward": ((), torch.float32),
        "terminated": ((), torch.bool),  # of the transition; in a closing row, of the episode
        "truncated": ((), torch.bool),
        "closing": ((), torch.bool),  # the final observation of an episode
        "task": ((), torch.int64),
        "env_step": ((), torch.int64),  # transitions of the task collected before this row
        **dict.fromkeys(extras, ((), torch.float32)),  # NaN where the actor has not acted
    }


def rows_per_slot(*, num_tasks: int, num_slots: int, capacity: int) -> int:
    """The number of rows per slot, so that each task has `capacity` rows (rounded up)."""
    return -(-capacity * num_tasks // num_slots)


def replay_bytes(
    *, num_tasks: int, num_slots: int, obs_dim: int, action_dim: int, capacity: int, extras: Sequence[str] = ()
) -> int:
    """Bytes of a Replay of these sizes in use; allocates nothing."""
    rows = num_slots * rows_per_slot(num_tasks=num_tasks, num_slots=num_slots, capacity=capacity)
    schema = row_schema(obs_dim, action_dim, extras)
    return rows * (SAMPLER_BYTES + sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in schema.values()))


class Replay:
    """One prioritised buffer per task (`ier=False`: one for all tasks together).

    slot_task [n]: the task of each environment slot, slots grouped by task, the same number for each.
    capacity: rows per task (an episode's final observation takes one row).
    batch_size: windows per draw; every task gets batch_size // T, and the tasks take turns with the remainder.
    priority_exponent, weight_exponent: alpha and beta; P(i) ~ p^alpha, weight (N P)^-beta, divided by the task's
    maximum in the batch, clipped to [0.1, 1].
    window: only a task's newest `window` transitions are drawn; None: all that are stored.
    world_size: processes that each have such a replay of the same tasks; an age counts the transitions of all.
    device: where rows are stored and batches are made.
    extras: names of the columns that the actor adds, one number per row (see `acting`).
    """

    def __init__(
        self,
        *,
        slot_task: Tensor | Sequence[int],
        obs_dim: int,
        action_dim: int,
        capacity: Count,
        unroll_steps: int,
        td_steps: int,
        batch_size: int,
        priority_exponent: NotNegative = 1.0,
        weight_exponent: NotNegative = 1.0,
        window: Count | None = None,
        world_size: Count = 1,
        ier: bool = True,
        device: str | torch.device = "cpu",
        extras: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.slot_task = torch.as_tensor(slot_task, dtype=torch.int64).cpu()
        self.num_slots, self.num_tasks = len(self.slot_task), _num_tasks(self.slot_task)
        self.slots_per_task = self.num_slots // self.num_tasks
        self.obs_dim, self.action_dim = obs_dim, action_dim
        self.window, self.batch_size, self.world_size = window, batch_size, world_size
        self.priority_exponent = priority_exponent
        self.extras = tuple(extras)
        self.schema = row_schema(obs_dim, action_dim, extras)
        length = rows_per_slot(num_tasks=self.num_tasks, num_slots=self.num_slots, capacity=capacity)
        num_groups = self.num_tasks if ier else 1
        window_length = unroll_steps + td_steps + 1
        _check_at_least("unroll_steps", unroll_steps, 1)
        _check_at_least("td_steps", td_steps, 1)
        _check_at_least("batch_size", batch_size, num_groups, "one window per task")
        room = f"one window of unroll_steps={unroll_steps} and td_steps={td_steps} per slot"
        _check_at_least("capacity", capacity, window_length * self.slots_per_task, room)
        _check_at_least("priority_exponent", priority_exponent, 0)
        _check_at_least("weight_exponent", weight_exponent, 0)
        if window is not None:
            _check_at_least("window", window, 2 * self.slots_per_task, "two transitions per slot")

        self.num_transitions = torch.zeros(self.num_tasks, dtype=torch.int64)  # collected so far, per task
        self.generator = torch.Generator().manual_seed(seed)
        self.writer = SlotWriter(num_slots=self.num_slots, length=length)
        self.sampler = WindowSampler(
            rings=self.writer,
            num_groups=num_groups,
            window_length=window_length,
            limit=self._slot_limit(),
            priority_exponent=priority_exponent,
            weight_exponent=weight_exponent,
        )
        self.buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(self.num_slots * length, device=torch.device(device), compilable=True),
            sampler=self.sampler,
            writer=self.writer,
            batch_size=batch_size,
            generator=self.generator,
        )
        self._slots = torch.arange(self.num_slots)
        self._absent = torch.full((self.num_slots,), torch.nan)
        self._not_closing = torch.zeros(self.num_slots, dtype=torch.bool)
        self._rank = self._slots % self.slots_per_task
        self._open = torch.zeros(self.num_slots, dtype=torch.bool)
        self._next_obs = torch.zeros(self.num_slots, obs_dim)

    def _slot_limit(self) -> Tensor:
        """The number of newest transitions [n] drawn from each slot, so that a task's are its newest `window`."""
        if self.window is None:
            return torch.full((self.num_slots,), self.num_slots * 2**40)
        newer = self.slots_per_task - 1 - torch.arange(self.num_slots) % self.slots_per_task
        return -(-(self.window - newer) // self.slots_per_task)

    def __len__(self) -> int:
        """Transitions in storage, all tasks together (with a `window`: those inside it)."""
        return int(self.sampler.inside.sum())

    # -- writing -----------------------------------------------------------------------------------------------------

    def extend(self, td: TensorDictBase) -> None:
        """Stores a vector step of all slots, batch [n], or a roll-out of vector steps.

        A roll-out is [n, T] with its last dimension named "time", as TorchRL's environments and collectors return it,
        else [T, n]. Reads obs, action, task, the extras (NaN if missing) and action_mask (if there is one) at the root
        and ('next', obs|reward|terminated|truncated|done); other keys are ignored. Stored is the action that the
        environment applies: clipped to [-1, 1] and masked. An episode that does not continue with its next observation
        (the collector was reset) is closed as truncated. Raises ValueError for a missing key, a wrong shape or dtype.
        """
        for step in self._steps(td):
            self._extend(step)

    def _steps(self, td: TensorDictBase) -> Sequence[TensorDictBase]:
        """The vector steps [n] of an argument of `extend`."""
        if td.ndim != 2:
            return [td]
        time = 1 if td.names[1] == "time" else 0
        if td.batch_size[1 - time] != self.num_slots:
            raise ValueError(
                f"batch_size {list(td.batch_size)}: expected a roll-out [T, {self.num_slots}], "
                f'or [{self.num_slots}, T] with the last dimension named "time"'
            )
        return td.unbind(time)

    def _extend(self, td: TensorDictBase) -> None:
        row, after = self._split(td)
        cut = self._open & (row["obs"] != self._next_obs).any(1)
        if cut.any():
            self._close(cut, self._next_obs, torch.zeros_like(cut), cut)
        closed = row["terminated"] | row["truncated"]
        if (after["done"] & ~closed).any():
            raise ValueError("an episode is done, but neither terminated nor truncated")
        self._write(self._slots, row)
        self.num_transitions += self.slots_per_task
        self._open, self._next_obs = ~closed, after["obs"].clone()
        if closed.any():
            self._close(closed, after["obs"], row["terminated"], row["truncated"])

    def _split(self, td: TensorDictBase) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The row of each slot, and the next obs and done."""
        if td.batch_size != (self.num_slots,):
            raise ValueError(f"batch_size {list(td.batch_size)}: expected one vector step, [{self.num_slots}]")
        root, after = dict(td.items()), dict(td.get("next", TensorDict()).items())
        root = {**dict.fromkeys(self.extras, self._absent), **root}
        row = {key: self._read(root, key, key) for key in ("obs", "action", "task", *self.extras)}
        row["action"] = row["action"].clamp(-1, 1)
        if "action_mask" in root:
            row["action"] *= root["action_mask"].cpu()
        row |= {key: self._read(after, key, key, column=True) for key in ("reward", "terminated", "truncated")}
        if not torch.equal(row["task"], self.slot_task):
            raise ValueError(f"task is {row['task'].tolist()}, but the slots hold {self.slot_task.tolist()}")
        row["env_step"] = self.num_transitions[self.slot_task] + self._rank
        row["closing"] = self._not_closing
        done = self._read(after, "done", "terminated", column=True)
        return row, {"obs": self._read(after, "obs", "obs"), "done": done}

    def _read(self, source: dict[str, Tensor], key: str, entry: str, column: bool = False) -> Tensor:
        """One entry [n, ...] of a vector step, checked against the schema; with ``column`` it is given as [n, 1]."""
        value = source.get(key)
        shape, dtype = self.schema[entry]
        expected = (self.num_slots, *shape, *((1,) if column else ()))
        if value is None:
            raise ValueError(f"{key} is missing: replay stores {list(expected)} {dtype}; there is {sorted(source)}")
        if value.shape != expected or value.dtype != dtype:
            raise ValueError(f"{key} is {list(value.shape)} {value.dtype}: replay stores {list(expected)} {dtype}")
        value = value.cpu()
        return value.squeeze(-1) if column else value

    def _close(self, mask: Tensor, obs: Tensor, terminated: Tensor, truncated: Tensor) -> None:
        """Writes the final observations of the slots in `mask`."""
        slot = mask.nonzero().flatten()
        m, task = len(slot), self.slot_task[slot]
        row = {
            "obs": obs[slot],
            "action": torch.zeros(m, self.action_dim),
            "reward": torch.zeros(m),
            "terminated": terminated[slot],
            "truncated": truncated[slot],
            "closing": torch.ones(m, dtype=torch.bool),
            "task": task,
            "env_step": self.num_transitions[task],
            **{name: torch.full((m,), torch.nan) for name in self.extras},
        }
        self._write(slot, row)

    def _write(self, slot: Tensor, row: dict[str, Tensor]) -> None:
        self.buffer.extend(TensorDict({**row, "slot": slot}, batch_size=[len(slot)]))

    # -- drawing -----------------------------------------------------------------------------------------------------

    def sample(self, counts: Tensor | None = None) -> Batch:
        """A batch of windows (see `types.py`); `index` holds ids for `update_priority`.

        ``counts`` [T] ([1] with `ier=False`) is the number of windows of each task; None: an equal share of
        `batch_size`. Raises ValueError with the task's index while a task has nothing to draw.
        """
        row, info = self.sampler.sample(self.buffer.storage, self.batch_size, counts)
        rows = self._entries(row, "obs", "action", "reward", "terminated", "closing", *self.extras)
        starts = self._entries(row[:, 0], "task", "env_step")
        task, env_step = starts["task"], starts["env_step"]
        info = {key: value.to(task.device, non_blocking=True) for key, value in info.items()}
        return Batch(
            obs=rows["obs"],
            action=rows["action"],
            reward=rows["reward"],
            valid=info["valid"],
            final=info["valid"] & rows["closing"] & rows["terminated"],
            extras=TensorDict({name: rows[name] for name in self.extras}, batch_size=list(row.shape)),
            task=task,
            age=(self.num_transitions.to(task.device)[task] - 1 - env_step) * self.world_size,
            weight=info["weight"],
            index=info["start"],
            demo=torch.zeros_like(task, dtype=torch.bool),
            batch_size=[len(task)],
        )

    def stored(self, *keys: str) -> list[Tensor]:
        """These entries [N, ...] of every row in storage."""
        rows = self._entries(self.writer.filled(), *keys)
        return [rows[key] for key in keys]

    def _entries(self, row: Tensor, *keys: str) -> dict[str, Tensor]:
        """The entries ``keys`` of stored rows, [*rows, ...]; one selection per key is far faster than indexing."""
        stored = self.buffer.storage[:]
        index = row.flatten().to(stored.device)
        return {key: stored[key].index_select(0, index).unflatten(0, row.shape) for key in keys}

    def update_priority(self, index: Tensor, priority: Tensor) -> None:
        """Sets the priorities [B] >= 0 of drawn windows; windows overwritten since then are ignored.

        Raises ValueError if a priority is negative or not finite.
        """
        self.buffer.update_priority(index, priority)

    # -- saving ------------------------------------------------------------------------------------------------------

    def _sizes(self) -> dict[str, Any]:
        return {
            "slot_task": self.slot_task.tolist(),
            "obs_dim": self.obs_dim,
            "action_dim": self.action_dim,
            "rows_per_slot": self.writer.length,
            "window": self.window,
            "priority_exponent": self.priority_exponent,
            "extras": list(self.extras),
        }

    def _capacity(self, sizes: dict[str, Any]) -> int:
        return sizes["rows_per_slot"] * self.slots_per_task

    def save(self, folder: str | Path) -> None:
        """Writes what an exact resumption needs: one file per stored entry (filled rows only), and state.pt."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        filled = self.writer.filled()
        state = {
            "sizes": self._sizes(),
            "writer": self.writer.state_dict(),
            "sampler": self.sampler.state_dict(),
            "generator": self.generator.get_state(),
            "num_transitions": self.num_transitions,
            "open": self._open,
            "next_obs": self._next_obs,
        }
        write(state, folder / "state.pt")
        if len(filled):
            rows = self.buffer.storage[:]
            for key in self.schema:
                write(rows[key][filled.to(rows.device)].cpu(), folder / f"{key}.pt")

    def load(self, folder: str | Path) -> None:
        """Restores what `save` wrote, also into a larger capacity.

        Raises ValueError with the sizes that differ if it was saved with others.
        """
        folder = Path(folder)
        state = read(folder / "state.pt")
        saved, sizes = {"extras": ["search_value"]} | state["sizes"], self._sizes()  # older files lack the extras
        smaller = sizes["rows_per_slot"] < saved["rows_per_slot"]
        fixed = [key for key in sizes if key != "rows_per_slot" and saved[key] != sizes[key]]
        differing = [f"{key} is {saved[key]} there, {sizes[key]} here" for key in fixed]
        differing += [f"capacity is {self._capacity(saved)} there, {self._capacity(sizes)} here"] if smaller else []
        if differing:
            raise ValueError(f"the replay in {folder} does not fit: " + "; ".join(differing))
        rows = {key: read(folder / f"{key}.pt") for key in self.schema} if state["writer"]["count"].any() else {}
        if sizes["rows_per_slot"] > saved["rows_per_slot"]:
            rows = counted_anew(state, rows)
        self.writer.load_state_dict(state["writer"])
        self.sampler.load_state_dict(state["sampler"])
        self.generator.set_state(state["generator"])
        self.num_transitions.copy_(state["num_transitions"])
        self._open, self._next_obs = state["open"], state["next_obs"]
        if rows:
            filled = self.writer.filled()
            self.writer.put(filled, TensorDict(rows, batch_size=[len(filled)]))

    def adopt(self, folders: Sequence[Path], *, rank: int, world_size: int) -> None:
        """Loads this rank's share of ``folders``, the shards of any number of processes.

        Whole episodes are dealt in the order of their collection, with their priorities; a row without one gets the
        largest of its group. An episode that was running ends here, truncated. A slot that gets more rows than it can
        hold keeps the newest.
        """
        shards = [read_shard(folder) for folder in folders]
        parts = [segment for segment in segments(shards) if len(segment) > 1]  # one row is a final observation alone
        dealt = deal(parts, self.slot_task, rank=rank, world_size=world_size)
        self.num_transitions.copy_(sum(shard.state["num_transitions"] for shard in shards) // world_size)
        rows, priority = zip(*(self._adopted(slot_segments, world_size) for slot_segments in dealt), strict=True)
        self.put(rows)
        highest = torch.tensor([float(each.max()) if len(each) else 0.0 for each in priority], dtype=torch.float64)
        by_group = highest.view(self.sampler.num_groups, -1)
        by_group[:] = by_group.amax(1, keepdim=True)
        for s, values in enumerate(priority):
            known = torch.where(values > 0, values, highest[s] if highest[s] > 0 else 1.0)
            self.update_priority(torch.arange(len(values)) * self.num_slots + s, known)

    def put(self, rows: Sequence[dict[str, Tensor]]) -> None:
        """Stores rows {key: [n, ...]} of each slot unchanged: whole episodes, each with its closing row."""
        lengths = [len(slot_rows["task"]) if slot_rows else 0 for slot_rows in rows]
        for at in range(max(lengths)):
            slot = torch.tensor([s for s in range(self.num_slots) if at < lengths[s]])
            self._write(slot, {key: torch.stack([rows[s][key][at] for s in slot]) for key in self.schema})

    def _adopted(self, dealt: Sequence[Segment], world_size: int) -> tuple[dict[str, Tensor], Tensor]:
        """The rows of one slot, in order, and their priorities [n]."""
        if not dealt:
            return {}, torch.zeros(0)
        parts = [segment.rows(self.schema, self.extras) for segment in dealt]
        rows = {key: torch.cat([part[key] for part in parts]) for key in self.schema}
        age, priority = (torch.cat(x) for x in zip(*((part.age, part.priority) for part in dealt), strict=True))
        rows["env_step"] = self.num_transitions[rows["task"]] - 1 - (age / world_size).round().long()
        return rows, priority


def _num_tasks(slot_task: Tensor) -> int:
    """The number of tasks; raises ValueError unless slots are grouped by task 0, 1, ..., the same number for each."""
    num_tasks = int(slot_task.max()) + 1 if len(slot_task) else 0
    if not num_tasks or len(slot_task) % num_tasks:
        raise ValueError(f"slot_task {slot_task.tolist()}: every task needs the same number of slots, at least one")
    grouped = torch.arange(num_tasks).repeat_interleave(len(slot_task) // num_tasks)
    if not torch.equal(slot_task, grouped):
        raise ValueError(f"slot_task {slot_task.tolist()}: expected slots grouped by task, {grouped.tolist()}")
    return num_tasks


def _check_at_least(name: str, value: float, least: float, reason: str = "") -> None:
    if value < least:
        raise ValueError(f"{name}={value}: must be at least {least}" + (f" ({reason})" if reason else ""))
