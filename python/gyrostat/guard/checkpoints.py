"""Checkpoints on disk: whole or not there, exact, checked, and the last healthy one kept."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat import _core
from gyrostat.findings import plain
from gyrostat.guard._disk import append_line, end_last_line, read_lines, sync_file, sync_folder
from gyrostat.guard._tree import ArrayCodec, Codec, Packed, flatten, tensors_of, unflatten
from gyrostat.tensors import summarize_all

__all__ = [
    "META_FILE",
    "CheckpointGuardian",
    "check_finite",
    "newest_complete",
    "read_checkpoint",
    "temporary",
    "write_checkpoint",
]

META_FILE = "gyrostat.json"
"""In the folder of a sharded checkpoint: its ``meta``. A folder that has it is complete."""

_VERSION = 1
_SUFFIX = ".safetensors"
_NOTES = ".gyrostat-checkpoints.jsonl"
# The dtypes that the safetensors format has. Values of any other are written as bytes.
_NATIVE = frozenset(
    {
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
        "complex64",
    }
)


def write_checkpoint(
    path: str | os.PathLike[str], state: Any, meta: Mapping[str, Any], *, codec: Codec | None = None
) -> None:
    """Writes one file in the safetensors format, without pickle.

    A temporary file beside it is written, brought to the disk, read back and compared, and renamed.
    A kill at any byte leaves what was under ``path`` before.

    Args:
        path: The file, best with the suffix ``.safetensors``, which :func:`newest_complete` seeks.
        state: Nested dicts, lists, tuples and sets of tensors, numbers, text and bytes. They come
            back as what they were, with exact bits.
        meta: Plain values for JSON. :func:`newest_complete` goes by its ``step``.
        codec: What the framework's tensors are; NumPy's arrays without one.

    Raises:
        TypeError: If something in ``state`` cannot be written; the message says what.
        OSError: If the disk is full or did not keep what was written.
        ImportError: If safetensors is not installed.
    """
    try:
        import safetensors
    except ImportError as error:
        raise ImportError("checkpoints need safetensors: pip install 'gyrostat[torch]'") from error
    path = Path(path)
    skeleton, packed = flatten(state, codec or ArrayCodec())
    text = json.dumps(
        {
            "version": _VERSION,
            "state": skeleton,
            "meta": plain(dict(meta)),
            "fingerprints": {name: _core.fingerprint([p.data]) for name, p in packed.items()},
        },
        allow_nan=False,
    )
    specs = {name: _spec(safetensors, p) for name, p in packed.items()}
    half = temporary(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        safetensors.serialize_file(specs, half, {"gyrostat": text, "fingerprint": _check(text)})
        sync_file(half)
        _drop_from_cache(half)
        try:
            _verify(half)
        except ValueError as error:
            raise OSError(f"path: the disk did not keep what was written: {error}") from error
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read_checkpoint(
    path: str | os.PathLike[str], *, codec: Codec | None = None
) -> tuple[Any, dict[str, Any]]:
    """The state and the ``meta`` of a checkpoint; every tensor is checked.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, not complete, or damaged; the message says where.
    """
    notes, data = _open(Path(path))
    codec = codec or ArrayCodec()

    def bytes_of(name: str) -> NDArray[np.uint8]:
        return np.array(_checked(Path(path), name, notes, data))

    try:
        return unflatten(notes["state"], bytes_of, codec), notes["meta"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"path: {path} cannot be read: {error!r}") from error


def newest_complete(folder: str | os.PathLike[str]) -> Path | None:
    """The newest checkpoint of a folder that is complete and undamaged, or None.

    The newest has the highest ``step`` in its ``meta``; without one, that which was written last.
    Sharded checkpoints, which are folders, are complete if they are there.
    """
    found = []
    for path in Path(folder).iterdir() if Path(folder).is_dir() else ():
        if path.name.startswith(".") or not (path.is_dir() or path.suffix == _SUFFIX):
            continue
        try:
            meta = _meta(path)
        except (ValueError, OSError):
            continue
        step = meta.get("step")
        found.append((step if isinstance(step, int) else -1, path.stat().st_mtime_ns, path))
    for _, _, path in sorted(found, reverse=True):
        try:
            if path.is_file():
                _verify(path)
        except (ValueError, OSError):
            continue
        return path
    return None


def check_finite(state: Any, *, codec: Codec | None = None) -> None:
    """Raises if a tensor of ``state`` holds NaN or Inf. Call it before a checkpoint is written.

    Raises:
        ValueError: With the names of the tensors and how many such values each holds.
    """
    codec = codec or ArrayCodec()
    found = {name: codec.values(t) for name, t in tensors_of(state, codec).items()}
    table = summarize_all({n: v for n, v in found.items() if v is not None}, level="norm")
    counts = zip(table.names, table.nonfinite_count.tolist(), strict=True)
    bad = [f"{name} ({count})" for name, count in counts if count]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ValueError(f"state: NaN or Inf in {', '.join(bad[:5])}{more}")


class CheckpointGuardian:
    """Rotates the checkpoints of a folder and never deletes the last healthy one.

    The checkpoints may be anybody's: files or folders of any format. What is known of them stands
    in a hidden file of the folder, so that a restart knows it as well. Nothing is deleted that was
    not announced by :meth:`saved`.

    Args:
        folder: Where the checkpoints are.
        keep: How many of the newest are kept; the newest healthy one is kept besides.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 2) -> None:
        if not isinstance(keep, int) or keep < 1:
            raise ValueError(f"keep: expected a positive integer, got {keep!r}")
        self.folder = Path(folder)
        self.keep = keep
        self.folder.mkdir(parents=True, exist_ok=True)
        self._notes = self.folder / _NOTES
        self._saved: dict[str, int] = {}  # name and step, in the order of saving
        self._healthy: set[str] = set()
        end_last_line(self._notes)
        if self._notes.exists():
            for record in read_lines(self._notes):
                self._take(record)

    @property
    def healthy(self) -> Path | None:
        """The newest checkpoint marked healthy."""
        names = [name for name in self._present() if name in self._healthy]
        return self.folder / names[-1] if names else None

    def saved(self, path: str | os.PathLike[str], step: int) -> None:
        """Announces a checkpoint of the folder. One saved anew is not healthy until marked.

        Raises:
            ValueError: If it is not there, or not in the folder.
        """
        path = Path(path)
        if path.parent.resolve() != self.folder.resolve():
            raise ValueError(f"path: expected one in {self.folder}, got {path}")
        if not path.exists():
            raise ValueError(f"path: {path} does not exist")
        self._note({"saved": path.name, "step": int(step)})

    def mark_healthy(self, step: int) -> None:
        """Says that the run was healthy at the checkpoint of this step.

        Raises:
            ValueError: If no checkpoint of that step was announced.
        """
        names = [name for name, saved in self._saved.items() if saved == step]
        if not names:
            raise ValueError(f"step: no checkpoint of step {step} was announced by saved()")
        self._note({"healthy": names[-1]})

    def prune(self) -> list[Path]:
        """Deletes what is neither among the newest nor the last healthy one.

        What a kill left half written, under a hidden name, goes as well.

        Returns:
            What was deleted.
        """
        names = self._present()
        safe = {*names[-self.keep :], self.healthy and self.healthy.name}
        doomed = [self.folder / name for name in names if name not in safe]
        if names:
            newest = (self.folder / names[-1]).stat().st_mtime_ns
            halves = [p for p in self.folder.glob(".*.tmp") if p.stat().st_mtime_ns < newest]
            doomed += halves
        for path in doomed:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return doomed

    def _present(self) -> list[str]:
        """Names of the checkpoints that are there, by step and then by the order of saving."""
        names = [name for name in self._saved if (self.folder / name).exists()]
        return sorted(names, key=lambda name: self._saved[name])

    def _note(self, record: Mapping[str, Any]) -> None:
        append_line(self._notes, record)
        self._take(record)

    def _take(self, record: Any) -> None:
        if not isinstance(record, Mapping):
            return
        saved, step, healthy = record.get("saved"), record.get("step"), record.get("healthy")
        if isinstance(saved, str) and isinstance(step, int) and saved == Path(saved).name:
            self._saved.pop(saved, None)
            self._saved[saved] = step
            self._healthy.discard(saved)
        if isinstance(healthy, str):
            self._healthy.add(healthy)


def temporary(path: Path) -> Path:
    """Where a checkpoint stands until it is complete."""
    return path.with_name(f".{path.name}.tmp")


def _spec(safetensors: Any, packed: Packed) -> Any:
    native = packed.dtype in _NATIVE
    return safetensors.TensorSpec(
        dtype=packed.dtype if native else "uint8",
        shape=list(packed.shape) if native else [packed.data.nbytes],
        data_ptr=packed.data.ctypes.data,
        data_len=packed.data.nbytes,
    )


def _check(text: str) -> str:
    return _core.fingerprint([np.frombuffer(text.encode(), dtype=np.uint8)])


def _open(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.uint8]]]:
    """What the header says, and the bytes of each tensor, still on the disk.

    The format: 8 bytes for the length of the header, the header in JSON, the data.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size - 8:
                # TRY301: told with the path below.
                raise ValueError("the header is cut short")  # noqa: TRY301
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__")
        text = metadata["gyrostat"]
        if _check(text) != metadata["fingerprint"]:
            raise ValueError("the header is damaged")  # noqa: TRY301 - told with the path below
        notes = json.loads(text)
        if notes["version"] != _VERSION:
            # TRY301: told with the path below.
            raise ValueError(f"version {notes['version']} is not known")  # noqa: TRY301
        start = 8 + length
        whole = np.memmap(path, dtype=np.uint8, mode="r") if size > start else np.zeros(size, "u1")
        data = {}
        for name, entry in header.items():
            first, end = entry["data_offsets"]
            if not 0 <= first <= end <= size - start:
                raise ValueError(f"{name} is cut short")  # noqa: TRY301 - told with the path below
            data[name] = np.asarray(whole[start + first : start + end])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"path: {path} is no complete checkpoint: {error}") from error
    return notes, data


def _checked(
    path: Path, name: str, notes: Mapping[str, Any], data: Mapping[str, NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    if name not in data or name not in notes["fingerprints"]:
        raise ValueError(f"path: {path} lacks {name}")
    if _core.fingerprint([data[name]]) != notes["fingerprints"][name]:
        raise ValueError(f"path: {path} is damaged in {name}")
    return data[name]


def _verify(path: Path) -> None:
    notes, data = _open(path)
    for name in notes["fingerprints"]:
        _checked(path, name, notes, data)


def _meta(path: Path) -> Mapping[str, Any]:
    found = json.loads((path / META_FILE).read_text("utf-8")) if path.is_dir() else _open(path)[0]
    meta = found["meta"] if isinstance(found, dict) and "meta" in found else None
    if not isinstance(meta, dict):
        raise ValueError(f"path: {path} has no meta")
    return meta


def _drop_from_cache(path: Path) -> None:
    """Has the next read come from the disk, where the system can do that."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
