"""A draw of windows, against copying as many bytes and against selecting the same rows."""

from __future__ import annotations

import itertools

import torch
from tensordict import TensorDict
from torch import Tensor

from benchmarks.arguments import Arguments
from benchmarks.measure import Row, Timer, measured
from ezm_lightning.replay import Replay, rows_per_slot

TASKS, OBS_DIM, ACTION_DIM, UNROLL_STEPS, TD_STEPS = 9, 151, 19, 5, 5
EPISODE = 1000  # rows


def rows(arguments: Arguments, timer: Timer) -> list[Row]:
    """One row for each batch size and capacity; the floor copies the bytes that a draw returns."""
    measured_rows = []
    for capacity in arguments.options["capacity"]:
        for batch_size in arguments.options["batch"]:
            replay = filled(capacity, batch_size, arguments.device)
            measured_rows.append(_row(arguments, timer, replay, capacity, batch_size))
    return measured_rows


def _row(arguments: Arguments, timer: Timer, replay: Replay, capacity: int, batch_size: int) -> Row:
    batch = replay.sample()
    returned = sum(x.nbytes for x in batch.values(include_nested=True, leaves_only=True))
    source = torch.rand(returned // 4, device=arguments.device)
    indices = itertools.cycle([drawn(replay) for _ in range(timer.repeats + 1)])  # as little in the cache as ours
    ours, floor, peer = timer.medians(replay.sample, source.clone, lambda: select(replay, next(indices)))
    return measured(
        arguments,
        size=f"{TASKS}x{capacity}",
        batch=batch_size,
        ms=ours,
        floor=floor,
        packages=("torchrl", "tensordict"),
        peer=arguments.options["against"],
        peer_ms=peer,
        details={"megabytes": returned / 1e6},
    )


def drawn(replay: Replay) -> Tensor:
    """The rows of storage of one draw [B W]."""
    row, _ = replay.sampler.sample(replay.buffer.storage, replay.batch_size)
    return row.flatten().to(replay.buffer.storage[:].device)


def select(replay: Replay, index: Tensor) -> list[Tensor]:
    """The entries at these rows, one ``torch.index_select`` each."""
    stored = replay.buffer.storage[:]
    return [torch.index_select(stored[key], 0, index) for key in replay.schema]


def filled(capacity: int, batch_size: int, device: str) -> Replay:
    """A full replay of one slot a task: random rows in episodes of 1000, random priorities; put there at once."""
    replay = Replay(
        slot_task=torch.arange(TASKS),
        obs_dim=OBS_DIM,
        action_dim=ACTION_DIM,
        capacity=capacity,
        unroll_steps=UNROLL_STEPS,
        td_steps=TD_STEPS,
        batch_size=batch_size,
        device=device,
    )
    length = rows_per_slot(num_tasks=TASKS, num_slots=TASKS, capacity=capacity)
    counter = torch.arange(length).repeat(TASKS)
    closing = counter % EPISODE == EPISODE - 1
    replay.writer.load_state_dict({"count": torch.full((TASKS,), length)})
    replay.sampler.load_state_dict(_sampler_state(counter, closing, length))
    for slot in range(TASKS):
        rows = torch.arange(slot * length, (slot + 1) * length)
        replay.writer.put(rows, _random_rows(replay, slot, closing[rows]))
    replay.num_transitions.fill_(length)
    return replay


def _sampler_state(counter: Tensor, closing: Tensor, length: int) -> dict:
    mass = torch.rand(len(counter), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    last = (counter // EPISODE + 1) * EPISODE - 1
    newest = counter == length - 1
    return {
        "oldest": torch.zeros(TASKS, dtype=torch.int64),
        "inside": torch.full((TASKS,), int((~closing).sum()) // TASKS),
        "first": torch.full((TASKS,), length // EPISODE * EPISODE),
        "settled": torch.full((TASKS,), length - 1),
        "mass": mass.masked_fill(closing | newest, 0.0),
        "last": last,
        "length": length,
        "turn": 0,
    }


def _random_rows(replay: Replay, slot: int, closing: Tensor) -> TensorDict:
    n = len(closing)
    row = {
        key: torch.rand(n, *shape) if dtype.is_floating_point else torch.zeros(n, *shape, dtype=dtype)
        for key, (shape, dtype) in replay.schema.items()
    }
    row |= {"closing": closing, "truncated": closing, "task": torch.full((n,), slot), "env_step": torch.arange(n)}
    return TensorDict(row, batch_size=[n])
