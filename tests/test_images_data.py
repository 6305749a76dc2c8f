"""Images of real data sets with known copies."""

import csv

import numpy as np
import pytest

import gyrostat


def rows(path):
    with path.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def cifar(shared):
    """Test and train images, and their near-duplicate pairs."""
    folder = shared / "data/images_cifar10_dups"
    data = np.load(folder / "cifar10_subset.npz")
    near = [
        (int(pair["row_a"]), int(pair["row_b"]))
        for pair in rows(folder / "duplicate_pairs.csv")
        if pair["kind"] == "test-train" and pair["judgment"] == "near-duplicate"
    ]
    return data["test_images"], data["train_images"], near


def test_near_duplicates_of_cifar_are_found(cifar):
    test, train, near = cifar
    report = gyrostat.check_leakage({"test": test, "train": train}, image=True)
    found = {(pair.left_row, pair.right_row) for pair in report.pairs}
    assert len(found & set(near)) >= 0.85 * len(near)
    assert len(found & set(near)) >= 0.5 * len(found)


def test_garments_are_not_taken_for_each_other(shared):
    folder = shared / "data/images_fashion_mnist"
    data = np.load(folder / "fashion_mnist.npz")
    known = [
        (int(r["test_row"]), int(r["train_row"])) for r in rows(folder / "near_duplicate_pairs.csv")
    ]
    test = np.unique([*(a for a, _ in known), *range(0, 10_000, 20)])
    train = np.unique([*(b for _, b in known), *range(0, 20_000, 8)])
    report = gyrostat.check_leakage(
        {"test": data["test_images"][test], "train": data["train_images"][train]}, image=True
    )
    found = {(int(test[p.left_row]), int(train[p.right_row])) for p in report.pairs}
    assert {p.kind for p in report.pairs} == {"near"}
    assert len(found & set(known)) >= 15
    assert len(found - set(known)) <= 30
