"""What a bench ran on."""

import importlib.metadata
import platform
from pathlib import Path


def described(packages):
    """The processor, Python and the versions of these packages."""
    named = [f"{name} {version(name)}" for name in packages]
    return ", ".join([processor(), f"Python {platform.python_version()}", *named])


def processor():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
