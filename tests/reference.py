"""Slow twins of the kernels, written for reading, that the tests hold the kernels against."""

import itertools
import unicodedata

import numpy as np

# Loss spikes


def find_spikes(loss, false_alarms_per_10k=0.2, step=None):
    """The verdicts of gyrostat.SpikeDetector on a loss that stays positive."""
    p = false_alarms_per_10k / 1e4
    healthy, residuals, event = [], [], []
    cooldown, was_high, alarms = 0, False, []
    gaps, usual = [], None
    for i, x in enumerate(loss):
        gap = 0 if step is None or i == 0 else step[i] - step[i - 1]
        if gap > 0:
            usual = gap if usual is None else usual
            gaps = [*gaps, gap][-3:]
            if len(gaps) == 3 and (min(gaps) > 4 * usual or max(gaps) < usual / 4):
                usual = np.median(gaps)
                residuals, event, cooldown, was_high = [], [], 0, False
        if not np.isfinite(x):
            alarms.append(i)
            continue
        y = np.log(x)
        if not healthy:
            healthy.append(y)
            continue
        recent = healthy[-25:]
        level = min(np.median(recent), np.median(recent[-9:]))
        ready = len(residuals) >= 19
        if ready:
            window = np.sort(residuals[-200:])
            single, pair = _tail_quantile(window, p), _tail_quantile(window, p**0.7)
        else:
            span = max(recent) - min(recent)
            single = pair = max(recent) - level + max(np.log(3), 2 * span)
        rise, record = y - level, y > max(recent)
        limit = pair if was_high else single
        was_high = record and rise > pair
        if record and rise > limit:
            alarms.append(i)
            event.append(y)
            cooldown = 25
            if len(event) >= (30 if ready else 3):
                healthy, event, cooldown = event[-25:], [], 0
            continue
        event = []
        if cooldown == 0:
            residuals.append(rise)
            healthy.append(y)
        else:
            cooldown = cooldown - 1 if rise > single / 4 else 0
            healthy.append(min(y, level + single / 4))
    return np.array(alarms, dtype=np.int64)


def _tail_quantile(residuals, p, share=0.4, shape=0.03):
    """Peaks over threshold on ascending residuals."""
    n = len(residuals)
    k = min(max(int(np.ceil(n * share)), 1), n - 1)
    start = residuals[n - k - 1]
    excess = np.sum(residuals[n - k :] - start)
    scale = max((residuals[3 * n // 4] - residuals[n // 4]) / 1.349, 0.002)
    mean = (excess + 8 * 0.5 * scale) / (k + 8)
    reach = ((k / n / min(p, k / n)) ** shape - 1) / shape
    return max(start, 0) + mean * (1 - shape) * reach


# The curve of a loss


def trend(values, confidence):
    """Mann-Kendall z, Theil-Sen slope and its limits, from the definitions."""
    y = np.asarray(values)
    pairs = list(itertools.combinations(range(len(y)), 2))
    balance = sum(int(np.sign(y[j] - y[i])) for i, j in pairs)
    terms = [t * (t - 1) * (2 * t + 5) for t in np.unique(y, return_counts=True)[1]]
    n = len(y)
    deviation = np.sqrt((n * (n - 1) * (2 * n + 5) - sum(terms)) / 18)
    z = (balance - np.sign(balance)) / deviation if deviation else 0.0
    slopes = np.sort([(y[j] - y[i]) / (j - i) for i, j in pairs])
    reach = confidence * deviation
    low = max(int(np.floor((len(slopes) - reach) / 2)) - 1, 0)
    high = min(int(np.ceil((len(slopes) + reach) / 2)), len(slopes) - 1)
    return z, np.median(slopes), slopes[low], slopes[high]


def blocks(values, capacity):
    """Levels, spreads and points of each of gyrostat's blocks of finite values."""
    x = np.asarray([v for v in values if np.isfinite(v)])
    chunks = np.sort(x[: len(x) // 5 * 5].reshape(-1, 5), axis=1)
    medians, spreads, size = chunks[:, 2], chunks[:, 3] - chunks[:, 1], 1
    while len(chunks) // size >= capacity:
        size *= 2
    whole = len(chunks) // size * size
    mean = [column[:whole].reshape(-1, size).mean(axis=1) for column in (medians, spreads)]
    return mean[0], mean[1], 5 * size


def shift(values, after):
    """Level before, rise in units of noise, drift, level after, noise, separation."""
    old, new = np.split(np.asarray(values), [len(values) - after])
    first, second = np.median(old[: len(old) // 2]), np.median(old[len(old) // 2 :])
    slope = (second - first) / (len(old) / 2)
    ahead = second + slope * (len(old) / 4 + after / 2)
    levels = np.where(np.arange(len(old)) < len(old) // 2, first, second)
    size = np.median(np.abs(old - levels))
    near = old[len(old) // 2 :]
    half = len(near) // 2
    bend = (np.median(near[half:]) - np.median(near[:half])) / (len(near) / 2)
    straight = near - bend * np.arange(len(near))
    spread = np.median(np.abs(straight - np.median(straight)))
    ratio = (np.median(np.abs(np.diff(near))) / spread) ** 2 / 2
    memory = np.clip(np.sqrt(max(2 - ratio, 0) / ratio) / 1.5, 1, 3.5)
    noise = max(1.4826 * size * memory, 0.002 * abs(second))
    early, late = np.median(new[: after // 2]), np.median(new[after // 2 :])
    span = sorted([second, ahead])
    a, b = ((v - np.clip(v, *span)) / noise for v in (early, late))
    rise = min(a, b) if min(a, b) > 0 else max(a, b) if max(a, b) < 0 else 0.0
    (new_low, new_high), (old_low, old_high) = (
        [np.sort(part)[round((len(part) - 1) * q)] for q in (0.1, 0.9)] for part in (new, old)
    )
    separate = new_low > old_high if rise > 0 else new_high < old_low
    return second, rise, (late - early) / (early - second), late, noise, separate


def autocorrelation(values, lags):
    """About the line through the medians of both halves, cut off at three deviations."""
    y, n = np.asarray(values), len(values)
    first, second = np.median(y[: n // 2]), np.median(y[n // 2 :])
    line = (first + second) / 2 + (second - first) / (n / 2) * (np.arange(n) - (n - 1) / 2)
    r = y - line
    r = np.clip(r / (1.4826 * np.median(np.abs(r))), -3, 3)
    r -= r.mean()
    return [float(r[lag:] @ r[: n - lag] / (r @ r)) for lag in range(1, lags + 1)]


# Leakage

_UNSPACED = ("CJK UNIFIED", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


def leakage_words(text):
    """The words of a text: lower-cased runs of letters and digits with their marks."""
    lower = "".join(c.lower() for c in text).replace("\u03c2", "\u03c3")
    words, last = [], ""
    for c in unicodedata.normalize("NFC", lower):
        mark = unicodedata.category(c)[0] == "M"
        if not (c.isalnum() or (mark and last)):
            last = ""
            continue
        alone = unicodedata.name(c, "").startswith(_UNSPACED)
        if words and (mark or (last == "word" and not alone)):
            words[-1] += c
        else:
            words.append(c)
        last = last if mark else "letter" if alone else "word"
    return words


def leakage_shingles(words):
    """The set of word 5-grams; fewer words are one."""
    return {tuple(words[i : i + 5]) for i in range(max(len(words) - 4, min(len(words), 1)))}


def leakage_pairs(splits, near, *, within=False):
    """All pairs as (left split, left row, right split, right row, kind, similarity)."""
    rows = []
    for name, texts in splits.items():
        for row, text in enumerate(texts):
            if text is not None:
                words = leakage_words(text)
                rows.append((name, row, text, words, leakage_shingles(words)))
    pairs = set()
    for (a, i, text_a, words_a, set_a), (b, j, text_b, words_b, set_b) in itertools.combinations(
        rows, 2
    ):
        if a == b and not within:
            continue
        if text_a == text_b:
            pairs.add((a, i, b, j, "exact", 1.0))
        elif words_a == words_b:
            pairs.add((a, i, b, j, "normalised", 1.0))
        elif near is not None and not set_a.isdisjoint(set_b):
            similarity = len(set_a & set_b) / len(set_a | set_b)
            if similarity >= near:
                pairs.add((a, i, b, j, "near", similarity))
    return pairs


# Tensor statistics


def tensor_stats(x):
    """The record of an array of any supported dtype, in long double, from the definitions."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        values = np.asarray(x).astype(np.longdouble).ravel()
    finite = values[np.isfinite(values)]
    magnitudes = np.abs(finite[finite != 0])
    stats = {
        "count": values.size,
        "nan_count": np.isnan(values).sum(),
        "posinf_count": np.isposinf(values).sum(),
        "neginf_count": np.isneginf(values).sum(),
        "nonfinite_count": values.size - finite.size,
        "zero_count": finite.size - magnitudes.size,
        "subnormal_count": (magnitudes < _smallest_normal(x.dtype)).sum(),
        "sum": finite.sum(),
        "l1": magnitudes.sum(),
        "l2": np.sqrt((magnitudes**2).sum()),
    }
    unknown = np.longdouble("nan")
    if finite.size == 0:
        names = ("min", "max", "absmax", "mean", "var", "std", "skewness", "kurtosis")
        return stats | dict.fromkeys(names, unknown)
    # Twice: the mean of the distances makes up for the rounding of the first mean.
    mean = finite.mean()
    mean += (finite - mean).mean()
    m2, m3, m4 = (((finite - mean) ** k).mean() for k in (2, 3, 4))
    spread = finite.min() < finite.max()
    return stats | {
        "min": finite.min(),
        "max": finite.max(),
        "absmax": np.abs(finite).max(),
        "mean": mean,
        "var": m2 if spread else np.longdouble(0),
        "std": np.sqrt(m2) if spread else np.longdouble(0),
        "skewness": m3 / m2**1.5 if spread else unknown,
        "kurtosis": m4 / m2**2 - 3 if spread else unknown,
    }


def exponent_counts(x):
    """How often floor(log2|x|) takes each value, over the finite values other than zero."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        values = np.abs(np.asarray(x).astype(np.longdouble).ravel())
    exponents = np.frexp(values[np.isfinite(values) & (values > 0)])[1] - 1
    return dict(zip(*(a.tolist() for a in np.unique(exponents, return_counts=True)), strict=True))


def total_norm(arrays):
    """The Euclidean norm of all values together, in long double."""
    squares = [(np.asarray(x).astype(np.longdouble) ** 2).sum() for x in arrays]
    return np.sqrt(np.sum(squares, dtype=np.longdouble))


def pair_stats(x, y):
    """What two arrays have to do with each other, in long double, where both are finite."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        x, y = (np.asarray(z).astype(np.longdouble).ravel() for z in (x, y))
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    left, right, apart = (np.sqrt((z * z).sum()) for z in (x, y, x - y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "dot": (x * y).sum(),
            "cosine": (x * y).sum() / (left * right),
            "l2_left": left,
            "l2_right": right,
            "l2_difference": apart,
            "ratio": left / right,
            "relative_difference": apart / right,
            "nonfinite_count": np.count_nonzero(~finite),
        }


def _smallest_normal(dtype):
    exponent = {"float64": -1022, "float32": -126, "bfloat16": -126, "float16": -14}[dtype.name]
    return np.ldexp(np.longdouble(1), exponent)
