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
    sections, drawn = [], {}
    for part in (machine, real, home_made):
        for section, picture, name in part(field, quick=args.quick):
            print(section, flush=True)
            sections.append(section)
            if picture:
                drawn[name] = picture
                sections.append(f"![An example: {name}](pictures/spikes-{name}.svg)\n")
    if args.write:
        write(sections, drawn)


def machine(_field, *, quick):
    yield tables.machine() + "\nA smoke test: these are no results.\n" * quick, None, ""


def real(field, *, quick):
    """The families that stand on the labelled real runs: sections, pictures and their names."""
    everything = runs.labelled()
    if isinstance(everything, str):
        skipped = "labelled runs, injected faults, early failures"
        yield f"Skipped, since {everything}: {skipped}.\n", None, ""
        return
    if quick:
        everything = [run for run in everything if len(run.loss) < 120 or "valemb" in run.name]
    verdicts = field.judge(everything, "labelled runs")
    picture = draw("algo_wmt_caspr_s3t4", everything, verdicts)
    yield tables.labelled(field, everything, verdicts), picture, "labelled"

    cases = injections.cases(runs.modded_nanogpt(everything), 1 if quick else injections.CASES)
    healthy = field.judge([case.run for case in cases], "the cases without a fault")
    faulty, shown, picture = {}, injections.FAULTS[2], None
    for fault in injections.FAULTS:
        broken = [case.with_fault(fault) for case in cases]
        faulty[fault] = field.judge(broken, fault.name)
        if fault is shown:
            span = [(cases[0].start, cases[0].start + fault.window)]
            picture = draw(broken[0].name, broken[:1], faulty[fault], span, fault.name)
    language_models = runs.per_step_language_models(everything)
    table = tables.injected(field, language_models, cases, verdicts, faulty, healthy)
    yield table, picture, "injected"
    yield tables.budgets(language_models, cases), None, ""

    failures = runs.early_failures(everything)
    picture = draw("algo_criteo_shampoo_s4t3", failures, verdicts)
    yield tables.early(field, failures, verdicts), picture, "early"


def home_made(field, *, quick):
    """The family that the bench trains itself."""
    recipes = [replace(organic.FAILING[-2], steps=120, late=60)] if quick else organic.FAILING
    made = field.make([*recipes, *map(organic.twin, recipes)])
    failing, twins = made[: len(recipes)], made[len(recipes) :]
    verdicts = field.judge(made, "home-made runs")
    name = "climb, deep"
    end = next((scoring.failure(run.loss) for run in failing if run.name == name), None)
    picture = draw(name, failing, verdicts, [(end, end + 1)]) if end else None
    yield tables.organic(field, failing, twins, verdicts), picture, "home-made"


def draw(name, candidates, verdicts, span=(), what=""):
    """The picture of a run and of everyone's alarms in it, or None if the run is not there."""
    run = next((run for run in candidates if run.name == name), None)
    if run is None:
        return None
    span = span or [label.window for label in run.labels if label.is_event]
    alarms = {who: rows[name].alarms for who, rows in verdicts.items() if name in rows}
    return pictures.example(f"{name}: {what}" if what else name, run.loss, alarms, marked=span)


def write(sections, drawn):
    """Replaces the results in ``benches/README.md`` and the pictures beside it."""
    folder = HERE / "pictures"
    folder.mkdir(exist_ok=True)
    for name, picture in drawn.items():
        (folder / f"spikes-{name}.svg").write_text(picture)
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(START)
    _, _, after = rest.partition(END)
    readme.write_text("\n".join([before + START + "\n", *sections, END + after]))


if __name__ == "__main__":
    main()
