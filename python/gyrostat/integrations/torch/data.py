"""Batches of a PyTorch DataLoader: identity, samples, generators of random numbers."""

from __future__ import annotations

import base64
import operator
import os
import random
import weakref
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset

from gyrostat.guard import batches
from gyrostat.guard.loaders import PlainSource, leaves, rebuilt

__all__ = ["LoaderSource", "TorchRandomState", "leave_out", "tensor_leaves"]


def leave_out(loader: Iterable[Any], path: str | os.PathLike[str]) -> batches.leave_out:
    """The batches of a loader without those that a guarded run left out. Needs no guard.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> loader = torch.utils.data.DataLoader(torch.arange(6.0), batch_size=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "left-out.jsonl"
        ...     batches.BatchRegistry(path=path).leave_out(samples=[3], reason="mislabelled")
        ...     [batch.tolist() for batch in leave_out(loader, path)]
        [[0.0, 1.0], [2.0], [4.0, 5.0]]

    Args:
        loader: A ``DataLoader`` or any other iterable of batches.
        path: The registry file.

    Returns:
        An iterable that can be iterated over as often as the loader.
    """
    return batches.leave_out(LoaderSource(loader), path, tensor_leaves)


def tensor_leaves(batch: object) -> Iterator[NDArray[Any]]:
    """The arrays of a batch, tensors without a copy where they are in host memory."""
    return leaves(batch, _plain_tensor)


def _plain_tensor(value: object) -> object | None:
    """Dtype, shape and bytes of a tensor: NumPy lacks some of torch's dtypes."""
    if not isinstance(value, torch.Tensor):
        return None
    tensor = value.detach()
    if tensor.is_nested:
        return list(tensor.unbind())
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    # A view may turn the sign of its values, or conjugate them, without that being in its bytes.
    flat = tensor.cpu().resolve_conj().resolve_neg().contiguous()
    # A tensor of one value counts as contiguous whatever its stride is.
    values = flat.as_strided((flat.numel(),), (1,)).view(torch.uint8).numpy()
    return [str(flat.dtype), list(flat.shape), values]


class LoaderSource:
    """A loader as a :class:`gyrostat.guard.loaders.Source`.

    A ``DataLoader`` of a map-style data set tells the indices of each batch, and loads batches
    without their bad samples. They are read off its batch sampler (without one, its sampler), so
    that workers, prefetching and what the training loop gets stay as they are. Not told are the
    samples of an ``IterableDataset``, of a loader with ``in_order=False``, of a subclass with an
    ``__iter__`` of its own, and of the first epoch after ``load_state_dict`` of a loader that has
    that: their batches are known by content alone.

    Args:
        loader: A ``DataLoader`` or any other iterable of batches.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader
        self._plain = PlainSource(loader)
        self._resumed = False

    def read(self, bad: AbstractSet[int]) -> Iterator[tuple[tuple[int, ...], Any] | None]:
        """Starts an epoch at once; see :class:`gyrostat.guard.loaders.Source`."""
        resumed, self._resumed = self._resumed, False
        loader = self._loader
        if not isinstance(loader, DataLoader) or not _tells_indices(loader):
            return self._plain.read(bad)
        part = "sampler" if loader.batch_sampler is None else "batch_sampler"
        recorder = _RECORDERS.get(loader)
        own = getattr(loader, part)
        if recorder is None or recorder.sampler is not own:
            # Persistent workers go on with the sampler that they were started with.
            recorder = _RECORDERS[loader] = _Recorder(own)
        recorder.bad = bad
        recorder.drawn.clear()
        loader.__dict__[part] = recorder  # the class refuses to set it; the iterator copies it
        try:
            iterator = iter(loader)
        finally:
            loader.__dict__[part] = own
        if resumed or not getattr(loader, "in_order", True):
            return _unpaired(iterator, recorder)
        return _paired(iterator, recorder)

    def fetch(self, samples: Sequence[int]) -> Any:
        """Loads these samples in this process, as one batch."""
        loader = self._loader
        if not isinstance(loader, DataLoader):
            return self._plain.fetch(samples)
        dataset: Any = loader.dataset
        if loader.batch_sampler is None:
            # The sampler gives whole lists of indices to the data set.
            return loader.collate_fn(dataset[list(samples)])
        if hasattr(dataset, "__getitems__"):
            return loader.collate_fn(dataset.__getitems__(list(samples)))
        return loader.collate_fn([dataset[i] for i in samples])

    def keep(self, batch: Any) -> Any:
        """The same tensors in containers of their own; those in shared memory are copied.

        Shared memory and the file handles to it are scarce, and workers need them.
        """
        return rebuilt(batch, _out_of_shared_memory)

    def position(self) -> Any:
        """The loader's ``state_dict()``, if it has that: torchdata's ``StatefulDataLoader``."""
        return self._plain.position()

    def go_to(self, position: Any) -> None:
        """Hands the position to the loader's ``load_state_dict``."""
        self._plain.go_to(position)
        self._resumed = True

    def random(self) -> Any:
        """The states of the generators given to the ``DataLoader`` or to its samplers."""
        return [_text(g.get_state().numpy()) for g in self._generators()] or None

    def set_random(self, state: Any) -> None:
        """Puts them back, if there are as many."""
        generators = self._generators()
        if len(generators) == len(state):
            for generator, text in zip(generators, state, strict=True):
                generator.set_state(torch.from_numpy(_array(text, np.uint8)))

    def _generators(self) -> list[torch.Generator]:
        batched = getattr(self._loader, "batch_sampler", None)
        samplers = (getattr(self._loader, "sampler", None), getattr(batched, "sampler", None))
        places = (self._loader, batched, *samplers)
        found = {id(g): g for p in places if (g := getattr(p, "generator", None)) is not None}
        return [g for g in found.values() if isinstance(g, torch.Generator)]


def _out_of_shared_memory(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.device.type == "cpu":
        shared = value.layout is torch.strided and not value.is_nested and value.is_shared()  # type: ignore[no-untyped-call]
        return value.clone() if shared else value
    return value


def _tells_indices(loader: DataLoader[Any]) -> bool:
    # An iteration of somebody else's may pass batches over, or hold one back.
    library = type(loader).__iter__.__module__.partition(".")[0]
    return library in {"torch", "torchdata"} and not isinstance(loader.dataset, IterableDataset)


class _Recorder:
    """Stands in front of a sampler, notes what it draws and takes the bad samples out.

    Whatever else is asked of it, the sampler answers.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.bad: AbstractSet[int] = frozenset()
        self.drawn: deque[tuple[int, ...] | None] = deque()

    def __iter__(self) -> _Recording:
        return _Recording(self)

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "sampler":
            raise AttributeError(name)
        return getattr(self.sampler, name)


class _Recording:
    """One pass over the sampler behind a recorder."""

    def __init__(self, recorder: _Recorder) -> None:
        self.recorder = recorder
        self.iterator = iter(recorder.sampler)

    def __iter__(self) -> _Recording:
        return self

    def __next__(self) -> Any:
        while True:
            drawn = next(self.iterator)
            samples = _indices(drawn)
            bad = self.recorder.bad
            good = tuple(s for s in samples if s not in bad)
            if len(good) < len(samples):
                if not good:
                    self.recorder.drawn.append(None)
                    continue
                drawn = type(drawn)(d for d, s in zip(drawn, samples, strict=True) if s not in bad)
            self.recorder.drawn.append(good)
            return drawn

    def __getattr__(self, name: str) -> Any:
        # torchdata asks the pass over the sampler for its state, if that keeps one.
        if name.startswith("_") or name == "iterator":
            raise AttributeError(name)
        return getattr(self.iterator, name)


# A loader with persistent workers keeps its first recorder.
_RECORDERS: weakref.WeakKeyDictionary[DataLoader[Any], _Recorder] = weakref.WeakKeyDictionary()


def _indices(drawn: Any) -> tuple[int, ...]:
    """What a sampler drew, as indices; none if it draws something else."""
    try:
        several = drawn if isinstance(drawn, list | tuple) else [drawn]
        return tuple(operator.index(i) for i in several)
    except (TypeError, ValueError):
        return ()


def _paired(
    iterator: Iterator[Any], recorder: _Recorder
) -> Iterator[tuple[tuple[int, ...], Any] | None]:
    drawn = recorder.drawn
    try:
        for batch in iterator:
            while drawn and drawn[0] is None:
                drawn.popleft()
                yield None
            yield (drawn.popleft() if drawn else None) or (), batch
        while drawn and drawn[0] is None:
            drawn.popleft()
            yield None
    finally:
        recorder.bad = frozenset()


def _unpaired(
    iterator: Iterator[Any], recorder: _Recorder
) -> Iterator[tuple[tuple[int, ...], Any]]:
    try:
        for batch in iterator:
            recorder.drawn.clear()
            yield (), batch
    finally:
        recorder.bad = frozenset()


class TorchRandomState:
    """The global generators of Python, NumPy, torch and CUDA.

    A :class:`gyrostat.guard.batches.RandomState`.
    """

    def capture(self) -> tuple[Any, ...]:
        """Where the generators stand."""
        begun = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        version, words, gauss = random.getstate()
        return (
            (version, array("I", words), gauss),  # a tenth of the memory that the integers take
            # NPY002: the global generator is the one that a loop outside of our hands draws from.
            np.random.get_state(legacy=False),  # noqa: NPY002
            torch.get_rng_state(),
            torch.cuda.get_rng_state_all() if begun else [],
        )

    def plain(self, captured: Any) -> dict[str, Any]:
        """What was captured as plain values for JSON."""
        (version, words, gauss), numbers, torchs, cuda = captured
        return {
            "python": [version, _text(words), gauss],
            "numpy": _coded(numbers),
            "torch": _text(torchs.numpy()),
            "cuda": [_text(state.numpy()) for state in cuda],
        }

    def restore(self, state: Any) -> None:
        """Puts the generators back where they stood, as captured or as plain values."""
        if isinstance(state, Mapping):
            state = _captured(state)
        (version, words, gauss), numbers, torchs, cuda = state
        random.setstate((version, tuple(words), gauss))
        np.random.set_state(numbers)  # noqa: NPY002 - the loop's generator
        torch.set_rng_state(torchs)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def _captured(plain: Mapping[str, Any]) -> tuple[Any, ...]:
    """The inverse of :meth:`TorchRandomState.plain`."""
    version, words, gauss = plain["python"]
    torchs, *cuda = (
        torch.from_numpy(_array(text, np.uint8)) for text in (plain["torch"], *plain["cuda"])
    )
    own = version, _array(words, np.uint32).tolist(), gauss
    return own, _decoded(plain["numpy"]), torchs, cuda


def _text(values: NDArray[Any] | array[int]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def _array(text: str, dtype: Any) -> NDArray[Any]:
    return np.frombuffer(bytearray(base64.b64decode(text)), dtype=dtype)


def _coded(state: Any) -> Any:
    """NumPy's dict of numbers and arrays as plain values."""
    if isinstance(state, dict):
        return {key: _coded(value) for key, value in state.items()}
    if isinstance(state, np.ndarray):
        return {"dtype": state.dtype.str, "bytes": _text(state)}
    return state.item() if isinstance(state, np.generic) else state


def _decoded(state: Any) -> Any:
    if isinstance(state, dict) and set(state) == {"dtype", "bytes"}:
        return _array(state["bytes"], state["dtype"])
    if isinstance(state, dict):
        return {key: _decoded(value) for key, value in state.items()}
    return state
