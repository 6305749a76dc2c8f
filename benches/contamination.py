"""Benchmark contamination against a known truth, beside the rules of papers and decon.

Usage: ``make bench-contamination``, which also writes the results into ``benches/README.md``, or

    python benches/contamination.py --evals DIR [--corpus PARQUET] [--decon COMMAND] [--write]

with ``PYTHONPATH=benches``.

2,500 test questions of MMLU and GSM8K of 25 words or more are put into long documents in seven
ways. ``--evals`` is the folder ``bundled-evals`` of allenai/decon. Without ``--corpus``, a parquet
file with a column ``text``, the documents are the corpus ``long`` of the leakage bench. ``--decon``
is a Python that has the package ``decontaminate`` (3.12 or newer), such as
"uv run --no-project --python 3.12 --with decontaminate python".
"""

import argparse
import collections
import csv
import gzip
import itertools
import json
import os
import random
import re
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import gyrostat
from gyrostat.leakage import BenchmarkPack, check_contamination
from leakage import corpora
from machine import described

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("GYROSTAT_SHARED", HERE.parents[1] / "shared"))
START, END = (
    "<!-- results of bench-contamination -->",
    "<!-- end of results of bench-contamination -->",
)
OURS = ("gyrostat", "gpt3", "palm", "llama3", "gpt4", "longest-run")
SCANNED = (
    "any 13-gram",
    "any 8-gram",
    "5-gram containment >= 0.5",
    "5-gram containment >= 0.8",
    "run of 12 words or more",
)
KINDS = ("exact", "case_space", "punct", "embedded", "truncated", "typo", "rephrased")
words_of = re.compile(r"\w+").findall


def test_questions(evals):
    """Questions of the test splits, each with its right answer."""
    found = {}
    for path in sorted(evals.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for record in map(json.loads, lines):
                if record["split"] == "test" and record.get("is_correct", True):
                    found.setdefault(record["question"], str(record.get("answer", "")))
    return found


def inject(texts, answers, n):
    """Puts ``n`` questions into as many documents; what went where."""
    rng = random.Random(1)  # noqa: S311 - no secret

    def edit(question, share):
        words = question.split()
        draws = [(word, rng.random()) for word in words]
        return " ".join(
            word if draw >= share else ("" if draw < share / 2 else rng.choice(words))
            for word, draw in draws
        )

    ways = {
        "verbatim": lambda q: q,
        "with answer": lambda q: f"{q} {answers[q]}",
        "lower, no punctuation": lambda q: " ".join(words_of(q.lower())),
        "5 % edited": lambda q: edit(q, 0.05),
        "10 %": lambda q: edit(q, 0.10),
        "20 %": lambda q: edit(q, 0.20),
        "first half": lambda q: " ".join(q.split()[: len(q.split()) // 2]),
    }
    long = [question for question in answers if len(question.split()) >= 25]
    chosen = rng.sample(long, min(n, len(long), len(texts)))
    truth = {}
    for k, (at, question) in enumerate(
        zip(rng.sample(range(len(texts)), len(chosen)), chosen, strict=True)
    ):
        way = list(ways)[k % len(ways)]
        cut = max(texts[at].find(" ", rng.randrange(len(texts[at]))), 0)
        texts[at] = f"{texts[at][:cut]} {ways[way](question)} {texts[at][cut:]}"
        truth[at] = (way, question)
    return list(ways), truth


def same(question):
    return " ".join(words_of(question.lower()))


class Score:
    """Recall by way of injection, and clean documents flagged."""

    def __init__(self, ways, truth):
        self.ways, self.truth = ways, truth

    def row(self, pairs, only=lambda _: True):
        """``pairs`` are of a document and a question, or of a document and None."""
        hits, false = collections.defaultdict(set), set()
        for document, question in pairs:
            if not only(document):
                continue
            way, planted = self.truth.get(document, (None, None))
            if way is None:
                false.add(document)
            elif question is None or same(question) == same(planted):
                hits[way].add(document)
        total = collections.Counter(way for d, (way, _) in self.truth.items() if only(d))
        recall = {way: len(hits[way]) / max(total[way], 1) for way in self.ways}
        return [*(f"{recall[way]:.3f}" for way in self.ways), str(len(false))]


class Scan:
    """The n-gram rules in plain Python, on words as the pattern ``\\w+`` finds them."""

    def __init__(self, questions):
        self.grams = {n: collections.defaultdict(set) for n in (5, 8, 13)}
        self.sizes = []
        for i, question in enumerate(questions):
            words = words_of(question.lower())
            for n, table in self.grams.items():
                for gram in ngrams(words, n):
                    table[gram].add(i)
            self.sizes.append(max(1, len(set(ngrams(words, 5)))))

    def held(self, words):
        """By question: its 5-grams in the text, and the longest run of them."""
        held, longest, before = collections.defaultdict(set), collections.Counter(), {}
        for gram in ngrams(words, 5):
            now = {}
            for i in self.grams[5].get(gram, ()):
                held[i].add(gram)
                now[i] = before.get(i, 0) + 1
                longest[i] = max(longest[i], now[i])
            before = now
        return held, longest

    def read(self, text):
        """Questions by rule."""
        words = words_of(text.lower())
        held, longest = self.held(words)
        hits = {rule: set() for rule in SCANNED}
        for i, own in held.items():
            share = len(own) / self.sizes[i]
            holds = (share >= 0.5, share >= 0.8, longest[i] + 4 >= 12)
            for rule in itertools.compress(SCANNED[2:], holds):
                hits[rule].add(i)
        if held:
            for rule, n in zip(SCANNED[:2], (13, 8), strict=True):
                for gram in ngrams(words, n):
                    hits[rule] |= self.grams[n].get(gram, set())
        return hits


def ngrams(words, n):
    return [hash(tuple(words[j : j + n])) for j in range(len(words) - n + 1)]


def run_decon(command, texts, evals, *, answers):
    """Documents that decon calls contaminated, by its defaults, and its CPU seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        with (folder / "in" / "part0.jsonl").open("w", encoding="utf-8") as out:
            for text in texts:
                out.write(json.dumps({"text": text}) + "\n")
        program = (
            "import decon, sys, time\n"
            "train, evals, out, answers = sys.argv[1:]\n"
            "config = decon.Config(train, evals, out, worker_threads=1, "
            "index_answers=answers == 'True')\n"
            "decon.detect(config)\n"
            "print('cpu', time.process_time())\n"
        )
        done = subprocess.run(
            [*shlex.split(command), "-c", program, str(folder / "in"), str(evals),
             str(folder / "out"), str(answers)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        seconds = float(done.stdout.split("cpu ")[-1].split()[0])
        hits = set()
        for path in (folder / "out").glob("*.jsonl"):
            with path.open(encoding="utf-8") as lines:
                hits |= {json.loads(line)["training_line"] for line in lines}
    return [(document, None) for document in hits], seconds


def cpu(work):
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def injected(args):
    """The table of injected questions, and how fast each contender read."""
    if args.corpus:
        documents = pq.read_table(args.corpus, columns=["text"])["text"]
    else:
        documents = corpora.read("long")
    texts = documents.to_pylist()[: args.documents]
    answers = test_questions(args.evals)
    questions = list(answers)
    clean = pa.array(texts, pa.large_string())
    megabytes = clean.nbytes / 1e6
    ways, truth = inject(texts, answers, args.questions)
    corpus = pa.array(texts, pa.large_string())
    score = Score(ways, truth)
    head = ("rule", *ways, f"clean of {len(texts) - len(truth):,}")

    rows, halves = [], []
    for rule in OURS:
        found = check_contamination(
            questions, corpus, answer=list(answers.values()), rule=rule
        ).matches
        pairs = [(m.corpus_row, questions[m.benchmark_row]) for m in found if m.part == "question"]
        rows.append((f"{rule}, ours" if rule == "gyrostat" else f"{rule}, here", *score.row(pairs)))
    low = check_contamination(questions, corpus, threshold=0.2).matches
    for threshold in (0.25, 0.3, 0.4, 0.5, 0.6):
        pairs = [(m.corpus_row, questions[m.benchmark_row]) for m in low if m.score >= threshold]
        for name, odd in (("tuned on", 1), ("reported", 0)):
            halves.append((f"{threshold:g}", name, *score.row(pairs, lambda d, o=odd: d % 2 == o)))

    pack = BenchmarkPack.build(questions, answer=list(answers.values()))
    hashed = check_contamination(pack, corpus).matches
    pairs = [(m.corpus_row, questions[m.benchmark_row]) for m in hashed if m.part == "question"]
    rows.append(("gyrostat, from a pack", *score.row(pairs)))

    _, index = cpu(lambda: BenchmarkPack.build(questions))
    seconds = min(cpu(lambda: check_contamination(pack, clean))[1] for _ in range(args.repeats))
    speeds = [("gyrostat", f"{index:.1f}", f"{seconds:.2f}", f"{megabytes / seconds:.0f}")]
    if args.scan:
        rules = Scan(questions)
        found, seconds = cpu(lambda: [rules.read(text) for text in texts])
        for rule in SCANNED:
            pairs = [(d, questions[i]) for d, hits in enumerate(found) for i in hits[rule]]
            rows.append((f"{rule}, Python", *score.row(pairs)))
        speeds.append(("60 lines of Python", "", f"{seconds:.1f}", f"{megabytes / seconds:.1f}"))
    if args.decon:
        _, index = run_decon(args.decon, texts[:1], args.evals, answers=True)
        for with_answers in (True, False):
            found, seconds = run_decon(args.decon, texts, args.evals, answers=with_answers)
            rows.append((f"decon, index_answers={with_answers}", *score.row(found)))
            if with_answers:
                rate = megabytes / (seconds - index)
                speeds.append(("decon", f"{index:.1f}", f"{seconds - index:.1f}", f"{rate:.1f}"))
    about = (
        f"{len(texts):,} documents, {megabytes:.0f} MB; {len(questions):,} questions; "
        f"{len(truth):,} put in."
    )
    return "\n\n".join(
        (
            about,
            table(head, rows),
            "Odd documents served to choose our threshold, 0.4; even ones did not:",
            table(("threshold", "half", *ways, "clean"), halves),
            "CPU seconds of one thread, on the documents as they were before:",
            table(("", "index, s", "documents, s", "MB/s"), speeds),
        )
    )


def gsm8k():
    """The mixtures of the shared data: 610 test questions among 4,000 of the training set."""

    def read(path):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    folder = SHARED / "data" / "text_gsm8k"
    mix, test = read(folder / "mix_train.jsonl.gz"), read(folder / "test.jsonl.gz")
    with (folder / "mix_truth.csv").open(encoding="utf-8") as lines:
        planted = {(row["mix_id"], row["test_id"]): row["kind"] for row in csv.DictReader(lines)}
    texts, questions = [row["text"] for row in mix], [row["question"] for row in test]
    contamination = {
        rule: {(m.corpus_row, m.benchmark_row) for m in check_contamination(
            questions, texts, rule=rule
        ).matches}
        for rule in OURS
    }  # fmt: skip
    leaks = gyrostat.check_leakage({"mix": texts, "test": questions}).pairs
    contenders = {
        **{f"check_contamination, {rule}": pairs for rule, pairs in contamination.items()},
        "check_leakage": {(pair.left_row, pair.right_row) for pair in leaks},
    }
    rows = []
    for name, pairs in contenders.items():
        found = {(mix[a]["id"], test[b]["id"]) for a, b in pairs}
        recall = []
        for kind in KINDS:
            known = {pair for pair, its in planted.items() if its == kind}
            recall.append(f"{len(known & found) / len(known):.3f}")
        precision = len(found & planted.keys()) / max(len(found), 1)
        rows.append((name, *recall, f"{precision:.4f}", str(len(found - planted.keys()))))
    return table(("GSM8K mixture, recall", *KINDS, "precision", "wrong pairs"), rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evals", type=Path, required=True, help="bundled-evals of allenai/decon")
    parser.add_argument("--corpus", type=Path, help="parquet file with a column text")
    parser.add_argument("--decon", help="a Python that has decontaminate")
    parser.add_argument("--no-scan", dest="scan", action="store_false", help="no Python rules")
    parser.add_argument("--documents", type=int, help="only so many")
    parser.add_argument("--questions", type=int, default=2500, help="to put in")
    parser.add_argument("--repeats", type=int, default=5, help="of what is timed")
    parser.add_argument("--write", action="store_true", help="into benches/README.md")
    args = parser.parse_args()
    # The pool of threads starts with the first check.
    os.environ["GYROSTAT_NUM_THREADS"] = "1"
    on = described(("gyrostat", "pyarrow"))
    text = "\n\n".join((f"On {on}.", injected(args), gsm8k()))
    if args.write:
        readme = HERE / "README.md"
        before, _, rest = readme.read_text(encoding="utf-8").partition(START)
        after = rest.partition(END)[2]
        readme.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
