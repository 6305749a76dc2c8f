"""Splits from files: parquet, csv and jsonl through pyarrow, plain text line by line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

__all__ = ["read_split"]


def read_split(path: str | os.PathLike[str]) -> Any:
    """Reads one file of rows.

    Args:
        path: A ``.parquet``, ``.csv``, ``.jsonl`` or ``.txt`` file.

    Returns:
        A ``pyarrow.Table``; for ``.txt`` the list of its lines.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If its ending is another, or it does not hold what its ending says.
        ImportError: If pyarrow is needed and not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return path.read_text(encoding="utf-8").splitlines()
    if suffix not in (".parquet", ".csv", ".jsonl"):
        raise ValueError(f"path: expected .parquet, .csv, .jsonl or .txt, got {path.name!r}")
    try:
        import pyarrow as pa
        from pyarrow import csv, json, parquet
    except ImportError as error:
        raise ImportError(
            f"reading {suffix} needs pyarrow: pip install 'gyrostat[pyarrow]'"
        ) from error
    readers = {".parquet": parquet.read_table, ".csv": csv.read_csv, ".jsonl": json.read_json}
    try:
        return readers[suffix](path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"path: {path.name} is not a valid {suffix} file: {error}") from error
