"""The command line: ``gyrostat demo | audit | leakage | info``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import gyrostat
from gyrostat import _core
from gyrostat.report import Report

__all__ = ["main"]

_EXTRAS = ("torch", "pandas", "polars", "pyarrow")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments; None takes those of the process.

    Returns:
        0 if nothing was found, 1 if there are findings, 2 if the command could not run.
    """
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"gyrostat: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gyrostat",
        description="Keeps deep-learning training steady.",
        epilog="Exit status: 0 clean, 1 findings, 2 error.",
    )
    parser.add_argument("--version", action="version", version=gyrostat.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="fault, detection, blame, recovery, leakage, report")
    demo.add_argument("--out", default="demo-report.html", help="where the HTML report goes")
    demo.add_argument("--framework", choices=("auto", "numpy", "torch"), default="auto")
    demo.set_defaults(run=_demo)

    audit = commands.add_parser("audit", help="find what went wrong in finished runs")
    audit.add_argument("paths", nargs="+", metavar="PATH", help="log file or folder of a run")
    _add_outputs(audit)
    audit.set_defaults(run=_audit)

    leakage = commands.add_parser("leakage", help="find rows that are in more than one split")
    leakage.add_argument(
        "paths", nargs="+", metavar="FILE", help="train first: .parquet .csv .jsonl .txt"
    )
    leakage.add_argument("--text", metavar="COL", help="column of texts; without it, whole rows")
    leakage.add_argument("--label", metavar="COL", help="column of labels")
    leakage.add_argument("--group", metavar="COL", help="column of groups")
    leakage.add_argument("--time", metavar="COL", help="column of times")
    leakage.add_argument("--near", type=float, default=0.8, help="least Jaccard similarity")
    leakage.add_argument("--within", action="store_true", help="pairs inside one split count too")
    leakage.add_argument("--exact", action="store_true", help="miss no near duplicate of texts")
    leakage.add_argument("--baseline", metavar="FILE", help="pairs that were accepted before")
    leakage.add_argument("--accept", metavar="FILE", help="write all pairs there as accepted")
    _add_outputs(leakage)
    leakage.set_defaults(run=_leakage)

    info = commands.add_parser("info", help="versions, CPU, threads, extras")
    info.set_defaults(run=_info)
    return parser


def _add_outputs(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    command.add_argument("--html", metavar="OUT", help="write the report as one HTML page")
    command.add_argument("--sarif", metavar="OUT", help="write the findings for code review")


def _demo(args: argparse.Namespace) -> int:
    from gyrostat.demo import run_demo

    run_demo(args.out, args.framework)
    return 0


def _audit(args: argparse.Namespace) -> int:
    for option in ("html", "sarif"):
        if getattr(args, option) and len(args.paths) > 1:
            raise ValueError(f"--{option}: expected one PATH with it")
    reports = [gyrostat.audit(path) for path in args.paths]
    return _show(reports, args, {"": Path(args.paths[0]).as_posix()})


def _leakage(args: argparse.Namespace) -> int:
    from gyrostat.leakage.files import read_split

    splits, places = {}, {}
    for path in map(Path, args.paths):
        # Files of one name in different folders are told apart by the folder.
        name = path.stem if path.stem not in splits else str(path)
        splits[name] = read_split(path)
        places[name] = path.as_posix()
    report = gyrostat.check_leakage(
        splits,
        text=args.text,
        label=args.label,
        group=args.group,
        time=args.time,
        near=args.near,
        within=args.within,
        exact=args.exact,
        baseline=args.baseline,
    )
    if args.accept:
        report.save_baseline(args.accept)
    return _show([report], args, places)


def _info(_args: argparse.Namespace) -> int:
    build = _core.build_info()
    print(f"gyrostat {build['version']} ({build['profile']}, {build['target']})")
    print(f"python   {sys.version.split()[0]}")
    print(f"kernel   {build['kernel']}")
    print(f"threads  {build['threads']}")
    for extra in _EXTRAS:
        there = importlib.util.find_spec(extra) is not None
        print(f"{extra:8s} {'installed' if there else 'not installed'}")
    return 0


def _show(reports: Sequence[Report], args: argparse.Namespace, places: Mapping[str, str]) -> int:
    if args.json:
        shown = [report.to_dict() for report in reports]
        print(json.dumps(shown[0] if len(shown) == 1 else shown, allow_nan=False, indent=1))
    else:
        print("\n\n".join(map(str, reports)))
    if args.html:
        path = reports[0].save(args.html)
        print(f"report: {path.resolve()}", file=sys.stderr)
    if args.sarif:
        text = json.dumps(reports[0].to_sarif(places), allow_nan=False, indent=1)
        Path(args.sarif).write_text(text, encoding="utf-8")
    return max(report.exit_code for report in reports)
