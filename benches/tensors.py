"""Gyrostat's tensor statistics beside what others offer, on the gradients of GPT-2 small.

Usage: ``make bench-tensors``, or without criterion's benches
``uv run --extra torch --group bench python benches/tensors.py [--quick] [--repeats N]``.
``--threads N`` prints the first table alone, on N threads and in wall time.

Prints Markdown. Each table is timed in a process of its own, its contenders by turns; a figure is
the fastest of several turns, most of them in multiples of one plain read of the same memory.
"""

import argparse
import os
import subprocess
import sys

KERNELS = ("portable", "avx2", "avx512", "avx512-vbmi")
# Libraries read these once, when they are loaded: a table needs a process where they are set.
THREADS = ("GYROSTAT_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
TABLES = ("machine", "side_by_side", "small", "worst", "kernel_head", "kernel_row")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the values")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each contender")
    parser.add_argument("--threads", type=int, default=1, help="only the first table, on so many")
    parser.add_argument("--table", choices=TABLES, help="only this one")
    args = parser.parse_args()
    ready = all(os.environ.get(name) == str(args.threads) for name in THREADS)
    if args.table and ready:
        import tables

        getattr(tables, args.table)(args)
    elif args.table:
        run(args.table, args)
    elif args.threads > 1:
        run("side_by_side", args)
    else:
        for table in ("machine", "side_by_side"):
            run(table, args)
        run("side_by_side", args, threads=2)
        for table in ("small", "worst", "kernel_head"):
            run(table, args)
        for kernel in KERNELS:
            run("kernel_row", args, GYROSTAT_FORCE_KERNEL=kernel)


def run(table, args, *, threads=None, **environment):
    """Prints a table in a process with this many threads and these variables."""
    count = str(threads or args.threads)
    environment |= dict.fromkeys(THREADS, count)
    words = ["--table", table, "--repeats", str(args.repeats), "--threads", count]
    words += ["--quick"] * args.quick
    done = subprocess.run(
        [sys.executable, __file__, *words],
        env={**os.environ, "WANDB_SILENT": "true", **environment},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if "GYROSTAT_FORCE_KERNEL: expected" in done.stderr:
        print(f"| {environment['GYROSTAT_FORCE_KERNEL']} | not on this processor |", flush=True)
    elif done.returncode:
        sys.exit(done.stderr)


if __name__ == "__main__":
    main()
