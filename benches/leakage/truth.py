"""The exact pairs of a corpus, found by NumPy without the engine, once and cached.

All pairs of documents whose sets of 5-grams have a Jaccard similarity of at least 0.8, by a prefix
filter: in an order of all 5-grams, rare ones first, two such sets share one among the first
``n - ceil(0.8 n) + 1`` of their n.
"""

import math
import re
import unicodedata

import numpy as np

from leakage import corpora

NGRAM, NEAR = 5, 0.8
# One letter of a script without spaces, or a run of other letters, digits and the marks on them.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
MARK = "\u0300-\u036f\u20d0-\u20ff\ufe00-\ufe0f"
WORD = re.compile(f"(?!_)[{UNSPACED}][{MARK}]*|(?:(?![_{UNSPACED}])\\w[{MARK}]*)+")


def spaced(text):
    """What stands between white space, in lower case: what people give the peers."""
    return text.lower().split()


def words(text):
    """Words as the documentation of ``check_leakage`` defines them."""
    if text.isascii():
        return re.findall(r"[a-z0-9]+", text.lower())
    return WORD.findall(unicodedata.normalize("NFC", text.lower().replace("\u03c2", "\u03c3")))


UNITS = {"spaced": spaced, "word": words}


def mixed(h):
    """The finaliser of Murmur3 over uint64."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        h = (h ^ (h >> np.uint64(33))) * np.uint64(factor)
    return h ^ (h >> np.uint64(33))


def sets(texts, unit):
    """The distinct 5-grams of each document as sorted hashes."""
    numbers = {}
    for text in texts:
        tokens = [numbers.setdefault(token, len(numbers)) for token in UNITS[unit](text)]
        if not tokens:
            yield np.zeros(0, np.uint64)
            continue
        ids = mixed(np.array(tokens, np.uint64) + np.uint64(1))
        n = min(NGRAM, len(ids))
        grams = np.zeros(len(ids) - n + 1, np.uint64)
        for i in range(n):
            grams = mixed(grams * np.uint64(31) + ids[i : len(ids) - n + 1 + i])
        yield np.unique(grams)


def pairs_of(texts, unit):
    """All pairs as ``left << 32 | right``, left below right, ascending."""
    groups = {}
    for row, grams in enumerate(sets(texts, unit)):
        if len(grams):
            groups.setdefault(grams.tobytes(), []).append(row)
    rows = list(groups.values())
    data = [np.frombuffer(grams, np.uint64) for grams in groups]
    del groups
    order = np.argsort([len(grams) for grams in data], kind="stable")
    rows, data = [rows[i] for i in order], [data[i] for i in order]
    sizes = np.array([len(grams) for grams in data])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    _, flat, counts = np.unique(np.concatenate(data), return_inverse=True, return_counts=True)
    del data
    flat = flat.astype(np.uint32)
    postings = {}
    edges = [(i, k) for group in rows for n, i in enumerate(group) for k in group[n + 1 :]]
    marked = np.zeros(len(counts), bool)
    for a in range(len(rows)):
        mine = flat[starts[a] : starts[a + 1]]
        rare = mine[np.lexsort((mine, counts[mine]))]
        prefix = rare[: len(mine) - math.ceil(NEAR * len(mine) - 1e-9) + 1]
        least = np.searchsorted(sizes, NEAR * len(mine) - 1e-9)
        found = set()
        for token in prefix[counts[prefix] > 1].tolist():
            known = postings.setdefault(token, [])
            found.update(b for b in known if b >= least)
            known.append(a)
        if not found:
            continue
        others = np.fromiter(found, np.int64)
        lengths = sizes[others]
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1]) + np.repeat(starts[others] - ends + lengths, lengths)
        marked[mine] = True
        both = np.add.reduceat(marked[flat[places]], ends - lengths, dtype=np.int64)
        marked[mine] = False
        alike = both / (len(mine) + lengths - both) >= NEAR
        for b in others[alike].tolist():
            edges += [(i, k) for i in rows[a] for k in rows[b]]
    table = np.array(edges, np.uint64).reshape(-1, 2)
    return np.unique(table.min(1) << np.uint64(32) | table.max(1))


def pairs(corpus, unit):
    """The exact pairs of a corpus."""
    path = corpora.CACHE / f"{corpus}-{unit}.npy"
    if not path.exists():
        np.save(path, pairs_of(corpora.read(corpus).to_pylist(), unit))
    return np.load(path)
