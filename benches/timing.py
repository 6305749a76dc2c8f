"""Times contenders by turns, against one plain read of the same memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

SLOW_READS, SLOW_REPEATS = 20, 2
PIECE = 1 << 22


@dataclass(frozen=True)
class Contender:
    """Something to time.

    ``norm`` finds the L2 norm of all values in what ``call`` returned; ``after`` puts back what
    ``call`` has changed, untimed.
    """

    call: Callable[[], Any]
    norm: Callable[[Any], float] | None = None
    after: Callable[[], Any] | None = None


@dataclass
class Timing:
    seconds: float
    norm: float | None = None


class Race:
    """The fastest of several turns of each contender.

    Every repeat gives each contender one turn, in another order each time, so that a busy spell of
    the machine or what a contender leaves in the caches falls on all alike. Those that take longer
    than 20 reads have two turns.
    """

    def __init__(self, tensors, contenders, clock, repeats, threads=1):
        self.reads = plain_reads(tensors, threads)
        self.timings = {}
        everyone = {**self.reads, **contenders}
        shuffle = np.random.default_rng(0).permutation
        for turn in range(repeats):
            for name in map(str, shuffle(list(everyone))):
                if turn < SLOW_REPEATS or self.in_reads(name) <= SLOW_READS:
                    self._take(name, everyone[name], clock)

    def _take(self, name, contender, clock):
        start = clock()
        result = contender.call()
        seconds = clock() - start
        timing = self.timings.setdefault(name, Timing(seconds))
        timing.seconds = min(timing.seconds, seconds)
        if contender.norm and timing.norm is None:
            timing.norm = contender.norm(result)
        if contender.after:
            contender.after()

    @property
    def read(self):
        """The name of the fastest plain read."""
        return min(self.reads, key=lambda name: self.timings[name].seconds)

    def seconds(self, name):
        return self.timings[name].seconds

    def in_reads(self, name):
        return self.seconds(name) / self.seconds(self.read)


def plain_reads(tensors, threads):
    """Reductions that touch every byte of the tensors once and have next to nothing to compute.

    NumPy's are as fast as a hand-written loop of AVX-512 OR with prefetch, where we compared them.
    """
    pieces = [piece for tensor in tensors for piece in tensor.flatten().split(PIECE)]
    integers = {np.int32: [], np.int8: []}
    for piece in pieces:
        octets = piece.view(torch.int8).numpy()
        for kind, views in integers.items():
            views.append(octets[: octets.size // 4 * 4].view(kind))
    run = ThreadPoolExecutor(threads).map if threads > 1 else map
    return {
        "numpy max, int32": Contender(lambda: list(run(np.max, integers[np.int32]))),
        "numpy max, int8": Contender(lambda: list(run(np.max, integers[np.int8]))),
        "torch sum": Contender(lambda: [piece.sum() for piece in pieces]),
    }


def exact_norm(tensors):
    """The L2 norm of all values: squares in float64, added pairwise, good to some 1e-15."""
    squares = 0.0
    for tensor in tensors:
        for piece in tensor.flatten().split(PIECE):
            squares += float(np.square(piece.double().numpy()).sum())
    return squares**0.5


def markdown(head, rows):
    """A table; the first column is words, the rest figures."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
