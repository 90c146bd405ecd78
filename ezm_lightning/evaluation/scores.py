"""Normalised scores: 0 is the return of random actions, 1 that of a solved task."""

from __future__ import annotations

from ezm_lightning.envs.spec import TaskSpec


def normalised(value: float, spec: TaskSpec) -> float | None:
    """(value − random) / (success − random); None if one of the two scores is not published.

    The Control Suite has no published random score: the result is value / 1000, as in its papers.
    """
    if spec.success_score is None:
        return None
    if spec.name.startswith("dmc/"):
        return value / spec.success_score
    if spec.random_score is None:
        return None
    return (value - spec.random_score) / (spec.success_score - spec.random_score)
