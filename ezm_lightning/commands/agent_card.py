"""The card beside an agent file: its tasks, its returns, how it was made, its licence."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ezm_lightning.checkpoints.agent_file import AgentRecord
from ezm_lightning.checkpoints.text_file import replace_text
from ezm_lightning.commands.eval import Row
from ezm_lightning.player import SHIPPED

LICENCE = "Apache-2.0"
POLICY = "policy mean"


def card(
    file: Path, record: AgentRecord, rows: Sequence[Row], *, seed: int, updates: int, command: str, commit: str
) -> str:
    """The text of the card. ``rows`` are the returns of an evaluation with ``seed``; empty without one."""
    parameters = sum(weight.numel() for weight in record.weights.values())
    planner = record.config["planner"]
    named = shlex.quote(file.stem if file.parent == SHIPPED else file.name)
    lines = [
        f"# {file.stem}",
        "",
        f"An agent of ezm_lightning (EfficientZero-Multitask): {len(record.tasks)} "
        f"task{'s' if len(record.tasks) > 1 else ''}, {parameters / 1e6:.2f} M parameters, "
        f"{file.stat().st_size / 1e6:.2f} MB. A decision plans {planner['num_simulations']} simulations and lasts "
        f"{', '.join(map(str, np.atleast_1d(record.action_repeat)))} simulator steps.",
        "",
        *_returns(record, rows, seed),
        "",
        f"* Trained by: `{command}`; these are the weights after {updates:,} updates",
        f"* Commit: {commit}",
        f"* Licence: {LICENCE}",
        f"* See it act: `ezm play {named}`",
        "",
    ]
    return "\n".join(lines)


def _returns(record: AgentRecord, rows: Sequence[Row], seed: int) -> list[str]:
    if not rows:
        return ["Tasks, without measured returns: " + ", ".join(record.tasks)]
    table = ["| task | return with search | policy alone | random actions |", "|---|---|---|---|"]
    for row in rows:
        alone = f"{row.others[POLICY]:.0f}" if POLICY in row.others else "–"
        table.append(f"| {row.task} | {row.return_:.0f} ± {row.return_std:.0f} | {alone} | {row.random:.0f} |")
    count = f"{rows[0].episodes} episode{'s' * (rows[0].episodes != 1)}"
    return [*table, "", f"Mean ± standard deviation over {count}, evaluation seed {seed}, one training run."]


def write_card(text: str, file: Path) -> Path:
    """Writes the card beside an agent file, completely or not at all."""
    place = file.with_suffix(".md")
    replace_text(place, text)
    return place
