"""Plans without Python: recorded once, replayed by TorchScript's interpreter, the same to the bit.

A plan of few roots is about a thousand calls of some microseconds, and Python takes half of that time (docs/speed.md).
``torch.jit.trace`` needs no compiler and about a second. It is deprecated in favour of ``torch.compile``, which takes
minutes and a C++ compiler for a plan.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

Plan = Callable[..., dict[str, Tensor]]

# TorchScript's own passes: shapes and constants are then read once and not at every use: four steps of ten are left.
_torchscript: Any = torch._C
SIMPLIFY = [getattr(_torchscript, f"_jit_pass_{name}") for name in ("constant_propagation", "cse", "peephole", "dce")]


class Traces:
    """The traces of a function of a model and tensors: one for each model, while that lives, and each number of rows.

    The model's tensors are inputs of its traces. Were they constants, TorchScript would take two that are equal when
    they are traced, as biases are before training, for one.
    """

    def __init__(self) -> None:
        self._of_model: WeakKeyDictionary[Any, dict[int, Plan]] = WeakKeyDictionary()

    def __call__(self, function: Plan, model: Any, *inputs: Tensor) -> dict[str, Tensor]:
        """``function(model, *inputs)``; the number of rows is that of the first input, and settles all shapes."""
        traces = self._of_model.setdefault(model, {})
        rows = len(inputs[0])
        if rows not in traces:
            traces[rows] = _trace(function, model, inputs)
        return traces[rows](*model.tensors, *inputs)


def _trace(function: Plan, model: Any, inputs: tuple[Tensor, ...]) -> Plan:
    names: list[str] = []
    own = model.tensors
    num_own, model = len(own), ref(model)  # a trace may hold on to what it was recorded from

    def values(*given: Tensor) -> tuple[Tensor, ...]:
        found = function(model().with_tensors(given[:num_own]), *given[num_own:])
        names[:] = found
        return tuple(found.values())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # shapes are fixed: a trace for each
        traced = torch.jit.trace(values, (*own, *inputs), check_trace=False)
    for simplify in SIMPLIFY:
        simplify(traced.graph)
    return lambda *given: dict(zip(names, traced(*given), strict=True))
