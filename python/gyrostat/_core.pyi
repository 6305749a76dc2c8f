"""The Rust core. Private: use the names that ``gyrostat`` exports."""

from typing import TypedDict

__all__ = ["BuildInfo", "build_info"]

class BuildInfo(TypedDict):
    version: str
    profile: str
    target: str
    threads: int

def build_info() -> BuildInfo: ...
