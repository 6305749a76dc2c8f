"""Runs of the Hugging Face Trainer: ``trainer_state.json``."""

from __future__ import annotations

import json
from pathlib import Path

from gyrostat.runlogs.jsonl_log import flat, read_jsonl
from gyrostat.runlogs.table import LogTable, RunLog

__all__ = ["read_trainer_state"]


def read_trainer_state(text: str, path: Path) -> RunLog:
    """Reads the history of a Trainer; a file of JSON lines under such a name is read as that.

    Rows of training, of evaluation and the summary at the end stand in one list. NaN stands bare.

    Args:
        text: The whole file.
        path: Where it comes from.

    Raises:
        ValueError: If it is not such a file, or has no loss.
    """
    try:
        state = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"path: {path} is nested too deeply") from error
    except ValueError as error:
        try:
            return read_jsonl(text.splitlines(keepends=True), path)
        except ValueError:
            raise ValueError(f"path: {path} is not a JSON file, or cut off: {error}") from error
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list):
        raise ValueError(f"path: {path} has no list 'log_history', as trainer_state.json has")
    table, notes = LogTable(), []
    records = [entry for entry in history if isinstance(entry, dict)]
    for record in records:
        table.add(flat(record))
    if foreign := len(history) - len(records):
        notes.append(f"{foreign:,} entries of the history are not objects and left out")
    return table.run_log(path, "trainer_state", notes)
