"""What a run will hold in memory, known before anything is allocated."""

from __future__ import annotations

import psutil
import torch


def available_bytes(device: str | torch.device) -> int:
    """Bytes free for new allocations on a device: its own memory on a GPU, the machine's otherwise."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def check_fits(needed: int, capacity: int, device: str | torch.device) -> None:
    """Raises MemoryError, naming a capacity that fits, when ``needed`` bytes for ``capacity`` rows a task do not."""
    available = available_bytes(device)
    if needed > available:
        fits = int(0.9 * available / needed * capacity)
        raise MemoryError(
            f"replay.capacity={capacity:,} transitions a task takes {gigabytes(needed)}, {gigabytes(available)} are "
            f"free on {device}: replay.capacity={fits} fits"
        )


def gigabytes(size: int) -> str:
    """'1.23 GB'."""
    return f"{size / 1e9:.2f} GB"
