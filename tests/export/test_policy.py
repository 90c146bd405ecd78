"""The exported policy against the plain world model, and the embedding that torch would renormalise while it acts."""

import numpy as np
import pytest
import torch

from ezm_lightning.export.check import sample_roots
from ezm_lightning.export.policy import PolicyModule
from ezm_lightning.model import PackedModel
from ezm_lightning.ops import squashed_gaussian
from tests.export.agents import exported, model_of

onnx = pytest.importorskip("onnx", reason="pip install 'ezm-lightning[onnx]'")
pytest.importorskip("onnxruntime", reason="pip install 'ezm-lightning[onnx]'")
pytest.importorskip("onnxscript", reason="pip install 'ezm-lightning[onnx]'")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """(plain model, packed model, exported agent); two of the embeddings are longer than the model allows."""
    model = model_of("tiny")
    model.task_embedding.weight[:2] *= 5
    packed = PackedModel(model)
    return model, packed, exported(tmp_path_factory.mktemp("policy") / "x", "policy", PolicyModule(packed))


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("scale", [0, 1])
def test_any_number_of_rows_acts_as_the_plain_model(policy, rows, scale) -> None:
    model, packed, agent = policy
    generator = np.random.default_rng(rows)
    for _ in range(max(1, 64 // rows)):
        obs, task = sample_roots(packed, rows, generator)
        noise = scale * generator.standard_normal((rows, 3)).astype(np.float32)
        plain_obs, plain_task = torch.as_tensor(obs), torch.as_tensor(task)
        with torch.no_grad():
            mean, log_std = model.policy(model.initial_inference(plain_obs, plain_task).policy_input)
            mask = model.action_mask[plain_task]
            expected = squashed_gaussian.sample(mean, log_std, torch.as_tensor(noise), mask)
        got = agent.run(obs, task, {"noise": noise})["best_action"]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_the_graph_renormalises_no_embedding_and_reads_no_value_head(policy) -> None:
    _, packed, agent = policy
    assert float(packed.weights.embedding.norm(dim=-1).max()) <= 1.0 + 1e-6
    graph = onnx.load(agent.folder / "policy.onnx").graph
    assert "ReduceL2" not in {node.op_type for node in graph.node}
    policy_alone = sum(tensor.numel() for tensor in packed.tensors) - sum(
        tensor.numel() for layer in packed.weights.value_heads for tensor in layer
    )
    assert sum(np.prod(weight.dims) for weight in graph.initializer) < policy_alone


def test_the_mean_acts_where_no_noise_is_given(policy) -> None:
    agent = policy[2]
    first, again = (agent.act(np.ones(4), "short/point") for _ in range(2))
    np.testing.assert_array_equal(first, again)
