"""Gyrostat and its peers, each at its defaults and fed as its users feed it.

A contestant is made for one run of known length and sees one point at a time: ``update(step, loss,
grad_norm)`` says whether it raises an alarm there. Alarms are about spikes, divergence, numbers
that are not finite, and gradients that explode; what a peer says about plateaus, overfitting or
slow progress is left out. A gradient norm goes to those who take one, where the log has it.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import gyrostat
from gyrostat import Severity
from spikes import rules


class Gyrostat:
    def __init__(self, _points):
        self._update = gyrostat.SpikeDetector().update

    def update(self, step, loss, grad_norm):
        finding = self._update(loss, grad_norm, step)
        return finding is not None and finding.severity >= Severity.WARNING


class TrainScope:
    """Its detector as its ``step`` calls it: a loss that is not finite never gets there."""

    def __init__(self, _points, config=None):
        from trainscope import TrainScopeConfig
        from trainscope.core.detectors import make_detector

        self._detector = make_detector(config or TrainScopeConfig())

    def update(self, _step, loss, _grad_norm):
        return abs(loss) < float("inf") and self._detector.update(loss) is not None


def trainscope_robust_z(points):
    return TrainScope(points, {"name": "z_score", "robust": True})


class LightningSpikes:
    """A strategy of one process, and nobody who stops at the exception."""

    def __init__(self, _points):
        from lightning.fabric.utilities import spike

        self._folder = tempfile.TemporaryDirectory()
        self._callback = spike.SpikeDetection(exclude_batches_path=self._folder.name)
        self._spike = spike.TrainingSpikeException
        strategy = types.SimpleNamespace(
            barrier=lambda: None,
            reduce_boolean_decision=lambda decision, **_: decision,
            root_device=torch.device("cpu"),
        )
        self._fabric = types.SimpleNamespace(strategy=strategy, global_rank=0)
        self._batch = -1

    def update(self, _step, loss, _grad_norm):
        self._batch += 1
        try:
            self._callback.on_train_batch_end(self._fabric, torch.tensor(loss), None, self._batch)
        except self._spike:
            return True
        return False


def one_weight():
    """A model for those who read gradients from one: its gradient is the logged norm."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    model.weight.grad = torch.ones(1, 1)
    return model


class Arc:
    def __init__(self, _points):
        from arc import Controller

        self._model = one_weight()
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=1e-5)
        self._controller = Controller(self._model, self._optimizer, verbose=False)

    def update(self, _step, loss, grad_norm):
        self._model.weight.grad.fill_(1.0 if grad_norm is None else grad_norm)
        action = self._controller.step(torch.tensor(loss))
        if not action.should_skip:
            # The weights of the logged run are not known: these move evenly, as Adam's do.
            self._model.weight.grad.fill_(1.0)
            self._optimizer.step()
        return action.failure_type is not None


class TrainPulse:
    TOLD = frozenset(
        {("nan_detector", "critical"), ("loss_spike", "warning"), ("gradient", "critical")}
    )

    def __init__(self, _points):
        from trainpulse import Monitor

        self._monitor = Monitor()

    def update(self, step, loss, grad_norm):
        alerts = self._monitor.log("loss", step, loss)
        if grad_norm is not None:
            alerts += self._monitor.log("grad_norm", step, grad_norm)
        return any((alert.detector, alert.severity.value) in self.TOLD for alert in alerts)


class TrainingDoctor:
    TOLD = frozenset({"lr_too_high", "gradient_instability"})

    def __init__(self, _points):
        from training_doctor import Doctor

        self._doctor = Doctor()

    def update(self, step, loss, grad_norm):
        metrics = {} if grad_norm is None else {"grad_norm": grad_norm}
        found = self._doctor.log(step, loss=loss, **metrics)
        return any(diagnosis.detector_name in self.TOLD for diagnosis in found)


class AutoTrainer:
    """It tells each kind of trouble once a run."""

    TOLD = ("nan_loss", "diverging_loss", "nan_grad", "grad_spike")

    def __init__(self, _points):
        import autotrainer
        from autotrainer import utils

        utils.print0 = lambda *_, **__: None
        self._monitor = autotrainer.TrainingMonitor()
        self._model = one_weight()
        self._told = 0

    def update(self, _step, loss, grad_norm):
        if grad_norm is None:
            self._monitor.step(loss)
        else:
            self._model.weight.grad.fill_(grad_norm)
            self._monitor.step(loss, model=self._model)
        told = len(self._monitor._fired.intersection(self.TOLD))  # noqa: SLF001 - texts alone are public
        new, self._told = told > self._told, told
        return new


class OlmoCore:
    """Its file alone, since the whole package holds torch back and wants a cluster's tools."""

    def __init__(self, _points):
        self._optimizer = olmo_optimizer()([torch.nn.Parameter(torch.zeros(1))], {})

    def update(self, _step, loss, grad_norm):
        self._optimizer.latest_loss = torch.tensor(loss)
        if grad_norm is not None:
            self._optimizer.latest_grad_norm = torch.tensor(grad_norm)
        return self._optimizer.get_step_factor().item() == 0


def olmo_optimizer():
    """``SkipStepOptimizer`` of OLMo-core, with the two helpers that its file imports."""
    name = "olmo_core.optim.skip_step_optimizer"
    if name not in sys.modules:
        distribution = importlib.metadata.distribution("ai2-olmo-core")
        path = Path(distribution.locate_file(name.replace(".", "/") + ".py"))
        helpers = types.ModuleType("olmo_core.utils")
        helpers.get_default_device = lambda: torch.device("cpu")
        helpers.move_to_device = lambda tensor, device: tensor.to(device)
        sys.modules["olmo_core.utils"] = helpers
        try:
            spec = importlib.util.spec_from_file_location(name, path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        finally:
            del sys.modules["olmo_core.utils"]
        sys.modules[name] = module
    return sys.modules[name].SkipStepOptimizer


@dataclass(frozen=True)
class Entry:
    """A contestant: how it is made, of which package, and the longest run that it can bear."""

    make: Callable[[int], Any]
    package: str | None = None
    longest: float = float("inf")

    @property
    def version(self):
        """The version of the package, None if the rule is written out here."""
        return importlib.metadata.version(self.package) if self.package else None

    def missing(self):
        """Why it cannot run, or None."""
        try:
            self.make(100)
        except Exception as error:  # noqa: BLE001 - a peer may fail in any way; its row says how
            return f"{type(error).__name__}: {error}".partition("\n")[0]
        return None


OURS = "Gyrostat"
PEERS = {
    "trainscope, CUSUM (default)": Entry(TrainScope, "trainscope"),
    "trainscope, robust z": Entry(trainscope_robust_z, "trainscope"),
    "Lightning SpikeDetection": Entry(LightningSpikes, "lightning"),
    "ARC": Entry(Arc, "arc-training"),
    "trainpulse": Entry(TrainPulse, "trainpulse"),
    # It goes through all that it has seen at every step.
    "training-doctor": Entry(TrainingDoctor, "training-doctor", longest=2500),
    "autotrainer": Entry(AutoTrainer, "autotrainer"),
    "OLMo-core skip step": Entry(OlmoCore, "ai2-olmo-core"),
    "KillLossSpike (its rule)": Entry(rules.KillLossSpike),
    "plain robust z": Entry(rules.RobustZ),
}
ENTRIES = {OURS: Entry(Gyrostat, "gyrostat"), **PEERS}
