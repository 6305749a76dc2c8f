"""Near duplicates at Jaccard 0.8 in two corpora: ours beside the peers.

Usage: ``make bench-leakage``, which also writes the results into ``benches/README.md``, or
``PYTHONPATH=benches uv run --group bench-leakage python -m leakage --corpora short --repeats 1``.

Every turn is a process of its own with one thread. Prints Markdown.
"""

import argparse
import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from leakage import corpora, truth
from leakage.contestants import CONTESTANTS, PACKAGES, Clock
from machine import described

README = Path(__file__).resolve().parents[1] / "README.md"
START, END = "<!-- results of bench-leakage -->", "<!-- end of results of bench-leakage -->"
ONE_THREAD = dict.fromkeys(
    ("GYROSTAT_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
)


def megabytes(field):
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", status)[1]) / 1024


def turn(name, corpus):
    """One contestant on one corpus, in this process: a line of JSON."""
    contestant = CONTESTANTS[name]
    texts = corpora.read(corpus)
    if not hasattr(contestant, "arrow"):
        texts = texts.to_pylist()
    gc.collect()
    before = megabytes("VmRSS")
    clock = Clock()
    pairs = contestant(texts, clock)
    result = {"steps": clock.steps, "memory": megabytes("VmHWM") - before}
    if pairs is not None:
        exact = truth.pairs(corpus, getattr(contestant, "unit", "spaced"))
        right = np.isin(pairs, exact, assume_unique=True).sum()
        result |= {"precision": right / max(1, len(pairs)), "recall": right / len(exact)}
    print(json.dumps(result))


def race(names, corpus, repeats):
    """The fastest turn of each contestant; each repeat gives every one of them a turn."""
    for unit in {getattr(CONTESTANTS[name], "unit", "spaced") for name in names}:
        truth.pairs(corpus, unit)
    best = {}
    for _ in range(repeats):
        for name in names:
            done = subprocess.run(
                [sys.executable, "-m", "leakage", "--turn", name, corpus],
                env={**os.environ, **ONE_THREAD},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                best[name] = {"error": (done.stderr.strip().splitlines() or ["killed"])[-1]}
                continue
            result = json.loads(done.stdout.splitlines()[-1])
            known = best.setdefault(name, result)
            for step, seconds in result["steps"].items():
                known["steps"][step] = min(known["steps"][step], seconds)
            known["memory"] = min(known["memory"], result["memory"])
    return best


def table(corpus, results):
    """Rates, correctness and memory of every contestant on a corpus."""
    texts = corpora.read(corpus)
    size = sum(len(text.as_py().encode()) for text in texts) / 1e6
    head = f"### {corpus}: {len(texts):,} documents, {size:,.0f} MB\n"
    columns = (
        "contestant",
        "docs/CPU-s",
        "times rensa",
        "times datasketch",
        "text to signature, MB/s",
        "precision",
        "pair recall",
        "memory above the corpus, GB",
    )
    rows = []
    # Ours is one step; the signatures are made once more, to time them alone.
    whole = {
        name: result["steps"].get("all") or sum(result["steps"].values())
        for name, result in results.items()
        if "error" not in result
    }
    for name, result in results.items():
        if "error" in result:
            rows.append([name, result["error"], *[""] * 6])
            continue
        beside = [
            f"{whole[peer] / whole[name]:.1f}" if peer in whole else ""
            for peer in ("rensa", "datasketch")
        ]
        exact = [f"{result[f]:.5f}" if f in result else "" for f in ("precision", "recall")]
        rate = f"{len(texts) / whole[name]:,.0f}"
        signature = f"{size / result['steps']['signature']:.0f}"
        rows.append([name, rate, *beside, signature, *exact, f"{result['memory'] / 1024:.2f}"])
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return head + "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main():
    parser = argparse.ArgumentParser(prog="leakage", description=__doc__.partition("\n")[0])
    parser.add_argument("--corpora", default=",".join(corpora.CORPORA), metavar="A,B")
    parser.add_argument("--contestants", default=";".join(CONTESTANTS), metavar="A;B")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="into benches/README.md")
    parser.add_argument("--turn", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.turn:
        turn(*args.turn)
        return
    names = args.contestants.split(";")
    sections = [f"{described(PACKAGES)}; one thread, fastest of {args.repeats} turns.\n"]
    raced = args.corpora.split(",")
    sections += [table(corpus, race(names, corpus, args.repeats)) for corpus in raced]
    print("\n".join(sections))
    if args.write:
        before, _, rest = README.read_text().partition(START)
        _, _, after = rest.partition(END)
        README.write_text("\n".join([before + START + "\n", *sections, END + after]))


if __name__ == "__main__":
    main()
