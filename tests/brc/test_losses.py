"""The projection by the specification's table and by a loop; each loss by its formula and where its gradient goes."""

import math

import pytest
import torch
from torch import Tensor

from ezm_lightning.brc.losses import (
    Atoms,
    actor_loss,
    critic_loss,
    expected_value,
    mean_distribution,
    project,
    soft_target,
    temperature_loss,
)

ATOMS = Atoms()
GAMMA = 0.99


def all_on(value: float) -> Tensor:
    prob = torch.zeros(1, ATOMS.num_atoms, dtype=torch.float64)
    prob[0, round((value - ATOMS.low) / ATOMS.spacing)] = 1
    return prob


def target(
    prob: Tensor, reward: float, continues: float, entropy_term: float, *, atoms: Atoms = ATOMS, discount: float = GAMMA
) -> Tensor:
    """The projection [S] of one distribution; ``entropy_term`` is α log π."""
    scalar = lambda x: torch.tensor([x], dtype=prob.dtype)  # noqa: E731
    arguments = (prob, scalar(reward), scalar(entropy_term), scalar(continues), atoms)
    return soft_target(*arguments, temperature=torch.ones((), dtype=prob.dtype), discount=discount)[0]


def mean_of(prob: Tensor, atoms: Atoms = ATOMS) -> float:
    return (prob * atoms.values(prob)).sum().item()


@pytest.mark.parametrize(
    ("at", "reward", "continues", "entropy_term", "expected"),
    [
        (0, 0.13, 1, 0, {0.0: 0.35, 0.2: 0.65}),
        (2, 0.5, 1, -0.1, {2.4: 0.105, 2.6: 0.895}),
        (2, 0.37, 0, -0.1, {0.2: 0.15, 0.4: 0.85}),  # nothing after a terminal step, its entropy neither
        (2, 9.9, 1, 0, {10.0: 1.0}),  # clipped
        (10, 0, 1, 0, {9.8: 0.5, 10.0: 0.5}),
        (-2, -20.0, 1, 0, {-10.0: 1.0}),
    ],
)
def test_projection_of_one_atom(at, reward, continues, entropy_term, expected):
    ours = target(all_on(at), reward, continues, entropy_term)
    by_hand = sum(share * all_on(value)[0] for value, share in expected.items())
    torch.testing.assert_close(ours, by_hand, rtol=0, atol=1e-9)


def test_projection_of_the_uniform_distribution():
    ours = target(torch.full((1, 101), 1 / 101, dtype=torch.float64), 0.1, 1, 0.02)
    assert ours.sum().item() == pytest.approx(1)
    assert mean_of(ours) == pytest.approx(0.0802, abs=1e-6)


def test_projection_of_five_atoms():
    atoms = Atoms(-2.0, 2.0, 5)
    prob = torch.tensor([[0.1, 0.2, 0.3, 0.25, 0.15]], dtype=torch.float64)
    ours = target(prob, 0.5, 1, 0.1, atoms=atoms, discount=0.9)
    by_hand = torch.tensor([0.039, 0.159, 0.279, 0.2955, 0.2275], dtype=torch.float64)
    torch.testing.assert_close(ours, by_hand, rtol=0, atol=1e-9)
    assert mean_of(ours, atoms) == pytest.approx(0.5135)


def loop_projection(prob: list[float], shift: float, scale: float, atoms: Atoms) -> list[float]:
    """Atom by atom; each gives to the atoms by their distance."""
    out = [0.0] * atoms.num_atoms
    for j, p in enumerate(prob):
        moved = shift + scale * (atoms.low + j * atoms.spacing)
        moved = min(max(moved, atoms.low), atoms.high)
        for k in range(atoms.num_atoms):
            distance = abs(moved - (atoms.low + k * atoms.spacing)) / atoms.spacing
            out[k] += p * max(0.0, 1 - distance)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_is_its_loop(dtype):
    g = torch.Generator().manual_seed(0)
    prob = torch.randn(12, 101, generator=g, dtype=dtype).softmax(-1)
    shift, scale = 6 * torch.randn(12, generator=g, dtype=dtype), torch.rand(12, generator=g, dtype=dtype)
    ours = project(prob, shift, scale, ATOMS)
    rows = zip(prob.tolist(), shift.tolist(), scale.tolist(), strict=True)
    loop = torch.tensor([loop_projection(*row, ATOMS) for row in rows], dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(ours, loop, rtol=0, atol=tolerance)
    torch.testing.assert_close(ours.sum(-1), torch.ones(12, dtype=dtype))


def random_inside(seed: int) -> Tensor:
    """Distributions that no small shift moves over the ends."""
    prob = torch.randn(8, 101, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    prob[:, :30] = prob[:, 71:] = 0
    return prob / prob.sum(-1, keepdim=True)


def test_the_mean_moves_as_its_atoms_do():
    prob, shift, scale = random_inside(0), torch.linspace(-3, 3, 8), torch.linspace(0, 1, 8)
    z = ATOMS.values(prob)
    ours = (project(prob, shift, scale, ATOMS) * z).sum(-1)
    torch.testing.assert_close(ours, shift + scale * (prob * z).sum(-1), rtol=1e-4, atol=1e-5)


def test_no_shift_and_no_discount_is_the_identity():
    prob = torch.randn(8, 101).softmax(-1)
    torch.testing.assert_close(project(prob, torch.zeros(8), torch.ones(8), ATOMS), prob, rtol=0, atol=1e-5)


def test_a_reversed_distribution_and_shift_reverse_the_projection():
    g = torch.Generator().manual_seed(0)
    prob = torch.randn(8, 101, generator=g).softmax(-1)
    shift, scale = 6 * torch.randn(8, generator=g), torch.rand(8, generator=g)
    mirrored = project(prob.flip(-1), -shift, scale, ATOMS).flip(-1)
    torch.testing.assert_close(mirrored, project(prob, shift, scale, ATOMS), rtol=0, atol=1e-5)


# --- losses


def test_critic_loss_is_the_sum_over_critics_and_has_its_floor_and_start():
    g = torch.Generator().manual_seed(0)
    logits, distribution = torch.randn(2, 3, 101, generator=g), torch.randn(3, 101, generator=g).softmax(-1)
    loop = torch.zeros(3)
    for v in range(2):
        for b in range(3):
            log_prob = logits[v, b] - logits[v, b].exp().sum().log()
            loop[b] -= sum(distribution[b, j] * log_prob[j] for j in range(101))
    torch.testing.assert_close(critic_loss(logits, distribution), loop)
    uniform = critic_loss(torch.zeros(2, 3, 101), distribution)
    torch.testing.assert_close(uniform, torch.full((3,), 9.23024), rtol=1e-5, atol=1e-5)
    fitted = critic_loss(distribution.log().expand(2, -1, -1), distribution)
    torch.testing.assert_close(fitted, 2 * torch.special.entr(distribution).sum(-1))


def test_the_target_gets_no_gradient():
    g = torch.Generator().manual_seed(0)
    next_logits, logits = (torch.randn(2, 3, 101, generator=g, requires_grad=True) for _ in range(2))
    prob = project(mean_distribution(next_logits), torch.zeros(3), torch.ones(3), ATOMS)
    critic_loss(logits, prob).sum().backward()
    assert next_logits.grad is None
    assert (logits.grad != 0).any()


def test_values_are_those_of_the_mean_of_distributions():
    """Not of the mean of logits: one critic certain of 4, one certain of −2."""
    logits = torch.full((2, 1, 101), -100.0)
    logits[0, 0, 70] = logits[1, 0, 40] = 0
    logits[0, 0, 70] = 300.0
    torch.testing.assert_close(expected_value(logits, ATOMS), torch.tensor([1.0]))
    torch.testing.assert_close(mean_distribution(logits)[0, [40, 70]], torch.tensor([0.5, 0.5]))


def test_actor_loss_moves_the_policy_alone():
    log_prob, q = torch.tensor([1.0, -2.0], requires_grad=True), torch.tensor([3.0, 4.0], requires_grad=True)
    temperature = torch.tensor(0.5, requires_grad=True)
    loss = actor_loss(log_prob, q, temperature)
    torch.testing.assert_close(loss, torch.tensor([-2.5, -5.0]))
    loss.sum().backward()
    assert temperature.grad is None
    assert log_prob.grad.tolist() == [0.5, 0.5] and q.grad.tolist() == [-1.0, -1.0]


def test_temperature_loss_by_hand_and_its_gradient():
    """α = 0.1, log π = −3 (H = 3) and 1 (H = −1) for H* = −0.5."""
    log_temperature = torch.tensor(math.log(0.1), requires_grad=True)
    log_prob = torch.tensor([-3.0, 1.0], requires_grad=True)
    loss = temperature_loss(log_temperature, log_prob, torch.full((2,), -0.5))
    torch.testing.assert_close(loss, torch.tensor([0.35, -0.05]))
    loss.sum().backward()
    torch.testing.assert_close(log_temperature.grad, torch.tensor(0.3))
    assert log_prob.grad is None
