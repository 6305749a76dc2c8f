"""What other tools get wrong, each reproduced in their sources or by running them."""

import numpy as np
import pytest
import torch

import gyrostat

bfloat16 = torch.bfloat16


def _normal(n, scale, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator) * scale


def _norm(tensors):
    """In float64, at eleven times the time of torch's own."""
    return float(torch.stack([t.double().norm() for t in tensors]).norm())


def test_the_norm_of_a_large_gradient_is_right():
    # torch on a CPU sums the squares of float32 in float32: 0.27 % too little at 38.6 million.
    gradient = _normal(12_000_000, 1e-3)
    assert gyrostat.total_norm([gradient]) == pytest.approx(_norm([gradient]), rel=1e-12)
    assert gyrostat.summarize(gradient).l2 == pytest.approx(_norm([gradient]), rel=1e-12)


@pytest.mark.parametrize("dtype", [bfloat16, torch.float16])
def test_the_norm_of_16_bit_gradients_is_no_16_bit_number(dtype):
    # torch returns it in the dtype of the gradients: off by 0.3 % for bfloat16, 1.6 % for float16.
    gradients = [_normal(n, 0.02, seed).to(dtype) for seed, n in enumerate([300_000, 7, 4096])]
    assert gyrostat.total_norm(gradients) == pytest.approx(_norm(gradients), rel=1e-12)


def test_a_norm_beyond_the_range_of_float16_is_finite():
    # A million times 300: the norm in float16 is infinite, and so is the square of one value.
    gradient = torch.full((1_000_000,), 300.0, dtype=torch.float16)
    assert gyrostat.total_norm([gradient]) == 300_000.0
    stats = gyrostat.summarize(gradient)
    assert (stats.l2, stats.mean, stats.std) == (300_000.0, 300.0, 0.0)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_squares_neither_vanish_nor_overflow(size):
    gradient = torch.full((100,), size)
    expected = 10 * float(gradient[0])
    assert gyrostat.total_norm([gradient]) == pytest.approx(expected, rel=1e-12)
    assert gyrostat.summarize(gradient).l2 == pytest.approx(expected, rel=1e-12)


def test_one_nan_does_not_hide_the_rest():
    # One NaN in a norm is all that torch tells; wandb drops NaN and Inf without a word.
    gradients = {"a": torch.ones(10), "b": torch.ones(10), "c": torch.ones(10)}
    gradients["b"][3], gradients["b"][5] = torch.nan, torch.inf
    table = gyrostat.summarize_all(gradients)
    assert [n for n, sick in zip(table.names, table.nonfinite_count, strict=True) if sick] == ["b"]
    assert (table["b"].nan_count, table["b"].posinf_count, table["b"].count) == (1, 1, 10)
    assert (table.total.mean, table.total.max) == (1.0, 1.0)
    assert np.isnan(gyrostat.total_norm(gradients))


def test_tiny_and_huge_bfloat16_values_are_not_cast_to_float16():
    # TensorBoard's histogram casts bfloat16 to float16: 1e-9 becomes 0, 1e5 infinite.
    tiny = gyrostat.summarize(torch.full((1000,), 1e-9, dtype=bfloat16))
    assert tiny.zero_count == 0
    assert tiny.exponents.tolist() == [-30]
    assert tiny.underflow_fraction("float16") == 1.0
    huge = gyrostat.summarize(torch.full((1000,), 1e5, dtype=bfloat16))
    assert (huge.posinf_count, huge.exponents.tolist()) == (0, [16])
    assert huge.overflow_fraction("float16") == 1.0


@pytest.mark.parametrize(("dtype", "size"), [(bfloat16, 1e-11), (torch.float32, 1e-12)])
def test_the_kurtosis_of_tiny_values_is_a_number(dtype, size):
    # Composer's OptimizerMonitor: fourth powers leave the range of float32, and 0 / 0 is NaN.
    values = _normal(200_000, size).to(dtype)
    expected = gyrostat.summarize(values.double() / size).kurtosis
    assert gyrostat.summarize(values).kurtosis == pytest.approx(expected, abs=1e-5)


def test_bins_do_not_move():
    # wandb's 64 bins lie between the minimum and the maximum of each step, so steps do not add up.
    a, b = gyrostat.summarize(_normal(1000, 1.0)), gyrostat.summarize(_normal(1000, 1e-3, 1))
    both = a.merge(b)
    counts = dict(zip(both.exponents.tolist(), both.exponent_histogram.tolist(), strict=True))
    for stats in (a, b):
        for exponent, n in zip(stats.exponents.tolist(), stats.exponent_histogram, strict=True):
            counts[exponent] -= n
    assert not any(counts.values())


def test_the_norm_does_not_depend_on_how_the_model_is_split():
    # torchtitan's clipping of bfloat16 gradients does: norms of parts are rounded to bfloat16.
    gradient = _normal(1_000_000, 0.1).to(bfloat16)
    whole = gyrostat.total_norm([gradient])
    for parts in (gradient.chunk(2), gradient.chunk(7), gradient.chunk(1000)):
        assert gyrostat.total_norm(list(parts)) == pytest.approx(whole, rel=1e-12)


def test_the_mean_of_many_values_is_right():
    # A mean over sums in float32 stops growing.
    ones = torch.ones(1).expand(50_000_000)
    stats = gyrostat.summarize(ones, level="moments")
    assert (stats.mean, stats.sum, stats.std) == (1.0, 5e7, 0.0)
