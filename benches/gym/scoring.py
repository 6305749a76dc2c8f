"""How runs are counted."""

import math

WITHIN = 1.03  # of the loss of the clean run


def wilson(count, total, z=1.96):
    """The 95 % interval of a share (Wilson, JASA 22, 1927), as a pair; NaN of nothing."""
    if not total:
        return math.nan, math.nan
    share = count / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return tuple((middle + sign * half) / (1 + z * z / total) for sign in (-1, 1))


def recovered(loss, clean):
    """Whether a run has ended where the clean one did."""
    return loss <= WITHIN * clean


def rank(causes, true):
    """The place of the true cause, from 1; None if it is not named."""
    codes = [code for code, _ in causes or ()]
    return codes.index(true) + 1 if true in codes else None


def names_layer(blamed, true):
    """Whether the parameter blamed, or the module that it belongs to, is the true one."""
    if not blamed:
        return False
    module = true.rpartition(".")[0]
    return blamed in (true, module) or (module != "" and blamed.rpartition(".")[0] == module)


def names_several(blamed, true):
    """Whether at least half of what is blamed is guilty, and half of what is guilty is blamed."""
    blamed, true = set(blamed or ()), set(true)
    hits = len(blamed & true)
    return hits > 0 and 2 * hits >= max(len(blamed), len(true))


def blame(result):
    """For each kind of which something is to blame: whether the right one is named."""
    truth, blamed = result.truth, result.blamed
    verdicts = {}
    if truth["layer"]:
        verdicts["layer"] = names_layer(blamed.get("layer"), truth["layer"])
    for kind in ("batches", "samples"):
        if truth[kind]:
            verdicts[kind] = names_several(blamed.get(kind), truth[kind])
    return verdicts
