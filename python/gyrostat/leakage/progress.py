"""Progress of long work."""

from __future__ import annotations

from typing import Any, Self

__all__ = ["Bars"]


class Bars:
    """One progress bar a phase; silent where the output is no terminal or notebook."""

    def __init__(self) -> None:
        self._phase: str | None = None
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Says how much of a phase is done."""
        from tqdm.auto import tqdm

        if phase != self._phase:
            self.__exit__()
            self._phase = phase
            self._bar = tqdm(desc=phase, total=total, disable=None, leave=False, delay=0.5)
        self._bar.update(done - self._bar.n)
