"""Gyrostat's spike detector beside its peers, on real, injected and home-made failures.

Usage: ``make bench-spikes``, which also writes the results into ``benches/README.md``, or
``PYTHONPATH=benches uv run --extra torch --group bench-spikes python -m spikes [--quick]``.

Prints Markdown: a table for each family of runs, its contestants as rows.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from spikes import contestants, evaluation, injections, organic, pictures, runs, scoring, tables

HERE = Path(__file__).resolve().parents[1]
START, END = "<!-- results of bench-spikes -->", "<!-- end of results -->"


def main():
    parser = argparse.ArgumentParser(prog="spikes", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test: a little of everything")
    parser.add_argument(
        "--write", action="store_true", help="into benches/README.md, with pictures"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    if args.quick and args.write:
        parser.error("--quick has no results worth writing")
    field = evaluation.Field(
        contestants.ENTRIES, args.workers, cache=None if args.quick else evaluation.CACHE
    )
    drawn = {}
    sections = [tables.machine()]
    print(sections[0], flush=True)
    for family in (real, home_made):
        for section in family(field, drawn, quick=args.quick):
            sections.append(section)
            print(section, flush=True)
    if args.write:
        write(sections, drawn)


def real(field, drawn, *, quick):
    """The families that stand on the labelled real runs."""
    everything = runs.labelled()
    if isinstance(everything, str):
        yield f"Skipped, since {everything}: labelled runs, injected faults, early failures.\n"
        return
    if quick:
        everything = [run for run in everything if len(run.loss) < 120 or "valemb" in run.name]
    verdicts = field.judge(everything, "labelled runs")
    yield tables.labelled(field, everything, verdicts)
    draw(drawn, "labelled", "algo_wmt_caspr_s3t4", everything, verdicts)

    cases = injections.cases(runs.modded_nanogpt(everything), 1 if quick else injections.CASES)
    healthy = field.judge([case.run for case in cases], "the cases without a fault")
    faulty, shown = {}, injections.FAULTS[2]
    for fault in injections.FAULTS:
        broken = [case.with_fault(fault) for case in cases]
        faulty[fault] = field.judge(broken, fault.name)
        if fault is shown:
            span = [(cases[0].start, cases[0].start + fault.window)]
            draw(drawn, "injected", broken[0].name, broken[:1], faulty[fault], span, fault.name)
    language_models = runs.per_step_language_models(everything)
    yield tables.injected(field, language_models, cases, verdicts, faulty, healthy)
    yield tables.budgets(language_models)

    failures = runs.early_failures(everything)
    yield tables.early(field, failures, verdicts)
    draw(drawn, "early", "algo_criteo_shampoo_s4t3", failures, verdicts)


def home_made(field, drawn, *, quick):
    """The family that the bench trains itself."""
    recipes = [replace(organic.FAILING[-2], steps=120, late=60)] if quick else organic.FAILING
    made = [run for run, _ in field.make([*recipes, *map(organic.twin, recipes)])]
    failing, twins = made[: len(recipes)], made[len(recipes) :]
    verdicts = field.judge(made, "home-made runs")
    yield tables.organic(field, failing, twins, verdicts)
    ends = {run.name: scoring.failure(run.loss) for run in failing}
    name = "momentum, climb, post-norm"
    if ends.get(name):
        span = [(ends[name], ends[name] + 1)]
        draw(drawn, "organic", name, failing, verdicts, span)


def draw(drawn, family, name, candidates, verdicts, span=(), what=""):
    """Adds the picture of an example, if that run is there."""
    run = next((run for run in candidates if run.name == name), None)
    if run is None:
        return
    span = span or [label.window for label in run.labels if label.is_event]
    alarms = {who: rows[name].alarms for who, rows in verdicts.items() if name in rows}
    title = f"{name}: {what}" if what else name
    drawn[family] = pictures.example(title, run.loss, alarms, marked=span)


def write(sections, drawn):
    """Replaces the results in ``benches/README.md`` and the pictures beside it."""
    folder = HERE / "pictures"
    folder.mkdir(exist_ok=True)
    for family, picture in drawn.items():
        (folder / f"spikes-{family}.svg").write_text(picture)
        sections.append(f"![{family} example](pictures/spikes-{family}.svg)\n")
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(START)
    _, _, after = rest.partition(END)
    readme.write_text("\n".join([before + START + "\n", *sections, END + after]))


if __name__ == "__main__":
    main()
