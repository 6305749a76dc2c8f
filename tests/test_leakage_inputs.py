"""Whatever holds the rows gives the same pairs; bad input is named."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import gyrostat
from gyrostat import _core

TRAIN = ["Hello, world!", None, "a b c d e f g h i j k l", "same", "na\u00efve \U0001f600 text"]
TEST = ["same", "hello world", "a b c d e f g h i j k l m", None, "na\u00efve text"]
LABELS = [0, 1, 0, 1, 1]


def lists(texts):
    return {"text": texts, "y": LABELS}


def pandas_frame(texts):
    frame = pd.DataFrame(lists(texts))
    frame.index = [f"row {i}" for i in range(len(frame))]
    return frame


def pandas_category(texts):
    return pandas_frame(texts).astype({"text": "category"})


def pandas_arrow(texts):
    return pandas_frame(texts).astype({"text": "string[pyarrow]"})


def polars_frame(texts):
    return pl.DataFrame(lists(texts))


def polars_categorical(texts):
    return pl.DataFrame(lists(texts)).with_columns(pl.col("text").cast(pl.Categorical))


def arrow_table(texts):
    return pa.table(lists(texts))


def arrow_chunks(texts):
    table = pa.table(lists(texts))
    return pa.concat_tables([table.slice(0, 2), table.slice(2, 0), table.slice(2)])


def arrow_dictionary(texts):
    return pa.table({"text": pa.array(texts).dictionary_encode(), "y": LABELS})


def arrow_views(texts):
    return pa.table({"text": pa.array(texts, pa.string_view()), "y": LABELS})


def arrow_large(texts):
    return pa.table({"text": pa.array(texts, pa.large_string()), "y": LABELS})


def arrow_batch(texts):
    return pa.RecordBatch.from_pydict(lists(texts))


def arrow_reader(texts):
    return arrow_table(texts).to_reader(max_chunksize=2)


def hugging_face(texts):
    import datasets  # slow to import

    # Rows out of order, put right by an indices mapping.
    order = [3, 0, 4, 2, 1]
    back = np.argsort(order).tolist()
    shuffled = {"text": [texts[i] for i in order], "y": [LABELS[i] for i in order]}
    return datasets.Dataset.from_dict(shuffled).select(back)


TABLES = [
    pandas_frame,
    pandas_category,
    pandas_arrow,
    polars_frame,
    polars_categorical,
    arrow_table,
    arrow_chunks,
    arrow_dictionary,
    arrow_views,
    arrow_large,
    arrow_batch,
    arrow_reader,
    hugging_face,
]


@pytest.mark.parametrize("build", TABLES)
def test_every_table_gives_the_same_pairs(build):
    expected = gyrostat.check_leakage(
        {"train": TRAIN, "test": TEST}, label={"train": LABELS, "test": LABELS}
    )
    assert len(expected.pairs) == 4
    splits = {"train": build(TRAIN), "test": build(TEST)}
    report = gyrostat.check_leakage(splits, text="text", label="y")
    assert list(report.pairs) == list(expected.pairs)
    assert report.summary == expected.summary


SERIES = {
    "tuple": tuple,
    "object array": lambda texts: np.array(texts, dtype=object),
    "pandas Series": lambda texts: pd.Series(texts, name="t"),
    "polars Series": lambda texts: pl.Series("t", texts),
    "pyarrow Array": pa.array,
    "pyarrow ChunkedArray": lambda texts: pa.chunked_array([texts]),
}


@pytest.mark.parametrize("kind", SERIES)
def test_every_column_gives_the_same_pairs(kind):
    expected = gyrostat.check_leakage({"train": TRAIN, "test": TEST})
    report = gyrostat.check_leakage({"train": SERIES[kind](TRAIN), "test": SERIES[kind](TEST)})
    assert list(report.pairs) == list(expected.pairs)


def test_arrays_of_text_are_texts():
    report = gyrostat.check_leakage({"train": np.array(["a b", "c"]), "test": np.array(["A-b"])})
    assert [tuple(p)[:5] for p in report.pairs] == [("train", 0, "test", 0, "normalised")]


def test_a_dataset_dict_is_a_mapping_of_splits():
    import datasets  # slow to import

    splits = datasets.DatasetDict(train=hugging_face(TRAIN), test=hugging_face(TEST))
    assert len(gyrostat.check_leakage(splits, text="text").pairs) == 4


def test_pandas_works_without_pyarrow():
    code = """
import sys
sys.modules["pyarrow"] = None
import gyrostat, pandas as pd
frame = lambda texts, n: pd.DataFrame(
    {"t": pd.Series(texts, dtype=object), "c": pd.Series(texts).astype("category"),
     "n": pd.Series(n, dtype="Int64"), "d": pd.to_datetime(["2020-01-01"] * len(n))})
splits = {"train": frame(["a", None, "b"], [1, None, 3]), "test": frame(["b", None], [3, None])}
print([tuple(p)[:5] for p in gyrostat.check_leakage(splits).pairs])
print([tuple(p)[:5] for p in gyrostat.check_leakage(splits, text="t").pairs])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "[('train', 1, 'test', 1, 'exact'), ('train', 2, 'test', 0, 'exact')]",
        "[('train', 2, 'test', 0, 'exact')]",
    ]


ROWS = np.arange(12).reshape(4, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(ROWS),
        np.repeat(ROWS, 2, axis=0)[::2],
        np.repeat(ROWS, 2, axis=1)[:, ::2],
        ROWS[::-1][::-1],
        ROWS.astype(object),
        ROWS.astype(np.float16),
        ROWS.astype(">i2"),
        ROWS.astype(np.uint64),
        ROWS.astype("i4").view(np.dtype("i4").newbyteorder("=")),
    ],
)
def test_arrays_of_any_layout_and_type_are_rows(array):
    report = gyrostat.check_leakage({"train": ROWS, "test": array}, near=None)
    assert [(p.left_row, p.right_row, p.kind) for p in report.pairs] == [
        (i, i, "exact") for i in range(4)
    ]


def test_complex_structured_bool_and_time_arrays_are_rows():
    z = np.array([[1 + 2j], [3 - 1j]])
    assert len(gyrostat.check_leakage({"a": z, "b": z[:1]}).pairs) == 1
    records = np.array([(1, 2.5), (2, 3.5)], dtype=[("n", "i4"), ("x", "f8")])
    assert len(gyrostat.check_leakage({"a": records, "b": records[1:]}, near=None).pairs) == 1
    flags = np.array([[True, False], [True, True]])
    assert len(gyrostat.check_leakage({"a": flags, "b": flags[:1]}, near=None).pairs) == 1
    days = np.array([["2020-01-01", "NaT"]], "M8[D]")
    assert len(gyrostat.check_leakage({"a": days, "b": days.astype("M8[ns]")}).pairs) == 1


def test_an_empty_split_has_no_pairs():
    report = gyrostat.check_leakage({"train": ["a"], "val": [], "test": ["a"]})
    assert len(report.pairs) == 1
    assert report.summary["empty splits"] == "val"
    assert report.clean_rows("val").tolist() == []
    assert len(gyrostat.check_leakage({"train": ROWS, "test": ROWS[:0]}).pairs) == 0


def refused(error, match, splits, **options):
    with pytest.raises(error, match=match):
        gyrostat.check_leakage(splits, **options)


def test_bad_splits_are_named():
    refused(ValueError, "splits: expected at least one", {})
    refused(TypeError, "splits: expected a mapping", ["a"])
    refused(TypeError, "got str as 'train'", {"train": "a"})
    refused(TypeError, "got generator as 'train'", {"train": (c for c in "ab")})
    refused(TypeError, r"str or None in split 'test', got int in row 1", {"test": ["a", 1]})
    refused(TypeError, r"got bytes in row 0", {"test": [b"a"]})
    refused(ValueError, r"split 'test', row 1", {"test": ["a", "\ud800"]})
    refused(TypeError, "masked", {"train": np.ma.masked_array(ROWS)})
    refused(TypeError, "in column '0' of split 'a', got set", {"a": np.array([[{1}]], object)})
    refused(TypeError, "longdouble|float128", {"train": ROWS.astype(np.longdouble)})


@pytest.mark.parametrize("near", [0, -1, 1.5, float("nan")])
def test_near_out_of_range_is_named(near):
    refused(ValueError, "near: expected", {"train": ["a"]}, near=near)


def test_bad_columns_are_named():
    table = pa.table({"t": ["a"], "n": [1], "b": [b"a"]})
    refused(ValueError, r"text: .*'t', 'n', 'b'.*got 'x'", {"train": table}, text="x")
    refused(ValueError, r"label: .*got 'x'", {"train": table}, text="t", label="x")
    refused(ValueError, "no named column", {"train": ["a"]}, text="t")
    refused(TypeError, "text: expected a column of text", {"train": table}, text="n")
    refused(TypeError, "text: expected a column of text", {"train": table}, text="b")
    refused(ValueError, "splits: .*'b', 'n'", {"a": table, "b": table.select(["t"])})
    refused(ValueError, "distinct columns", {"a": pa.table([[1], [2]], names=["x", "x"])})
    nested = pa.table({"t": ["a"], "pixels": [[1, 2]]})
    refused(TypeError, "pixels", {"train": nested})
    assert len(gyrostat.check_leakage({"train": nested}, text="t").pairs) == 0
    refused(ValueError, "label: expected values for", {"train": ["a"]}, label={"test": [1]})
    refused(ValueError, "label: expected 1 values", {"train": ["a"]}, label={"train": [1, 2]})
    refused(TypeError, "label: expected the name", {"train": ["a"]}, label=[1])


def test_a_stream_is_read_once():
    reader = arrow_reader(TRAIN)
    report = gyrostat.check_leakage({"train": reader, "test": arrow_reader(TEST)}, text="text")
    assert len(report.pairs) == 4


def test_an_unknown_split_has_no_clean_rows():
    report = gyrostat.check_leakage({"train": ["a"]})
    with pytest.raises(ValueError, match=r"split: expected one of \['train'\], got 'test'"):
        report.clean_rows("test")


def test_an_interrupt_ends_the_search(monkeypatch):
    from gyrostat.leakage import check

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(check.Bars, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        gyrostat.check_leakage({"train": ["a"]})


# --- fingerprint ----------------------------------------------------------------------------------


def test_fingerprint_is_that_of_the_reference_implementation():
    # XXH3-128 of the framed bytes, by Python's xxhash.
    one = np.array([1.0], dtype=np.float32)
    assert _core.fingerprint([one]) == "50a65571347715410d5fc0e6b73bcd19"


def test_fingerprint_tells_content_type_shape_and_cut_apart():
    x = np.arange(6)
    batches = [
        [],
        [x],
        [x[:3], x[3:]],
        [x.reshape(2, 3)],
        [x.astype(np.uint64)],
        [x.astype(">i8")],
        [x.astype(float)],
        [x == 1],
        [np.array(list("abc"))],
        [np.zeros((0, 3))],
        [np.zeros((0, 4))],
        [np.array(5)],
        [np.array("2020-01-01", "M8[D]")],
        [x.astype(ml_dtypes.bfloat16)],
    ]
    prints = [_core.fingerprint(batch) for batch in batches]
    assert len(set(prints)) == len(batches)
    assert all(len(p) == 32 and int(p, 16) >= 0 for p in prints)
    assert _core.fingerprint([x.copy()]) == prints[1]


def test_fingerprint_refuses_what_it_cannot_read_in_place():
    x = np.arange(10)
    with pytest.raises(TypeError, match=r"buffers: .* at 1, got one with gaps"):
        _core.fingerprint([x, x[::2]])
    with pytest.raises(TypeError, match="Python objects"):
        _core.fingerprint([np.array([None])])
    with pytest.raises(TypeError, match="at 0, got list"):
        _core.fingerprint([[1, 2]])
