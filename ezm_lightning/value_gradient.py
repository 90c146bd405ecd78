"""The policy follows the gradient of the model's look-ahead r̂ + γ v̂ with respect to the action.

A search compares a few candidates, and the chance that one of them is better falls with the number of action
dimensions. A gradient shows the better direction in all dimensions at once. The value is that of Heess et al. 2015
(SVG(1)) for a deterministic model, its scale that of TD-MPC2 (Hansen et al. 2024).
"""

from __future__ import annotations

from torch import Tensor, nn

from ezm_lightning.model import WorldModel
from ezm_lightning.ops import squashed_gaussian
from ezm_lightning.ops.per_task import PerTask, as_column
from ezm_lightning.ops.running_range import RunningRange
from ezm_lightning.ranges import PerTaskShareAbove0, Positive, ShareAbove0, check_discounts
from ezm_lightning.types import Prediction


class ValueGradient(nn.Module):
    """q(z, a) = r̂(z, a) + γ v̂(dynamics(z, a)) of an action drawn from the policy, over the task's range of q.

    v̂ is the minimum over the value heads, so that the error of one head does not lead the policy. ``model`` must not
    learn from this loss: its parameters should take no gradient. ``momentum`` is the pace of the running range,
    ``least_range`` the smallest divisor, in the units of values.
    """

    def __init__(
        self, *, num_tasks: int, discount: PerTaskShareAbove0, momentum: ShareAbove0 = 0.01, least_range: Positive = 1.0
    ) -> None:
        super().__init__()
        check_discounts(discount)
        self.discount, self.least_range = PerTask(discount), least_range
        self.range = RunningRange(num_tasks=num_tasks, momentum=momentum)

    def forward(self, model: WorldModel, prediction: Prediction, task: Tensor, noise: Tensor, valid: Tensor) -> Tensor:
        """q / range [B, K+1] of tasks [B]; noise [B, K+1, A]. Only ``valid`` positions update the range."""
        mean, log_std = prediction.policy_mean.float(), prediction.policy_log_std.float()
        action = squashed_gaussian.sample(mean, log_std, noise, model.action_mask[task][:, None])
        reward, head_values = model.look_ahead(prediction.latent.detach(), action, model.embed(task))
        q = reward + as_column(self.discount.of(task)) * head_values.amin(-1)
        self.range.update_(task, q.detach(), valid)
        return q / self.range.width().clamp(min=self.least_range)[task, None]
