"""Training runs that fail of themselves, and twins that do not: small transformers over characters.

Every run is made from a seed, on one thread, from the documentation that comes with Python. It logs
its loss, its gradient norm and the root mean square of its update at every step. Nothing is
clipped: what is studied is the failure.
"""

import math
import pydoc_data.topics
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

CONTEXT, BATCH = 48, 24
LOST = 20  # a run ends after so many losses in a row that are no numbers


@dataclass(frozen=True)
class Recipe:
    """How a run is made.

    The learning rate rises to ``lr`` in ``warm_up`` steps and then stays. At step ``late`` it is
    multiplied by ``factor``, as by a mistake in a schedule.
    """

    name: str
    seed: int
    lr: float
    warm_up: int = 0
    beta2: float = 0.999
    layers: int = 2
    width: int = 64
    post_norm: bool = False
    momentum: bool = False
    late: int = 0
    factor: float = 1.0
    steps: int = 600

    def rate(self, step):
        """The learning rate of a step."""
        rate = self.lr * min(1.0, (step + 1) / self.warm_up) if self.warm_up else self.lr
        return rate * self.factor if self.late and step >= self.late else rate


class Block(nn.Module):
    """Attention without normalised queries and keys, and a perceptron."""

    def __init__(self, width, *, post_norm):
        super().__init__()
        self.post_norm = post_norm
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def attend(self, x):
        heads = [
            part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.mix(x).chunk(3, dim=-1)
        ]
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def forward(self, x):
        for norm, part in zip(self.norms, (self.attend, self.mlp), strict=True):
            x = norm(x + part(x)) if self.post_norm else x + part(norm(x))
        return x


class Transformer(nn.Module):
    def __init__(self, symbols, recipe):
        super().__init__()
        self.tokens = nn.Embedding(symbols, recipe.width)
        self.places = nn.Embedding(CONTEXT, recipe.width)
        self.blocks = nn.Sequential(
            *(Block(recipe.width, post_norm=recipe.post_norm) for _ in range(recipe.layers))
        )
        last = nn.Identity() if recipe.post_norm else nn.LayerNorm(recipe.width)
        self.head = nn.Sequential(last, nn.Linear(recipe.width, symbols))

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places.weight
        return self.head(self.blocks(x))


def text():
    """The topics of Python's documentation as indices of characters, and how many there are."""
    topics = pydoc_data.topics.topics
    characters = "".join(topics[name] for name in sorted(topics))
    symbols, indices = np.unique(list(characters), return_inverse=True)
    return torch.from_numpy(indices), len(symbols)


def train(recipe):
    """The loss, the gradient norm and the update's root mean square of each step, as columns."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    data, symbols = text()
    model = Transformer(symbols, recipe)
    parameters = list(model.parameters())
    if recipe.momentum:
        optimizer = torch.optim.SGD(parameters, lr=recipe.lr, momentum=0.9)
    else:
        betas = (0.9, recipe.beta2)
        optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, betas=betas, weight_decay=0.0)
    rows = []
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        starts = torch.randint(len(data) - CONTEXT, (BATCH, 1))
        windows = data[starts + torch.arange(CONTEXT + 1)]
        scores = model(windows[:, :-1])
        loss = functional.cross_entropy(scores.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.get_total_norm(p.grad for p in parameters)
        before = nn.utils.parameters_to_vector(parameters).detach()
        optimizer.step()
        update = nn.utils.parameters_to_vector(parameters).detach() - before
        rows.append((loss.item(), norm.item(), update.norm().item() / math.sqrt(len(update))))
        if len(rows) > LOST and not np.isfinite([row[0] for row in rows[-LOST:]]).any():
            break
    return np.array(rows).T


# Each fails in its own way: a rate that climbs too high or is too high from the start, a slip in a
# schedule; with and without warm-up, long and short memory of Adam, norms before and after.
FAILING = (
    Recipe("climb", 1, 0.4, warm_up=600),
    Recipe("climb, one wide layer", 2, 0.3, warm_up=600, layers=1, width=96),
    Recipe("climb, deep", 3, 0.5, warm_up=600, layers=4, width=48),
    Recipe("climb, beta2 0.95", 4, 0.5, warm_up=600, beta2=0.95),
    Recipe("short warm-up", 5, 0.5, warm_up=200),
    Recipe("slip x100", 6, 3e-3, warm_up=50, late=350, factor=100.0),
    Recipe("slip x30, no warm-up", 7, 1e-2, late=250, factor=30.0),
    Recipe("slip x50, post-norm", 8, 2e-3, warm_up=50, late=300, factor=50.0, post_norm=True),
    Recipe("momentum, climb", 9, 4.0, warm_up=600, momentum=True),
    Recipe("momentum, climb, post-norm", 10, 2.0, warm_up=600, momentum=True, post_norm=True),
    Recipe("momentum, slip x10", 11, 0.2, late=300, factor=10.0, momentum=True),
    Recipe("momentum, no warm-up", 12, 0.85, momentum=True),
)


def twin(recipe):
    """The same model on the same text at a rate that it bears."""
    lr = 0.1 if recipe.momentum else 3e-3
    return replace(
        recipe, name=f"twin of {recipe.name}", seed=recipe.seed + 100, lr=lr, warm_up=50, late=0
    )
