"""The tables of ``tensors.py``: one function each."""

import time

import torch

import gpt2
import gyrostat
import peers
from gyrostat import _core
from gyrostat.integrations.torch import clip_grad_norm_
from machine import described
from timing import Contender, Race, exact_norm, markdown

LEVELS = ("norm", "moments", "full")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
OURS, THEIRS = "gyrostat", "torch"


def machine(_args):
    """What ran where."""
    build = ", ".join(f"{key} {value}" for key, value in _core.build_info().items())
    print(described(("numpy", "torch", "wandb", "tensorboard")), f"gyrostat ({build})\n", sep=", ")


def levels(tensors, names=LEVELS):
    """Our records; a table of them knows the norm of all."""

    def at(level):
        return lambda: gyrostat.summarize_all(tensors, level=level)

    return {f"{OURS}, level {n}": Contender(at(n), lambda table: table.total.l2) for n in names}


def norms(tensors):
    return {
        f"{OURS} total_norm": Contender(lambda: gyrostat.total_norm(tensors), float),
        f"{THEIRS} get_total_norm": Contender(
            lambda: torch.nn.utils.get_total_norm(tensors), torch.Tensor.item
        ),
    }


def clips(tensors, norm):
    """Clipping to half of the norm, of gradients that are put back after each turn."""
    parameters = [torch.nn.Parameter(torch.empty_like(t)) for t in tensors]
    gradients = [t.clone() for t in tensors]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient

    def clip(function):
        return Contender(
            lambda: function(parameters, norm / 2),
            torch.Tensor.item,
            after=lambda: torch._foreach_copy_(gradients, tensors),
        )

    return {
        f"{OURS} clip_grad_norm_": clip(clip_grad_norm_),
        f"{THEIRS} clip_grad_norm_": clip(torch.nn.utils.clip_grad_norm_),
    }


def side_by_side(args):
    """Ours and the peers on the gradients of GPT-2 small; on several threads without the slow."""
    cells, columns, notes = {}, [], []
    for kind, dtype in DTYPES.items():
        tensors = gpt2.tensors(gpt2.normal, dtype, quick=args.quick)
        exact = exact_norm(tensors)
        wanted = {**levels(tensors), **norms(tensors), **clips(tensors, exact)}
        if args.threads == 1:
            wanted |= peers.contenders(tensors)
        contenders = {n: c for n, c in wanted.items() if isinstance(c, Contender)}
        clock = time.thread_time if args.threads == 1 else time.perf_counter
        race = Race(tensors, contenders, clock, args.repeats, args.threads)
        columns += [f"{kind} ms", "reads", "error of norm"]
        notes.append(f"{kind}: the plain read is {race.read}")
        for name in ["plain read", *wanted]:
            row = cells.setdefault(name, [])
            if isinstance(wanted.get(name), str):
                row += [wanted[name], "", ""]
                continue
            timed = race.read if name == "plain read" else name
            norm = race.timings[timed].norm
            error = "" if norm is None else f"{norm / exact - 1:.0e}"
            row += [f"{1e3 * race.seconds(timed):.1f}", f"{race.in_reads(timed):.2f}", error]
    clock = "thread-CPU time" if args.threads == 1 else f"wall time, {args.threads} threads"
    print(f"### Gradients of GPT-2 small, {clock}, fastest of {args.repeats} turns\n")
    print(markdown(["what", *columns], [[name, *row] for name, row in cells.items()]))
    print("; ".join(notes), "\n")


def small(args):
    """What a call costs besides the reading."""
    rows = {}
    for dtype in DTYPES.values():
        tensors = [gpt2.normal(64).to(dtype) for _ in range(148)]
        contenders = {**levels(tensors), **norms(tensors)}
        contenders["torch norm().item() of each"] = peers.each(tensors, lambda x: x.norm().item())
        race = Race(tensors, contenders, time.perf_counter, 100 * args.repeats)
        for name in contenders:
            rows.setdefault(name, [name]).append(f"{1e6 * race.seconds(name):.1f}")
    print("### 148 tensors of 64 values, wall time of the whole call\n")
    print(markdown(["what", *(f"{kind} us" for kind in DTYPES)], rows.values()))


def worst(args):
    """Level full where the data are against it."""
    data = {"5 % NaN": gpt2.holed, "subnormal": gpt2.subnormal, "200 octaves": gpt2.wide}
    rows = []
    for name, values in data.items():
        row = [name]
        for dtype in DTYPES.values():
            tensors = gpt2.tensors(values, dtype, quick=args.quick)
            race = Race(tensors, levels(tensors, ["full"]), time.thread_time, args.repeats)
            row.append(f"{race.in_reads(f'{OURS}, level full'):.2f}")
        rows.append(row)
    print("### Level full on the worst data, in plain reads, thread-CPU time\n")
    print(markdown(["GPT-2 small, all values", *DTYPES], rows))


def kernel_row(args):
    """The levels with the kernel that the environment asks for: a row for :func:`kernel_head`."""
    row = []
    for dtype in DTYPES.values():
        tensors = gpt2.tensors(gpt2.normal, dtype, quick=args.quick)
        race = Race(tensors, levels(tensors), time.thread_time, args.repeats)
        row += [f"{race.in_reads(f'{OURS}, level {level}'):.2f}" for level in LEVELS]
    print(f"| {_core.build_info()['kernel']} | {' | '.join(row)} |", flush=True)


def kernel_head(_args):
    print("### The levels with every kernel, in plain reads, thread-CPU time\n")
    head = [f"{kind} {level}" for kind in DTYPES for level in LEVELS]
    print(markdown(["kernel", *head], []), end="")
