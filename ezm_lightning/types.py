"""Records that cross rooms, the axis legend, and the one time alignment.

Axes::

    B batch   K unroll_steps   n td_steps   T tasks   D obs_dim (padded)   A action_dim (padded)
    Z latent_dim   N simulations   C root candidates   S support bins   V value heads

Time. A window is ``W = K + n + 1`` consecutive rows of one episode, starting at step t::

    j            0        1        2    …   K   …   K+n
    obs          o_t      o_t+1    o_t+2    o_t+K
    action       a_t      a_t+1    …                     reward[:, j] is paid for action[:, j] taken in obs[:, j]
    valid        1        1        0                     0 once the window leaves the episode

``valid[:, j]`` says that ``o_{t+j}`` exists. The last valid row of an episode holds its final observation and no
action; the transition j exists iff ``valid[:, j + 1]``. ``final[:, j]`` marks that final row when the episode
*terminated* there (its value is 0, nothing is bootstrapped from it); after a truncation the final row is an ordinary
state to bootstrap from.
"""

from __future__ import annotations

from tensordict import TensorClass, TensorDict
from torch import Tensor


class Batch(TensorClass):
    """Windows drawn from replay; batch_size [B]."""

    obs: Tensor  # [B, W, D] float32, zero in padded dimensions
    action: Tensor  # [B, W, A] float32, the applied action, zero in padded dimensions
    reward: Tensor  # [B, W] float32
    valid: Tensor  # [B, W] bool: o_{t+j} lies in the window's episode
    final: Tensor  # [B, W] bool: o_{t+j} is the last observation of a terminated episode
    extras: TensorDict  # each [B, W], the actor's extra columns by name; NaN where it has not acted
    task: Tensor  # [B] int64
    age: Tensor  # [B] int64, transitions of this task collected since the window's first one
    weight: Tensor  # [B] float32, importance weight in [0.1, 1]
    index: Tensor  # [B] int64, identifies the window's first step for update_priority; never reused
    demo: Tensor  # [B] bool: a window of a demonstration


class Targets(TensorClass):
    """The targets of the losses; batch_size [B]."""

    reward: Tensor  # [B, K]
    value: Tensor  # [B, K+1], the mixed value target
    value_td: Tensor  # [B, K+1]
    value_search: Tensor  # [B, K+1], NaN where nothing was searched
    value_variance: Tensor  # [B, K+1], of the target model's decoded heads; 0 unless the value mix needs it
    action: Tensor  # [B, K+1, c, A], the actions that the policy is fitted to
    action_weights: Tensor  # [B, K+1, c], their weights; they sum to 1 where policy_valid
    reward_valid: Tensor  # [B, K] bool
    value_valid: Tensor  # [B, K+1] bool
    policy_valid: Tensor  # [B, K+1] bool
    terminal: Tensor  # [B, K+1] bool: the episode terminated in this state; its value is 0


class Prediction(TensorClass):
    """An unroll of the world model over K actions; batch_size [B]."""

    latent: Tensor  # [B, K+1, Z]
    reward_logits: Tensor  # [B, K, S]
    value_logits: Tensor  # [B, K+1, V, S]
    policy_mean: Tensor  # [B, K+1, A], before tanh
    policy_log_std: Tensor  # [B, K+1, A]


class SearchOutput(TensorClass):
    """The result of a planner for B observations; batch_size [B]."""

    best_action: Tensor  # [B, A], executed; the policy is fitted to it alone only with policy_target=best_action
    search_value: Tensor  # [B], root mean, the network's own value included
    action_weights: Tensor  # [B, C], softmax of the root scores
    candidates: Tensor  # [B, C, A]
    qvalues: Tensor  # [B, C], completed
    visit_counts: Tensor  # [B, C] int64
    root_value: Tensor  # [B], the network's value of the root
    root_value_variance: Tensor  # [B], variance of the decoded value heads at the root
