"""One number for all tasks, or one a task."""

import pytest
import torch

from ezm_lightning.ops.per_task import PerTask, as_column, spread


def test_a_number_stays_one_and_numbers_are_looked_up():
    task = torch.tensor([2, 0, 2])
    assert PerTask(0.5).of(task) == 0.5
    assert PerTask([1.0, 2.0, 3.0]).of(task).tolist() == [3, 1, 3]
    assert as_column(0.5) == 0.5 and as_column(PerTask([1.0, 2.0, 3.0]).of(task)).shape == (3, 1)


def test_what_is_looked_up_in_a_search_serves_training():
    numbers = PerTask([1.0, 2.0])
    with torch.inference_mode():
        numbers.of(torch.tensor([0]))
    (torch.ones(1, requires_grad=True) * numbers.of(torch.tensor([1]))).backward()


def test_a_number_for_each_task():
    assert spread(2, 3) == [2, 2, 2] and spread([1, 2], 2) == [1, 2]
    with pytest.raises(ValueError, match="2 numbers for 3 tasks"):
        spread([1, 2], 3)
