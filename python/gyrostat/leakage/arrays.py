"""Arrays of any shape as rows, taken in batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat import _core

__all__ = ["as_numpy", "one_shape", "sketch_array"]

_BATCH_BYTES = 1 << 24

Progress = Callable[[str, int, int], object]


def as_numpy(data: Any) -> NDArray[Any] | None:
    """``data`` as an array where it lies, or None if it is neither array nor tensor.

    A tensor on a device is copied to the host; one of bfloat16 or another type that NumPy lacks
    becomes float32.
    """
    if isinstance(data, np.ndarray):
        return data
    # Arrow's arrays know DLPack too, but are columns.
    if not hasattr(data, "__dlpack__") or hasattr(data, "__arrow_c_array__"):
        return None
    if hasattr(data, "detach"):
        data = data.detach().cpu()
    try:
        return np.from_dlpack(data)
    except (BufferError, TypeError, RuntimeError):
        if hasattr(data, "float"):
            data = data.float()
        return np.asarray(data)


def sketch_array(name: str, array: NDArray[Any], progress: Progress) -> _core.ArraySketcher:
    """Hashes every row of an array, at most 16 MiB copied at a time.

    Args:
        name: Name of the split.
        array: Rows of any shape: numbers or truth values.
        progress: Called with a phase, how much is done, how much there is.

    Raises:
        TypeError: If the elements are no real numbers.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"splits: expected plain arrays, got a masked one as {name!r}; fill it")
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
        raise TypeError(f"splits: expected real numbers, got {array.dtype} in {name!r}")
    sketcher = _core.ArraySketcher()
    width = int(np.prod(array.shape[1:], dtype=np.int64))
    target: type[np.generic] = {"i": np.int64, "u": np.uint64}.get(array.dtype.kind, np.float64)
    if array.dtype.kind in "iu" and array.dtype.itemsize < 8:
        target = np.int64
    step = max(1, _BATCH_BYTES // max(1, width * 8))
    phase = f"rows of {name}"
    progress(phase, 0, len(array))
    for start in range(0, max(1, len(array)), step):
        batch = array[start : start + step]
        sketcher.add(batch.reshape(len(batch), width).astype(target, copy=False))
        progress(phase, start + len(batch), len(array))
    return sketcher


def one_shape(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    """Sees to it that the rows of all splits have one shape.

    Raises:
        ValueError: If they do not.
    """
    (first, shape), *others = shapes
    for name, other in others:
        if other != shape:
            raise ValueError(
                f"splits: expected rows of one shape, got {shape} in {first!r} and {other} in "
                f"{name!r}"
            )
