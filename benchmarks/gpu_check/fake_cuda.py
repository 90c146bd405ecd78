"""CUDA tensors without memory and without a GPU, also if torch is built for the CPU alone.

``FakeTensorMode`` makes tensors that have a shape, a type and the device 'cuda' but no content. Our code runs with them
as it does on a GPU. If torch is built without CUDA, three parts must be replaced meanwhile: the guard that selects a
device, the generator of random numbers, and autograd's engine.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim import optimizer
from torch.utils import _foreach_utils

DEVICE = "cuda:0"  # with its index: without one torch asks the driver for the current device
CUDA, META = 1, 14  # c10::DeviceType
REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"  # c10::impl::device_guard_impl_registry


class FakeGenerator(torch.Generator):
    """A generator that says it is on the GPU; a fake tensor has no numbers to draw."""

    device = torch.device(DEVICE)  # type: ignore[assignment]


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    """Within this context tensors on 'cuda:0' are fake. Raises ImportError if this torch cannot do so."""
    with _guard(), _foreach(), FakeTensorMode(allow_non_fake_inputs=True):
        yield


@contextlib.contextmanager
def _guard() -> Iterator[None]:
    """Selecting a CUDA device does nothing; PyTorch's own way to this is in builds with CUDA alone."""
    if torch.backends.cuda.is_built():  # FakeTensorMode sees to it
        yield
        return
    try:
        library = ctypes.CDLL(str(next((Path(torch.__file__).parent / "lib").glob("*c10.*"))))
        registry = (ctypes.c_void_p * (META + 1)).in_dll(library, REGISTRY)
    except (StopIteration, OSError, ValueError) as error:
        raise ImportError(f"torch {torch.__version__} has no registry of devices; use a build with CUDA") from error
    before, registry[CUDA] = registry[CUDA], registry[META]
    try:
        yield
    finally:
        registry[CUDA] = before


@contextlib.contextmanager
def _foreach() -> Iterator[None]:
    """Fake tensors take the kernels over lists of tensors, as real ones do."""
    lists: Any = (_foreach_utils._foreach_supported_types, optimizer._foreach_supported_types)
    for supported in lists:
        supported.append(FakeTensor)
    try:
        yield
    finally:
        for supported in lists:
            supported.remove(FakeTensor)


def on_fake_cuda(module: nn.Module) -> nn.Module:
    """A module from device 'meta' with fake weights on the GPU; call it inside ``fake_cuda``."""
    return module.to_empty(device=DEVICE)


@contextlib.contextmanager
def autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """``torch.autocast`` on the GPU, which is off if torch sees none; None: no autocast."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", dtype is not None)
    if dtype is not None:
        torch.set_autocast_dtype("cuda", dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


@torch.no_grad()
def backward(loss: Tensor) -> None:
    """Adds the gradients of a scalar to its leaves, as ``loss.backward()``; autograd's engine asks for a device.

    Hooks of tensors are not called. The oracle is the engine (tests/benchmarks/gpu_check/test_fake_cuda.py).
    """
    pending: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {loss.output_nr: torch.ones_like(loss)}}
    for node in _from_the_loss(loss.grad_fn):
        incoming = pending.pop(node, None)
        if incoming is None:
            continue
        if hasattr(node, "variable"):
            leaf, gradient = node.variable, incoming[0]
            leaf.grad = gradient.detach() if leaf.grad is None else leaf.grad + gradient
            continue
        outgoing = node(*(incoming.get(place) for place in range(len(node._input_metadata))))
        outgoing = outgoing if isinstance(outgoing, tuple) else (outgoing,)
        for gradient, (receiver, place) in zip(outgoing, node.next_functions, strict=False):
            if receiver is not None and gradient is not None:
                slots, gradient = pending.setdefault(receiver, {}), _fitted(gradient, receiver, place)
                slots[place] = gradient if place not in slots else slots[place] + gradient


def _fitted(gradient: Tensor, receiver: Any, place: int) -> Tensor:
    """The gradient in the shape and type of what it belongs to."""
    wanted = receiver._input_metadata[place]
    shape = tuple(wanted.shape)
    gradient = gradient if tuple(gradient.shape) == shape else gradient.sum_to_size(shape)
    return gradient if gradient.dtype == wanted.dtype else gradient.to(wanted.dtype)


def _from_the_loss(start: Any) -> list[Any]:
    """The nodes of an autograd graph, each before those that its gradients go to."""
    after: list[Any] = []
    seen, stack = set(), [(start, False)]
    while stack:
        node, finished = stack.pop()
        if finished:
            after.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(receiver, False) for receiver, _ in node.next_functions if receiver is not None]
    return after[::-1]
