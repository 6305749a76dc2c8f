"""Runs with a known fault: who brings them through, who names the cause.

Usage: ``make bench-gym``, which also writes the results into ``benches/README.md``, or
``PYTHONPATH=benches uv run --extra torch --group bench-gym python -m gym --models mlp --seeds 1``.

Prints Markdown.
"""

import argparse
import os
from pathlib import Path

from gym import contestants, evaluation, ours, tables
from gym.faults import FAULTS
from gym.tasks import TASKS

README = Path(__file__).resolve().parents[1] / "README.md"
START, END = "<!-- results of bench-gym -->", "<!-- end of results of bench-gym -->"


def names_of(known):
    """Reads a list with commas of what is known."""

    def names(text):
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            message = f"unknown: {', '.join(unknown)}; there are {', '.join(known)}"
            raise argparse.ArgumentTypeError(message)
        return chosen

    return names


def main():
    parser = argparse.ArgumentParser(prog="gym", description=__doc__.partition("\n")[0])
    for option, known in (
        ("--models", TASKS),
        ("--faults", FAULTS),
        ("--contestants", evaluation.COMPETING),
    ):
        parser.add_argument(option, type=names_of(known), default=list(known), metavar="A,B")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each fault and model")
    parser.add_argument(
        "--clean-seeds", type=int, default=evaluation.CLEAN_SEEDS, help="clean runs of each model"
    )
    parser.add_argument("--write", action="store_true", help="into benches/README.md")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    count = (
        f"{args.seeds} seeds of each fault and model, {args.clean_seeds} clean runs of each model"
    )
    sections = [
        f"{tables.machine()}\n{count}.\n",
        *judge(
            args.models, args.faults, args.contestants, args.seeds, args.clean_seeds, args.workers
        ),
    ]
    print("\n".join(sections))
    if args.write:
        write(sections)


def judge(models, faults, names, seeds, clean_seeds, workers, cache=evaluation.CACHE):
    """The tables of these models, faults and contestants."""
    # Nobody's clean runs are what the others are measured by.
    field = evaluation.Field(list(dict.fromkeys(["none", *names])), workers, cache)
    everything = evaluation.plan(models, faults, seeds, clean_seeds)
    account = tables.Account(field, everything, field.train(everything))
    recovery = evaluation.Field(["none", *contestants.COSTS], workers, cache)
    clean = evaluation.plan(models, [], seeds, seeds)
    sections = [tables.catalogue(faults), tables.costs(clean, recovery.train(clean))]
    sections += [table(account) for table in (tables.totals, tables.by_task, tables.by_fault)]
    if ours.OURS in account.results:
        sections += [tables.causes(account), tables.causes_by_fault(account, ours.OURS)]
    return sections


def write(sections):
    """Replaces the results in ``benches/README.md``."""
    before, _, rest = README.read_text().partition(START)
    _, _, after = rest.partition(END)
    README.write_text("\n".join([before + START + "\n", *sections, END + after]))


if __name__ == "__main__":
    main()
