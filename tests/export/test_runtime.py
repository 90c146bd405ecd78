"""What acts without torch: shapes, noise, and one line for every folder or observation that is wrong."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from ezm_lightning.export import runtime
from ezm_lightning.export.policy import PolicyModule
from ezm_lightning.export.runtime import ExportedAgent, draw
from ezm_lightning.export.search import SearchModule
from ezm_lightning.model import PackedModel
from tests.export.agents import TASKS, awake, planner_of, write_agent

pytest.importorskip("onnxruntime", reason="pip install 'ezm-lightning[onnx]'")
pytest.importorskip("onnxscript", reason="pip install 'ezm-lightning[onnx]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small search and its policy."""
    from tests.export.agents import model_of

    packed = PackedModel(awake(model_of("tiny")))
    planner = planner_of("tiny", num_simulations=4, num_candidates=4, max_num_considered_actions=4)
    place = tmp_path_factory.mktemp("runtime") / "x"
    modules = {"search": SearchModule(planner, packed), "policy": PolicyModule(packed)}
    write_agent(place, modules, tasks=TASKS, about={}, roots=8)
    return place


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of the folder, to be spoilt."""
    return shutil.copytree(folder, tmp_path / "copy")


WITHOUT = """
import sys
for name in ("torch", "ezm_lightning", "tensordict", "onnx", "onnxscript"):
    sys.modules[name] = None
sys.path.insert(0, {folder!r})
from runtime import ExportedAgent
agent = ExportedAgent({folder!r}, seed=3)
print([float(x) for x in agent.act([0.1, -0.2, 0.3, 0.4], "short/point")])
"""


def test_the_folder_acts_without_torch_and_without_this_package(folder) -> None:
    code = WITHOUT.format(folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    here = ExportedAgent(folder, seed=3).act([0.1, -0.2, 0.3, 0.4], "short/point")
    assert json.loads(done.stdout) == [float(x) for x in here]


def test_the_search_acts_unless_another_graph_is_asked_for(folder) -> None:
    assert ExportedAgent(folder).graph == "search" and ExportedAgent(folder, graph="policy").graph == "policy"
    with pytest.raises(ValueError, match=r"no graph 'value' \(it has search, policy\)"):
        ExportedAgent(folder, graph="value")


@pytest.mark.parametrize("graph", ["search", "policy"])
def test_shapes_follow_the_task_or_the_widest(folder, graph) -> None:
    agent = ExportedAgent(folder, graph=graph)
    assert agent.act(np.zeros(4), "short/point").shape == (2,)
    assert agent.act(np.zeros((5, 3)), "short/pair").shape == (5, 1)
    assert agent.act(np.zeros((2, 6)), ["short/pair", "short/walker"]).shape == (2, 3)
    assert agent.act(np.zeros(4), "short/point").dtype == np.float32


def test_every_kind_of_array_gives_the_same_action(folder) -> None:
    agent = ExportedAgent(folder, graph="policy")
    wide = np.linspace(-1, 1, 8)
    plain = agent.act(wide[::2].astype(np.float32), "short/point")
    for obs in (wide[::2], wide[::2].tolist(), np.asfortranarray(wide[None, ::2])):
        np.testing.assert_array_equal(np.ravel(agent.act(obs, "short/point")), plain)
    padded = np.full((1, 6), 9.0)  # what lies behind a task's own width is not read
    padded[0, :4] = wide[::2]
    np.testing.assert_array_equal(agent.act(padded, ["short/point"])[0, :2], plain)


def test_a_seed_gives_the_same_actions_again(folder) -> None:
    agent, obs = ExportedAgent(folder, seed=1), np.ones(6)
    first = [agent.act(obs, "short/walker") for _ in range(3)]
    assert not np.array_equal(first[0], first[1])
    agent.seed_(1)
    np.testing.assert_array_equal([agent.act(obs, "short/walker") for _ in range(3)], first)
    np.testing.assert_array_equal(ExportedAgent(folder, seed=1).act(obs, "short/walker"), first[0])
    assert not np.array_equal(ExportedAgent(folder, seed=2).act(obs, "short/walker"), first[0])


@pytest.mark.parametrize(
    ("obs", "task", "said"),
    [
        (np.zeros(4), "short/wlker", r"no task 'short/wlker'; nearest: short/walker \(the agent has short/point, "),
        (np.zeros(5), "short/point", r"obs has shape \[5\], expected \[4\] or \[B, 4\] for short/point"),
        (np.zeros((2, 5)), "short/point", r"obs has shape \[2, 5\], expected"),
        (np.zeros((1, 1, 4)), "short/point", r"obs has shape \[1, 1, 4\]"),
        (np.zeros((2, 4)), ["short/point", "short/pair"], r"expected \[2, 6\]"),
        (np.zeros((3, 6)), ["short/point", "short/pair"], "3 observations for 2 tasks"),
        ([0, np.nan, 0, 0], "short/point", "obs is not finite: nan in column 1 of row 0"),
        ([[0, 0, 0, 0], [0, 0, 0, 1e300]], "short/point", "obs is not finite: inf in column 3"),
    ],
)
def test_wrong_observations_and_tasks_are_refused(folder, obs, task, said) -> None:
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=said):
        ExportedAgent(folder, graph="policy").act(obs, task)


def test_wrong_inputs_of_a_call_are_refused(folder) -> None:
    agent = ExportedAgent(folder)
    noise = agent.draw_noise(1)
    with pytest.raises(ValueError, match=r"obs has shape \[2, 6\], expected \[1, 6\]"):
        agent.run(np.zeros((2, 6)), np.zeros(1), noise)
    with pytest.raises(ValueError, match=r"root has shape \[1, 3, 3\], expected \[1, 4, 3\]"):
        agent.run(np.zeros((1, 6)), np.zeros(1), {**noise, "root": noise["root"][:, :3]})
    with pytest.raises(ValueError, match="no task of index 3: the agent has 3"):
        agent.run(np.zeros((1, 6)), np.array([3]), noise)


def test_folders_that_are_not_whole_are_refused(copied, tmp_path) -> None:
    content = (copied / "search.onnx").read_bytes()
    (copied / "search.onnx").write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"search\.onnx is damaged or of another export"):
        ExportedAgent(copied)
    (copied / "search.onnx").unlink()
    with pytest.raises(ValueError, match=r"search\.onnx cannot be read \(No such file"):
        ExportedAgent(copied)
    about = json.loads((copied / "agent.json").read_text())
    (copied / "agent.json").write_text(json.dumps({**about, "format": 2}))
    with pytest.raises(ValueError, match="has format 2, this version reads 1"):
        ExportedAgent(copied)
    (copied / "agent.json").write_text("{")
    with pytest.raises(ValueError, match=r"agent\.json is damaged"):
        ExportedAgent(copied)
    with pytest.raises(ValueError, match="is no exported agent"):
        ExportedAgent(tmp_path / "nowhere")


def test_a_graph_that_onnxruntime_cannot_read_is_one_line(tmp_path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"onnxruntime [\d.]+ cannot read .*x\.onnx"):
        runtime.open_graph(tmp_path / "x.onnx", {"sha256": hashlib.sha256(b"nothing").hexdigest()}, 1)


def test_a_program_that_torch_cannot_read_is_one_line(tmp_path) -> None:
    (tmp_path / "x.pt2").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"torch [^ ]+ cannot read .*x\.pt2"):
        runtime.open_graph(tmp_path / "x.pt2", {"sha256": hashlib.sha256(b"nothing").hexdigest()}, 1)


def test_a_program_without_torch_says_what_to_type(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "x.pt2").write_bytes(b"nothing")
    with pytest.raises(ImportError, match="pip install torch, or export with format=onnx"):
        runtime.open_graph(tmp_path / "x.pt2", {"sha256": hashlib.sha256(b"nothing").hexdigest()}, 1)


def test_without_onnxruntime_it_says_what_to_type(folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        ExportedAgent(folder)


def test_noise_is_drawn_as_it_is_described() -> None:
    generator = np.random.default_rng(0)
    assert not draw({"draw": "zero"}, [2, 3], generator).any()
    normal = draw({"draw": "normal", "zero_candidates": 1}, [1000, 4, 2], generator)
    assert not normal[:, 0].any() and abs(normal[:, 1:].mean()) < 0.05 and abs(normal[:, 1:].std() - 1) < 0.05
    heads = draw({"draw": "distinct", "of": 3}, [3000, 2], generator)
    assert (heads[:, 0] != heads[:, 1]).all() and set(heads.ravel()) == {0, 1, 2}
    counts = np.unique(heads, axis=0, return_counts=True)[1]
    assert len(counts) == 6 and counts.min() > 400
    with pytest.raises(ValueError, match="unknown draw 'uniform'"):
        draw({"draw": "uniform"}, [1], generator)
