"""Images: hashing beside imagehash, pdqhash and imagededup; the whole check on pictures made here.

uv run --group bench-images --extra images python benches/images.py [--write] [--quick]
"""

import argparse
import os
import time
from pathlib import Path

os.environ["GYROSTAT_NUM_THREADS"] = "1"

import imagehash
import numpy as np
import pdqhash
from PIL import Image, ImageDraw, ImageFilter

import gyrostat
import machine
from gyrostat import _core

MARK = "<!-- images -->"
SIZES = {"32 x 32": 32, "256 x 256": 256, "1024 x 1024": 1024}


def scene(rng, side):
    """Random shapes with soft edges."""
    image = Image.new("RGB", (side, side), tuple(rng.integers(40, 216, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(20):
        x, y = rng.integers(-side // 4, side, 2)
        w, h = rng.integers(side // 8, side, 2)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=tuple(rng.integers(0, 256, 3)))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(side / 64)))


def ours(images):
    sketcher = _core.ImageSketcher()
    sketcher.add(images)


def each(hash_of):
    def run(images):
        for image in images:
            hash_of(image)

    return run


CONTENDERS = {
    "Gyrostat: all three, 8 variants, identities": ours,
    "imagehash pHash": each(lambda image: imagehash.phash(Image.fromarray(image))),
    "imagehash dHash": each(lambda image: imagehash.dhash(Image.fromarray(image))),
    "pdqhash PDQ": each(pdqhash.compute),
    "pdqhash PDQ, 8 variants": each(pdqhash.compute_dihedral),
}


def rates(side, count, repeats):
    """Images per CPU-second, the best of some interleaved turns."""
    rng = np.random.default_rng(0)
    images = [scene(rng, side) for _ in range(count)]
    best = dict.fromkeys(CONTENDERS, float("inf"))
    for _ in range(repeats):
        for name, run in CONTENDERS.items():
            start = time.thread_time()
            run(images)
            best[name] = min(best[name], time.thread_time() - start)
    return {name: count / seconds for name, seconds in best.items()}


def agreement(count):
    """Bits by which our hashes differ from those of the packages, on average."""
    rng = np.random.default_rng(1)
    images = [scene(rng, 256) for _ in range(count)]
    sketcher = _core.ImageSketcher()
    sketcher.add(images)
    bits = {"pHash": 0, "dHash": 0, "PDQ": 0}
    for i, image in enumerate(images):
        pdq, phash, dhash = sketcher.hashes(i)
        theirs = {
            "pHash": (imagehash.phash(Image.fromarray(image)).hash, phash[:1]),
            "dHash": (imagehash.dhash(Image.fromarray(image)).hash, dhash[:1]),
            # pdqhash gives the last bit first.
            "PDQ": (pdqhash.compute(image)[0][::-1], pdq[0]),
        }
        for name, (their, our) in theirs.items():
            packed = np.packbits(np.asarray(their).ravel(), bitorder="little").view("<u8")
            bits[name] += int(np.bitwise_count(packed ^ our).sum())
    return {name: total / count for name, total in bits.items()}


def check(train, test):
    """CPU seconds of the whole check of pictures against re-encoded, paler copies of some."""
    rng = np.random.default_rng(2)
    pictures = np.stack([scene(rng, 64) for _ in range(train)])
    copies = pictures[:test] // 2 + 60
    start = time.process_time()
    report = gyrostat.check_leakage({"train": pictures, "test": copies}, image=True)
    return time.process_time() - start, len(report.pairs)


def table(quick):
    count, repeats = (4, 1) if quick else (200, 5)
    columns = {
        name: rates(side, max(2, count * 32 // side), repeats) for name, side in SIZES.items()
    }
    lines = [f"| images per CPU-second | {' | '.join(SIZES)} |", "| --- |" + " --- |" * len(SIZES)]
    for name in CONTENDERS:
        cells = " | ".join(f"{column[name]:,.0f}" for column in columns.values())
        lines.append(f"| {name} | {cells} |")
    bits = agreement(4 if quick else 100)
    shown = ", ".join(f"{name} {value:.1f}" for name, value in bits.items())
    n, m = (60, 20) if quick else (4000, 1000)
    seconds, pairs = check(n, m)
    return "\n".join(
        [
            *lines,
            "",
            f"Bits by which our hashes differ from the packages' on average: {shown}.",
            f"The whole check of {n:,} against {m:,} pictures: {seconds:.1f} CPU-seconds,",
            f"{pairs:,} pairs, {m:,} of them planted.",
            "",
            machine.described(["numpy", "pillow", "imagehash", "pdqhash"]) + ".",
        ]
    )


def write(text):
    page = Path(__file__).parent / "README.md"
    before, _, after = page.read_text(encoding="utf-8").split(MARK)
    page.write_text(f"{before}{MARK}\n{text}\n{MARK}{after}", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into benches/README.md")
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    arguments = parser.parse_args()
    result = table(arguments.quick)
    print(result)
    if arguments.write:
        write(result)
