"""The record of one chunk of values, made on the device that holds them.

One program reads one chunk. A sample of the chunk tells it in which binades the values lie, and a
number near their mean. One pass then adds up the powers of the distances to that number, and counts
exponents. Where the sample was no good guide, or a value is subnormal, NaN or Inf, the chunk, by
then in the cache, is read again with more care.

Exponents are counted by positional popcount: a value becomes a word with a single bit, the place of
which is the exponent, and the words are added column by column, by full adders, into counters that
lie across words: the first holds their lowest bits, and so on. That is exact, and takes two logic
operations a value however the values are spread.

Floats are added in an order that the shape alone decides, and only integers are added atomically,
so the same values always give the same bits. Fused multiply-adds are written out where they are
meant; launch with ``OPTIONS``.
"""

import triton
import triton.language as tl

CHUNK = 1 << 16
"""The number of values that one program reads."""

COLUMNS = ("count", "min", "max", "centre", "s1", "s2", "s3", "s4", "l1")
"""What is added up of the finite values of a chunk; s_k is the sum of (x - centre)^k."""

SPECIALS = ("zero", "nan", "posinf", "neginf")
"""Classes of values that have no exponent."""

CLASSES = len(SPECIALS) + 23 + 254
"""The special classes, then one for each floor(log2 |x|) that float32 knows, from -149 to 127."""

OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
"""How to launch."""

_LANES = tl.constexpr(512)  # four values for each thread: one 16-byte load of float32
_STEPS = tl.constexpr(16)  # loads between two flushes of the sums
_GROUP = tl.constexpr(_LANES.value * _STEPS.value)
_COLUMNS = tl.constexpr(len(COLUMNS))
_SPECIALS = tl.constexpr(len(SPECIALS))
_CLASSES = tl.constexpr(CLASSES)
_WINDOW = tl.constexpr(31)  # neighbouring classes that one pass counts; bit 31 is for the rest
_HEADROOM = tl.constexpr(4)  # binades above the largest value of the sample
_INFINITY = tl.constexpr(0x7F800000)


@triton.jit(do_not_specialize=["table", "first", "sums", "counts"])
def record_chunk(table, first, sums, counts, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Writes one row of sums and adds to one row of counts.

    Args:
        table: int64 ``(chunks, 3)``: address of the first value, number of values, which row of
            counts.
        first: The chunk of the first program.
        sums: float64 ``(chunks, len(COLUMNS))``.
        counts: int64 ``(tensors, CLASSES)``.
        DTYPE: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        ALIGNED: Whether every address is a multiple of 16.
    """
    chunk = first + tl.program_id(0).to(tl.int64)
    address = tl.load(table + 3 * chunk)
    n = tl.load(table + 3 * chunk + 1).to(tl.int32)
    counts += tl.load(table + 3 * chunk + 2) * _CLASSES
    sums += chunk * _COLUMNS
    bit = tl.arange(0, 32)
    centre, base = _look(address, n, DTYPE)
    plain, low, high, s1, s2, s3, s4, l1, found = _read_plain(
        address, n, centre, base, DTYPE, ALIGNED
    )
    finite = n
    if plain:
        # The rest is zeros.
        classes = tl.where(bit == _WINDOW, 0, _SPECIALS + 22 + base + bit)
        tl.atomic_add(counts + classes, found.to(tl.int64), mask=found > 0, sem="relaxed")
    else:
        finite, low, high, s1, s2, s3, s4, l1 = _sum_carefully(address, n, centre, DTYPE, ALIGNED)
        start = 0
        while start < _CLASSES:
            found, beyond = _count_window(address, n, start, DTYPE, ALIGNED)
            inside = (found > 0) & (bit < _WINDOW)
            tl.atomic_add(counts + start + bit, found.to(tl.int64), mask=inside, sem="relaxed")
            start = beyond
    tl.store(sums, finite.to(tl.float64))
    tl.store(sums + 1, low)
    tl.store(sums + 2, high)
    tl.store(sums + 3, centre.to(tl.float64))
    tl.store(sums + 4, s1)
    tl.store(sums + 5, s2)
    tl.store(sums + 6, s3)
    tl.store(sums + 7, s4)
    tl.store(sums + 8, l1)


INTERPRETED = not isinstance(record_chunk, triton.JITFunction)
"""Whether Triton's interpreter is at work, which takes tensors in host memory."""


@triton.jit
def _look(address, n, DTYPE: tl.constexpr):
    """A number near the mean, and the exponent field where a window should begin."""
    at = tl.arange(0, _LANES) * n // _LANES
    bits = _load(address, at, n, DTYPE, ALIGNED=False, MASKED=True)
    pattern = bits & 0x7FFFFFFF
    finite = pattern < _INFINITY
    x = tl.where(finite, _to_float64(bits), 0.0)
    count = tl.maximum(tl.sum(finite.to(tl.int32)), 1)
    mean = tl.sum(x) / count
    d = tl.where(finite, x - mean, 0.0)
    # Sums about zero do for data that are spread around it, and cost nothing to shift.
    centre = tl.where(4 * mean * mean * count > tl.sum(d * d), mean, 0.0).to(tl.float32)
    top = tl.max(tl.where(finite, pattern, 0)) >> 23
    # The field of zeros and subnormal numbers, 0, is in no window, nor is that of NaN and Inf, 255.
    base = tl.minimum(top + _HEADROOM, 254) - (_WINDOW - 1)
    return centre, tl.maximum(base, 1)


@triton.jit
def _read_plain(address, n, centre, base, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Whether every value is zero or in the window; extremes, sums and counts, right if so."""
    zeros = tl.zeros((_LANES,), tl.float64)
    sums = (zeros, zeros, zeros, zeros, zeros)
    inf = tl.full((_LANES,), float("inf"), tl.float32)
    # The smallest magnitude less one, as an unsigned integer: that of a zero is the largest of all.
    extremes = (inf, -inf, tl.full((_LANES,), 0xFFFFFFFF, tl.uint32))
    planes = _no_counts()
    whole = n // _GROUP * _GROUP
    for start in range(0, whole, _GROUP):
        sums, extremes, planes = _add_group(
            sums, extremes, planes, address, start, n, centre, base, DTYPE, ALIGNED, MASKED=False
        )
    if whole < n:
        sums, extremes, planes = _add_group(
            sums, extremes, planes, address, whole, n, centre, base, DTYPE, ALIGNED, MASKED=True
        )
    s1, s2, s3, s4, l1 = sums
    s1, s2, s3, s4, l1 = tl.sum(s1), tl.sum(s2), tl.sum(s3), tl.sum(s4), tl.sum(l1)
    if DTYPE != "float32":
        unit = _two_to(base + (_WINDOW - 1) - 128).to(tl.float64)
        s1 *= unit
        s2 *= unit * unit
        s3 *= unit * unit * unit
        s4 *= unit * unit * (unit * unit)
        l1 *= unit
    low, high, small = extremes
    low, high, small = tl.min(low), tl.max(high), tl.min(small)
    large = tl.maximum(-low, high).to(tl.int32, bitcast=True) & 0x7FFFFFFF
    plain = (
        (l1 < float("inf"))  # a NaN anywhere would be in it
        & (large >> 23 < base + _WINDOW)
        & (small >= ((base << 23) - 1).to(tl.uint32))
    )
    low, high = low.to(tl.float64), high.to(tl.float64)
    return plain, low, high, s1, s2, s3, s4, l1, _totals(planes)


@triton.jit
def _add_group(
    sums,
    extremes,
    planes,
    address,
    start,
    n,
    centre,
    base,
    DTYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Adds the values from ``start`` on, as many as a group has or as there are."""
    # Values of 16 bits are added in float32: their squares are exact, and only sixteen of them come
    # together before a flush. In this unit no power of a value in the window leaves the range.
    wide: tl.constexpr = tl.float64 if DTYPE == "float32" else tl.float32
    scale = _two_to(128 - (base + (_WINDOW - 1)))
    c = centre.to(wide) if DTYPE == "float32" else centre * scale
    low, high, small = extremes
    zeros = tl.zeros((_LANES,), wide)
    s1, s2, s3, s4, l1 = zeros, zeros, zeros, zeros, zeros
    held = (planes[0], planes[0], planes[0], planes[0])
    for step in tl.static_range(_STEPS):
        at = start + step * _LANES + tl.arange(0, _LANES)
        bits = _load(address, at, n, DTYPE, ALIGNED, MASKED)
        x = bits.to(tl.float32, bitcast=True)
        if DTYPE == "float32":
            d = x.to(wide) - c
            l1 += tl.abs(x.to(wide))
        else:
            d = tl.fma(x, scale, -c)
            l1 = tl.fma(tl.abs(x), scale, l1)
        if MASKED:
            d = tl.where(at < n, d, 0.0)
            low = tl.minimum(low, tl.where(at < n, x, float("inf")))
            high = tl.maximum(high, tl.where(at < n, x, float("-inf")))
        else:
            low = tl.minimum(low, x)
            high = tl.maximum(high, x)
        square = d * d
        s1 += d
        s2 += square
        s3 = tl.fma(square, d, s3)
        s4 = tl.fma(square, square, s4)
        pattern = bits & 0x7FFFFFFF
        small = tl.minimum(small, (pattern - 1).to(tl.uint32))
        word = _one_hot((pattern >> 23) - base)
        if MASKED:
            word = tl.where(at < n, word, 0)
        planes, held = _count(planes, held, word, step)
    sums = (
        sums[0] + s1.to(tl.float64),
        sums[1] + s2.to(tl.float64),
        sums[2] + s3.to(tl.float64),
        sums[3] + s4.to(tl.float64),
        sums[4] + l1.to(tl.float64),
    )
    return sums, (low, high, small), planes


@triton.jit
def _sum_carefully(address, n, centre, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Number, extremes and sums of the finite values, whatever else there is."""
    c = centre.to(tl.float64)
    zeros = tl.zeros((_LANES,), tl.float64)
    s1, s2, s3, s4, l1 = zeros, zeros, zeros, zeros, zeros
    low = zeros + float("inf")
    high = zeros - float("inf")
    count = tl.zeros((_LANES,), tl.int32)
    for start in range(0, n, _LANES):
        at = start + tl.arange(0, _LANES)
        bits = _load(address, at, n, DTYPE, ALIGNED, MASKED=True)
        finite = (at < n) & (bits & 0x7FFFFFFF < _INFINITY)
        x = _to_float64(bits)
        d = tl.where(finite, x - c, 0.0)
        square = d * d
        s1 += d
        s2 += square
        s3 = tl.fma(square, d, s3)
        s4 = tl.fma(square, square, s4)
        l1 += tl.where(finite, tl.abs(x), 0.0)
        low = tl.minimum(low, tl.where(finite, x, float("inf")))
        high = tl.maximum(high, tl.where(finite, x, float("-inf")))
        count += finite.to(tl.int32)
    s1, s2, s3, s4, l1 = tl.sum(s1), tl.sum(s2), tl.sum(s3), tl.sum(s4), tl.sum(l1)
    return tl.sum(count), tl.min(low), tl.max(high), s1, s2, s3, s4, l1


@triton.jit
def _count_window(address, n, lowest, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Counts of the classes from ``lowest`` on, and the next class beyond them that there is."""
    beyond = tl.full((_LANES,), _CLASSES, tl.int32)
    planes = _no_counts()
    for start in range(0, n, _GROUP):
        held = (planes[0], planes[0], planes[0], planes[0])
        for step in tl.static_range(_STEPS):
            at = start + step * _LANES + tl.arange(0, _LANES)
            bits = _load(address, at, n, DTYPE, ALIGNED, MASKED=True)
            # A value that is not there is of a class below every window.
            place = tl.where(at < n, _classify(bits) - lowest, -1)
            beyond = tl.minimum(beyond, tl.where(place < _WINDOW, _CLASSES, place + lowest))
            planes, held = _count(planes, held, _one_hot(place), step)
    return _totals(planes), tl.min(beyond)


@triton.jit
def _classify(bits):
    pattern = bits & 0x7FFFFFFF
    field = pattern >> 23
    mantissa = pattern & 0x7FFFFF
    # The highest bit of an integer is its exponent as a float.
    highest = (mantissa.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
    place = tl.where(field == 0, highest, field + 22) + _SPECIALS
    unusual = tl.where(mantissa != 0, 1, tl.where(bits < 0, 3, 2))
    place = tl.where(field == 255, unusual, place)
    return tl.where(pattern == 0, 0, place)


# Values


@triton.jit
def _load(address, at, n, DTYPE: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr):
    """The values as float32, by their bits: int32; zero for those that are not there.

    Every value of 16 bits is one of float32, and the subnormal ones of float16 are normal there.
    """
    width: tl.constexpr = tl.int32 if DTYPE == "float32" else tl.int16
    pointer = address.to(tl.pointer_type(width))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    if MASKED:
        bits = tl.load(pointer + at, mask=at < n, other=0)
    else:
        bits = tl.load(pointer + at)
    if DTYPE == "bfloat16":
        bits = bits.to(tl.int32) << 16
    if DTYPE == "float16":
        bits = bits.to(tl.float16, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True)
    return bits


@triton.jit
def _to_float64(bits):
    """The values, without reading a subnormal number as a float."""
    mantissa = (bits & 0x7FFFFF).to(tl.float64)
    subnormal = tl.where(bits < 0, -mantissa, mantissa) * 2.0**-149
    normal = bits.to(tl.float32, bitcast=True).to(tl.float64)
    return tl.where(bits & 0x7F800000 != 0, normal, subnormal)


@triton.jit
def _two_to(k):
    """A power of two that is a normal number of float32."""
    return ((k + 127) << 23).to(tl.float32, bitcast=True)


# Counters


@triton.jit
def _one_hot(place):
    """The bit of a place from 0 to 30; bit 31 for any other."""
    return 1 << tl.minimum(place.to(tl.uint32), _WINDOW).to(tl.int32)


@triton.jit
def _no_counts():
    zeros = tl.zeros((_LANES,), tl.int32)
    return (zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros)


@triton.jit
def _add(a, b, c):
    """Sums and carries of three words, bit by bit."""
    return a ^ b ^ c, (a & b) | (c & (a ^ b))


@triton.jit
def _count(planes, held, word, step: tl.constexpr):
    """Adds a word; every other one is held until the next, every other carry likewise."""
    p0, p1, p2, p3, p4, p5, p6, p7 = planes
    h0, h1, h2, h3 = held
    if step % 2 == 0:
        h0 = word
    else:
        p0, carry = _add(p0, h0, word)
        if step % 4 == 1:
            h1 = carry
        else:
            p1, carry = _add(p1, h1, carry)
            if step % 8 == 3:
                h2 = carry
            else:
                p2, carry = _add(p2, h2, carry)
                if step % 16 == 7:
                    h3 = carry
                else:
                    p3, carry = _add(p3, h3, carry)
                    # A chunk is 128 words: nothing is carried further than to the last plane.
                    p4, carry = p4 ^ carry, p4 & carry
                    p5, carry = p5 ^ carry, p5 & carry
                    p6, carry = p6 ^ carry, p6 & carry
                    p7 = p7 ^ carry
    return (p0, p1, p2, p3, p4, p5, p6, p7), (h0, h1, h2, h3)


@triton.jit
def _totals(planes):
    """How often each of the 32 bits was set, int32."""
    planes = _fold(_fold(planes))  # the values of one thread
    bit = tl.arange(0, 32)
    counts = tl.zeros((_LANES // 4, 32), tl.int32)
    for j in tl.static_range(len(planes)):
        counts += ((planes[j][:, None] >> bit[None, :]) & 1) << j
    return tl.sum(counts, axis=0)


@triton.jit
def _fold(planes):
    """The same counters in half as many lanes: neighbours are added."""
    half: tl.constexpr = planes[0].shape[0] // 2
    carry = tl.zeros((half,), tl.int32)
    folded = ()
    for j in tl.static_range(len(planes)):
        a, b = tl.split(tl.reshape(planes[j], (half, 2)))
        total, carry = _add(a, b, carry)
        folded = folded + (total,)
    return folded + (carry,)
