"""Normalised scores: how far a return is from random actions to a task that is solved."""

from __future__ import annotations

from ezm_lightning.envs.spec import TaskSpec


def normalised(value: float, spec: TaskSpec) -> float | None:
    """(value − random) / (success − random); None where one of the two scores is not published.

    The Control Suite has no published random score: there it is value / 1000, as its papers report it.
    """
    if spec.success_score is None:
        return None
    if spec.name.startswith("dmc/"):
        return value / spec.success_score
    if spec.random_score is None:
        return None
    return (value - spec.random_score) / (spec.success_score - spec.random_score)
