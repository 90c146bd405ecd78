"""``ezm export format=agent``: a file for ``ezm_lightning.load`` and its card; what=policy compares returns."""

from __future__ import annotations

import json
import os
import tempfile

import numpy as np
import pytest

import ezm_lightning
from ezm_lightning.agent import load
from ezm_lightning.checkpoints.contents import read_content
from ezm_lightning.checkpoints.runs import RECORD
from ezm_lightning.commands import export
from ezm_lightning.commands.eval import Row, evaluate
from ezm_lightning.envs import sources
from ezm_lightning.evaluation.episodes import play
from ezm_lightning.export.runtime import ExportedAgent
from tests.commands.test_eval import TASKS, Edge, Pair, Point
from tests.test_player import obs_of, write_checkpoint


class Away(Point):
    """Changes the working folder."""

    def __init__(self):
        os.chdir(tempfile.mkdtemp())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    sources.register_source("short", {"point": Point, "edge": Edge, "pair": Pair, "away": Away})
    try:
        yield write_checkpoint(tmp_path_factory.mktemp("export_agent") / "a.ckpt")
    finally:
        del sources.SOURCES["short"]


def test_the_file_acts_and_its_card_says_how_it_was_made(checkpoint, tmp_path, capsys) -> None:
    arguments = ["format=agent", f"out={tmp_path / 'robot'}", "eval_episodes=2"]
    made = ["card.command='ezm train seed=1'", "card.commit=abc123"]
    assert export.main([f"ckpt_path={checkpoint}", *arguments, *made]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["robot.agent", "robot.md"]
    card = (tmp_path / "robot.md").read_text()
    for task in TASKS:
        assert f"| {task} |" in card
    for words in ("2 episodes", "`ezm train seed=1`", "after 1 updates", "abc123", "Apache-2.0", "ezm play robot"):
        assert words in card
    assert "robot.agent" in capsys.readouterr().out
    agent, of_checkpoint = ezm_lightning.load(tmp_path / "robot.agent"), ezm_lightning.load(checkpoint)
    obs = np.ones(agent.table.obs_dims[0])
    np.testing.assert_array_equal(agent.act(obs, TASKS[0]), of_checkpoint.act(obs, TASKS[0]))


OWN = "model.obs_norm={_target_: ezm_lightning.model.obs_norm.TaskObsNorm}"  # statistics of each task
DISCOUNT = "discount={short/edge: 0.9, short/pair: 0.95, others: 0.99}"


@pytest.mark.parametrize("embedding", ["id", "both"])
def test_some_of_the_tasks_act_as_in_the_whole_agent(checkpoint, tmp_path, embedding) -> None:
    texts = tmp_path / "texts.yaml"
    texts.write_text("".join(f"{task}: {task} is a task\n" for task in TASKS))
    words = [f"task_embedding={embedding}"]
    words += ["text.encoder=hashed", f"text.instructions={texts}"] if embedding == "both" else []
    file = write_checkpoint(tmp_path / "whole.ckpt", "debug", TASKS, OWN, DISCOUNT, *words)
    chosen = [TASKS[2], TASKS[1]]
    line = [f"ckpt_path={file}", f"tasks=[{','.join(chosen)}]", "eval_episodes=0"]
    assert export.main([*line, "format=agent", f"out={tmp_path / 'some'}"]) == 0
    whole, some = ezm_lightning.load(file), ezm_lightning.load(tmp_path / "some.agent")
    assert some.tasks == chosen
    for task in chosen:
        obs = obs_of(whole, task, 8)
        for search in (True, False):
            for agent in (whole, some):
                agent.reset(1)
            expected = whole.act(obs, task, search=search)
            np.testing.assert_array_equal(some.act(obs, task, search=search), expected)
    pytest.importorskip("onnxruntime", reason="pip install 'ezm-lightning[onnx]'")
    assert export.main([*line, "what=policy", "roots=32", f"out={tmp_path / 'robot'}"]) == 0
    robot = ExportedAgent(tmp_path / "robot")
    assert robot.tasks == chosen
    obs = obs_of(whole, TASKS[1], 8)
    np.testing.assert_allclose(robot.act(obs, TASKS[1]), whole.act(obs, TASKS[1], search=False), atol=1e-4)


def test_a_task_that_the_agent_does_not_know(checkpoint, tmp_path, capsys) -> None:
    line = [f"ckpt_path={checkpoint}", "tasks=[dmc/cartpole-balance]", f"out={tmp_path / 'some'}"]
    for form in ("onnx", "agent"):
        assert export.main([*line, f"format={form}"]) == 2
        assert "the checkpoint has no task 'dmc/cartpole-balance'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_planner_that_was_asked_for_is_in_the_file(checkpoint, tmp_path) -> None:
    line = [f"ckpt_path={checkpoint}", "format=agent", "eval_episodes=0", "planner.num_simulations=3"]
    assert export.main([*line, f"out={tmp_path / 'robot'}"]) == 0
    content = read_content(tmp_path / "robot.agent")
    assert content["config"]["planner"]["num_simulations"] == 3


def test_a_run_has_recorded_how_it_was_made(tmp_path) -> None:
    file = tmp_path / "checkpoints" / "step=00000001.ckpt"
    assert export.how_made(file) == {"command": "unknown", "commit": "unknown"}
    commits = ["1" * 40, "1" * 40, "2" * 40]
    starts = [{"command": f"ezm train seed={n}", "git": {"commit": commit}} for n, commit in enumerate(commits)]
    (tmp_path / RECORD).write_text(json.dumps({"starts": [*starts, {"command": "ezm train", "git": None}]}))
    assert export.how_made(file) == {"command": "ezm train seed=0", "commit": "111111111, then 222222222, then unknown"}


def test_a_distilled_agent_was_trained_as_its_source(tmp_path) -> None:
    source = tmp_path / "seed1" / "checkpoints" / "step=00000020.ckpt"
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed1" / RECORD).write_text(json.dumps({"starts": [{"command": "ezm train seed=1"}]}))
    distil = {"source": str(source), "updates": 300}
    made = export.how_made(tmp_path / "distilled" / "checkpoints" / "step=00000320.ckpt", distil)
    assert made["command"] == "ezm train seed=1; ezm distil ckpt_path=step=00000020.ckpt updates=300"


@pytest.mark.parametrize(
    "form", [["format=agent"], ["format=torch", "what=policy", "roots=32"]], ids=["agent", "torch"]
)
def test_an_environment_that_changes_the_working_folder(checkpoint, form, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "seed1" / "checkpoints" / "a.ckpt", "debug", ["short/away"])
    (tmp_path / "seed1" / RECORD).write_text(json.dumps({"starts": [{"command": "ezm train seed=1"}]}))
    assert export.main(["ckpt_path=seed1/checkpoints/a.ckpt", "out=robot", "eval_episodes=1", *form]) == 0
    if form == ["format=agent"]:
        assert "`ezm train seed=1`" in (tmp_path / "robot.md").read_text() and (tmp_path / "robot.agent").is_file()
    else:
        assert (tmp_path / "robot" / "policy.pt2").is_file()


@pytest.mark.parametrize(("out", "better"), [(".", "mine"), ("..", "../mine"), ("/", "/mine")])
def test_an_agent_file_needs_a_name(checkpoint, out, better, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert export.main([f"ckpt_path={checkpoint}", "format=agent", f"out={out}"]) == 2
    assert capsys.readouterr().err.endswith(f"an agent file has a name of its own: out={better}\n")


def test_an_existing_file_is_kept(checkpoint, tmp_path, capsys) -> None:
    (tmp_path / "robot.md").write_text("mine")
    assert export.main([f"ckpt_path={checkpoint}", "format=agent", f"out={tmp_path / 'robot'}"]) == 2
    assert "robot.md exists already" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["robot.md"]


def test_an_unknown_format_names_the_nearest(checkpoint, tmp_path, capsys) -> None:
    assert export.main([f"ckpt_path={checkpoint}", "format=onxx", f"out={tmp_path / 'x'}"]) == 2
    assert "format=onxx; nearest: onnx" in capsys.readouterr().err


def row(search: float, policy: float, error: float | None) -> Row:
    others = {"others": {"policy mean": policy}, "other_errors": {"policy mean": error}}
    return Row("short/point", search, 3.0, search, 3.0, None, None, 0, 0, 9, **others)


@pytest.mark.parametrize(
    ("policy", "error", "worse"),
    [(5.0, 1.0, True), (9.5, 1.0, False), (11.0, 1.0, False), (5.0, 3.0, False), (9.5, 0.1, True), (5.0, None, False)],
)
def test_a_policy_that_is_worse_than_its_search_says_so_with_both_returns(policy, error, worse, capsys) -> None:
    export.compare_policy([row(10.0, policy, error)])
    said = capsys.readouterr().out
    assert (f"the policy alone reaches {policy:.1f}, the search 10.0" in said) == worse == bool(said)
    assert ("ezm distil" in said) == worse


def test_the_error_of_a_lead_is_that_of_pairs_of_episodes(checkpoint) -> None:
    agent, tasks = load(checkpoint), TASKS[:1]
    env = agent.evaluation_env(tasks, 3)
    search, policy = (
        play(env, actor, seed=7, device="cpu").honoured
        for actor in (agent.actor(tasks), agent.other_actors(tasks)["policy mean"])
    )
    env.close()
    (three,) = evaluate(agent, tasks, episodes=3, seed=7, policy=True)
    assert three.other_errors["policy mean"] == pytest.approx(float((search - policy).std()) / 3**0.5)
    (one,) = evaluate(agent, tasks, episodes=1, seed=7, policy=True)
    assert one.other_errors["policy mean"] is None
