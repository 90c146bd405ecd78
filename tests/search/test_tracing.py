"""The search never looks at a value: it runs without data and traces into one graph."""

import subprocess
import sys
from dataclasses import fields

import pytest
import torch

from ezm_lightning.search import RecurrentOutput, RootOutput, gumbel_search


def search(latent, value, gumbel, *, num_simulations=32, considered=16, leaf_candidates=2):
    root = RootOutput(torch.zeros_like(gumbel), value, {"latent": latent})

    def recurrent_fn(embedding, candidate, simulations):
        latent = torch.sin(embedding["latent"] + candidate.unsqueeze(-1))
        logits = torch.zeros(*candidate.shape, leaf_candidates, device=latent.device)
        return RecurrentOutput(latent[..., 0], latent.sum(-1), logits, {"latent": latent})

    result = gumbel_search(
        root,
        recurrent_fn,
        num_simulations=num_simulations,
        max_num_considered_actions=considered,
        discount=0.99,
        gumbel=gumbel,
    )
    return tuple(getattr(result, field.name) for field in fields(result))


def inputs(device="cpu"):
    return (
        torch.linspace(0, 1, 24, device=device).view(3, 8),
        torch.ones(3, device=device),
        torch.zeros(3, 16, device=device),
    )


@pytest.mark.parametrize("budget", [(32, 16), (32, 8), (20, 16), (5, 1)], ids=str)
def test_it_runs_without_data(budget):
    outputs = search(*inputs("meta"), num_simulations=budget[0], considered=budget[1])
    assert all(x.device.type == "meta" for x in outputs)
    assert [tuple(x.shape) for x in outputs] == [(3,), (3,), (3, 16), (3, 16), (3, 16), (3, 16)]


class Search(torch.nn.Module):
    """The search as something that can be exported."""

    def forward(self, latent, value, gumbel):
        return search(latent, value, gumbel)


@pytest.mark.filterwarnings("ignore")
def test_it_exports_as_one_graph():
    exported = torch.export.export(Search(), inputs(), strict=False)
    for traced, plain in zip(exported.module()(*inputs()), search(*inputs()), strict=True):
        torch.testing.assert_close(traced, plain)


def test_it_compiles_without_a_graph_break():
    """In a clean interpreter: the shape checks that pytest adds to the search cannot be traced."""
    subprocess.run([sys.executable, "-m", "tests.search.test_tracing"], check=True)


if __name__ == "__main__":
    compiled = torch.compile(search, fullgraph=True, backend="eager")
    for traced, plain in zip(compiled(*inputs()), search(*inputs()), strict=True):
        torch.testing.assert_close(traced, plain)
