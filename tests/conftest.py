"""Fixtures shared by the tests."""

import os
from pathlib import Path

import hypothesis
import pytest

# Machines that others use at the same time stall now and then.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of labelled runs and data sets beside the checkout, where there is one."""
    path = Path(os.environ.get("GYROSTAT_SHARED", ROOT.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip("needs the shared data beside the checkout")
    return path
