"""Slow twins of the kernels, written for reading, that the tests hold the kernels against."""

import itertools
import math
import unicodedata

import numpy as np

# Loss spikes


class _Tail:
    """Peaks over threshold with an exponential excess, and the last two scores."""

    def __init__(self, start, rate, mean_excess):
        self.start, self.rate, self.mean = start, rate, mean_excess
        self.points = self.exceedances = self.excess = 0.0
        self.last = [0.0, 0.0]

    def quantile(self, p):
        rate = (self.rate * 2000 + self.exceedances) / (2000 + self.points)
        mean = (self.mean * 100 + self.excess) / (100 + self.exceedances)
        return self.start + mean * math.log(max(rate / p, 1))

    def exceed(self, score):
        self.exceedances += 1
        self.excess += max(score - self.start, 0)

    def remember(self, score, most):
        last, before = self.last
        self.points += 1
        if last > self.start and score < 1 and before < 1:
            self.exceed(last)
        self.last = [min(score, most), last]


class _Baseline:
    """Lower of two medians, and the scale of the residuals."""

    def __init__(self, *prior):
        self.tail = _Tail(*prior)
        self.values = []
        self.forget()

    def forget(self):
        self.residuals, self.differences, self.learnt, self.last = [], [], 0, None

    def level(self):
        return min(np.median(self.values[-15:]), np.median(self.values[-7:]))

    def scale(self, floor):
        def spread(n):
            upper = _middle(np.sort(self.residuals[-n:])[::-1], 0.1)
            return max(upper, 1.8 * _middle(np.sort(self.differences[-n:])[::-1], 0.5))

        now = max(spread(25), floor)
        usual = min(spread(200), 2 * now)
        return max(now, usual) * (1 + 10 / max(self.learnt, 1))

    def learn(self, value, residual):
        self.values = [*self.values, value][-15:]
        if residual is not None:
            self.learnt += 1
            self.residuals = [*self.residuals, _bin(residual)][-200:]
            if self.last is not None:
                self.differences = [*self.differences, _bin(abs(value - self.last))][-200:]
        self.last = value

    def start_over(self, kept):
        self.forget()
        self.move_to(self.values[len(self.values) - kept :] if kept else [])

    def move_to(self, values):
        self.values, self.last, self.tail.last = list(values)[-15:], None, [0.0, 0.0]


def _bin(value):
    """The leading bits of a float: 16 bins to the octave, from 2**-64 on."""
    if not value > 0:
        return 0
    bits = int(np.float64(value).view(np.uint64)) >> 48
    return min(max(bits - ((1023 - 64) << 4), 0), 2047)


def _middle(falling, upper):
    if len(falling) == 0:
        return 0.0
    chosen = int(falling[int(len(falling) * upper)])
    bits = ((chosen + ((1023 - 64) << 4)) << 48) | (1 << 47)
    return float(np.uint64(bits).view(np.float64)) if chosen else 0.0


def find_spikes(loss, false_alarms_per_10k=0.2, step=None, grad_norm=None):
    """The alarms of gyrostat.SpikeDetector on a loss that stays positive."""
    twin = _Spikes(false_alarms_per_10k / 1e4)
    alarms = []
    for i, x in enumerate(loss):
        twin.pace(0 if step is None or i == 0 else step[i] - step[i - 1])
        if twin.update(x, None if grad_norm is None else grad_norm[i]):
            alarms.append(i)
    return np.array(alarms, dtype=np.int64)


class _Spikes:
    def __init__(self, p):
        self.p = p
        self.line, self.norms = _Baseline(2, 0.005, 1.15), _Baseline(2, 0.005, 3)
        self.pair, self.joint = _Tail(1, 0.015, 0.6), _Tail(3, 0.00012, 1.1)
        self.drift = [_Baseline(1, 0.006, 0.5) for _ in "ab"]
        self.points, self.blocks, self.calm = [], [], 100
        self.row, self.cooldown = [], 0
        self.gaps, self.usual = [], None

    def pace(self, gap):
        if gap <= 0:
            return
        self.usual = self.usual or gap
        self.gaps = [*self.gaps, gap][-3:]
        low, high = min(self.gaps), max(self.gaps)
        if len(self.gaps) == 3 and (low > 4 * self.usual or high < self.usual / 4):
            self.usual = np.median(self.gaps)
            self.line.start_over(2)
            self.norms.start_over(2)
            self.joint.last = [0.0, 0.0]
            self.new_level()

    def new_level(self):
        self.pair.last = [0.0, 0.0]
        self.points, self.blocks, self.row, self.cooldown = [], [], [], 0
        for scale in self.drift:
            scale.start_over(0)

    def update(self, x, grad_norm):
        if not np.isfinite(x):
            self.row = []
            return True
        y = math.log(x)
        if not self.line.values:
            self.line.learn(y, None)
            return False
        level = self.line.level()
        norm = self.look(grad_norm)
        if self.line.learnt < 12:
            self.learn_norm(norm)
            return self.early(y, level)
        alarm, limit, scale = self.judge(y, level, norm[2])
        if alarm:
            return self.alarm(y, 25)
        self.learn_norm(norm)
        self.row, self.calm = [], min(self.calm + 1, 100)
        if self.cooldown == 0:
            self.line.learn(y, y - level)
            return self.slow_rise(y, level, scale)
        high = 0.25 * limit * scale
        self.cooldown = self.cooldown - 1 if y - level > high else 0
        self.line.learn(min(y, level + high), None)
        self.points, self.blocks = [], []
        return False

    def look(self, grad_norm):
        """Log, rise, score and scale of a gradient norm, as far as they are known."""
        if grad_norm is None or not grad_norm > 0:
            return None, 0.0, None, 1.0
        log = math.log(grad_norm)
        rise = log - self.norms.level() if self.norms.values else 0.0
        if self.norms.learnt < 12:
            return log, rise, None, 1.0
        scale = self.norms.scale(0.01)
        return log, rise, rise / scale, scale

    def learn_norm(self, norm):
        log, rise, score, scale = norm
        if log is not None:
            cut = rise if score is None else min(rise, 2 * scale)
            self.norms.learn(log - rise + cut, cut if self.norms.values else None)

    def early(self, y, level):
        highest, lowest = max(self.line.values), min(self.line.values)
        if y - level > highest - level + max(math.log(3), 2 * (highest - lowest)):
            return self.alarm(y, 3)
        self.row = []
        self.line.learn(y, y - level)
        return False

    def alarm(self, y, adopted_after):
        self.row.append(y)
        self.cooldown, self.calm, self.points, self.blocks = 25, 0, [], []
        if len(self.row) == adopted_after:
            self.line.move_to(self.row)
            self.new_level()
        return True

    def judge(self, y, level, second):
        scale = self.line.scale(0.002)
        score = (y - level) / scale
        pair = min(score, self.line.tail.last[0])
        limit = self.line.tail.quantile(self.p * (0.65 if second is None else 0.4))
        pair_limit = min(self.pair.quantile(self.p * 0.2), limit)
        alarm = score > limit or pair > pair_limit
        if second is not None:
            joint = min(score, 3 * second)
            alarm |= joint > max(self.joint.quantile(self.p * 0.5), 3)
            self.joint.remember(joint, 8)
        self.line.tail.remember(score, limit)
        before = self.pair.last[0]
        self.pair.points += 1
        if before > 1 and score < 1:
            self.pair.exceed(before)
        self.pair.last = [min(pair, pair_limit), before]
        return alarm and y - level > 0.05, limit, scale

    def slow_rise(self, y, level, scale):
        self.points.append(min(max(y, level - 3 * scale), level + 3 * scale))
        if len(self.points) < 8:
            return False
        small = sum(v / 8 for v in self.points)
        self.points = []
        risen = _block_stands_high(self.drift[0], small, y, self.p * 8 * 0.125, self.calm)
        self.blocks.append(small)
        if len(self.blocks) == 4:
            large = sum(v / 4 for v in self.blocks)
            self.blocks = []
            risen |= _block_stands_high(self.drift[1], large, y, self.p * 8 * 4 * 0.2, self.calm)
        if risen:
            self.calm, self.blocks = 0, []
            for one in self.drift:
                one.start_over(0)
        return risen


def _block_stands_high(baseline, mean, newest, p, calm):
    if not baseline.values:
        baseline.learn(mean, None)
        return False
    level = baseline.level()
    rise = mean - level
    if baseline.learnt >= 8:
        score, limit = rise / baseline.scale(0.0005), baseline.tail.quantile(p)
        high = score > limit and rise > 0.04 and newest - level > rise / 2
        if high and calm >= 100:
            return True
        baseline.tail.remember(score, limit)
    baseline.learn(mean, rise)
    return False


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
