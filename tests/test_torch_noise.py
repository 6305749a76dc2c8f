"""Gradient noise scale of real data-parallel runs, in gloo process groups of 2."""

import copy
import itertools

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gloo
from gyrostat.integrations.torch import DDPNoiseScale

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")


class Words(nn.Module):
    """Has every kind of gradient: dense, sparse, none, none on one rank, never reduced."""

    def __init__(self):
        super().__init__()
        self.own = nn.Parameter(torch.ones(6))
        self.embedding = nn.Embedding(20, 6, sparse=True)
        self.linear = nn.Linear(6, 4)
        self.odd = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 1).requires_grad_(requires_grad=False)

    def forward(self, x, *, odd):
        hidden = self.linear(self.embedding(x) * self.own).tanh()
        return self.frozen(self.odd(hidden) if odd else hidden)


def squared_norm(gradients):
    total = 0.0
    for gradient in gradients:
        total += gradient.double().square().sum().item()
    return total


def expected_norms(module, micro_batches, loss_of):
    """Mean squared norm of the ranks' own gradients, and that of their mean, without DDP."""
    alone = copy.deepcopy(module)
    for batch in micro_batches:
        loss_of(alone, batch).backward()
    own = [
        (torch.zeros_like(p) if p.grad is None else p.grad.to_dense()).double()
        for name, p in alone.named_parameters()
        if p.requires_grad and name != "own"
    ]
    told = [None, None]
    dist.all_gather_object(told, own)
    means = [sum(each) / 2 for each in zip(*told, strict=True)]
    return sum(map(squared_norm, told)) / 2, squared_norm(means)


def estimates(small, big, batch):
    trace = (small - big) / (1 / batch - 1 / (2 * batch))
    return 2 * big - small, trace


def check(wrapped, batches, loss_of, *, accumulate=1, zero=None):
    """What was estimated at each step and what should have been."""
    told = []
    with DDPNoiseScale(wrapped, halflife=1e-3) as noise:  # only the last step counts
        for micro_batches in batches:
            small, big = expected_norms(wrapped.module, micro_batches, loss_of)
            with wrapped.no_sync():
                for batch in micro_batches[:-1]:
                    loss_of(wrapped, batch).backward()
            loss_of(wrapped, micro_batches[-1]).backward()
            size = 3 * accumulate
            noise.update(size)
            told.append(
                (
                    noise.estimate.squared_gradient,
                    noise.estimate.trace,
                    *estimates(small, big, size),
                )
            )
            wrapped.zero_grad(**(zero or {}))
    return told


def every_kind_of_gradient():
    model = Words()
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ["own"])
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    rank = dist.get_rank()

    def loss_of(module, batch):
        return module(batch, odd=rank == 1).square().mean()

    torch.manual_seed(1 + rank)
    return check(wrapped, [[torch.randint(0, 20, (3,))] for _ in range(4)], loss_of)


def every_way_to_run():
    told = {}
    ways = itertools.product([False, True], [False, True], [1, 3], [False, True])
    for view, to_none, accumulate, compressed in ways:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 30), nn.Tanh(), nn.Linear(30, 1))
        # Small buckets: some are reduced while gradients of others are not yet there.
        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=view, bucket_cap_mb=1e-4)
        if compressed:
            from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

            wrapped.register_comm_hook(None, fp16_compress_hook)
        torch.manual_seed(1 + dist.get_rank())
        batches = [[torch.randn(3, 5) for _ in range(accumulate)] for _ in range(3)]
        told[view, to_none, accumulate, compressed] = check(
            wrapped,
            batches,
            lambda module, x: module(x).square().mean(),
            accumulate=accumulate,
            zero={"set_to_none": to_none},
        )
    return told


class Shift(nn.Module):
    """Half the squared distance to a sample: its gradient is the distance itself."""

    def __init__(self, at):
        super().__init__()
        self.at = nn.Parameter(at)

    def forward(self, x):
        return 0.5 * (self.at - x).square().sum(dim=1).mean()


def known_answer():
    dimensions, batch = 200, 4
    wrapped = DistributedDataParallel(Shift(torch.full((dimensions,), 0.2)))  # |G|^2 = 8
    noise = DDPNoiseScale(wrapped)
    torch.manual_seed(dist.get_rank())
    for _ in range(400):
        wrapped(torch.randn(batch, dimensions)).backward()  # tr(Sigma) = 200
        noise.update(batch)
        wrapped.zero_grad()
    return noise.estimate.squared_gradient, noise.estimate.trace, noise.state_dict()


def gradients_with_and_without():
    told = []
    for watched in (False, True):
        torch.manual_seed(0)
        wrapped = DistributedDataParallel(nn.Linear(40, 20))
        noise = DDPNoiseScale(wrapped) if watched else None
        for _ in range(3):
            wrapped(torch.randn(3, 40) + dist.get_rank()).square().mean().backward()
            if noise:
                noise.update(3)
        told.append([p.grad.tolist() for p in wrapped.parameters()])
    noise.close()
    hooks = [p._post_accumulate_grad_hooks for p in wrapped.parameters()]
    return told, [len(h) for h in hooks]


def state():
    wrapped = DistributedDataParallel(nn.Linear(2, 1))
    one, other = DDPNoiseScale(wrapped, halflife=5.0), DDPNoiseScale(wrapped)
    wrapped(torch.ones(3, 2) * dist.get_rank()).square().mean().backward()
    one.update(3)
    other.load_state_dict(one.state_dict())
    return one.state_dict(), other.state_dict()


def nan_on_one_rank():
    wrapped = DistributedDataParallel(nn.Linear(2, 1))
    noise = DDPNoiseScale(wrapped)
    wrapped(torch.ones(3, 2) * (torch.nan if dist.get_rank() else 1.0)).mean().backward()
    noise.update(3)
    return noise.estimate.steps, noise.estimate.skipped


def no_backward_on_one_rank():
    wrapped = DistributedDataParallel(nn.Linear(2, 1))
    noise = DDPNoiseScale(wrapped)
    wrapped(torch.ones(3, 2)).mean().backward()
    if dist.get_rank() == 1:
        noise = DDPNoiseScale(wrapped)
    noise.update(3)


def other_batch_size():
    wrapped = DistributedDataParallel(nn.Linear(2, 1))
    noise = DDPNoiseScale(wrapped)
    wrapped(torch.ones(3, 2)).mean().backward()
    noise.update(3 + dist.get_rank())


def one_rank_only():
    group = dist.new_group([0])
    if dist.get_rank() == 0:
        DDPNoiseScale(DistributedDataParallel(nn.Linear(2, 1), process_group=group))


SCENARIOS = [
    every_kind_of_gradient,
    every_way_to_run,
    known_answer,
    gradients_with_and_without,
    state,
    nan_on_one_rank,
    no_backward_on_one_rank,
    other_batch_size,
    one_rank_only,
]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return gloo.run(2, SCENARIOS, tmp_path_factory.mktemp("noise"))


def assert_as_expected(steps, rel):
    for squared_gradient, trace, expected_squared_gradient, expected_trace in steps:
        scale = abs(expected_squared_gradient) + abs(expected_trace)
        assert squared_gradient == pytest.approx(expected_squared_gradient, abs=rel * scale)
        assert trace == pytest.approx(expected_trace, abs=rel * scale)


def test_norms_before_and_after_the_reduction_are_those_of_the_ranks(told):
    assert told["every_kind_of_gradient"][0] == told["every_kind_of_gradient"][1]
    assert_as_expected(told["every_kind_of_gradient"][0], 1e-5)


def test_it_makes_no_difference_how_ddp_is_used(told):
    assert told["every_way_to_run"][0] == told["every_way_to_run"][1]
    for (_, _, _, compressed), steps in told["every_way_to_run"][0].items():
        assert_as_expected(steps, 1e-2 if compressed else 1e-5)


def test_the_known_answer_is_found(told):
    squared_gradient, trace, state = told["known_answer"][0]
    assert trace == pytest.approx(200.0, rel=0.03)
    assert squared_gradient == pytest.approx(8.0, rel=0.15)
    assert state == told["known_answer"][1][2]


def test_gradients_are_left_as_they_are(told):
    (without, watched), hooks = told["gradients_with_and_without"][0]
    assert watched == without
    assert hooks == [0, 0]


def test_the_state_goes_on_elsewhere(told):
    one, other = told["state"][0]
    assert one == other
    assert one["halflife"] == 5.0
    assert one["steps"] == 1


def test_nan_on_one_rank_is_skipped_on_all(told):
    assert told["nan_on_one_rank"] == [(0, 1), (0, 1)]


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ("no_backward_on_one_rank", "update: expected a backward pass on every rank"),
        ("other_batch_size", r"batch_size: expected the same above 0 on every rank, got [3, 4]"),
    ],
)
def test_an_error_reaches_every_rank_alike(told, scenario, message):
    assert [t.kind for t in told[scenario]] == ["ValueError"] * 2
    assert all(message in t.message for t in told[scenario])


def test_one_rank_has_no_second_batch_size(told):
    assert "expected one on two ranks at least, got 1" in told["one_rank_only"][0].message


def test_a_model_that_is_not_wrapped_is_named():
    with pytest.raises(TypeError, match="model: expected DistributedDataParallel, got Linear"):
        DDPNoiseScale(nn.Linear(1, 1))
