"""Who finds near duplicates: texts in, pairs out, each as its own documentation shows.

A contestant takes a clock and the texts and returns pairs as ``left << 32 | right``, or None for
one that gives no pairs, and what its estimates leave of them. Peers are given the same 5-grams,
128 slots and, where one can choose, 16 bands of 8 rows.
"""

import time

import numpy as np

from leakage.truth import NEAR, NGRAM

SLOTS, BANDS, ROWS = 128, 16, 8


class Clock:
    """CPU seconds of the process by named step, as they follow each other."""

    def __init__(self):
        self.steps = {}
        self.last = time.process_time()

    def lap(self, name):
        now = time.process_time()
        self.steps[name] = self.steps.get(name, 0) + now - self.last
        self.last = now


def grams(texts):
    """The word 5-grams of each text as strings."""
    for text in texts:
        words = text.lower().split()
        last = max(1, len(words) - NGRAM + 1)
        yield [" ".join(words[i : i + NGRAM]) for i in range(last)]


def listed(candidates):
    """Pairs out of one list of candidates a document."""
    keys = [i << 32 | int(j) for i, others in enumerate(candidates) for j in others if int(j) > i]
    return np.unique(np.array(keys, np.uint64))


def sides(keys):
    return (keys >> np.uint64(32)).astype(int), (keys & np.uint64(0xFFFFFFFF)).astype(int)


def datasketch(texts, clock):
    from datasketch import MinHash, MinHashLSH

    sets = ([gram.encode() for gram in some] for some in grams(texts))
    sketches = list(MinHash.generator(sets, num_perm=SLOTS, seed=1))
    clock.lap("signature")
    index = MinHashLSH(num_perm=SLOTS, params=(BANDS, ROWS))
    for row, sketch in enumerate(sketches):
        index.insert(row, sketch, check_duplication=False)
    pairs = listed(index.query(sketch) for sketch in sketches)
    left, right = sides(pairs)
    slots = np.stack([sketch.hashvalues for sketch in sketches])
    parts = [part for part in np.array_split(np.arange(len(pairs)), 20) if len(part)]
    alike = [(slots[left[part]] == slots[right[part]]).mean(1) for part in parts]
    pairs = pairs[np.concatenate(alike) >= NEAR]
    clock.lap("pairs")
    return pairs


def rensa(texts, clock):
    from rensa import RMinHash, RMinHashLSH

    sets = list(grams(texts))
    sketches = RMinHash.from_token_sets(sets, num_perm=SLOTS, seed=1)
    clock.lap("signature")
    index = RMinHashLSH(threshold=NEAR, num_perm=SLOTS, num_bands=BANDS)
    index.insert_pairs(enumerate(sketches))
    pairs = listed(index.query_all(sketches))
    left, right = (side.tolist() for side in sides(pairs))
    alike = [sketches[i].jaccard(sketches[j]) for i, j in zip(left, right, strict=True)]
    pairs = pairs[np.array(alike) >= NEAR]
    clock.lap("pairs")
    return pairs


def gaoya(texts, clock):
    from gaoya.minhash import MinHashStringIndex

    index = MinHashStringIndex(
        hash_size=32,
        jaccard_threshold=NEAR,
        num_bands=BANDS,
        band_size=ROWS,
        analyzer="word",
        lowercase=True,
        ngram_range=(NGRAM, NGRAM),
    )
    index.par_bulk_insert_docs(list(range(len(texts))), texts)
    clock.lap("signature")
    pairs = listed(index.par_bulk_query(texts))
    clock.lap("pairs")
    return pairs


def fastsketch(texts, clock):
    """It tells which documents are duplicates, and no pairs."""
    from FastSketchLSH import LSH, FastSimilaritySketch

    sketches = FastSimilaritySketch(SLOTS, seed=1).batch(list(grams(texts)), num_threads=1)
    clock.lap("signature")
    LSH(num_perm=SLOTS, num_bands=BANDS, num_threads=1).insert_and_query_duplicates(sketches)
    clock.lap("pairs")


def gyrostat(texts, clock, unit, exact):
    import pyarrow as pa

    from gyrostat import _core
    from gyrostat.leakage import TextOptions, check_leakage

    options = TextOptions(unit=unit)
    report = check_leakage({"all": texts}, options=options, exact=exact)
    clock.lap("all")
    ((_, column),) = _core.read_arrow(texts)
    _core.sketches(column, options.fields(), NEAR)
    clock.lap("signature")
    table = pa.table(report.pairs)
    left, right = (table[side].to_numpy().astype(np.uint64) for side in ("left_row", "right_row"))
    return np.unique(left << np.uint64(32) | right)


def ours(unit, *, exact):
    def contestant(texts, clock):
        return gyrostat(texts, clock, unit, exact)

    contestant.unit = unit
    contestant.arrow = True
    return contestant


CONTESTANTS = {
    "gyrostat": ours("word", exact=False),
    "gyrostat, unit spaced": ours("spaced", exact=False),
    "gyrostat, exact": ours("word", exact=True),
    "rensa": rensa,
    "datasketch": datasketch,
    "gaoya": gaoya,
    "FastSketchLSH": fastsketch,
}
PACKAGES = ("rensa", "datasketch", "gaoya", "fastsketchlsh", "numpy", "pyarrow")
