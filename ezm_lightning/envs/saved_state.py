"""A simulator's state in a form that ``torch.load(weights_only=True)`` reads. NumPy's arrays and numbers are stored as
tensors and restored exactly; a value that could not be read back is refused."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from ezm_lightning.envs.checks import Unfit

PLAIN = (type(None), bool, int, float, complex, str, bytes)
LONGEST = 2000  # bits of a whole number: weights_only reads 255 bytes
ARRAY = "numpy array"  # the key of [dtype, shape, bytes], which replace an array
SCALAR = "numpy number"  # the same for one of NumPy's numbers


def to_plain(value: Any, where: str) -> Any:
    """``value`` without NumPy's types. Raises Unfit, with the entry, for a value that a checkpoint cannot hold."""
    import torch

    if type(value) is int and value.bit_length() > LONGEST:
        raise Unfit(f"{where} is a whole number of {value.bit_length()} bits, a checkpoint holds {LONGEST}")
    if isinstance(value, torch.Tensor) or type(value) in PLAIN:
        return value
    if isinstance(value, np.ndarray | np.generic):
        return _packed(value, where)
    if type(value) in (dict, OrderedDict):
        if len(value) == 1 and (ARRAY in value or SCALAR in value):
            raise Unfit(f"{where} has the key {next(iter(value))!r} alone, which stands for a NumPy value")
        for key in value:
            if type(key) not in (str, int):
                raise Unfit(f"{where} has the key {key!r} of type {type(key).__name__}, words are expected")
        return type(value)((key, to_plain(entry, f"{where}[{key!r}]")) for key, entry in value.items())
    if type(value) is set and all(type(entry) in PLAIN for entry in value):
        return value
    if type(value) in (list, tuple):
        return type(value)(to_plain(entry, f"{where}[{i}]") for i, entry in enumerate(value))
    raise Unfit(
        f"{where} is of type {type(value).__name__}, which a checkpoint cannot hold; "
        "it holds numbers, words, tensors, NumPy arrays, and lists, tuples and dicts of them"
    )


def from_plain(value: Any) -> Any:
    """The inverse of :func:`to_plain`."""
    if type(value) in (dict, OrderedDict):
        if len(value) == 1 and (ARRAY in value or SCALAR in value):
            return _unpacked(*value[ARRAY]) if ARRAY in value else _unpacked(*value[SCALAR])[()]
        return type(value)((key, from_plain(entry)) for key, entry in value.items())
    if type(value) in (list, tuple):
        return type(value)(from_plain(entry) for entry in value)
    return value


def _packed(value: Any, where: str) -> dict[str, Any]:
    import torch

    if isinstance(value, np.ma.MaskedArray):
        raise Unfit(f"{where} is a masked array, which a checkpoint cannot hold")
    array = np.ascontiguousarray(value)
    if array.dtype.hasobject or array.dtype.names is not None:
        raise Unfit(f"{where} is an array of type {array.dtype}, which a checkpoint cannot hold")
    data = torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8) if array.nbytes else torch.empty(0).byte()
    return {ARRAY if isinstance(value, np.ndarray) else SCALAR: [array.dtype.str, list(np.shape(value)), data]}


def _unpacked(dtype: str, shape: list[int], data: Any) -> np.ndarray:
    return np.frombuffer(data.numpy().tobytes(), np.dtype(dtype)).reshape(shape).copy()
