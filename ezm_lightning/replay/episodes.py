"""Rows of replay as episodes with their task's own widths, and episodes as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ezm_lightning.replay.minari_format import Episode
from ezm_lightning.replay.rings import Replay, row_schema
from ezm_lightning.replay.shards import Segment, read_shard, segments

SLOTS = 64  # per task; a write stores one row of each slot, so more slots need fewer writes
UNROLL_STEPS = TD_STEPS = 1  # of the replay that is saved; no windows are drawn from it
RESERVED = {*row_schema(0, 0), "slot", "state"}  # names that replay has for its own columns and files
COLUMNS = ("env_step",)  # beside the extras, the columns of an episode that are no part of its transitions


class SavedReplay:
    """The replay that the processes of a run saved; ``Replay.save`` wrote ``folders``."""

    def __init__(self, folders: Sequence[Path]) -> None:
        shards = [read_shard(folder) for folder in folders]
        self.extras: list[str] = list(shards[0].state["sizes"].get("extras", ["search_value"])) if shards else []
        self._segments = segments(shards)

    def episodes(self, task: int, obs_dim: int, action_dim: int) -> Iterator[Episode]:
        """The episodes of a task, oldest first. In a full ring the oldest episode lacks its beginning.

        A final observation whose transitions have all been overwritten is no episode.
        """
        for segment in self.segments_of(task):
            yield self._episode(segment, obs_dim, action_dim)

    def segments_of(self, task: int) -> list[Segment]:
        """The segments of the episodes that ``episodes`` yields."""
        return [segment for segment in self._segments if segment.task == task and len(segment) > 1]

    def _episode(self, segment: Segment, obs_dim: int, action_dim: int) -> Episode:
        rows = segment.rows(row_schema(obs_dim, action_dim, self.extras), self.extras)
        return Episode(
            obs=rows["obs"][:, :obs_dim].numpy(),
            action=rows["action"][:-1, :action_dim].numpy(),
            reward=rows["reward"][:-1].numpy(),
            terminated=rows["terminated"][:-1].numpy(),
            truncated=rows["truncated"][:-1].numpy(),
            columns={name: rows[name].numpy() for name in (*COLUMNS, *self.extras)},
            running=not bool((rows["terminated"] | rows["truncated"])[-2]),
        )


def rows_of(episode: Episode, task: int, *, obs_dim: int, action_dim: int, extras: Sequence[str]) -> dict[str, Tensor]:
    """The rows {key: [N+1, ...]} of an episode, padded to the widths of a replay; missing extras are NaN.

    ``env_step`` is 0, 1, … if the episode has no such column.
    """
    n = len(episode)
    closing = np.arange(n + 1) == n
    after = {
        "terminated": episode.terminated[-1:],
        "truncated": episode.truncated[-1:] | np.array([episode.running]),
    }
    rows = {
        "obs": pad(torch.from_numpy(episode.obs), (0, obs_dim - episode.obs.shape[1])),
        "action": pad(torch.from_numpy(episode.action), (0, action_dim - episode.action.shape[1], 0, 1)),
        "reward": pad(torch.from_numpy(episode.reward), (0, 1)),
        "closing": torch.from_numpy(closing),
        "task": torch.full((n + 1,), task),
        "env_step": torch.from_numpy(np.asarray(episode.columns.get("env_step", np.arange(n + 1)), np.int64)),
    }
    for key, last in after.items():
        rows[key] = torch.from_numpy(np.concatenate([getattr(episode, key), last]))
    for name in extras:
        column = episode.columns.get(name, np.full(n + 1, np.nan))
        rows[name] = torch.from_numpy(np.asarray(column, np.float32))
    return rows


def replay_of(episodes: Sequence[Sequence[Episode]], **settings: Any) -> Replay:
    """A replay that holds the episodes of each task, distributed over up to 64 slots per task.

    ``Replay.adopt`` loads it into a replay with any other number of slots and processes. ``settings`` are arguments of
    :class:`Replay` in place of the defaults here, which are only good for saving. Columns that have a name of the
    replay's own, such as ``reward``, are left out.
    """
    parts = [episode for task_episodes in episodes for episode in task_episodes]
    arguments: dict[str, Any] = {
        "obs_dim": max(episode.obs.shape[1] for episode in parts),
        "action_dim": max(episode.action.shape[1] for episode in parts),
        "extras": sorted({name for episode in parts for name in episode.columns} - RESERVED),
        "unroll_steps": UNROLL_STEPS,
        "td_steps": TD_STEPS,
        "batch_size": len(episodes),
        **settings,
    }
    columns = {key: arguments[key] for key in ("obs_dim", "action_dim", "extras")}
    slots = slots_for(episodes)
    rows = [
        _joined([rows_of(episode, task, **columns) for episode in task_episodes[slot::slots]])
        for task, task_episodes in enumerate(episodes)
        for slot in range(slots)
    ]
    replay = Replay(
        slot_task=[task for task in range(len(episodes)) for _ in range(slots)],
        capacity=max(rows_needed(episodes), slots * (arguments["unroll_steps"] + arguments["td_steps"] + 1)),
        **arguments,
    )
    for slot_rows in filter(None, rows):
        task, newest = int(slot_rows["task"][0]), int(slot_rows["env_step"][~slot_rows["closing"]].max())
        replay.num_transitions[task] = max(int(replay.num_transitions[task]), newest + 1)
    replay.put(rows)
    return replay


def slots_for(episodes: Sequence[Sequence[Episode]]) -> int:
    """The slots per task of :func:`replay_of`."""
    return min(SLOTS, max(map(len, episodes)))


def rows_needed(episodes: Sequence[Sequence[Episode]]) -> int:
    """The rows per task of :func:`replay_of`: each slot has room for the longest, closing rows included."""
    slots = slots_for(episodes)
    return slots * max(
        sum(len(episode) + 1 for episode in of_task[slot::slots]) for of_task in episodes for slot in range(slots)
    )


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of consecutive episodes, joined; {} without episodes."""
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]} if parts else {}
