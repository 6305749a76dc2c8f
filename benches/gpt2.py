"""The shapes of GPT-2 small and made-up gradients of these shapes."""

import math

import torch

BLOCK = [(768,), (768,), (768, 2304), (2304,), (768, 768), (768,)]
BLOCK += [(768,), (768,), (768, 3072), (3072,), (3072, 768), (768,)]
SHAPES = [(50257, 768), (1024, 768), *BLOCK * 12, (768,), (768,)]


def shapes(*, quick=False):
    """All 148, or with a tenth of the values."""
    return [(max(1, rows // 10), *rest) for rows, *rest in SHAPES] if quick else SHAPES


def normal(n):
    """What gradients look like: normal, deviation 1e-3."""
    return torch.randn(n).mul_(1e-3)


def holed(n):
    """The same with 5 % NaN, anywhere."""
    return normal(n).masked_fill_(torch.rand(n) < 0.05, math.nan)


def wide(n):
    """Magnitudes uniform over 200 octaves, of either sign."""
    sign = torch.randint(0, 2, (n,)).mul_(2).sub_(1)
    return torch.empty(n).uniform_(-100, 100).exp2_().mul_(sign)


def subnormal(n):
    """Every value subnormal, in float32 and, cut to its upper half, in bfloat16."""
    bits = torch.randint(1 << 16, 1 << 23, (n,), dtype=torch.int32)
    return bits.bitwise_or_(torch.randint(0, 2, (n,), dtype=torch.int32) << 31).view(torch.float32)


def tensors(values, dtype, *, quick=False):
    """A list of tensors, each in memory of its own, as a backward pass leaves them."""
    torch.manual_seed(0)
    made = []
    for shape in shapes(quick=quick):
        flat = values(math.prod(shape))
        if dtype is torch.bfloat16:
            # By bits: a conversion may take a subnormal value for zero.
            flat = flat.view(torch.int16)[1::2].clone().view(torch.bfloat16)
        made.append(flat.reshape(shape))
    return made
