"""clip_grad_norm_ beside torch's own, in float64 and where torch is wrong."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gyrostat
from gyrostat.integrations.torch import clip_grad_norm_

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _parameters(*grads):
    parameters = [torch.nn.Parameter(torch.zeros(g.shape, dtype=g.dtype)) for g in grads]
    for p, g in zip(parameters, grads, strict=True):
        p.grad = g
    return parameters


def _exact_norm(grads):
    return math.sqrt(math.fsum((g.double() ** 2).sum().item() for g in grads))


def _check_scaled(before, after, factor):
    """Each is the product with the factor, which is rounded to float32 unless both are float64."""
    for g, got in zip(before, after, strict=True):
        exact = g.double() * factor
        info = torch.finfo(g.dtype)
        unit = (exact.abs() * info.eps).clamp(min=info.smallest_normal * info.eps)
        bound = {torch.float64: 4, torch.float32: 1.01}.get(g.dtype, 0.51)
        assert ((got.double() - exact).abs() <= bound * unit).all()


@given(
    st.lists(st.tuples(st.sampled_from(DTYPES), st.integers(0, 300)), min_size=1, max_size=5),
    st.floats(1e-3, 10),
    st.integers(0, 2**32),
)
def test_any_gradients(kinds, max_norm, seed):
    g = torch.Generator().manual_seed(seed)
    grads = [torch.randn(n, generator=g, dtype=torch.float64).to(dtype) for dtype, n in kinds]
    before = [g.clone() for g in grads]
    expected = _exact_norm(before)
    norm = clip_grad_norm_(_parameters(*grads), max_norm)
    assert norm.dtype == torch.float64
    assert norm.shape == ()
    assert norm.item() == pytest.approx(expected, rel=1e-12)
    _check_scaled(before, grads, min(max_norm / (expected + 1e-6), 1.0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(), (1,), (0, 3), (70_000,), (300, 401), (7, 3, 5, 2), (200_001, 2)]
)
def test_shapes_and_dtypes(dtype, shape):
    grad = torch.randn(shape).to(dtype)
    before = grad.clone()
    norm = clip_grad_norm_(_parameters(grad), 0.25).item()
    _check_scaled([before], [grad], min(0.25 / (norm + 1e-6), 1.0))


LAYOUTS = {
    "transposed": lambda: torch.randn(300, 400).T,
    "columns": lambda: torch.randn(300, 400)[:, 5:205],
    "every second": lambda: torch.randn(300, 400)[::2, ::2],
    "channels last": lambda: torch.randn(8, 33, 9, 9).to(memory_format=torch.channels_last),
    "bfloat16 columns": lambda: torch.randn(300, 400).bfloat16()[:, 7:],
    "axes in another order": lambda: torch.randn(5, 6, 7, 8).permute(2, 0, 3, 1),
    "offset": lambda: torch.randn(1000)[13:],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_strided_gradients_are_scaled_where_they_lie(name):
    grad = LAYOUTS[name]()
    base = grad._base if grad._base is not None else grad
    before, total = grad.clone(), base.double().sum().item()
    norm = clip_grad_norm_(_parameters(grad), 1.0).item()
    assert norm == pytest.approx(_exact_norm([before]), rel=1e-12)
    _check_scaled([before], [grad], 1 / (norm + 1e-6))
    removed = (before.double() - grad.double()).sum().item()
    assert base.double().sum().item() == pytest.approx(total - removed, abs=1e-6)  # nothing else


def test_two_gradients_in_one_buffer():
    flat = torch.randn(1000)
    before = flat.clone()
    clip_grad_norm_(_parameters(flat[:300], flat[300:900].view(20, 30)), 1.0)
    torch.testing.assert_close(flat[900:], before[900:], rtol=0, atol=0)
    factor = 1 / (_exact_norm([before[:900]]) + 1e-6)
    _check_scaled([before[:900]], [flat[:900]], factor)


def test_where_torch_is_wrong():
    # Sums of float32 in float32: torch says 960.
    (p,) = _parameters(torch.full((100_000_000,), 0.1))
    assert clip_grad_norm_([p], 1e9).item() == pytest.approx(1000, rel=1e-7)
    # Squares beyond float32, below it, beyond float16.
    for dtype, value, n in (
        (torch.float32, 1e25, 4),
        (torch.float32, 1e-25, 4),
        (torch.bfloat16, 1e30, 100),
        (torch.float16, 300.0, 1_000_000),
    ):
        grad = torch.full((n,), value, dtype=dtype)
        expected = grad[0].item() * math.sqrt(n)
        norm = clip_grad_norm_(_parameters(grad), 1.0).item()
        assert norm == pytest.approx(expected, rel=1e-12)
        clipped = grad.double().norm().item()
        assert clipped == pytest.approx(min(1.0, expected), rel=4 * torch.finfo(dtype).eps)
    # A norm that bfloat16 does not hold.
    grads = [torch.randn(1000).bfloat16() for _ in range(3)]
    expected = _exact_norm(grads)
    assert clip_grad_norm_(_parameters(*grads), 1e9).item() == pytest.approx(expected, rel=1e-12)


def test_gradients_below_the_limit_are_not_written():
    grad = torch.randn(100)
    before, version = grad.clone(), grad._version
    clip_grad_norm_(_parameters(grad), 1e3)
    assert torch.equal(grad, before)
    assert grad._version == version


def test_autograd_learns_of_the_change():
    x = torch.randn(3, requires_grad=True)
    grad = torch.full((3,), 5.0)
    y = (x * grad).sum()
    clip_grad_norm_(_parameters(grad), 1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_parameters_without_gradient_and_a_single_one():
    (with_grad,), without = _parameters(torch.full((4,), 3.0)), torch.nn.Parameter(torch.ones(2))
    assert clip_grad_norm_((p for p in (with_grad, without)), 1.0).item() == 6.0
    assert without.grad is None
    assert clip_grad_norm_(with_grad, 1.0).item() == pytest.approx(1.0, rel=1e-6)


def test_nothing_to_clip():
    assert clip_grad_norm_([], 1.0).item() == 0.0
    assert clip_grad_norm_([torch.nn.Parameter(torch.ones(2))], 1.0).item() == 0.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        expected = torch.nn.utils.clip_grad_norm_((p for p in ()), 1.0)
        torchs = [w.category for w in caught]
        caught.clear()
        assert clip_grad_norm_((p for p in ()), 1.0) == expected
        assert [w.category for w in caught] == torchs


def _both(values, **options):
    """What this and torch make of the same gradients."""
    results = []
    for clip in (clip_grad_norm_, torch.nn.utils.clip_grad_norm_):
        parameters = _parameters(*[torch.tensor(v) for v in values])
        norm = clip(parameters, 1.0, **options)
        results.append((norm.item(), [p.grad for p in parameters]))
    return results


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gradients_that_are_not_finite_go_as_in_torch(bad):
    (norm, grads), (torch_norm, torch_grads) = _both([[1.0, bad], [3.0]])
    np.testing.assert_equal(norm, torch_norm)
    for ours, theirs in zip(grads, torch_grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_an_error_names_the_gradients_that_are_not_finite():
    grads = [torch.ones(3), torch.tensor([1.0, math.nan, math.inf, math.nan]), torch.ones(2)]
    before = [g.clone() for g in grads]
    parameters = [torch.nn.Parameter(torch.ones(1)), *_parameters(*grads)]
    with pytest.raises(RuntimeError, match="is non-finite, so it cannot be clipped") as info:
        clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    assert "parameters[2].grad holds 2 NaN and 1 Inf in 4 values." in str(info.value)
    for g, b in zip(grads, before, strict=True):
        torch.testing.assert_close(g, b, rtol=0, atol=0, equal_nan=True)
    many = _parameters(*[torch.tensor([math.inf])] * 11)
    for i, p in enumerate(many):
        p.grad = torch.tensor([math.inf if i else 1.0])
    with pytest.raises(RuntimeError, match=r"parameters\[8\].*; and 2 more\. To scale"):
        clip_grad_norm_(many, 1.0, error_if_nonfinite=True)
    large = _parameters(torch.full((4,), 1e308, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="every value is finite, but the norm is beyond float64"):
        clip_grad_norm_(large, 1.0, error_if_nonfinite=True)


@pytest.mark.parametrize("norm_type", [1.0, 3.0, math.inf, "inf", 2])
def test_other_norms_are_those_of_torch(norm_type):
    values = torch.randn(50, generator=torch.Generator().manual_seed(1)).tolist()
    (norm, grads), (torch_norm, torch_grads) = _both([values, [2.0]], norm_type=norm_type)
    assert norm == pytest.approx(torch_norm, rel=1e-6)
    for ours, theirs in zip(grads, torch_grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_sparse_gradients_are_left_to_torch():
    results = []
    for clip in (clip_grad_norm_, torch.nn.utils.clip_grad_norm_):
        embedding = torch.nn.Embedding(5, 3, sparse=True)
        embedding(torch.tensor([1, 1, 2])).sum().backward()
        dense = _parameters(torch.full((4,), 3.0))
        norm = clip([*embedding.parameters(), *dense], 1.0)
        results.append((norm.item(), embedding.weight.grad.to_dense(), dense[0].grad))
    assert results[0][0] == results[1][0]
    for ours, theirs in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_gradients_that_share_memory_are_left_to_torch():
    grad = torch.ones(10)
    twice = _parameters(grad, grad)
    norm = clip_grad_norm_(twice, 1.0).item()
    # As torch has it: scaled once for each of the two.
    assert norm == pytest.approx(math.sqrt(20), rel=1e-6)
    torch.testing.assert_close(grad, torch.full((10,), 1 / 20.0))
    expanded = _parameters(torch.ones(3, 1).expand(3, 4))
    with pytest.raises(RuntimeError, match="single memory location"):
        clip_grad_norm_(expanded, 1.0)


def test_tensors_of_a_kind_that_cannot_be_computed_with():
    parameters = _parameters(torch.ones(4).to(torch.float8_e5m2))
    before = parameters[0].grad.view(torch.uint8).clone()
    with pytest.raises(NotImplementedError, match="not implemented for 'Float8_e5m2'"):
        clip_grad_norm_(parameters, 0.1)
    assert torch.equal(parameters[0].grad.view(torch.uint8), before)


def test_lazy_clones_do_not_share_what_is_written():
    base = torch.full((4,), 2.0)
    (p,) = _parameters(torch._lazy_clone(base))
    assert clip_grad_norm_([p], 1.0).item() == 4.0
    assert torch.equal(base, torch.full((4,), 2.0))
    assert p.grad.norm().item() == pytest.approx(1.0, rel=1e-6)


def test_a_model_and_the_norm_of_its_gradients():
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 5))
    model(torch.randn(8, 20)).square().sum().backward()
    before = gyrostat.total_norm(model)
    assert clip_grad_norm_(model.parameters(), 0.1).item() == before
    assert gyrostat.total_norm(model) == pytest.approx(0.1, rel=1e-5)
