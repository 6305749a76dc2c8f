"""Rules that come in no package which installs here, written out from their description."""

import math
from collections import deque

import numpy as np


class KillLossSpike:
    """llm-foundry's callback of that name.

    Its window is 5 % of the run, at least 100 steps. A loss of twice the window's mean is an
    outlier; the fifth in a row is an alarm, and so is each after it. From two windows on, it is
    also an alarm when half of the window is above the highest loss of the first window (10 if that
    is lower).
    """

    def __init__(self, points):
        self._window = deque(maxlen=max(100, round(0.05 * points)))
        self._cap = None
        self._outliers = 0
        self._seen = 0

    def update(self, _step, loss, _grad_norm):
        alarm = False
        size = self._window.maxlen
        if len(self._window) == size:
            values = np.array(self._window)
            self._cap = min(values.max(), 10.0) if self._cap is None else self._cap
            outlier = loss >= 2 * values.mean()
            self._outliers = self._outliers + 1 if outlier else 0
            high = self._seen >= 2 * size and (values > self._cap).sum() >= size / 2
            alarm = bool(self._outliers > 4 or high)
        self._window.append(loss)
        self._seen += 1
        return alarm


class RobustZ:
    """No peer, but the plain rule that a better one has to beat.

    Of the logarithm of the loss: how far it is above the median of the last 25, in units of the
    scaled median deviation of the last 100 from a line through the medians of their halves. More
    than 10 of them, and more than 5 %, is an alarm; an alarm enters the window as 3.
    """

    LEVEL, WINDOW, WARM_UP, LIMIT, LEAST = 25, 100, 20, 10.0, 0.05

    def __init__(self, _points):
        self._window = deque(maxlen=self.WINDOW)

    def update(self, _step, loss, _grad_norm):
        if not math.isfinite(loss):
            return True
        value = math.log(loss) if loss > 0 else -20.0
        alarm = False
        if len(self._window) >= self.WARM_UP:
            level, scale = self._level_and_scale()
            alarm = value - level > max(self.LIMIT * scale, self.LEAST)
            value = level + 3 * scale if alarm else value
        self._window.append(value)
        return alarm

    def _level_and_scale(self):
        values = np.array(self._window)
        count, half = len(values), len(values) // 2
        rise = (np.median(values[half:]) - np.median(values[:half])) / (count - half)
        line = np.median(values) + rise * (np.arange(count) - (count - 1) / 2)
        scale = 1.4826 * np.median(np.abs(values - line)) + 1e-3
        return np.median(values[-self.LEVEL :]), scale
