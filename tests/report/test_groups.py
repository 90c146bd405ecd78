"""Seeds of one experiment are one group; unlike settings are never averaged without a word."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest

from ezm_lightning.report.contents import common_step
from ezm_lightning.report.floors import Floor, floor_of
from ezm_lightning.report.groups import Group, make_groups, scores_of
from ezm_lightning.report.runs import Curve, Run, read_run
from tests.report.folders import make_run


@pytest.fixture
def run(tmp_path: Path):
    def make(points, **options) -> Run:
        folder = make_run(tmp_path / f"run{len(list(tmp_path.iterdir()))}", points, **options)
        return read_run(folder / "eval.csv")

    return make


def test_seeds_and_tasks_are_one_group(run) -> None:
    runs = [run([(10, 1.0)], seed=seed, task=task) for seed in (1, 2) for task in ("dmc/walker-walk", "dmc/walker-run")]
    groups, notes = make_groups({}, runs)
    assert [group.name for group in groups] == ["mine"] and notes == []
    assert groups[0].seeds == ["1", "2"] and groups[0].tasks == ["dmc/walker-walk", "dmc/walker-run"]


def test_other_settings_are_another_group_that_says_which(run) -> None:
    runs = [run([(10, 1.0)]), run([(10, 1.0)], seed=2), run([(10, 1.0)], batch_size=8)]
    groups, _ = make_groups({}, runs)
    assert {group.name: len(group.runs) for group in groups} == {"mine: batch_size=64": 2, "mine: batch_size=8": 1}


def test_a_label_puts_unlike_runs_together_and_says_so(run) -> None:
    groups, notes = make_groups({"both": [run([(10, 1.0)]), run([(10, 1.0)], batch_size=8)]}, [run([(10, 1.0)])])
    assert [group.name for group in groups] == ["both", "mine"]
    assert notes == ["The runs of both differ in more than seed and tasks: batch_size."]


def test_a_label_that_is_a_name_too_stays_apart(run) -> None:
    groups, _ = make_groups({"mine": [run([(10, 1.0)])]}, [run([(10, 1.0)])])
    assert [group.name for group in groups] == ["mine", "mine (2)"]


def test_curves_are_compared_where_all_runs_have_been(run) -> None:
    """One run stopped at 25: what the other did afterwards does not count. Nothing is interpolated."""
    long = run([(5, 9.0), (10, 1.0), (20, 8.0), (30, 100.0)])
    short = run([(10, 3.0), (25, 5.0)], seed=2)
    group = Group("mine", [long, short])
    task = "dmc/walker-walk"
    assert group.grid([task]) == [10] and group.last_step([task]) == 10
    assert group.strata([task], [10])[0].tolist() == [[1], [3]]
    apart = run([(40, 1.0)], seed=3)
    assert group.grid([]) == [] and Group("mine", [long, apart]).last_step([task]) is None


def test_steps_that_differ_by_a_hundredth_are_the_same(run) -> None:
    """Numbers of tasks and of steps a decision shift an evaluation by a few steps."""
    runs = [run([(100_000, 1.0), (200_000, 2.0)]), run([(99_998, 3.0), (203_000, 4.0)], seed=2)]
    group = Group("mine", runs)
    assert group.grid(["dmc/walker-walk"]) == [100_000]
    assert group.strata(["dmc/walker-walk"], [100_000])[0].tolist() == [[1], [3]]


def test_an_untrained_agent_is_told_by_its_updates(tmp_path: Path) -> None:
    (tmp_path / "eval.csv").write_text("env_steps,update,task,return\n10,0,a/b,5\n20,7,a/b,5\n")
    group = Group("mine", [read_run(tmp_path / "eval.csv")])
    assert group.grid(["a/b"]) == [10, 20] and group.grid(["a/b"], trained=True) == [20]


def test_two_groups_are_compared_after_their_first_updates_or_not_at_all(tmp_path: Path) -> None:
    """The first evaluation of one lies at the warm-up's end, where the other has learned already."""
    texts = {"slow": "4000,0,a/b,1\n10000,9,a/b,5\n", "fast": "4000,9,a/b,4\n8000,20,a/b,5\n"}
    groups = {}
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text("env_steps,update,task,return\n" + text)
        groups[name] = Group(name, [read_run(tmp_path / f"{name}.csv")])
    assert common_step(groups["slow"], groups["fast"], "a/b") is None
    assert common_step(groups["fast"], groups["fast"], "a/b") == 8000


def test_a_run_that_another_continues_is_no_second_seed(run) -> None:
    """Resumed by the path of a checkpoint, a run begins a folder with the curve that there was."""
    first, whole, other = run([(10, 1.0)]), run([(10, 1.0), (20, 2.0)]), run([(10, 1.0)], seed=2)
    for labelled, unlabelled in (({}, [first, whole, other]), ({"all": [whole, first, other]}, [])):
        (group,), notes = make_groups(labelled, unlabelled)
        assert list(group.runs) == [whole, other] and len(notes) == 1 and str(first.path) in notes[0]


def test_a_seed_without_every_task_is_named(run) -> None:
    runs = [run([(10, 1.0)], task="dmc/walker-walk"), run([(10, 1.0)], task="dmc/cheetah-run")]
    assert make_groups({"all": runs}, [])[1] == []
    (_,), notes = make_groups({"all": [*runs, run([(10, 1.0)], seed=2)]}, [])
    assert notes == ["all: seed 2 has 1 of 2 tasks."]


def test_a_run_may_go_on_with_a_larger_budget_in_another_folder(tmp_path: Path) -> None:
    first, whole = make_run(tmp_path / "a", [(10, 1.0)]), make_run(tmp_path / "b", [(10, 1.0), (20, 2.0)], budget=200)
    runs = [read_run(folder / "eval.csv") for folder in (first, whole)]
    for labelled, unlabelled in (({}, runs), ({"all": runs}, [])):
        (group,), notes = make_groups(labelled, unlabelled)
        assert list(group.runs) == runs[1:] and len(notes) == 1 and str(first) in notes[0]


def test_scores_by_hand() -> None:
    assert Floor(score_0=10.0, score_1=110.0).score(np.array([35.0])).tolist() == [0.25]
    assert np.isnan(Floor(random=1.0).score(np.array([35.0]))).all()
    crawl = floor_of("hb/h1-crawl")
    assert (crawl.score_0, crawl.score_1, crawl.random, crawl.zero) == (272.658, 700.0, 300.81, 291.8)
    balance = floor_of("dmc/cartpole-balance")
    assert balance.score(1000.0) == 1 and balance.score(balance.random) == 0
    assert floor_of("gym/Hopper-v5").score_1 == gymnasium.spec("Hopper-v5").reward_threshold
    assert not floor_of("mw/reach-v3").has_score
    assert floor_of("hb/h1-crawl on h1 (built-in collision shapes)") == Floor()


def curve_of(*, returns: list[float], ignoring: list[float], success: list[float]) -> Curve:
    return Curve(np.arange(2), np.array(returns), np.array(ignoring), np.array(success), np.arange(2))


def test_a_task_without_a_score_has_its_success_if_it_is_reported() -> None:
    """Published constants come first; a task with neither has no score and is in no mean."""
    nan = float("nan")
    reports = curve_of(returns=[272.658, 700.0], ignoring=[700.0, nan], success=[0.5, 1.0])
    assert scores_of("hb/h1-crawl", reports).tolist() == [0, 1]
    assert scores_of("hb/h1-crawl", reports, ignoring=True)[0] == 1
    assert scores_of("mw/reach-v3", reports).tolist() == [0.5, 1.0]
    silent = curve_of(returns=[1.0, 2.0], ignoring=[1.0, 2.0], success=[nan, nan])
    assert np.isnan(scores_of("mw/reach-v3", silent)).all()


def test_a_group_counts_the_tasks_that_have_a_score(tmp_path: Path) -> None:
    """Success is read from the file; a run without the column reports none."""
    (tmp_path / "eval.csv").write_text(
        "env_steps,update,task,return,return_std,return_ignoring_termination,episodes,success\n"
        "10,1,mw/reach-v3,5,0,5,2,0.5\n10,1,dmc/walker-walk,1000,0,1000,2,\n10,1,own/task,5,0,5,2,\n"
    )
    group = Group("mine", [read_run(tmp_path / "eval.csv")])
    assert group.scored_tasks == ["mw/reach-v3", "dmc/walker-walk"]
    assert [float(x[0, 0]) for x in group.strata(group.scored_tasks, [10], scored=True)] == [0.5, 1.0]
