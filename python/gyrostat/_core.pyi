from typing import TypedDict, type_check_only

__all__ = ["build_info"]

@type_check_only
class _BuildInfo(TypedDict):
    version: str
    profile: str
    target: str
    threads: int

def build_info() -> _BuildInfo: ...
