"""UpdateTracker in training loops whose updates are known."""

import pytest
import torch
from torch import nn

from gyrostat.integrations.torch import UpdateTracker

LR = 0.01


def small_model(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)


def backward(model):
    dtype = next(model.parameters()).dtype
    model(torch.randn(16, 6, dtype=dtype)).square().mean().backward()


def norms(tensors):
    return torch.stack([x.detach().norm() for x in tensors])


def test_updates_of_sgd_are_the_learning_rate_times_the_gradients():
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), LR)
    tracker = UpdateTracker(model)
    for _ in range(3):
        optimizer.zero_grad()
        backward(model)
        expected = LR * norms(p.grad for p in model.parameters()) / norms(model.parameters())
        whole = LR * norms(p.grad for p in model.parameters()).norm()
        tracker.before_step()
        optimizer.step()
        updates = tracker.after_step()
        assert updates.names == tuple(name for name, _ in model.named_parameters())
        assert updates.relative_difference.tolist() == pytest.approx(expected.tolist(), rel=1e-10)
        assert updates.total.l2_difference == pytest.approx(whole.item(), rel=1e-10)


def test_successive_gradients():
    model = small_model(torch.float32)
    tracker = UpdateTracker(model)
    previous = None
    for _ in range(3):
        model.zero_grad()
        backward(model)
        table = tracker.gradients()
        grads = [p.grad.double().flatten() for p in model.parameters()]
        if previous is None:
            assert table is None
        else:
            pairs = zip(grads, previous, strict=True)
            expected = [torch.cosine_similarity(a, b, dim=0).item() for a, b in pairs]
            assert table.cosine.tolist() == pytest.approx(expected, abs=1e-12)
        previous = grads
    assert tracker.gradients().cosine.tolist() == [1.0] * 4  # the same ones again


def test_only_what_is_trained_is_looked_at():
    model = small_model()
    model[0].requires_grad_(requires_grad=False)
    tracker = UpdateTracker(model)
    backward(model)
    tracker.gradients()
    tracker.before_step()
    with torch.no_grad():
        model[2].weight *= 1.5
    updates = tracker.after_step()
    assert updates.names == ("2.weight", "2.bias")
    assert updates.relative_difference.tolist() == [0.5, 0.0]
    model[0].requires_grad_(requires_grad=True)  # from here on, as gradual unfreezing does
    backward(model)
    assert tracker.gradients().names == ("2.weight", "2.bias")
    backward(model)
    assert len(tracker.gradients()) == 4


def test_a_parameter_without_a_gradient_is_missing():
    model = small_model()
    tracker = UpdateTracker(model)
    backward(model)
    model[0].bias.grad = None
    tracker.gradients()
    backward(model)
    assert tracker.gradients().missing == ("0.bias",)


def test_weights_that_get_another_dtype_or_shape():
    model = nn.Linear(4, 4)
    tracker = UpdateTracker(model)
    tracker.before_step()
    model.bfloat16()
    assert tracker.after_step().relative_difference.max() < 2**-8
    model.weight = nn.Parameter(torch.ones(5, 4))
    with pytest.raises(ValueError, match="'weight'"):
        tracker.after_step()
    tracker.before_step()
    assert tracker.after_step().l2_difference.tolist() == [0.0, 0.0]


def test_a_copy_is_kept_not_a_view():
    model = small_model()
    tracker = UpdateTracker(model)
    for _ in range(2):
        tracker.before_step()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(3.0)
        assert tracker.after_step().relative_difference.tolist() == pytest.approx([2.0] * 4)


def test_after_needs_before():
    with pytest.raises(RuntimeError, match="before_step"):
        UpdateTracker(small_model()).after_step()
