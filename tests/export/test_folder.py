"""The folder of an exported agent: what is in it, and that nothing of it is there before all of it is right."""

import json

import numpy as np
import pytest
import torch

from ezm_lightning.export import folder as export_folder
from ezm_lightning.export.check import Check, check
from ezm_lightning.export.folder import check_new, write_agent
from ezm_lightning.export.policy import PolicyModule
from ezm_lightning.export.search import SearchModule
from ezm_lightning.model import PackedModel
from tests.export.agents import ACTION_DIMS, OBS_DIMS, TASKS, exported, model_of, planner_of

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'ezm-lightning[onnx]'")
pytest.importorskip("onnxscript", reason="pip install 'ezm-lightning[onnx]'")


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("folder") / "x", "policy", PolicyModule(PackedModel(model_of("tiny"))))


def test_the_folder_says_all_that_a_user_must_know(agent) -> None:
    assert sorted(file.name for file in agent.folder.iterdir()) == ["agent.json", "policy.onnx", "runtime.py"]
    about = json.loads((agent.folder / "agent.json").read_text())
    assert [task["name"] for task in about["tasks"]] == TASKS
    assert [task["obs_dim"] for task in about["tasks"]] == OBS_DIMS
    assert [task["action_dim"] for task in about["tasks"]] == ACTION_DIMS
    assert [task["action_mask"] for task in about["tasks"]] == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert (about["obs_dim"], about["action_dim"], about["action_range"], about["action_repeat"]) == (6, 3, [-1, 1], 2)
    assert about["versions"]["torch"] == torch.__version__ and about["versions"]["opset"] == 20
    assert about["versions"]["onnxruntime"] == onnxruntime.__version__
    graph = about["graphs"]["policy"]
    assert graph["inputs"]["obs"] == {"dtype": "float32", "shape": [None, 6]}
    assert graph["inputs"]["task"] == {"dtype": "int64", "shape": [None]}
    assert graph["inputs"]["noise"] == {"dtype": "float32", "shape": [None, 3], "draw": "zero"}
    assert graph["check"]["equal"] == graph["check"]["roots"] == 8
    assert "/" not in (agent.folder / "agent.json").read_text().replace("short/", "")  # no path of this machine


def test_a_lone_graph_describes_itself(agent) -> None:
    session = onnxruntime.InferenceSession(agent.folder / "policy.onnx", providers=["CPUExecutionProvider"])
    inside = json.loads(session.get_modelmeta().custom_metadata_map["ezm_lightning"])
    beside = json.loads((agent.folder / "agent.json").read_text())
    assert inside == {**beside, "graphs": {}}


@pytest.mark.parametrize("step", ["write_graph", "describe_graph", "check"])
def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch, step) -> None:
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export_folder, "write_graph", lambda module, file, metadata: file.touch())
    monkeypatch.setattr(export_folder, "ExportedAgent", lambda *_, **__: None)
    monkeypatch.setattr(export_folder, step, fail)
    with pytest.raises(KeyboardInterrupt):
        write_agent(tmp_path / "x", {"policy": PolicyModule(PackedModel(model_of("tiny")))}, tasks=TASKS, about={})
    assert list(tmp_path.iterdir()) == []


def small_search(packed: PackedModel) -> SearchModule:
    return SearchModule(planner_of("tiny", num_simulations=2, num_candidates=8), packed, batch=64)


@pytest.mark.parametrize(("graph", "make"), [("policy", PolicyModule), ("search", small_search)])
def test_a_graph_that_acts_otherwise_is_refused(tmp_path, graph, make) -> None:
    same, other = (make(PackedModel(model_of("tiny", seed))) for seed in (0, 1))
    agent = exported(tmp_path / "x", graph, same)
    found = check(same, agent, roots=100)
    assert found == Check(roots=128, equal=128, tied=0, largest_difference=found.largest_difference)
    with pytest.raises(ValueError, match=rf"{graph}.onnx acts otherwise than its module in torch at 1\d\d of 128"):
        check(other, agent, roots=100)


def test_recorded_observations_are_compared_too(agent, monkeypatch) -> None:
    module, seen = PolicyModule(PackedModel(model_of("tiny"))), []
    run = type(agent).run
    monkeypatch.setattr(type(agent), "run", lambda self, obs, *rest: seen.append(obs) or run(self, obs, *rest))
    recorded = (np.full((5, 6), 0.25, np.float32), np.full(5, 1))
    assert check(module, agent, roots=128, recorded=recorded).equal == 128
    assert [bool((obs == 0.25).all()) for obs in seen] == [True, False]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, agent) -> None:
    with pytest.raises(ValueError, match="exists already: remove it"):
        check_new(agent.folder)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        check_new(tmp_path / "file" / "x")
    check_new(tmp_path / "new" / "x")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    with pytest.raises(ValueError, match="roots=0 must be at least 1"):
        write_agent(tmp_path / "x", {}, tasks=TASKS, about={}, roots=0)


def test_a_full_disk_is_one_line_and_leaves_no_parents(tmp_path, monkeypatch) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_folder, "write_graph", full)
    modules = {"policy": PolicyModule(PackedModel(model_of("tiny")))}
    with pytest.raises(ValueError, match=r"b/x cannot be written \(No space left on device\)"):
        write_agent(tmp_path / "a" / "b" / "x", modules, tasks=TASKS, about={})
    assert list(tmp_path.iterdir()) == []


def test_the_folder_has_the_permissions_of_any_other(agent, tmp_path) -> None:
    (tmp_path / "other").mkdir()
    assert agent.folder.stat().st_mode == (tmp_path / "other").stat().st_mode
