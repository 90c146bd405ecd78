"""The temperature of the entropy bonus: fixed, or moving towards a target entropy, per task."""

import pytest
import torch

from ezm_lightning.temperature import FixedTemperature, TunedTemperature

TASK = torch.tensor([0, 1, 1])


def test_a_fixed_temperature_has_nothing_to_learn():
    fixed = FixedTemperature(num_tasks=2, value=0.3)
    assert fixed(TASK).tolist() == pytest.approx([0.3] * 3)
    assert not list(fixed.parameters())
    assert fixed.loss(TASK, torch.tensor([1.0, 2.0, 3.0]), torch.ones(3)).tolist() == [0, 0, 0]


def test_a_tuned_temperature_falls_above_its_target_and_rises_below():
    """Task 0 has too much entropy for its 2 dimensions, task 1 too little for its 4."""
    tuned = TunedTemperature(num_tasks=2, initial=0.1, target_entropy=-1.0)
    assert tuned(TASK).tolist() == pytest.approx([0.1] * 3) and not tuned(TASK).requires_grad
    entropy = torch.tensor([-1.0, -5.0, -6.0], requires_grad=True)
    tuned.loss(TASK, entropy, torch.tensor([2.0, 4.0, 4.0])).sum().backward()
    assert entropy.grad is None
    assert tuned.log_value.grad.tolist() == pytest.approx([0.1 * (-1 + 2), 0.1 * (-5 + 4 - 6 + 4)])
    torch.optim.SGD(tuned.parameters(), lr=1.0).step()
    assert tuned(TASK)[0] < 0.1 < tuned(TASK)[1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FixedTemperature(num_tasks=1, value=-0.1), "temperature.value=-0.1 must not be negative"),
        (lambda: TunedTemperature(num_tasks=1, initial=0.0), "temperature.initial=0.0 must be positive"),
        (lambda: TunedTemperature(num_tasks=1, target_entropy=0.7), "must be below ln 2"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
