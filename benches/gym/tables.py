"""The tables of the bench, as Markdown: one function each."""

import inspect
import math

import numpy as np

from gym import scoring
from gym.contestants import COSTS
from gym.evaluation import COMPETING, Run
from gym.faults import CLEAN, FAULTS
from machine import described
from timing import markdown


def machine():
    """What ran where."""
    return described(sorted({e.package for e in COMPETING.values() if e.package})) + "\n"


class Account:
    """All results, and the clean runs that they are measured by: those of nobody."""

    def __init__(self, field, everything, results):
        self.field, self.results = field, results
        self.clean = [run for run in everything if run.fault == CLEAN.name]
        self.faulty = [run for run in everything if run.fault != CLEAN.name]
        self.recoverable = [run for run in self.faulty if FAULTS[run.fault].recoverable]
        self.harmful = [run for run in self.recoverable if not self.recovered("none", run)]

    def ratio(self, name, run):
        """The loss at the end over that of the clean run of the same seed."""
        clean = self.results["none"][Run(run.task, CLEAN.name, run.seed)]
        return self.results[name][run].loss / clean.loss

    def recovered(self, name, run):
        return self.ratio(name, run) <= scoring.WITHIN

    def table(self, head, figures):
        """A row for each contestant: its figures, or why it has none."""
        rows = []
        for name in self.field.names:
            reason = self.field.missing.get(name)
            row = [f"cannot run: {reason}"] if reason else figures(name)
            rows.append([name, *row] + [""] * (len(head) - len(row)))
        return markdown(["what", *head], rows)


def share(count, total):
    if not total:
        return ""
    low, high = scoring.wilson(count, total)
    return f"{count} of {total}, {count / total:.3f} ({low:.3f} to {high:.3f})"


def totals(account):
    """Who brings runs through, and at what price."""

    def figures(name):
        results = account.results[name]
        disturbed = sum(bool(results[run].actions) for run in account.clean)
        ratios = [account.ratio(name, run) for run in account.clean]
        return [
            *(
                share(sum(account.recovered(name, run) for run in runs), len(runs))
                for runs in (account.recoverable, account.harmful)
            ),
            f"{disturbed} of {len(account.clean)}",
            f"{max(ratios):.3f}",
            f"{np.median([results[run].seconds for run in account.clean]):.1f}",
            f"{sum(bool(results[run].error) for run in results)}",
        ]

    head = ["recoverable runs brought through", "of those where none fails"]
    head += ["clean runs acted on", "worst clean ratio", "seconds of a clean run", "errors"]
    title = (
        f"#### Brought through: within {100 * (scoring.WITHIN - 1):.0f} % of the clean run, "
        f"{len(account.recoverable)} of {len(account.faulty)} faulty runs can be\n\n"
    )
    return title + account.table(head, figures)


def costs(clean, results):
    """What recovery costs if nothing is wrong: the worst and the median ratio for each model."""
    names = sorted({run.task for run in clean})
    rows = []
    for name in COSTS:
        row = [name]
        for task in names:
            ratios = [
                results[name][run].loss / results["none"][run].loss
                for run in clean
                if run.task == task
            ]
            row.append(f"{np.median(ratios):.4f}, {max(ratios):.4f}")
        rows.append(row)
    title = "#### What recovery costs by itself: clean runs, median and worst ratio\n\n"
    return title + markdown(["at step 150", *names], rows)


def by_task(account):
    """The same for each model, of the runs that a fault would harm."""
    names = sorted({run.task for run in account.faulty})

    def figures(name):
        row = []
        for task in names:
            runs = [run for run in account.harmful if run.task == task]
            row.append(f"{sum(account.recovered(name, run) for run in runs)} of {len(runs)}")
        return row

    return "#### Harmed runs brought through, by model\n\n" + account.table(names, figures)


def by_fault(account):
    """The median ratio for each fault and contestant, and how many are brought through."""
    names = [name for name in account.field.names if name not in account.field.missing]
    rows = []
    for fault in dict.fromkeys(run.fault for run in account.faulty):
        runs = [run for run in account.faulty if run.fault == fault]
        row = [fault if FAULTS[fault].recoverable else f"{fault} *"]
        for name in names:
            middle = float(np.median([account.ratio(name, run) for run in runs]))
            passed = sum(account.recovered(name, run) for run in runs)
            acted = np.median([sum(account.results[name][run].actions.values()) for run in runs])
            row.append(f"{number(middle)}, {passed}/{len(runs)} ({acted:g}a)")
        rows.append(row)
    title = (
        "#### By fault: median ratio to the clean run, runs within "
        f"{100 * (scoring.WITHIN - 1):.0f} %, median number of actions\n\n"
    )
    note = "\n\\* cannot be recovered from: only the cause can be told.\n"
    return title + markdown(["fault", *names], rows) + note


def number(value):
    return f"{value:.2f}" if value < 100 else f"{value:.0e}" if math.isfinite(value) else "inf"


def causes(account):
    """Whether the true cause is named first or second, and the blame is right."""
    named = [
        name
        for name in account.field.names
        if name in account.results
        and any(result.causes is not None for result in account.results[name].values())
    ]
    blaming = [
        name
        for name in account.field.names
        if name in account.results
        and any(result.blamed for result in account.results[name].values())
    ]
    rows = []
    for name in blaming:
        results = [(run, account.results[name][run]) for run in account.faulty]
        ranks = [scoring.rank(result.causes, FAULTS[run.fault].cause) for run, result in results]
        verdicts = [scoring.blame(result) for _, result in results]
        row = [name]
        for top in (1, 2):
            right = sum(place is not None and place <= top for place in ranks)
            row.append(share(right, len(ranks)) if name in named else "names none")
        for kind in ("layer", "batches", "samples"):
            of_kind = [verdict[kind] for verdict in verdicts if kind in verdict]
            row.append(share(sum(of_kind), len(of_kind)))
        rows.append(row)
    head = ["what", "true cause first", "among two", "layer", "batches", "samples"]
    return "#### Causes and blame, all faulty runs\n\n" + markdown(head, rows)


def causes_by_fault(account, name):
    """For each fault: what is found first, how late, and which cause is named."""
    rows = []
    for fault in dict.fromkeys(run.fault for run in account.faulty):
        results = [account.results[name][run] for run in account.faulty if run.fault == fault]
        firsts = [result.first for result in results if result.first]
        late = [first[0] - result.at for result in results if (first := result.first)]
        ranks = [scoring.rank(result.causes, FAULTS[fault].cause) for result in results]
        verdicts = [scoring.blame(result) for result in results]
        row = [fault, FAULTS[fault].cause, f"{len(firsts)} of {len(results)}"]
        row += [f"{np.median(late):g}" if late else "", most([code for _, code in firsts])]
        row += [f"{sum(place == 1 for place in ranks)} of {len(ranks)}"]
        row += [most([result.causes[0][0] for result in results if result.causes])]
        for kind in ("layer", "batches", "samples"):
            of_kind = [verdict[kind] for verdict in verdicts if kind in verdict]
            row.append(f"{sum(of_kind)} of {len(of_kind)}" if of_kind else "")
        rows.append(row)
    head = ["fault", "true cause", "found", "steps after the fault", "most often as"]
    head += ["cause right", "most often named", "layer", "batches", "samples"]
    return f"#### What {name} says of each fault\n\n" + markdown(head, rows)


def most(words):
    return max(dict.fromkeys(words), key=words.count) if words else ""


def catalogue(names):
    """What goes wrong, its cause, and whether it can be recovered from."""
    rows = []
    for name in names:
        fault = FAULTS[name]
        words = inspect.getdoc(fault).rstrip(".")
        rows.append([name, words, fault.cause, "yes" if fault.recoverable else "no"])
    head = ["fault", "what happens", "true cause", "recoverable"]
    return f"#### The {len(names)} faults\n\n" + markdown(head, rows)
