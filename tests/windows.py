"""Windows of known values and rewards, for what makes targets of them."""

import torch
from tensordict import TensorDict

from ezm_lightning.types import Batch

K, N_STEPS, GAMMA = 2, 2, 0.9
WINDOW = K + N_STEPS + 1


def windows(length: list[int], terminated: list[bool], **changes) -> Batch:
    """Rows j with v(o_j) = 10(j + 1) and reward j + 1, of which ``length`` exist; garbage behind."""
    b = len(length)
    j = torch.arange(WINDOW, dtype=torch.float32).expand(b, -1)
    valid = j < torch.tensor(length)[:, None]
    final = (j == torch.tensor(length)[:, None] - 1) & torch.tensor(terminated)[:, None]
    fields = {
        "obs": torch.stack([torch.where(valid, 10 * (j + 1), 77.0), 0.01 * j + 0.1 * torch.arange(b)[:, None]], -1),
        "action": torch.stack([j, j], -1) - 50,
        "reward": torch.where(j < torch.tensor(length)[:, None] - 1, j + 1, 555.0),
        "valid": valid,
        "final": final,
        "extras": TensorDict({"search_value": -j - 100}, batch_size=[b, WINDOW]),
        "task": torch.arange(b) % 3,
        "age": torch.arange(b),
        "weight": torch.ones(b),
        "index": torch.arange(b),
        "demo": torch.zeros(b, dtype=torch.bool),
    }
    return Batch(**{**fields, **changes}, batch_size=[b])
