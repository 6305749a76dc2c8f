"""Terms of a loss that keep logits from growing."""

from __future__ import annotations

import torch

__all__ = ["z_loss"]


def z_loss(
    logits: torch.Tensor,
    weight: float = 1e-4,
    target: torch.Tensor | None = None,
    ignore_index: int = -100,
) -> torch.Tensor:
    """The auxiliary loss ``weight`` log(Z)^2, to be added to the cross entropy.

    Chowdhery et al. 2022, "PaLM: Scaling Language Modeling with Pathways", arXiv 2204.02311: Z is
    the sum of the exponentials of the logits; the term keeps log(Z) near 0, which the cross entropy
    leaves free to drift. The mean over the positions is taken in float32, or float64 for logits of
    float64, also under autocast. A logit that is NaN or Inf at a position that counts makes the
    term NaN or Inf, as it makes the cross entropy, and the guard sees it; at one that does not, it
    leaves the term alone, but not the gradient of that position. Add it before the loss is scaled.

    Args:
        logits: Shape (..., classes), any floating dtype.
        weight: The paper's 1e-4.
        target: Shape (...) like the positions of ``logits``; those of ``ignore_index`` are left
            out, as in :func:`torch.nn.functional.cross_entropy`. None takes all.
        ignore_index: The target of positions that do not count.

    Returns:
        A scalar; 0 if no position counts.

    Raises:
        TypeError: If ``logits`` are not floating.
        ValueError: If the shapes do not fit.
    """
    if not logits.is_floating_point():
        raise TypeError(f"logits: expected a floating dtype, got {logits.dtype}")
    if not logits.ndim or not logits.shape[-1]:
        raise ValueError(f"logits: expected the shape (..., classes), got {tuple(logits.shape)}")
    wide = torch.promote_types(logits.dtype, torch.float32)
    squares = torch.logsumexp(logits.to(wide), dim=-1).square()
    if target is None:
        return weight * squares.sum() / max(squares.numel(), 1)
    if target.shape != squares.shape:
        raise ValueError(
            f"target: expected the shape {tuple(squares.shape)}, got {tuple(target.shape)}"
        )
    counts = target != ignore_index
    kept = torch.where(counts, squares, squares.new_zeros(()))
    return weight * kept.sum() / counts.sum().clamp(min=1)
