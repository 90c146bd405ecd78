"""Does a trained agent rank actions rightly? Its one-step look-ahead against the simulator's, on a checkpoint.

    python -m benchmarks.ranking ckpt_path=RUN [states=40] [candidates=16] [horizon=8] [starts=4] [seed=0]

The agent plays one episode of each task. At ``states`` of its decisions the simulator is copied, and every copy takes
another action: the root candidates of the agent's own plan in one line of the table, uniformly random actions in the
other. q is r + γ v one step ahead; the model's is compared with the real one, whose r is the simulator's and whose v is
the same value network at the real next observation.

    identified  share of actions whose predicted next latent is nearest to their own real next observation among those
                of all actions of the state; chance is 1 / candidates
    q, r, v     rank correlation (Spearman, mean over states) of the model's q, and of its parts, with the real ones
    spread      standard deviation over actions of the model's q and of the real q, mean over states
    gain        real q of the action with the highest model q minus the mean action's, and the highest real q minus it
    far         rank correlation of the real q with the real return of ``horizon`` decisions under the policy's mean and
                the value after them, a mean over ``starts`` slightly different actions: what errs in the value function
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from omegaconf import OmegaConf
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torch.nn.functional import pad

from benchmarks.arguments import given_checkpoint
from ezm_lightning.agent import Agent, load
from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.envs.slots import State
from ezm_lightning.errors import nearest
from ezm_lightning.evaluation.episodes import chooser
from ezm_lightning.model import PackedModel, WorldModel

DEFAULTS = {"ckpt_path": "", "states": 40, "candidates": 16, "horizon": 8, "starts": 4, "seed": 0}
START_NOISE = 0.02  # deviation of the actions that a roll-out starts with


@dataclass(frozen=True)
class Ranking:
    """A line of the table; each a mean over states."""

    identified: float
    q: float
    r: float
    v: float
    spread: float
    real_spread: float
    gain: float
    possible_gain: float
    far: float


@dataclass(frozen=True)
class LookAhead:
    """One step ahead of S states under C actions each; every field [S, C]."""

    model_reward: Tensor
    model_value: Tensor
    real_reward: Tensor
    real_value: Tensor
    identified: Tensor  # 1 where the prediction is nearest to the action's own outcome
    far_return: Tensor  # NaN where no roll-out was made

    def ranking(self, discount: float) -> Ranking:
        """What the table says of it."""
        q, real = self.model_reward + discount * self.model_value, self.real_reward + discount * self.real_value
        picked = real.gather(1, q.argmax(1, keepdim=True)).squeeze(1)
        return Ranking(
            identified=float(self.identified.mean()),
            q=rank_correlation(q, real),
            r=rank_correlation(self.model_reward, self.real_reward),
            v=rank_correlation(self.model_value, self.real_value),
            spread=float(q.std(1).mean()),
            real_spread=float(real.std(1).mean()),
            gain=float((picked - real.mean(1)).mean()),
            possible_gain=float((real.amax(1) - real.mean(1)).mean()),
            far=rank_correlation(real, self.far_return),
        )


def rank_correlation(x: Tensor, y: Tensor) -> float:
    """Spearman's rank correlation over the last axis of x, y [S, C], ties sharing their mean rank; the mean over S.

    A state where either is constant counts as 0.
    """
    x, y = (_centred_ranks(value) for value in (x, y))
    norm = x.norm(dim=-1) * y.norm(dim=-1)
    return float(((x * y).sum(-1) / norm.clamp(min=1e-12)).mean())


def _centred_ranks(x: Tensor) -> Tensor:
    above = (x[..., :, None] > x[..., None, :]).double().sum(-1)
    below = (x[..., :, None] < x[..., None, :]).double().sum(-1)
    return above - below


def identified(predicted: Tensor, real: Tensor) -> Tensor:
    """1 where predicted[c] is nearest to real[c] by cosine among all of real, else 0; [C] of [C, P] each."""
    cosine = torch.cosine_similarity(predicted[:, None], real[None], dim=-1)
    return (cosine.argmax(-1) == torch.arange(len(real))).float()


class Copies:
    """Copies of one simulator: as many slots of a task, all set to the same state."""

    def __init__(self, agent: Agent, task: str, count: int) -> None:
        self.agent, self.task, self.count = agent, agent.tasks.index(task), count
        self.env = make_env(agent, task, count)

    def step(self, state: State, action: Tensor) -> TensorDictBase:
        """The outcome of each action [count, A] from ``state``, of an environment with one slot."""
        twins = {
            **state,
            "obs": state["obs"].expand(self.count, -1).clone(),
            "over": state["over"].expand(self.count).clone(),
            "slots": state["slots"] * self.count,
        }
        self.env.set_state(twins)
        td = self.env.reset()
        return self.env.step(td.set("action", action[:, : self.env.action_dims[0]]))["next"]

    def far_return(self, state: State, action: Tensor, horizon: int, discount: float) -> Tensor:
        """Σ_{i<h} γ^i r_i + γ^h v [count] after ``action``, the policy's mean from then on."""
        next_td, alive = self.step(state, action), torch.ones(self.count, dtype=torch.bool)
        total, factor = torch.zeros(self.count), 1.0
        for step in range(horizon):
            total += factor * alive * next_td["reward"].squeeze(-1)
            alive &= ~next_td["termination"].squeeze(-1)
            factor *= discount
            if step < horizon - 1:
                mean = policy_mean(self.agent.module.target.model, *self.seen(next_td))
                next_td = self.env.step(TensorDict({"action": mean[:, : self.env.action_dims[0]]}, [self.count]))[
                    "next"
                ]
        return total + factor * alive * self.value(next_td)

    def value(self, td: TensorDictBase) -> Tensor:
        """The mean of the value heads at each slot's observation, 0 where the task has terminated; [count]."""
        value = self.agent.module.target.model.initial_inference(*self.seen(td)).head_values.mean(-1)
        return torch.where(td["termination"].squeeze(-1), 0.0, value)

    def seen(self, td: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Observation [count, D] and task [count] as the agent's model takes them."""
        return padded(self.agent, td["obs"]), torch.full((len(td),), self.task)


def padded(agent: Agent, obs: Tensor) -> Tensor:
    """obs [n, D] as wide as the agent's model takes it."""
    return pad(obs, (0, agent.module.target.model.obs_mask.shape[-1] - obs.shape[-1]))


def make_env(agent: Agent, task: str, slots: int) -> MultiTaskEnv:
    """``slots`` simulators of one of the agent's tasks, played on through terminations."""
    return MultiTaskEnv(
        [task], envs_per_task=slots, action_repeat=agent.cfg.tasks.action_repeat, ignore_termination=True
    )


def policy_mean(model: WorldModel, obs: Tensor, task: Tensor) -> Tensor:
    """tanh of the policy's mean [n, A]."""
    _, raw = model.value_policy(model.represent(obs, task), model.embed(task))
    return torch.tanh(model.policy(raw)[0])


def visited(agent: Agent, task: str, count: int, seed: int) -> Iterator[tuple[TensorDictBase, State]]:
    """``count`` evenly spaced decisions of an episode that the agent plays: what it sees, and the simulator's state."""
    env, act = make_env(agent, task, 1), chooser(agent.actor([task]), torch.Generator().manual_seed(seed))
    env.set_seed(seed)
    td, decision = env.reset(), 0
    length = -(-env.task_specs[0].max_episode_steps // env.action_repeat)
    wanted = set(torch.linspace(0, length - 1, count).long().tolist())
    done = False
    while not done:
        if decision in wanted:
            yield td, env.get_state()
        stepped, td = env.step_and_maybe_reset(td.set("action", act(td)))
        done, decision = bool(stepped["next", "done"]), decision + 1


def look_ahead(
    copies: Copies, obs: Tensor, state: State, action: Tensor, far: Mapping[str, float], generator: torch.Generator
) -> dict[str, Tensor]:
    """The fields of a LookAhead [C] for one state seen as obs [1, D], under action [C, A]."""
    model, outcome = copies.agent.module.target.model, copies.step(state, action)
    next_obs, task = copies.seen(outcome)
    heads = torch.arange(model.num_value_heads)[None]
    latent = model.represent(padded(copies.agent, obs), task[:1]).expand(copies.count, -1)
    model_step = model.recurrent_inference(latent[:, None], action[:, None], model.embed(task), heads)
    predicted = model.predict_projection(model_step.latent[:, 0])
    real = model.project(model.represent(next_obs, task))
    returns = [
        copies.far_return(state, (action + START_NOISE * torch.randn(action.shape, generator=generator)).clamp(-1, 1),
                          int(far["horizon"]), copies.agent.module.reanalyzer.planner.discount)
        for _ in range(int(far["starts"]))
    ]  # fmt: skip
    return {
        "model_reward": model_step.reward[:, 0],
        "model_value": model_step.head_values[:, 0].mean(-1),
        "real_reward": outcome["reward"].squeeze(-1),
        "real_value": copies.value(outcome),
        "identified": identified(predicted, real),
        "far_return": torch.stack(returns).mean(0),
    }


@torch.no_grad()
def measure(agent: Agent, task: str, options: Mapping[str, Any]) -> dict[str, Ranking]:
    """The lines of the table for one task."""
    generator = torch.Generator().manual_seed(options["seed"])
    copies = Copies(agent, task, options["candidates"])
    search_model = PackedModel(agent.module.target.model)
    outcomes: dict[str, list[dict[str, Tensor]]] = {"plan": [], "uniform": []}
    for td, state in visited(agent, task, options["states"], options["seed"]):
        index = torch.tensor([copies.task])
        noise = agent.module.reanalyzer.planner.sample_noise(search_model, 1, generator, explore=False)
        plan = agent.module.reanalyzer.planner(search_model, padded(agent, td["obs"]), index, noise)
        mask = agent.module.target.model.action_mask[copies.task]
        uniform = (torch.rand(copies.count, len(mask), generator=generator) * 2 - 1) * mask
        for name, action in (("plan", plan.candidates[0]), ("uniform", uniform)):
            outcomes[name].append(look_ahead(copies, td["obs"], state, action, options, generator))
    together = {
        name: LookAhead(**{field.name: torch.stack([row[field.name] for row in rows]) for field in fields(LookAhead)})
        for name, rows in outcomes.items()
    }
    return {name: outcome.ranking(agent.module.reanalyzer.planner.discount) for name, outcome in together.items()}


def print_table(task: str, rankings: Mapping[str, Ranking]) -> None:
    """A task's two lines."""
    print(f"{task:24}{'identified':>11}{'q':>7}{'r':>7}{'v':>7}{'spread':>9}{'real':>9}{'gain':>9}{'of':>9}{'far':>7}")
    for name, row in rankings.items():
        ranks = "".join(f"{value:7.2f}" for value in (row.q, row.r, row.v))
        sizes = (row.spread, row.real_spread, row.gain, row.possible_gain)
        print(f"  {name:22}{row.identified:11.2f}{ranks}{''.join(f'{value:9.3g}' for value in sizes)}{row.far:7.2f}")


def parse(argv: Sequence[str]) -> dict[str, Any]:
    """The arguments key=value over the defaults. Raises ValueError for a key that is not one, or a value below 1."""
    given = OmegaConf.to_container(OmegaConf.from_dotlist(list(argv)))
    for key in given:
        if key not in DEFAULTS:
            raise ValueError(f"unknown argument {key!r}; nearest: {nearest(str(key), list(DEFAULTS), count=1)}")
    options = {**DEFAULTS, **given}
    for key in ("states", "candidates", "horizon", "starts"):
        if not isinstance(options[key], int) or options[key] < 1:
            raise ValueError(f"{key}={options[key]} must be a whole number of at least 1")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        agent = load(given_checkpoint(options["ckpt_path"]), num_candidates=options["candidates"])
    except ValueError as error:
        sys.exit(f"ranking: {error}")
    torch.set_num_threads(1)
    for task in agent.tasks:
        print_table(task, measure(agent, task, options))


if __name__ == "__main__":
    main()
