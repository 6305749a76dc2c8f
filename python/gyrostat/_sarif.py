"""SARIF: a report in the form that code-review tools read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gyrostat import _core
from gyrostat.findings import CATALOGUE, Finding, Severity, plain

__all__ = ["sarif"]

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Severity.INFO: "note", Severity.WARNING: "warning", Severity.CRITICAL: "error"}


def sarif(findings: Sequence[Finding], places: Mapping[str, str]) -> dict[str, Any]:
    """The findings as one run of SARIF 2.1.0 (OASIS, 2020).

    Args:
        findings: In the order in which they are told.
        places: The file of each split, and under "" that of what is of no split.
    """
    codes = list(dict.fromkeys(finding.code for finding in findings))
    rules = [
        {
            "id": code,
            "shortDescription": {"text": CATALOGUE[code].title},
            "help": {"text": CATALOGUE[code].advice},
            "defaultConfiguration": {"level": _LEVELS[CATALOGUE[code].severity]},
        }
        for code in codes
    ]
    driver = {
        "name": "gyrostat",
        "version": _core.build_info()["version"],
        "rules": rules,
    }
    results = [_result(finding, codes.index(finding.code), places) for finding in findings]
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "unicodeCodePoints"}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(finding: Finding, index: int, places: Mapping[str, str]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": _LEVELS[finding.severity],
        "message": {"text": finding.message or CATALOGUE[finding.code].title},
        "properties": plain(finding.evidence),
    }
    where = _locations(finding, places)
    if where:
        result["locations"] = where[:1]
    if where[1:]:
        result["relatedLocations"] = where[1:]
    return result


def _locations(finding: Finding, places: Mapping[str, str]) -> list[dict[str, Any]]:
    """Where it is seen first: in the later split, then in the earlier one; or at a step."""
    evidence = finding.evidence
    named = [
        (str(evidence[side]), f"{side}_row") for side in ("right", "left") if side in evidence
    ] or [(str(evidence[side]), "") for side in ("later", "earlier") if side in evidence]
    examples = evidence.get("examples")
    first = examples[0] if isinstance(examples, list) and examples else None
    rows = first if isinstance(first, Mapping) else {}
    if not named:
        parts = [part for part in (finding.signal, str(finding.culprit)) if part]
        at = [] if finding.step is None else [f"step {finding.step}"]
        name = ", ".join([*parts, *at])
        return [_location(name, places.get(""))] if name else []
    return [
        _location(f"{split} row {rows[key]}" if key in rows else split, places.get(split))
        for split, key in dict(named).items()
    ]


def _location(name: str, path: str | None) -> dict[str, Any]:
    location: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": name}]}
    if path is not None:
        # Rows are told by the logical name: which line of a file a row is on, its format decides.
        location["physicalLocation"] = {
            "artifactLocation": {"uri": path},
            "region": {"startLine": 1},
        }
    return location
