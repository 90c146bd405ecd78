"""Value targets from windows; the time alignment is that of ``ezm_lightning.types``."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ezm_lightning.ops.per_task import as_column


def bootstrap_index(valid: Bool[Tensor, "B W"], unroll_steps: int, td_steps: int) -> Int[Tensor, "B K1"]:
    """For each position k ≤ K, the row whose value bootstraps its return: k + n, but at most the episode's last."""
    last = valid.sum(-1, keepdim=True) - 1
    ahead = torch.arange(unroll_steps + 1, device=valid.device) + td_steps
    return torch.minimum(ahead, last).clamp(min=0)


def n_step_return(
    reward: Float[Tensor, "B W"],
    valid: Bool[Tensor, "B W"],
    bootstrap_value: Float[Tensor, "B K1"],
    *,
    td_steps: int,
    discount: float | Float[Tensor, " B"],
) -> Float[Tensor, "B K1"]:
    """z_k = Σ_{i<m} γ^i r_{k+i} + γ^m v, m = min(n, steps left in the window's episode).

    ``bootstrap_value`` is the value of the row that :func:`bootstrap_index` names; it is 0 if that row ends a
    terminated episode. Positions outside the episode have finite values, which the caller masks.
    """
    num_positions = bootstrap_value.shape[1]
    discount = as_column(discount)
    exists = valid[:, 1:].to(reward.dtype)  # [B, W-1], transition j
    target = torch.zeros_like(bootstrap_value)
    discounting = torch.ones_like(bootstrap_value)
    for i in range(td_steps):
        steps = exists[:, i : i + num_positions]
        target = target + discounting * steps * reward[:, i : i + num_positions]
        discounting = discounting * (1 + steps * (discount - 1))  # γ only for steps that exist
    return target + discounting * bootstrap_value


def corrected_return(
    reward: Float[Tensor, "B W"],
    valid: Bool[Tensor, "B W"],
    drawn_q: Float[Tensor, "B W"],
    taken_q: Float[Tensor, "B W-1"],
    *,
    num_positions: int,
    td_steps: int,
    discount: float | Float[Tensor, " B"],
    trace_decay: float,
) -> Float[Tensor, "B K1"]:
    """Q^π(λ) z_k = E_π q_k + Σ_{i<n} (γλ)^i (r_{k+i} + γ E_π q_{k+i+1} − q_{k+i}): returns of the current policy.

    ``drawn_q`` is E_π q, the look-ahead under an action of the current policy; it is 0 if a row ends a terminated
    episode. ``taken_q`` is the look-ahead under the stored action, for all rows but the last. The stored steps
    correct the errors of the look-ahead; none of them counts as a step of the policy (Harutyunyan et al. 2016, eq. 4).
    λ = 0 corrects by the first stored step only. Positions outside the episode have finite values, which the caller
    masks.
    """
    discount = as_column(discount)
    error = reward[:, :-1] + discount * drawn_q[:, 1:] - taken_q
    error = torch.where(valid[:, 1:], error, 0.0)  # [B, W-1]
    target = drawn_q[:, :num_positions]
    for i in range(td_steps):
        target = target + (discount * trace_decay) ** i * error[:, i : i + num_positions]
    return target


def mixed_value(
    td: Float[Tensor, "B K1"], search: Float[Tensor, "B K1"], td_share: Float[Tensor, "#B #K1"]
) -> Float[Tensor, "B K1"]:
    """v_mix = α v_td + (1 − α) v_search (EZ-M eq. 5)."""
    return td_share * td + (1 - td_share) * search
