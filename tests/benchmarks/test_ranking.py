"""benchmarks.ranking on a toy whose answer is known: a point that moves by its action, and a model of it."""

from types import SimpleNamespace

import pytest
import torch
from scipy.stats import spearmanr

from benchmarks import ranking
from ezm_lightning.model.inference import InitialInference, RecurrentInference

DISCOUNT = 0.9


class PointModel:
    """Latent = observation [2]; value = −|z|; ``obeys`` says whether the predicted next latent knows the action."""

    num_value_heads = 1

    def __init__(self, obeys=True, sign=1.0):
        self.obeys, self.sign, self.obs_mask = obeys, sign, torch.ones(1, 2)

    def embed(self, task):
        return torch.zeros(*task.shape, 1)

    def represent(self, obs, task):
        return obs

    def project(self, latent):
        return torch.cat([latent, torch.ones_like(latent[..., :1])], -1)  # no two points in the same direction

    predict_projection = project

    def _value(self, latent):
        return -self.sign * latent.norm(dim=-1, keepdim=True)

    def initial_inference(self, obs, task):
        return InitialInference(obs, -obs.norm(dim=-1, keepdim=True), obs)

    def recurrent_inference(self, latent, action, embedding, heads):
        after = latent + action if self.obeys else latent
        return RecurrentInference(self.sign * action.sum(-1), after, self._value(after), after)


class PointCopies(ranking.Copies):
    """The real point: it moves by its action and pays the action's sum."""

    def __init__(self, model, count):
        planner = SimpleNamespace(discount=DISCOUNT)
        module = {"target": SimpleNamespace(model=model), "reanalyzer": SimpleNamespace(planner=planner)}
        self.agent = SimpleNamespace(module=SimpleNamespace(**module))
        self.task, self.count = 0, count

    def step(self, state, action):
        return {
            "obs": state + action,
            "reward": action.sum(-1, keepdim=True),
            "termination": torch.zeros(len(action), 1).bool(),
        }

    def seen(self, td):
        return td["obs"], torch.zeros(self.count, dtype=torch.long)

    def far_return(self, state, action, horizon, discount):
        return self.step(state, action)["reward"].squeeze(-1)


def measured(model, num_states=30, count=8):
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(num_states):
        state = 3 * torch.randn(1, 2, generator=generator)
        action = torch.rand(count, 2, generator=generator) * 2 - 1
        rows.append(
            ranking.look_ahead(PointCopies(model, count), state, state, action, {"horizon": 1, "starts": 1}, generator)
        )
    fields = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return ranking.LookAhead(**fields).ranking(DISCOUNT)


def test_a_perfect_model_ranks_perfectly():
    found = measured(PointModel())
    assert found.identified == found.q == found.r == found.v == pytest.approx(1)
    assert found.gain == pytest.approx(found.possible_gain) and found.gain > 0.1
    assert found.spread == pytest.approx(found.real_spread)


def test_a_model_blind_to_the_action_identifies_by_chance():
    found = measured(PointModel(obeys=False))
    assert found.identified == pytest.approx(1 / 8)
    assert found.v == 0  # constant over actions


def test_a_model_that_has_it_backwards_ranks_backwards():
    found = measured(PointModel(sign=-1.0))
    assert found.q == found.r == found.v == pytest.approx(-1)
    assert found.gain < 0 < found.possible_gain


def test_the_rank_correlation_is_spearmans():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randint(5, (2, 20, 9), generator=generator).double().unbind()  # with many ties
    wanted = sum(spearmanr(a, b).statistic for a, b in zip(x.numpy(), y.numpy(), strict=True)) / 20
    assert ranking.rank_correlation(x, y) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["state=3"], "nearest: states"),
        (["ckpt_path=x", "states=0"], "states=0 must be"),
        ([], "ckpt_path=RUN says"),
        (["ckpt_path=nowhere"], "ckpt_path=nowhere does not exist"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, said):
    with pytest.raises(SystemExit) as stopped:
        ranking.main(arguments)
    assert said in str(stopped.value) and "\n" not in str(stopped.value)
