"""Kernels, waits and bytes under fake CUDA tensors: by hand, and of this version's search and update."""

import json
from dataclasses import asdict

import pytest
import torch

from benchmarks.gpu_check import counts
from benchmarks.gpu_check.counting import Counted, Counting, Counts, count
from benchmarks.gpu_check.fake_cuda import DEVICE, fake_cuda


def counted(function) -> Counting:
    with fake_cuda():
        x = torch.zeros(4, 6, device=DEVICE)
        with Counting() as counter:
            function(x)
    return counter


@pytest.mark.parametrize(
    ("function", "kernels"),
    [
        (lambda x: (x @ x.T).relu(), {"mm": 1, "relu": 1}),
        (lambda x: x.view(6, 4)[1:, None].expand(-1, 3, -1).detach(), {}),
        (lambda x: torch.empty_like(x), {}),
        (lambda x: torch.nn.functional.linear(x, x, x[:, 0]), {"addmm": 1}),  # made of others: counted as those
        (lambda x: torch.zeros(3) + 1, {}),  # on the host
    ],
    ids=["product", "views", "room", "linear", "host"],
)
def test_kernels_are_what_computes_on_the_device(function, kernels):
    assert dict(counted(function).kernels) == kernels


@pytest.mark.parametrize(
    ("function", "waits"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x[torch.zeros(2, dtype=torch.long, device=DEVICE)], 0),
        (lambda x: x.__setitem__(torch.zeros(2, dtype=torch.long, device=DEVICE), True), 0),
        (lambda x: x[0].__setitem__(0, 1.0), 1),  # no dimension on either side: copied from the host
        (lambda x: x[0].__setitem__(slice(0, 1), 1.0), 0),
        (lambda x: x.cpu(), 1),
        (lambda x: torch.zeros(3).to(DEVICE), 1),
        (lambda x: x + 1, 0),
    ],
    ids=["item", "mask", "index", "put", "number", "fill", "down", "up", "none"],
)
def test_waits_are_where_the_host_stands_still(function, waits):
    assert counted(function).waits.total() == waits


def test_bytes_are_those_read_and_written():
    assert counted(lambda x: x @ x.T).bytes == 4 * (24 + 24 + 16)
    assert counted(lambda x: x.add_(x)).bytes == 4 * 24  # one tensor


@pytest.mark.parametrize("preset", ["demo", "hard"])
def test_this_version_needs_no_more_than_is_known(preset):
    """More than counts.json has: think again, or `python -m benchmarks.gpu_check.counts` and say why in the commit."""
    known = json.loads(counts.BASELINE.read_text())["counts"][preset]
    for name, each in count(preset).items():
        finding = counts.compared(preset, name, each, known[name])
        assert finding.verdict == "ok", finding.result
        assert each.counts.kernels > 0.9 * known[name]["kernels"], "fewer: write counts.json anew"


def test_more_than_is_known_is_seen():
    known = {"kernels": 100, "waits": 0, "megabytes": 1.0}
    more = Counted(Counts(103, 1, 1.0), {}, torch.Size())
    more.waits = {"_local_scalar_dense": 1}
    finding = counts.compared("demo", "search", more, known)
    assert finding.verdict == "look" and finding.figures == asdict(more.counts)
    assert (
        "kernels 103 against 100, waits 1 against 0" in finding.result and "1 × _local_scalar_dense" in finding.result
    )
