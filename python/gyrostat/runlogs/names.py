"""The names that loggers give to the same few signals."""

from __future__ import annotations

import functools
import re

__all__ = ["VALIDATION_WORDS", "is_tag", "rank"]

# In order of preference: of several columns for one signal, the first that holds a value is read.
_SPELLINGS: dict[str, tuple[str, ...]] = {
    "step": (
        *("global_step", "step", "steps", "current_steps", "iteration", "iterations", "iter"),
        *("it", "train_step", "train_global_step", "num_updates", "update", "batch", "batch_idx"),
    ),
    "epoch": ("epoch", "epochs"),
    "loss": (
        *("loss", "train_loss_step", "training_loss_step", "loss_step", "train_loss"),
        *("training_loss", "loss_train", "total_loss", "train_total_loss", "lm_loss"),
        *("train_loss_epoch", "training_loss_epoch", "loss_epoch"),
    ),
    "grad_norm": (
        *("grad_norm", "gradient_norm", "total_norm", "global_grad_norm", "global_norm", "gnorm"),
        *("train_grad_norm", "train_gradient_norm", "grad_2_0_norm_total"),
    ),
    "learning_rate": ("learning_rate", "lr", "train_learning_rate", "train_lr"),
    "val_loss": (
        *("val_loss", "eval_loss", "validation_loss", "valid_loss", "dev_loss"),
        *("val_loss_epoch", "valid_loss_epoch", "loss_val"),
    ),
}
_RANKS = {
    spelling: (signal, place)
    for signal, spellings in _SPELLINGS.items()
    for place, spelling in enumerate(spellings)
}
_WRAPPERS = re.compile(r"^(metrics?|logs|trainer|scalars?|stats)_")
_TAGS = {"mode", "split", "phase", "stage", "type", "kind", "event"}

VALIDATION_WORDS = frozenset(
    {"val", "valid", "validation", "eval", "evaluation", "evaluate", "dev", "test"}
)
"""What a row says of itself when its loss is not a training loss."""


@functools.lru_cache(maxsize=4096)
def rank(name: str) -> tuple[str, int] | None:
    """The signal that a column holds, and how well its name says so (0 is best).

    Args:
        name: Name of a column in any spelling; a nested key comes as ``"outer/inner"``, and what
            a W&B export puts before ``" - "`` is the name of the run.

    Returns:
        ``(signal, place)``, or None if the name is not known.
    """
    plain = re.sub(r"[^a-z0-9]+", "_", name.rpartition(" - ")[2].lower()).strip("_")
    plain = _WRAPPERS.sub("", plain)
    if plain.startswith("lr_"):  # Lightning's LearningRateMonitor: lr-AdamW
        return "learning_rate", len(_SPELLINGS["learning_rate"])
    return _RANKS.get(plain)


def is_tag(name: str) -> bool:
    """Whether the column tells what kind of row it stands in, such as ``split``."""
    return name.lower() in _TAGS
