"""Batches: an identity for each, the good ones replayed, the bad ones left out."""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

from numpy.typing import NDArray

from gyrostat import _core
from gyrostat.guard._replay import Batch, Epoch, Item, ReplayMemory
from gyrostat.guard.left_out import LeftOut, RegistryFile, read_left_out
from gyrostat.guard.loaders import PlainSource, Source, leaves, rebuilt

__all__ = ["Batch", "BatchRegistry", "RandomState", "leave_out", "leaves"]

_LOG = logging.getLogger("gyrostat")
_VERSION = 1
_DIGITS = 16  # of 32: 64 bits, so a chance collision among 10^6 batches has odds of 3e-8
_RANDOM_BYTES = 16 << 10  # what the states of the generators take, kept with each batch


class RandomState(Protocol):
    """The generators of random numbers that a training loop and its loader draw from."""

    def capture(self) -> Any:
        """Where they stand, as cheaply as can be had."""

    def plain(self, captured: Any) -> Any:
        """What was captured as plain values for JSON."""

    def restore(self, state: Any) -> None:
        """Puts them back there, from what was captured or its plain values."""


class BatchRegistry:
    """Hands out batches, remembers them, leaves the bad ones out and replays the good ones.

    Batches are held by reference, in containers of their own: a ``batch.pop("labels")`` of the
    training loop does no harm, and a tensor changed in place is noticed by its fingerprint, told in
    the log and not replayed.

    Args:
        leaves_of: Turns a batch into its arrays; the framework's adapter supplies it.
        path: Registry file, JSON lines, of what is left out. It is read at the start, so that a
            restart leaves the same out. None keeps it in memory.
        replay_bytes: How much memory the batches held for a replay may take. The oldest go first.
        random_state: The framework's generators of random numbers. With them a restart goes on
            with the same random numbers as if it had not been killed.

    Attributes:
        bad: Identities of the batches to leave out.
        bad_samples: Indices of the samples to leave out.
        current: The batch handed out last, or None.
        epoch: Number of the epoch under way or begun last; -1 before the first.
        index: How many batches the loader gave in that epoch, those left out included.
        left_out: How often a batch was left out so far.
    """

    def __init__(
        self,
        leaves_of: Callable[[object], Iterable[NDArray[Any]]] = leaves,
        *,
        path: str | os.PathLike[str] | None = None,
        replay_bytes: int = 256 << 20,
        random_state: RandomState | None = None,
    ) -> None:
        if replay_bytes < 0:
            raise ValueError(f"replay_bytes: expected 0 or more, got {replay_bytes}")
        self._leaves_of = leaves_of
        self._file = None if path is None else RegistryFile(path)
        self._random = random_state
        known = LeftOut() if path is None else read_left_out(path)
        self.bad: set[str] = set(known.batches)
        self.bad_samples: set[int] = set(known.samples)
        self.current: Batch | None = None
        self.epoch = -1
        self.index = 0
        self.left_out = 0
        self._turn: object = None  # names the newest call of iterate
        self._source: Source | None = None  # of the iteration under way
        self._stream: tuple[Iterator[Any], Epoch] | None = None
        self._resume: Mapping[str, Any] | None = None
        self._random_after_fetch: Any = None
        # Every batch that the loader gave has a serial number; the run stands in front of _next.
        self._memory = ReplayMemory(replay_bytes)
        self._next = 0
        self._fetched = 0
        self._pending: Item | None = None  # fetched, not yet handed out

    @property
    def is_replaying(self) -> bool:
        """Whether more than the batch that comes next was fetched before a :meth:`rewind`."""
        return self._next < self._fetched - 1

    @property
    def next_epoch(self) -> int:
        """Number of the epoch that the next :meth:`iterate` begins, or goes on with."""
        return self.epoch if self._resume is not None else self.epoch + 1

    def iterate(
        self, loader: Iterable[Any] | Source, before: Callable[[], None] | None = None
    ) -> Iterator[Any]:
        """Yields the batches of ``loader`` that are not known to be bad: one epoch.

        After :meth:`load_state_dict` the epoch that was under way goes on where it stood. After
        :meth:`rewind` the batches in memory come first.

        Args:
            loader: Any iterable of batches. After a restart one that has ``load_state_dict`` is
                sent to its position; any other gives the batches before it again, to be passed
                over.
            before: Called at each boundary, after the next batch was fetched and before it is
                handed out.

        Raises:
            RuntimeError: If another iteration was begun meanwhile.
        """
        source = loader if isinstance(loader, Source) else PlainSource(loader)
        turn = self._turn = object()
        self._source = source
        self._stream = None
        if self._resume is None:
            self.epoch += 1
            self.index = 0
        try:
            while (item := self._following(source)) is not None:
                data = item.data
                self._pending = item
                if before is not None:
                    before()
                self._hold(item)
                if self._next != item.serial:
                    continue  # rewound meanwhile
                self._next += 1
                self.current = item.batch
                yield data
                if self._turn is not turn:
                    raise RuntimeError("iterate: another iteration was begun on this registry")
        finally:
            if self._turn is turn:
                if self._pending is not None:
                    self._hold(self._pending)
                self.current = None
                self._source = self._stream = None

    def mark(self) -> int:
        """Names the boundary in front of the batch that comes next, to :meth:`rewind` to.

        From the oldest mark on batches are held in memory.
        """
        if self._memory.floor is None:
            self._memory.floor = self._next
        return self._next

    def replayable(self, mark: int) -> bool:
        """Whether every batch after the mark is held."""
        return self._checked(mark) >= self._memory.first

    def rewind(self, mark: int) -> int:
        """Goes back to a boundary, of an earlier epoch as well.

        What comes next are the batches after the mark that are held and still good; then the
        loader goes on.

        Returns:
            How many batches will be replayed.
        """
        self._next = max(self._checked(mark), self._memory.first)
        self.current = None
        ahead = [i for i in self._memory if i.serial >= self._next and not self._is_bad(i)]
        if self._pending is not None and not self._is_bad(self._pending):
            ahead.append(self._pending)
        return sum(self._is_intact(item) for item in ahead)

    def forget_before(self, mark: int) -> None:
        """Frees the batches before a mark; older marks are not used again."""
        self._memory.forget_before(self._checked(mark))

    def recent(self, n: int) -> list[tuple[Batch, Any]]:
        """The last ``n`` batches handed out that are held and intact, the newest last."""
        passed = [item for item in self._memory if item.serial < self._next][-n:] if n > 0 else []
        return [(item.batch, rebuilt(item.data)) for item in passed if self._is_intact(item)]

    def leave_out(
        self,
        *identities: str,
        samples: Iterable[int] = (),
        reason: str = "",
        step: int | None = None,
    ) -> None:
        """Leaves batches and samples out from here on, and after a restart.

        Args:
            *identities: Identities of batches.
            samples: Indices into the data set, as in :attr:`Batch.samples`.
            reason: Goes into the registry file.
            step: The step of a guard that this follows from. :meth:`undo_since` takes it back when
                that step is to be made again; a choice of anybody else, without a step, stays.

        Raises:
            TypeError: If an identity is no text or an index no integer.
        """
        samples = _named(identities, samples)
        self.bad.update(identities)
        self.bad_samples.update(samples)
        self._write("leave-out", identities, samples, reason, step)

    def forgive(
        self,
        *identities: str,
        samples: Iterable[int] = (),
        reason: str = "",
        step: int | None = None,
    ) -> None:
        """The inverse of :meth:`leave_out`."""
        samples = _named(identities, samples)
        self.bad.difference_update(identities)
        self.bad_samples.difference_update(samples)
        self._write("forgive", identities, samples, reason, step)

    @property
    def file_size(self) -> int:
        """Bytes in the registry file, for :meth:`undo_since`."""
        return 0 if self._file is None else self._file.size

    def undo_since(self, size: int, step: int) -> None:
        """Takes back what a guard has written since the registry file had ``size`` bytes.

        Args:
            size: What :attr:`file_size` was.
            step: The step that the run goes on from.
        """
        if self._file is None:
            return
        now, then = read_left_out(self._file.path), read_left_out(self._file.path, size=size)
        reason = f"the run goes on from step {step}"
        batches, samples = now.batches - then.batches, now.samples - then.samples
        if batches or samples:
            self.forgive(*sorted(batches), samples=sorted(samples), reason=reason, step=step)
        batches, samples = then.batches - now.batches, then.samples - now.samples
        if batches or samples:
            self.leave_out(*sorted(batches), samples=sorted(samples), reason=reason, step=step)

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands, to be saved with the checkpoint.

        All values are plain ones for JSON, if those under ``random``, which the framework's
        generators gave, and under ``loader``, which the loader's ``state_dict`` gave, are. Saved
        outside of the loop over the batches it says that the epoch is over.
        """
        state: dict[str, Any] = {
            "version": _VERSION,
            "epoch": self.epoch,
            "index": 0,
            "under_way": False,
            "left_out": self.left_out,
            "bad_batches": sorted(self.bad),
            "bad_samples": sorted(self.bad_samples),
            "random": None,
            "loader": None,
            "loader_random": None,
        }
        if self._resume is not None:
            kept = ("epoch", "index", "under_way", "random", "loader", "loader_random")
            return state | {key: self._resume[key] for key in kept}
        ahead = (
            i for i in (*self._memory, self._pending) if i is not None and i.serial >= self._next
        )
        item = next((i for i in ahead if i.data is not None and not self._is_bad(i)), None)
        if item is not None:
            where = (item.epoch, item.batch.index, item.random, item.position)
        elif self._stream is not None and self._source is not None:
            where = (self._stream[1], self.index, None, self._source.position())
        else:
            return state
        epoch, index, fetch, position = where
        state |= {"epoch": epoch.number, "index": index, "under_way": True, "loader": position}
        state["loader_random"] = epoch.own
        if self._random is not None:
            stood = {"start": epoch.random, "fetch": fetch, "now": self._random.capture()}
            state["random"] = {
                when: None if captured is None else self._random.plain(captured)
                for when, captured in stood.items()
            }
        return state

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`. Marks and the batches held are forgotten.

        What the registry file says counts more than what the state says.

        Raises:
            ValueError: If ``d`` is no such state.
        """
        if not isinstance(d, Mapping) or d.get("version") != _VERSION:
            raise ValueError(f"state: expected a state of BatchRegistry, version {_VERSION}")
        for key, kind in _STATE.items():
            value = d.get(key)
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise ValueError(f"state: expected {key} to be {kind.__name__}, got {value!r}")
        if d["epoch"] < -1 or d["index"] < 0:
            raise ValueError("state: expected epoch and index to count")
        try:
            _named(d["bad_batches"], d["bad_samples"])
        except TypeError as error:
            raise ValueError(f"state: {error}") from error
        random = d.get("random")
        if random is not None and not (
            isinstance(random, Mapping) and {"start", "fetch", "now"} <= set(random)
        ):
            raise ValueError("state: expected random to have start, fetch and now")
        known = LeftOut(frozenset(d["bad_batches"]), frozenset(d["bad_samples"]))
        if self._file is not None:
            known = read_left_out(self._file.path, known)
        self.bad, self.bad_samples = set(known.batches), set(known.samples)
        self.epoch, self.index, self.left_out = d["epoch"], d["index"], d["left_out"]
        self._resume = (
            {"random": None, "loader": None, "loader_random": None, **d} if d["under_way"] else None
        )
        self.current = None
        self._turn = self._source = self._stream = self._pending = None
        self._random_after_fetch = None
        self._memory.clear(self._fetched)
        self._next = self._fetched

    # What comes next

    def _following(self, source: Source) -> Item | None:
        """The next good batch, from memory or else from the loader; None at the epoch's end."""
        while self._next < self._fetched:
            item = self._memory.at(self._next)
            if item is not None and item.data is not None:
                self._strip(item)
                if self._is_bad(item):
                    self.left_out += 1
                elif self._is_intact(item):
                    # The loop gets containers of its own.
                    return replace(item, data=rebuilt(item.data))
            self._next += 1
        while (item := self._fetch(source)) is not None:
            self._strip(item)
            if not self._is_bad(item):
                return item
            self.left_out += 1
            self._hold(item)
            self._next += 1
        return None

    def _fetch(self, source: Source) -> Item | None:
        """The next batch of the loader, good or bad."""
        stream, epoch = self._stream or self._open(source)
        while True:
            random = None if self._random is None else self._random.capture()
            position = source.position()
            try:
                given = next(stream)
            except StopIteration:
                self._stream = iter(()), epoch
                return None
            self.index += 1
            if given is not None:
                break
            self.left_out += 1  # every sample of it is bad
        if self._random is not None and self._random_after_fetch is not None:
            self._random.restore(self._random_after_fetch)
            self._random_after_fetch = None
        samples, data = given
        identity, size = self._measure(data)
        self._fetched += 1
        return Item(
            serial=self._fetched - 1,
            batch=Batch(identity, epoch.number, self.index - 1, samples),
            data=data,
            size=size,
            source=source,
            epoch=epoch,
            random=random,
            position=position,
        )

    def _open(self, source: Source) -> tuple[Iterator[Any], Epoch]:
        """Starts the loader; after a restart, at the batch where it stood."""
        resume, random = self._resume, self._random
        states = None if resume is None else resume["random"]
        if random is not None and states is not None:
            random.restore(states["start"])
        if resume is not None and resume["loader_random"] is not None:
            source.set_random(resume["loader_random"])
        start = None if random is None else random.capture()
        epoch = Epoch(self.epoch, start, source.random())
        passed_over = 0
        if resume is not None and resume["loader"] is not None:
            source.go_to(resume["loader"])
        elif resume is not None:
            passed_over = resume["index"]
        stream = source.read(self.bad_samples)
        found = sum(1 for _ in islice(stream, passed_over))
        if found < passed_over:
            _LOG.warning(
                "the loader gave %d batches where %d were handed out before the restart",
                found,
                passed_over,
            )
        if random is not None and states is not None:
            if states["fetch"] is None:
                random.restore(states["now"])
            else:  # the batch that comes next was fetched before the state was saved
                random.restore(states["fetch"])
                self._random_after_fetch = states["now"]
        self._resume = None
        self._stream = stream, epoch
        return self._stream

    def _measure(self, data: Any) -> tuple[str, int]:
        """Identity of a batch, and the bytes that it takes to hold it."""
        arrays = list(self._leaves_of(data))
        size = sum(array.nbytes for array in arrays)
        return _core.fingerprint(arrays)[:_DIGITS], size + (_RANDOM_BYTES if self._random else 0)

    # What is held

    def _hold(self, item: Item) -> None:
        self._pending = None
        self._memory.add(item)

    def _is_bad(self, item: Item) -> bool:
        samples = item.batch.samples
        good = sum(s not in self.bad_samples for s in samples)
        return item.batch.identity in self.bad if good == len(samples) else good == 0

    def _is_intact(self, item: Item) -> bool:
        """Whether a batch is what it was when it was fetched; if not, it is given up."""
        if item.data is None:
            return False
        if self._measure(item.data)[0] == item.batch.identity:
            return True
        _LOG.warning(
            "batch %s (epoch %d, index %d) was changed in place after it was handed out: "
            "it cannot be replayed",
            item.batch.identity,
            item.batch.epoch,
            item.batch.index,
        )
        self._memory.change(item, None, item.batch, 0)
        return False

    def _strip(self, item: Item) -> None:
        """Loads a batch again without its bad samples, if it has any."""
        good = tuple(s for s in item.batch.samples if s not in self.bad_samples)
        if not good or len(good) == len(item.batch.samples):
            return
        before = None if self._random is None else self._random.capture()
        data = item.source.fetch(good)
        if self._random is not None:
            self._random.restore(before)
        identity, size = self._measure(data)
        self._memory.change(item, data, replace(item.batch, identity=identity, samples=good), size)

    def _checked(self, mark: int) -> int:
        if not isinstance(mark, int) or not 0 <= mark <= self._fetched:
            raise ValueError(f"mark: expected what mark() returned, got {mark!r}")
        return mark

    def _write(
        self,
        action: str,
        identities: Iterable[str],
        samples: Iterable[int],
        reason: str,
        step: int | None,
    ) -> None:
        if self._file is not None:
            self._file.append(action, identities, samples, reason, step)


_STATE = {
    "epoch": int,
    "index": int,
    "under_way": bool,
    "left_out": int,
    "bad_batches": list,
    "bad_samples": list,
}


def _named(identities: Iterable[Any], samples: Iterable[Any]) -> list[int]:
    """The samples, as plain integers."""
    if any(not isinstance(identity, str) for identity in identities):
        raise TypeError(f"identities: expected text, got {identities!r}")
    try:
        return [operator.index(sample) for sample in samples]
    except TypeError as error:
        raise TypeError(f"samples: expected integers, got {error}") from error


class leave_out:  # noqa: N801  # used like a function
    """The batches of a loader without those that a registry file leaves out. Needs no guard.

    It can be iterated over as often as the loader; each time the file is read anew.

    Example:
        >>> import numpy as np, tempfile
        >>> from pathlib import Path
        >>> loader = [np.zeros(3), np.ones(3), np.full(3, np.nan)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "left-out.jsonl"
        ...     registry = BatchRegistry(path=path)
        ...     for batch in registry.iterate(loader):
        ...         if np.isnan(batch).any():
        ...             registry.leave_out(registry.current.identity, reason="NaN")
        ...     len(list(leave_out(loader, path)))
        2

    Args:
        loader: Any iterable of batches.
        path: Registry file, as :class:`BatchRegistry` and the guard write it.
        leaves_of: Turns a batch into its arrays, as when the file was written.
    """

    def __init__(
        self,
        loader: Iterable[Any] | Source,
        path: str | os.PathLike[str],
        leaves_of: Callable[[object], Iterable[NDArray[Any]]] = leaves,
    ) -> None:
        self._loader = loader
        self._path = path
        self._leaves_of = leaves_of

    def __iter__(self) -> Iterator[Any]:
        return BatchRegistry(self._leaves_of, path=self._path).iterate(self._loader)
