"""Slow twins of the kernels, written for reading, that the tests hold the kernels against."""

import numpy as np

# Loss spikes


def find_spikes(loss, false_alarms_per_10k=0.2):
    """The verdicts of gyrostat.SpikeDetector on a loss that stays positive."""
    p = false_alarms_per_10k / 1e4
    healthy, residuals, event = [], [], []
    cooldown, was_high, alarms = 0, False, []
    for i, x in enumerate(loss):
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
