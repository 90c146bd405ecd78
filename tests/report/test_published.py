"""The committed copy of published results: whole, sourced, and found by the names that are documented."""

from __future__ import annotations

import math

import pytest

from ezm_lightning.commands import report
from ezm_lightning.report.published import ALGORITHMS, named, points_of, sources_of


def test_every_algorithm_has_points_and_every_point_a_source() -> None:
    tasks = {"dmc/cartpole-swingup", "dmc/walker-walk", "hb/h1-walk", "hb/h1hand-stand"}
    for name in ALGORITHMS:
        points = points_of([name], tasks)
        assert points, name
        rows = sources_of(points)
        assert {row["source"] for row in rows} == {point.source for point in points}
        assert all(row["from"] and row["licence"] for row in rows)


def test_every_name_is_documented() -> None:
    assert set((report.__doc__ or "").replace(",", " ").split()) >= set(ALGORITHMS)


def test_a_known_point() -> None:
    (point,) = [p for p in points_of(["simba"], ["dmc/walker-walk"]) if p.env_steps == 50_000]
    assert point.label == "SimBa [simbav2/simba_utd2]" and point.seeds == "10"
    assert point.low < point.mean < point.high and round(point.mean) == 900
    (figure,) = [p for p in points_of(["ezv2"], ["dmc/walker-walk"]) if p.env_steps == 50_000]
    assert round(figure.mean) == 846 and math.isnan(figure.low)


def test_an_unknown_name_is_one_line_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="against=tdmpc-2 is not known; nearest: tdmpc2 "):
        named("simba,tdmpc-2")


def test_names_are_a_list_or_all() -> None:
    assert named("simba, ezv2") == ["simba", "ezv2"] and named("all") == list(ALGORITHMS)


def test_returns_that_ignore_termination_are_marked() -> None:
    points = points_of(["ezm", "simba"], ["hb/h1-stand"])
    assert {point.algorithm for point in points if point.ignores_termination} == {"EZ-M"}
    assert {point.env_steps for point in points if point.source == "ezm/curves"} > {20_000, 40_000, 100_000, 800_000}
