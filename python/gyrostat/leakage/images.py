"""Images of a split: whatever holds them, brought to 8 bits a channel batch by batch."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat import _core
from gyrostat.leakage.arrays import as_numpy

__all__ = ["sketch_images"]

_BATCH = 256
_CHANNELS = (1, 3, 4)
_NONE = (str, bytes, bytearray, Mapping)
_ACCEPTED = (
    "an array of shape (N, H, W), (N, H, W, C) or (N, C, H, W), or a sequence of arrays, PIL "
    "images, paths or encoded bytes"
)

Progress = Callable[[str, int, int], object]
Image = tuple[NDArray[np.uint8], NDArray[np.uint8] | None]
"""Pixels as 8 bits of 1 or 3 channels, and the bytes they were made of where they differ."""


def sketch_images(name: str, data: Any, progress: Progress) -> _core.ImageSketcher:
    """Hashes every image of a split, holding a few hundred in memory at a time.

    Args:
        name: Name of the split.
        data: What :func:`gyrostat.check_leakage` takes as images.
        progress: Called with a phase, how much is done, how much there is.

    Raises:
        TypeError: If that is no images.
        ValueError: If an image has no pixels or cannot be decoded.
        ImportError: If Pillow is needed and not installed.
    """
    sketcher = _core.ImageSketcher()
    phase = f"images of {name}"
    array = as_numpy(data)
    if array is not None and array.dtype != object:
        total, batches = len(array) if array.ndim else 0, _of_array(name, array)
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, _NONE):
        total, batches = len(data), _of_items(name, data)
    else:
        raise TypeError(f"image: expected {_ACCEPTED} in {name!r}, got {type(data).__name__}")
    done = 0
    progress(phase, 0, total)
    for images, titles in batches:
        pixels = [None if image is None else image[0] for image in images]
        raws = [None if image is None else image[1] for image in images]
        if any(raw is not None for raw in raws):
            whole = [_raw(image) for image in images]
            sketcher.add(pixels, whole, titles)
        else:
            sketcher.add(pixels, None, titles)
        done += len(images)
        progress(phase, done, total)
    return sketcher


def _raw(image: Image | None) -> NDArray[np.uint8]:
    """What tells whether two images are the same."""
    if image is None:
        return np.zeros(0, np.uint8)
    pixels, raw = image
    if raw is None:
        raw = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    return np.ascontiguousarray(raw).reshape(-1).view(np.uint8)


def _of_array(
    name: str, array: NDArray[Any]
) -> Iterator[tuple[Sequence[Image | None], list[str | None] | None]]:
    if array.ndim not in (3, 4) or array.dtype.kind not in "buif":
        raise TypeError(
            f"image: expected {_ACCEPTED} in {name!r}, got shape {array.shape} of {array.dtype}"
        )
    if array.ndim == 3:
        array = array[..., None]
    elif array.shape[3] not in _CHANNELS:
        if array.shape[1] not in _CHANNELS:
            raise ValueError(
                f"image: expected 1, 3 or 4 channels in {name!r}, got shape {array.shape}"
            )
        array = np.moveaxis(array, 1, 3)
    low, high = _range(array)
    for start in range(0, len(array), _BATCH):
        batch = array[start : start + _BATCH]
        pixels = _to_bytes(batch, low, high)
        given = [None] * len(batch) if pixels.dtype == batch.dtype else list(batch)
        pairs = zip(pixels, given, strict=True)
        yield [_three(image, raw) for image, raw in pairs], None


def _range(array: NDArray[Any]) -> tuple[float, float]:
    """The values that black and white have: 0 and 255, 0 and 1, or else the extremes."""
    if array.dtype == np.uint8 or array.size == 0:
        return 0.0, 255.0
    if array.dtype == np.bool_:
        return 0.0, 1.0
    lows, highs = [], []
    for start in range(0, len(array), _BATCH):
        batch = array[start : start + _BATCH]
        if array.dtype.kind == "f":
            batch = batch[np.isfinite(batch)]
        if batch.size:
            lows.append(float(batch.min()))
            highs.append(float(batch.max()))
    low, high = min(lows, default=0.0), max(highs, default=0.0)
    if low >= 0 and array.dtype.kind == "f" and high <= 1:
        return 0.0, 1.0
    if low >= 0 and high <= 255:
        return 0.0, 255.0
    return low, high


def _to_bytes(batch: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    if batch.dtype == np.uint8:
        return batch
    values = np.nan_to_num(batch.astype(np.float64), nan=low, posinf=high, neginf=low)
    scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def _three(pixels: NDArray[np.uint8], raw: NDArray[Any] | None) -> Image:
    """1 or 3 channels; what is see-through lies on white."""
    if pixels.shape[2] == 4:
        raw = pixels if raw is None else raw
        alpha = pixels[..., 3:].astype(np.uint16)
        over = pixels[..., :3] * alpha + 255 * (255 - alpha)
        pixels = ((over + 127) // 255).astype(np.uint8)
    # The bytes of equal values may differ in the sign of 0.
    if raw is not None and raw.dtype.kind == "f":
        raw = raw + np.zeros((), raw.dtype)
    return pixels, None if raw is None else np.ascontiguousarray(raw).reshape(-1).view(np.uint8)


def _of_items(
    name: str, items: Any
) -> Iterator[tuple[Sequence[Image | None], list[str | None] | None]]:
    """Images one by one, from a sequence or a column of a table."""
    for start in range(0, len(items), _BATCH):
        part = items[start : start + _BATCH]
        for method in ("to_pylist", "to_list", "tolist"):
            if hasattr(part, method):
                part = getattr(part, method)()
                break
        images = [_open(name, start + i, item) for i, item in enumerate(part)]
        yield images, [_title(item) for item in part]


def _title(item: Any) -> str | None:
    if isinstance(item, Mapping):
        item = item.get("path")
    return os.fspath(item) if isinstance(item, str | Path) else None


def _open(name: str, row: int, item: Any) -> Image | None:
    if item is None or (isinstance(item, float) and np.isnan(item)):
        return None
    if isinstance(item, Mapping):  # as Hugging Face datasets stores an image
        encoded = item.get("bytes")
        item = item.get("path") if encoded is None else encoded
        if item is None:
            return None
    where = f"{name!r}, row {row}"
    if isinstance(item, str | os.PathLike | bytes | bytearray | memoryview):
        item = _decode(where, item)
    array = as_numpy(item)
    if array is None and hasattr(item, "__array_interface__"):
        array = _from_pil(item)
    if array is None or array.ndim not in (2, 3) or array.dtype.kind not in "buif":
        got = type(item).__name__ if array is None else f"shape {array.shape} of {array.dtype}"
        raise TypeError(f"image: expected an image in {where}, got {got}")
    images, _ = next(_of_array(name, array[None]))
    return images[0]


def _decode(where: str, item: Any) -> Any:
    try:
        from PIL import Image as PillowImage
        from PIL import UnidentifiedImageError
    except ImportError as error:
        raise ImportError("decoding images needs Pillow: pip install 'gyrostat[images]'") from error
    source = item if isinstance(item, str | os.PathLike) else io.BytesIO(bytes(item))
    try:
        with PillowImage.open(source) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise ValueError(f"image: expected an image file in {where}, got {error}") from error
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        PillowImage.DecompressionBombError,
    ) as error:
        raise ValueError(f"image: cannot decode {where}: {error}") from error


def _from_pil(image: Any) -> NDArray[Any]:
    """The pixels of a PIL image; palettes and other colour spaces become RGB."""
    if "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB", "RGBA", "I;16", "I", "F", "1"):
        image = image.convert("RGB")
    return np.asarray(image)
