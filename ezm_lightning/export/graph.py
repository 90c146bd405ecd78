"""A torch module as a file: ``torch.export``'s program, or an ONNX graph with one translation that torch.onnx lacks."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ezm_lightning.export.runtime import TORCH_SUFFIX
from ezm_lightning.model import PackedModel

OPSET = 20
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}  # that a format needs beside torch
SUFFIXES = {"onnx": ".onnx", "torch": TORCH_SUFFIX}
Draw = dict[str, Any]  # how ``runtime`` draws a noise input, see there


class GraphModule(nn.Module):
    """A module whose buffers are a packed model's weights, so that a graph keeps them as named constants.

    ``inputs`` are example values by name, ``outputs`` are names, and ``draws`` has an entry for each input that is
    noise. ``batch`` is the number of rows of a call, None for any number.
    """

    def __init__(
        self,
        packed: PackedModel,
        *,
        inputs: Mapping[str, Tensor],
        outputs: Sequence[str],
        draws: Mapping[str, Draw],
        batch: int | None,
    ) -> None:
        super().__init__()
        self.packed = packed
        self.inputs, self.outputs, self.draws, self.batch = dict(inputs), tuple(outputs), dict(draws), batch
        for index, tensor in enumerate(packed.tensors):
            self.register_buffer(f"weight_{index}", tensor)

    def model(self) -> PackedModel:
        """The packed model with this module's buffers as its weights."""
        return self.packed.with_tensors(list(self.buffers()))


def check_packages(format: str) -> None:
    """Raises ImportError, with what to type, if a package that a format needs is not installed."""
    missing = [name for name in PACKAGES[format] if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"ezm export needs {', '.join(missing)}: pip install 'ezm-lightning[onnx]'")


def installed_versions(format: str) -> dict[str, str | int]:
    """The installed versions of the packages that make a graph."""
    installed: dict[str, str | int] = {"torch": torch.__version__}
    installed |= {name: version(name) for name in PACKAGES[format]}
    return installed | ({"opset": OPSET} if format == "onnx" else {})


def stable_sort(x: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """(values, indices) of ``torch.sort(x, stable=True)`` in ONNX's operators.

    TopK is defined to put the lower index first among equals, so TopK of all entries is a stable sort.
    """
    from onnxscript import opset20

    count = opset20.Gather(opset20.Shape(x), opset20.Constant(value_ints=[dim]))
    return opset20.TopK(x, count, axis=dim, largest=int(descending), sorted=1)


@torch.no_grad()  # not inference mode: its tensors cannot be exported
def write_graph(module: GraphModule, file: Path, metadata: Mapping[str, str]) -> None:
    """Writes one file, weights included, in the format that its suffix names.

    ``metadata`` becomes ONNX's key-value pairs, or extra files of torch's program.
    """
    rows = None if module.batch else tuple({0: torch.export.Dim("batch")} for _ in module.inputs)
    with _quiet():
        program = torch.export.export(module, tuple(module.inputs.values()), dynamic_shapes=rows, strict=False)
        if file.suffix == TORCH_SUFFIX:
            torch.export.save(program, file, extra_files=dict(metadata))
            return
        exported: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(module.inputs),
            output_names=list(module.outputs),
            custom_translation_table={torch.ops.aten.sort.stable: stable_sort},
        )
    exported.model.metadata_props.update(metadata)
    exported.save(file, external_data=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's messages about other packages and about its own future."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
