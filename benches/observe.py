"""What a guard that only observes costs of a training step, per-tensor full records at each step.

    make bench-observe

A decoder-only transformer of 0.92 M parameters and one of 10 M, AdamW, one thread. Steps with and
without the guard take turns; what is told are thread-CPU times, the median of the differences over
the median of the bare steps, and the same with records at every tenth step, which is the default.
"""

import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from gyrostat.guard import Policy
from gyrostat.integrations.torch import Guard

VOCABULARY = 256


class Model(nn.Module):
    def __init__(self, width, layers, context):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(context, width)
        layer = nn.TransformerEncoderLayer(
            width, width // 32, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, VOCABULARY)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context))

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places.weight
        return self.head(self.blocks(x, mask=self.mask, is_causal=True))


class Run:
    """One model in training."""

    def __init__(self, width, layers, context, size, guard):
        torch.manual_seed(0)
        self.model = Model(width, layers, context)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 3e-4)
        self.batches = torch.randint(0, VOCABULARY, (8, size, context + 1))
        self.guard = None if guard is None else Guard(self.model, self.optimizer, policy=guard)
        self.count = 0
        self.loader = self._batches() if self.guard is None else self.guard.batches(self._batches())

    def _batches(self):
        while True:
            self.count += 1
            yield self.batches[self.count % len(self.batches)] + 0

    def step(self):
        start = time.thread_time()
        batch = next(self.loader)
        logits = self.model(batch[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        if self.guard is None or self.guard.approve(loss):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return time.thread_time() - start


def measure(width, layers, context, size, steps):
    """Parameters, seconds of a bare step, and the share that each kind of guard adds."""
    kinds = {
        "full records at each step": Policy(name="observe", act=False, records_every=1),
        "default": Policy.preset("observe"),
    }
    bare = Run(width, layers, context, size, None)
    guarded = {name: Run(width, layers, context, size, policy) for name, policy in kinds.items()}
    for _ in range(5):
        for run in (bare, *guarded.values()):
            run.step()
    alone, added = [], {name: [] for name in guarded}
    for _ in range(steps):
        alone.append(bare.step())
        for name, run in guarded.items():
            added[name].append(run.step() - alone[-1])
    usual = statistics.median(alone)
    parameters = sum(p.numel() for p in bare.model.parameters())
    return parameters, usual, {name: statistics.median(d) / usual for name, d in added.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    print("| parameters | bare step | guard | added |\n| --- | --- | --- | --- |")
    for shape in ((128, 4, 64, 16), (384, 5, 64, 8)):
        parameters, usual, shares = measure(*shape, steps if shape[0] < 200 else steps // 3)
        for name, share in shares.items():
            print(f"| {parameters / 1e6:.2f} M | {1e3 * usual:.1f} ms | {name} | {share:.2%} |")


if __name__ == "__main__":
    main()
