"""Images: hashes beside their twins, copies after what people do to images, every way in."""

import io
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

import gyrostat
import reference_images as twin
from gyrostat import _core

SIDE = 96


def scene(seed, side=SIDE):
    """A picture of random shapes, with edges and gradients as photographs have them."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side * 2, side * 2), tuple(rng.integers(40, 216, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(24):
        x, y = rng.integers(-side // 2, side * 2, 2)
        w, h = rng.integers(side // 6, side, 2)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=tuple(rng.integers(0, 256, 3)))
    return image.resize((side, side), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(0.7))


def jpeg(image, quality):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(io.BytesIO(out.getvalue()))


def marked(image):
    """With half see-through letters in a corner."""
    written = image.copy()
    ImageDraw.Draw(written).text((4, 4), "SAMPLE", fill=(255, 255, 255))
    return Image.blend(image, written, 0.5)


TRANSFORMS = {
    "jpeg 75": lambda i: jpeg(i, 75),
    "jpeg 30": lambda i: jpeg(i, 30),
    "half the size": lambda i: i.resize((SIDE // 2, SIDE // 2), Image.Resampling.LANCZOS),
    "larger, other sides": lambda i: i.resize((150, 130), Image.Resampling.BICUBIC),
    "cropped by 5 %": lambda i: i.crop((5, 5, SIDE - 5, SIDE - 5)),
    "brighter": lambda i: i.point(lambda v: min(255, v * 1.25 + 10)),
    "darker": lambda i: i.point(lambda v: v * 0.6),
    "grey": lambda i: i.convert("L"),
    "watermark": marked,
    "mirrored jpeg": lambda i: jpeg(i.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 75),
    "turned jpeg": lambda i: jpeg(i.transpose(Image.Transpose.ROTATE_90), 75),
}


@pytest.fixture(scope="module")
def scenes():
    return [scene(seed) for seed in range(60)]


def pairs(report):
    return {(p.left_row, p.right_row): (p.kind, p.similarity) for p in report.pairs}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_copies_are_found_after(scenes, name):
    changed = [TRANSFORMS[name](image) for image in scenes[:20]]
    report = gyrostat.check_leakage({"train": scenes, "test": changed}, image=True)
    found = pairs(report)
    right = [found.get((i, i), ("", 0.0)) for i in range(20)]
    assert sum(kind == "near" for kind, _ in right) >= 19
    assert len(found) <= 21
    assert all(0.8 <= similarity <= 1 for _, similarity in found.values())


def test_turned_copies_are_normalised_and_equal_ones_exact(scenes):
    pixels = [np.asarray(image) for image in scenes[:10]]
    turned = [twin.turned(image, i % 8) for i, image in enumerate(pixels)]
    report = gyrostat.check_leakage({"train": pixels, "test": turned}, image=True)
    kinds = {rows: kind for rows, (kind, _) in pairs(report).items()}
    assert kinds == {(i, i): "normalised" if i % 8 else "exact" for i in range(10)}
    assert [list(report.clean_rows(name)) for name in ("train", "test")] == [[], list(range(10))]


def test_unrelated_images_are_no_pairs(scenes):
    flat = [Image.new("L", (SIDE, SIDE), grey) for grey in range(0, 250, 50)]
    ramp = [
        Image.fromarray(np.tile(np.arange(SIDE, dtype=np.uint8) * k, (SIDE, 1))) for k in (1, 2)
    ]
    split = {"train": [*scenes[:30], *flat, *ramp], "test": [*scenes[30:], *flat[:1]]}
    assert list(pairs(gyrostat.check_leakage(split, image=True)).values()) == [("exact", 1.0)]


def test_labels_that_differ_are_told(scenes):
    report = gyrostat.check_leakage(
        {"train": scenes[:3], "test": [jpeg(scenes[1], 60)]},
        image=True,
        label={"train": ["cat", "dog", "cat"], "test": ["cat"]},
    )
    assert [pair.label_conflict for pair in report.pairs] == [True]
    assert any(finding.code == "leakage-label-conflict" for finding in report.findings)
    assert report.summary["compared"] == "images, across splits"


def encoded(image):
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def ways(images, folder):
    stack = np.stack([np.asarray(image) for image in images])
    coded = [encoded(image) for image in images]
    paths = [folder / f"{i}.png" for i in range(len(images))]
    for path, data in zip(paths, coded, strict=True):
        path.write_bytes(data)
    yield "NHWC", stack
    yield "NCHW", stack.transpose(0, 3, 1, 2)
    yield "with gaps", np.repeat(stack, 2, axis=0)[::2]
    yield "torch NCHW", torch.from_numpy(stack.transpose(0, 3, 1, 2).copy())
    yield "list of arrays", list(stack)
    yield "list of tensors", [torch.from_numpy(image.copy()) for image in stack]
    yield "PIL", images
    yield "bytes", coded
    yield "paths", paths
    yield "text paths", [str(path) for path in paths]
    yield "as datasets has them", [{"bytes": data, "path": None} for data in coded]


def test_every_way_in_gives_the_same_pairs(scenes, tmp_path):
    train, test = scenes[:8], [jpeg(scenes[2], 60), scenes[5]]
    expected = None
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for (name, a), (_, b) in zip(
        ways(train, tmp_path / "a"), ways(test, tmp_path / "b"), strict=True
    ):
        found = list(gyrostat.check_leakage({"train": a, "test": b}, image=True).pairs)
        expected = expected or found
        assert found == expected, name
    assert [pair.kind for pair in expected] == ["near", "exact"]


def test_floats_are_the_same_images(scenes):
    stack = np.stack([np.asarray(image) for image in scenes[:8]])
    unit = torch.from_numpy(stack.transpose(0, 3, 1, 2).copy()).float() / 255
    normal = (unit - 0.45) / 0.22
    for floats, kind in [(unit, "normalised"), (unit.bfloat16(), "near"), (normal, "near")]:
        found = pairs(gyrostat.check_leakage({"train": stack, "test": floats}, image=True))
        assert found.keys() == {(i, i) for i in range(8)}
        assert {kind_ for kind_, _ in found.values()} <= {kind, "near", "normalised"}
    again = pairs(gyrostat.check_leakage({"train": unit, "test": unit.numpy()}, image=True))
    assert {kind for kind, _ in again.values()} == {"exact"}


@pytest.mark.parametrize("make", [pa.table, pl.DataFrame, pd.DataFrame])
def test_columns_of_tables(scenes, make):
    images = [encoded(image) for image in scenes[:4]]
    train = make({"picture": [*images, None], "label": [0, 1, 2, 3, 4]})
    test = make({"picture": [encoded(jpeg(scenes[3], 70)), images[0]], "label": [3, 9]})
    report = gyrostat.check_leakage({"train": train, "test": test}, image="picture", label="label")
    assert [(p.left_row, p.right_row, p.kind, p.label_conflict) for p in report.pairs] == [
        (0, 1, "exact", True),
        (3, 0, "near", False),
    ]
    assert report.summary["missing images"] == 1


def test_see_through_parts_lie_on_white():
    image = np.random.default_rng(0).integers(0, 256, (1, 20, 20, 4), np.uint8)
    image[..., 3] = np.where(image[..., 3] > 127, 255, 0)
    other = image.copy()
    other[..., :3][image[..., 3] == 0] = 7
    found = pairs(gyrostat.check_leakage({"a": image, "b": other}, image=True))
    assert found == {(0, 0): ("normalised", 1.0)}


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("x.png", TypeError, "image: expected an array"),
        (np.zeros((2, 3)), TypeError, "image: expected an array"),
        (np.zeros((2, 5, 5, 2)), ValueError, "image: expected 1, 3 or 4 channels"),
        (np.zeros((2, 0, 5, 3)), ValueError, "image: expected pixels"),
        ([b"no image"], ValueError, "image: cannot decode 'a', row 0"),
        (["missing.png"], ValueError, "image: expected an image file in 'a', row 0"),
        ([3], TypeError, "image: expected an image in 'a', row 0"),
        ([np.zeros((2, 3), complex)], TypeError, "image: expected an image in 'a', row 0"),
        (7, TypeError, "image: expected an array"),
    ],
)
def test_what_is_no_image_is_named(data, error, message):
    with pytest.raises(error, match=message):
        gyrostat.check_leakage({"a": data}, image=True)


def test_a_column_that_is_missing_is_named():
    with pytest.raises(ValueError, match="image: expected a column"):
        gyrostat.check_leakage({"a": pa.table({"x": [b""]})}, image="y")
    with pytest.raises(ValueError, match="text: expected one of"):
        gyrostat.check_leakage({"a": []}, image=True, text="x")


def test_missing_pillow_is_named():
    program = (
        "import sys; sys.modules['PIL'] = None\n"
        "import gyrostat\n"
        "try: gyrostat.check_leakage({'a': [b'x']}, image=True)\n"
        "except ImportError as error: print(error)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "gyrostat[images]" in out.stdout


def test_empty_splits_have_no_pairs(scenes):
    for empty in ([], np.zeros((0, 8, 8, 3), np.uint8)):
        report = gyrostat.check_leakage({"train": scenes[:2], "test": empty}, image=True)
        assert len(report.pairs) == 0
    none = gyrostat.check_leakage({"a": [None, None], "b": [None]}, image=True)
    assert (len(none.pairs), none.summary["missing images"]) == (0, 3)


@settings(max_examples=15)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(32, 32), (28, 28), (64, 64), (200, 333), (513, 130), (7, 5)]),
    st.sampled_from([1, 3]),
)
def test_hashes_are_those_of_their_twins(seed, size, channels):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, channels), np.uint8)
    image = np.stack(
        [
            np.asarray(Image.fromarray(coarse[..., c]).resize(size[::-1], Image.Resampling.BICUBIC))
            for c in range(channels)
        ],
        axis=2,
    )
    image = (image // 2 + rng.integers(0, 128, image.shape)).astype(np.uint8)
    sketcher = _core.ImageSketcher()
    sketcher.add([image])
    pdq, phash, dhash = sketcher.hashes(0)
    distance = lambda a, b: int(np.bitwise_count(a ^ b).sum())  # noqa: E731
    # A frequency at the median, or two equal neighbours, may fall either way.
    assert distance(pdq[0], twin.words(twin.pdq(image))) <= 2
    assert distance(phash[:1], twin.words(twin.phash(image))) <= 2
    assert distance(dhash[:1], twin.words(twin.dhash(image))) <= 2


def test_threads_do_not_change_a_bit(scenes):
    program = (
        "import numpy as np, gyrostat, hashlib\n"
        "rng = np.random.default_rng(0)\n"
        "a = np.kron(rng.integers(0, 256, (400, 8, 8, 3)), np.ones((1, 4, 4, 1))).astype('u1')\n"
        "b = np.clip(a[:300] + rng.normal(0, 25, a[:300].shape), 0, 255).astype('u1')\n"
        "r = gyrostat.check_leakage({'a': a, 'b': b}, image=True, near=0.3)\n"
        "print(len(r.pairs), hashlib.md5(repr(list(r.pairs)).encode()).hexdigest())\n"
    )
    runs = set()
    for threads in ("1", "2", "5"):
        out = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"GYROSTAT_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": "1"},
        )
        runs.add(out.stdout)
    assert len(runs) == 1
    assert int(runs.pop().split()[0]) >= 290
