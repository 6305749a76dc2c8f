"""What others offer to look at gradients with, each called as its users call it."""

import importlib.util
import math
import os
import shutil
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
import torch

from timing import Contender

BINS = 64
EIGHT = "8 statistics"


def contenders(tensors):
    """The peers by name; instead of a contender the reason why there is none."""
    return {
        f"torch operations, {EIGHT}": each(tensors, eight_statistics, norm=norm_of_eight),
        f"torch operations, {EIGHT}, histc": each(tensors, eight_and_histogram, norm=norm_of_eight),
        f"torch, fastest operation for each of {EIGHT}": each(
            tensors, eight_fast_statistics, norm=norm_of_eight
        ),
        "torch.compile, 11 statistics by power sums": compiled(
            tensors, by_power_sums, norm=lambda rows: math.hypot(*(row[8] ** 0.5 for row in rows))
        ),
        "torch.compile, 11 statistics, centred": compiled(tensors, centred),
        f"numpy, {EIGHT}, histogram": numpy_statistics(tensors),
        "wandb.watch": wandb_watch(tensors),
        "TensorBoard add_histogram": tensorboard_histogram(tensors),
    }


def each(tensors, function, norm=None):
    return Contender(lambda: [function(t) for t in tensors], norm)


def eight_statistics(x):
    return (
        x.min(),
        x.max(),
        x.mean(),
        x.std(),
        x.norm(1),
        x.norm(),
        (~x.isfinite()).sum(),
        (x == 0).sum(),
    )


def norm_of_eight(rows):
    return math.hypot(*(row[5].item() for row in rows))


def eight_and_histogram(x):
    low, high, *rest = eight_statistics(x)
    # histc of bfloat16 is slower than the conversion and histc of float32.
    return low, high, *rest, x.float().histc(BINS, low.item(), high.item())


def eight_fast_statistics(x):
    """A sum of bools, norm(1) and std of bfloat16 are slower than these."""
    x = x.float()
    low, high = x.aminmax()
    zeros = x.numel() - x.count_nonzero()
    nonfinite = x.isfinite().logical_not_().count_nonzero()
    return low, high, x.mean(), x.std(), x.abs().sum(), x.norm(), nonfinite, zeros


def by_power_sums(x):
    """One pass, if the moments need not be right: raw power sums in float32 cancel."""
    x = x.float()
    square = x * x
    return torch.stack([*extremes_and_counts(x), x.sum(), x.abs().sum(), *powers(x, square)])


def centred(x):
    x = x.float()
    mean = x.mean()
    d = x - mean
    return torch.stack([*extremes_and_counts(x), mean, x.abs().sum(), *powers(d, d * d)])


def extremes_and_counts(x):
    counts = x.isnan(), x == math.inf, x == -math.inf, x == 0
    return x.amin(), x.amax(), *(kind.sum().float() for kind in counts)


def powers(x, square):
    return square.sum(), (square * x).sum(), (square * square).sum()


def compiled(tensors, function, norm=None):
    compilers = (os.environ.get("CXX", "g++"), "clang++")
    if not any(map(shutil.which, compilers)):
        return "no C++ compiler"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "no Python.h"
    run = torch.compile(function, dynamic=True, fullgraph=True)
    for size in (1000, 100_000):  # compiles
        run(tensors[0].flatten()[:size])
    return each([t.flatten() for t in tensors], run, norm)


def numpy_statistics(tensors):
    if tensors[0].dtype is torch.bfloat16:
        return "no bfloat16"

    def statistics(x):
        finite = np.isfinite(x)
        return (
            x.min(),
            x.max(),
            x.mean(),
            x.std(),
            np.abs(x).sum(),
            np.linalg.norm(x),
            x.size - np.count_nonzero(finite),
            x.size - np.count_nonzero(x),
            np.histogram(x, BINS),
        )

    return each([t.flatten().numpy() for t in tensors], statistics, norm=norm_of_eight)


def wandb_watch(tensors):
    if not importlib.util.find_spec("wandb"):
        return "not installed"
    import wandb
    from wandb.integration.torch.wandb_torch import TorchHistory

    wandb.init(mode="disabled")  # all of its work but the sending
    history = TorchHistory()
    return each(tensors, lambda x: history.log_tensor_stats(x, "gradients"))


def tensorboard_histogram(tensors):
    if not importlib.util.find_spec("tensorboard"):
        return "not installed"
    from torch.utils.tensorboard import SummaryWriter

    folder = tempfile.TemporaryDirectory()
    writer = SummaryWriter(folder.name)
    # The folder lives as long as the writer.
    return each(tensors, lambda x, _=folder: writer.add_histogram("gradients", x))
