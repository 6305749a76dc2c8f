"""Slow NumPy twins of the image hashes, written from their papers."""

import numpy as np


def luma(image):
    image = image.astype(np.float64)
    return image[..., :3] @ [0.299, 0.587, 0.114] if image.shape[-1] >= 3 else image[..., 0]


def resize(image, height, width):
    """By the triangle filter, as wide as the output pixel where the image shrinks."""
    return _weights(height, image.shape[0]) @ image @ _weights(width, image.shape[1]).T


def _weights(out, size):
    scale = size / out
    centres = (np.arange(out)[:, None] + 0.5) * scale
    weights = 1 - np.abs(np.arange(size) + 0.5 - centres) / max(scale, 1)
    weights = np.maximum(weights, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def dct(image, n):
    """Frequencies 0 to n of the DCT-II of both axes, up to a factor."""
    angles = np.arange(n + 1)[:, None] * (2 * np.arange(len(image)) + 1) * np.pi / 2 / len(image)
    return np.cos(angles) @ image @ np.cos(angles).T


def phash(image):
    frequencies = dct(resize(luma(image), 32, 32), 7)
    return frequencies > np.median(frequencies)


def dhash(image):
    small = resize(resize(luma(image), 32, 32), 8, 9)
    return small[:, 1:] > small[:, :-1]


def pdq(image):
    pixels = luma(image)
    for _ in range(2):
        pixels = _box(_box(pixels.T, pixels.shape[1]).T, pixels.shape[0])
    rows, columns = (np.int64((np.arange(64) + 0.5) * n / 64) for n in pixels.shape)
    frequencies = dct(pixels[np.ix_(rows, columns)], 16)[1:, 1:]
    return frequencies > np.median(frequencies)


def _box(lines, size):
    """The mean of a window of lines, of as many as there are at the ends."""
    window = -(-size // 128)
    ahead = (window + 2) // 2
    starts = [max(0, i - (window - ahead)) for i in range(size)]
    return np.array([lines[s : i + ahead].mean(axis=0) for i, s in enumerate(starts)])


def words(bits):
    """Bits as the core packs them: the first is the lowest of the first word."""
    return np.packbits(bits.ravel(), bitorder="little").view("<u8")


def turned(image, variant):
    """Swap rows and columns (4), then reverse the rows (2) and the columns (1)."""
    image = image.swapaxes(0, 1) if variant & 4 else image
    image = image[::-1] if variant & 2 else image
    return image[:, ::-1] if variant & 1 else image
