"""Small real trainings, watched by all rules on tensors."""

from __future__ import annotations

import contextlib
import itertools
import math

import numpy as np
import torch
from torch import nn

from gyrostat import summarize_all
from gyrostat.demo.digits import load_digits
from gyrostat.integrations.torch import ActivationProbe, UpdateTracker, adam_moments
from gyrostat.rules import TensorRules

DIGITS = load_digits()


def mlp(width=64, depth=3, act=nn.ReLU):
    sizes = [64, *[width] * depth]
    layers = [x for a, b in itertools.pairwise(sizes) for x in (nn.Linear(a, b), act())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def cnn():
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1, bias=True),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )


class Transformer(nn.Module):
    """Reads the eight rows of a digit as tokens of 17 shades each; says the digit."""

    def __init__(self, width=32, layers=2, norm_first=True):
        super().__init__()
        self.embed = nn.Embedding(17, width)
        self.position = nn.Parameter(0.02 * torch.randn(64, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.1, batch_first=True, norm_first=norm_first
        )
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        tokens = (x * 16).round().long()
        return self.head(self.norm(self.blocks(self.embed(tokens) + self.position).mean(1)))


def batches(steps, size, seed):
    images, labels = DIGITS.train
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rows = rng.integers(len(labels), size=size)
        yield torch.from_numpy(images[rows]), torch.from_numpy(labels[rows])


def schedule(kind, step, steps):
    if kind == "constant":
        return 1.0
    warm = min(1.0, (step + 1) / 40)
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def train(
    model,
    optimizer="adamw",
    lr=1e-3,
    steps=300,
    seed=0,
    size=32,
    kind="constant",
    bf16=False,
    every=5,
    change=None,
    data=None,
    rules=None,
    loss_scale=None,
    halves=False,
):
    """All findings of a run. ``change(step, model, optimizer)`` is called before each step."""
    torch.manual_seed(seed)
    params = [p for p in model.parameters() if p.requires_grad]
    made = {
        "adamw": lambda: torch.optim.AdamW(params, lr=lr),
        "sgd": lambda: torch.optim.SGD(params, lr=lr, momentum=0.9),
    }
    opt = made[optimizer]() if isinstance(optimizer, str) else optimizer(params)
    rules = TensorRules() if rules is None else rules
    tracker = UpdateTracker(model)
    found, losses = [], []
    cast = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
    with ActivationProbe(model, every=every) as probe:
        for step, (x, y) in enumerate(batches(steps, size, seed) if data is None else data):
            rate = lr * schedule(kind, step, steps)
            for group in opt.param_groups:
                group["lr"] = rate
            if change is not None:
                change(step, model, opt)
            with cast:
                loss = nn.functional.cross_entropy(model(x).float(), y)
            opt.zero_grad()
            loss.backward()
            losses.append(loss.item())
            gradients = summarize_all(model)
            moments = adam_moments(model, opt)
            tracker.before_step()
            opt.step()
            found += rules.update(
                step,
                gradients=gradients,
                weights=summarize_all(model, of="parameters", level="norm"),
                updates=tracker.after_step(),
                activations=probe.take(),
                moments=moments,
                lr=opt.param_groups[0]["lr"],
                loss_scale=loss_scale,
            )
    return found, losses
