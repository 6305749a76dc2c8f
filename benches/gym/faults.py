"""The faults, each with its true cause and with what is to blame.

Faults of the data happen at a position of the data: they come with a batch, and come again if the
same batch is handed out again. All others happen at a step of the loop, which counts the batches
that it was given and never goes back: what happens once does not happen again after a rollback, and
what is wrong from a step on stays wrong.

A fault can be recovered from if a guard that knew everything could bring the run to the loss of the
clean one: from memory of a good state, by leaving batches out, by keeping the learning rate or the
gradients in bounds. It cannot if the fault is in the model or in all of the data.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch


@dataclass
class Fault:
    """A run without a fault, and where the others hook in.

    Made anew for each run.

    Attributes:
        task: The task of the run.
        at: The step or position of the fault.
        rng: Draws what the fault needs.
        layer: Name of the parameter to blame.
        samples: Places within the batch to blame.
    """

    task: object
    name = "clean"
    cause = None
    recoverable = True
    tasks = ("mlp", "cnn", "lm", "finetune")
    guilty = 0  # batches from `at` on that are to blame; 0 if it is not the data

    def __post_init__(self):
        self.rng = np.random.default_rng([self.task.seed, *self.name.encode()])
        steps = self.task.steps
        self.at = int(self.rng.integers(int(0.45 * steps), int(0.65 * steps)))
        self.layer = None
        self.samples = ()
        self.choose()

    @property
    def batches(self):
        """Positions of the batches to blame."""
        return tuple(range(self.at, self.at + self.guilty))

    def choose(self):
        """Draws what is to be damaged."""

    def before(self):
        """Damages the model before training, and what it is trained on."""

    def order(self, order):
        """The rows of each batch."""
        return order

    def batch(self, _position, batch):
        """The batch at this position."""
        return batch

    def rate(self, _step):
        """A factor on the learning rate."""
        return 1.0

    def at_start(self, step, optimizer):
        """Damages weights or optimizer at the start of a step."""

    def scale(self, _step):
        """A factor on the loss that is differentiated, not on that which is told."""
        return 1.0

    def after_backward(self, step):
        """Damages gradients."""

    def clears_gradients(self, _step):
        """Whether the loop calls ``zero_grad`` at the end of this step."""
        return True

    def matrix(self):
        """One of the weight matrices, at random: its name and itself."""
        named = [(name, p) for name, p in self.task.model.named_parameters() if p.dim() >= 2]
        return named[self.rng.integers(len(named))]

    def inside(self, kind):
        """The modules of this kind but for the last: what comes before the head."""
        modules = [(n, m) for n, m in self.task.model.named_modules() if isinstance(m, kind)]
        return modules[:-1]

    def times(self, batch, factor, samples=slice(None)):
        """The batch with its numbers multiplied: inputs, or the weights of tokens."""
        inputs, targets, weights = batch
        numbers = (inputs if inputs.is_floating_point() else weights).clone()
        numbers[samples] *= factor
        if inputs.is_floating_point():
            return numbers, targets, weights
        return inputs, targets, numbers

    def flip(self, tensor):
        """Flips the highest bit of the exponent of one value between 1e-30 and 1.

        It then is some 1e38 times as large, and finite or not as it comes.
        """
        flat = tensor.view(-1)
        sizes = flat.abs()
        fit = torch.nonzero((sizes > 1e-30) & (sizes < 1)).flatten()
        if len(fit):
            place = int(fit[self.rng.integers(len(fit))])
            flat.view(torch.int32)[place] ^= 1 << 30


class NanBatch(Fault):
    """One batch is all NaN."""

    name, cause, guilty = "nan-batch", "cause-bad-batch", 1

    def batch(self, position, batch):
        return self.times(batch, float("nan")) if position == self.at else batch


class HugeInput(Fault):
    """One batch is 1000 times too large."""

    name, cause, guilty = "huge-input", "cause-bad-batch", 1

    def batch(self, position, batch):
        return self.times(batch, 1e3) if position == self.at else batch


class BadRun(Fault):
    """Five batches in a row are 30 times too large."""

    name, cause, guilty = "bad-run", "cause-bad-batch", 5

    def batch(self, position, batch):
        return self.times(batch, 30.0) if position in self.batches else batch


class BadSamples(Fault):
    """Three samples of one batch are 300 times too large."""

    name, cause, guilty = "bad-samples", "cause-bad-batch", 1

    def choose(self):
        chosen = self.rng.choice(self.task.size, size=3, replace=False)
        self.samples = tuple(sorted(chosen.tolist()))

    def batch(self, position, batch):
        return self.times(batch, 300.0, list(self.samples)) if position == self.at else batch


class RandomLabels(Fault):
    """The labels of 15 batches in a row are random."""

    name, cause, guilty = "random-labels", "cause-label-noise", 15

    def batch(self, position, batch):
        if position not in self.batches:
            return batch
        inputs, targets, weights = batch
        drawn = torch.from_numpy(self.rng.permutation(targets.flatten().numpy()))
        return inputs, drawn.view_as(targets), weights


class LabelShift(Fault):
    """From a batch on, every label is one too high."""

    name, cause, recoverable = "label-shift", "cause-label-noise", False

    @property
    def batches(self):
        return tuple(range(self.at, self.task.steps))

    def choose(self):
        self.classes = int(self.task.data[1].max()) + 1

    def batch(self, position, batch):
        inputs, targets, weights = batch
        return (inputs, (targets + 1) % self.classes, weights) if position >= self.at else batch


class RateTimes10Once(Fault):
    """The learning rate is 10 times too high for one step."""

    name, cause, factor, once = "lr-x10-once", "cause-lr-too-high", 10.0, True

    def rate(self, step):
        return self.factor if step == self.at or (step > self.at and not self.once) else 1.0


class RateTimes100Once(RateTimes10Once):
    """The learning rate is 100 times too high for one step."""

    name, factor = "lr-x100-once", 100.0


class RateTimes10(RateTimes10Once):
    """The schedule sets a rate 10 times too high at every step from one on."""

    name, once = "lr-x10", False


class RateTimes100(RateTimes10Once):
    """The schedule sets a rate 100 times too high at every step from one on."""

    name, factor, once = "lr-x100", 100.0, False


class WeightsTimes50(Fault):
    """One weight matrix is multiplied by 50."""

    name, cause = "weights-x50", "cause-weights-damaged"

    def at_start(self, step, _optimizer):
        if step == self.at:
            self.layer, weight = self.matrix()
            weight.data *= 50


class FlippedWeight(Fault):
    """The highest bit of the exponent of one weight flips."""

    name, cause = "flip-weight", "cause-weights-damaged"

    def at_start(self, step, _optimizer):
        if step == self.at:
            self.layer, weight = self.matrix()
            self.flip(weight.data)


class FlippedGradient(Fault):
    """The highest bit of the exponent of one gradient value flips."""

    name, cause = "flip-gradient", "cause-silent-corruption"

    def after_backward(self, step):
        if step == self.at:
            self.layer, weight = self.matrix()
            self.flip(weight.grad)


class SilentCorruption(Fault):
    """The gradient of one weight matrix is 100 times too large, for one step."""

    name, cause = "silent-corruption", "cause-silent-corruption"

    def after_backward(self, step):
        if step == self.at:
            self.layer, weight = self.matrix()
            weight.grad *= 100


class FlippedState(Fault):
    """The highest bit of the exponent of one value of the momentum flips."""

    name, cause = "flip-optimizer", "cause-optimizer-state"

    def at_start(self, step, optimizer):
        if step == self.at:
            self.layer, weight = self.matrix()
            state = optimizer.state[weight]
            self.flip(state["exp_avg"] if "exp_avg" in state else state["momentum_buffer"])


class BlownState(Fault):
    """Adam's second moments become zero, the momentum of SGD 10,000 times as large."""

    name, cause = "optimizer-blown", "cause-optimizer-state"

    def at_start(self, step, optimizer):
        if step == self.at:
            for state in optimizer.state.values():
                if "exp_avg_sq" in state:
                    state["exp_avg_sq"].zero_()
                else:
                    state["momentum_buffer"] *= 1e4


class LostState(Fault):
    """The run goes on without its optimizer's state, as after a resume that forgot it."""

    name, cause = "optimizer-lost", "cause-optimizer-state"

    def at_start(self, step, optimizer):
        if step == self.at:
            optimizer.state.clear()


class HalfOverflow(Fault):
    """Every 10th step, 5 times, activations go through float16 too large for it."""

    name, cause = "fp16-overflow", "cause-precision-overflow"

    def before(self):
        self.overflows = False
        _, module = self.inside(torch.nn.Linear | torch.nn.Conv2d)[-1]
        module.register_forward_hook(self._through_half)

    def at_start(self, step, _optimizer):
        self.overflows = step in range(self.at, self.at + 50, 10)

    def _through_half(self, _module, _inputs, outputs):
        if not self.overflows:
            return outputs
        # Scaled so that the largest few overflow, whatever the model.
        scale = 65504 / outputs.detach().abs().quantile(0.999)
        return (outputs * scale).half().float() / scale


class NoZeroGrad(Fault):
    """From a step on, nobody clears the gradients."""

    name, cause = "no-zero-grad", "cause-missing-zero-grad"

    def clears_gradients(self, step):
        return step < self.at


class LossScale(Fault):
    """From a step on, the loss is scaled by 1000 and the gradients are not scaled back."""

    name, cause = "loss-scale", "cause-loss-scale"

    def scale(self, step):
        return 1e3 if step >= self.at else 1.0


class FrozenLayer(Fault):
    """One weight matrix is left out of the optimizer from the start."""

    name, cause, recoverable = "frozen-layer", "cause-frozen-parameters", False

    def choose(self):
        self.at = 0

    def before(self):
        self.layer, weight = self.matrix()
        weight.requires_grad_(requires_grad=False)


class DeadReLU(Fault):
    """The biases before one ReLU are so low from the start that it gives only zeros."""

    name, cause, recoverable = "dead-relu", "cause-dead-layer", False

    def choose(self):
        self.at = 0

    def before(self):
        # What comes before a ReLU is a linear map, a convolution or a norm: it has a bias.
        modules = list(self.task.model.named_modules())
        before = [
            earlier for earlier, (_, later) in pairwise(modules) if isinstance(later, torch.nn.ReLU)
        ]
        name, module = before[self.rng.integers(len(before))]
        self.layer = f"{name}.bias"
        module.bias.data.fill_(-30.0)


class VanishingInit(Fault):
    """The weight matrices before the head are 100 times too small at the start."""

    name, cause, recoverable, factor = "vanishing-init", "cause-initialisation", False, 0.01

    def choose(self):
        self.at = 0

    def before(self):
        for _, module in self.inside(torch.nn.Linear | torch.nn.Conv2d):
            module.weight.data *= self.factor


class ExplodingInit(VanishingInit):
    """The weight matrices before the head are 20 times too large at the start."""

    name, factor = "exploding-init", 20.0


class SortedData(Fault):
    """Nobody shuffles: the batches come sorted by label, the text in its order."""

    name, cause, recoverable = "sorted-data", "cause-data-order", False

    def choose(self):
        self.at = 0

    def order(self, order):
        keys = self.task.sort_key.numpy()
        rows = np.argsort(keys, kind="stable")
        whole = len(rows) // self.task.size * self.task.size
        epoch = rows[:whole].reshape(-1, self.task.size)
        return np.concatenate([epoch] * -(-len(order) // len(epoch)))[: len(order)]


class SameBatch(Fault):
    """From a position on, the same batch comes again and again."""

    name, cause, recoverable = "same-batch", "cause-repeated-data", False

    def order(self, order):
        order = order.copy()
        order[self.at :] = order[self.at]
        return order


class LossOnPadding(Fault):
    """The loss counts the padding as well."""

    name, cause, recoverable = "padding", "cause-padding", False
    tasks = ("lm",)

    def choose(self):
        self.at = 0

    def batch(self, _position, batch):
        inputs, targets, weights = batch
        return inputs, targets, torch.ones_like(weights)


FAULTS = {
    fault.name: fault
    for fault in (
        NanBatch,
        HugeInput,
        BadRun,
        BadSamples,
        RandomLabels,
        RateTimes10Once,
        RateTimes100Once,
        RateTimes10,
        RateTimes100,
        WeightsTimes50,
        FlippedWeight,
        FlippedGradient,
        SilentCorruption,
        FlippedState,
        BlownState,
        LostState,
        HalfOverflow,
        LossScale,
        NoZeroGrad,
        LabelShift,
        FrozenLayer,
        DeadReLU,
        VanishingInit,
        ExplodingInit,
        SortedData,
        SameBatch,
        LossOnPadding,
    )
}
CLEAN = Fault
