"""``format=torch``: programs of torch.export act as their modules do, and need no package of ONNX."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch

from ezm_lightning.export.folder import write_agent
from ezm_lightning.export.policy import PolicyModule
from ezm_lightning.export.runtime import ExportedAgent
from ezm_lightning.export.search import SearchModule
from ezm_lightning.model import PackedModel
from tests.export.agents import TASKS, model_of, planner_of


@pytest.fixture(scope="module")
def modules():
    packed = PackedModel(model_of("tiny"))
    return {"search": SearchModule(planner_of("tiny"), packed, batch=2), "policy": PolicyModule(packed)}


@pytest.fixture(scope="module")
def folder(modules, tmp_path_factory):
    place = tmp_path_factory.mktemp("programs") / "robot"
    checks = write_agent(place, modules, tasks=TASKS, about={"action_repeat": 2}, format="torch", roots=8)
    assert all(result.equal == result.roots >= 8 for result in checks.values())
    return place


@pytest.mark.parametrize("graph", ["search", "policy"])
def test_a_program_gives_the_bits_of_its_module(modules, folder, graph) -> None:
    agent, module = ExportedAgent(folder, graph=graph), modules[graph]
    obs, task, noise = np.random.default_rng(1).standard_normal((2, 6)), np.array([1, 2]), agent.draw_noise(2)
    outputs = agent.run(obs, task, noise)
    with torch.no_grad():
        expected = module(torch.as_tensor(obs, dtype=torch.float32), *map(torch.as_tensor, (task, *noise.values())))
    for name, value in zip(module.outputs, expected, strict=True):
        np.testing.assert_array_equal(outputs[name], value.numpy())


def test_the_folder_describes_itself(folder) -> None:
    assert sorted(file.name for file in folder.iterdir()) == ["agent.json", "policy.pt2", "runtime.py", "search.pt2"]
    about = json.loads((folder / "agent.json").read_text())
    assert set(about["versions"]) == {"ezm_lightning", "torch"}
    extra = {"ezm_lightning": ""}
    torch.export.load(folder / "policy.pt2", extra_files=extra)
    assert json.loads(extra["ezm_lightning"]) == {**about, "graphs": {}}


def test_no_package_of_onnx_is_needed(modules, tmp_path, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "onnx" in name else find(name))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    policy = {"policy": modules["policy"]}
    write_agent(tmp_path / "x", policy, tasks=TASKS, about={"action_repeat": 2}, format="torch", roots=4)
    assert ExportedAgent(tmp_path / "x").act(np.zeros(6), TASKS[1]).shape == (3,)
