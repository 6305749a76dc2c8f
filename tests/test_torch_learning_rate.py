"""A factor on the learning rate that schedules never see."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from gyrostat.integrations.torch.learning_rate import LearningRateScale


class Spy(torch.optim.SGD):
    """Keeps the rates that its steps were made with."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.used = []
        self.fails = False

    # Hooks are on the optimizer's own step, so what it calls is looked at.
    def _init_group(self, group, *args):
        if self.fails:
            raise RuntimeError("no step")
        self.used.append(group["lr"])
        return super()._init_group(group, *args)


def spy(lr=0.1, groups=1):
    params = [nn.Parameter(torch.ones(2)) for _ in range(groups)]
    for p in params:
        p.grad = torch.ones(2)
    return Spy([{"params": [p], "lr": lr / (i + 1)} for i, p in enumerate(params)])


def chained(optimizer):
    first = schedules.ExponentialLR(optimizer, 0.9)
    return schedules.ChainedScheduler([first, schedules.LinearLR(optimizer, 0.5, total_iters=5)])


def sequential(optimizer):
    first = schedules.LinearLR(optimizer, 0.1, total_iters=5)
    return schedules.SequentialLR(
        optimizer, [first, schedules.CosineAnnealingLR(optimizer, 9)], [5]
    )


SCHEDULES = {
    "exponential": lambda o: schedules.ExponentialLR(o, 0.9),
    "multiplicative": lambda o: schedules.MultiplicativeLR(o, lambda _: 0.95),
    "cosine": lambda o: schedules.CosineAnnealingLR(o, 10),
    "one cycle": lambda o: schedules.OneCycleLR(o, 0.5, total_steps=30, cycle_momentum=False),
    "chained": chained,
    "sequential": sequential,
}


def run(name, factors):
    optimizer = spy(groups=2)
    scale = LearningRateScale(optimizer)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an epoch parameter that SequentialLR passes
        scheduler = SCHEDULES[name](optimizer)
        for factor in factors:
            scale.factor = factor
            optimizer.step()
            seen.append([group["lr"] for group in optimizer.param_groups])
            scheduler.step()
    return seen, optimizer.used, copy.deepcopy(scheduler.state_dict())


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_goes_on_as_if_nothing_were_scaled(name):
    factors = [1.0, 0.5, 0.5, 0.125, 1.0] * 4
    seen, used, _ = run(name, factors)
    plain, plain_used, _ = run(name, [1.0] * 20)
    assert seen == plain
    each = [factor for factor in factors for _ in range(2)]
    assert used == [rate * factor for rate, factor in zip(plain_used, each, strict=True)]
    assert len(used) == 40


def test_updates_are_made_with_the_scaled_rate_and_the_rate_stays():
    optimizer = spy(0.5)
    LearningRateScale(optimizer).factor = 0.25
    optimizer.step()
    assert optimizer.param_groups[0]["params"][0].tolist() == [0.875, 0.875]
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.5
    assert type(optimizer.param_groups[0]["lr"]) is float


def test_a_rate_in_a_tensor_stays_the_same_tensor():
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam([p], lr=rate)
    LearningRateScale(optimizer).factor = 0.5
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.1)
    assert p.detach().tolist() == pytest.approx([0.95, 0.95])


def test_a_step_that_fails_leaves_nothing_scaled_after_the_next():
    optimizer = spy()
    scale = LearningRateScale(optimizer)
    scale.factor = 0.5
    optimizer.fails = True
    with pytest.raises(RuntimeError, match="no step"):
        optimizer.step()
    optimizer.fails = False
    optimizer.step()
    optimizer.step()
    assert optimizer.used == [0.05, 0.05]
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_factor_of_one_and_a_removed_scale_do_nothing():
    optimizer = spy()
    scale = LearningRateScale(optimizer)
    optimizer.step()
    scale.factor = 0.5
    scale.remove()
    optimizer.step()
    assert optimizer.used == [0.1, 0.1]
