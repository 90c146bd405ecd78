"""Cosines between the gradients of tasks that runs have measured (``callbacks=gradient_similarity``)."""

from __future__ import annotations

import csv
from collections.abc import Sequence

import numpy as np

from ezm_lightning.report.groups import Group
from ezm_lightning.report.tables import Data

FILE = "gradient_similarity.csv"
COLUMNS = ("env_steps", "update", "part", "task_a", "task_b", "cosine")


def read_similarities(groups: Sequence[Group]) -> Data:
    """All measured pairs, one row each; lines that cannot be read are left out."""
    data = Data("gradient_similarity", ("group", "seed", *COLUMNS))
    for group in groups:
        for run in group.runs:
            file = run.path.with_name(FILE)
            if run.path.name != "eval.csv" or not file.is_file():
                continue
            with open(file, newline="", encoding="utf-8", errors="replace") as text:
                for row in csv.DictReader(text):
                    try:
                        numbers = (int(row["env_steps"]), int(row["update"]), float(row["cosine"]))
                    except (KeyError, TypeError, ValueError):
                        continue
                    names = (row["part"], row["task_a"], row["task_b"])
                    data.add(group.name, run.record.seed, *numbers[:2], *names, numbers[2])
    return data


def pairs_of(data: Data, group: str, part: str) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """For each pair of tasks, the simulator steps and the mean cosine over seeds; the most similar pair first."""
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for name, _, env_steps, _, own_part, a, b, cosine in data.rows:
        if (name, own_part) == (group, part):
            values.setdefault((str(a), str(b)), {}).setdefault(int(str(env_steps)), []).append(float(str(cosine)))
    curves = {
        pair: (np.array(sorted(points)), np.array([np.mean(points[step]) for step in sorted(points)]))
        for pair, points in values.items()
    }
    return dict(sorted(curves.items(), key=lambda item: -item[1][1].mean()))
