"""The package as a whole: import, build, threads, fork."""

import importlib
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import gyrostat
from gyrostat import _core


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_public_name_is_there_and_documented():
    for name in gyrostat.__all__:
        value = getattr(gyrostat, name)
        assert name == "__version__" or value.__doc__


def test_inside_the_package_only_the_core_is_imported_from_its_top():
    for path in Path(gyrostat.__file__).parent.rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.match(r"\s*(from gyrostat import|import gyrostat$)", line):
                from_above = path.name == "cli.py" and line == "import gyrostat"
                assert from_above or line == "from gyrostat import _core", f"{path}: {line}"


def test_importing_loads_no_framework_and_is_fast():
    code = (
        "import sys, time; import numpy; t = time.perf_counter(); import gyrostat;"
        "took = time.perf_counter() - t;"
        "heavy = {'torch', 'pandas', 'polars', 'pyarrow', 'matplotlib'} & set(sys.modules);"
        "print(sorted(heavy), took)"
    )
    runs = [run_python(code) for _ in range(3)]
    assert all(r.stdout.startswith("[]") for r in runs), runs[0].stderr
    assert min(float(r.stdout.split()[1]) for r in runs) < 0.2


def test_a_debug_build_warns(monkeypatch):
    info = {**_core.build_info(), "profile": "debug"}
    monkeypatch.setattr(_core, "build_info", lambda: info)
    with pytest.warns(RuntimeWarning, match="without optimisation"):
        importlib.reload(gyrostat)


def test_a_release_build_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(gyrostat)


@pytest.mark.parametrize("threads", ["1", "3"])
def test_the_number_of_threads_is_honoured(threads):
    code = "from gyrostat import _core; print(_core.build_info()['threads'])"
    assert run_python(code, GYROSTAT_NUM_THREADS=threads).stdout.strip() == threads


@pytest.mark.parametrize("threads", ["0", "-1", "many", ""])
def test_a_malformed_number_of_threads_is_told_at_import(threads):
    done = run_python("import gyrostat", GYROSTAT_NUM_THREADS=threads)
    assert done.returncode != 0
    assert "GYROSTAT_NUM_THREADS: expected a positive integer" in done.stderr


FORK = """
import os, numpy as np, gyrostat
x = np.ones(4_000_000, dtype=np.float32)   # enough work for the pool
before = gyrostat.summarize(x).l2
child = os.fork()
if child == 0:
    os._exit(0 if gyrostat.summarize(x).l2 == before else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
def test_a_forked_child_does_not_wait_for_the_parents_threads():
    assert run_python(FORK, GYROSTAT_NUM_THREADS="4").stdout.strip() == "0"


class Summarised(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> float:
        return gyrostat.summarize(np.full(1_000_000, index, dtype=np.float32)).mean


def test_dataloader_workers_can_use_the_kernels():
    gyrostat.summarize(np.ones(4_000_000, dtype=np.float32))  # the pool exists before the fork
    start = time.monotonic()
    loader = DataLoader(Summarised(), num_workers=2, multiprocessing_context="fork", timeout=60)
    assert torch.cat(list(loader)).tolist() == list(range(8))
    assert time.monotonic() - start < 60
