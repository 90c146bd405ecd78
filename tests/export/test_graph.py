"""The one translation that torch.onnx lacks, and the packages that export needs."""

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from ezm_lightning.export import graph


class Sort(nn.Module):
    def __init__(self, dim: int, descending: bool) -> None:
        super().__init__()
        self.dim, self.descending = dim, descending

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(torch.sort(x, dim=self.dim, descending=self.descending, stable=True))


@pytest.mark.parametrize(("dim", "descending"), [(-1, True), (-1, False), (0, True)])
def test_the_stable_sort_keeps_the_order_of_equals(tmp_path, dim, descending) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'ezm-lightning[onnx]'")
    pytest.importorskip("onnxscript", reason="pip install 'ezm-lightning[onnx]'")
    file, generator = tmp_path / "sort.onnx", torch.Generator().manual_seed(0)
    program = torch.export.export(Sort(dim, descending), (torch.zeros(9, 17),), strict=False)
    table = {torch.ops.aten.sort.stable: graph.stable_sort}
    torch.onnx.export(program, dynamo=True, verbose=False, custom_translation_table=table).save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for _ in range(100):
        x = torch.randint(4, (9, 17), generator=generator).float()
        expected = torch.sort(x, dim=dim, descending=descending, stable=True)
        values, indices = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_array_equal(values, expected.values)
        np.testing.assert_array_equal(indices, expected.indices)


def test_packages_that_are_missing_are_named_with_what_to_type(monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find("os"))
    with pytest.raises(ImportError, match=r"needs onnxscript: pip install 'ezm-lightning\[onnx\]'"):
        graph.check_packages("onnx")
