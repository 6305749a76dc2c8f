"""The tables of the bench, as Markdown: one function each."""

import math
import time

import numpy as np

import gyrostat
from machine import described
from spikes import injections, scoring
from spikes.contestants import ENTRIES
from timing import markdown

BUDGETS = (0.1, 0.3, 1.0, 3.0, 10.0)


def machine():
    """What ran where."""
    packages = sorted({entry.package for entry in ENTRIES.values() if entry.package})
    return described([*packages, "torch", "numpy"]) + "\n"


def table(field, head, figures):
    """A row for each contestant: its figures, or why it has none."""
    rows = []
    for name in field.names:
        reason = field.missing.get(name)
        row = [f"cannot run: {reason}"] if reason else figures(name)
        rows.append([name, *row] + [""] * (len(head) - len(row)))
    return markdown(["what", *head], rows)


def labelled(field, runs, verdicts):
    """The score on the labelled runs, and that of the halves."""
    halves = []
    for half in (True, False):
        part = [run for run in runs if run.tuned_on == half]
        events = sum(label.is_event for run in part for label in run.labels)
        halves.append(f"{len(part)} runs and {events} events")

    def figures(name):
        judged = [run for run in runs if run.name in verdicts[name]]
        scores = {
            run.name: scoring.score(verdicts[name][run.name].alarms, run.labels, len(run.loss))
            for run in judged
        }
        total = sum(scores.values(), scoring.Score())
        half = {
            tuned: sum((scores[r.name] for r in judged if r.tuned_on == tuned), scoring.Score())
            for tuned in (True, False)
        }
        seconds = sum(verdicts[name][run.name].seconds for run in judged)
        return [
            f"{len(judged)}",
            f"{total.found} of {total.events}",
            f"{total.recall:.3f}",
            f"{total.false}",
            f"{1e4 * total.false / total.points:.2f}",
            f"{total.f1:.3f}",
            *(f"{half[tuned].f1:.3f} ({half[tuned].false})" for tuned in (True, False)),
            f"{total.silent} of {total.clean}",
            f"{total.median_delay:g}" if total.delays else "",
            f"{1e6 * seconds / total.points:.1f}",
        ]

    head = ["runs", "found", "recall", "false", "false per 10k", "F1", "F1 (false), tuned on"]
    head += ["F1 (false), held out", "clean runs silent", "median delay", "us a point"]
    points = sum(len(run.loss) for run in runs)
    title = (
        f"#### {len(runs)} labelled real runs, {points:,} points "
        f"({halves[0]} tuned on, {halves[1]} held out)\n\n"
    )
    return title + table(field, head, figures) + speed(runs) + stopped(field, verdicts)


def speed(runs):
    """How fast whole runs are judged, the fastest of several turns over the longest one."""
    run = max(runs, key=lambda run: len(run.loss))
    times = []
    for _ in range(7):
        start = time.thread_time()
        gyrostat.find_spikes(run.loss, run.grad_norm, run.step)
        times.append(time.thread_time() - start)
    rate = len(run.loss) / min(times) / 1e6
    return f"\n`find_spikes` over a whole run: {rate:.2f} M points/s on one thread.\n"


def stopped(field, verdicts):
    """Who did not come to the end of which runs."""
    lines = []
    for name in field.names:
        judged = verdicts.get(name, {})
        errors = {run: verdict.error for run, verdict in judged.items() if verdict.error}
        if errors:
            lines.append(f"{name} stops in {', '.join(errors)}: {next(iter(errors.values()))}.")
        if ENTRIES[name].longest < math.inf and name not in field.missing:
            points = f"{ENTRIES[name].longest:,} points"
            lines.append(f"{name} is too slow for runs of more than {points}.")
    return "".join(f"\n{line}\n" for line in lines)


def injected(field, runs, cases, verdicts, faulty, healthy):
    """What becomes of faults put into healthy losses, and the price in alarms without a fault."""

    def figures(name):
        judged = [run for run in runs if run.name in verdicts[name]]
        rates, seen, outliers = alarm_rate(judged, verdicts[name]), 0, 0
        for run in judged:
            hits = verdicts[name][run.name].alarms
            for label in run.outliers:
                first, last = label.window
                outliers += 1
                seen += bool(((hits >= first) & (hits <= last)).any())
        row = [rates, f"{seen} of {outliers}"]
        without = [healthy[name][case.run.name].alarms for case in cases]
        for fault in injections.FAULTS:
            alarms = [faulty[fault][name][case.run.name].alarms for case in cases]
            row.append(found_at(injections.latencies(fault, cases, alarms, without)))
        return row

    head = ["alarms per 10k healthy steps", "batch outliers told"]
    head += [fault.name for fault in injections.FAULTS]
    title = f"#### Faults injected into healthy language-model runs, {len(cases)} cases each\n\n"
    return title + table(field, head, figures)


def alarm_rate(runs, verdicts):
    """Alarms on healthy points, those close to each other as one, with their interval."""
    count = points = 0
    for run in runs:
        mask = run.healthy
        count += scoring.episodes(i for i in verdicts[run.name].alarms.tolist() if mask[i])
        points += int(mask.sum())
    return per_10k(count, points)


def per_10k(count, points):
    low, high = (1e4 * edge / points for edge in scoring.garwood(count))
    return f"{1e4 * count / points:.2f} ({low:.2f} to {high:.2f})"


def budgets(runs, cases):
    """The budget that the user sets, the alarms that come on healthy points, and what is found."""
    rows = []
    for budget in BUDGETS:
        row = [f"{budget:g}"]
        halves = {True: [0, 0], False: [0, 0]}
        findings = 0
        for run in runs:
            found = gyrostat.find_spikes(
                run.loss, run.grad_norm, run.step, false_alarms_per_10k=budget
            )
            mask = run.healthy
            findings += int(mask[found].sum())
            half = halves[run.tuned_on]
            half[0] += scoring.episodes(i for i in found.tolist() if mask[i])
            half[1] += int(mask.sum())
        count, points = (a + b for a, b in zip(*halves.values(), strict=True))
        row += [f"{findings}", f"{count}", per_10k(count, points)]
        row.append(f"{1e4 * count / points / budget:.2f}")
        row += [per_10k(*half) if half[1] else "" for half in halves.values()]
        row += [found_within(alarms_of, budget, fault, cases) for fault in injections.FAULTS]
        told = sum(int(run.healthy[findings_of(run, budget)].sum()) for run in runs)
        row += [
            f"{1e4 * told / points:.1f}",
            found_within(findings_of, budget, injections.FAULTS[0], cases),
        ]
        rows.append(row)
    head = ["budget per 10k", "findings", "alarms", "alarms per 10k", "of the budget"]
    head += ["per 10k, tuned on", "per 10k, held out"]
    head += [fault.name for fault in injections.FAULTS]
    head += ["with infos: findings per 10k", f"with infos: {injections.FAULTS[0].name}"]
    steps = sum(int(run.healthy.sum()) for run in runs)
    title = f"#### The budget of false alarms, {len(runs)} runs, {steps:,} healthy steps\n\n"
    return title + markdown(head, rows)


def alarms_of(run, budget):
    """Where Gyrostat warns, from the loss alone."""
    return gyrostat.find_spikes(run.loss, step=run.step, false_alarms_per_10k=budget).tolist()


def findings_of(run, budget):
    """Where it says anything, infos included."""
    update = gyrostat.SpikeDetector(budget).update
    points = zip(run.loss.tolist(), run.step.astype(int).tolist(), strict=True)
    return [i for i, (loss, step) in enumerate(points) if update(loss, None, step) is not None]


def found_within(judge, budget, fault, cases):
    """How often Gyrostat finds a fault at this budget, and how late."""
    found = [judge(case.with_fault(fault), budget) for case in cases]
    without = [judge(case.run, budget) for case in cases]
    return found_at(injections.latencies(fault, cases, found, without))


def found_at(latencies):
    """How many, and the median of those that there are."""
    known = [latency for latency in latencies if latency is not None]
    after = f" @{np.median(known):g}" if known else ""
    return f"{len(known)} of {len(latencies)}{after}"


def early(field, runs, verdicts):
    """Failures so early in a run that there is hardly anything to learn from."""

    def figures(name):
        delays, before, points = [], 0, 0
        judged = [run for run in runs if run.name in verdicts[name]]
        for run in judged:
            alarms = verdicts[name][run.name].alarms.tolist()
            label = run.early_event
            first, last = label.window
            hits = [i for i in alarms if first <= i <= last]
            delays += [max(0, hits[0] - label.first)] if hits else []
            excused = [i for i in range(first) if scoring.excused(i, run.labels)]
            before += scoring.episodes(i for i in alarms if i < first and i not in excused)
            points += first - len(excused)
        latency = f"{np.median(delays):g}" if delays else ""
        return [f"{len(delays)} of {len(judged)}", latency, f"{before}", per_10k(before, points)]

    names = ", ".join(f"{run.name} at {run.early_event.first}" for run in runs)
    head = ["found", "median latency", "alarms before", "alarms before, per 10k points"]
    title = f"#### Early failures of AlgoPerf runs, {len(runs)} runs\n\n"
    return title + table(field, head, figures) + f"\nWhere they start to fail: {names}.\n"


def organic(field, failing, twins, verdicts):
    """Warnings before a run fails of itself, and alarms on the twins that do not."""
    failures = {run.name: scoring.failure(run.loss) for run in failing}
    failed = [run for run in failing if failures[run.name] is not None]
    stable = [run for run in twins if scoring.failure(run.loss) is None]
    points = sum(len(run.loss) for run in stable)

    def figures(name):
        leads, before = [], 0
        for run in failed:
            alarms = verdicts[name][run.name].alarms.tolist()
            end = failures[run.name]
            earned = scoring.lead(alarms, end)
            leads.append(-math.inf if earned is None else earned)
            before += scoring.episodes(i for i in alarms if i < end - scoring.EARLIEST)
        counts = [scoring.episodes(verdicts[name][run.name].alarms.tolist()) for run in stable]
        middle = float(np.median(leads)) if leads else math.nan
        return [
            f"{sum(lead > 0 for lead in leads)} of {len(failed)}",
            f"{sum(lead > -math.inf for lead in leads)} of {len(failed)}",
            "never" if middle == -math.inf else f"{middle:g}",
            f"{scoring.lead_by_chance(sum(counts) / points):.0f}" if points else "",
            f"{before}",
            f"{sum(counts)}",
            per_10k(sum(counts), points) if points else "",
            f"{sum(count == 0 for count in counts)} of {len(stable)}",
        ]

    head = ["warned before", "told at all", "median lead", "mean lead by chance"]
    head += ["alarms long before", "alarms on twins", "per 10k steps of twins", "twins silent"]
    when = "; ".join(
        f"{run.name} {'does not' if failures[run.name] is None else f'at {failures[run.name]}'}"
        for run in failing
    )
    title = (
        f"#### Transformers that fail of themselves: {len(failed)} of {len(failing)} failed, "
        f"{len(stable)} of {len(twins)} twins did not\n\n"
    )
    return title + table(field, head, figures) + f"\nWhere they fail: {when}.\n"
