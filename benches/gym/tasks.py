"""What is trained: four small models on data that comes with the package or with Python.

A task is made for one seed: its model, optimizer, schedule, stream of batches and validation set.
A batch is ``(inputs, targets, weights)``, a weight for each target: 1, or 0 where there is only
padding. The loss is the sum of the weighted cross-entropies over the number of weights that are not
zero.

Losses that cannot go to zero are what makes a ratio of 1.03 mean something: labels are smoothed or
noisy, and every learning rate decays to zero.
"""

import functools
import math
import pydoc_data.topics

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from gyrostat.demo.digits import load_digits


class Task:
    """The training of one model from one seed.

    Attributes:
        steps: Batches of a run.
        data: Inputs, targets and weights of the training set.
        validation: The same of the validation set.
        order: Rows of the batch at each position, of shape ``(steps, size)``.
        sort_key: What the training set would be sorted by if nobody shuffled it.
    """

    name: str
    steps: int
    size = 32
    smoothing = 0.0

    def __init__(self, seed):
        self.seed = seed
        self.rng = np.random.default_rng([seed, *self.name.encode()])
        self.data, self.validation = self.load()
        self.sort_key = self.data[1]
        rows = len(self.data[1])
        epochs = math.ceil(self.steps * self.size / rows) + 1
        whole = rows // self.size
        parts = [self.rng.permutation(rows)[: whole * self.size] for _ in range(epochs)]
        self.order = np.concatenate(parts).reshape(-1, self.size)[: self.steps]
        torch.manual_seed(seed)
        self.model = self.build()

    def load(self):
        """Training and validation set."""
        raise NotImplementedError

    def build(self):
        """The model."""
        raise NotImplementedError

    def optimizer(self, parameters):
        """The optimizer of these parameters."""
        raise NotImplementedError

    def rate(self, _step):
        """The factor on the learning rate."""
        return 1.0

    def batch(self, rows):
        return tuple(part[rows] for part in self.data)

    def loss(self, batch):
        inputs, targets, weights = batch
        logits = self.model(inputs)
        each = functional.cross_entropy(
            logits.flatten(0, -2),
            targets.flatten(),
            reduction="none",
            label_smoothing=self.smoothing,
        )
        weights = weights.flatten()
        return (each * weights).sum() / (weights != 0).sum()

    @torch.no_grad()
    def validate(self):
        """The loss on the validation set."""
        self.model.eval()
        return self.loss(self.validation).item()


def labelled(inputs, targets):
    """Tensors of arrays, every weight 1."""
    weights = torch.ones(len(targets))
    return torch.from_numpy(np.asarray(inputs, np.float32)), torch.from_numpy(targets), weights


def decay(step, steps, warm_up=0, *, cosine=True):
    """From zero to one in ``warm_up`` steps, then to zero along a half cosine or a line."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = min(1.0, (step - warm_up) / (steps - warm_up))
    return 0.5 * (1 + math.cos(math.pi * done)) if cosine else 1 - done


class Perceptron(Task):
    """20-128-128-5 on tabular data with noisy labels; AdamW, linear decay."""

    name = "mlp"
    steps = 400

    def load(self):
        return _tabular()

    def build(self):
        return nn.Sequential(
            nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 5)
        )

    def optimizer(self, parameters):
        return torch.optim.AdamW(parameters, lr=2e-3)

    def rate(self, step):
        return decay(step, self.steps, cosine=False)


@functools.cache
def _tabular(rows=12_000, held_out=4_000):
    """Normal features; labels drawn from the softmax of a random network of one hidden layer."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(rows + held_out, 20))
    hidden = np.tanh(inputs @ rng.normal(size=(20, 16)) / 3)
    logits = 1.5 * hidden @ rng.normal(size=(16, 5))
    targets = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return labelled(inputs[:rows], targets[:rows]), labelled(inputs[rows:], targets[rows:])


class Convolutions(Task):
    """Two convolutions with batch norm on digits of 8 x 8; SGD with momentum, linear decay."""

    name = "cnn"
    steps = 300
    smoothing = 0.1

    def load(self):
        return _digits(turned=False)

    def build(self):
        return nn.Sequential(
            nn.Unflatten(1, (1, 8)),
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 16, 10),
        )

    def optimizer(self, parameters):
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4)

    def rate(self, step):
        return decay(step, self.steps, cosine=False)


@functools.cache
def _digits(*, turned):
    """The digits, as images; ``turned`` by a quarter, for the second task of a pretrained model."""
    digits = load_digits()
    sets = []
    for images, labels in (digits.train, digits.validation):
        upright = images.reshape(-1, 8, 8)
        shown = np.rot90(upright, axes=(1, 2)).copy() if turned else upright
        sets.append(labelled(shown, labels))
    return tuple(sets)


class Block(nn.Module):
    """Attention and a perceptron, each after a norm."""

    def __init__(self, width, heads, *, causal):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.before_mix, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        parts = self.mix(self.before_mix(x)).chunk(3, dim=-1)
        parts = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]
        mixed = functional.scaled_dot_product_attention(*parts, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.before_mlp(x))


class LanguageModel(Task):
    """A causal transformer over the characters of Python's documentation, in lines with padding.

    AdamW, warm-up and cosine.
    """

    name = "lm"
    steps = 250
    size = 16
    context = 16

    def load(self):
        return _text(self.context)

    def __init__(self, seed):
        super().__init__(seed)
        self.sort_key = torch.arange(len(self.data[0]))  # as the text goes

    def build(self):
        return Transformer(len(_characters()[1]) + 1, 24, 2, self.context)

    def optimizer(self, parameters):
        return torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.98), fused=True)

    def rate(self, step):
        return decay(step, self.steps, warm_up=25)


class Transformer(nn.Module):
    def __init__(self, symbols, width, layers, context):
        super().__init__()
        self.tokens, self.places = nn.Embedding(symbols, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, 4, causal=True) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols)

    def forward(self, tokens):
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.places.weight)))


@functools.cache
def _characters():
    """The topics of Python's documentation as numbers from 1, and the symbols."""
    topics = pydoc_data.topics.topics
    text = "".join(topics[name] for name in sorted(topics))
    symbols, numbers = np.unique(list(text), return_inverse=True)
    return numbers + 1, symbols


@functools.cache
def _text(context, rows=6_400, held_out=1_024):
    """Windows of the text, each cut off somewhere in its second half and padded with zeros.

    The last tenth of the text is held out.
    """
    numbers, _ = _characters()
    rng = np.random.default_rng(0)
    border = len(numbers) * 9 // 10
    sets = []
    for low, high, count in ((0, border, rows), (border, len(numbers), held_out)):
        starts = np.sort(rng.integers(low, high - context - 1, size=(count, 1)), axis=0)
        windows = numbers[starts + np.arange(context + 1)]
        kept = np.arange(context) < rng.integers(context // 2, context + 1, size=(count, 1))
        parts = windows[:, :-1] * kept, windows[:, 1:] * kept, kept.astype(np.float32)
        sets.append(tuple(torch.from_numpy(part) for part in parts))
    return tuple(sets)


class FineTune(Task):
    """A transformer over the rows of upright digits gets a new head for turned ones.

    AdamW at half of the rate that it was trained with, warm-up and linear decay.
    """

    name = "finetune"
    steps = 300
    smoothing = 0.1

    def load(self):
        return _digits(turned=True)

    def build(self):
        model = RowTransformer()
        model.load_state_dict(_pretrained(self.seed))
        model.head = nn.Linear(32, 10)
        return model

    def optimizer(self, parameters):
        return torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01, fused=True)

    def rate(self, step):
        return decay(step, self.steps, warm_up=30, cosine=False)


class RowTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.places = nn.Linear(8, 32), nn.Parameter(0.02 * torch.randn(8, 32))
        self.blocks = nn.Sequential(*(Block(32, 4, causal=False) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, images):
        return self.head(self.norm(self.blocks(self.rows(images) + self.places)).mean(1))


class Pretraining(FineTune):
    name = "pretraining"
    steps = 200

    def load(self):
        return _digits(turned=False)

    def build(self):
        return RowTransformer()


@functools.cache
def _pretrained(seed):
    """The weights of a model that has learnt the upright digits."""
    task = Pretraining(seed)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=4e-3, weight_decay=0.01, fused=True)
    for rows in task.order:
        optimizer.zero_grad()
        task.loss(task.batch(rows)).backward()
        optimizer.step()
    return task.model.state_dict()


TASKS = {task.name: task for task in (Perceptron, Convolutions, LanguageModel, FineTune)}
